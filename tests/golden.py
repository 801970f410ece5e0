"""Weights, images, labels and a color prior that follow from formulas, and what the published code makes of them.

The published weights are not ours to ship, but their numbers need not be known to tell whether a network is the
published one: fill it with weights anybody can compute, and compare with what the published code gave for the same.
An integer hash stands behind every weight, so none depends on a version of NumPy or torch, or on the machine
(``benchmarks/weights.py``).

The figures are in ``golden_figures.json``: outputs of the published code (github.com/ARBEZ-ZEBRA/ICQA, commit 922ed1e)
with these weights in float32 on a CPU, one image at a time unless said otherwise; torch 2.15.0, torchvision 0.29.2,
transformers 4.57.6, scikit-image 0.26.0, Pillow 13.0.0, NumPy 2.4.6; to 8 digits after the point. Lists of four are in
the order of the images. A statistic is a shape, the mean, the standard deviation over all elements (not the estimate
for a sample), and the first four values. Of a step of training they have the loss and the length of the gradient of
each part, for the four images as one batch with the network in evaluation mode.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.weights import color_prior as prior
from benchmarks.weights import label_lines
from benchmarks.weights import made_up_tensor as golden_tensor

FIGURES: dict = json.loads(Path(__file__).with_name("golden_figures.json").read_text(encoding="utf-8"))

IMAGES = 4
NAMES = [f"synth{number}" for number in range(IMAGES)]
SLOTS, SLOT_VALUES = 20, 773  # objects that count, and what is known of one: class, box, prior

_OBJECTS = (0, 1, 3, 25)  # labeled in each image


def golden_state(layout: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, Tensor]:
    """A state dict of this layout (see ``published_layout``) with the weights of the rule. CF needs the classic names."""
    return {name: golden_tensor(name, shape, dtype) for name, (shape, dtype) in layout.items()}


def labels(number: int) -> list[str]:
    """Lines of the label file of an image."""
    return label_lines(number, _OBJECTS[number])


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of all names and tensors, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(state):
        total.update(name.encode())
        total.update(state[name].contiguous().numpy().data)
    return total.hexdigest()


def image(number: int) -> np.ndarray:
    """One of the four images: 8-bit, shape (H, W, 3)."""
    width, height = FIGURES["pictures"][number]["size"]
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    if number == 0:  # ramps
        planes = x * 255 // (width - 1), y * 255 // (height - 1), (x + y) * 255 // (width + height - 2)
    elif number == 1:  # a checkerboard in red, on arcs and a weave
        planes = 40 + (x // 20 + y // 20) % 2 * 170, 200 - (x**2 + y**2) // 400 % 50 * 3, 7 * x + 13 * y
    elif number == 2:  # stripes along parabolas, on hyperbolas
        planes = x**2 // 64 + y, x + y**2 // 64, x * y // 32
    else:  # rings on a texture
        ring = (x - width // 2) ** 2 + (y - height // 2) ** 2
        planes = ring // 50, 255 - ring // 97 % 256, 5 * (x ^ y)
    return np.stack([np.broadcast_to(plane % 256, (height, width)) for plane in planes], axis=2).astype(np.uint8)


def object_slots(lines: list[str]) -> np.ndarray:
    """What the published SCC reads of label lines and ``prior``: float32, shape (20, 773), unused rows 0.

    A row is the class, the box and the prior of the class, red before green before blue; what is absent is 0.
    """
    known = prior()
    slots = np.zeros((SLOTS, SLOT_VALUES), np.float32)
    for row, line in zip(slots, lines, strict=False):
        name, *box = line.split()
        row[0], row[1:5] = int(name), [float(value) for value in box]
        for place, letter in enumerate("rgb"):
            for level, value in known.get(name, {}).get(letter, {}).items():
                row[5 + 256 * place + int(level)] = value
    return slots


def write_inputs(folder: Path) -> None:
    """Write images/synthN.png, labels/synthN.txt and color_.json under ``folder``, as the published scripts read them."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        Image.fromarray(image(number)).save(folder / "images" / f"{name}.png")
        text = "".join(f"{line}\n" for line in labels(number))
        (folder / "labels" / f"{name}.txt").write_text(text, encoding="ascii", newline="\n")
    (folder / "color_.json").write_text(json.dumps(prior()), encoding="ascii", newline="\n")


def statistics(values: Tensor) -> list:
    """Shape, mean, standard deviation and first four values of a tensor, as the figures give them."""
    flat = values.detach().double().flatten()
    return [list(values.shape), flat.mean().item(), flat.std(correction=0).item(), flat[:4].tolist()]

"""Made-up weight files, labels and color prior, to measure the published networks without the published files.

    python benchmarks/weights.py FOLDER PICTURES    # CF.pth, SCC.pth, PR.pth, color_.json and labels/ for these pictures

The files have the layout and the size of the published ones, which are not ours to ship. Weights are as wide as the inputs of
their layer are many, so that scores differ from picture to picture; beyond that the scores mean nothing. Two runs write the
same numbers, given the same version of torch.
"""

import argparse
import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("pictures", type=Path, help="what the labels are made up for")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import torch
from torch import Tensor

from models.published import NETWORKS, to_published
from utils.images import list_images

MOST_BOXES = 10
_COCO = 80  # classes
_LEVELS = 256


def fan_in_weights(dimension: str) -> dict[str, Tensor]:
    """A state dict in the published layout: CF, SCC or PR, CF under the classic names.

    Weights of linear layers, convolutions and embeddings are uniform with a variance of 1 by the number of inputs, those of
    norms lie around 1, as running variances do; all else is small.
    """
    with torch.device("meta"):
        layout = to_published(NETWORKS[dimension]())
    generator = torch.Generator().manual_seed(list(NETWORKS).index(dimension))
    return {name: _tensor(name, like, generator) for name, like in layout.items()}


def _tensor(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    noise = torch.empty(like.shape).uniform_(-math.sqrt(3), math.sqrt(3), generator=generator)  # of variance 1
    kind = name.rpartition(".")[2]
    if kind == "running_var":
        return 1 + 0.1 * noise.abs()
    if kind == "running_mean":
        return 0.1 * noise
    if kind != "weight":
        return 0.02 * noise
    return noise / math.sqrt(math.prod(like.shape[1:])) if like.ndim > 1 else 1 + 0.02 * noise


def write_weights(folder: Path) -> None:
    """CF.pth, SCC.pth and PR.pth, 500 MB together."""
    folder.mkdir(parents=True, exist_ok=True)
    for dimension in NETWORKS:
        torch.save(fan_in_weights(dimension), folder / f"{dimension}.pth")


def write_labels(folder: Path, names: Sequence[str]) -> None:
    """A YOLO file for each picture, with 0 to 10 boxes by turns.

    Args:
        folder: Where they go.
        names: The pictures, relative to the folder they lie in, with forward slashes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(0)
    for i, name in enumerate(names):
        rows = []
        for _ in range(i % (MOST_BOXES + 1)):
            width, height = chance.uniform(0.05, 0.6), chance.uniform(0.05, 0.6)
            x, y = chance.uniform(width / 2, 1 - width / 2), chance.uniform(height / 2, 1 - height / 2)
            rows.append(f"{chance.randrange(_COCO)} {x:.6f} {y:.6f} {width:.6f} {height:.6f}\n")
        file = (folder / name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(rows))


def write_color_prior(file: Path) -> None:
    """A color prior of all classes: each channel has one broad peak, and its values sum to 1."""
    chance = random.Random(0)
    prior: dict[str, dict[str, dict[str, float]]] = {}
    for category in range(_COCO):
        prior[str(category)] = {}
        for channel in "rgb":
            peak, width = chance.uniform(0, _LEVELS), chance.uniform(15, 60)
            curve = [math.exp(-(((level - peak) / width) ** 2) / 2) for level in range(_LEVELS)]
            prior[str(category)][channel] = {str(i): round(value / sum(curve), 8) for i, value in enumerate(curve)}
    file.write_text(json.dumps(prior))


def main() -> None:
    args = parse_args()
    write_weights(args.folder)
    write_color_prior(args.folder / "color_.json")
    write_labels(args.folder / "labels", list_images(args.pictures).names)


if __name__ == "__main__":
    main()

"""Made-up weight files, labels and color prior, to measure the published networks without the published files.

    python benchmarks/weights.py FOLDER IMAGES    # CF.pth, SCC.pth, PR.pth, color_.json and labels/ for these images

The files have the layout and the size of the published ones, which are not ours to ship. All numbers follow from formulas and
depend neither on a version of NumPy or torch nor on the machine, so the scores of a network with them can be reproduced: the
tests compare them with the scores of the published code. Scores differ from image to image; beyond that they mean nothing.
"""

import argparse
import json
import math
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("folder", type=Path, help="folder for the files")
    parser.add_argument("images", type=Path, help="images that get made-up labels")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import torch
from torch import Tensor

from models.published import NETWORKS, to_published
from utils.images import list_images

MOST_BOXES = 10
_RUN = 1 << 16  # weights made at a time, so that they stay in the cache


def _noise(name: str, start: int, stop: int) -> np.ndarray:
    """Return elements ``start`` to ``stop`` of a tensor: an integer hash, as even noise of mean 0 and variance 1, float64."""
    bits = np.arange(start, stop, dtype=np.uint32)
    bits *= np.uint32(0x9E3779B9)
    bits += np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    bits ^= bits >> np.uint32(16)
    noise = bits.astype(np.float64)
    noise += 0.5
    noise *= 2.0**-31
    noise -= 1.0
    noise *= math.sqrt(3.0)
    return noise


def made_up_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the weights of one tensor of a published file, by its name and shape.

    Weights of linear layers, convolutions and embeddings have a variance of 1 over the number of inputs. Weights of norms and
    running variances are about 1; all other numbers are small.
    """
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.zeros(shape, dtype=dtype)
    if kind == "weight" and len(shape) > 1:
        base, spread = 0.0, math.sqrt(1.0 / math.prod(shape[1:]))  # what comes out varies as what goes in
    else:
        base, spread = {"weight": (1.0, 0.02), "running_mean": (0.0, 0.1), "running_var": (1.0, 0.1)}.get(kind, (0.0, 0.02))
    size = math.prod(shape)
    values = torch.empty(size, dtype=dtype)
    for start in range(0, size, _RUN):
        noise = _noise(name, start, min(start + _RUN, size))
        if kind == "running_var":
            np.abs(noise, out=noise)
        noise *= spread
        noise += base
        values[start : start + _RUN] = torch.from_numpy(noise)
    return values.reshape(shape)


def made_up_weights(dimension: str) -> dict[str, Tensor]:
    """Return a state dict in the published layout: CF, SCC or PR, CF under the classic names."""
    with torch.device("meta"):
        layout = to_published(NETWORKS[dimension]())
    return {name: made_up_tensor(name, tuple(like.shape), like.dtype) for name, like in layout.items()}


def write_weights(folder: Path) -> None:
    """Write CF.pth, SCC.pth and PR.pth, 500 MB together."""
    folder.mkdir(parents=True, exist_ok=True)
    for dimension in NETWORKS:
        torch.save(made_up_weights(dimension), folder / f"{dimension}.pth")


def label_lines(number: int, objects: int) -> list[str]:
    """Return the label file of an image: class, then center and size of the box as shares of the image."""
    lines = []
    for j in range(objects):
        percent = (
            5 + (13 * j + 17 * number) % 90,
            5 + (29 * j + 7 * number) % 90,
            2 + (5 * j + 3 * number) % 40,
            2 + (11 * j + number) % 40,
        )
        lines.append(" ".join([str((4 + 11 * j + 7 * number) % 80), *(f"0.{value:02d}0000" for value in percent)]))
    return lines


def write_labels(folder: Path, names: Iterable[str]) -> None:
    """Write a label file for each image, with 0 to 10 boxes in rotation."""
    for number, name in enumerate(names):
        file = (folder / name).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in label_lines(number, number % (MOST_BOXES + 1))))


def color_prior() -> dict[str, dict[str, dict[str, float]]]:
    """Return a value by class, channel and bin, with gaps: every tenth class, a channel and a third of the bins are absent."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for number in range(80):
        if number % 10 == 9:
            continue
        channels = table.setdefault(str(number), {})
        for place, letter in enumerate("rg" if number == 22 else "rgb"):
            bins = [level for level in range(256) if (level + number) % 3 != 0]
            thousandths = [(131 * number + 71 * place + 29 * level + level**2 % 97) % 1000 for level in bins]
            channels[letter] = {str(level): value / 1000 for level, value in zip(bins, thousandths, strict=True)}
    return table


def main() -> None:
    args = parse_args()
    write_weights(args.folder)
    (args.folder / "color_.json").write_text(json.dumps(color_prior()))
    write_labels(args.folder / "labels", list_images(args.images).names)


if __name__ == "__main__":
    main()

"""Make the figure of the README: sample pictures with their three scores by the shipped weights.

python benchmarks/make_figure.py          # writes docs/samples.jpg
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "samples.jpg")
    parser.add_argument("--scenes", type=int, nargs="+", default=[2, 4, 6, 7], help="numbers of the sample scenes to show")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import matplotlib.pyplot as plt
import pandas as pd

from models import load_model
from utils.images import read_rgb

_FAULTS = {
    "ORG": "photograph",
    "HUE": "hue of a region",
    "GHU": "hue of everything",
    "SHF": "shifted color planes",
    "CST": "color cast",
    "FAD": "faded",
    "BLD": "bleeding",
    "STN": "stain",
    "GRY": "gray patch",
    "MOT": "mottling",
    "SAT": "oversaturated",
    "TRF": "invented colors",
    "SPR": "chroma spread",
    "RCH": "chroma of a region",
}


def main() -> None:
    args = parse_args()
    plt.switch_backend("Agg")  # no screen needed
    samples = ROOT / "data" / "samples"
    table = pd.read_csv(samples / "samples.csv", dtype=str)
    branches = [load_model(dimension) for dimension in ("CF", "SCC", "PR")]
    rows = [table[table["scene"].astype(int) == scene] for scene in args.scenes]
    figure, axes = plt.subplots(len(rows), 5, figsize=(13, 2.55 * len(rows)), layout="constrained")
    for line, row in zip(axes, rows, strict=True):
        scored = []
        for image, method in zip(row["image"], row["method"], strict=True):
            cf, scc = (branch.score(samples / image) for branch in branches[:2])
            scored.append((branches[2].score(samples / image, cf=cf, scc=scc), cf, scc, image, method))
        for axis, (pr, cf, scc, image, method) in zip(line, sorted(scored, reverse=True), strict=True):
            axis.imshow(read_rgb(samples / image))
            axis.set_title(f"{_FAULTS.get(method, method)}\nCF {cf:+.2f}  SCC {scc:+.2f}  PR {pr:+.2f}", fontsize=9)
            axis.axis("off")
    args.output.parent.mkdir(exist_ok=True)
    figure.savefig(args.output, dpi=75, pil_kwargs={"quality": 85})
    print(f"{args.output}, each row from the highest PR to the lowest")


if __name__ == "__main__":
    main()

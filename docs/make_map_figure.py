"""Make the figure of surprise maps of the README, from sample pictures and the shipped SCC weights.

python docs/make_map_figure.py          # writes docs/maps.jpg
"""

import argparse
import sys
import textwrap
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser

ROOT = Path(__file__).resolve().parents[1]
_PICTURES = ("HUE_4", "HUE_6", "GHU_5", "STN_7", "GRY_2", "ORG_5")  # fault and number of the scene


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "maps.jpg")
    parser.add_argument("--pictures", nargs="+", default=list(_PICTURES), help="fault and scene, as HUE_4")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import matplotlib.pyplot as plt

from inference.maps import find, panels, scale_colors, scale_positions, short_reason
from models import load_model
from utils.images import read_rgb


def main() -> None:
    args = parse_args()
    plt.switch_backend("Agg")  # no screen needed
    scc = load_model("SCC")
    lines = -(-len(args.pictures) // 2)
    figure, axes = plt.subplots(lines, 6, figsize=(13, 2.4 * lines + 0.5), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, name in enumerate(args.pictures):
        fault, _, scene = name.partition("_")
        pixels = read_rgb(ROOT / "data" / "samples" / f"{fault}_{int(scene):012d}.jpg")
        findings = find(scc, pixels)
        row = axes[number // 2, 3 * (number % 2) : 3 * (number % 2) + 3]
        for axis, panel, title in zip(
            row, panels(pixels, findings.surprise), (name, "surprise", "expected colors"), strict=True
        ):
            axis.imshow(panel)
            axis.set_title(title, fontsize=8)
        said = short_reason(findings.region) if findings.region else "no surprising region"
        row[1].text(0.5, -0.05, textwrap.fill(said, 62), transform=row[1].transAxes, ha="center", va="top", fontsize=6.5)
    scale = figure.add_axes((0.35, -0.025, 0.3, 0.012))
    scale.imshow(scale_colors(256)[None], aspect="auto", extent=(0, 1, 0, 1))
    positions = scale_positions()
    scale.set_xticks([x for _, x in positions], [f"{level}" for level, _ in positions], fontsize=7)
    scale.set_yticks([])
    scale.set_xlabel("surprise, percentile among places in real photographs", fontsize=7)
    args.output.parent.mkdir(exist_ok=True)
    figure.savefig(args.output, dpi=80, bbox_inches="tight", pil_kwargs={"quality": 82})
    print(args.output)


if __name__ == "__main__":
    main()

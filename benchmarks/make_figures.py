"""Make the figures of the README and of docs/networks.md from sample images and the shipped weights.

python benchmarks/make_figures.py          # writes docs/samples.jpg, images with their scores, and docs/maps.jpg, surprise maps
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser

if __name__ == "__main__":
    ScriptParser(__doc__).parse_args()  # help and mistakes end here, before what is slow to load

import textwrap

import matplotlib.pyplot as plt
import pandas as pd

from inference.maps import find, panels, scale_colors, scale_positions, short_reason
from models import load_model
from utils.images import read_rgb

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "data" / "samples"
SCENES = (2, 4, 6, 7)  # numbers of the sample scenes with their scores
MAPS = ("HUE_4", "HUE_6", "GHU_5", "STN_7", "GRY_2", "ORG_5")  # fault and number of the scene

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


def draw_scores(output: Path) -> None:
    """Draw sample scenes with their three scores, each row from the highest PR to the lowest."""
    table = pd.read_csv(SAMPLES / "samples.csv", dtype=str)
    cf_net, scc_net, pr_net = (load_model(dimension) for dimension in ("CF", "SCC", "PR"))
    figure, axes = plt.subplots(len(SCENES), 5, figsize=(13, 2.55 * len(SCENES)), layout="constrained")
    for line, scene in zip(axes, SCENES, strict=True):
        scored = []
        for row in table[table["scene"].astype(int) == scene].to_dict("records"):
            cf, scc = (net.score(SAMPLES / row["image"]) for net in (cf_net, scc_net))
            scored.append((pr_net.score(SAMPLES / row["image"], cf=cf, scc=scc), cf, scc, row["image"], row["method"]))
        for axis, (pr, cf, scc, image, method) in zip(line, sorted(scored, reverse=True), strict=True):
            axis.imshow(read_rgb(SAMPLES / image))
            axis.set_title(f"{_FAULTS.get(method, method)}\nCF {cf:+.2f}  SCC {scc:+.2f}  PR {pr:+.2f}", fontsize=9)
            axis.axis("off")
    figure.savefig(output, dpi=75, pil_kwargs={"quality": 85})


def draw_maps(output: Path) -> None:
    """Draw sample images beside their surprise maps and expected colors."""
    scc = load_model("SCC")
    lines = -(-len(MAPS) // 2)
    figure, axes = plt.subplots(lines, 6, figsize=(13, 2.4 * lines + 0.5), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, name in enumerate(MAPS):
        fault, _, scene = name.partition("_")
        pixels = read_rgb(SAMPLES / f"{fault}_{int(scene):012d}.jpg")
        findings = find(scc, pixels)
        row = axes[number // 2, 3 * (number % 2) : 3 * (number % 2) + 3]
        titles = (name, "surprise", "expected colors")
        for axis, panel, title in zip(row, panels(pixels, findings.surprise), titles, strict=True):
            axis.imshow(panel)
            axis.set_title(title, fontsize=8)
        reason = short_reason(findings.region) if findings.region else "no surprising region"
        row[1].text(0.5, -0.05, textwrap.fill(reason, 62), transform=row[1].transAxes, ha="center", va="top", fontsize=6.5)
    scale = figure.add_axes((0.35, -0.025, 0.3, 0.012))
    scale.imshow(scale_colors(256)[None], aspect="auto", extent=(0, 1, 0, 1))
    positions = scale_positions()
    scale.set_xticks([x for _, x in positions], [f"{level}" for level, _ in positions], fontsize=7)
    scale.set_yticks([])
    scale.set_xlabel("surprise, percentile among places in real photographs", fontsize=7)
    figure.savefig(output, dpi=80, bbox_inches="tight", pil_kwargs={"quality": 82})


def main() -> None:
    plt.switch_backend("Agg")  # no screen needed
    for draw, name in ((draw_scores, "samples.jpg"), (draw_maps, "maps.jpg")):
        draw(ROOT / "docs" / name)
        print(ROOT / "docs" / name)


if __name__ == "__main__":
    main()

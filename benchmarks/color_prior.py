"""Measure how well the color prior fits photographs, and whether its map finds planted color changes (color_prior.md).

    python benchmarks/color_prior.py COCO128 --hecd data/HECD --report runs/prior/report.json --write

COCO128 has ``images`` and ``polygons`` (YOLO instance polygons) of photographs that the prior was not trained on. In each, the
hue of the most colorful object of a fair size is turned, without other changes. The measure is the area under the ROC curve of
the map's cells, object against the rest of the image. 0.5 is chance; the first row gives the area for untouched objects, since
colorful things are more surprising than walls anyway. On HECD, surprise is compared with the ratings of outputs of real
colorizers; it uses no rating. ``report.json`` comes from tools/train_color_prior.py.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import SHIPPED


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("coco", type=Path, help="folder with images and polygons")
    parser.add_argument("--weights", default=str(SHIPPED / "SCC.pt"), metavar="FILE", help="(default: the shipped ones)")
    parser.add_argument("--hecd", type=Path, help="the HECD folder")
    parser.add_argument("--report", type=Path, help="report.json of the training")
    parser.add_argument("--rebalanced", type=Path, metavar="DIR", help="output of a training with --rebalance, to compare")
    parser.add_argument("--write", action="store_true", help="write benchmarks/color_prior.md")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from tqdm import tqdm

from benchmarks.hecd import interval
from data.hecd import load_hecd
from data.recolor import from_lab, to_lab
from models.color_prior import COMPARISONS, ColorPriorNet
from models.loading import load_model, load_prior
from training.records import command_line
from utils.files import write_atomic
from utils.images import list_images, read_rgb
from utils.labels import ObjectLabels, object_mask

MAP = "surprise less entropy, mean of 3 x 3 cells (the map)"
TURNS = (0, 30, 60, 90, 120, 150, 180)  # degrees
CHROMAS = (0, 8, 15, 20, 30, np.inf)  # edges of the mean chroma of the object, CIELAB units
CHROMATIC = 15  # mean chroma from which on an object counts as chromatic
AREAS = (0.02, 0.6)  # share of the image
_INSIDE, _OUTSIDE = 0.7, 0.1  # share of a cell that the object fills; cells between are of neither side
_COLORIZERS = ("O", "L", "I", "Z", "P")
_DRAWS = 1000


def most_colorful(objects: list, lab: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Return mask and mean chroma of the most colorful object of a fair size; None if there is none."""
    best = None
    for thing in objects:
        mask = object_mask(thing, *lab.shape[1:])
        if thing.polygon is not None and AREAS[0] <= mask.mean() <= AREAS[1]:
            chroma = float(np.hypot(*lab[1:, mask]).mean())
            if best is None or chroma > best[1]:
                best = mask, chroma
    return best


def turned(lab: np.ndarray, mask: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the hue of the masked pixels; return the image, uint8, shape (H, W, 3)."""
    angle = np.deg2rad(degrees)
    rotation = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))), np.float32)
    changed = lab.copy()
    changed[1:, mask] = rotation @ lab[1:, mask]
    return from_lab(changed)


def area_under_curve(values: np.ndarray, inside: np.ndarray) -> float:
    """Return the probability that a place inside has a higher value than a place outside; ties count half."""
    count, rest = inside.sum(), (~inside).sum()
    return float((rankdata(values)[inside].sum() - count * (count + 1) / 2) / (count * rest))


@torch.inference_mode()
def measures(net: ColorPriorNet, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Compute measures of wrong color for each cell of an image, shape (h, w) each; the first one is the map."""
    log_prior, lab = net.predict_prior(net.prepare(pixels)["rgb"][None])
    compared = dict(zip(COMPARISONS, net.prior.compare_pixels(log_prior, lab)[0].numpy(), strict=True))
    return {
        MAP: net.prior.excess(log_prior, lab)[0].numpy(),
        "surprise less entropy": compared["surprise over entropy"],
        "surprise": compared["surprise"],
        "distance from the expected color, in standard deviations": compared["residual in standard deviations"],
    }


def planted(net: ColorPriorNet, root: Path) -> pd.DataFrame:
    """Compute the area under the curve of each image and turn: columns image, chroma, turn and the measures."""
    images = list_images(root / "images")
    labels = ObjectLabels(root / "polygons")
    rng = np.random.default_rng(0)
    rows = []
    for name in tqdm(images.names, desc="planting"):
        pixels = read_rgb(images.path(name))
        lab = to_lab(pixels)
        best = most_colorful(labels.objects(name), lab)
        if best is None:
            continue
        mask, chroma = best
        side = net.cells
        share = F.interpolate(torch.from_numpy(mask)[None, None].float(), (side, side), mode="area")[0, 0].numpy()
        used = (share > _INSIDE) | (share < _OUTSIDE)
        inside = share[used] > _INSIDE
        if inside.sum() < 4 or inside.all():
            continue
        sign = rng.choice((-1, 1))
        for turn in TURNS:
            maps = measures(net, turned(lab, mask, sign * turn) if turn else pixels)
            areas = {measure: area_under_curve(values[used], inside) for measure, values in maps.items()}
            rows.append({"image": name, "chroma": chroma, "turn": turn} | areas)
    return pd.DataFrame(rows)


def interval_of_mean(values: pd.Series) -> str:
    """Format the mean over images, with the 95 % interval of a bootstrap over images."""
    draws = np.random.default_rng(0).choice(values.to_numpy(), (_DRAWS, len(values))).mean(1)
    low, high = np.percentile(draws, (2.5, 97.5))
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def of_measures(areas: pd.DataFrame) -> pd.DataFrame:
    """Return a table that compares the measures, on chromatic objects."""
    chromatic = areas[areas["chroma"] >= CHROMATIC]
    names = [column for column in areas if column not in ("image", "chroma", "turn")]
    return pd.DataFrame(
        {"measure": name} | {f"{t} degrees": interval_of_mean(chromatic[name][chromatic["turn"] == t]) for t in (0, 90, 180)}
        for name in names
    )


def curve(areas: pd.DataFrame) -> pd.DataFrame:
    """Return the mean area under the curve by turn and chroma, with the number of images."""
    bands = pd.cut(areas["chroma"], CHROMAS, right=False)
    table = areas.groupby(["turn", bands], observed=False)[MAP].mean().unstack()
    counts = areas[areas["turn"] == 0].groupby(bands[areas["turn"] == 0], observed=False).size()
    table.columns = [f"chroma {b.left:g} to {b.right:g} (n = {counts[b]})".replace(" to inf", " and up") for b in table.columns]
    chromatic = areas[areas["chroma"] >= CHROMATIC]
    cells = {turn: interval_of_mean(part[MAP]) for turn, part in chromatic.groupby("turn")}
    table[f"chroma {CHROMATIC} and up (n = {chromatic['image'].nunique()})"] = pd.Series(cells)
    return table.rename_axis("turn of hue, degrees").reset_index()


def against_people(net: ColorPriorNet, root: Path) -> pd.DataFrame:
    """Compute SRCC of surprise, with the sign changed, and the SCC ratings of HECD."""
    frame = load_hecd(root)
    frame = frame[frame["SCC"].notna() & (frame["method"] != "original")].reset_index(drop=True)
    scores: dict[str, list[float]] = {"mean of the image": [], "90th percentile of the image": []}
    for image in tqdm(frame["image"], desc="HECD"):
        nats = net.surprise(root / image).nats
        scores["mean of the image"].append(-float(nats.mean()))
        scores["90th percentile of the image"].append(-float(np.percentile(nats, 90)))
    rows = []
    colorizers = frame["kind"].isin(_COLORIZERS).to_numpy()
    for label, chosen in (("hue changes and colorizers", np.ones(len(frame), bool)), ("real colorizers", colorizers)):
        for name, values in scores.items():
            mos, scenes = frame["SCC"].to_numpy(float)[chosen], frame["scene"].to_numpy()[chosen]
            pooled, within = interval(np.array(values)[chosen], mos, scenes)
            rows.append({"images": label, "n": int(chosen.sum()), "surprise": name, "pooled": pooled, "within scene": within})
    return pd.DataFrame(rows)


def known(report: dict) -> str:
    """Format cross-entropies and calibration, measured by tools/train_color_prior.py, as Markdown."""
    parts = [f"{report['photographs']['train']:,} photographs to train, {report['photographs']['calibration']} to calibrate:\n"]
    parts.append(f"```\n{report['command']}\n```\n")
    for part, title in (("test", "A random share of the photographs, held out"), ("apart", "Held out as a whole (COCO)")):
        if part not in report:
            continue
        rows = []
        for folder, row in report[part]["cross-entropy in nats"].items():
            cells = {"photographs": folder, "n": row["photographs"]}
            for kind in ("hard", "soft"):
                for column in ("unconditional", "lightness", "prior"):
                    cells[f"{column}, {kind}"] = row[f"{column} {kind}"]
            rows.append(cells)
        shares = report[part]["share above percentile"]
        above = ", ".join(f"{share:.1%} above the {float(level):g}th" for level, share in shares.items())
        parts.append(f"{title}:\n\n{pd.DataFrame(rows).to_markdown(index=False, floatfmt='.2f')}\n")
        parts.append(f"Of their places, {above} percentile of surprise.\n")
    return "\n".join(parts)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    net = load_prior(args.weights)
    page = f"# The color prior\n\nMade by `{command_line()}`, torch {torch.__version__}.\n"
    if args.report is not None:
        page += (
            "\n## How well it knows photographs\n\nCross-entropy in nats a place, lower is better: of the mean color of each "
            "cell of the map, assigned to the nearest of 260 ab cells of 10 units (hard), and of its four pixels, assigned to "
            "the four nearest (soft, what is trained). *Unconditional* knows how often colors occur, *lightness* the same by "
            f"20 bands of L.\n\n{known(json.loads(args.report.read_text()))}"
        )
    areas = planted(net, args.coco)
    measured = of_measures(areas)
    page += (
        "\n## Planted changes of hue\n\nArea under the ROC curve of the surprise of the map's cells, object against the rest, "
        f"mean over images; in brackets the 95 % interval of a bootstrap over them.\n\n"
        f"{curve(areas).to_markdown(index=False, floatfmt='.3f')}\n\n"
        f"Other measures of the same cells, objects of chroma {CHROMATIC} and up. The map's was chosen among them on these "
        f"photographs, which flatters it a little.\n\n{measured.to_markdown(index=False)}\n"
    )
    if args.rebalanced is not None:
        other = of_measures(planted(load_model(args.rebalanced / "best.pt", dimension="prior"), args.coco))
        report = json.loads((args.rebalanced / "report.json").read_text())
        page += (
            "\n## Trained with rare colors weighted up\n\nA plain likelihood rewards gray. The same training with weights:\n\n"
            f"{known(report)}\n{other.to_markdown(index=False)}\n"
        )
    if args.hecd is not None:
        page += (
            "\n## Against people, without any rating\n\nSRCC of the surprise, sign changed, with the ratings of the SCC part "
            f"of HECD.\n\n{against_people(net, args.hecd).to_markdown(index=False)}\n"
        )
    print(page)
    if args.write:
        write_atomic(Path(__file__).parent / "color_prior.md", page)


if __name__ == "__main__":
    main()

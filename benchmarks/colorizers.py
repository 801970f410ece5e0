"""Measure agreement on the outputs of real colorizers: does the photograph score above the output, and which output is best?

    python benchmarks/colorizers.py COLORIZERS/* --hecd data/HECD --write

Each folder has an ``index.csv`` (image, scene, method). For a folder with a method "original", the page gives the share of
scenes in which the photograph scores above the output, and the area under the ROC curve over all scenes. Outputs are used
unchanged, and with their chroma scaled to that of the photograph, so that colorfulness cannot tell them apart. For a folder
with a value by people (votes, typicality) or by another network (PR_published), the page gives the agreement of the scores with
it. Scores of HECD's colorizers come from benchmarks/hecd_predictions.csv, made by leaving one scene out. For 100 photographs
and 100 outputs the page also gives the effect of encoding and size on a score.

A folder in the training data of the shipped weights cannot test them: ``--left-out NAME=WEIGHTS`` scores the folder of that
name by the CF.pt, SCC.pt and PR.pt in WEIGHTS, trained without it. ``--scores NAME=CSV`` adds another metric from a file with
the columns image (FOLDER/FILE) and score. Brackets hold the 95 % interval of a bootstrap over scenes.
"""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import DIMENSIONS, SHIPPED


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s FOLDER [FOLDER ...] [options]", ("data", "run"))
    add = parser.groups["data"].add_argument
    add("folders", type=Path, nargs="+", help="folders with an index.csv")
    add("--hecd", type=Path, help="the HECD folder, for the rows of its colorizers")
    add("--weights", type=Path, default=SHIPPED, help="folder with CF.pt, SCC.pt, PR.pt (default: the shipped ones)")
    add("--trained-on", nargs="+", default=[], metavar="NAME", help="folders that the weights were trained on")
    add("--left-out", nargs="+", default=[], metavar="NAME=WEIGHTS", help="weights that were trained without a folder")
    add("--scores", nargs="+", default=[], metavar="NAME=CSV", help="score files of other metrics")
    add = parser.groups["run"].add_argument
    add("--write", action="store_true", help="write benchmarks/colorizers.md")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.image_metrics import mean_chroma
from benchmarks.measure import command_line
from data.hecd import load_hecd
from data.recolor import from_lab, to_lab
from inference.networks import Networks
from inference.scorer import worker_count
from models.loading import load_model
from utils.color import colorfulness
from utils.files import write_atomic
from utils.images import read_rgb
from utils.metrics import srcc

_RULERS = {"colorfulness": colorfulness, "mean chroma": mean_chroma}
_HUMAN = ("votes", "typicality", "PR_published")  # columns that scores are compared with
_CLEAR = 0.2  # of typicality; a smaller difference orders nothing
_LARGEST_GAIN = 8.0  # of chroma, where an output has next to none
_DRAWS = 2000
_STABLE = 100  # images of each kind whose scores are taken in several encodings
_HECD_COLORIZERS = ("O", "L", "I", "Z", "P")


def named(words: list[str], flag: str) -> dict[str, Path]:
    """Parse words of the form ``NAME=PATH``; return the paths by name.

    Raises:
        ValueError: If a word has another form.
    """
    paths = dict(word.partition("=")[::2] for word in words)
    wrong = [name for name, path in paths.items() if not path]
    if wrong:
        raise ValueError(f"{flag} {wrong[0]}: expected NAME=PATH")
    return {name: Path(path) for name, path in paths.items()}


def read_index(folder: Path) -> pd.DataFrame:
    """Read the index of a folder: ``image``, ``scene``, ``method``, further columns, and ``folder``, its name.

    Raises:
        FileNotFoundError: If the folder has no index.
        ValueError: If a column is missing.
    """
    path = folder / "index.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no index.csv in {folder}; expected one with the columns image, scene, method")
    table = pd.read_csv(path, dtype={"scene": str, "method": str})
    missing = [c for c in ("image", "scene", "method") if c not in table]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]}; its columns are {', '.join(table.columns)}")
    return table.assign(folder=folder.name, path=[str(folder / image) for image in table["image"]])


def matched(rgb: np.ndarray, mean: float) -> np.ndarray:
    """Scale the chroma of an image so that its mean equals that of the photograph, up to the gamut.

    Args:
        rgb: 8-bit sRGB, shape (H, W, 3).
        mean: Mean chroma to reach, in CIELAB units.
    """
    lab = to_lab(rgb)
    lab[1:] *= min(mean / max(float(np.hypot(lab[1], lab[2]).mean()), 1e-3), _LARGEST_GAIN)
    return from_lab(lab)


class Judges:
    """All measures of an image: the three networks and simple measures.

    Args:
        weights: Folder with CF.pt, SCC.pt and PR.pt.
    """

    def __init__(self, weights: Path) -> None:
        self.networks = Networks({d: load_model(weights / f"{d}.pt", dimension=d) for d in DIMENSIONS}, ["cpu"])

    def __call__(self, rgb: np.ndarray) -> dict[str, float]:
        tensor = torch.from_numpy(rgb.copy()).permute(2, 0, 1)
        scores = dict(self.networks(rgb.copy(), "", {}).scores)
        rulers = {name: float(ruler(tensor[None].float() / 255)) for name, ruler in _RULERS.items()}
        return scores | rulers


def score(table: pd.DataFrame, judges: Judges) -> pd.DataFrame:
    """Add a column for each judge to the table, and a column ``... matched`` for chroma-matched outputs."""
    photographs = table[table["method"] == "original"].set_index("scene")["path"].to_dict()

    def work(row: tuple[str, str, str]) -> dict[str, float]:
        path, scene, method = row
        rgb = read_rgb(path)
        values = judges(rgb)
        if method != "original" and scene in photographs:
            lab = to_lab(read_rgb(photographs[scene]))
            other = judges(matched(rgb, float(np.hypot(lab[1], lab[2]).mean())))
            values |= {f"{name} matched": value for name, value in other.items()}
        return values

    rows = list(zip(table["path"], table["scene"], table["method"], strict=True))
    with ThreadPoolExecutor(worker_count(["cpu"])) as pool:
        bar = tqdm(pool.map(work, rows), total=len(rows), desc=table["folder"].iloc[0], unit="image", leave=False)
        values = list(bar)
    return pd.concat([table, pd.DataFrame(values, index=table.index)], axis=1)


def interval(values: np.ndarray, statistic: Callable[[np.ndarray], float] = np.nanmean) -> str:
    """Format a statistic of one value per scene, with the 95 % interval of a bootstrap over scenes."""
    rng = np.random.default_rng(0)
    draws = [statistic(values[rng.integers(0, len(values), len(values))]) for _ in range(_DRAWS)]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return f"{statistic(values):.2f} [{low:.2f}, {high:.2f}]"


def wins(photographs: pd.Series, outputs: pd.Series) -> str:
    """Format the share of scenes in which the photograph scores above the output; a tie counts half."""
    both = pd.concat([photographs.rename("a"), outputs.rename("b")], axis=1, join="inner").dropna()
    return interval(np.where(both["a"] == both["b"], 0.5, both["a"] > both["b"])) if len(both) else ""


def auc(pairs: np.ndarray) -> float:
    """Return the area under the ROC curve of photographs, ``pairs[:, 0]``, over outputs, ``pairs[:, 1]``, of all scenes."""
    a, b = pairs.T
    below = np.searchsorted(np.sort(b), a, "left") + np.searchsorted(np.sort(b), a, "right")
    return float(below.mean() / 2 / len(b))


def original_over_output(table: pd.DataFrame, names: list[str]) -> list[dict[str, str]]:
    """Return rows of the page for one folder with photographs, one per method and way of comparing."""
    photographs = table[table["method"] == "original"].set_index("scene")
    rows = []
    for method, part in table[table["method"] != "original"].groupby("method"):
        outputs = part.set_index("scene")
        about = {"source": table["folder"].iloc[0], "method": method, "scenes": len(outputs)}
        plain, scaled, over = ({**about, "compared": kind} for kind in ("as it is", "chroma-matched", "AUC over scenes"))
        for name in names:
            plain[name] = wins(photographs[name], outputs[name])
            if f"{name} matched" in outputs:
                scaled[name] = wins(photographs[name], outputs[f"{name} matched"])
            both = pd.concat([photographs[name], outputs[name]], axis=1, join="inner").dropna().to_numpy()
            over[name] = interval(both, auc) if len(both) else ""
        rows += [plain, scaled, over]
    return rows


def human_rows(table: pd.DataFrame, names: list[str], column: str) -> list[dict[str, str]]:
    """Return rows of the page for one folder with a number for each image."""
    rows = []
    about = {"source": table["folder"].iloc[0], "images": len(table), "scenes": table["scene"].nunique()}
    groups = [part for _, part in table.groupby("scene")]
    if column == "typicality":
        clear = [g for g in groups if len(g) == 2 and abs(g[column].diff().iloc[1]) >= _CLEAR]
        row = about | {"scenes": len(clear), "measure": f"pairs at least {_CLEAR} apart ordered right"}
        for name in names:
            row[name] = interval(np.array([float(g[name].diff().iloc[1] * g[column].diff().iloc[1] > 0) for g in clear]))
        return [row]
    row = about | {"measure": f"SRCC with {column}, mean within scene"}
    for name in names:
        row[name] = interval(np.array([srcc(g[name].to_numpy(), g[column].to_numpy()) for g in groups]))
    rows.append(row)
    if column == "PR_published":
        pooled = about | {"measure": f"SRCC with {column}, pooled"}
        for name in names:
            pooled[name] = f"{srcc(table[name].to_numpy(), table[column].to_numpy()):.2f}"
        rows.append(pooled)
    return rows


def hecd_rows(root: Path, names: list[str]) -> list[dict[str, str]]:
    """Return the rows of HECD: its colorizers and all its recolorings, by networks that have not seen the scene."""
    frame = load_hecd(root)
    saved = pd.read_csv(Path(__file__).parent / "hecd_predictions.csv", dtype={"scene": str}).set_index("image")
    files = [Path(image).name for image in frame["image"]]
    for dimension in DIMENSIONS:
        frame[f"{dimension} score"] = saved[dimension].reindex(files).to_numpy()
    for name, ruler in _RULERS.items():
        paths = (root / image for image in frame["image"])
        frame[f"{name} score"] = [
            float(ruler(torch.from_numpy(read_rgb(p).copy()).permute(2, 0, 1)[None].float() / 255)) for p in paths
        ]
    rows = []
    parts = {"colorizers": frame["kind"].isin(_HECD_COLORIZERS), "all recolorings": frame["method"] != "original"}
    for label, chosen in parts.items():
        part = frame[chosen]
        scenes = part["scene"].to_numpy()
        about = {"source": f"HECD, {label}", "images": len(part), "scenes": part["scene"].nunique()}
        pooled, within = ({**about, "measure": f"SRCC with people, {kind}"} for kind in ("pooled", "mean within scene"))
        for name in names:
            if f"{name} score" not in part:
                continue
            pred, mos = part[f"{name} score"].to_numpy(), part["PR"].to_numpy()
            groups = [np.flatnonzero(scenes == scene) for scene in sorted(set(scenes))]

            def of_all(draw: np.ndarray, groups=groups, pred=pred, mos=mos) -> float:
                chosen = np.concatenate([groups[k] for k in draw])
                return srcc(pred[chosen], mos[chosen])

            pooled[name] = interval(np.arange(len(groups)), of_all)
            within[name] = interval(np.array([srcc(pred[g], mos[g]) for g in groups]))
        rows += [pooled, within]
    return rows


def stability(paths: Sequence[str], judges: Judges, kind: str) -> list[dict[str, str]]:
    """Return rows on the change of scores if an image is stored as JPEG instead, or has twice the size instead of half."""

    def work(path: str) -> tuple[dict[str, float], ...]:
        image = Image.fromarray(read_rgb(path))
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=95, subsampling="4:2:0")
        sizes = (
            image.resize((max(1, round(image.width * f)), max(1, round(image.height * f))), Image.LANCZOS) for f in (0.5, 2)
        )
        return tuple(judges(np.asarray(i.convert("RGB"))) for i in (image, Image.open(stored), *sizes))

    with ThreadPoolExecutor(worker_count(["cpu"])) as pool:
        png, jpeg, half, double = zip(*tqdm(pool.map(work, paths), total=len(paths), desc=kind, leave=False), strict=True)
    rows = []
    for label, a, b in (("PNG to JPEG 4:2:0, quality 95", png, jpeg), ("half to double size", half, double)):
        row = {"images": f"{len(paths)} {kind}", "change": label}
        for name in DIMENSIONS:
            moved = np.abs([x[name] - y[name] for x, y in zip(a, b, strict=True)])
            row[name] = f"{moved.mean():.3f} (at most {moved.max():.2f})"
        rows.append(row)
    return rows


def add_scores(table: pd.DataFrame, files: dict[str, Path]) -> pd.DataFrame:
    """Add a column for each other metric to the table, NaN where its file lacks the image."""
    for name, file in files.items():
        scores = pd.read_csv(file).set_index("image")["score"]
        table[name] = scores.reindex(table["folder"] + "/" + table["image"]).to_numpy()
    return table


_PAGE = """# Agreement on the outputs of real colorizers

By

```
{command}
```

with torch {torch}. In brackets the 95 % interval of a bootstrap over scenes. {trained}

## The photograph scores above the output

Share of scenes in which it does; *chroma-matched*: the chroma of each output is multiplied so that its mean is that of its
photograph (at most by {gain:g}); *AUC over scenes*: the photograph of one scene against the output of another.
*colorfulness* and *mean chroma* are the trivial predictors.

{originals}

## Numbers that people or another network gave

*votes*: how many of 12 people chose this amount of chroma; *typicality*: how typical people found the color for the thing;
*PR_published*: what the published network predicts, no human rating. None of them was trained on. HECD: one scene left out
(benchmarks/hecd.py).

{human}

## How far encoding and size move a score

Mean and largest difference of two scores of one image.

{stable}
"""


def main() -> None:
    args = parse_args()
    torch.set_num_threads(1)
    left_out, files = named(args.left_out, "--left-out"), named(args.scores, "--scores")
    names = [*DIMENSIONS, *_RULERS, *files]
    shipped = Judges(args.weights)
    originals, human, paths = [], [], {"photographs": [], "outputs": []}
    for folder in args.folders:
        table = read_index(folder)
        judges = Judges(left_out[folder.name]) if folder.name in left_out else shipped
        table = add_scores(score(table, judges), files)
        mark = ", left out" if folder.name in left_out else ", TRAINED ON" if folder.name in args.trained_on else ""
        table["folder"] += mark
        if (table["method"] == "original").any():
            for kind, chosen in (("photographs", table["method"] == "original"), ("outputs", table["method"] != "original")):
                paths[kind] += list(table["path"][chosen])
            originals += original_over_output(table, names)
        for column in (c for c in _HUMAN if c in table):
            human += human_rows(table, names, column)
    if args.hecd is not None:
        human += hecd_rows(args.hecd, names)
    stable = []
    for kind, found in paths.items():
        if found:
            evenly = np.linspace(0, len(found) - 1, min(_STABLE, len(found))).astype(int)
            stable += stability([found[i] for i in evenly], shipped, kind)
    parts = (originals, human, stable)
    tables = [pd.DataFrame(rows).fillna("").to_markdown(index=False) if rows else "none" for rows in parts]
    print("\n\n".join(tables))
    if args.write:
        trained = ", ".join(f"{name}: {path}" for name, path in left_out.items())
        page = _PAGE.format(
            command=command_line("colorizers.py"),
            torch=torch.__version__,
            trained=f"Sources marked *left out* are scored by weights that were trained without them ({trained})."
            if trained
            else "",
            gain=_LARGEST_GAIN,
            originals=tables[0],
            human=tables[1],
            stable=tables[2],
        )
        write_atomic(Path(__file__).parent / "colorizers.md", page)


if __name__ == "__main__":
    main()

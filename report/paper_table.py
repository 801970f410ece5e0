"""The table of a paper on colorization: methods against the originals, with our scores, intervals and paired differences.

Images are joined by name or by an index. What one method lacks, or nobody can read, is left out for all methods alike, and the
caption says so. Intervals are those of a bootstrap t over originals (:class:`evaluation.agreement.Resamples`), every draw the
same for all methods.
"""

import argparse
import itertools
import json
import math
import os
import re
import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from evaluation.agreement import Resamples, as_latex, as_markdown, as_text
from inference.command import parse_devices, seen_images
from inference.networks import Networks
from inference.scorer import worker_count
from models.loading import load_model
from report.image_measures import (
    COLORFULNESS,
    FID,
    LPIPS,
    PSNR,
    SIDE,
    SSIM,
    FrechetDistances,
    Measure,
    PerceptualDistance,
    colorfulness_of,
    luma_correlation,
    make_or_skip,
    measure,
    prepare,
)
from utils.choices import DIMENSIONS, METHOD_BIAS
from utils.files import write_atomic
from utils.images import ImageList, ImageReadError, is_gray, list_images, read_rgb
from utils.names import amount, match_names, nearest
from utils.scenes import ORIGINALS, read_index, scenes_of

ORIGINAL = "originals"  # their row
CHANGE = Measure("Δ colorfulness", 0, 2)  # mean of the images less that of the originals
DISTANCE = Measure("|Δ colorfulness|", -1, 2, 0)  # its absolute value, ΔCF of the papers
SCORES = {dimension: Measure(f"ICQA {dimension}", 1, 3, -1, 1) for dimension in ("PR", "CF", "SCC")}
MEASURES = (FID, COLORFULNESS, CHANGE, DISTANCE, PSNR, SSIM, LPIPS, *SCORES.values())
_ARROWS = {1: " ↑", -1: " ↓", 0: ""}
_OF_IMAGES = (COLORFULNESS, PSNR, SSIM, LPIPS, *SCORES.values())  # columns of the table of images
_ALIKE = 0.9  # luma correlation below which an image is not, it seems, a colorization of its original
_NORMAL_95 = 1.959963984540054  # half-width of a 95 % interval in standard deviations
_FEW_FOR_FID = 10_000
_EXAMPLES = 3  # names in a message
_SHOWN = 10  # images left out that the console names
_PAIRED = "Paired differences: first less second, on the same images"
_MOST_ROWS = 80  # of differences on the console
_MOST_COLUMNS = 6  # of methods side by side
_AT_ONCE = 16  # images of each method that LPIPS and FID look at together
_LATEX = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$", "|": r"$|$", "∞": r"$\infty$"}


# Which image belongs to which original


@dataclass(frozen=True)
class Joined:
    """Images of methods and their originals.

    Attributes:
        originals: Path of each original, by name.
        methods: By method, path of the image of each original, by the same name.
        extra: By method, names of images that have no original.
    """

    originals: dict[str, Path]
    methods: dict[str, dict[str, Path]]
    extra: dict[str, list[str]] = field(default_factory=dict)


def join_folders(folders: Sequence[Path], originals: Path) -> Joined:
    """Join a folder for each method with a folder of originals, by file names (:mod:`utils.names`).

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If there is no image in one, two are the same, or nothing fits.
    """
    wanted = list_images(originals)
    joined = Joined({name: wanted.path(name) for name in wanted.names}, {})
    for method, folder in zip(_short_names(folders), folders, strict=True):
        images = list_images(folder)
        found = match_names(images.names, wanted.names)
        if not found:
            name = images.names[0]
            raise ValueError(
                f"no image of {folder} has the name of an original in {originals}: {name} fits none, e.g. "
                f"{nearest(name, wanted.names, 1)[0]}; name them alike (suffixes may differ), or say which is which in --index"
            )
        joined.methods[method] = {original: images.path(name) for name, original in found.items()}
        joined.extra[method] = [name for name in images.names if name not in found]
    return joined


def join_index(folder: Path, index: Path | None, originals: Path | None) -> Joined:
    """Join the images of one folder by a table of scenes and methods, or by names METHOD_SCENE.

    Args:
        folder: Images of all methods.
        index: CSV with image, scene, method; None to look for one in the folder, or else to read the names.
        originals: Folder with an image for each scene, named after it; None if a method of the folder is that of the originals.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If scenes or originals are not known, or a method has two images of a scene.
    """
    images = list_images(folder)
    if index is not None:
        scenes, methods = read_index(index, images.names)
        places = dict(zip(images.names, zip(scenes, methods, strict=True), strict=True))
    else:
        places, problem = scenes_of(images.root, images.names)
        if len(places) < len(images.names):
            reason = problem or "names are not METHOD_SCENE, and no index.csv tells scene and method of every image"
            raise ValueError(f"{folder}: {reason}; give a folder for each method and --originals, or --index")
    by_method: dict[str, dict[str, Path]] = {}
    for name, (scene, method) in places.items():
        of_method = by_method.setdefault(method, {})
        if scene in of_method:
            other = of_method[scene].relative_to(images.root)
            raise ValueError(f"{folder}: {method} has two images of the scene {scene}, {other} and {name}")
        of_method[scene] = images.path(name)
    photographs = [method for method in by_method if method.casefold() in ORIGINALS]
    if (originals is not None) + len(photographs) != 1:
        given = " and ".join([*photographs, *([f"--originals {originals}"] if originals is not None else [])])
        raise ValueError(
            f"expected one kind of originals for {folder}, got {given or 'none'}; give the folder --originals, or a method "
            f"named original, not both (methods: {', '.join(by_method)})"
        )
    if originals is None:
        return _by_scene(by_method.pop(photographs[0]), by_method)
    wanted = list_images(originals)
    scenes_there = list(dict.fromkeys(scene for of_method in by_method.values() for scene in of_method))
    found = match_names(scenes_there, wanted.names)
    if not found:
        raise ValueError(f"no scene of {folder} has the name of an original in {originals}, e.g. {scenes_there[0]}")
    return _by_scene({scene: wanted.path(name) for scene, name in found.items()}, by_method)


def _by_scene(originals: dict[str, Path], by_method: Mapping[str, dict[str, Path]]) -> Joined:
    if not by_method:
        raise ValueError("there are originals only, and no method to compare with them")
    methods = {m: {s: path for s, path in images.items() if s in originals} for m, images in by_method.items()}
    return Joined(originals, methods, {m: [s for s in images if s not in originals] for m, images in by_method.items()})


def _short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of paths, as many as it takes to tell them apart."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ValueError(f"--images names a folder twice: {', '.join(map(str, folders))}")
    names: list[str] = []
    for length in range(1, 1 + max(map(len, parts))):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return names


def keep_common(joined: Joined, allow_missing: bool) -> tuple[list[str], list[str]]:
    """Find the originals that every method has an image of.

    Args:
        joined: All images.
        allow_missing: Leave out the others; else they are an error.

    Returns:
        Names of the originals, and what is to be said of those left out.

    Raises:
        ValueError: If something is missing and must not, or nothing is left.
    """
    problems = []
    for method, images in joined.methods.items():
        absent = [name for name in joined.originals if name not in images]
        if absent:
            problems.append(f"{method} has no image of {len(absent)} of {len(joined.originals)} originals, {_such_as(absent)}")
        if joined.extra.get(method):
            extra = joined.extra[method]
            problems.append(f"{method} has {amount(len(extra), 'image')} without an original, {_such_as(extra)}")
    if problems and not allow_missing:
        raise ValueError(f"{_first(problems)}; --allow-missing leaves these out for all methods")
    common = [name for name in joined.originals if all(name in images for images in joined.methods.values())]
    if not common:
        raise ValueError(f"no original is left that all methods have an image of: {_first(problems)}")
    return common, [f"Left out for all methods: {problem}." for problem in problems]


def _first(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - _EXAMPLES} more such" if len(problems) > _EXAMPLES else ""
    return "; ".join(problems[:_EXAMPLES]) + more


def _such_as(names: Sequence[str]) -> str:
    return f"e.g. {', '.join(names[:_EXAMPLES])}"


# Measures of each image


@dataclass(frozen=True)
class Seen:
    """What was seen of an original and its colorizations.

    Attributes:
        name: Of the original.
        pixels: The original first, then the methods, uint8, shape (1 + M, 256, 256, 3); None if one of them cannot be used.
        rows: Measures by name, in the same order.
        small: Whether an image had to be enlarged.
        error: Why there are no pixels.
    """

    name: str
    pixels: np.ndarray | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    small: bool = False
    error: str = ""


@dataclass
class Measured:
    """Measures of all images.

    Attributes:
        frame: A row for each image: image (name of the original), method, the measures, gray and luma correlation.
        fid: By method; empty if it is not measured.
        failed: By original, why it is left out.
        small: Originals that are enlarged, or an image of theirs.
        caption: How FID and LPIPS were measured.
        skipped: Why they were not.
    """

    frame: pd.DataFrame
    fid: dict[str, float]
    failed: dict[str, str]
    small: int
    caption: list[str]
    skipped: list[str]


Score = Callable[[np.ndarray], Mapping[str, float]]  # uint8 (H, W, 3) to CF, SCC and PR, from many threads


def make_score(branches: Mapping[str, Any], devices: list[str]) -> Score:
    """Return what scores an image by our networks, on the devices named."""
    networks = Networks(branches, devices)
    return lambda rgb: networks(rgb, "", {}).scores


def measure_all(joined: Joined, names: Sequence[str], crop: bool, score: Score, devices: list[str]) -> Measured:
    """Read and measure every image once.

    Args:
        joined: All images.
        names: The originals to look at.
        crop: See :func:`report.image_measures.prepare`.
        score: For CF, SCC and PR.
        devices: Where networks run; LPIPS and FID on the first.

    Raises:
        ValueError: If no original is left.
    """
    methods, device = list(joined.methods), devices[0]
    lpips, said_of_lpips = make_or_skip("LPIPS", ("lpips",), lambda: PerceptualDistance(device=device))
    fid, said_of_fid = make_or_skip(
        "FID", ("torchmetrics", "torch-fidelity"), lambda: FrechetDistances(len(methods), device=device)
    )
    caption = [f"LPIPS: {said_of_lpips}; {PerceptualDistance.says}."] if lpips else []
    if fid:
        caption.append(
            f"FID: {said_of_fid}; {FrechetDistances.says}. A distance of two sets, without an interval, biased upward below "
            f"some {_FEW_FOR_FID:,} images: compare at equal numbers only."
        )
    skipped = [said for made, said in ((fid, said_of_fid), (lpips, said_of_lpips)) if made is None]
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    small = 0

    def look(name: str) -> Seen:
        return see(name, [joined.originals[name], *(joined.methods[method][name] for method in methods)], crop, score)

    workers = worker_count(devices)
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(names), unit="scene", disable=None, leave=False) as bar:
        for some in _chunks(_in_order(pool, look, names, 2 * workers + _AT_ONCE), _AT_ONCE):
            bar.update(len(some))
            failed |= {seen.name: seen.error for seen in some if seen.pixels is None}
            good = [seen for seen in some if seen.pixels is not None]
            if not good:
                continue
            pixels = np.stack([seen.pixels for seen in good if seen.pixels is not None], axis=1)  # (1 + M, B, 256, 256, 3)
            if fid:
                fid.update(pixels[0], pixels[1:])
            if lpips:
                for number in range(len(methods)):
                    for seen, value in zip(good, lpips(pixels[1 + number], pixels[0]), strict=True):
                        seen.rows[1 + number][LPIPS.name] = float(value)
            for seen in good:
                small += seen.small
                named = zip([ORIGINAL, *methods], seen.rows, strict=True)
                rows += [{"image": seen.name, "method": method, **row} for method, row in named]
    if not rows:
        raise ValueError(f"no original is left of {len(names)}: {next(iter(failed.values()))}")
    distances = dict(zip(methods, fid.values(), strict=True)) if fid else {}
    return Measured(pd.DataFrame(rows), distances, failed, small, caption, skipped)


def see(name: str, paths: Sequence[Path], crop: bool, score: Score) -> Seen:
    """Read an original and its colorizations, bring them to one size and measure them; if one fails, all of them do."""
    pixels: list[np.ndarray] = []
    rows: list[dict[str, Any]] = []
    small = False
    for path in paths:
        try:
            stored = read_rgb(path)
            small |= min(stored.shape[:2]) < SIDE
            rgb = prepare(stored, crop)
            row: dict[str, Any] = measure(rgb, pixels[0]) if pixels else {COLORFULNESS.name: colorfulness_of(rgb)}
            scores = score(rgb)
        except ImageReadError as error:
            return Seen(name, error=str(error))
        except (MemoryError, RuntimeError, ValueError, OSError) as error:
            return Seen(name, error=f"{path}: {type(error).__name__}: {error}")
        row |= {kind.name: scores[dimension] for dimension, kind in SCORES.items()}
        pixels.append(rgb)
        rows.append(row | {"luma correlation": luma_correlation(rgb, pixels[0]), "gray": is_gray(rgb)})
    return Seen(name, np.stack(pixels), rows, small)


def _in_order(pool: ThreadPoolExecutor, look: Callable[[str], Seen], names: Iterable[str], ahead: int) -> Iterator[Seen]:
    """What is seen of each original, in their order, with so many looked at ahead, so that memory stays bounded."""
    pending: deque[Future[Seen]] = deque()
    try:
        for name in names:
            pending.append(pool.submit(look, name))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _chunks(seen: Iterator[Seen], size: int) -> Iterator[list[Seen]]:
    while some := list(itertools.islice(seen, size)):
        yield some


# Means and differences


def by_image(measured: Measured) -> dict[str, pd.DataFrame]:
    """The measures of images by name, each as a table of originals by methods; and the change of colorfulness."""
    frame = measured.frame
    values = {m.name: frame.pivot(index="image", columns="method", values=m.name) for m in _OF_IMAGES if m.name in frame}
    values[CHANGE.name] = values[COLORFULNESS.name].sub(values[COLORFULNESS.name][ORIGINAL], axis=0)
    return values


def means_of(measured: Measured, draws: Resamples) -> pd.DataFrame:
    """Compute the mean of each measure for each method.

    Args:
        measured: Measures of all images; of every original each method has one.
        draws: Of originals.

    Returns:
        Columns method, measure, value, low, high (95 % interval, NaN where there is none) and n, the images it is made of.
    """
    values, rows = by_image(measured), []
    for method in dict.fromkeys(measured.frame["method"]):
        for kind in MEASURES:
            if kind is FID and method in measured.fid:
                rows.append((method, kind.name, measured.fid[method], math.nan, math.nan, draws.counts.shape[1]))
            elif kind.name in values and not (method == ORIGINAL and kind in (CHANGE, PSNR, SSIM, LPIPS)):
                column = values[kind.name][method].to_numpy(float)
                rows.append((method, kind.name, *_mean(column, draws, kind), int(np.isfinite(column).sum())))
    return pd.DataFrame(rows, columns=["method", "measure", "value", "low", "high", "n"])


def differences_of(measured: Measured, draws: Resamples, biases: Mapping[str, float]) -> pd.DataFrame:
    """Compare each two methods on the same images; by our scores also each method with the originals.

    Args:
        measured: Same as for :func:`means_of`.
        draws: Of originals.
        biases: By dimension, the standard deviation of what our score has for or against a method, whatever the image. It
            widens the intervals.

    Returns:
        Columns first, second, measure, difference (first less second), low, high, n, better (the one with the better value,
        if the interval is on one side of 0, else ""), and share (of images on which the first is better, equal ones count
        one half).
    """
    values, rows = by_image(measured), []
    methods = [name for name in dict.fromkeys(measured.frame["method"]) if name != ORIGINAL]
    spreads = {kind.name: _NORMAL_95 * biases.get(dimension, 0.0) for dimension, kind in SCORES.items()}
    for first, second in [*itertools.combinations(methods, 2), *((method, ORIGINAL) for method in methods)]:
        for kind in SCORES.values() if second == ORIGINAL else MEASURES:
            if kind is FID and measured.fid:
                difference = measured.fid[first] - measured.fid[second]
                rows.append((first, second, kind.name, difference, math.nan, math.nan, draws.counts.shape[1], "", math.nan))
            column = CHANGE.name if kind is DISTANCE else kind.name
            if column not in values or kind is CHANGE:  # the difference of changes is that of the colorfulness
                continue
            one, other = (values[column][name].to_numpy(float) for name in (first, second))
            share = math.nan
            if kind is DISTANCE:
                value, low, high = _difference_of_distances(one, other, draws)
                n = len(one)
            else:
                both = np.isfinite(one) & np.isfinite(other)
                steps = np.subtract(one, other, out=np.full(len(one), np.nan), where=both)
                value, low, high = _mean(steps, draws, Measure("", 0, 0))
                spread = spreads.get(kind.name, 0.0)
                low, high = value - math.hypot(value - low, spread), value + math.hypot(high - value, spread)
                n = int(both.sum())
                if kind.better and n:
                    share = float(np.mean((1 + kind.better * np.sign(steps[both])) / 2))
            sign = kind.better * (int(low > 0) - int(high < 0))
            rows.append((first, second, kind.name, value, low, high, n, {1: first, -1: second, 0: ""}[sign], share))
    columns = ["first", "second", "measure", "difference", "low", "high", "n", "better", "share"]
    return pd.DataFrame(rows, columns=columns)


def _mean(column: np.ndarray, draws: Resamples, kind: Measure) -> tuple[float, float, float]:
    """Mean of the finite values with its 95 % interval; infinite if all of them are."""
    finite = np.isfinite(column)
    if not finite.any():
        return float(column[0]), math.nan, math.nan
    value = float(column[finite].mean())
    counts = draws.counts if finite.all() else draws.counts[:, finite]
    with np.errstate(invalid="ignore"):  # a draw of images without a finite value
        sample = (counts @ column[finite]) / counts.sum(1)
    low, high, _ = draws.interval(value, sample, int(finite.sum()))
    return value, float(np.clip(low, kind.low, kind.high)), float(np.clip(high, kind.low, kind.high))


def _difference_of_distances(first: np.ndarray, second: np.ndarray, draws: Resamples) -> tuple[float, float, float]:
    """Difference of the absolute values of two means, with its 95 % interval."""
    value = abs(float(first.mean())) - abs(float(second.mean()))
    sizes = draws.counts.sum(1)
    sample = np.abs(draws.counts @ first / sizes) - np.abs(draws.counts @ second / sizes)
    low, high, _ = draws.interval(value, sample)
    return value, low, high


# What is shown


@dataclass(frozen=True)
class Table:
    """Cells of text under a title; ``best`` are rows and columns of the cells that are the best of their column."""

    title: str
    cells: pd.DataFrame
    best: list[tuple[int, int]] = field(default_factory=list)

    def marked(self, mark: str) -> pd.DataFrame:
        """Cells with a mark around the best ones, such as ``**{}**``."""
        cells = self.cells.copy()
        for row, column in self.best:
            cells.iloc[row, column] = mark.format(cells.iloc[row, column])
        return cells


def tables_of(means: pd.DataFrame, differences: pd.DataFrame) -> list[Table]:
    """The table of the paper, its intervals, and the differences, as text."""
    kinds = [kind for kind in MEASURES if kind.name in set(means["measure"])]
    values = {(row.method, row.measure): row for row in means.itertuples()}
    methods = list(dict.fromkeys(means["method"]))
    heads = [kind.name + _ARROWS[kind.better] for kind in kinds]

    def cells(interval: bool) -> pd.DataFrame:
        texts = [[_shown(values.get((method, kind.name)), kind, interval) for kind in kinds] for method in methods]
        return pd.DataFrame(texts, methods, heads)

    best = []
    for column, kind in enumerate(kinds, start=1):
        judged = -1 if kind is CHANGE else kind.better
        found = {m: values[m, kind.name].value for m in methods if m.casefold() not in ORIGINALS and (m, kind.name) in values}
        ranked = {m: judged * round(abs(v) if kind is CHANGE else v, kind.decimals) for m, v in found.items()}
        if judged and len(ranked) > 1:
            best += [(methods.index(m), column) for m, v in ranked.items() if v == max(ranked.values())]
    wide = len(methods) > _MOST_COLUMNS
    with_intervals = cells(True) if wide else cells(True).T
    tables = [
        Table("Means", cells(False).rename_axis("method").reset_index(), best),
        Table("Means with 95 % intervals", with_intervals.rename_axis("method" if wide else "measure").reset_index()),
    ]
    if len(differences):
        by_name = {kind.name: kind for kind in MEASURES}
        compared = [
            {
                "methods": f"{row.first} - {row.second}",
                "measure": row.measure + _ARROWS[by_name[row.measure].better],
                "difference": _with_interval(row.difference, row.low, row.high, by_name[row.measure].decimals, "+"),
                "better": row.better or "-",
                "first better on": f"{100 * row.share:.0f} %" if math.isfinite(row.share) else "-",
            }
            for row in differences.itertuples()
        ]
        tables.append(Table(_PAIRED, pd.DataFrame(compared)))
    return tables


def _shown(row: Any, kind: Measure, interval: bool = False) -> str:
    if row is None:
        return "-"
    sign = "+" if kind is CHANGE else ""
    if math.isinf(row.value):
        return "∞"
    low, high = (row.low, row.high) if interval else (math.nan, math.nan)
    return _with_interval(row.value, low, high, kind.decimals, sign)


def _with_interval(value: float, low: float, high: float, decimals: int, sign: str = "") -> str:
    def text(number: float) -> str:
        return "n/a" if math.isnan(number) else f"{round(number, decimals) + 0.0:{sign}.{decimals}f}"

    return f"{text(value)} [{text(low)}, {text(high)}]" if math.isfinite(low) else text(value)


def as_latex_table(table: Table, caption: str) -> str:
    """A floating ``table`` that needs the package booktabs, the best of each column in bold."""
    text = as_latex(table.marked("<b>{}</b>")).replace("{ll", "{lr", 1)
    text = re.sub("<b>(.*?)</b>", r"\\textbf{\1}", text)
    for sign, code in _LATEX.items():
        text = text.replace(sign, code)
    caption = re.sub(r"([&%$#_])", r"\\\1", caption)
    for sign, code in _LATEX.items():
        caption = caption.replace(sign, code)
    return f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n{text}\\end{{table}}\n"


def caption_of(measured: Measured, means: pd.DataFrame, args: argparse.Namespace, origin: str) -> list[str]:
    """What must be known to reproduce the numbers: protocol, definitions, weights, and which images they are made of.

    Args:
        measured: Measures of all images.
        means: Of :func:`means_of`.
        args: Of the command line.
        origin: Of the weights of our scores.
    """
    frame = measured.frame
    originals = frame[frame["method"] == ORIGINAL]
    count = len(originals)
    how = (
        "the short side brought to 256 pixels and the middle 256 x 256 kept (as Resize and CenterCrop of torchvision)"
        if args.crop
        else "squeezed to 256 x 256 pixels, whatever their shape"
    )
    lines = [
        f"{amount(count, 'image')} of each method and as many originals, {how}, by Pillow's bicubic filter.",
        *measured.caption,
        "Colorfulness: M(3) of Hasler and Suesstrunk 2003, mean over images (not CF of ICQA). Δ colorfulness: mean of the "
        "method less that of the originals; papers print its absolute value, as ΔCF.",
        "PSNR: RGB, data range 255, mean of the PSNR of images. SSIM: RGB, Gaussian window of 11 x 11, sigma 1.5 (Wang et al. "
        "2004), by scikit-image, mean of the channels.",
        f"ICQA PR, CF, SCC: in [-1, 1], of the same 256 x 256 pixels, without the originals; {origin}.",
        f"In brackets: 95 % interval of a bootstrap t over images, {args.resamples} draws (seed {args.seed}), not corrected "
        "for the number of comparisons. Differences of ICQA scores count what the scores have for or against a method whatever "
        "the image (weights/method_bias.json), which more images do not average out.",
    ]
    for row in means[means["measure"] == PSNR.name].itertuples():
        if row.n < count:
            rest = "" if math.isinf(row.value) else "; its mean PSNR is that of the others"
            lines.append(f"{row.method}: {count - row.n} of {count} images equal the original, PSNR ∞{rest}.")
    gray = originals.loc[originals["gray"], "image"].tolist()
    if gray:
        lines.append(f"{len(gray)} of {count} originals are gray, and count: {_such_as(gray)}.")
    if measured.small:
        lines.append(f"Of {measured.small} of {count} originals, it or an image of it was smaller and is enlarged.")
    if measured.failed:
        lines.append(f"Left out for all methods: {amount(len(measured.failed), 'original')}, as an image cannot be read.")
    return lines


def warnings_of(measured: Measured, crop: bool) -> list[str]:
    """What to check before the table is believed: images that do not look like their originals."""
    lines = []
    for method, rows in measured.frame.groupby("method", sort=False):
        odd = rows.loc[rows["luma correlation"] < _ALIKE, "image"].tolist()
        if odd:
            lines.append(
                f"CHECK {method}: without color, {len(odd)} of {len(rows)} images are not like their originals (correlation "
                f"below {_ALIKE:g}), {_such_as(odd)}: other images, or cropped in another way (try "
                f"{'without --crop' if crop else '--crop'})?"
            )
    return lines


# The command


def write_paper_table(args: argparse.Namespace) -> int:
    """Do what ``evaluate.py --paper-table`` asks for: read, measure, print, and write to ``--output``.

    Args:
        args: images (one folder or more), originals, index, crop, allow_missing, resamples, seed and output.

    Returns:
        The exit status: 1 if an image cannot be read.

    Raises:
        FileNotFoundError: If a folder or file is absent.
        ValueError: If images and originals do not fit.
    """
    if args.index is not None or args.originals is None:
        joined = join_index(args.images[0], args.index, args.originals)
    else:
        joined = join_folders(args.images, args.originals)
    names, left_out = keep_common(joined, args.allow_missing)
    branches: dict[str, Any] = {dimension: load_model(dimension) for dimension in DIMENSIONS}
    devices = parse_devices(None)
    measured = measure_all(joined, names, args.crop, make_score(branches, devices), devices)
    biases = {dimension: found["sd"] for dimension, found in json.loads(METHOD_BIAS.read_text(encoding="utf-8")).items()}
    draws = Resamples(measured.frame["image"].nunique(), args.resamples, args.seed)
    means, differences = means_of(measured, draws), differences_of(measured, draws, biases)
    tables = tables_of(means, differences)
    origin = f"shipped weights, SHA-256 of PR {branches['PR'].weights_hash[:12]}"
    lines = caption_of(measured, means, args, origin) + left_out
    files = [str(path) for images in (joined.originals, *joined.methods.values()) for path in images.values()]
    known = {d: seen_images(branch, ImageList(Path(), files)) or 0 for d, branch in branches.items()}
    if any(known.values()):
        which = ", ".join(dimension for dimension, count in known.items() if count)
        lines.append(f"ICQA {which} IN-SAMPLE: {max(known.values())} of these images trained the weights.")
    remarks = measured.skipped + warnings_of(measured, args.crop)

    for table in tables:
        if table.title == _PAIRED and len(table.cells) > _MOST_ROWS:
            where = f"see {args.output / 'paper_differences.csv'}" if args.output else "--output writes them"
            print(f"\n{table.title}\n{amount(differences.groupby(['first', 'second']).ngroups, 'pair')} of methods: {where}")
            continue
        print(f"\n{table.title}\n{as_text(table.cells)}")
    print("\n" + "\n".join(lines + remarks))
    for name, reason in list(measured.failed.items())[:_SHOWN]:
        print(f"  {name}: {reason}")
    if len(measured.failed) > _SHOWN:
        print(f"  and {len(measured.failed) - _SHOWN} more")
    if args.output is not None:
        write_files(args.output, measured, means, differences, tables, lines, remarks)
        print(f"\n{args.output}: paper_table.csv, paper_differences.csv, paper_images.csv, paper_table.md, paper_table.tex")
    if measured.failed:
        print(f"{amount(len(measured.failed), 'original')} of {len(names)} left out, see above", file=sys.stderr)
    return 1 if measured.failed else 0


def _without_bars(cell: str) -> str:
    """A cell of Markdown, in which a bar would end it."""
    return cell.replace("|", r"\|")


def as_documents(
    heading: str, command: str, tables: Sequence[Table], caption: Sequence[str], remarks: Sequence[str] = ()
) -> tuple[str, str]:
    """Return tables with their caption as Markdown and as LaTeX, where remarks are comments."""
    caption = [*caption, "Bold: the best mean of a column, told apart from the others or not."]
    markdown = f"# {heading}\n\n```\n{command}\n```\n"
    for table in tables:
        cells = table.marked("**{}**").map(_without_bars).rename(columns=_without_bars)
        markdown += f"\n## {table.title}\n\n{as_markdown(cells)}"
    markdown += "\n" + "".join(f"- {line}\n" for line in [*caption, *remarks])
    latex = f"% {command}\n% needs the package booktabs\n" + "".join(f"% {line}\n" for line in remarks)
    latex += "\n".join(as_latex_table(table, " ".join(caption) if n == 0 else table.title) for n, table in enumerate(tables))
    return markdown, latex


def write_files(
    folder: Path,
    measured: Measured,
    means: pd.DataFrame,
    differences: pd.DataFrame,
    tables: Sequence[Table],
    caption: Sequence[str],
    remarks: Sequence[str],
) -> None:
    """Write the numbers as CSV, and the tables with their caption as Markdown and LaTeX, where remarks are comments."""
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    remarks = [*remarks, *(f"{name}: {reason}" for name, reason in measured.failed.items())]
    markdown, latex = as_documents("Colorizations beside their originals", command, tables, caption, remarks)
    numbers = {"paper_table.csv": means, "paper_differences.csv": differences, "paper_images.csv": measured.frame}
    texts = {name: frame.to_csv(index=False, float_format="%.6f", lineterminator="\n") for name, frame in numbers.items()}
    for name, text in {**texts, "paper_table.md": markdown, "paper_table.tex": latex}.items():
        write_atomic(folder / name, text)

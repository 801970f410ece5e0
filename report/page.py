"""A score file as one HTML page to look at: leaderboard, distributions, every picture with its scores and what looks wrong.

The page is self-contained: thumbnails are in it, its script is a few lines of our own, and its content security policy forbids
to load anything. :func:`report_scores` makes it of a file of infer_PR.py, :func:`report_evaluation` of the pictures that
evaluate.py compares with people; both end in :func:`write_report`. The same input gives the same page, byte for byte.
"""

import base64
import hashlib
import io
import itertools
import json
import math
import platform
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch
from PIL import Image

from evaluation.agreement import MIN_SCENES, Resamples, agreement, logistic_fit
from inference.maps import (
    LEVEL,
    OBJECT_LEVEL,
    REGION_SHARE,
    Finding,
    find,
    heat,
    heat_colors,
    in_percent,
    scale_colors,
    scale_positions,
    short_reason,
    swatch,
)
from inference.scorer import worker_count
from models import load_model
from models.base import ScoreNet
from models.color_prior import ColorPriorNet
from utils.choices import METHOD_BIAS, PERCENTILES
from utils.files import write_atomic
from utils.images import ImageReadError, is_gray, read_rgb
from utils.labels import LabelError, ObjectLabels
from utils.scenes import ALL, INDEX_FILES, method_and_scene, read_index
from utils.scores import VERSION, read_scores

DIMENSIONS = ("PR", "CF", "SCC")  # the order of the page: what is judged, then what it was computed from

_NO_METHOD = "(no method)"
_TEMPLATE = "report.html.jinja"
_SIDES = ((300, 320), (1000, 224), (math.inf, 160))  # most pictures, and the long side of their thumbnails in pixels
_QUALITY = 70  # of JPEG
_MAPS_ALL = 300  # up to so many pictures all get a surprise map,
_MAPS_WORST = 100  # of more only so many, those with the lowest PR
_HEAT_LEVELS = 16  # of the overlay, for a small file
_NAMED = 3  # objects of a picture that are said to look wrong; the table below has all
_NORMAL_95 = 1.959963984540054  # half-width of a 95 % interval in standard deviations
_MATRIX_METHODS = 30  # a larger matrix of differences cannot be read
_SHOWN = 6  # best and worst pictures of each score
_RESAMPLES, _SEED = 2000, 0
_CURVE_POINTS = 120
_MOST_WORKERS = 4  # pictures read at a time, for the sake of memory
_PACKAGES = ("torch", "timm", "numpy", "pandas", "scipy", "pillow", "jinja2")


@dataclass(frozen=True)
class Origin:
    """How the scores of one dimension were made, as far as the file beside them says.

    Attributes:
        weights: SHA-256 of all files the scores depend on, by what they are.
        preprocessing: What happened to the pictures.
        sample: What the pictures were to the weights, one of ``utils.scores.SAMPLES``.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    sample: str = "unknown"


# --- what the two scripts call


def report_scores(
    csv_path: str | Path, report_path: str | Path, command: str = "", *, mos: pd.DataFrame | None = None, **shown: Any
) -> Path:
    """Report of a score file of infer_PR.py (one of infer_CF.py or infer_SCC.py works as well).

    Args:
        csv_path: The score file; the file beside it says where the pictures are.
        report_path: The HTML file to write.
        command: What made the scores, for the footer.
        mos: MOS table with image, scene, method, CF, SCC, PR, if there are ratings.
        shown: ``scc``, ``maps``, ``labels``, ``index`` and ``date`` of :func:`write_report`.

    Returns:
        ``report_path``.

    Raises:
        FileNotFoundError: If there is no such score file, or none of the pictures is there.
        ValueError: If the score file cannot be read, or does not say where the pictures are.
    """
    frame = read_scores(csv_path)
    meta = frame.attrs["meta"]
    if "root" not in meta:
        raise ValueError(f"{csv_path} has no file {Path(csv_path).name}.json beside it that says where the pictures are")
    main = meta["dimension"]
    origins = {
        dimension: origin_of(meta, dimension, main) for dimension in DIMENSIONS if dimension in frame and meta.get("weights")
    }
    return write_report(
        report_path,
        frame,
        root=meta["root"],
        mos=mos,
        title=Path(meta["root"]).name,
        origins=origins,
        command=command,
        **shown,
    )


def origin_of(meta: Mapping[str, Any], dimension: str, main: str) -> Origin:
    """How one column of a score file was made.

    Args:
        meta: The sidecar.
        dimension: The column.
        main: The dimension the file is of; its other columns are sub-scores.
    """
    weights = meta["weights"]
    if dimension != main:  # from weights of its own, or from another file
        weights = {key: value for key, value in weights.items() if key in (dimension, f"{dimension} file")}
    return Origin(weights, meta.get("preprocessing", {}), meta.get("sample", "unknown"))


def report_evaluation(
    rows: pd.DataFrame,
    report_path: str | Path,
    *,
    root: str | Path,
    title: str = "",
    metas: Mapping[str, Mapping[str, Any]] | None = None,
    errors: Mapping[str, str] | None = None,
    **shown: Any,
) -> Path:
    """Report of predictions beside the ratings of people.

    Args:
        rows: Columns image, scene, method, dimension, mos and prediction (NaN where there is none): one row for each
            picture and dimension, as evaluate.py joins them.
        report_path: The HTML file to write.
        root: Folder that ``image`` is relative to.
        title: Name of the data set.
        metas: Sidecars of the score files by dimension, if there are.
        errors: Why a picture has no score, by picture.
        shown: ``notes``, ``command``, ``scc``, ``maps``, ``labels``, ``index`` and ``date`` of :func:`write_report`.

    Returns:
        ``report_path``.

    Raises:
        FileNotFoundError: If none of the pictures is there.
        ValueError: If a picture has two rows for one dimension.
    """
    keys = ["image", "dimension"]
    if rows.duplicated(keys).any():
        twice = rows[rows.duplicated(keys)].iloc[0]
        raise ValueError(f"{twice['image']} has two rows for {twice['dimension']}; expected one a picture and dimension")
    frame = rows.drop_duplicates("image")[["image", "scene", "method"]].set_index("image")
    for dimension, part in rows.groupby("dimension", sort=False):
        part = part.set_index("image")
        frame[dimension], frame[f"mos_{dimension}"] = part["prediction"], part["mos"]
    frame = frame.reset_index()
    frame["error"] = [(errors or {}).get(image, "") for image in frame["image"]]
    origins = {}
    for dimension, meta in (metas or {}).items():
        if meta.get("weights"):
            origins[dimension] = origin_of(meta, dimension, meta.get("dimension", dimension))
    return write_report(report_path, frame, root=root, title=title, origins=origins, **shown)


def write_report(
    path: str | Path,
    frame: pd.DataFrame,
    *,
    root: str | Path,
    mos: pd.DataFrame | None = None,
    title: str = "",
    origins: Mapping[str, Origin] | None = None,
    notes: Sequence[str] = (),
    command: str = "",
    scc: ScoreNet | None = None,
    maps: int | None = None,
    labels: ObjectLabels | None = None,
    index: str | Path | None = None,
    date: str = "",
    percentiles: str | Path = PERCENTILES,
) -> Path:
    """Write the page.

    Args:
        path: The HTML file.
        frame: One row a picture: ``image``, one or more of PR, CF and SCC (NaN where there is no score) and ``error``; and,
            if known, ``gray``, ``scene``, ``method`` and ratings ``mos_PR``, ``mos_CF``, ``mos_SCC``.
        root: Folder that ``image`` is relative to.
        mos: MOS table, joined by ``image``; its scenes and methods go before all others.
        title: What was scored.
        origins: How the scores were made, by dimension.
        notes: What is to be said before all else, such as that the scores are in-sample.
        command: What made the scores, for the footer.
        scc: The network for surprise maps; the shipped one if None.
        maps: How many pictures get a surprise map, those with the lowest scores; 0 for none. If None, all of up to 300
            pictures, else 100.
        labels: Where objects are, to compare their colors with what is expected and to name those that look wrong.
        index: Table with the columns image, scene and method, in place of what names say; None for ``index.csv`` in ``root``,
            if there is one.
        date: For the footer. It is not looked up, so that the same input gives the same page.
        percentiles: What docs/make_percentiles.py wrote.

    Returns:
        ``path``.

    Raises:
        FileNotFoundError: If none of the pictures is there.
        ValueError: If a column is missing, there is no row, or a picture has two.
    """
    dimensions = [dimension for dimension in DIMENSIONS if dimension in frame]
    if not dimensions or not {"image", "error"} <= set(frame):
        raise ValueError(f"expected columns image, error and scores out of PR, CF, SCC, got {', '.join(frame)}")
    if frame.empty:
        raise ValueError("expected at least one picture, got a table without rows")
    if frame["image"].duplicated().any():
        raise ValueError(f"{frame['image'][frame['image'].duplicated()].iloc[0]} has two rows, expected one a picture")
    frame, grouping = grouped(frame, mos, index, root)
    frame["error"] = [error.replace(f"{root}/", "") for error in frame["error"]]  # where the pictures lay is not for all
    origins = dict(origins or {})
    reference, why_not = read_percentiles(percentiles, origins, dimensions)

    chosen, scc, map_note = choose_maps(frame, dimensions, scc, maps, labels is not None)
    side = next(side for most, side in _SIDES if len(frame) <= most)
    looks = look_at(frame["image"].tolist(), Path(root), side, chosen, scc, labels)
    folder = common_folder(frame["image"].tolist())
    pictures = [
        describe(number, row, looks[row["image"]], dimensions, reference) | {"name": _text(row["image"][len(folder) :])}
        for number, row in enumerate(frame.to_dict("records"))
    ]
    unseen = [picture for picture in pictures if not picture["thumbnail"] and not picture["error"]]
    all_notes = [*notes, *sample_notes(origins), grouping, why_not or reference_note(reference), map_note]
    if unseen:
        all_notes.append(f"{len(unseen)} pictures have scores but cannot be shown: {unseen[0]['unreadable']}, for one.")

    scored = frame[frame["error"] == ""]
    biases = read_biases()
    board = leaderboard(scored, dimensions, biases)
    pairs = compared_pairs(board, dimensions[0])
    context = {
        "title": _text(title),
        "dimensions": dimensions,
        "pictures": pictures,
        "methods": sorted(set(frame["method"])),
        "scenes": [scene for scene, size in sorted(frame["scene"].value_counts().items()) if size > 1],
        "board": board,
        "matrices": [matrix(board, dimension) for dimension in dimensions]
        if pairs["compared"] and len(board) <= _MATRIX_METHODS
        else [],
        "pairs": pairs,
        "distributions": [distribution(scored, board, dimension) for dimension in dimensions],
        "scatters": [plot for dimension in dimensions if (plot := scatter(scored, dimension))],
        "extremes": extremes(pictures, dimensions),
        "rated": [dimension for dimension in dimensions if f"mos_{dimension}" in frame],
        "has_maps": bool(chosen),
        "percentile_of": _percentile_of(scc) if labels is not None and scc is not None else "",
        "scale": {"colors": [_hex(color) for color in scale_colors(33)], "ticks": scale_positions()},
        "has_percentiles": bool(reference),
        "errors": sum(bool(picture["error"]) for picture in pictures),
        "notes": [_text(note) for note in all_notes if note],
        "min_scenes": MIN_SCENES,
        "biases": {dimension: biases[dimension] for dimension in dimensions},
        "grouping": _text(grouping),
        "nameless": set(frame["method"]) <= {ALL, _NO_METHOD},
        "resamples": _RESAMPLES,
        "command": _text(command),
        "date": _text(date),
        "origins": origins,
        "preprocessing": list(
            dict.fromkeys("; ".join(f"{k} {v}" for k, v in o.preprocessing.items()) for o in origins.values())
        ),
        "versions": {"ICQA": VERSION["project"], "Python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
    }
    write_atomic(path, render(context))
    return Path(path)


def render(context: Mapping[str, Any]) -> str:
    """The page; its script is named by hash in the content security policy, so that no other runs."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": signed, "percent": lambda score: f"{(score + 1) * 50:.1f}%"}
    page = environment.get_template(_TEMPLATE).render(context, script_hash="SCRIPT_HASH")
    script = page.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.replace("SCRIPT_HASH", f"sha256-{digest}", 1)


def signed(score: float) -> str:
    """A score as the page shows it, with its sign; a dash for none."""
    return f"{score:+.2f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(score) else "\N{EN DASH}"


def _text(value: object) -> str:
    """Text that UTF-8 can hold: Python reads file names of other bytes as lone surrogates."""
    return str(value).encode("utf-8", "replace").decode()


# --- methods and scenes


def grouped(
    frame: pd.DataFrame, mos: pd.DataFrame | None, index: str | Path | None = None, root: str | Path | None = None
) -> tuple[pd.DataFrame, str]:
    """Rows with ``scene``, ``method`` and ratings, sorted by image, and how scene and method became known.

    An index file goes before all else, then the ratings, an index file in the folder of the pictures, and their names.
    """
    frame = frame.sort_values("image", ignore_index=True)
    if mos is not None:
        known = mos.set_index("image")
        absent = ~frame["image"].isin(known.index)
        if absent.any():
            raise ValueError(
                f"{absent.sum()} of {len(frame)} pictures are not in the MOS table, e.g. {frame['image'][absent].iloc[0]}"
            )
        rows = known.loc[frame["image"]].reset_index()
        frame["scene"], frame["method"] = rows["scene"], rows["method"]
        for dimension in DIMENSIONS:
            if dimension in frame and dimension in rows and rows[dimension].notna().any():
                frame[f"mos_{dimension}"] = rows[dimension]
    names, problem = frame["image"].tolist(), ""
    beside = next((Path(root) / name for name in INDEX_FILES if (Path(root) / name).is_file()), None) if root else None
    if index is None and beside is not None and not {"scene", "method"} <= set(frame):
        try:
            read_index(beside, names)
            index = beside
        except (ValueError, OSError) as error:
            problem = f" {beside.name} is not used: {str(error).replace(f'{root}/', '')}."
    if index is not None:
        frame["scene"], frame["method"] = read_index(index, names)
        note = f"Methods and scenes are those of {Path(index).name}."
    elif {"scene", "method"} <= set(frame):
        note = ""
    else:
        frame["method"], frame["scene"], note = method_and_scene(names)
        note += problem
    frame["method"] = [_text(method) or _NO_METHOD for method in frame["method"]]
    frame["scene"] = [_text(scene) for scene in frame["scene"]]
    return frame, note


def common_folder(names: Sequence[str]) -> str:
    """The folder that all names begin with, with its slash; empty if there is none."""
    start = posixpath.commonprefix(names)
    return start[: start.rfind("/") + 1]


# --- percentiles among photographs


def read_percentiles(path: str | Path, origins: Mapping[str, Origin], dimensions: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Percentiles of the scores of photographs, if they are of the same weights.

    Returns:
        What docs/make_percentiles.py wrote and an empty text; or nothing, and why.
    """
    omitted = "Percentiles among real photos are left out: "
    if not Path(path).is_file():
        return {}, omitted + "there is no weights/percentiles.json; docs/make_percentiles.py writes it."
    reference = json.loads(Path(path).read_text(encoding="utf-8"))
    for dimension in dimensions:
        origin = origins.get(dimension, Origin())
        if not origin.weights:
            return {}, omitted + f"it is not known which weights gave the {dimension}."
        if dict(origin.weights) != reference["weights"][dimension]:
            return (
                {},
                omitted + f"they are known for the shipped weights, and the {dimension} is of other ones or of a score file.",
            )
        if dict(origin.preprocessing) != reference["preprocessing"]:
            return {}, omitted + f"they are known for the usual reading of pictures, and the {dimension} is of another one."
    return reference, ""


def reference_note(reference: Mapping[str, Any]) -> str:
    return f"Percentiles are those among {reference['count']:,} real photos: {reference['photos']}"


def percentile(score: float, values: Sequence[float], levels: Sequence[int]) -> str:
    """Which share of the photographs scores lower, in percent."""
    if not math.isfinite(score):
        return ""
    if score < values[0]:
        return f"<{levels[0]}"
    return f">{levels[-1]}" if score > values[-1] else f"{np.interp(score, values, levels):.0f}"


# --- pictures


@dataclass(frozen=True)
class Look:
    """What is shown of a picture.

    Attributes:
        thumbnail: Data URI; empty if the picture cannot be read.
        width: Of the thumbnail, in pixels.
        height: Of the thumbnail, in pixels.
        heat: Data URI of the overlay; empty without a map.
        surprise: Mean percentile of surprise; NaN without a map.
        region: The most surprising region; None if there is none.
        objects: What was found of each labeled object, the most unusual first.
        label_error: Why its label file cannot be read.
        gray: Whether the picture has no color.
        unreadable: Why there is no thumbnail.
    """

    thumbnail: str = ""
    width: int = 4
    height: int = 3
    heat: str = ""
    surprise: float = math.nan
    region: Finding | None = None
    objects: tuple[Finding, ...] = ()
    label_error: str = ""
    gray: bool = False
    unreadable: str = ""


def choose_maps(
    frame: pd.DataFrame, dimensions: Sequence[str], scc: ScoreNet | None, maps: int | None, named: bool = False
) -> tuple[set[str], ColorPriorNet | None, str]:
    """Which pictures get a surprise map, by which network, and what is to be said of it."""
    if maps == 0:
        return set(), None, ""
    scc = load_model("SCC") if scc is None else scc
    if not isinstance(scc, ColorPriorNet):
        return set(), None, "No surprise maps: the published SCC network has no color prior for each place."
    main = dimensions[0]
    worst = frame[frame["error"] == ""].sort_values([main, "image"])["image"]
    most = maps if maps is not None else len(frame) if len(frame) <= _MAPS_ALL else _MAPS_WORST
    chosen = set(worst[:most])
    count = "All scored pictures" if len(chosen) == len(worst) else f"The {len(chosen)} pictures with the lowest {main}"
    note = (
        f"{count} have a surprise map (point at a picture or tap it): how much more improbable its colors are than is to be "
        f"expected for what the gray version shows there, by the color prior of the SCC weights {scc.weights_hash[:12]}, as a "
        "percentile among the places in real photos. A frame is around the most surprising region: connected places above the "
        f"{LEVEL:g}th percentile that fill {100 * REGION_SHARE:g} % of the picture or more. It is not an object and has no "
        f"name, and it need not be wrong: {_share_of_photos(scc)} have one too. A gray patch is seldom surprising."
    )
    if named:
        note += _objects_note(scc)
    return chosen, scc, note


def _knows_categories(scc: ColorPriorNet) -> bool:
    return getattr(scc, "object_prior", None) is not None


def _objects_note(scc: ColorPriorNet) -> str:
    """What is to be said of the objects of label files."""
    if _knows_categories(scc):
        where = "with the colors that real objects of the category have at that lightness"
        which = "Those with a measure of color that is rare among these are named as looking wrong, with the measure"
    else:
        where = "with the most plausible colors of the place"
        which = f"Those whose places have a mean percentile of {OBJECT_LEVEL:g} or more are named as looking wrong"
    return (
        f" Objects of the label files of these pictures are compared {where}. {which}; some real ones are named too. Of an "
        "object that has a box and no outline, the ellipse in the box is taken, with what shows of the background."
    )


def _percentile_of(scc: ColorPriorNet) -> str:
    """What the percentile of an object is the share of."""
    if _knows_categories(scc):
        return "the share of real objects of the category that are closer to its expected colors"
    return "the share of the places in real photos that are less surprising, mean over its places"


def _share_of_photos(scc: ColorPriorNet) -> str:
    """How many photographs have a surprising region, in words."""
    reference = json.loads(PERCENTILES.read_text(encoding="utf-8")) if PERCENTILES.is_file() else {}
    if reference.get("weights", {}).get("SCC") != {"SCC": scc.weights_hash}:
        return "some real photos"
    return f"{reference['surprising']:.0%} of real photos".replace("%", " %")


def look_at(
    names: Sequence[str],
    root: Path,
    side: int,
    chosen: set[str],
    scc: ColorPriorNet | None,
    labels: ObjectLabels | None = None,
) -> dict[str, Look]:
    """Read each picture once, for its thumbnail and its surprise map.

    Raises:
        FileNotFoundError: If none of them can be read, and some because they are not there.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def look(name: str) -> Look:
        torch.set_num_threads(1)  # OpenMP keeps this for each thread
        try:
            pixels = read_rgb(root / name)
        except (ImageReadError, ValueError, OSError) as error:
            return Look(unreadable=_text(error).replace(_text(f"{root}/"), ""))
        small = Image.fromarray(pixels)
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
        file = io.BytesIO()
        small.save(file, "JPEG", quality=_QUALITY, optimize=True)
        shown = Look(_data_uri("jpeg", file.getvalue()), *small.size, gray=is_gray(pixels))
        if scc is None or name not in chosen:
            return shown
        objects, label_error = (), ""
        if labels is not None:
            try:
                objects = labels.objects(name)
            except LabelError as error:
                label_error = _text(error)
        found = find(scc, pixels, objects)
        mean = float(found.surprise.percentile.mean())
        overlay = heat_overlay(found.surprise.percentile)
        return replace(
            shown, heat=overlay, surprise=mean, region=found.region, objects=found.ranked_objects, label_error=label_error
        )

    try:
        with ThreadPoolExecutor(min(worker_count(["cpu"]), _MOST_WORKERS)) as pool:
            looks = dict(zip(names, pool.map(look, names), strict=True))
    finally:
        torch.set_num_threads(threads)
    if not any(shown.thumbnail for shown in looks.values()) and not any((root / name).exists() for name in names):
        raise FileNotFoundError(
            f"none of the {len(names)} pictures is in {root}, e.g. {names[0]}; if they have been moved, say where to: "
            "--root of evaluate.py, or the folder for infer_PR.py to score again"
        )
    return looks


def wrong_objects(objects: Sequence[Finding]) -> str:
    """The objects with unusual colors in words, the most unusual first; empty if there are none."""
    unusual = [f"{finding.what} ({short_reason(finding).partition(';')[0]})" for finding in objects if finding.unusual]
    more = f"; {len(unusual) - _NAMED} more" if len(unusual) > _NAMED else ""
    return "; ".join(unusual[:_NAMED]) + more


def heat_overlay(percentile: np.ndarray) -> str:
    """The map as a picture to lay over the thumbnail, clear where there is no heat; a data URI.

    Args:
        percentile: Of the surprise of each place, shape (h, w).
    """
    levels = np.rint(heat(percentile) * (_HEAT_LEVELS - 1)).astype(np.uint8)
    colors = np.rint(heat_colors(np.linspace(0, 1, _HEAT_LEVELS)) * 255).astype(np.uint8)
    image = Image.fromarray(levels, "P")
    image.putpalette(colors[:, :3].tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", transparency=colors[:, 3].tobytes(), optimize=True, bits=4)
    return _data_uri("png", file.getvalue())


def _hex(color: Sequence[float]) -> str:
    """A color for CSS, of sRGB in [0, 1]."""
    return "#" + "".join(f"{round(255 * float(x)):02x}" for x in color)


def _finding(finding: Finding) -> dict[str, Any]:
    """An object or region as the page shows it."""
    observed, expected = finding.observed, finding.expected
    has, lacks = (
        "" if observed is None or ab is None else "#" + bytes(swatch(observed[0], ab)).hex()
        for ab in (observed and observed[1:], expected)
    )
    known = math.isfinite(finding.percentile)
    return {
        "what": finding.what,
        "has": has,
        "expected": lacks,
        "percent": in_percent(finding.percentile) if known else "",
        "why": short_reason(finding) if finding.reason else "",
    }


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def describe(
    number: int, row: Mapping[str, Any], look: Look, dimensions: Sequence[str], reference: Mapping[str, Any]
) -> dict[str, Any]:
    """A picture as the page shows it."""
    scores = []
    for dimension in dimensions:
        value = float(row[dimension])
        scores.append(
            {
                "dimension": dimension,
                "value": value,
                "known": math.isfinite(value),
                "percentile": percentile(value, reference[dimension], reference["levels"]) if reference else "",
                "mos": float(row.get(f"mos_{dimension}", math.nan)),
            }
        )
    return {
        "number": number,
        "image": _text(row["image"]),
        "method": row["method"],
        "scene": row["scene"],
        "gray": bool(row.get("gray", look.gray)),
        "error": _text(row["error"]) or ("" if any(s["known"] for s in scores) else "no score"),
        "scores": scores,
        "thumbnail": look.thumbnail,
        "width": look.width,
        "height": look.height,
        "fit": min(100.0, 75 * look.width / look.height),  # share of the width of a 4:3 frame
        "heat": look.heat,
        "frame": look.region and [round(100 * share, 1) for share in look.region.box],
        "region": look.region and _finding(look.region),
        "surprise": look.surprise,
        "objects": [_finding(finding) for finding in look.objects],
        "wrong": wrong_objects(look.objects),
        "label_error": look.label_error,
        "unreadable": look.unreadable,
    }


def extremes(pictures: Sequence[dict[str, Any]], dimensions: Sequence[str]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Best and worst pictures of each score, and those people judge most differently: heading, explanation, pictures."""
    groups = []
    for i, dimension in enumerate(dimensions):
        ranked = sorted((p for p in pictures if p["scores"][i]["known"]), key=lambda p: (-p["scores"][i]["value"], p["image"]))
        if len(ranked) < 2:
            continue
        shown = min(_SHOWN, len(ranked) // 2)
        groups.append((f"Highest {dimension}", "", ranked[:shown]))
        groups.append((f"Lowest {dimension}", "lowest first", ranked[::-1][:shown]))
    for i, dimension in enumerate(dimensions):
        rated = [p for p in pictures if p["scores"][i]["known"] and math.isfinite(p["scores"][i]["mos"])]
        if len(rated) < 2:
            continue
        pred, mos = (np.array([p["scores"][i][key] for p in rated]) for key in ("value", "mos"))
        gaps = np.abs(logistic_fit(pred, mos)[0] - mos)
        furthest = sorted(zip(gaps, rated, strict=True), key=lambda pair: (-pair[0], pair[1]["image"]))[:_SHOWN]
        groups.append(
            (f"{dimension} furthest from people", "distance of the MOS from the fitted curve", [p for _, p in furthest])
        )
    return groups


def sample_notes(origins: Mapping[str, Origin]) -> list[str]:
    return [
        f"{dimension} IS IN-SAMPLE: its weights were trained on pictures that are scored here."
        for dimension, origin in origins.items()
        if origin.sample == "in-sample"
    ]


# --- methods against each other


def read_biases(path: str | Path = METHOD_BIAS) -> dict[str, Any]:
    """Read what scores have for or against a method, whatever the scene, as docs/power.py estimates it on rated pictures.

    Returns:
        By dimension ``sd``, the standard deviation of the bias of a pair of methods, in the unit of the scores, with ``low``
        and ``high``, and the number of ``methods`` and ``scenes``.
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def leaderboard(
    scored: pd.DataFrame, dimensions: Sequence[str], biases: Mapping[str, Mapping[str, float]] | None = None
) -> list[dict[str, Any]]:
    """Methods from the best to the worst by the first dimension.

    Args:
        scored: Pictures with scores.
        dimensions: Columns of ``scored``.
        biases: Of :func:`read_biases`: a random effect of each pair of methods, which more scenes do not average out. None for
            the shipped ones.

    Returns:
        For each: ``method``, ``pictures``, ``scenes``, and by dimension ``mean``, ``low`` and ``high`` (95 % interval of a
        bootstrap t over scenes; NaN with few scenes) and ``against``: by other method the mean difference over the scenes that
        both have, its interval, which counts the bias as well, and the verdict 1 (better), -1 (worse), 0 (not told apart) or
        None (too few scenes).
    """
    methods = sorted(set(scored["method"]))
    counts = scored.groupby("method").agg(pictures=("image", "size"), scenes=("scene", "nunique"))
    board = {m: {"method": m, "pictures": counts.loc[m, "pictures"], "scenes": counts.loc[m, "scenes"]} for m in methods}
    biases = read_biases() if biases is None else biases
    for dimension in dimensions:
        own_bias = _NORMAL_95 * biases.get(dimension, {}).get("sd", 0.0)
        known = scored[scored[dimension].notna()]
        groups = known.groupby(["scene", "method"])[dimension]
        sums, sizes = (table.reindex(columns=methods) for table in (groups.sum().unstack(), groups.size().unstack()))
        means = (sums / sizes).to_numpy()  # scenes x methods, NaN where there is no picture
        for i, method in enumerate(methods):
            has = np.isfinite(means[:, i])
            own_sums, own_sizes = sums.to_numpy()[has, i], sizes.to_numpy()[has, i]
            low, high = _interval(own_sums, own_sizes)
            mean = own_sums.sum() / own_sizes.sum() if has.any() else math.nan
            board[method][dimension] = {"mean": mean, "low": low, "high": high, "against": {}}
        for i, j in itertools.combinations(range(len(methods)), 2):
            differences = means[:, i] - means[:, j]
            differences = differences[np.isfinite(differences)]
            low, high = _interval(differences, np.ones_like(differences))
            mean = float(differences.mean()) if len(differences) else math.nan
            low, high = mean - math.hypot(mean - low, own_bias), mean + math.hypot(high - mean, own_bias)
            verdict = None if math.isnan(low) else int(low > 0) - int(high < 0)
            for a, b, sign in ((i, j, 1), (j, i, -1)):
                board[methods[a]][dimension]["against"][methods[b]] = {
                    "mean": sign * mean,
                    "low": low if sign > 0 else -high,
                    "high": high if sign > 0 else -low,
                    "scenes": len(differences),
                    "verdict": None if verdict is None else sign * verdict,
                }
        for entry in board.values():
            verdicts = [other["verdict"] for other in entry[dimension]["against"].values()]
            entry[dimension] |= {
                "better": verdicts.count(1),
                "worse": verdicts.count(-1),
                "compared": sum(verdict is not None for verdict in verdicts),
            }
    main = dimensions[0]
    return sorted(board.values(), key=lambda e: (not math.isfinite(e[main]["mean"]), -e[main]["mean"], e["method"]))


def _interval(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean over scenes, from the sum and number of pictures of each scene, shape (K,)."""
    if len(sums) < MIN_SCENES:
        return math.nan, math.nan
    draws = _draws(len(sums))
    return draws.interval(sums.sum() / sizes.sum(), (draws.counts @ sums) / (draws.counts @ sizes))[:2]


@lru_cache(maxsize=4)
def _draws(scenes: int) -> Resamples:
    return Resamples(scenes, _RESAMPLES, _SEED)


def matrix(board: Sequence[dict[str, Any]], dimension: str) -> dict[str, Any]:
    """Every method against every other, in the order of the leaderboard."""
    names = [entry["method"] for entry in board]
    rows = [(entry["method"], [entry[dimension]["against"].get(name) for name in names]) for entry in board]
    return {"dimension": dimension, "methods": names, "rows": rows}


def compared_pairs(board: Sequence[dict[str, Any]], dimension: str) -> dict[str, int]:
    """How many pairs of methods were compared, and told apart."""
    verdicts = [entry[dimension] for entry in board]
    return {
        "all": len(board) * (len(board) - 1) // 2,
        "compared": sum(entry["compared"] for entry in verdicts) // 2,
        "apart": sum(entry["better"] for entry in verdicts),
    }


# --- charts: geometry only, the template draws


def distribution(scored: pd.DataFrame, board: Sequence[dict[str, Any]], dimension: str) -> dict[str, Any]:
    """Quartiles, whiskers and single scores of each method, on an axis of 0 to 100 that all methods share."""
    values = scored[dimension].dropna()
    low, high = (math.floor(values.min() * 10) / 10, math.ceil(values.max() * 10) / 10) if len(values) else (-1.0, 1.0)
    high = max(high, low + 0.1)
    rows = []
    for entry in board:
        own = np.sort(values[scored["method"] == entry["method"]].to_numpy())
        if len(own):
            place = [round(float(x), 1) for x in (np.percentile(own, (5, 25, 50, 75, 95)) - low) / (high - low) * 100]
            ticks = dict.fromkeys(f"{x:.1f}" for x in (own - low) / (high - low) * 100)
            rows.append({"method": entry["method"], "median": float(np.median(own)), "place": place, "ticks": list(ticks)})
    zero = -low / (high - low) * 100
    return {"dimension": dimension, "low": low, "high": high, "zero": zero if 0 < zero < 100 else None, "rows": rows}


def scatter(scored: pd.DataFrame, dimension: str) -> dict[str, Any] | None:
    """MOS against prediction with the fitted curve, in a square of 300; None without ratings."""
    column = f"mos_{dimension}"
    if column not in scored:
        return None
    rows = scored[scored[column].notna() & scored[dimension].notna()]
    if rows.empty:
        return None
    pred, mos = rows[dimension].to_numpy(float), rows[column].to_numpy(float)
    low = math.floor(min(pred.min(), mos.min()) * 5) / 5
    high = max(math.ceil(max(pred.max(), mos.max()) * 5) / 5, low + 0.2)

    def place(values: np.ndarray) -> list[float]:
        return [round(float(x), 1) for x in (values - low) / (high - low) * 300]

    grid = np.linspace(pred.min(), pred.max(), _CURVE_POINTS)
    mapped, why_not = logistic_fit(pred, mos, grid)
    curve = [] if why_not else list(zip(place(grid), place(mapped), strict=True))
    measured = agreement(pred, mos, rows["scene"].to_numpy(str)).set_index("metric")
    step = 0.5 if high - low > 1.2 else 0.2
    steps = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return {
        "dimension": dimension,
        "count": len(rows),
        "points": list(zip(place(pred), place(mos), map(_text, rows["image"]), pred, mos, strict=True)),
        "curve": curve,
        "why_not": why_not,
        "axis": list(zip(steps.tolist(), place(steps), strict=True)),
        "measures": [
            (name, measured.loc[name, "value"], measured.loc[name, "low"], measured.loc[name, "high"])
            for name in ("SRCC", "within-scene SRCC", "PLCC logistic")
            if math.isfinite(measured.loc[name, "value"])
        ],
    }

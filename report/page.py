"""A score file as one HTML page to look at: leaderboard, distributions, every image with its scores and what looks wrong.

The page is self-contained: thumbnails are in it, its script is a few lines of our own, and its content security policy forbids
to load anything. :func:`report_scores` makes it of a file of infer_PR.py, :func:`report_evaluation` of the images that
evaluate.py compares with people; both end in :func:`write_report`. The same input gives the same page, byte for byte.
"""

import json
import math
import platform
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pandas as pd

from evaluation.agreement import logistic_fit
from inference.maps import scale_colors, scale_positions
from models.base import ScoreNet
from report.paper_table import SCORES, as_documents, tables_of
from report.statistics import RESAMPLES, differences, gray_originals, is_original, most_shared, percentile, statistics
from report.thumbnails import Thumbnail, choose_maps, finding_of, make_thumbnails, percentile_of, wrong_objects
from utils.choices import PERCENTILES, VERSION
from utils.files import write_atomic
from utils.labels import ObjectLabels
from utils.pages import render_page
from utils.scenes import ALL, INDEX_FILES, method_and_scene, read_index
from utils.scores import read_scores

DIMENSIONS = ("PR", "CF", "SCC")  # the order of the page: what is judged, then what it was computed from

_ASKS = {
    "PR": ("Perceptual Realism", "would a person take it for a photograph?"),
    "CF": ("Chromatic Fidelity", "is the color clean?"),
    "SCC": ("Semantic Color Consistency", "can a thing like this have this color?"),
}
_NO_METHOD = "(no method)"
_TEMPLATE = "report.html.jinja"
_SHOWN = 6  # best and worst images of each score
_PACKAGES = ("torch", "timm", "numpy", "pandas", "scipy", "pillow", "jinja2")


@dataclass(frozen=True)
class Origin:
    """How the scores of one dimension were made, as far as the file beside them says.

    Attributes:
        weights: SHA-256 of all files the scores depend on, by what they are.
        preprocessing: What happened to the images.
        sample: What the images were to the weights, one of ``utils.scores.SAMPLES``.
    """

    weights: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    sample: str = "unknown"


@dataclass(frozen=True)
class About:
    """What a page says beside its scores, and what it is made with.

    Attributes:
        title: What was scored.
        origins: How the scores were made, by dimension.
        notes: What is to be said before all else, such as that the scores are in-sample.
        command: What made the scores, for the footer.
        scc: The network for surprise maps; the shipped one if None.
        maps: How many images get a surprise map, those with the lowest scores; 0 for none. If None, all of up to 300 images,
            else 100.
        labels: Where objects are, to compare their colors with what is expected and to name those that look wrong.
        index: Table with the columns image, scene and method, in place of what names say; None for ``index.csv`` in the folder
            of the images, if there is one.
        date: For the footer. It is not looked up, so that the same input gives the same page.
        percentiles: What benchmarks/make_percentiles.py wrote.
    """

    title: str = ""
    origins: Mapping[str, Origin] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str = ""
    scc: ScoreNet | None = None
    maps: int | None = None
    labels: ObjectLabels | None = None
    index: str | Path | None = None
    date: str = ""
    percentiles: str | Path = PERCENTILES


# --- what the two scripts call


def report_scores(
    csv_path: str | Path, report_path: str | Path, command: str = "", *, mos: pd.DataFrame | None = None, **shown: Any
) -> Path:
    """Report of a score file of infer_PR.py (one of infer_CF.py or infer_SCC.py works as well).

    Args:
        csv_path: The score file; the file beside it says where the images are.
        report_path: The HTML file to write.
        command: What made the scores, for the footer.
        mos: MOS table with image, scene, method, CF, SCC, PR, if there are ratings.
        shown: ``scc``, ``maps``, ``labels``, ``index`` and ``date`` of :class:`About`.

    Returns:
        ``report_path``.

    Raises:
        FileNotFoundError: If there is no such score file, or none of the images is there.
        ValueError: If the score file cannot be read, or does not say where the images are.
    """
    frame = read_scores(csv_path)
    meta = frame.attrs["meta"]
    if "root" not in meta:
        raise ValueError(f"{csv_path} has no file {Path(csv_path).name}.json beside it that says where the images are")
    main = meta["dimension"]
    origins = {
        dimension: origin_of(meta, dimension, main) for dimension in DIMENSIONS if dimension in frame and meta.get("weights")
    }
    about = About(title=Path(meta["root"]).name, origins=origins, command=command, **shown)
    return write_report(report_path, frame, meta["root"], about, mos)


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
            image and dimension, as evaluate.py joins them.
        report_path: The HTML file to write.
        root: Folder that ``image`` is relative to.
        title: Name of the data set.
        metas: Sidecars of the score files by dimension, if there are.
        errors: Why an image has no score, by image.
        shown: ``notes``, ``command``, ``scc``, ``maps``, ``labels``, ``index`` and ``date`` of :class:`About`.

    Returns:
        ``report_path``.

    Raises:
        FileNotFoundError: If none of the images is there.
        ValueError: If an image has two rows for one dimension.
    """
    keys = ["image", "dimension"]
    if rows.duplicated(keys).any():
        twice = rows[rows.duplicated(keys)].iloc[0]
        raise ValueError(f"{twice['image']} has two rows for {twice['dimension']}; expected one an image and dimension")
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
    return write_report(report_path, frame, root, About(title=title, origins=origins, **shown))


def write_report(
    path: str | Path, frame: pd.DataFrame, root: str | Path, about: About | None = None, mos: pd.DataFrame | None = None
) -> Path:
    """Write the page.

    Args:
        path: The HTML file.
        frame: One row per image: ``image``, one or more of PR, CF and SCC (NaN where there is no score) and ``error``; and,
            if known, ``gray``, ``scene``, ``method`` and ratings ``mos_PR``, ``mos_CF``, ``mos_SCC``.
        root: Folder that ``image`` is relative to.
        about: What the page says beside the scores.
        mos: MOS table, joined by ``image``; its scenes and methods go before all others.

    Returns:
        ``path``. Beside it are ``difference_files``, if there is more than one method.

    Raises:
        FileNotFoundError: If none of the images is there.
        ValueError: If a column is missing, there is no row, or an image has two.
    """
    about = about or About()
    dimensions = [dimension for dimension in DIMENSIONS if dimension in frame]
    _require_table(frame, dimensions)
    frame, grouping = grouped(frame, mos, about.index, root)
    frame["error"] = [error.replace(f"{root}/", "") for error in frame["error"]]  # where the images lay is not for all
    reference, why_not = read_percentiles(about.percentiles, about.origins, dimensions)

    names = frame["image"].tolist()
    chosen, scc, map_note = choose_maps(frame, dimensions, about.scc, about.maps, about.labels is not None)
    thumbnails = make_thumbnails(names, Path(root), chosen, scc, about.labels)
    frame["gray"] = [bool(row.get("gray", thumbnails[row["image"]].gray)) for row in frame.to_dict("records")]
    frame["left_out"] = gray_originals(frame)
    folder = common_folder(names)
    images = [
        describe(number, row, thumbnails[row["image"]], dimensions, reference) | {"name": row["image"][len(folder) :]}
        for number, row in enumerate(frame.to_dict("records"))
    ]
    in_sample = sample_notes(about.origins)
    notes = [*about.notes, *in_sample, grouping, why_not or reference_note(reference), map_note]
    unseen = [image for image in images if not image["thumbnail"] and not image["error"]]
    if unseen:
        notes.append(f"{len(unseen)} images have scores but cannot be shown: {unseen[0]['unreadable']}, for one.")

    measured = statistics(frame, dimensions)
    tables = difference_tables(measured, about.command, in_sample)
    for file, text in zip(difference_files(path), tables.values(), strict=True):
        if measured["pairs"]["all"]:
            write_atomic(file, text)
        else:
            file.unlink(missing_ok=True)  # of an earlier page of this name
    context = measured | {
        "tables": tables if measured["differences"] else {},
        "in_sample": [dimension for dimension, origin in about.origins.items() if origin.sample == "in-sample"],
        "asks": _ASKS,
        "start": most_shared(measured["board"], dimensions[0]),
        "images": images,
        "extremes": extremes(images, dimensions),
        "has_maps": bool(chosen),
        "percentile_of": percentile_of(scc) if about.labels is not None and scc is not None else "",
        "scale": {"colors": [_hex(color) for color in scale_colors(33)], "ticks": scale_positions()},
        "has_percentiles": bool(reference),
        "errors": sum(bool(image["error"]) for image in images),
        "notes": [note for note in notes if note],
        "grouping": grouping,
        "nameless": set(frame["method"]) <= {ALL, _NO_METHOD},
        "about": about,
        "preprocessing": list(
            dict.fromkeys("; ".join(f"{k} {v}" for k, v in o.preprocessing.items()) for o in about.origins.values())
        ),
        "versions": {"ICQA": VERSION, "Python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
    }
    write_atomic(path, render(context))
    return Path(path)


def difference_files(path: str | Path) -> list[Path]:
    """Return where the paired differences of a page go: CSV, Markdown and LaTeX."""
    return [Path(path).with_name(f"{Path(path).stem}_differences.{suffix}") for suffix in ("csv", "md", "tex")]


def written(path: Path) -> str:
    """Return where a page is, and the tables beside it."""
    files = difference_files(path)
    tables = f"\npaired differences of methods: {', '.join(map(str, files))}" if files[0].is_file() else ""
    return f"report: {path}{tables}"


def difference_tables(measured: Mapping[str, Any], command: str, remarks: Sequence[str]) -> dict[str, str]:
    """Return the means of methods and their paired differences as text, by format.

    Args:
        measured: What :func:`report.statistics.statistics` returns.
        command: What made the scores.
        remarks: What to say beside the caption.

    Returns:
        CSV (the differences alone, with the columns first, second, measure, difference, low, high, n, better and share, same as
        those of the table of a paper), Markdown and LaTeX.
    """
    board, dimensions = measured["board"], measured["dimensions"]
    means = pd.DataFrame(
        [
            (entry["method"], SCORES[d].name, entry[d]["mean"], entry[d]["low"], entry[d]["high"])
            for entry in board
            for d in dimensions
        ],
        columns=["method", "measure", "value", "low", "high"],
    ).dropna(subset="value")
    rows = [
        (first, second, SCORES[d].name, found["mean"], found["low"], found["high"], found["scenes"],
         {1: first, -1: second}.get(found["verdict"], ""), found["share"])
        for first, second, by_dimension in differences(board, dimensions)
        for d, found in by_dimension.items()
        if found["scenes"]
    ]  # fmt: skip
    columns = ["first", "second", "measure", "difference", "low", "high", "n", "better", "share"]
    paired = pd.DataFrame(rows, columns=columns)
    caption = [
        f"ICQA scores of images, in [-1, 1], means over {sum(int(entry['images']) for entry in board)} images.",
        f"In brackets: 95 % interval of a bootstrap t over scenes, {RESAMPLES} draws, not corrected for the number of "
        "comparisons. Those of differences count what the scores have for or against a method whatever the scene "
        "(weights/method_bias.json), which more scenes do not average out.",
    ]
    if measured["gray_originals"]:
        caption.append(f"{measured['gray_originals']} gray originals are left out.")
    markdown, latex = as_documents("Methods by the scores of ICQA", command, tables_of(means, paired), [*caption, *remarks])
    csv = paired.to_csv(index=False, float_format="%.6f", lineterminator="\n")
    texts = {"CSV": csv, "Markdown": markdown, "LaTeX": latex}
    return {form: text.encode("utf-8", "replace").decode() for form, text in texts.items()}


def _require_table(frame: pd.DataFrame, dimensions: Sequence[str]) -> None:
    if not dimensions or not {"image", "error"} <= set(frame):
        raise ValueError(f"expected columns image, error and scores out of PR, CF, SCC, got {', '.join(frame)}")
    if frame.empty:
        raise ValueError("expected at least one image, got a table without rows")
    if frame["image"].duplicated().any():
        raise ValueError(f"{frame['image'][frame['image'].duplicated()].iloc[0]} has two rows, expected one an image")


def render(context: Mapping[str, Any]) -> str:
    """The page; its script is named by hash in the content security policy, so that no other runs."""
    filters = {"signed": signed, "address": address, "percent": lambda score: f"{(score + 1) * 50:.1f}%"}
    return render_page(Path(__file__).with_name(_TEMPLATE), context, filters)


def address(parts: Mapping[str, str]) -> str:
    """What follows # in a link to a place on the page."""
    return urlencode(parts, quote_via=quote, errors="replace")


def signed(score: float) -> str:
    """A score as the page shows it, with its sign; a dash for none."""
    return f"{score:+.2f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(score) else "\N{EN DASH}"


# --- methods and scenes


def grouped(
    frame: pd.DataFrame, mos: pd.DataFrame | None, index: str | Path | None = None, root: str | Path | None = None
) -> tuple[pd.DataFrame, str]:
    """Rows with ``scene``, ``method`` and ratings, sorted by image, and how scene and method became known.

    An index file goes before all else, then the ratings, an index file in the folder of the images, and their names.
    """
    frame = frame.sort_values("image", ignore_index=True)
    if mos is not None:
        known = mos.set_index("image")
        absent = ~frame["image"].isin(known.index)
        if absent.any():
            raise ValueError(
                f"{absent.sum()} of {len(frame)} images are not in the MOS table, e.g. {frame['image'][absent].iloc[0]}"
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
    frame["method"] = [str(method) or _NO_METHOD for method in frame["method"]]
    frame["scene"] = [str(scene) for scene in frame["scene"]]
    return frame, note


def common_folder(names: Sequence[str]) -> str:
    """The folder that all names begin with, with its slash; empty if there is none."""
    start = posixpath.commonprefix(names)
    return start[: start.rfind("/") + 1]


# --- percentiles among photographs


def read_percentiles(path: str | Path, origins: Mapping[str, Origin], dimensions: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Percentiles of the scores of photographs, if they are of the same weights.

    Returns:
        What benchmarks/make_percentiles.py wrote and an empty text; or nothing, and why.
    """
    omitted = "Percentiles among real photos are left out: "
    if not Path(path).is_file():
        return {}, omitted + "there is no weights/percentiles.json; benchmarks/make_percentiles.py writes it."
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
            return {}, omitted + f"they are known for the usual reading of images, and the {dimension} is of another one."
    return reference, ""


def reference_note(reference: Mapping[str, Any]) -> str:
    return f"Percentiles are those among {reference['count']:,} real photos: {reference['photos']}"


# --- images


def _hex(color: Sequence[float]) -> str:
    """A color for CSS, of sRGB in [0, 1]."""
    return "#" + "".join(f"{round(255 * float(x)):02x}" for x in color)


def describe(
    number: int, row: Mapping[str, Any], thumbnail: Thumbnail, dimensions: Sequence[str], reference: Mapping[str, Any]
) -> dict[str, Any]:
    """An image as the page shows it."""
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
        "image": row["image"],
        "method": row["method"],
        "scene": row["scene"],
        "address": address({"image": row["image"]}),
        "original": is_original(row["method"]),
        "gray": row["gray"],
        "left_out": row["left_out"],
        "error": row["error"] or ("" if any(s["known"] for s in scores) else "no score"),
        "scores": scores,
        "thumbnail": thumbnail.thumbnail,
        "width": thumbnail.width,
        "height": thumbnail.height,
        "fit": min(100.0, 75 * thumbnail.width / thumbnail.height),  # share of the width of a 4:3 frame
        "heat": thumbnail.heat,
        "frame": thumbnail.region and [round(100 * share, 1) for share in thumbnail.region.box],
        "region": thumbnail.region and finding_of(thumbnail.region),
        "surprise": thumbnail.surprise,
        "objects": [finding_of(finding) for finding in thumbnail.objects],
        "wrong": wrong_objects(thumbnail.objects),
        "label_error": thumbnail.label_error,
        "unreadable": thumbnail.unreadable,
    }


def extremes(images: Sequence[dict[str, Any]], dimensions: Sequence[str]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Best and worst images of each score, and those people judge most differently: heading, explanation, images."""
    groups = []
    for i, dimension in enumerate(dimensions):
        ranked = sorted((p for p in images if p["scores"][i]["known"]), key=lambda p: (-p["scores"][i]["value"], p["image"]))
        if len(ranked) < 2:
            continue
        shown = min(_SHOWN, len(ranked) // 2)
        groups.append((f"Highest {dimension}", "", ranked[:shown]))
        groups.append((f"Lowest {dimension}", "lowest first", ranked[::-1][:shown]))
    for i, dimension in enumerate(dimensions):
        rated = [p for p in images if p["scores"][i]["known"] and math.isfinite(p["scores"][i]["mos"])]
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
        f"{dimension} IS IN-SAMPLE: its weights were trained on images that are scored here."
        for dimension, origin in origins.items()
        if origin.sample == "in-sample"
    ]

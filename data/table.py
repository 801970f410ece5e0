"""Any dataset: a CSV table of images and scores, or a folder whose layout is recognized."""

import math
import os
import posixpath
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.hecd import find_ratings, load_hecd
from data.icqa2k import DIMENSIONS, SPLITS, load_icqa2k, split_folder, unit_mos
from utils.images import list_images
from utils.names import match_names, nearest
from utils.tables import csv_rows, finite_number, separator_hint

_COLUMNS = ("image", "scene", "method", *DIMENSIONS)
_UNIT_RANGE = (-1.0, 1.0)
REFERENCE = "reference_path"  # column: absolute path of the original; empty where there is none
WITHIN_SCENES = "within_scenes"  # column: 1 where ratings compare within a scene only, such as those made from choices
_OTHERS = ("reference", WITHIN_SCENES)  # columns that are handed on as they are
TEXT_COLUMNS = ("image", "scene", "method", *_OTHERS)


def load_table(
    path: Path | str,
    mos_range: tuple[float, float] = _UNIT_RANGE,
    root: Path | str | None = None,
    check_files: bool = True,
    ratings: Sequence[str] = DIMENSIONS,
) -> pd.DataFrame:
    """Read a CSV file with the columns image, scene, method, CF, SCC, PR as a MOS table.

    Only ``image`` and one dimension are required. Without ``scene`` the file name without folder and extension is the
    scene, with a warning; without ``method`` it is empty; an absent dimension and an empty cell are NaN.

    ``CF_se`` is the standard error of a MOS. Without it, the error is computed from ``CF_std``, the standard deviation of an
    image's CF ratings, and their number, ``CF_n`` or, for all dimensions, ``n``. The same holds for SCC and PR.

    Args:
        path: The CSV file: UTF-8, comma separated, one header line.
        mos_range: Lowest and highest possible score in the file, for every dimension, mapped linearly to [-1, 1].
        root: Folder that ``image`` is relative to; the folder of the CSV file if None.
        check_files: Whether every image must be there, under its name or one that :mod:`utils.names` takes for the same; if
            false, only the ratings are read.
        ratings: The rating columns to read, where they have other names than CF, SCC and PR.

    Returns:
        One row per image, sorted by ``image``, scores in [-1, 1], higher is better. ``CF_se``, ``SCC_se`` and ``PR_se``, in
        the unit of the scores, are there only if the file has the columns that they need; NaN where a cell is empty or fewer
        than two people rated. ``reference`` (path of the original, relative to "root") and ``within_scenes`` are there, as
        text, if the file has them. ``attrs`` holds "root" and "name", the file name without extension.

    Raises:
        FileNotFoundError: If the table or an image is missing.
        ValueError: If the table cannot be read as described; the error names the image or the line.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    header, rows = csv_rows(path, "image")
    _check_header(header, path, ratings)
    others = [name for name in _OTHERS if name in header]
    noise_columns = _noise_columns(header)
    names = [relative_image(row["image"], f"{path}, line {line}") for line, row in rows]
    on_disk = _names_on_disk(names, root) if check_files else {}
    records = []
    images: set[str] = set()
    for (line, row), name in zip(rows, names, strict=True):
        image = on_disk.get(name, name)
        if image in images:
            raise ValueError(f"{path}, line {line}: {image} is listed twice")
        images.add(image)
        if check_files and not (root / image).is_file():
            near = f" (there is {', '.join(nearest(image, files))})" if (files := _images(root)) else ""
            raise FileNotFoundError(
                f"{path}, line {line}: no file {root / image}{near}; image paths are relative to {root}, give another root "
                "if they should not be"
            )
        scene = row.get("scene", posixpath.splitext(posixpath.basename(image))[0])
        if not scene:
            raise ValueError(f"{path}, line {line}: {image} has no scene; fill the cell, or leave out the whole column")
        scores = {
            dimension: _score(row.get(dimension, ""), mos_range, f"{path}: {dimension} of {image}") for dimension in ratings
        }
        errors = {
            f"{dimension}_se": _standard_error(row, names, mos_range, f"{path}, line {line}")
            for dimension, names in noise_columns.items()
        }
        handed_on = {name: row[name] for name in others}
        names_of: dict[str, object] = {"image": image, "scene": scene, "method": row.get("method", "")}
        records.append(names_of | scores | errors | handed_on)

    if "scene" not in header:
        warnings.warn(
            f"{path} has no column scene: each image counts as its own scene by its file name, so splits cannot keep "
            "the colorizations of one photograph on one side",
            stacklevel=2,
        )
    columns = ["image", "scene", "method", *ratings, *(f"{dimension}_se" for dimension in noise_columns), *others]
    frame = pd.DataFrame(records, columns=columns).sort_values("image", ignore_index=True)
    frame.attrs = {"root": str(root), "name": path.stem}
    return frame


def load_dataset(
    source: Path | str,
    split: str | None = None,
    mos_range: tuple[float, float] = _UNIT_RANGE,
    ratings: Sequence[str] = DIMENSIONS,
) -> pd.DataFrame:
    """Read the MOS table of HECD, ICQA-2K or a CSV file; the content of the path tells which.

    Args:
        source: A folder with ``mean_zscores.csv`` in it or below (HECD), a folder with ``ICQA_2K_train`` or
            ``ICQA_2K_test`` (ICQA-2K), or a file that ends in ``.csv`` (see ``load_table``).
        split: "train" or "test" of ICQA-2K. None takes every split that is there; ``image`` is then relative to
            ``source`` and a column ``split`` is added.
        mos_range: Range of the scores in an ICQA-2K or CSV file, mapped linearly to [-1, 1].
        ratings: The rating columns of a CSV file.

    Returns:
        MOS table, same as from ``load_hecd``, ``load_icqa2k`` or ``load_table``.

    Raises:
        FileNotFoundError: If the path does not exist.
        ValueError: If the path holds none of these, or an argument does not apply to the data set.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"no file or folder {source}")

    present = [part for part in SPLITS if (source / split_folder(part)).is_dir()]
    if present:
        if split is not None:
            return load_icqa2k(source, split, mos_range)
        return _load_icqa2k_splits(source, present, mos_range)
    if split is not None:
        raise ValueError(
            f"got split {split!r}, but only ICQA-2K has given splits and {source} holds neither "
            f"{split_folder('train')} nor {split_folder('test')}; leave split out and use data/splits.py"
        )
    if source.is_file() and source.suffix.lower() == ".csv" and source.name != "mean_zscores.csv":
        return load_table(source, mos_range, ratings=ratings)
    if source.is_dir() and find_ratings(source) is not None:
        if tuple(mos_range) != _UNIT_RANGE:
            raise ValueError(f"{source} is HECD, whose z-scores have a fixed mapping; leave out --mos-range")
        return load_hecd(source)
    raise ValueError(
        f"{source} is not a known dataset; looked for {split_folder('train')} or {split_folder('test')} in it "
        "(ICQA-2K), mean_zscores.csv in it or below (HECD; give the folder, not the file), and a file that ends in "
        ".csv (table)"
    )


def _load_icqa2k_splits(source: Path, splits: list[str], mos_range: tuple[float, float]) -> pd.DataFrame:
    frames = []
    for split in splits:
        frame = load_icqa2k(source, split, mos_range)
        frames.append(frame.assign(image=f"{split_folder(split)}/" + frame["image"], split=split))
    both = pd.concat(frames).sort_values("image", ignore_index=True)
    both.attrs = {"root": str(source), "name": "ICQA-2K"}
    return both


def _check_header(header: list[str], path: Path, ratings: Sequence[str]) -> None:
    expected = f"expected image and any of {', '.join(_COLUMNS[1:])}, at least one of {', '.join(ratings)}"
    if len(set(header)) < len(header):
        raise ValueError(f"{path} has a column twice: {header}; {expected}")
    lower_case = {name.lower() for name in _COLUMNS}
    # A column "cf" must not be taken for an unrated dimension.
    if "dist_img" in header:
        raise ValueError(
            f"{path} is a label file of KADID-10k; make a table of it: python tools/convert_labels.py {path} --form kadid"
        )
    misspelt = [name for name in header if name not in _COLUMNS and name.lower() in lower_case]
    if "image" not in header or misspelt or not set(ratings) & set(header):
        hint = separator_hint(header) or "; train_baseline.py learns ratings of other names by --target" * ("image" in header)
        raise ValueError(f"{path} has the columns {header}; {expected}, spelled so{hint}")
    used = {*_COLUMNS, *_OTHERS, *ratings, *(name for names in _noise_columns(header).values() for name in names)}
    if any(f"{d}_se" in header for d in DIMENSIONS):
        beside = ("low", "high", "n", "std", "scale")  # as compute_mos.py writes them
        used |= {*beside, *(f"{d}_{name}" for d in DIMENSIONS for name in beside)}
    ignored = [name for name in header if name not in used]
    if ignored:
        warnings.warn(f"{path}: ignoring the columns {ignored}", stacklevel=3)


def _names_on_disk(names: list[str], root: Path) -> dict[str, str]:
    """Return the file names by the names of a table, where these are written in another way; empty if all names are exact."""
    if all((root / name).is_file() for name in names):
        return {}
    return match_names(names, _images(root))


def _images(root: Path) -> list[str]:
    try:
        return list_images(root).names
    except (OSError, ValueError):  # no image there
        return []


def relative_image(cell: str, where: str) -> str:
    """Return the path of an image with forward slashes and without detours, so that one file has one name."""
    slashed = cell.replace("\\", "/")
    if not slashed:
        raise ValueError(f"{where}: the cell image is empty")
    if slashed.startswith("/") or slashed[1:3] == ":/":
        raise ValueError(f"{where}: {cell} is an absolute path; write it relative to the folder of the table or the root")
    return posixpath.normpath(slashed)


def _noise_columns(header: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the columns that give the standard error of each dimension: the error, or deviation and number of ratings."""
    columns: dict[str, tuple[str, ...]] = {d: (f"{d}_std", f"{d}_n" if f"{d}_n" in header else "n") for d in DIMENSIONS}
    columns |= {d: (f"{d}_se",) for d in DIMENSIONS if f"{d}_se" in header}
    return {dimension: names for dimension, names in columns.items() if set(names) <= set(header)}


def _standard_error(row: dict[str, str], columns: tuple[str, ...], mos_range: tuple[float, float], where: str) -> float:
    """Return the standard error of a MOS in [-1, 1]; NaN where a cell is empty or fewer than two people rated."""
    values = []
    for column in columns:
        try:
            value = float(row[column]) if row[column] else math.nan
        except ValueError:
            value = -1.0
        if value < 0 or math.isinf(value):
            raise ValueError(f"{where}: {column} is {row[column]!r}, expected a number of at least 0, or an empty cell")
        values.append(value)
    half = (mos_range[1] - mos_range[0]) / 2
    if len(values) == 1:
        return values[0] / half
    std, n = values
    return std / math.sqrt(n) / half if n >= 2 else math.nan


def _score(cell: str, mos_range: tuple[float, float], where: str) -> float:
    if not cell:
        return math.nan
    value = finite_number(cell, f"{where} is", "expected a number, or an empty cell where the image was not rated")
    return unit_mos(value, mos_range, where)


def image_paths(frame: pd.DataFrame) -> list[str]:
    """Return the path of each image of a MOS table: the column ``path``, else ``image`` below the root of the table."""
    if "path" in frame:
        return list(frame["path"])
    return [str(Path(frame.attrs["root"]) / name) for name in frame["image"]]


def with_paths(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the path of each image as the column ``path``, which survives joining tables."""
    return frame.assign(path=image_paths(frame))


def load_data(sources: list[Path], dimension: str, mos_range: tuple[float, float]) -> pd.DataFrame:
    """Read one or several data sets as one MOS table, see ``join_data``."""
    frames = []
    for named in sources:
        source, most = counted(named)
        frame = with_paths(load_dataset(source, mos_range=mos_range))
        frames.append((str(source), frame if most is None else spread(frame, most)))
    return join_data(frames, [dimension])


def join_data(frames: list[tuple[str, pd.DataFrame]], columns: list[str]) -> pd.DataFrame:
    """Join MOS tables to one and print the counts of each; images without a rating are kept.

    Args:
        frames: The source of each table, for messages, and the table, which has ``path``.
        columns: The ratings that are wanted.

    Returns:
        MOS table with ``path``, the absolute path of each image; ``image`` is relative to the folder above all images.

    Raises:
        ValueError: If nothing is rated in one of the columns, or an image comes twice.
    """
    for source, frame in frames:
        counts = ", ".join(f"{int(frame[c].notna().sum()) if c in frame else 0} with a {c} rating" for c in columns)
        print(f"{source}: {len(frame)} images of {frame['scene'].nunique()} scenes, {counts}")
    joined = pd.concat([frame for _, frame in frames], ignore_index=True)
    for column in columns:
        if column not in joined or joined[column].isna().all():
            raise ValueError(f"no image in {', '.join(source for source, _ in frames)} has a {column} rating")
    joined["path"] = [os.path.abspath(p) for p in joined["path"]]
    root = os.path.commonpath([os.path.dirname(p) for p in joined["path"]])
    joined["image"] = [Path(os.path.relpath(p, root)).as_posix() for p in joined["path"]]
    repeated = joined["image"][joined["image"].duplicated()]
    if len(repeated):
        raise ValueError(f"{repeated.iloc[0]} is in the data twice; give each data set once")
    joined = joined.sort_values("image", ignore_index=True)
    joined.attrs = {"root": root, "name": " + ".join(f.attrs.get("name", "") for _, f in frames)}
    return joined


def counted(source: Path) -> tuple[Path, int | None]:
    """Return path and number of images of ``PATH:N``; the number is None for all images."""
    path, colon, number = str(source).rpartition(":")
    if colon and number.isdigit() and not source.exists():
        if int(number) < 1:
            raise ValueError(f"{source}: expected at least 1 image after the colon")
        return Path(path), int(number)
    return source, None


def rated(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return the rows that have a rating in one of the columns."""
    rows = frame[frame[columns].notna().any(axis=1)].reset_index(drop=True)
    rows.attrs = frame.attrs
    return rows


def spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return at most ``count`` rows, evenly spaced."""
    if len(frame) <= count:
        return frame
    rows = frame.iloc[np.linspace(0, len(frame) - 1, count).round().astype(int)].reset_index(drop=True)
    rows.attrs = frame.attrs
    return rows


def select(frame: pd.DataFrame, rows: pd.Series) -> pd.DataFrame:
    """Return the chosen rows as a MOS table of its own."""
    chosen = frame[rows].reset_index(drop=True)
    chosen.attrs = frame.attrs
    return chosen

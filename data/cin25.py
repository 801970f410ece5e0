"""CIN25: ratings of 25 photographs, each as it is and colorized by three methods, one row per rating.

We have not had this data set: nothing is downloaded. We know the rows ``scene_id, image_path, method, score, user_id`` from
descriptions; the analysis script of its authors skips the first row of ``Results_raw_all.csv`` and has scores from 1 to 5. We
take the question that people answered as one of naturalness, which is PR.
"""

import math
import warnings
from pathlib import Path

import pandas as pd

from data.icqa2k import DIMENSIONS, unit_mos
from data.table import relative_image
from utils.choices import CIN25_RANGE
from utils.images import IMAGE_EXTENSIONS
from utils.names import amount
from utils.tables import csv_lines, finite_number, separator_hint

COLUMNS = ("scene_id", "image_path", "method", "score", "user_id")
_SCENES, _VERSIONS = 25, 4  # the original and three methods
_DIMENSION = "PR"


def load_cin25(path: Path | str, mos_range: tuple[float, float] = CIN25_RANGE, root: Path | str | None = None) -> pd.DataFrame:
    """Read the ratings as a MOS table; the images need not be there.

    Args:
        path: The file of ratings: UTF-8, comma separated, with a header or without.
        mos_range: Lowest and highest possible score, mapped linearly to [-1, 1].
        root: Folder that ``image_path`` is relative to; the folder of the file if None.

    Returns:
        One row per image, sorted by ``image``, with ``scene`` and ``method``. ``PR`` is the mean over people, in [-1, 1],
        higher is better; a person who rated an image more than once counts once, with the mean. ``PR_se`` is the standard error
        of ``PR``, NaN where one person rated; ``CF`` and ``SCC`` are NaN. ``attrs`` holds "root" and "name".

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a row is not as described; the error names the line.
    """
    path = Path(path)
    ratings = pd.DataFrame(_read(path, mos_range), columns=["scene", "image", "method", "score", "user"])
    places = ratings.groupby("image")[["scene", "method"]].nunique()
    doubtful = places.index[(places > 1).any(axis=1)]
    if len(doubtful):
        raise ValueError(f"{path} gives {doubtful[0]} more than one scene or method; each image has one of each")

    by_user = ratings.groupby(["image", "scene", "method", "user"], as_index=False)["score"].mean()
    by_image = by_user.groupby(["image", "scene", "method"])["score"]
    frame = by_image.agg(PR="mean", PR_se=lambda scores: scores.std(ddof=1) / math.sqrt(len(scores))).reset_index()
    sizes = frame.groupby("scene").size()
    if len(sizes) != _SCENES or (sizes != _VERSIONS).any():
        warnings.warn(
            f"{path} has {amount(len(frame), 'image')} of {amount(len(sizes), 'scene')}, expected {_VERSIONS} of each of "
            f"{_SCENES}, the original and three methods; taken as it is",
            stacklevel=2,
        )
    frame = frame.assign(CF=math.nan, SCC=math.nan)[["image", "scene", "method", *DIMENSIONS, f"{_DIMENSION}_se"]]
    frame = frame.sort_values("image", ignore_index=True)
    frame.attrs = {"root": str(path.parent if root is None else root), "name": "CIN25"}
    return frame


def _read(path: Path, mos_range: tuple[float, float]) -> list[tuple[str, str, str, float, str]]:
    """Read scene, image, method, score in [-1, 1] and user of every row."""
    if not path.is_file():
        raise FileNotFoundError(f"no ratings {path}; expected the rows of CIN25, {', '.join(COLUMNS)}")
    rows = []
    lines = csv_lines(path)
    header = lines[0][1] if lines else []
    order = list(range(len(COLUMNS)))
    if set(COLUMNS) <= set(header):
        order = [header.index(name) for name in COLUMNS]
    elif len(header) != len(COLUMNS) or not _is_header(header):
        header = []
    for line, cells in lines[1:] if header else lines:
        where = f"{path}, line {line}"
        if len(cells) != (len(header) or len(COLUMNS)):
            names = header or COLUMNS
            raise ValueError(
                f"{where}: expected {len(names)} cells, {', '.join(names)}; got {len(cells)}{separator_hint(cells)}"
            )
        scene, image, method, score, user = (cells[i] for i in order)
        if not (scene and method and user):
            raise ValueError(f"{where}: expected a scene, a method and a user, got {scene!r}, {method!r} and {user!r}")
        value = finite_number(score, f"{where} has the score", "expected a number")
        rows.append((scene, relative_image(image, where), method, unit_mos(value, mos_range, where), user))
    if not rows:
        raise ValueError(f"{path} has no rows, expected {', '.join(COLUMNS)}, with a header or without")
    return rows


def _is_header(cells: list[str]) -> bool:
    """Tell whether the first row names the columns: it has no number for a score and no image file for an image."""
    try:
        float(cells[3])
    except ValueError:
        return not cells[1].lower().endswith(IMAGE_EXTENSIONS)
    return False

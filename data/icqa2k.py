"""ICQA-2K: images of five colorizers with mean opinion scores for CF, SCC and PR.

The layout is the one that the published scripts expect, https://github.com/ARBEZ-ZEBRA/ICQA; see data/README.md.
"""

import json
import math
import re
from pathlib import Path

import pandas as pd

from utils.choices import DIMENSIONS, SPLITS
from utils.images import IMAGE_EXTENSIONS

_STEM = re.compile(r"(?P<method>.+)_(?P<scene>\d+)")  # colorizer (BIG, CIC, CT2, DDC, GCP, or another) and COCO id


def split_folder(split: str) -> str:
    """Return the name of the image folder of a split, "train" or "test"."""
    return f"ICQA_2K_{split}"


def load_icqa2k(root: Path | str, split: str, mos_range: tuple[float, float] = (-1.0, 1.0)) -> pd.DataFrame:
    """Read one split of ICQA-2K as a MOS table.

    Args:
        root: Folder with ``ICQA_2K_train``, ``ICQA_2K_test`` and the MOS files.
        split: "train" or "test".
        mos_range: Lowest and highest possible score in the MOS files, mapped linearly to [-1, 1]. The published files
            are in [-1, 1] already.

    Returns:
        One row per image, sorted by ``image`` (relative to the folder of the split), with ``scene`` (COCO id),
        ``method`` (file name prefix) and ``CF``, ``SCC``, ``PR`` in [-1, 1], higher is better; a dimension without a
        MOS file is NaN. ``attrs`` holds "root", the folder of the split, and "name".

    Raises:
        FileNotFoundError: If the folder, its images or all three MOS files are missing.
        ValueError: If images and labels do not match, or a label is not a number in ``mos_range``.
    """
    if split not in SPLITS:
        raise ValueError(f'split must be "train" or "test", got {split!r}')
    root = Path(root)
    folder = root / split_folder(split)
    images = _images_by_stem(folder)
    stems = sorted(images)
    frame = pd.DataFrame({"image": [images[stem] for stem in stems]})
    parsed = [match for stem in stems if (match := _STEM.fullmatch(stem))]
    if len(parsed) < len(stems):
        unnamed = next(images[stem] for stem in stems if not _STEM.fullmatch(stem))
        raise ValueError(f"{folder} holds {unnamed}, expected names METHOD_COCOID such as BIG_000000017648.jpg")
    frame["scene"] = [match["scene"] for match in parsed]
    frame["method"] = [match["method"] for match in parsed]

    files = {dimension: root / f"{split_folder(split)}_{dimension}_mos.json" for dimension in DIMENSIONS}
    if not any(path.is_file() for path in files.values()):
        raise FileNotFoundError(f"no MOS file in {root}, expected at least one of {[p.name for p in files.values()]}")
    for dimension, path in files.items():
        if path.is_file():
            mos = _read_mos(path, mos_range)
            _check_same_stems(path, set(mos), folder, set(stems))
            frame[dimension] = [mos[stem] for stem in stems]
        else:
            frame[dimension] = math.nan

    frame = frame.sort_values("image", ignore_index=True)
    frame.attrs = {"root": str(folder), "name": f"ICQA-2K {split}"}
    return frame


def unit_mos(value: float, mos_range: tuple[float, float], where: str) -> float:
    """Map a score linearly from its range to [-1, 1].

    Args:
        value: The score, in ``mos_range``.
        mos_range: Lowest and highest possible score.
        where: File and image of the score, for the error.

    Returns:
        Score in [-1, 1]; the score itself if ``mos_range`` is [-1, 1].

    Raises:
        ValueError: If the score is not in the range, or the range is empty.
    """
    low, high = mos_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"--mos-range needs two numbers, the lower one first, got {low:g} {high:g}")
    if not low <= value <= high:
        raise ValueError(
            f"{where} has the score {value:g}, outside {low:g} to {high:g}; if the scores have another range, such as that of "
            f"raw opinions, give it: --mos-range {'1 5' if (low, high) != (1, 5) else '-1 1'}"
        )
    # Written with middle and half width because this maps [-1, 1] to itself without rounding.
    return min(1.0, max(-1.0, (value - (low + high) / 2) / ((high - low) / 2)))


def _images_by_stem(folder: Path) -> dict[str, str]:
    """Return the file names of the images in a folder, by stem."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no folder {folder}; expected {split_folder('train')} and {split_folder('test')} in {folder.parent}, "
            "see data/README.md"
        )
    images: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_EXTENSIONS or path.name.startswith("."):
            continue
        if path.stem in images:
            raise ValueError(f"{folder} holds both {images[path.stem]} and {path.name}, but labels name stems; keep one")
        images[path.stem] = path.name
    if not images:
        raise FileNotFoundError(f"no image in {folder}, expected names such as BIG_000000017648.jpg")
    return images


def _read_mos(path: Path, mos_range: tuple[float, float]) -> dict[str, float]:
    """Read the scores by image stem, mapped to [-1, 1]."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # covers bad JSON and bad UTF-8
        raise ValueError(f"{path} is not JSON ({error}); expected one object, image stem to score") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one object, image stem to score, got a {type(content).__name__}")
    for stem, value in content.items():
        # bool is an int in Python; json also reads the bare words NaN and Infinity.
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{path} gives {stem} the score {value!r}, expected a number")
    return {stem: unit_mos(value, mos_range, f"{path}: {stem}") for stem, value in content.items()}


def _check_same_stems(path: Path, labels: set[str], folder: Path, images: set[str]) -> None:
    if labels - images:
        extra = sorted(labels - images)
        raise ValueError(f"{len(extra)} of {len(labels)} labels in {path} have no image in {folder}, e.g. {extra[0]}")
    if images - labels:
        bare = sorted(images - labels)
        raise ValueError(f"{len(bare)} of {len(images)} images in {folder} have no label in {path}, e.g. {bare[0]}")

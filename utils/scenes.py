"""The scene of each image and the method that made it: from an index file beside the images, or from their names."""

import csv
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

ALL = "all"  # the method of images whose names do not tell one
INDEX_FILES = ("index.csv", "samples.csv")  # columns image, scene and method
ORIGINALS = (
    "org",
    "orig",
    "original",
    "originals",
    "gt",
    "ground_truth",
    "real",
    "photo",
    "photograph",
)  # methods, in any case

_NUMBERED = re.compile(r"(?P<method>.+)_(?P<scene>\d+)")  # as in ICQA-2K, BIG_000000017648
_NAMED = re.compile(r"(?P<method>[^_]+)_(?P<scene>.+)")  # CIC_imagenet9801


def method_and_scene(names: Sequence[str]) -> tuple[list[str], list[str], str]:
    """Return method and scene of images by their names, METHOD_SCENE or METHOD/SCENE, if all of them are of that form.

    Args:
        names: Relative paths with forward slashes.

    Returns:
        Methods, scenes, and a sentence on where they come from.
    """
    for form in (_NUMBERED, None, _NAMED):
        if form is None:
            pairs = [(path.parent.as_posix(), path.stem) for path in map(PurePosixPath, names)]
            origin = "Methods are the folders, scenes the file names in them."
        else:
            matches = (form.fullmatch(PurePosixPath(name).stem) for name in names)
            pairs = [(match["method"], match["scene"]) for match in matches if match]
            origin = "Methods and scenes are those of the file names, METHOD_SCENE."
        methods, sizes = {method for method, _ in pairs}, Counter(scene for _, scene in pairs)
        shared = sum(size > 1 for size in sizes.values()) > len(sizes) / 2
        if len(set(pairs)) == len(names) and "." not in methods and (shared or form is _NUMBERED):
            return [method for method, _ in pairs], [scene for _, scene in pairs], origin
    return (
        [ALL] * len(names),
        list(names),
        "File names and folders do not tell methods apart: all images count as one method.",
    )


def scenes_of(root: Path | None, names: Sequence[str]) -> tuple[dict[str, tuple[str, str]], str]:
    """Return scene and method of images, from an index file in their folder or else from their names.

    Args:
        root: The folder that the names start from; None if it is not known.
        names: Relative paths with forward slashes.

    Returns:
        Scene and method by name, empty if no two images show one scene; and the reason why an index was not used, or "".
    """
    index, problem = {}, ""
    file = next((root / name for name in INDEX_FILES if (root / name).is_file()), None) if root is not None else None
    if file is not None:
        try:
            index = _read_index(file)
        except (OSError, ValueError, csv.Error) as error:
            problem = f"{file} is not used: {error}"
    places = {name: index[_normalized(name)] for name in names if _normalized(name) in index}
    if not places:
        methods, scenes, _ = method_and_scene(names)
        places = dict(zip(names, zip(scenes, methods, strict=True), strict=True))
        if index:
            problem = f"{file} is not used: it has none of these images"
    sizes = Counter(scene for scene, _ in places.values())
    return (places if any(size > 1 for size in sizes.values()) else {}), problem


def read_index(path: Path | str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Read scene and method of each image from a table with the columns image, scene and method.

    Args:
        path: CSV, UTF-8, cells separated by commas, semicolons or tabs.
        names: Relative paths with forward slashes. Rows of other images are ignored.

    Returns:
        Scenes and methods.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the table cannot be read as described, or an image is not in the table.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no index {path}")
    try:
        index = _read_index(Path(path))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {error}") from error
    absent = [name for name in names if _normalized(name) not in index]
    if absent:
        example = f", which has e.g. {next(iter(index))}" if index else ", which has no row"
        raise ValueError(
            f"{len(absent)} of {len(names)} images have no row in {path}{example}; e.g. {absent[0]} is absent: write paths "
            "relative to the folder of the images"
        )
    scenes, methods = zip(*(index[_normalized(name)] for name in names), strict=True)
    return list(scenes), list(methods)


def _normalized(name: str) -> str:
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def _read_index(path: Path) -> dict[str, tuple[str, str]]:
    """Return scene and method by image.

    Raises:
        ValueError: If a column is absent, the file is not UTF-8, or an image has no scene or two rows that differ.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8; export it as CSV, UTF-8") from error
    delimiter = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
    rows = csv.DictReader(lines, delimiter=delimiter)
    absent = [column for column in ("image", "scene", "method") if column not in (rows.fieldnames or ())]
    if absent:
        raise ValueError(f"it has no column {absent[0]}; expected image, scene and method")
    index: dict[str, tuple[str, str]] = {}
    for row in rows:
        image, place = _normalized((row["image"] or "").strip()), ((row["scene"] or "").strip(), (row["method"] or "").strip())
        if not place[0]:
            raise ValueError(f"line {rows.line_num}: {image} has no scene")
        if index.setdefault(image, place) != place:
            raise ValueError(f"line {rows.line_num}: {image} has two rows that differ")
    return index

"""Splits by source photograph into scenes that train, validate and test, and the text file that records a split.

Also the photographs that no prior may be learned from: those of scenes that will be judged.
"""

import hashlib
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from data.table import load_dataset
from utils.files import write_atomic
from utils.images import IMAGE_EXTENSIONS

PARTS = ("train", "val", "test")


def split_by_scene(frame: pd.DataFrame, val: float = 0.1, test: float = 0.2, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Split a MOS table so that no scene is in two parts.

    The choice depends on the scene names and the seed alone: not on the order of rows, the number of images of a scene
    or the version of a library. If the table has a column ``split`` with rows "test" (ICQA-2K), these rows are the
    test part, whatever ``test`` says, and the validation scenes come from the rows "train".

    Args:
        frame: MOS table.
        val: Share of the scenes for validation, rounded, at least one scene; 0 for none. With a given test part, the
            share of the other scenes.
        test: Share of the scenes for testing, rounded in the same way.
        seed: Another seed chooses other scenes.

    Returns:
        MOS tables "train", "val" and "test", each sorted by image with index 0..n-1. A part without scenes is empty.

    Raises:
        ValueError: If there are too few scenes, the shares leave none for training, or the rows "train" and "test" of
            the table share a scene.
    """
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(f"val and test are shares of the scenes, at least 0 and together below 1; got {val} and {test}")
    given_test = _given_test_scenes(frame)
    open_scenes = _ordered_scenes(set(frame["scene"]) - given_test, seed)
    n_test = 0 if given_test else _count(test, len(open_scenes))
    n_val = _count(val, len(open_scenes))
    if n_test + n_val >= len(open_scenes):
        raise ValueError(
            f"too few scenes: {len(open_scenes)} to divide; {n_val} for validation and {n_test} for testing "
            "leave none for training; take smaller shares or more scenes"
        )
    scenes = {
        "train": open_scenes[n_test + n_val :],
        "val": open_scenes[n_test : n_test + n_val],
        "test": given_test or open_scenes[:n_test],
    }
    return _tables_of(frame, scenes)


def shared_scenes(frame: pd.DataFrame) -> set[str]:
    """Return the scenes that have rows "train" and rows "test" in the column ``split``; empty without that column."""
    if "split" not in frame:
        return set()
    test = frame["split"] == "test"
    return set(frame.loc[test, "scene"]) & set(frame.loc[~test, "scene"])


def scene_folds(frame: pd.DataFrame, folds: int, seed: int = 0) -> list[set[str]]:
    """Divide the scenes into folds; every scene is in exactly one fold.

    Args:
        frame: MOS table.
        folds: Number of folds, at least 2 and at most the number of scenes; the sizes of two folds differ by one at most.
        seed: Same as in ``split_by_scene``.

    Returns:
        One set of scenes per fold, to be left out in turn.

    Raises:
        ValueError: If ``folds`` is out of range.
    """
    scenes = _ordered_scenes(set(frame["scene"]), seed)
    if not 2 <= folds <= len(scenes):
        raise ValueError(f"folds must be from 2 to the number of scenes, {len(scenes)}; got {folds}")
    return [set(scenes[first::folds]) for first in range(folds)]


def check_disjoint(**parts: pd.DataFrame) -> None:
    """Check that no scene is in two of the MOS tables, as in ``check_disjoint(train=a, test=b)``.

    Raises:
        ValueError: If two tables share a scene; names both tables and the scenes.
    """
    scenes = {name: set(part["scene"]) for name, part in parts.items()}
    names = list(scenes)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            shared = scenes[first] & scenes[second]
            if shared:
                raise ValueError(
                    f"{first} and {second} share {_listing(shared)}; scores on {second} would not be those of unseen "
                    "scenes, so keep each scene in one part"
                )


def write_split(parts: Mapping[str, pd.DataFrame], path: Path | str) -> None:
    """Write the scenes of each part to a text file, one line ``part scene`` per scene.

    Args:
        parts: MOS tables by part: "train", "val", "test", or some of these.
        path: File to write, replaced whole or not at all.

    Raises:
        ValueError: If a part has another name, two parts share a scene, or a scene name does not fit on a line.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ValueError(f"parts must be named {', '.join(PARTS)}; got {sorted(unknown)}")
    check_disjoint(**parts)
    lines = ["# Scenes of each part: one line 'part scene' each. Read by read_split in data/splits.py."]
    for name in PARTS:
        if name not in parts:
            continue
        scenes = sorted(set(parts[name]["scene"]))
        lines.append(f"# {name}: {len(scenes)} scenes, {len(parts[name])} images")
        for scene in scenes:
            if not scene or scene != scene.strip() or not scene.isprintable():
                raise ValueError(f"scene {scene!r} cannot be written: it is empty, or has blanks around it or line breaks")
            lines.append(f"{name} {scene}")

    write_atomic(path, "\n".join(lines) + "\n")


def read_split(path: Path | str) -> dict[str, set[str]]:
    """Read the scenes of "train", "val" and "test" from a file of ``write_split``; a part that the file lacks is empty.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is not ``part scene``, or a scene is in two parts.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no split file {path}; write one with write_split")
    part_of: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        part, _, scene = line.strip().partition(" ")
        if part not in PARTS or not scene:
            raise ValueError(f"{path}, line {number}: expected 'train', 'val' or 'test' and a scene, got {line!r}")
        if part_of.setdefault(scene, part) != part:
            raise ValueError(f"{path}, line {number}: scene {scene} is in both {part_of[scene]} and {part}")
    return {part: {scene for scene, owner in part_of.items() if owner == part} for part in PARTS}


def apply_split(frame: pd.DataFrame, scenes: Mapping[str, Iterable[str]]) -> dict[str, pd.DataFrame]:
    """Divide a MOS table as a split file says; scenes of the file that the table lacks are passed over.

    Args:
        frame: MOS table.
        scenes: Scenes by part, as from ``read_split``.

    Returns:
        Same as ``split_by_scene``.

    Raises:
        ValueError: If a scene of the table is in no part or in two, or if rows "test" of the column ``split`` would be trained
            or validated on.
    """
    listed = {part: set(scenes.get(part, ())) for part in PARTS}
    unlisted = set(frame["scene"]).difference(*listed.values())
    if unlisted:
        raise ValueError(f"the split does not list {_listing(unlisted)} of the table; write a new split for this table")
    leaked = _given_test_scenes(frame) - listed["test"]
    if leaked:
        raise ValueError(f"the split puts {_listing(leaked)} of the given test split outside test; write a new split")
    return _tables_of(frame, listed)


def excluded_names(names: Iterable[str], sources: Iterable[Path | str]) -> tuple[set[str], int]:
    """Find the photographs to leave out by their file names, without folder, extension and leading zeros.

    No more of a name is compared, because copies of a photograph lie in other folders and formats, and some data sets pad
    numbers with zeros: scene 015004 of HECD is 15004.jpg of BSDS500.

    Args:
        names: All photographs.
        sources: Data sets that ``load_dataset`` reads, whose scenes are left out, and ``.txt`` lists with one name per line,
            with or without folder and extension; blank lines and those that start with ``#`` do not count.

    Returns:
        The photographs of ``names`` to leave out, and the number of names in the sources that no photograph has.

    Raises:
        FileNotFoundError: If a source does not exist.
        ValueError: If a source cannot be read.
    """
    excluded: set[str] = set()
    for source in map(Path, sources):
        listed = _read_list(source) if source.suffix.lower() == ".txt" else load_dataset(source)["scene"]
        excluded |= {_key_of(name) for name in listed}
    keys = {name: _key_of(name) for name in names}
    return {name for name, key in keys.items() if key in excluded}, len(excluded - set(keys.values()))


def _read_list(file: Path) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"no file {file}; expected a text file of images to leave out, one per line")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}, byte {error.start}); save it as UTF-8") from error
    return [line for line in lines if line and not line.startswith("#")]


def _key_of(name: str) -> str:
    stem, extension = posixpath.splitext(posixpath.basename(name))
    return (stem if extension.lower() in IMAGE_EXTENSIONS else stem + extension).lstrip("0")


def _tables_of(frame: pd.DataFrame, scenes: Mapping[str, Iterable[str]]) -> dict[str, pd.DataFrame]:
    ordered = frame.sort_values("image")
    tables = {part: ordered[ordered["scene"].isin(list(scenes[part]))].reset_index(drop=True) for part in PARTS}
    check_disjoint(**tables)
    return tables


def _given_test_scenes(frame: pd.DataFrame) -> set[str]:
    """Return the scenes of the rows "test" of the column ``split``; empty without that column or such rows."""
    if "split" not in frame:
        return set()
    given = set(frame["split"])
    if not given <= {"train", "test"}:
        raise ValueError(f'the column split must hold "train" or "test", got {sorted(map(str, given))}')
    test = frame["split"] == "test"
    check_disjoint(train=frame[~test], test=frame[test])
    return set(frame.loc[test, "scene"])


def _ordered_scenes(scenes: set[str], seed: int) -> list[str]:
    """Return the scenes in the order of a hash of seed and name, which is the same on every machine."""
    return sorted(scenes, key=lambda scene: hashlib.sha256(f"{seed}:{scene}".encode()).digest())


def _count(share: float, total: int) -> int:
    return max(1, int(share * total + 0.5)) if share > 0 else 0


def _listing(scenes: set[str]) -> str:
    """Return, for an error, the scene, or the number of scenes and the first five."""
    if len(scenes) == 1:
        return f"scene {next(iter(scenes))}"
    return f"{len(scenes)} scenes ({', '.join(sorted(scenes)[:5])}{', ...' if len(scenes) > 5 else ''})"

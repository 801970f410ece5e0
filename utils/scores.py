"""The score file: which score each image of a folder got, from which weights, and why an image got none.

``infer_CF.py``, ``infer_SCC.py`` and ``infer_PR.py`` write it with :class:`ScoreWriter`; the PR scripts and
``evaluate.py`` read it with :func:`read_scores` and match it to their images with :func:`join_scores`.

``cf.csv`` has one row an image, sorted by image::

    image,CF,gray,error
    a/b.jpg,0.123456,0,
    a/c.jpg,,0,cannot read: truncated file

``image`` is the path relative to the scored folder, with forward slashes; ``gray`` is 1 for an image without color;
a row with an ``error`` has no score. PR's file has ``image,PR,CF,SCC,gray,error``, with the CF and SCC that PR was
computed from. ``cf.csv.json`` beside it says how the scores were made; while a run is under way, its finished rows are
in the journal ``cf.csv.partial``. The published form, ``{"b": 0.123456}`` with the file's stem as key, is also read.
"""

import io
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from utils.choices import DIMENSIONS, VERSION
from utils.files import fingerprint, give_lock, naming, remove_unfinished, take_lock, write_atomic
from utils.names import match_names, nearest
from utils.tables import comma_hint, csv_rows, finite_number, read_text, separator_hint

if TYPE_CHECKING:  # imported by the functions that make a table of it, for it is slow to load
    import pandas as pd

SAMPLES = ("unseen", "in-sample", "out-of-fold", "unknown")  # what the images were to the weights that scored them
VERSIONS = {"format": 1, "project": VERSION}
_TORCH = "torch"  # the engine of score files that name none
NO_ROW = "no row"  # the reason missing_scores gives for an image the file does not have


@dataclass(frozen=True)
class Provenance:
    """How the scores of a file are made. A run goes on with a file of an earlier one only if that is the same.

    Attributes:
        root: The scored folder.
        weights: SHA-256 of each weight file by dimension.
        preprocessing: All else that changes a score; what JSON can hold.
        sample: Whether the weights had seen the images: one of :data:`SAMPLES`.
        unbounded: Allow any names of scores, and any finite scores, of systems that have no bounds.
        engine: What computes the scores: torch or onnxruntime.
    """

    root: str | Path
    weights: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    sample: str
    unbounded: bool = False
    engine: str = "torch"


class ScoreWriter:
    """Write a score file row by row, so that a run that was stopped goes on where it stopped.

    Every row is on disk, in the journal, when :meth:`add` returns. :meth:`close`, or leaving a ``with`` block in
    whatever way, merges the journal into the CSV. A run that goes on takes over the rows of the earlier one; images
    that had an error or have changed since are scored again. However often it was stopped, the final files are byte
    for byte those of a run that was not::

        with ScoreWriter("cf.csv", ["CF"], names, Provenance(folder, weights={}, preprocessing={}, sample="unseen")) as out:
            for name in out.remaining(names):
                out.add(name, {"CF": score}, gray=False)

    Args:
        path: The CSV to write.
        columns: The dimension that is scored, then the sub-scores it was computed from: ``["PR", "CF", "SCC"]``.
        names: Every image of the folder, relative to its root, with forward slashes.
        provenance: How the scores are made.
        overwrite: Delete the files of an earlier run first.
        beside: Another file by image, such as its labels. If that file changes, the image counts as changed.
        fingerprints: Of each image, as ``ImageList`` has them; None for those of the files below the root.

    Attributes:
        kept: How many rows of an earlier run are taken over.
        changed: How many images of an earlier run have changed since and are scored again.
        dropped: How many rows of an earlier run are left out, their images being gone from the folder.

    Raises:
        ValueError: If the file there was made by hand, or with other weights, preprocessing, folder or columns.
        BlockingIOError: If another process is writing the file.
    """

    def __init__(
        self,
        path: str | Path,
        columns: Sequence[str],
        names: Sequence[str],
        provenance: Provenance,
        overwrite: bool = False,
        beside: Mapping[str, Path] | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        sample, root, unbounded = provenance.sample, provenance.root, provenance.unbounded
        self.path = Path(path)
        self.columns = list(columns)
        self.limit = math.inf if unbounded else 1.0
        if self.path.suffix.lower() != ".csv":
            raise ValueError(f"expected a score file that ends in .csv, got {path}")
        if not columns or not (unbounded or set(columns) <= set(DIMENSIONS)):
            raise ValueError(f"expected score columns out of {', '.join(DIMENSIONS)}, got {self.columns}")
        if len(set(columns)) < len(columns) or set(columns) & {"image", "gray", "error", ""}:
            raise ValueError(f"expected names of scores, each once and not image, gray or error, got {self.columns}")
        if sample not in SAMPLES:
            raise ValueError(f"expected sample to be one of {', '.join(SAMPLES)}, got {sample!r}")
        for name in names:
            if name.encode("utf-8", "replace").decode() != name:  # Python reads other bytes as lone surrogates
                raise ValueError(f"the name of image {os.fsencode(name)!r} is not UTF-8; rename it")

        meta = {
            "dimension": columns[0],
            "version": VERSIONS,
            "weights": dict(provenance.weights),
            "preprocessing": dict(provenance.preprocessing),
            "sample": sample,
            "root": os.path.abspath(root),
        } | ({"unbounded": self.columns} if unbounded else {})
        if provenance.engine != _TORCH:
            meta["engine"] = provenance.engine
        self._meta = json.loads(json.dumps(meta))  # as it will be read back, with lists for tuples
        # Taken before any image is read: one that changes during the run then counts as changed in the next.
        self._files = {name: fingerprint(Path(root, name)) for name in names} if fingerprints is None else fingerprints
        if beside:
            self._files = {**self._files, **{name: f"{self._files[name]}+{fingerprint(beside[name])}" for name in beside}}
        self._rows: dict[str, str] = {}  # lines of the CSV: of millions of rows, anything else would be too large
        self._failed: set[str] = set()
        self.kept = self.changed = self.dropped = 0

        self.path.parent.mkdir(parents=True, exist_ok=True)
        busy = f"is writing {self.path}; wait for it, or pass another file with -o"
        self._lock = take_lock(_beside(self.path, ".lock"), busy)
        try:
            for file in (self.path, _beside(self.path, ".json"), _beside(self.path, ".partial")):
                if self._lock is not None:
                    remove_unfinished(file)
                if overwrite:
                    file.unlink(missing_ok=True)
            self._take_over({**self._earlier_rows(), **self._journal_rows()})
            self._journal = self._open_journal()
        except BaseException:
            give_lock(_beside(self.path, ".lock"), self._lock)
            raise

    @property
    def count(self) -> int:
        """How many images have a row, with those that have an error."""
        return len(self._rows)

    @property
    def errors(self) -> int:
        """How many rows hold an error."""
        return len(self._failed & self._rows.keys())

    def remaining(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that have no finished row yet, in their order."""
        return [name for name in names if name not in self._rows]

    def add(self, image: str, scores: Mapping[str, float], gray: bool, error: str = "") -> None:
        """Record one image; the row is on disk when this returns.

        Args:
            image: One of the names the writer was opened with.
            scores: A score in [-1, 1] for each column; not looked at if there is an error. A score that is not a
                finite number in that range is not written: the row gets an error in its place.
            gray: Whether the image has no color.
            error: Why the image has no score; empty if it has one.
        """
        if image not in self._files:
            raise ValueError(f"expected one of the {len(self._files)} images the writer was opened with, got {image!r}")
        error = " ".join("".join(c if c.isprintable() else " " for c in error).split())
        if not error and set(scores) != set(self.columns):
            raise ValueError(f"expected scores for {', '.join(self.columns)} of {image}, got {', '.join(scores)}")
        values = {} if error else {column: float(scores[column]) for column in self.columns}
        for column, value in values.items():
            if not error and not (-self.limit <= value <= self.limit and math.isfinite(value)):
                range_error = f"{column} score {value:.6g} is outside [-1, 1]"
                error = range_error if math.isfinite(value) else f"{column} score is not finite"
        row = {
            "image": image,
            "scores": {} if error else {column: _decimals(value) for column, value in values.items()},
            "gray": int(gray),
            "error": error,
            "file": self._files[image],
        }
        self._keep(row)  # before it is on disk: whatever interrupts this, close writes the row
        with naming(_beside(self.path, ".partial")):
            self._journal.write(json.dumps(row).encode() + b"\n")
            self._journal.flush()

    def close(self) -> None:
        """Write the CSV and its sidecar from all rows there are, none if there are no rows, and remove the journal."""
        if self._journal.closed:
            return
        try:
            with naming(_beside(self.path, ".partial")):
                self._journal.close()
            if not self._rows:  # a file without rows would only refuse the next run its other weights
                _beside(self.path, ".partial").unlink(missing_ok=True)
                return
            # In this order a kill between two of them loses nothing: the journal overrides what the CSV says, and
            # a CSV never stands without its sidecar.
            write_atomic(_beside(self.path, ".json"), self._write_sidecar)
            write_atomic(self.path, self._write_csv)
            self._rows = dict.fromkeys(self._rows, "")  # the lines are on disk, and large
            _beside(self.path, ".partial").unlink(missing_ok=True)
        finally:
            give_lock(_beside(self.path, ".lock"), self._lock)

    def _write_csv(self, file: BinaryIO) -> None:
        file.write(_csv_line(["image", *self.columns, "gray", "error"]).encode())
        file.writelines(self._rows[image].encode() for image in sorted(self._rows))

    def _write_sidecar(self, file: BinaryIO) -> None:
        """JSON with an indent of 4, piece by piece: ``json.dumps`` would take seconds and ten times the memory."""
        meta = {**self._meta, "count": self.count, "errors": self.errors, "files": {}}
        file.write(json.dumps(meta, indent=4).encode().removesuffix(b"{}\n}"))
        mark = "{"
        for image in sorted(self._rows):
            file.write(f"{mark}\n        {json.dumps(image)}: {json.dumps(self._files[image])}".encode())
            mark = ","
        file.write(b"\n    }\n}\n")

    def _keep(self, row: dict) -> None:
        """Hold a row, in the form of the journal, for the CSV."""
        cells = [row["image"], *(row["scores"].get(column, "") for column in self.columns), row["gray"], row["error"]]
        if row["error"]:
            self._failed.add(row["image"])
        self._rows[row["image"]] = _csv_line(cells)

    def __enter__(self) -> "ScoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _earlier_rows(self) -> dict[str, dict]:
        """Rows of the CSV that is there, by image, in the form of the journal."""
        if not self.path.exists():
            return {}
        earlier = read_rows(self.path)
        meta, columns = earlier.meta, earlier.columns
        self._refuse_other_run(self.path, {**meta, "columns": columns} if meta else {})
        return {
            record["image"]: {
                "image": record["image"],
                "scores": {} if record["error"] else {column: _decimals(record[column]) for column in columns},
                "gray": int(record["gray"]),
                "error": record["error"],
                "file": meta["files"].get(record["image"], ""),
            }
            for record in earlier.rows
            if record["error"] or all(math.isfinite(record[column]) for column in columns)
        }

    def _journal_rows(self) -> dict[str, dict]:
        """Rows that a killed run left in its journal, by image."""
        path = _beside(self.path, ".partial")
        if not path.exists():
            return {}
        header, *lines = path.read_bytes().split(b"\n")
        self._refuse_other_run(path, _parse_line(header))
        return _parse_rows(lines)

    def _refuse_other_run(self, path: Path, earlier: dict) -> None:
        advice = "pass --overwrite to score all images again, or another file with -o"
        if not earlier:
            raise ValueError(f"{path} does not say which weights made it, so it cannot be continued; {advice}")
        now = _flat({"engine": _TORCH, **self._meta, "columns": self.columns})
        then = _flat(
            {"engine": _TORCH} | {key: value for key, value in earlier.items() if key not in ("count", "errors", "files")}
        )
        other = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
        if other:
            if "engine" in other:
                advice = f"pass --engine {then['engine']} to go on with it, {advice.removeprefix('pass ')}"
            differences = "; ".join(f"{key} was {then.get(key)}, is now {now.get(key)}" for key in other)
            raise ValueError(f"{path} was made in another way: {differences}; {advice}")

    def _take_over(self, rows: dict[str, dict]) -> None:
        """Keep the rows of earlier runs that still hold."""
        for image, row in rows.items():
            if image not in self._files:
                self.dropped += 1
            elif not row["error"] and row["file"] and row["file"] == self._files[image]:
                self._keep(row)
                self.kept += 1
            elif not row["error"]:
                self.changed += 1

    def _open_journal(self) -> io.BufferedRandom:
        path = _beside(self.path, ".partial")
        if not path.exists():
            write_atomic(path, json.dumps({**self._meta, "columns": self.columns}) + "\n")
        elif not path.read_bytes().endswith(b"\n"):
            with naming(path), open(path, "ab") as file:
                file.write(b"\n")  # ends the line a kill tore, so that the next row is not glued to it
        return open(path, "a+b")  # read from at the end, for the file may have been moved or removed by then


def scored_folder(path: Path) -> str | None:
    """Return the folder whose images a score file, or the journal of a stopped run, holds; None if nothing says it."""
    for file in (_beside(path, ".json"), _beside(path, ".partial")):
        if file.is_file():
            content = file.read_bytes()
            meta = _parse_line(content) or _parse_line(content.partition(b"\n")[0])  # a journal says it in its first line
            return meta.get("root") if isinstance(meta, dict) else None
    return None


@dataclass(frozen=True)
class ScoreRows:
    """What a score file holds.

    Attributes:
        columns: Names of the scores, in the file's order.
        rows: Of each image: ``image``, a number for each column, NaN where there is none, ``gray`` and ``error``.
        meta: The sidecar, {} if there is none.
        by_stem: Whether ``image`` holds stems, as in JSON, instead of paths.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    meta: dict[str, Any]
    by_stem: bool = False


def read_scores(path: str | Path, dimension: str | None = None) -> "pd.DataFrame":
    """Return what :func:`read_rows` reads as a table.

    Args:
        path: As for :func:`read_rows`.
        dimension: The same.

    Returns:
        Columns ``image``, those of PR, CF and SCC that are there in the file's order (float in [-1, 1], NaN where
        there is none; of a file of infer_baseline.py all its scores, which may go beyond), ``gray`` (bool) and ``error``
        (empty if none). ``attrs["meta"]`` is the sidecar, {} if there is none; ``attrs["by_stem"]`` says whether ``image``
        holds stems, as in JSON, instead of paths.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read so; the message names the line or image.
    """
    import pandas as pd

    read = read_rows(path, dimension)
    kinds = {"image": str, **dict.fromkeys(read.columns, float), "gray": bool, "error": str}
    frame = pd.DataFrame({name: pd.Series([row[name] for row in read.rows], dtype=kind) for name, kind in kinds.items()})
    frame.attrs = {"meta": read.meta, "by_stem": read.by_stem}
    return frame


def read_rows(path: str | Path, dimension: str | None = None) -> ScoreRows:
    """Read a score file, one made by hand with the columns image and CF (or SCC, PR), or the published JSON form.

    Args:
        path: A ``.csv``, or a ``.json`` that maps file stems to scores.
        dimension: The score that must be there, CF, SCC or PR. Needed for JSON, which does not say what it holds.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read as said above; the message names the line or image.
    """
    path = Path(path)
    meta = _read_sidecar(path) if path.suffix.lower() == ".csv" and path.is_file() else {}
    known = (*DIMENSIONS, *(column for column in meta.get("unbounded", ()) if column not in DIMENSIONS))
    if dimension is not None and dimension not in known:
        raise ValueError(f"expected a dimension out of {', '.join(known)}, got {dimension!r}")
    if not path.is_file():
        script = f"infer_{dimension}.py" if dimension else "infer_CF.py or infer_SCC.py"
        stopped = _beside(path, ".partial").exists()
        advice = f"its run was stopped; start {script} again to finish it" if stopped else f"run {script} to make it"
        raise FileNotFoundError(f"there is no score file {path}; {advice}")
    if path.suffix.lower() == ".json":
        return _read_published(path, dimension)

    header, lines = csv_rows(path, "image", exact=True)
    rows: list[dict[str, Any]] = [row for _, row in lines]
    del lines
    if len(set(header)) < len(header):
        raise ValueError(f"expected each column of {path} once, got {', '.join(header)}")
    found = [column for column in header if column in known]
    if "image" not in header or not found or (dimension and dimension not in found):
        wanted = "image" if "image" not in header else dimension or "CF, SCC or PR"
        others = [] if found else _numeric_columns(header, rows)
        advice = f"; if {others[0]!r} holds the scores, rename it" if "image" in header and len(others) == 1 else ""
        advice = advice or separator_hint(header)
        raise ValueError(f"{path} has no column {wanted}, only {', '.join(header) or 'an empty header'}{advice}")
    images = [row["image"] for row in rows]
    _refuse_duplicates(path, images)
    limit = sys.float_info.max if "unbounded" in meta else 1.0
    for number, row in enumerate(rows):  # in place, for there may be millions
        rows[number] = {
            "image": row["image"],
            **{column: _score(path, row, column, limit) for column in found},
            "gray": _gray(path, row),
            "error": row.get("error", ""),
        }
    return ScoreRows(found, rows, meta)


def read_metric(path: str | Path, column: str | None, score_range: tuple[float, float] | None) -> "pd.DataFrame":
    """Read the file of another metric: the columns image and one with any name.

    Args:
        path: A ``.csv``, or a ``.json`` that maps file stems to scores.
        column: The name of the scores; None takes the one column of numbers.
        score_range: Lowest and highest possible score, mapped to -1 and 1; None for [-1, 1].

    Returns:
        Columns ``image``, ``score`` in [-1, 1] and ``error``; ``attrs`` same as :func:`read_scores`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read so; the message names the column, or the option of evaluate.py that is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no score file {path}")
    by_stem = path.suffix.lower() == ".json"
    meta = {} if by_stem else _read_sidecar(path)
    if by_stem:
        rows = [{"image": stem, "score": str(score)} for stem, score in _json_pairs(path)]
        column = "score"
    else:
        header, lines = csv_rows(path, "image", exact=True)
        rows = [row for _, row in lines]
        numeric = _numeric_columns(header, rows)
        if column is None and meta.get("dimension") in header:
            column = meta["dimension"]
        if "image" not in header or (column or "") not in ("", *header):
            wanted = "image" if "image" not in header else column
            raise ValueError(f"{path} has no column {wanted}, only {', '.join(header)}{separator_hint(header)}")
        if column is None and len(numeric) != 1:
            several = f"several columns of numbers, {', '.join(numeric)}"
            raise ValueError(
                f"{path} has {several if numeric else 'no column of numbers, only ' + ', '.join(header)}; "
                f"name the one that holds the scores after a colon: {path}:{(numeric or ['NAME'])[0]}"
            )
        column = column or numeric[0]
    images = [row["image"] for row in rows]
    _refuse_duplicates(path, images)
    low, high = score_range or (-1.0, 1.0)
    limit = math.inf if "unbounded" in meta and score_range is None else 1.0
    values = []
    for row in rows:
        cell = row[column].strip()
        value = finite_number(cell, f"{path}: {column} of {row['image']} is") if cell else math.nan
        value = (value - (low + high) / 2) / ((high - low) / 2)
        if abs(value) > limit:
            raise ValueError(
                f"{path}: {column} of {row['image']} is {cell}, outside {low:g} to {high:g}; give the lowest and the highest "
                "possible score, such as --versus-range 0 100"
            )
        values.append(value)
    import pandas as pd

    errors = [row.get("error", "") for row in rows]
    frame = pd.DataFrame({"image": pd.Series(images, dtype=str), "score": pd.Series(values, dtype=float), "error": errors})
    frame.attrs = {"meta": meta, "by_stem": by_stem, "metric": True}
    return frame


def write_json(scores: "pd.DataFrame | str | Path", out: str | Path, dimension: str) -> None:
    """Write scores in the published form: ``{stem: score}``, sorted by stem.

    Args:
        scores: What :func:`read_scores` returned, or the path of a score file.
        out: The JSON file to write.
        dimension: The score to write, CF, SCC or PR.

    Raises:
        ValueError: If two images have the same stem, or an image has no score.
    """
    frame = read_scores(scores, dimension) if isinstance(scores, str | Path) else scores
    names = frame["image"].tolist()
    stems = names if frame.attrs.get("by_stem") else _stems(names)
    lacking = frame[~np.isfinite(frame[dimension]) | (frame["error"] != "")]
    if len(lacking):
        name, reason = lacking[["image", "error"]].iloc[0]
        raise ValueError(
            f"{len(lacking)} of {len(frame)} images have no {dimension} score, e.g. {name}: {reason or 'it is empty'}; "
            f"the JSON form has no place for that: repair or remove them and run infer_{dimension}.py again"
        )
    published = dict(zip(stems, frame[dimension].tolist(), strict=True))
    write_atomic(out, json.dumps(published, indent=4, sort_keys=True) + "\n")


def missing_scores(names: Sequence[str], frame: "pd.DataFrame", dimension: str) -> dict[str, str]:
    """Which images have no score, and why.

    Args:
        names: Images relative to the scored folder, as the PR scripts list them.
        frame: What :func:`read_scores` returned.
        dimension: The score to look for, CF, SCC or PR.

    Returns:
        A reason by name, in the order of ``names``: :data:`NO_ROW` if the file does not have the image, else the error
        its row records. Empty if every image has a score.

    Raises:
        ValueError: If the frame has stems for images and two of ``names`` share one.
    """
    found = row_names(names, frame)
    rows = dict(zip(frame["image"], zip(frame[dimension], frame["error"], strict=True), strict=True))
    reasons = {}
    for name in names:
        score, error = rows[found[name]] if name in found else (math.nan, NO_ROW)
        if error or not math.isfinite(score):
            reasons[name] = error or "its score is empty"
    return reasons


def join_scores(names: Sequence[str], frame: "pd.DataFrame", dimension: str, source_path: str | Path) -> np.ndarray:
    """The score of each image, looked up by its full relative path, or by its stem in the published form (see row_names).

    Args:
        names: Images relative to the scored folder.
        frame: What :func:`read_scores` returned, in any order; rows of other images are not used.
        dimension: The score to take, CF, SCC or PR.
        source_path: The file the frame came from, for messages.

    Returns:
        Scores in [-1, 1] in the order of ``names``, shape (N,), float64. Never a value in place of a missing one.

    Raises:
        ValueError: If an image has no row or no score, or the frame has stems and two of ``names`` share one.
    """
    missing = missing_scores(names, frame, dimension)
    absent = [name for name, reason in missing.items() if reason == NO_ROW]
    if absent:
        near = ", ".join(nearest(absent[0], frame["image"].tolist()))
        has = f" (the file has {len(frame)} images, e.g. {near})" if len(frame) else ""
        raise ValueError(
            f"{len(absent)} of {len(names)} images have no {dimension} score in {source_path}, e.g. {absent[0]}{has}; "
            f"run infer_{dimension}.py on the same folder first"
        )
    if missing:
        name, reason = next(iter(missing.items()))
        raise ValueError(
            f"{len(missing)} of {len(names)} images have an error for a {dimension} score in {source_path}, "
            f"e.g. {name}: {reason}; repair or remove them and run infer_{dimension}.py again"
        )
    found = row_names(names, frame)
    return frame.set_index("image")[dimension].reindex([found[name] for name in names]).to_numpy(dtype=np.float64)


def in_sample(frame: "pd.DataFrame") -> bool | None:
    """Whether the weights were trained on the images they scored; None if the file does not say."""
    sample = frame.attrs.get("meta", {}).get("sample")
    if sample is not None and sample not in SAMPLES:
        raise ValueError(f"expected the score file's sample to be one of {', '.join(SAMPLES)}, got {sample!r}")
    return None if sample in (None, "unknown") else sample == "in-sample"


def _read_published(path: Path, dimension: str | None) -> ScoreRows:
    if path.name.lower().endswith(".csv.json"):
        raise ValueError(f"{path} says how the scores of {path.with_suffix('').name} were made; pass that file instead")
    if dimension is None:
        raise ValueError(f"{path} does not say whether it holds CF, SCC or PR; say which, or pass the CSV")
    pairs = _json_pairs(path)
    _refuse_duplicates(path, [stem for stem, _ in pairs])
    for stem, score in pairs:
        is_number = isinstance(score, (int, float)) and not isinstance(score, bool)
        if not is_number or not -1 <= score <= 1:
            raise ValueError(f"expected a {dimension} score in [-1, 1] for {stem} in {path}, got {score!r}")
    rows = [{"image": stem, dimension: score, "gray": False, "error": ""} for stem, score in pairs]
    return ScoreRows([dimension], rows, {}, by_stem=True)


def _json_pairs(path: Path) -> list[tuple[str, Any]]:
    """Stems and scores of the published form."""
    text = read_text(path, "UTF-8 text", "save it as UTF-8")
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected {path} to be JSON, got {error}") from None
    if not text.lstrip().startswith("{"):
        raise ValueError(f"expected {path} to map file stems to scores, got {type(pairs).__name__}")
    return pairs


def _read_sidecar(path: Path) -> dict:
    sidecar = _beside(path, ".json")
    if not sidecar.exists():
        return {}
    try:
        meta = json.loads(sidecar.read_bytes())
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"expected {sidecar} to be JSON, got {error}; delete it or score again") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("files"), dict):
        raise ValueError(f"expected {sidecar} to say how {path.name} was made, got other JSON; delete it or score again")
    return meta


def _score(path: Path, row: dict[str, str], column: str, limit: float) -> float:
    cell = row[column].strip()
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not -limit <= value <= limit:
        wanted = "score in [-1, 1]" if limit == 1 else "finite score"
        raise ValueError(f"expected a {column} {wanted} for {row['image']} in {path}, got {cell!r}{comma_hint(cell)}")
    return value


def _gray(path: Path, row: dict[str, str]) -> bool:
    cell = row.get("gray", "").strip().lower()
    if cell not in ("", "0", "1", "false", "true"):
        raise ValueError(f"expected 0 or 1 as gray for {row['image']} in {path}, got {cell!r}")
    return cell in ("1", "true")


def _numeric_columns(header: list[str], rows: list[dict[str, str]]) -> list[str]:
    def is_number(cell: str) -> bool:
        try:
            float(cell)
        except ValueError:
            return False
        return True

    others = [column for column in header if column not in ("image", "gray", "error")]
    cells = {column: [row[column].strip() for row in rows if row[column].strip()] for column in others}
    return [column for column in others if cells[column] and all(map(is_number, cells[column]))]


def _refuse_duplicates(path: Path, images: list[str]) -> None:
    if "" in images:
        raise ValueError(f"expected the name of an image in every row of {path}, got an empty one")
    seen: set[str] = set()
    for image in images:
        if image in seen:
            raise ValueError(f"expected each image once in {path}, got {image} {images.count(image)} times")
        seen.add(image)


def row_names(names: Sequence[str], frame: "pd.DataFrame") -> dict[str, str]:
    """What each image is called in a score file, by the rule of :mod:`utils.names`; images without a row are left out.

    Raises:
        ValueError: If the frame has stems for images and two of ``names`` share one.
    """
    if not frame.attrs.get("by_stem"):
        return match_names(names, frame["image"])
    known = set(frame["image"])
    cut = map(_cut, names)
    keys = [short if stem not in known and short in known else stem for stem, short in zip(_stems(names), cut, strict=True)]
    found = match_names(keys, known)
    return {name: found[key] for name, key in zip(names, keys, strict=True) if key in found}


def _cut(name: str) -> str:
    """The key of an image in the published CF results: four characters are taken off, whatever the suffix."""
    return PurePosixPath(name).name[:-4]


def _stems(names: Sequence[str]) -> list[str]:
    """The key of each image in the published form: its file name without folder and suffix."""
    stems = [PurePosixPath(name).stem for name in names]
    first: dict[str, str] = {}
    for stem, name in zip(stems, names, strict=True):
        if first.setdefault(stem, name) != name:
            raise ValueError(
                f"{first[stem]} and {name} have the same stem, {stem}, so the JSON form cannot tell them apart; "
                "use the CSV form"
            )
    return stems


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _decimals(value: float) -> str:
    text = f"{value:.6f}"
    return "0.000000" if text == "-0.000000" else text


def _csv_line(cells: Sequence[str | int]) -> str:
    """One row. Not by csv.writer, which leaves a carriage return in a name unquoted where lines end in a newline."""
    quoted = ['"' + cell.replace('"', '""') + '"' if any(c in cell for c in ',"\r\n') else cell for cell in map(str, cells)]
    return ",".join(quoted) + "\n"


def _parse_line(line: bytes) -> dict:
    """A line of the journal; empty for one that a kill tore, or a power cut filled with anything."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _parse_rows(lines: Iterable[bytes]) -> dict[str, dict]:
    """Rows of the journal, by image."""
    rows = map(_parse_line, lines)
    return {row["image"]: row for row in rows if row}


def _flat(meta: dict) -> dict:
    """``{"weights": {"CF": x}}`` as ``{"weights.CF": x}``, to name what differs."""
    flat: dict[str, Any] = {}
    for key, value in meta.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": content for inner, content in _flat(value).items()}
        else:
            flat[key] = value
    return flat

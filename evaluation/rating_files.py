"""Files that raters save on a page of tools/make_rating_page.py: ratings or choices, and which raters count.

A file holds one rater: answers in the order they were given, with hidden repeats and attention checks; the rater's answers
about screen and eyesight; scene and method of each image (docs/rating.md). ``read_rating_files`` checks everything, because a
file passes through a browser, a mail program and people's hands.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.files import sha256
from utils.images import printable
from utils.names import amount
from utils.tables import read_text

FORMAT = "icqa-rating 1"
KINDS = ("single", "pairs")
LABELS = ("Bad", "Poor", "Fair", "Good", "Excellent")  # the five-grade quality scale of ITU-T P.910 and ITU-R BT.500, 1 to 5
QUESTIONS = ("CF", "SCC", "PR", "naturalness")

# Limits for raters. In simulations (docs/rating.md) random answers fail; answers with a noise of 0.7 points hardly ever do.
CHECKS_FAILED = 1 / 3  # more than this share of the attention checks
REPEAT_DIFFERENCE = 1.25  # points between first and second answers, on average
REPEATS = 3  # images or pairs that were shown twice, at least
REPEAT_CHOICES = 0.5  # of pairs: fewer than this share of the choices were made again

_PARTS = ("rating", "repeat", "check")
_HEAD = {"study_id": str, "kind": str, "questions": list, "rater": str, "trials": list, "images": dict}


@dataclass(frozen=True)
class RatingFiles:
    """Answers of the raters of one study.

    Attributes:
        study_id: Identifier of kind, questions and images of the page.
        kind: "single" or "pairs".
        questions: Names of the questions, in the order of the page.
        trials: One row per trial and question, in the order of the answers: rater, part ("rating", "repeat" or "check"),
            question and expected (NaN unless a check). Single images add image and score; pairs add the images a and b, and
            choice, which like expected is "a" or "b".
        raters: One row per rater: rater, file, finished, n (trials that count), checks, checks_failed, repeats,
            repeat_difference (mean absolute difference in points; for pairs the share of changed choices), seconds (median per
            trial), screened (why the rater is left out, or "").
        places: Columns scene and method by image, or no columns if the page had none.
        sha256: Checksum of each file that was read, by path.
        notes: Lines about files that were left out.
    """

    study_id: str
    kind: str
    questions: tuple[str, ...]
    trials: pd.DataFrame
    raters: pd.DataFrame
    places: pd.DataFrame
    sha256: dict[str, str]
    notes: tuple[str, ...]

    def ratings(self, question: str) -> pd.DataFrame:
        """Return the scores of the raters who count: rater, image, score, session (""); of a repeated image the first."""
        rows = self._counted(question)
        return rows[["rater", "image", "score"]].assign(session="").reset_index(drop=True)

    def wins(self) -> tuple[list[str], np.ndarray]:
        """Return the sorted images, and how often raters who count preferred the row to the column, shape (N, N)."""
        rows = self._counted(self.questions[0])
        names = sorted({*rows["a"], *rows["b"]})
        index = {name: number for number, name in enumerate(names)}
        wins = np.zeros((len(names), len(names)))
        for a, b, choice in rows[["a", "b", "choice"]].itertuples(index=False):
            winner, loser = (a, b) if choice == "a" else (b, a)
            wins[index[winner], index[loser]] += 1.0
        return names, wins

    def _counted(self, question: str) -> pd.DataFrame:
        kept = self.raters.loc[self.raters["screened"] == "", "rater"]
        rows = self.trials
        return rows[(rows["part"] == "rating") & (rows["question"] == question) & rows["rater"].isin(kept)]


def read_rating_files(sources: Iterable[Path]) -> RatingFiles:
    """Read the files of all raters of a study.

    Args:
        sources: Files, or folders whose files ``*.json`` are read, including subfolders. JSON files of a folder that do not
            come from a rating page, such as MOS files, are left out and counted.

    Raises:
        FileNotFoundError: If a file is missing, or there is no file.
        ValueError: If a file is damaged, belongs to another study or kind, or has wrong contents; the error names the file.
    """
    contents: dict[Path, dict[str, Any]] = {}
    notes, others = [], 0
    for path, named in _paths(sources):
        content = _content(path, named)
        if content is None:
            others += 1
        else:
            contents[path] = content
    if others:
        notes.append(f"left out: {amount(others, 'JSON file')} that {'is' if others == 1 else 'are'} of no rater")
    if not contents:
        raise FileNotFoundError("no file of a rating page there; expected the files that raters save, ratings_*.json")

    first_path, first = next(iter(contents.items()))
    for path, content in contents.items():
        for key in ("study_id", "kind", "questions"):
            if content[key] != first[key]:
                raise ValueError(
                    f"{path} is of another study than {first_path}: {key} is {content[key]!r} and {first[key]!r}; give the "
                    "files of one page at a time"
                )
    contents, repeated = _one_per_rater(contents)
    notes += repeated

    kind, questions = first["kind"], tuple(first["questions"])
    rows: list[dict[str, Any]] = []
    raters: list[dict[str, Any]] = []
    places: dict[str, tuple[str, str] | None] = {}
    for path, content in contents.items():
        trials = _trials(path, content, kind, questions)
        _add_places(path, content, trials, places)
        rows += [row for row in trials if row["question"] is not None]
        raters.append(_rater(path, content, trials, kind))
    columns = ["rater", "part", "question", "expected", *(("image", "score") if kind == "single" else ("a", "b", "choice"))]
    return RatingFiles(
        first["study_id"],
        kind,
        questions,
        pd.DataFrame(rows, columns=columns),
        pd.DataFrame(raters),
        _places_frame(places),
        {str(path): sha256(path) for path in contents},
        tuple(notes),
    )


def _paths(sources: Iterable[Path]) -> list[tuple[Path, bool]]:
    """Return the paths of the files, and whether each is named in ``sources`` rather than found in a folder."""
    paths: dict[Path, bool] = {}
    for source in sources:
        if source.is_dir():
            for path in sorted(source.rglob("*.json")):
                if not any(part.startswith(".") for part in path.relative_to(source).parts):
                    paths.setdefault(path, False)
        elif source.is_file():
            paths[source] = True
        else:
            raise FileNotFoundError(f"no file {source}; expected files of a rating page, ratings_*.json, or their folder")
    return list(paths.items())


def _content(path: Path, named: bool) -> dict[str, Any] | None:
    """Read a file and check its head; return None for another kind of JSON file that was found in a folder."""
    try:
        content = json.loads(read_text(path, "a file of a rating page", "ask the rater to send it again, as an attachment"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is damaged ({error.msg}, line {error.lineno}); ask the rater to send it again, as an attachment, or move "
            "it elsewhere"
        ) from error
    except RecursionError as error:
        raise ValueError(f"{path} is damaged (nested too deeply)") from error
    if not isinstance(content, dict) or not str(content.get("format", "")).startswith(FORMAT.split()[0]):
        if named:
            raise ValueError(f"{path} is no file of a rating page: it has no format {FORMAT!r}")
        return None
    if content["format"] != FORMAT:
        raise ValueError(
            f"{path} has the format {content['format']!r}, expected {FORMAT!r}; use the version that made its page"
        )
    for key, kind in _HEAD.items():
        if not isinstance(content.get(key), kind) or (not content[key] and key not in ("trials", "images")):
            raise ValueError(f"{path}: {key} is {content.get(key)!r:.60}, expected {kind.__name__}")
    if content["kind"] not in KINDS:
        raise ValueError(f"{path}: kind is {content['kind']!r}, expected {' or '.join(KINDS)}")
    if not set(map(str, content["questions"])) <= set(QUESTIONS):
        raise ValueError(f"{path}: questions are {content['questions']}, expected some of {', '.join(QUESTIONS)}")
    if printable(content["rater"]) != content["rater"] or len(content["rater"]) > 100:
        raise ValueError(f"{path}: rater is {content['rater']!r:.60}, expected a short name")
    return content


def _one_per_rater(contents: Mapping[Path, dict[str, Any]]) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Return the fullest file of each rater, and notes on the others; a rater who saved twice has two files."""
    by_rater: dict[str, Path] = {}
    notes = []
    for path, content in contents.items():
        other = by_rater.setdefault(content["rater"], path)
        if other == path:
            continue
        less, more = sorted((other, path), key=lambda p: len(contents[p]["trials"]))
        if content.get("seed") != contents[other].get("seed"):
            raise ValueError(f"{path} and {other} are of one rater, {content['rater']}, but of two sittings; keep one")
        by_rater[content["rater"]] = more
        notes.append(f"left out: {less}, an earlier or equal copy of {more}")
    return {path: contents[path] for path in contents if path in by_rater.values()}, notes


def _trials(path: Path, content: dict[str, Any], kind: str, questions: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row per trial and question; a skipped trial has one row, whose question is None."""
    rows = []
    allowed: tuple[Any, ...] = tuple(range(1, len(LABELS) + 1)) if kind == "single" else ("a", "b")
    shown = ("image",) if kind == "single" else ("a", "b")
    rated: set[tuple[str, ...]] = set()
    for number, trial in enumerate(content["trials"], start=1):
        where = f"{path}, trial {number}"
        if not isinstance(trial, dict) or trial.get("kind") not in _PARTS:
            raise ValueError(f"{where}: expected one of the kinds {', '.join(_PARTS)}, got {trial!r:.60}")
        part, seconds = trial["kind"], trial.get("seconds")
        names = tuple(trial.get(key) for key in shown)
        if part != "check" and not all(isinstance(name, str) and name in content["images"] for name in names):
            raise ValueError(f"{where}: {' and '.join(shown)} must be images of the list at the end, got {names!r:.80}")
        if part == "check" and trial.get("expected") not in allowed:
            raise ValueError(f"{where}: expected is {trial.get('expected')!r}, must be one of {allowed}")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ValueError(f"{where}: seconds is {seconds!r}, expected a number of at least 0")
        key = tuple(sorted(map(str, names)))
        if part == "rating" and key in rated:
            raise ValueError(f"{where}: {' and '.join(key)} is rated a second time and not marked as a repeat")
        rated |= {key} if part == "rating" else set()
        head = {
            "rater": content["rater"],
            "part": part,
            "expected": trial.get("expected"),
            "seconds": seconds,
            "number": number,
        }
        head |= dict(zip(shown, names, strict=True))
        if trial.get("skipped"):  # the image could not be loaded
            rows.append({**head, "question": None})
            continue
        scores = trial.get("scores")
        if not isinstance(scores, dict) or set(scores) != set(questions):
            raise ValueError(f"{where}: scores are {scores!r:.60}, expected one for each of {', '.join(questions)}")
        for question in questions:
            value = scores[question]
            if isinstance(value, bool) or value not in allowed:
                raise ValueError(f"{where}: {question} is {value!r}, must be one of {', '.join(map(str, allowed))}")
            rows.append({**head, "question": question, "choice" if kind == "pairs" else "score": value})
    return rows


def _rater(path: Path, content: dict[str, Any], trials: Sequence[Mapping[str, Any]], kind: str) -> dict[str, Any]:
    """Return the row of a rater, with the reason to leave the rater out, if any."""
    value = "choice" if kind == "pairs" else "score"
    answered = [row for row in trials if row["question"] is not None]
    numbers = {part: {row["number"] for row in answered if row["part"] == part} for part in _PARTS}
    failed = {row["number"] for row in answered if row["part"] == "check" and row[value] != row["expected"]}

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        names = (row["image"],) if kind == "single" else tuple(sorted((row["a"], row["b"])))
        return (*names, row["question"])

    def meant(row: Mapping[str, Any]) -> Any:
        return row["score"] if kind == "single" else row[row["choice"]]  # a repeated pair has changed sides

    first = {key(row): meant(row) for row in answered if row["part"] == "rating"}
    again = [(first[key(row)], meant(row)) for row in answered if row["part"] == "repeat" and key(row) in first]
    differences = [float(a != b) if kind == "pairs" else abs(a - b) for a, b in again]
    difference = float(np.mean(differences)) if differences else math.nan
    conditions = content.get("conditions")
    conditions = conditions if isinstance(conditions, dict) else {}

    screened = ""
    if len(failed) > CHECKS_FAILED * len(numbers["check"]):
        screened = f"attention: {len(failed)} of {amount(len(numbers['check']), 'check')} failed"
    elif len(numbers["repeat"]) >= REPEATS and kind == "single" and difference > REPEAT_DIFFERENCE:
        screened = f"repeats: {difference:.2f} points apart on average, at most {REPEAT_DIFFERENCE:g}"
    elif len(numbers["repeat"]) >= REPEATS and kind == "pairs" and 1 - difference < REPEAT_CHOICES:
        screened = f"repeats: {1 - difference:.0%} of the choices made again, at least {REPEAT_CHOICES:.0%}"
    elif conditions.get("color_vision") == "deficient":
        screened = "color vision: deficient, as the rater says"
    seconds = {row["number"]: row["seconds"] for row in answered}
    return {
        "rater": content["rater"],
        "file": str(path),
        "finished": int(bool(content.get("finished"))),
        "n": len(numbers["rating"]),
        "checks": len(numbers["check"]),
        "checks_failed": len(failed),
        "repeats": len(numbers["repeat"]),
        "repeat_difference": difference,
        "seconds": float(np.median(list(seconds.values()))) if seconds else math.nan,
        "screened": screened,
    }


def _add_places(
    path: Path, content: dict[str, Any], trials: Sequence[Mapping[str, Any]], places: dict[str, tuple[str, str] | None]
) -> None:
    """Add scene and method of the images of a file to ``places``; they must be the same in every file."""
    for name in {row[key] for row in trials for key in ("image", "a", "b") if row.get(key) is not None}:
        entry = content["images"][name]
        if not isinstance(entry, dict):
            raise ValueError(f"{path}: of image {name!r} expected its file, scene and method, got {entry!r:.60}")
        place = (str(entry["scene"]), str(entry.get("method", ""))) if entry.get("scene") is not None else None
        if places.setdefault(name, place) != place:
            raise ValueError(f"{path}: scene and method of {name} are {place}, in other files {places[name]}")


def _places_frame(places: Mapping[str, tuple[str, str] | None]) -> pd.DataFrame:
    placed = {name: place for name, place in sorted(places.items()) if place is not None}
    if not placed or len(placed) < len(places):
        return pd.DataFrame(index=pd.Index(sorted(places)))
    return pd.DataFrame(list(placed.values()), columns=["scene", "method"], index=pd.Index(list(placed)))

"""What scripts wrote and said, for tests to look at."""

import csv
import json
from pathlib import Path
from typing import Any

import torch

from utils.checkpoint import read_checkpoint


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a score file by image."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def meta_of(path: Path) -> dict:
    """What stands beside a score file."""
    return json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))


def history_of(folder: Path, name: str = "metrics.csv") -> list[dict[str, str]]:
    """Rows of the log of a training without the time they took."""
    with open(folder / name, newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path)["model"]


def assert_same_weights(a: Path, b: Path) -> None:
    one, other = weights_of(a), weights_of(b)
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def assert_one_line(result: Any, *words: str) -> None:
    """A script failed at the door, 1, or did not take its arguments, 2: one line to read and no traceback."""
    assert result.code in (1, 2)
    assert result.err.startswith("error: ") == (result.code == 1), result.err
    assert result.err.count("\n") == 1, result.err
    for word in words:
        assert word in result.err

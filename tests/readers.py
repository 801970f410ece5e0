"""What scripts wrote, for tests to look at."""

import csv
import json
from pathlib import Path


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a score file by image."""
    with open(path, newline="", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def meta_of(path: Path) -> dict:
    """What stands beside a score file."""
    return json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))

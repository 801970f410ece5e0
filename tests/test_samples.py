"""The committed sample images: complete, small, named as ICQA-2K names its files, and attributed."""

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.make_samples import attribution

SAMPLES = Path(__file__).parents[1] / "data" / "samples"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with open(SAMPLES / "samples.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def methods(rows: list[dict[str, str]]) -> dict[str, set[str]]:
    """The methods of each scene."""
    found = defaultdict(set)
    for row in rows:
        found[row["scene"]].add(row["method"])
    return found


def test_the_folder_is_under_3_megabytes():
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 3e6


def test_every_file_is_listed_once_and_named_method_scene(rows):
    assert sorted(row["image"] for row in rows) == sorted(path.name for path in SAMPLES.glob("*.jpg"))
    for row in rows:
        assert re.fullmatch(r"[A-Z]{3}_\d{12}\.jpg", row["image"])
        assert row["image"] == f"{row['method']}_{row['scene']}.jpg"


def test_five_scenes_or_more_have_an_original_and_three_recolorings(methods):
    assert len(methods) >= 5
    assert all("ORG" in found and len(found) >= 4 for found in methods.values())


def test_recolorings_keep_the_size_and_change_the_color(methods):
    for scene, found in methods.items():
        original = np.asarray(Image.open(SAMPLES / f"ORG_{scene}.jpg"), dtype=float)
        assert max(original.shape) <= 480
        for method in found - {"ORG"}:
            recolored = np.asarray(Image.open(SAMPLES / f"{method}_{scene}.jpg"), dtype=float)
            assert recolored.shape == original.shape
            assert np.abs(recolored - original).mean() > 2  # of 255


def test_the_attribution_lists_every_scene_and_is_what_the_script_writes(methods):
    text = (SAMPLES / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(f"| {scene} |" in text for scene in methods)
    assert text == attribution()

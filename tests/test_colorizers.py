"""The benchmark of colorizers compares photographs with outputs as its page says."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_image
from PIL import Image

from benchmarks import colorizers
from benchmarks.colorizers import auc, human_rows, matched, original_over_output, wins
from data.recolor import to_lab
from models import ChromaticFidelityNet, PerceptualRealismNet, SemanticConsistencyNet
from utils.checkpoint import save_checkpoint


def scenes(values: list[float]) -> pd.Series:
    return pd.Series(values, index=list("abcd")[: len(values)])


def test_a_photograph_wins_where_it_scores_above_and_half_where_it_ties():
    assert wins(scenes([1, 2, 3, 4]), scenes([0, 2, 4, 1])).startswith("0.62 [")
    assert wins(scenes([1, 2]), scenes([0, 1])) == "1.00 [1.00, 1.00]"
    assert wins(scenes([1]), pd.Series([0.0], index=["other"])) == ""


def test_auc_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 5, (40, 2)).astype(float)
    by_hand = np.mean([(a > b) + (a == b) / 2 for a in pairs[:, 0] for b in pairs[:, 1]])
    assert auc(pairs) == pytest.approx(by_hand)


def test_a_matched_output_has_the_chroma_of_its_photograph():
    rgb = (127 + 0.2 * (make_image(1, 40, 60).astype(float) - 127)).astype(np.uint8)
    before = np.hypot(*to_lab(rgb)[1:]).mean()
    after = np.hypot(*to_lab(matched(rgb, 1.5 * before))[1:]).mean()
    assert after == pytest.approx(1.5 * before, rel=0.05)


def test_rows_compare_each_method_with_the_photograph_of_its_scene():
    table = pd.DataFrame(
        {
            "scene": ["a", "a", "a", "b", "b", "b"],
            "method": ["original", "x", "y"] * 2,
            "folder": "source",
            "CF": [0.5, 0.1, 0.6, 0.2, 0.1, 0.3],
            "CF matched": [np.nan, 0.6, 0.6, np.nan, 0.1, 0.3],
        }
    )
    rows = {(row["method"], row["compared"]): row["CF"][:4] for row in original_over_output(table, ["CF"])}
    assert rows["x", "as it is"] == "1.00"
    assert rows["x", "chroma-matched"] == "0.50"
    assert rows["y", "as it is"] == "0.00"
    assert rows["x", "AUC over scenes"] == "1.00"


def test_only_clear_pairs_of_typicality_count():
    table = pd.DataFrame(
        {
            "folder": "things",
            "scene": ["a", "a", "b", "b", "c", "c"],
            "typicality": [0.9, 0.1, 0.2, 0.8, 0.5, 0.6],
            "PR": [1.0, 0.0, 1.0, 0.0, 0.0, 1.0],
        }
    )
    (row,) = human_rows(table, ["PR"], "typicality")
    assert row["scenes"] == 2
    assert row["PR"].startswith("0.50 [")


def test_the_page_is_made_of_any_folder_with_an_index(tmp_path: Path, run, monkeypatch):
    weights = tmp_path / "weights"
    for net in (ChromaticFidelityNet, SemanticConsistencyNet, PerceptualRealismNet):
        save_checkpoint(weights / f"{net.dimension}.pt", net("test_efficientnet", 64))
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = []
    for scene in range(3):
        for method in ("original", "mine"):
            name = f"{scene}_{method}.png"
            Image.fromarray(make_image(scene + 9 * (method == "mine"), 40, 50)).save(folder / name)
            rows.append((name, scene, method))
    pd.DataFrame(rows, columns=["image", "scene", "method"]).to_csv(folder / "index.csv", index=False)
    done = run("benchmarks/colorizers.py", folder, "--weights", weights)
    assert done.code == 0, done.err
    assert "chroma-matched" in done.out
    assert "3 outputs" in done.out
    assert "TRAINED ON" not in done.out
    with pytest.raises(FileNotFoundError, match=r"no index\.csv"):
        colorizers.read_index(tmp_path)

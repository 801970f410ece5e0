"""CIN25: made-up rows in the form we know of, and their means."""

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.cin25 import load_cin25
from data.table import load_table


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def whole(path: Path) -> tuple[Path, dict[str, list[float]]]:
    """25 scenes, the original and three methods, five people from 1 to 5; and the scores by image."""
    rng = np.random.default_rng(0)
    lines, scores = [], {}
    for scene in range(25):
        for method in ("original", "M1", "M2", "M3"):
            image = f"{method}/{scene:02d}.png"
            scores[image] = rng.integers(1, 6, 5).astype(float).tolist()
            lines += [f"{scene},{image},{method},{score},u{user}" for user, score in enumerate(scores[image])]
    return write(path, *rng.permutation(lines).tolist()), scores


def test_mos_is_the_mean_over_people_and_its_error_that_of_the_mean(tmp_path):
    path, scores = whole(tmp_path / "ratings.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = load_cin25(path, (1, 5))
    assert list(frame.columns) == ["image", "scene", "method", "CF", "SCC", "PR", "PR_se"]
    assert frame["image"].tolist() == sorted(scores)
    assert frame[["CF", "SCC"]].isna().all(axis=None)
    assert set(frame["method"]) == {"original", "M1", "M2", "M3"}
    assert frame["scene"].nunique() == 25
    for row in frame.to_dict("records"):
        raw = np.array(scores[row["image"]])
        assert row["PR"] == pytest.approx((raw.mean() - 3) / 2)
        assert row["PR_se"] == pytest.approx(raw.std(ddof=1) / math.sqrt(5) / 2)
    assert frame.attrs == {"root": str(tmp_path), "name": "CIN25"}
    assert load_cin25(path, (1, 5), tmp_path / "images").attrs["root"] == str(tmp_path / "images")


def test_a_header_is_passed_over_and_may_order_the_columns_and_scores_run_from_1_to_5(tmp_path):
    path, _ = whole(tmp_path / "ratings.csv")
    expected = load_cin25(path, (1, 5))
    pd.testing.assert_frame_equal(load_cin25(path), expected)
    rows = path.read_text().splitlines()
    for header in ("scene_id,image_path,method,score,user_id", "Scene,Image,Method,Score,User", "\ufeffa,b,c,d,e"):
        pd.testing.assert_frame_equal(load_cin25(write(path, header, *rows)), expected)
    named = ["", "user_id", "score", "image_path", "scene_id", "method"]
    turned = [",".join([str(i), *(row.split(",")[j] for j in (4, 3, 1, 0, 2))]) for i, row in enumerate(rows)]
    pd.testing.assert_frame_equal(load_cin25(write(path, ",".join(named), *turned)), expected)


def test_one_row_per_image_has_the_error_that_a_table_with_deviations_has(tmp_path):
    path, scores = whole(tmp_path / "ratings.csv")
    lines = [f"{image},{np.mean(raw)},{np.std(raw, ddof=1)},5" for image, raw in scores.items()]
    table = write(tmp_path / "table.csv", "image,PR,PR_std,n", *lines)
    with pytest.warns(UserWarning, match="no column scene"):
        frame = load_table(table, (1, 5), check_files=False)
    pd.testing.assert_frame_equal(frame[["image", "PR", "PR_se"]], load_cin25(path, (1, 5))[["image", "PR", "PR_se"]])


def test_who_rated_an_image_twice_counts_once_and_one_person_has_no_error(tmp_path):
    path = write(tmp_path / "r.csv", "1,a.png,M,0.8,x", "1,a.png,M,0.4,x", "1,a.png,M,0,y", "1, b.png ,N,0.5,x", "")
    with pytest.warns(UserWarning, match=r"has 2 images of 1 scene, expected 4 of each of 25"):
        frame = load_cin25(path, (-1, 1))
    assert frame["image"].tolist() == ["a.png", "b.png"]
    assert frame["PR"].tolist() == pytest.approx([0.3, 0.5])
    assert frame["PR_se"].tolist() == pytest.approx([0.3, math.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["scene_id,image_path,method,score,user_id"], "has no rows, expected scene_id"),
        (["1,a.png,M,good,x"], "line 1 has the score 'good', expected a number"),
        (["Scene,Image,Method,Score,User", "1,a.png,M,good,x"], "line 2 has the score 'good', expected a number"),
        (["1,a.png,M,5.5,x"], "line 1 has the score 5.5, outside 1 to 5; .*--mos-range -1 1"),
        (["1,a.png,M,0,x"], "line 1 has the score 0, outside 1 to 5"),
        (["1,a.png,M,nan,x"], "line 1 has the score 'nan'"),
        (["1,a.png,M,1.1,x", "1,a.png,M,1.2"], "line 2: expected 5 cells, scene_id, .*; got 4"),
        (["1,a.png,M,1.1,x", "2,a.png,M,1.2,y"], "gives a.png more than one scene or method"),
        (["1,a.png,M,1.1,x", "1,./a.png,N,1.2,y"], "gives a.png more than one scene or method"),
        (["1,a.png,,1.1,x"], "line 1: expected a scene, a method and a user, got '1', '' and 'x'"),
        (["1,/data/a.png,M,1.1,x"], "line 1: /data/a.png is an absolute path"),
        ([], "has no rows, expected scene_id, .*, with a header or without"),
        (['1,"a.png,M,1.1,x'], "is not a comma-separated UTF-8 table"),
        (["1;a.png;M;1.1;x"], "line 1: expected 5 cells, .*; got 1; its cells are separated by semicolons, expected commas"),
    ],
)
def test_errors_say_what_is_wrong_and_where(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        load_cin25(write(tmp_path / "r.csv", *lines))


def test_ratings_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no ratings .*gone\.csv; expected the rows of CIN25, scene_id"):
        load_cin25(tmp_path / "gone.csv")

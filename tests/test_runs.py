"""From arguments to data: how many pictures of a data set, and which sub-scores belong to them."""

from pathlib import Path

import pandas as pd
import pytest

from utils.runs import counted, load_data, spread, sub_scores


def test_a_number_after_a_colon_is_a_count_of_pictures(tmp_path):
    assert counted(tmp_path / "table.csv:120") == (tmp_path / "table.csv", 120)
    assert counted(tmp_path / "table.csv") == (tmp_path / "table.csv", None)
    (tmp_path / "odd:7").mkdir()
    assert counted(tmp_path / "odd:7") == (tmp_path / "odd:7", None)  # a path of that very name wins


def test_a_counted_data_set_is_spread_evenly(rated):
    everything = load_data([rated], "PR", (-1, 1))
    some = load_data([Path(f"{rated}:5")], "PR", (-1, 1))
    assert len(some) == 5
    assert list(some["image"]) == list(spread(everything, 5)["image"])
    assert {some["image"].iloc[0], some["image"].iloc[-1]} == {everything["image"].iloc[0], everything["image"].iloc[-1]}


def test_the_same_data_set_twice_is_refused(rated):
    with pytest.raises(ValueError, match="is in the data twice"):
        load_data([rated, rated], "PR", (-1, 1))


def test_sub_scores_are_found_after_the_data_have_moved(rated, tmp_path):
    frame = load_data([rated], "PR", (-1, 1))
    table = pd.DataFrame({"image": frame["image"], "CF": [n / 100 for n in range(len(frame))], "gray": 0, "error": ""})
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "cf.csv", index=False)
    (tmp_path / "cf.csv.json").write_text('{"root": "/elsewhere", "sample": "out-of-fold", "files": {}}')
    values, samples = sub_scores(frame, [tmp_path / "cf.csv"], "CF")
    assert values == pytest.approx(table["CF"])
    assert set(samples.values()) == {"out-of-fold"}

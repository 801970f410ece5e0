"""From arguments to data: how many images of a data set, and which sub-scores belong to them."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from data.table import counted, load_data, spread
from models import ChromaticFidelityNet
from train_CF import RECIPE
from training.options import parse_training, training_parser
from training.runs import one_line_errors, read_sub_scores, training_record
from utils.checkpoint import save_checkpoint
from utils.images import ImageReadError


def test_a_number_after_a_colon_is_a_count_of_images(tmp_path):
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
    values, samples = read_sub_scores(frame, [tmp_path / "cf.csv"], "CF")
    assert values == pytest.approx(table["CF"])
    assert set(samples.values()) == {"out-of-fold"}


@pytest.mark.parametrize("complete", [True, False])
def test_images_that_an_earlier_training_did_not_record_stay_unknown(rated, tmp_path, complete):
    """A network whose start weights came from elsewhere has seen more than it can say, and so has one that starts from it."""
    earlier = torch.tensor([[5, 7]])
    start = ChromaticFidelityNet("test_efficientnet", 64)
    save_checkpoint(tmp_path / "start.pt", start, seen=earlier, seen_is_all=complete)
    frame = load_data([rated], "CF", (-1, 1))
    words = ["--data", rated, "--output", tmp_path, "--init", tmp_path / "start.pt", "--ranker", "none"]
    options = parse_training(training_parser(None), "CF", RECIPE, [str(word) for word in words])
    record = training_record(options, {"train": frame[:4], "val": frame[4:6]}, ["CF"])
    assert record["seen_is_all"] is complete
    assert len(record["seen"]) == 7
    assert [5, 7] in record["seen"].tolist()


class Unreadable(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        raise ImageReadError("a.png: damaged")


def test_an_unreadable_image_ends_training_with_one_line_whichever_process_reads_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    one_line_errors()
    for workers in (0, 1):
        with pytest.raises(ImageReadError) as caught:
            list(DataLoader(Unreadable(), num_workers=workers))
        sys.excepthook(caught.type, caught.value, caught.tb)
        assert capsys.readouterr().err == "error: a.png: damaged\n"

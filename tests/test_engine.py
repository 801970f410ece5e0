"""The training loop: what is random, what is frozen, what is kept, and what a resumed run takes over."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import stop_after
from scipy import stats
from torch import Tensor

from data.table import load_table
from models import ChromaticFidelityNet
from models.base import ScoreNet, loss_function
from train_CF import RECIPE
from training.batches import Batches, EpochSampler, augment, epoch_generator
from training.engine import fit, make_optimizer, make_schedule, predict
from training.images import RatedImages, encode_set
from training.options import TrainOptions, parse_training, training_parser
from training.records import write_history, write_results
from utils import distributed, metrics
from utils.checkpoint import read_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sets(rated: Path) -> tuple[RatedImages, RatedImages]:
    """Images of six scenes to train on and of two to validate on, rated in SCC's column."""
    frame = load_table(rated)
    held = frame["scene"].isin(["s6", "s7"])
    preprocess = ChromaticFidelityNet("test_efficientnet", 64).preprocess
    parts = []
    for rows in (frame[~held], frame[held]):
        rows.attrs = frame.attrs
        parts.append(RatedImages(rows, preprocess, "SCC"))
    return parts[0], parts[1]


def network() -> ChromaticFidelityNet:
    torch.manual_seed(3)
    return ChromaticFidelityNet("test_efficientnet", 64)


def arguments(output: Path, *changes: object) -> TrainOptions:
    tiny = ["--backbone", "test_efficientnet", "--size", 64, "--epochs", 2, "--workers", 0, "--device", "cpu"]
    words = ["--data", "x", "--output", str(output), *map(str, [*tiny, *changes])]
    return parse_training(training_parser(""), "CF", RECIPE, words)


def train(
    model: ScoreNet, train_set: Any, val_set: Any, options: TrainOptions, output: Path | None, record: dict[str, Any]
) -> ScoreNet:
    """Fit a network with optimizer and schedule of the options."""
    sets = {"train": train_set, "val": val_set}
    return fit(model, make_optimizer(model, options), make_schedule(options), sets, options, output, record)


def weights_of(path: Path) -> dict[str, Tensor]:
    return read_checkpoint(path)["model"]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def history_of(path: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without the time they took."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_random_numbers_follow_from_seed_epoch_and_stream():
    def numbers(*key: int) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=epoch_generator(*key)).tolist())

    assert numbers(1, 2, 3) == numbers(1, 2, 3)
    assert len({numbers(s, e, t) for s in range(3) for e in range(3) for t in range(3)}) == 27


def test_sampler_shuffles_anew_each_epoch_and_covers_all():
    sampler = EpochSampler(11, seed=5)
    orders = []
    for sampler.epoch in (1, 2, 1):
        orders.append(list(sampler))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(11))
    assert orders[0] == orders[2] != orders[1]
    assert list(EpochSampler(11, seed=6)) != list(EpochSampler(11, seed=5))


def test_processes_share_the_images_in_equal_parts(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    shares = []
    for number in range(3):
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        shares.append(list(Batches(EpochSampler(11, seed=5), 2, drop_last=False)))
    assert [[len(batch) for batch in share] for share in shares] == [[2, 2]] * 3
    order = list(EpochSampler(11, seed=5))
    together = [[share[number][i] for i in range(2) for share in shares] for number in range(2)]
    assert together == [order[:6], [*order[6:], order[6]]]  # one image twice, so that no process waits for another


def test_augmentation_flips_image_and_chroma_maps_together_and_keeps_color():
    half = torch.zeros(64, 3, 40, 40)
    half[..., :20] = torch.tensor([0.8, 0.3, 0.1])[:, None, None]  # left half colored
    maps = torch.zeros(64, 2, 16, 16)
    maps[..., :8] = 1
    out = augment({"rgb": half, "chroma": maps}, epoch_generator(0, 1, 1))
    assert out["rgb"].shape == half.shape
    assert out["chroma"].shape == maps.shape
    flipped = out["rgb"][:, 0, 20, 39] > 0.4
    assert torch.equal(flipped, out["chroma"][:, 0, 8, 15] > 0.5)
    assert 16 < int(flipped.sum()) < 48
    colored = torch.where(flipped[:, None], out["rgb"][:, :, 20, 36], out["rgb"][:, :, 20, 3])
    torch.testing.assert_close(colored, torch.tensor([0.8, 0.3, 0.1]).expand(64, 3))

    plain = torch.full((2, 3, 32, 32), 0.37)
    torch.testing.assert_close(augment({"rgb": plain}, epoch_generator(0, 2, 1))["rgb"], plain)


def test_augmentation_moves_objects_with_the_image_and_leaves_what_was_measured():
    left = torch.zeros(64, 3, 64, 64)
    left[..., 8:24, 8:24] = 0.9  # a thing in the upper left
    cells = torch.zeros(64, 20, 8, 8)
    cells[:, 3, 1:3, 1:3] = 1
    measured, present = torch.randn(64, 20, 22), torch.rand(64, 20).round()
    inputs = {"rgb": left, "objects": measured, "object_cells": cells, "present": present}
    out = augment(inputs, epoch_generator(0, 1, 1))
    assert list(out) == list(inputs)
    assert torch.equal(out["objects"], measured)
    assert torch.equal(out["present"], present)
    assert out["object_cells"].shape == cells.shape
    flipped = out["rgb"][:, 0, 16, 48] > 0.5
    assert 16 < int(flipped.sum()) < 48
    places = out["object_cells"][:, 3]
    assert torch.equal(places[:, 2, 5] > 0.5, flipped)
    assert torch.equal(places[:, 2, 2] > 0.5, ~flipped)
    assert torch.equal(out["rgb"][:, 0, 16, 16] > 0.5, ~flipped)
    assert not out["object_cells"][:, :3].any()
    # a crop shows the whole of a smaller part, never more of an object than there is
    assert ((out["object_cells"] >= 0) & (out["object_cells"] <= 1)).all()


def test_loss_is_mse_and_one_minus_plcc():
    pred = torch.tensor([0.1, -0.4, 0.7, 0.2])
    mos = torch.tensor([0.3, -0.2, 0.5, -0.6])
    mse = (0.04 + 0.04 + 0.04 + 0.64) / 4  # by hand
    plcc = stats.pearsonr(pred.numpy(), mos.numpy()).statistic
    assert float(loss_function(pred, mos, 0)) == pytest.approx(mse)
    assert float(loss_function(pred, mos, 0.5)) == pytest.approx(mse + 0.5 * (1 - plcc), abs=1e-6)
    # two images always correlate perfectly, which says nothing
    assert float(loss_function(pred[:2], mos[:2], 0.5)) == pytest.approx(0.04)


def test_loss_of_equal_predictions_has_finite_gradients():
    pred = torch.full((5,), 0.2, requires_grad=True)
    loss_function(pred, torch.linspace(-1, 1, 5), 0.5).backward()
    assert pred.grad.isfinite().all()


def test_predictions_follow_the_dataset_whatever_the_batch(sets):
    model = network().train()
    scores = predict(model, sets[1], CPU)
    assert scores.shape == (8,)
    model.scoring_batch = 3
    torch.testing.assert_close(predict(model, sets[1], CPU), scores, atol=1e-6, rtol=0)
    alone = [model.score(path) for path in sets[1].paths]
    np.testing.assert_allclose(scores, alone, atol=1e-6)
    assert scores.std() > 1e-4


def test_encoded_sets_hold_the_plain_view_first_and_give_the_same_scores(sets):
    model = network()
    features = encode_set(model, sets[1], CPU, views=3, seed=0, workers=0)
    assert features.features["global"].shape[:2] == (3, 8)
    plain = encode_set(model, sets[1], CPU, views=1, seed=9, workers=0)
    assert torch.equal(plain.features["global"][0], features.features["global"][0])
    assert not torch.equal(features.features["global"][1], features.features["global"][0])
    torch.testing.assert_close(predict(model, plain, CPU), predict(model, sets[1], CPU), atol=1e-6, rtol=0)
    assert torch.equal(features.mos, sets[1].mos)


@pytest.mark.parametrize("rate", [0, 1e-3])
def test_backbone_changes_unless_frozen_and_the_head_always(sets, tmp_path, rate):
    start = {k: v.clone() for k, v in network().state_dict().items()}
    model = train(network(), *sets, arguments(tmp_path, "--backbone-lr", rate), tmp_path, {})
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, start[k])}
    assert any(k.startswith("regressor") for k in changed)
    assert any(k.startswith("backbone") for k in changed) == (rate > 0)
    # batch normalization keeps the statistics it came with
    assert not any("running" in k for k in changed)


def test_loss_falls_on_images_that_can_be_told_apart(sets, tmp_path):
    train(network(), *sets, replace(arguments(tmp_path, "--epochs", 12, "--lr", 3e-3), patience=12), tmp_path, {})
    losses = [float(row["loss"]) for row in history_of(tmp_path / "metrics.csv")]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def scripted_validation(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Validation SRCC of each epoch, in place of the real one."""
    coming = iter(values)
    monkeypatch.setattr(metrics, "correlations", lambda pred, mos: {"SRCC": next(coming), "PLCC": 0.0})


def test_best_is_the_first_epoch_with_the_highest_validation_srcc(sets, tmp_path, monkeypatch):
    scripted_validation(monkeypatch, [math.nan, 0.3, 0.5, 0.5])
    model = train(network(), *sets, arguments(tmp_path, "--epochs", 4, "--backbone-lr", 0), tmp_path, {"note": "x"})
    best = read_checkpoint(tmp_path / "best.pt")
    assert (best["epoch"], best["metrics"]["SRCC"], best["note"]) == (3, 0.5, "x")
    assert equal(best["model"], model.state_dict())
    assert not model.training
    assert read_checkpoint(tmp_path / "last.pt")["epoch"] == 4


def test_a_constant_prediction_is_kept_while_nothing_better_comes(sets, tmp_path, monkeypatch):
    scripted_validation(monkeypatch, [math.nan, math.nan])
    train(network(), *sets, arguments(tmp_path, "--backbone-lr", 0), tmp_path, {})
    assert read_checkpoint(tmp_path / "best.pt")["epoch"] == 1


def test_training_stops_when_patience_is_over(sets, tmp_path, monkeypatch, capsys):
    scripted_validation(monkeypatch, [0.1, 0.4, 0.3, 0.2, 0.9, 0.9])
    args = replace(arguments(tmp_path, "--epochs", 6, "--backbone-lr", 0), patience=2)
    train(network(), *sets, args, tmp_path, {})
    assert read_checkpoint(tmp_path / "last.pt")["epoch"] == 4
    assert read_checkpoint(tmp_path / "best.pt")["epoch"] == 2
    assert "no better validation for 2 epochs" in capsys.readouterr().out


def test_without_validation_the_last_epoch_is_kept(sets, tmp_path):
    train(network(), sets[0], None, arguments(tmp_path, "--epochs", 3, "--backbone-lr", 0), tmp_path, {})
    assert read_checkpoint(tmp_path / "best.pt")["epoch"] == 3
    assert equal(weights_of(tmp_path / "best.pt"), weights_of(tmp_path / "last.pt"))
    assert set(history_of(tmp_path / "metrics.csv")[0]) == {"epoch", "loss", "lr"}


def test_without_an_output_folder_nothing_is_written_and_the_weights_are_the_same(sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = train(network(), *sets, arguments(tmp_path / "a", "--backbone-lr", 0), tmp_path / "a", {})
    silent = train(network(), *sets, arguments(tmp_path / "b", "--backbone-lr", 0), None, {})
    assert equal(written.state_dict(), silent.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "options",
    [["--backbone-lr", 0], ["--backbone-lr", 1e-3, "--workers", 1], ["--backbone-lr", 1e-3, "--no-augment", "--half"]],
)
def test_resuming_gives_the_weights_of_a_run_that_was_not_stopped(sets, tmp_path, monkeypatch, capsys, options):
    options = ["--epochs", 3, "--batch-size", 8, *options]
    train(network(), *sets, arguments(tmp_path / "whole", *options), tmp_path / "whole", {})
    with monkeypatch.context() as patch:
        stop_after(patch, 2 * 3 + 1)  # 24 images are 3 steps an epoch
        with pytest.raises(KeyboardInterrupt):
            train(network(), *sets, arguments(tmp_path / "parts", *options), tmp_path / "parts", {})
    assert read_checkpoint(tmp_path / "parts" / "last.pt")["epoch"] == 2
    capsys.readouterr()
    train(network(), *sets, arguments(tmp_path / "parts", *options, "--resume"), tmp_path / "parts", {})
    assert "resuming after epoch 2 of 3" in capsys.readouterr().out
    for name in ("last.pt", "best.pt"):
        assert equal(weights_of(tmp_path / "whole" / name), weights_of(tmp_path / "parts" / name)), name
    assert history_of(tmp_path / "whole" / "metrics.csv") == history_of(tmp_path / "parts" / "metrics.csv")


def test_resuming_a_finished_run_changes_nothing(sets, tmp_path):
    args = arguments(tmp_path, "--backbone-lr", 0)
    first = train(network(), *sets, args, tmp_path, {})
    before = {name: (tmp_path / name).read_bytes() for name in ("last.pt", "best.pt", "metrics.csv")}
    again = train(network(), *sets, replace(args, resume=True), tmp_path, {})
    assert equal(first.state_dict(), again.state_dict())
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_resuming_with_other_settings_is_refused_and_names_the_old_ones(sets, tmp_path):
    train(network(), *sets, arguments(tmp_path, "--backbone-lr", 0), tmp_path, {})
    other = arguments(tmp_path, "--backbone-lr", 0, "--epochs", 5, "--lr", 0.1, "--resume")
    with pytest.raises(ValueError, match=r"was started with --epochs 2, --lr 0\.001; .*the same settings"):
        train(network(), *sets, other, tmp_path, {})


def test_results_are_valid_json_with_null_where_there_is_no_number(tmp_path):
    write_results(tmp_path / "test.json", {"SRCC": math.nan, "PLCC": 0.5, "pictures": 3})
    assert json.loads((tmp_path / "test.json").read_text()) == {"SRCC": None, "PLCC": 0.5, "pictures": 3}


def test_history_is_one_row_an_epoch(tmp_path):
    write_history(tmp_path / "m.csv", [{"epoch": 1, "loss": 1 / 3}, {"epoch": 2, "loss": 2e-9}])
    assert (tmp_path / "m.csv").read_text() == "epoch,loss\n1,0.333333\n2,2e-09\n"


def test_a_checkpoint_holds_plain_values_only(sets, tmp_path):
    record: dict[str, object] = {"data": ["table.csv"], "seen": torch.zeros(1, 2, dtype=torch.int64)}
    train(network(), *sets, arguments(tmp_path, "--backbone-lr", 0), tmp_path, record)

    def plain(value: object, look: Callable[[object], bool]) -> bool:
        if isinstance(value, dict):
            return all(plain(k, look) and plain(v, look) for k, v in value.items())
        return all(plain(v, look) for v in value) if isinstance(value, list | tuple) else look(value)

    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert plain(content, lambda v: v is None or isinstance(v, str | int | float | bool | Tensor))

"""train_baseline.py and infer_baseline.py as a user runs them: five systems, originals, other data, files of the authors."""

import contextlib
import inspect
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MOS, SCENES, make_image, recolor, stop_after
from PIL import Image
from readers import assert_one_line, assert_same_weights, history_of, meta_of, rows_of
from scipy import stats
from tiny import TINY

import train_baseline
from baselines import afine
from baselines.dpam import DPAM, SUPERPIXELS
from baselines.images import REFERENCE, BaselineImages, Originals, with_originals
from baselines.scorer import SYSTEMS, Baseline
from data.splits import read_split
from data.table import load_data, load_table, with_paths
from models.backbone import UnreachableError
from models.loading import build_model
from tools.label_files import _FORMS, load_foreign
from training.batches import Batches, EpochSampler
from utils import distributed
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.files import image_id
from utils.scores import Provenance, ScoreWriter, read_scores

COMPARING = ("afine", "fr_aigciqa")
COLUMNS = ["CF", "SCC", "PR"]

Runner = Callable[..., Any]


# --- helpers


def settings(system: str, **changes: Any) -> list[str]:
    """``--set`` with the settings of the tiny network."""
    return [
        "--set",
        *(
            f"{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in tiny(system, **changes).items()
        ),
    ]


def tiny(system: str, **changes: Any) -> dict[str, Any]:
    return TINY[system] | changes


def quick(output: Path) -> list[object]:
    """Options of every training here; superpixels lie with the run."""
    return ["--output", output, "--epochs", 1, "--workers", 0, "--device", "cpu", "--cache", output / "cache"]


def originals_of(system: str, data: Path) -> list[object]:
    return ["--reference", data / "originals"] if system in COMPARING else []


def train(run: Runner, data: Path, system: str, output: Path, *options: object, **changes: Any) -> Any:
    """Train a tiny network from random weights; must succeed."""
    own = ["--data", data / "table.csv", "--random-init", *settings(system, **changes), *quick(output)]
    result = run("train_baseline.py", system, *own, *originals_of(system, data), *options)
    assert result.code == 0, result.err
    return result


def infer(run: Runner, system: str, images: Path, output: Path, *options: object) -> dict[str, dict[str, str]]:
    """Rows of a scoring that must succeed."""
    result = run("infer_baseline.py", system, images, "-o", output, *options)
    assert result.code == 0, result.err
    return rows_of(output)


def load(path: Path) -> Baseline:
    return build_model(read_checkpoint(path), str(path), dict.fromkeys(SYSTEMS, Baseline)).eval()


def seen_by(path: Path) -> set[int]:
    return set(read_checkpoint(path)["seen"][:, 1].tolist())


def refused(run: Runner, *arguments: object) -> str:
    """The one line that train_baseline.py ends with."""
    with pytest.raises((ValueError, OSError, UnreachableError)) as caught:
        run("train_baseline.py", *arguments)
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        sys.excepthook(caught.type, caught.value, caught.tb)  # as Python would
    assert err.getvalue().startswith("error: ")
    assert err.getvalue().count("\n") == 1
    return err.getvalue()


def assert_usage(result: Any, *words: str) -> None:
    """A script did not take its arguments."""
    assert result.code == 2
    for word in words:
        assert word in result.err.splitlines()[-1]


@pytest.fixture(scope="module", autouse=True)
def _without_curves():
    """Drawing them, which test_scripts.py looks at, would take a seventh of the time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.records.plot_curves", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def data(rated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rated images with originals: as a folder, in which they have the name of their scene, and as a table."""
    root = tmp_path_factory.mktemp("data")
    shutil.copytree(rated.parent, root, dirs_exist_ok=True)
    (root / "originals").mkdir()
    for scene in SCENES:
        shutil.copy(root / "images" / f"ORG_{scene}.png", root / "originals" / f"{scene}.png")
    rows = [f"images/{method}_{scene}.png,originals/{scene}.png\n" for scene in SCENES for method in MOS]
    (root / "originals.csv").write_text("image,reference\n" + "".join(rows))
    return root


@pytest.fixture(scope="session")
def few(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five of the images, with odd sizes."""
    folder = tmp_path_factory.mktemp("few")
    for name in ("DULL_s0", "ORG_s0", "STAIN_s3", "SWAP_s3", "SWAP_s7"):
        shutil.copy(data / "images" / f"{name}.png", folder)
    return folder


@pytest.fixture(scope="session")
def trained(run: Runner, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each system with three scores."""
    folder = tmp_path_factory.mktemp("trained")
    for system in SYSTEMS:
        train(run, data, system, folder / system)
    return {system: folder / system for system in SYSTEMS}


# --- training and scoring


@pytest.mark.parametrize("system", SYSTEMS)
def test_training_writes_weights_with_three_scores_and_what_they_are_worth(trained, data, system):
    output = trained[system]
    content = torch.load(output / "best.pt", weights_only=True)
    assert (content["dimension"], content["preset"]) == (system, "baseline")
    assert content["config"]["columns"] == COLUMNS
    assert content["config"]["settings"].items() >= TINY[system].items()
    assert content["command"].startswith(f"python train_baseline.py {system} --data {data}")
    results = json.loads((output / "test.json").read_text())
    measured = {"SRCC", "KRCC", "PLCC", "RMSE", "CF SRCC", "SCC PLCC", "PR RMSE", "CF within-scene SRCC"}
    assert measured <= results.keys()
    assert results["RMSE"] == pytest.approx(np.mean([results[f"{column} RMSE"] for column in COLUMNS]))
    scenes = read_split(output / "split.txt")
    assert results["pictures"] == 4 * len(scenes["test"]) == 8
    used = {image_id(p) for p in (data / "images").iterdir() if p.stem.split("_")[1] in scenes["train"] | scenes["val"]}
    assert seen_by(output / "best.pt") == used
    for folder in [output / f"stage{n}" for n in (1, 2, 3)] if system == "afine" else [output]:
        assert [row["epoch"] for row in history_of(folder)] == ["1"]
        assert {"loss", "SRCC", "CF SRCC", "PR RMSE"} <= history_of(folder)[0].keys()


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_image_scores_the_same_alone_and_in_a_folder_and_with_any_number_of_threads(
    run, trained, data, few, tmp_path, system
):
    own = ["--weights", trained[system] / "best.pt", *originals_of(system, data)]
    rows = infer(run, system, few, tmp_path / "one.csv", *own, "--workers", 1)
    assert len({row["PR"] for row in rows.values()}) == len(rows) == 5
    infer(run, system, few, tmp_path / "three.csv", *own, "--workers", 3)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "three.csv").read_bytes()
    model = load(trained[system] / "best.pt")
    for name, row in rows.items():
        original = data / "originals" / f"{Path(name).stem.split('_')[1]}.png" if own[2:] else None
        assert {column: f"{score:.6f}" for column, score in model.score(few / name, original).items()} == {
            column: row[column] for column in COLUMNS
        }
    alone = infer(run, system, few / "STAIN_s3.png", tmp_path / "alone.csv", *own)
    assert alone == {"STAIN_s3.png": rows["STAIN_s3.png"]}
    meta = meta_of(tmp_path / "one.csv")
    assert meta["unbounded"] == COLUMNS
    assert meta["preprocessing"]["system"] == system
    if own[2:]:  # a row goes with its original, a change of which makes it old
        assert all("+" in mark for mark in meta["files"].values())


def test_naturalness_needs_no_original_and_is_what_the_same_weights_say_of_the_image_alone(run, trained, data, few, tmp_path):
    weights = trained["afine"] / "best.pt"
    rows = infer(run, "afine", few, tmp_path / "n.csv", "--weights", weights, "--naturalness")
    network = load(weights).network
    for name, row in rows.items():
        with Image.open(few / name) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        with torch.inference_mode():
            moments = network.moments(network.preprocess(pixels)[None])
            natural = network.natural_map(network.raw_naturalness(moments))[0]
        assert [float(row[column]) for column in COLUMNS] == pytest.approx((-natural / 2).tolist(), abs=2e-6)
    # trained for naturalness, the first stage is all there is, and no original is asked for
    result = run(
        "train_baseline.py", "afine", "--naturalness", "--data", data / "table.csv", "--target", "PR", "--random-init",
        *settings("afine"), *quick(tmp_path / "run"),
    )  # fmt: skip
    assert result.code == 0
    assert "stage 1 of 1" in result.out
    assert not (tmp_path / "run" / "stage2").exists()
    alone = infer(run, "afine", few, tmp_path / "alone.csv", "--weights", tmp_path / "run" / "best.pt")
    assert [row["error"] for row in alone.values()] == [""] * 5
    assert_one_line(
        run("infer_baseline.py", "afine", few, "--weights", weights, "--naturalness", "--reference", data / "originals"),
        "looks at images alone as it is set; leave it out",
    )


def test_the_partial_form_reads_an_original_where_there_is_one(run, data, few, tmp_path):
    (tmp_path / "some").mkdir()
    for scene in ("s1", "s3"):
        shutil.copy(data / "originals" / f"{scene}.png", tmp_path / "some")
    result = train(
        run, data, "fr_aigciqa", tmp_path / "run", "--reference", tmp_path / "some", "--target", "PR", form="partial"
    )
    assert f"originals: 8 of 32 images have one in {tmp_path / 'some'}" in result.out
    own = ["--weights", tmp_path / "run" / "best.pt"]
    without = infer(run, "fr_aigciqa", few, tmp_path / "none.csv", *own)
    some = infer(run, "fr_aigciqa", few, tmp_path / "some.csv", *own, "--reference", tmp_path / "some")
    assert [name for name in some if some[name] != without[name]] == ["STAIN_s3.png", "SWAP_s3.png"]
    model = load(tmp_path / "run" / "best.pt")
    pair = model.score(few / "SWAP_s3.png", data / "originals" / "s3.png")
    assert f"{pair:.6f}" == some["SWAP_s3.png"]["PR"]


def test_originals_from_a_table_give_the_scores_of_those_from_a_folder(run, trained, data, tmp_path):
    own, names = ["--weights", trained["afine"] / "best.pt", "--reference"], ("originals", "originals.csv")
    folder, table = (infer(run, "afine", data / "images", tmp_path / f"{n}.csv", *own, data / n) for n in names)
    assert folder == table
    assert len(table) == 32
    frames = [load_data([data / "table.csv"], "PR", (-1, 1)) for _ in range(2)]
    found = [list(with_originals(frame, data / name)[REFERENCE]) for frame, name in zip(frames, names, strict=True)]
    assert found[0] == found[1] == [str(data / "originals" / f"{scene}.png") for scene in frames[0]["scene"]]


def test_a_run_that_was_stopped_is_gone_on_with_and_another_original_counts_as_a_change(run, trained, data, few, tmp_path):
    shutil.copytree(data / "originals", tmp_path / "o")
    command = ["infer_baseline.py", "afine", few, "-o", tmp_path / "x.csv", "--weights", trained["afine"] / "best.pt"]
    command += ["--reference", tmp_path / "o"]
    assert run(*command).code == 0
    before = rows_of(tmp_path / "x.csv")
    Image.fromarray(make_image(77, 70, 60)).save(tmp_path / "o" / "s3.png")
    assert "3 rows kept, 2 changed images to score again" in run(*command).out
    after = rows_of(tmp_path / "x.csv")
    assert [name for name in after if after[name] != before[name]] == ["STAIN_s3.png", "SWAP_s3.png"]


# --- learning


@pytest.fixture(scope="session")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 images of four scenes, ever more noise in each: ``worse.csv`` rates them down for it, ``better.csv`` up."""
    root = tmp_path_factory.mktemp("sixteen")
    (root / "images").mkdir()
    (root / "originals").mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        original = make_image(number % 4, 64, 72)
        share = 0.8 * number / 15
        noisy = ((1 - share) * original + share * rng.integers(0, 256, original.shape)).astype(np.uint8)
        Image.fromarray(original).save(root / "originals" / f"s{number % 4}.png")
        Image.fromarray(noisy).save(root / "images" / f"m{number:02}_s{number % 4}.png")
    for name, sign in (("worse", -1), ("better", 1)):
        rows = [f"images/m{n:02}_s{n % 4}.png,s{n % 4},m{n:02},{sign * (1.8 * n / 15 - 0.9)}\n" for n in range(16)]
        (root / f"{name}.csv").write_text("image,scene,method,PR\n" + "".join(rows))
    return root


def training_srcc(model: Baseline, frame: pd.DataFrame) -> float:
    originals = list(frame[REFERENCE]) if model.uses_reference else None
    return stats.spearmanr(model.score(list(frame["path"]), originals), frame["PR"]).statistic


def test_sixteen_images_are_learned_by_heart_in_the_stages_of_afine(run, sixteen, tmp_path):
    """Naturalness may prefer noise; D starts from the likeness to the original and must not lose it."""
    common = ["--random-init", *settings("afine"), "--val", 0, "--test", 0, "--no-augment", "--batch-size", 16]
    for name, more in {
        "better": ["--naturalness", "--epochs", 20, "--lr", 1e-3, "--schedule", "constant"],
        "worse": ["--reference", sixteen / "originals", "--epochs", 6, 3, 3, "--lr", 1e-3],
    }.items():
        output = tmp_path / name
        result = run("train_baseline.py", "afine", "--data", sixteen / f"{name}.csv", *quick(output), *common, *more)
        assert result.code == 0
        frame = with_originals(load_data([sixteen / f"{name}.csv"], "PR", (-1, 1)), sixteen / "originals")
        assert training_srcc(load(output / "best.pt"), frame) >= 0.95
        for stage in sorted(output.glob("stage*")):
            losses = [float(row["loss"]) for row in history_of(stage)]
            assert losses[-1] < losses[0]
    assert len(list((tmp_path / "worse").glob("stage*"))) == 3


# --- interruption


def test_resuming_with_random_views_continues_exactly(run, data, tmp_path, monkeypatch):
    system = "delegate_transformer"
    options = ["--target", "PR", "--limit", 12, "--epochs", 3, "--batch-size", 6, "--lr", 1e-3, "--test", 0]
    drawn, real = set(), Baseline.view
    with monkeypatch.context() as patch:
        patch.setattr(Baseline, "view", lambda *x: drawn.add(x[-1].initial_seed()) or real(*x))
        train(run, data, system, tmp_path / "whole", *options)
    assert len(drawn) == 3 * 12  # another view of each image in each epoch
    with monkeypatch.context() as patch:
        stop_after(patch, 2 + 1, Baseline)  # two steps an epoch: within the second
        with pytest.raises(KeyboardInterrupt):
            train(run, data, system, tmp_path / "parts", *options)
    assert read_checkpoint(tmp_path / "parts" / "last.pt")["epoch"] == 1
    result = train(run, data, system, tmp_path / "parts", *options, "--resume", "--workers", 2)  # which change no view
    assert "resuming after epoch 1 of 3" in result.out
    assert_same_weights(tmp_path / "whole" / "last.pt", tmp_path / "parts" / "last.pt")
    assert_same_weights(tmp_path / "whole" / "best.pt", tmp_path / "parts" / "best.pt")
    assert history_of(tmp_path / "whole") == history_of(tmp_path / "parts")


def test_afine_resumes_in_its_second_stage_exactly(run, data, tmp_path, monkeypatch):
    """With a frozen tower, of which several views are kept that are drawn at random."""
    options = ["--target", "PR", "--limit", 16, "--epochs", 1, 3, 1, "--batch-size", 16, "--backbone-lr", 0]
    train(run, data, "afine", tmp_path / "whole", *options)
    # one step an epoch: within the first of stage 2, and then within the third
    for steps, more in ((1, []), (2, ["--resume"])):
        with monkeypatch.context() as patch:
            stop_after(patch, steps, Baseline)
            with pytest.raises(KeyboardInterrupt):
                train(run, data, "afine", tmp_path / "parts", *options, *more)
    assert read_checkpoint(tmp_path / "parts" / "stage2" / "last.pt")["epoch"] == 2
    assert not (tmp_path / "parts" / "best.pt").exists()
    result = train(run, data, "afine", tmp_path / "parts", *options, "--resume")
    assert "resuming after epoch 1 of 1" in result.out
    assert "resuming after epoch 2 of 3" in result.out
    for name in ("best.pt", "stage1/last.pt", "stage2/best.pt", "stage3/last.pt"):
        assert_same_weights(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert (tmp_path / "whole" / "test.json").read_bytes() == (tmp_path / "parts" / "test.json").read_bytes()


def test_a_new_run_in_an_old_folder_takes_up_no_old_stage(run, data, trained, tmp_path, monkeypatch):
    shutil.copytree(trained["afine"], tmp_path / "run")
    with monkeypatch.context() as patch:
        stop_after(patch, 1, Baseline)  # one step an epoch: in stage 2
        with pytest.raises(KeyboardInterrupt):
            train(run, data, "afine", tmp_path / "run", "--overwrite")
    assert list((tmp_path / "run").glob("**/last.pt")) == [tmp_path / "run" / "stage1" / "last.pt"]
    result = train(run, data, "afine", tmp_path / "run", "--resume")
    assert result.out.count("resuming after") == 1
    assert_same_weights(tmp_path / "run" / "best.pt", trained["afine"] / "best.pt")


def test_a_run_goes_on_only_with_its_own_settings(run, data, trained, tmp_path):
    shutil.copytree(trained["dpam"], tmp_path / "run")
    command = ["dpam", "--data", data / "table.csv", *quick(tmp_path / "run"), "--random-init", "--resume"]
    said = refused(run, *command, *settings("dpam", region=17))
    assert "was started with --settings {'size': 64" in said
    assert "--target" not in said


def test_images_of_a_scene_stay_together_in_an_order_that_depends_on_seed_and_epoch(monkeypatch):
    scenes = torch.tensor([0, 1, 2, 3, 4, 5] * 4)[torch.randperm(24, generator=torch.Generator().manual_seed(1))]
    orders = []
    for seed, epoch in ((3, 1), (3, 2), (4, 1)):
        sampler = EpochSampler(24, seed, scenes)
        sampler.epoch = epoch
        orders.append(list(sampler))
        assert list(sampler) == orders[-1]
    assert len(set(map(tuple, orders))) == 3
    for order in orders:
        assert sorted(order) == list(range(24))
        blocks = scenes[order].reshape(6, 4)
        assert (blocks == blocks[:, :1]).all()
        assert order != sorted(order, key=lambda index: (int(scenes[index]), index))
    # shared out among processes: together they have the batches that one process would have
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        sampler = EpochSampler(24, 3, scenes)
        sampler.epoch = 1
        shares.append(list(Batches(sampler, 2, drop_last=False)))
    assert [sorted(i for share in shares for i in share[number]) for number in range(3)] == [
        sorted(orders[0][first : first + 8]) for first in (0, 8, 16)
    ]


# --- folds, and other data to test on


def test_out_of_fold_predictions_are_by_networks_that_have_not_seen_the_scene(run, data, tmp_path):
    result = train(run, data, "nr_aigciqa", tmp_path / "run", "--folds", 2)
    scenes = read_split(tmp_path / "run" / "split.txt")
    rows = rows_of(tmp_path / "run" / "oof.csv")
    assert {name.split("_")[1][:2] for name in rows} == scenes["train"] | scenes["val"]
    assert len(rows) == 24
    meta = meta_of(tmp_path / "run" / "oof.csv")
    assert (meta["sample"], meta["unbounded"]) == ("out-of-fold", COLUMNS)
    predicted = 0
    for fold in (1, 2):
        model, seen = load(tmp_path / "run" / f"fold{fold}" / "best.pt"), seen_by(tmp_path / "run" / f"fold{fold}" / "best.pt")
        known = {name.split("_")[1] for name in rows if image_id(data / "images" / name) in seen}
        for name, row in rows.items():
            if name.split("_")[1] not in known:
                # in batches, whose sums are divided otherwise
                scores = model.score(data / "images" / name)
                assert [scores[c] for c in COLUMNS] == pytest.approx([float(row[c]) for c in COLUMNS], abs=2e-5)
                predicted += 1
    assert predicted == 24
    # and evaluate.py reads them
    ratings = ["--mos", data / "table.csv", "--allow-missing", "--resamples", 20, "--output", tmp_path / "tables"]
    done = run("evaluate.py", "--predictions", tmp_path / "run" / "oof.csv", *ratings)
    assert done.code == 0, done.err
    table = pd.read_csv(data / "table.csv")
    table["score"] = [float(rows.get(Path(image).name, {"SCC": "nan"})["SCC"]) for image in table["image"]]
    metrics = pd.read_csv(tmp_path / "tables" / "metrics.csv").query("dimension == 'SCC' and predictor == 'network'")
    expected = stats.spearmanr(*table.dropna(subset=["score"])[["score", "SCC"]].to_numpy().T).statistic
    assert metrics.set_index("metric")["value"]["SRCC"] == pytest.approx(expected, abs=1e-6)
    assert "out-of-fold predictions of 24 images" in result.out


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another table, rated from 1 to 5: names of images and of two scenes are those of the first, the images are not."""
    root = tmp_path_factory.mktemp("other")
    (root / "images").mkdir()
    rows = []
    for number in range(3):
        original = make_image(70 + number, 66, 58)
        for place, method in enumerate(MOS):
            Image.fromarray(recolor(original, method)).save(root / "images" / f"{method}_s{number}.png")
            scene = f"s{number}" if number else "other"
            rows.append(f"images/{method}_s{number}.png,{scene},{method},{1.5 + place + 0.1 * number},{4.5 - place}\n")
    (root / "table.csv").write_text("image,scene,method,PR,CF\n" + "".join(rows))
    return root


@pytest.mark.parametrize("backbone_rate", [1e-4, 0])
def test_another_data_set_is_tested_on_and_all_of_the_first_trained_on(run, data, other, tmp_path, backbone_rate):
    elsewhere = ["--test-data", other / "table.csv", "--test-mos-range", 1, 5, "--test-target", "PR", "CF"]
    options = ["--target", "CF", "PR", "--backbone-lr", backbone_rate, "--no-augment", *elsewhere]
    result = train(run, data, "nr_aigciqa", tmp_path, *options)
    assert "train: 28 images of 7 scenes, val: 4 images of 1 scenes" in result.out
    assert "WARNING: 2 of 3 test scenes have the name of one that is trained on, e.g. s1" in result.out
    assert seen_by(tmp_path / "best.pt") == {image_id(path) for path in (data / "images").iterdir()}
    model, table = load(tmp_path / "best.pt"), pd.read_csv(other / "table.csv")
    scores = pd.DataFrame(model.score([other / image for image in table["image"]]))
    results = json.loads((tmp_path / "test.json").read_text())
    assert results["pictures"] == 12
    for column, rating in (("CF", "PR"), ("PR", "CF")):  # as --test-target says
        mos = (table[rating] - 3) / 2
        assert results[f"{column} RMSE"] == pytest.approx(np.sqrt(((scores[column] - mos) ** 2).mean()), abs=1e-5)
        assert results[f"{column} PLCC"] == pytest.approx(stats.pearsonr(scores[column], mos).statistic, abs=1e-4)


def test_a_label_file_can_be_tested_on(run, data, tmp_path):
    for number in range(6):
        Image.fromarray(make_image(400 + number, 50, 70)).save(tmp_path / f"{number}.png")
    (tmp_path / "labels.txt").write_text("".join(f"{number}.png {1 + 0.8 * number}\n" for number in range(6)))
    elsewhere = ["--test-data", converted(run, tmp_path / "labels.txt", "--form", "koniq"), "--test-target", "MOS"]
    train(run, data, "nr_aigciqa", tmp_path / "run", "--target", "SCC", *elsewhere)
    results = json.loads((tmp_path / "run" / "test.json").read_text())
    scores = load(tmp_path / "run" / "best.pt").score([tmp_path / f"{number}.png" for number in range(6)])
    assert results["pictures"] == 6
    assert results["SRCC"] == pytest.approx(stats.spearmanr(scores, range(6)).statistic)


def test_what_is_tested_on_must_not_be_trained_on_and_must_have_the_ratings(run, data, other, tmp_path):
    command = ["nr_aigciqa", "--data", data / "table.csv", "--random-init", *settings("nr_aigciqa"), *quick(tmp_path)]
    shutil.copytree(other, tmp_path / "mixed")
    shutil.copy(data / "images" / "SWAP_s3.png", tmp_path / "mixed" / "images" / "DULL_s2.png")
    elsewhere = ["--target", "PR", "--test-mos-range", 1, 5, "--test-data"]
    said = refused(run, *command, *elsewhere, tmp_path / "mixed" / "table.csv")
    assert "1 of 12 test images are trained on too, e.g. " in said
    assert "mixed/images/DULL_s2.png" in said
    said = refused(run, *command, "--test-data", other / "table.csv", "--test-mos-range", 1, 5)
    assert "no image in" in said
    assert "has a SCC rating; there are CF, PR" in said
    said = refused(run, *command, *elsewhere, other / "table.csv", "--test-target", "PR", "CF")
    assert "--test-target names 2 ratings, but 1 are learned: PR" in said
    assert "has a scene rating; there are CF, SCC, PR" in refused(run, *command, "--target", "scene")
    assert not (tmp_path / "best.pt").exists()


def test_colorizers_can_be_left_out_of_training_and_tested_on_alone(run, data, tmp_path):
    result = train(run, data, "nr_aigciqa", tmp_path / "run", "--test-methods", "SWAP", "STAIN")
    assert "tested on SWAP, STAIN: train 10 images, val 2 images, test 4 images" in result.out
    scenes = read_split(tmp_path / "run" / "split.txt")
    used = {
        image_id(data / "images" / f"{method}_{scene}.png")
        for scene in scenes["train"] | scenes["val"]
        for method in ("ORG", "DULL")
    }
    assert seen_by(tmp_path / "run" / "best.pt") == used
    results = json.loads((tmp_path / "run" / "test.json").read_text())
    assert (results["pictures"], results["scenes"]) == (4, 2)
    model = load(tmp_path / "run" / "best.pt")
    tested = [(method, scene) for scene in sorted(scenes["test"]) for method in ("SWAP", "STAIN")]
    scores = [model.score(data / "images" / f"{method}_{scene}.png")["PR"] for method, scene in tested]
    mos = pd.read_csv(data / "table.csv").set_index(["method", "scene"]).loc[tested, "PR"]
    assert results["PR RMSE"] == pytest.approx(np.sqrt(np.mean((scores - mos) ** 2)), abs=1e-5)

    command = ["nr_aigciqa", "--data", data / "table.csv", "--random-init", *settings("nr_aigciqa"), *quick(tmp_path / "x")]
    said = refused(run, *command, "--test-methods", "SWAP", "DDColor")
    assert "no test image is by DDColor; they are by DULL, ORG, STAIN, SWAP" in said
    assert "leaves nothing to train on" in refused(run, *command, "--test-methods", *MOS)


# --- label files of the systems


def converted(run: Runner, labels: Path, *options: object) -> Path:
    """The table that tools/convert_labels.py makes of a label file."""
    result = run("tools/convert_labels.py", labels, "-o", labels.with_name(f"{labels.stem}_mos.csv"), *options)
    assert result.code == 0, result.err
    return Path(result.out.partition(":")[0])


def test_dpam_trains_on_text_rows_with_the_superpixels_of_their_data_set(run, tmp_path):
    for number in range(8):
        Image.fromarray(make_image(500 + number, 60, 70)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "labels.txt").write_text("".join(f"{number}.jpg {1 + 0.5 * number}\n" for number in range(8)))
    sizes = tiny("dpam") | SUPERPIXELS["koniq"] | {"region": 25}
    own = ["--set", *(f"{name}={json.dumps(value)}" for name, value in sizes.items()), "--random-init"]
    with pytest.raises(ValueError, match="name its form: livec, koniq or spaq"):
        converted(run, tmp_path / "labels.txt")
    own += ["--data", converted(run, tmp_path / "labels.txt", "--form", "koniq"), "--target", "MOS"]
    result = run("train_baseline.py", "dpam", *own, *quick(tmp_path / "run"))
    assert result.code == 0
    assert "8 images of 8 scenes, 8 with a MOS rating" in result.out
    config = load(tmp_path / "run" / "best.pt").config
    assert config["columns"] == ["MOS"]
    assert {k: config["settings"][k] for k in SUPERPIXELS["koniq"]} == SUPERPIXELS["koniq"] | {"region": 25}


def test_the_delegate_transformer_trains_on_the_table_of_its_data_set(run, few, tmp_path):
    for number in range(8):
        Image.fromarray(make_image(500 + number, 60, 70)).save(tmp_path / f"{number}.jpg")
    table = "".join(f"{number}.jpg,{number},{9 - number},0.5\n" for number in range(8))
    (tmp_path / "labels.csv").write_text("ID,MOS,color,probability\n" + table)
    own = ["--random-init", *settings("delegate_transformer"), *quick(tmp_path / "run"), "--target", "MOS", "color"]
    result = run("train_baseline.py", "delegate_transformer", "--data", converted(run, tmp_path / "labels.csv"), *own)
    assert result.code == 0
    rows = infer(run, "delegate_transformer", few, tmp_path / "x.csv", "--weights", tmp_path / "run" / "best.pt")
    assert list(rows["ORG_s0.png"]) == ["image", "MOS", "color", "gray", "error"]
    assert len({row["color"] for row in rows.values()}) == 5


@pytest.fixture(scope="session")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six references and three images of each, with labels in the forms of A-FINE and of PKU-I2IQA."""
    root = tmp_path_factory.mktemp("labeled")
    triplets, table = [], ["Generated_image,Image_prompt,MOS_q,MOS_a,MOS_c"]
    for number in range(6):
        original = make_image(600 + number, 60, 70)
        Image.fromarray(original).save(root / f"{number}.png")
        for place, method in enumerate(("DULL", "SWAP", "STAIN")):
            Image.fromarray(recolor(original, method)).save(root / f"MJ_{number}_{place}.png")
            prompt = f"{number}.png" if number < 4 else ""
            table.append(f"MJ_{number}_{place}.png,{prompt},{4.5 - place},{3 - place},{1 + place}")
        triplets += [f"MJ_{number}_{a}.png,MJ_{number}_{b}.png,{number}.png,1,0,0" for a, b in ((0, 1), (0, 2), (1, 2))]
    (root / "triplets.txt").write_text("\n".join(triplets))
    (root / "table.csv").write_text("\n".join(table))
    return root


def test_afine_trains_on_triplets_and_compares_images_of_one_scene_only(run, labeled, tmp_path, monkeypatch):
    groups = []
    real = afine.batch_loss

    def noting(pred: torch.Tensor, mos: torch.Tensor, group: torch.Tensor | None) -> torch.Tensor:
        groups.append(group)
        return real(pred, mos, group=group)

    monkeypatch.setattr(afine, "batch_loss", noting)
    own = ["--random-init", *settings("afine"), *quick(tmp_path), "--target", "MOS"]
    result = run("train_baseline.py", "afine", "--data", converted(run, labeled / "triplets.txt"), *own)
    assert result.code == 0
    assert "24 images of 6 scenes, 24 with a MOS rating" in result.out  # three of each scene, and its reference
    assert len(groups) == 3  # a batch a stage; the scale of one scene says nothing of another
    for group in groups:
        assert len(group.unique()) > 1
        assert (group[1:] != group[:-1]).sum() == len(group.unique()) - 1
    assert "stage 3 of 3" in result.out


def test_ratings_on_one_scale_are_compared_between_scenes_in_the_first_stage_alone():
    model = Baseline("afine", ["PR"], TINY["afine"])
    pred, mos, inputs = torch.tensor([0.1, 0.5, 0.2]), torch.tensor([0.3, -0.2, 0.9]), {"scene": torch.tensor([0, 0, 1])}
    for stage, within, scenes in ((1, False, None), (1, True, inputs["scene"]), (2, False, inputs["scene"])):
        model.set_stage(stage)
        model.within_scenes = within
        expected = afine.batch_loss(-pred[:, None], mos[:, None], group=scenes)
        assert torch.equal(model.loss(pred, mos, inputs), expected)
        assert model.ranks_within_scenes == (scenes is not None)
        assert bool(model.pretrained_parameters()) == (stage == 1)


def test_the_table_of_i2iqa_trains_the_form_for_mixed_sets(run, labeled, tmp_path):
    data = [
        "--data",
        converted(run, labeled / "table.csv", "-o", tmp_path / "i2iqa.csv"),
        "--target",
        "MOS_q",
        "MOS_a",
        "MOS_c",
    ]
    command = ["fr_aigciqa", *data, "--random-init", *quick(tmp_path)]
    said = refused(run, *command, *settings("fr_aigciqa"))
    assert "6 of 18 have none, e.g. MJ_4_0.png; pass --reference, or --set form=partial" in said
    result = run("train_baseline.py", *command, *settings("fr_aigciqa", form="partial"))
    assert result.code == 0
    assert load(tmp_path / "best.pt").columns == ["MOS_q", "MOS_a", "MOS_c"]


def test_a_converted_table_has_what_its_label_file_has_to_the_bit(run, labeled, tmp_path):
    for name, scores, within in (("table.csv", ["MOS_q", "MOS_a", "MOS_c"], False), ("triplets.txt", ["MOS"], True)):
        labels = load_foreign(labeled / name)
        folder = Path(os.path.relpath(labeled, tmp_path)).as_posix()
        table = converted(run, labeled / name, "-o", tmp_path / "mos.csv")
        frame = load_table(table, ratings=scores)
        for column in ("scene", "method", *scores):
            assert frame[column].tolist() == labels[column].tolist()
        for column in ("image", "reference"):
            assert frame[column].tolist() == [f"{folder}/{path}" if path else "" for path in labels[column]]
        assert ("within_scenes" in frame) == within
        assert (with_originals(with_paths(frame), None)[REFERENCE] != "").sum() == (labels["reference"] != "").sum()
    with pytest.raises(ValueError, match=r"at least one of CF, SCC, PR, spelled so; train_baseline\.py learns .* by --target"):
        load_table(table)


def test_a_label_file_is_not_overwritten_by_its_table(run, tmp_path):
    (tmp_path / "labels.csv").write_text("ID,MOS,color\n1.jpg,5,6\n")
    for output in ("labels.csv", "table.txt"):
        result = run("tools/convert_labels.py", tmp_path / "labels.csv", "-o", tmp_path / output)
        assert_usage(result, "expected another file than the label file, with a name that ends in .csv")


def test_the_settings_of_dpam_in_the_docs_are_those_of_its_code(repo):
    rows = re.findall(r"^\| ([^|]+) \| `--set (.+)` \|$", (repo / "docs" / "baselines.md").read_text(), re.MULTILINE)
    told = {name: dict(pair.split("=") for pair in flags.split()) for names, flags in rows for name in names.split(", ")}
    of_code = inspect.signature(DPAM).parameters
    default = {name: json.loads(json.dumps(of_code[name].default)) for name in SUPERPIXELS["livec"]}  # lists, as in the docs
    assert default == SUPERPIXELS["livec"]
    for form in ("csiq", "koniq", "tid2013", "kadid", "spaq"):
        given = {name: json.loads(value) for name, value in told[_FORMS[form].title].items()}
        assert given.pop("crop", False) == (form in ("csiq", "tid2013", "kadid"))
        assert default | given == SUPERPIXELS[form]


# --- files of the authors


def prepared(system: str) -> Baseline:
    """A network of random weights that scores images differently."""
    torch.manual_seed(8)
    model = Baseline(system, ["quality"], TINY[system]).eval()
    with torch.no_grad():
        if system == "dpam":
            model.network.fc_score[3].bias.fill_(0.5)  # scores below 0 are cut off there
        if system.endswith("aigciqa"):
            model.network.regressor.fc2.weight.mul_(20)
    return model


def written(model: Baseline, path: Path) -> int:
    """A file such as the authors of the system have; how many tensors are in it."""
    system, network = model.dimension, model.network
    another_way = pytest.warns(UserWarning, match="runs resnet18 another way")
    with another_way if system.endswith("aigciqa") else contextlib.nullcontext():
        state = network.to_official()
    tensors = state if system in ("dpam", "delegate_transformer") else [t for group in state.values() for t in group]
    if system == "dpam":
        content = {f"module.{name}": tensor for name, tensor in state.items()}
    elif system == "delegate_transformer":
        content = {"model": state}
    elif system == "afine":
        content = {group: {"params": tensors} for group, tensors in state.items()}
    else:
        content = state | {"epoch": 3, "optimizer": {"state": {}}, "rho_best": 0.9}
    torch.save(content, path)
    return len(tensors) + (3 if system.endswith("aigciqa") else 0)


def as_their_code(model: Baseline, image: Path, original: Path | None) -> float:
    """The score that the authors' settings give, from -1 to 1, by their scale."""
    network, scale = model.network, (0.0, 1.0)
    if model.dimension == "dpam":
        network.config |= {"faithful_reshape": True, "uint8_texture": True, "relu_scores": True}
    elif model.dimension == "delegate_transformer":
        network.set_modes("batch_mean", "none", "official")
    elif model.dimension == "afine":
        network.config |= {"native": True, "position": "sequence", "exponent_limit": None}
        network.tower.position, scale = "sequence", (100.0, 0.0)
    else:
        network.set_faithful(True)
        scale = (0.0, 5.0)
    with torch.inference_mode():
        inputs = model.prepare(image, original)
        own = float(network(**{name: x[None] for name, x in inputs.items()}))
    return 2 * (own - scale[0]) / (scale[1] - scale[0]) - 1


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.filterwarnings("ignore:.*official weights take reference points from the mean over the batch")
def test_a_file_of_the_authors_scores_and_can_be_trained_on(run, data, few, tmp_path, system):
    model = prepared(system)
    count = written(model, tmp_path / "official.pth")
    own = ["--weights", tmp_path / "official.pth", *settings(system), *originals_of(system, data)]
    result = run("infer_baseline.py", system, few, "-o", tmp_path / "x.csv", *own, "--columns", "PR")
    assert result.code == 0, result.err
    lines = [line.split() for line in result.out.splitlines()]
    loaded = [int(words[0]) for words in lines if words[1:3] == ["tensors", "loaded"]]
    ignored = [int(words[0]) for words in lines if words[1:2] == ["ignored,"]]
    assert len(loaded) == 1
    assert loaded[0] > 30
    assert loaded[0] + sum(ignored) == count  # every tensor is accounted for
    rows = rows_of(tmp_path / "x.csv")
    assert len({row["PR"] for row in rows.values()}) == len(rows)
    for name, row in rows.items():
        original = data / "originals" / f"{Path(name).stem.split('_')[1]}.png" if system in COMPARING else None
        assert float(row["PR"]) == pytest.approx(as_their_code(prepared(system), few / name, original), abs=2e-6)
    assert meta_of(tmp_path / "x.csv")["sample"] == "unknown"

    # at a rate of 0 training changes nothing, but for the curve that A-FINE fits
    tune = ["--data", data / "table.csv", "--target", "PR", "--limit", 8, "--lr", 0, *quick(tmp_path / "run")]
    result = run("train_baseline.py", system, *tune, *own)
    assert result.code == 0, result.err
    assert f"{loaded[0]} tensors loaded from {tmp_path / 'official.pth'}" in result.out
    tuned = dict(load(tmp_path / "run" / "best.pt").network.named_parameters())
    for name, parameter in model.network.named_parameters():
        assert torch.equal(parameter, tuned[name]) or name.startswith("natural_map.")
    # predicted in batches only where a score does not depend on what is scored with it
    table = pd.read_csv(data / "table.csv")
    table = table[table["scene"].isin(read_split(tmp_path / "run" / "split.txt")["test"])]
    originals = [data / "originals" / f"{scene}.png" for scene in table["scene"]] if system in COMPARING else None
    scores = load(tmp_path / "run" / "best.pt").score([data / image for image in table["image"]], originals)
    rmse = np.sqrt(np.mean((scores - table["PR"]) ** 2))
    assert json.loads((tmp_path / "run" / "test.json").read_text())["RMSE"] == pytest.approx(rmse, abs=1e-6)
    content = read_checkpoint(tmp_path / "run" / "best.pt")
    assert content["seen_is_all"] is False
    assert (content["config"]["settings"].get("native"), "are resized to 64 pixels" in result.out) == (
        (False, True) if system == "afine" else (None, False)
    )


def test_settings_that_a_file_of_the_authors_decides_are_refused(run, few, tmp_path):
    written(prepared("dpam"), tmp_path / "official.pth")
    own = ["--weights", tmp_path / "official.pth", *settings("dpam", relu_scores=False)]
    result = run("infer_baseline.py", "dpam", few, "-o", tmp_path / "x.csv", *own)
    assert_one_line(
        result, "official.pth is a file of the authors, which goes with relu_scores=true; leave out --set relu_scores"
    )


def test_training_goes_on_from_a_checkpoint_at_the_rate_of_its_own_network(run, data, trained, tmp_path):
    weights = trained["nr_aigciqa"] / "best.pt"
    own = ["--data", data / "table.csv", "--weights", weights, "--test", 0, "--limit", 16, *quick(tmp_path / "run")]
    result = run("train_baseline.py", "nr_aigciqa", *own)
    assert result.code == 0
    assert seen_by(tmp_path / "run" / "best.pt") > seen_by(weights)
    assert read_checkpoint(tmp_path / "run" / "last.pt")["settings"]["lr"] == 1e-4
    assert "scores CF, SCC, PR, not PR" in refused(run, "nr_aigciqa", *own, "--overwrite", "--target", "PR")


def test_the_rate_of_a_checkpoint_is_that_of_its_backbone(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = Baseline("nr_aigciqa", ["PR"], {"backbone": "vit_l_16", "size": 32, "depths": [1]})
    rates = []
    monkeypatch.setattr(train_baseline, "fit", lambda *values: rates.append((values[4].lr, values[4].backbone_lr)))
    for words in ([], ["--lr", 0.5, "--backbone-lr", 0]):
        command = ["train_baseline.py", "nr_aigciqa", "--data", "x", "--output", tmp_path, "--device", "cpu", *words]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        train_baseline.train(train_baseline.parse_args(), model, {}, tmp_path, {})
    assert rates == [(1e-5, 1e-5), (0.5, 0)]


# --- bad input


def test_scoring_without_what_it_takes_ends_with_one_line_that_says_so(run, trained, data, few, tmp_path):
    def score(system: str, *options: object) -> Any:
        return run("infer_baseline.py", system, few, "-o", tmp_path / "x.csv", *options)

    weights = {system: ["--weights", path / "best.pt"] for system, path in trained.items()}
    assert_usage(score("dpam"), "no weights of dpam come with this project: pass --weights FILE", "--random-init")
    assert_usage(score("dpam", *weights["dpam"], "--random-init"), "--weights and --random-init contradict each other")
    assert_one_line(score("afine", *weights["afine"]), "afine compares images", "pass --reference DIR, or --naturalness")
    assert_one_line(score("fr_aigciqa", *weights["fr_aigciqa"]), "fr_aigciqa compares images", "pass --reference DIR")
    assert_one_line(
        score("afine", *weights["afine"], "--reference", tmp_path / "none"), f"no folder of originals {tmp_path / 'none'}"
    )
    wrong = ["--reference", few]
    assert_one_line(score("afine", *weights["afine"], *wrong), "holds the images themselves", "pass the originals alone")
    (tmp_path / "far").mkdir()
    shutil.copy(few / "ORG_s0.png", tmp_path / "far" / "far.png")
    assert_one_line(
        score("afine", *weights["afine"], "--reference", tmp_path / "far"), "has no original of any image, e.g.", "a CSV"
    )
    assert_one_line(score("dpam", *weights["dpam"], "--reference", data / "originals"), "dpam looks at images alone")
    assert_one_line(score("dpam", *weights["dpam"], "--naturalness"), "--naturalness is for afine, not for dpam")
    assert_one_line(score("dpam", *weights["afine"]), "holds a network of afine, preset baseline; expected a", "of its authors")
    assert_one_line(score("nr_aigciqa", *weights["fr_aigciqa"]), "holds a network of fr_aigciqa, preset baseline; expected a")
    assert_one_line(score("dpam", *weights["dpam"], "--columns", "PR"), "scores CF, SCC, PR, not PR")
    assert_one_line(score("dpam", *weights["dpam"], "--set", "size=32"), "has settings of its own; leave out --set size")
    assert_one_line(score("dpam", "--weights", tmp_path / "none.pt"), "no weights at", "checkpoint of train_baseline.py dpam")
    (tmp_path / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert_one_line(score("dpam", "--weights", tmp_path / "text.pt"), "text.pt cannot be read as weights", "docs/baselines.md")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "state.pt")
    assert_one_line(
        score("dpam", "--weights", tmp_path / "state.pt", *settings("dpam")), "state.pt does not fit DPAM", "docs/baselines.md"
    )
    shipped = Path(__file__).parents[1] / "weights" / "CF.pt"
    assert_one_line(score("dpam", "--weights", shipped), "CF.pt holds a network of CF, preset compact; expected a checkpoint")
    torch.save({"score_fc.0.weight": torch.zeros(16, 2), "naturalness_extractor.0.weight": torch.zeros(1)}, tmp_path / "pr.pth")
    assert_one_line(score("dpam", "--weights", tmp_path / "pr.pth"), "pr.pth holds a network of PR, preset published; expected")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    assert_one_line(score("dpam", "--weights", tmp_path / "list.pt"), "holds no dictionary but one list; expected a checkpoint")
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize(
    ("system", "setting", "words"),
    [
        ("dpam", "colour=lab", ["dpam has no setting colour; it has size, patch,", "texture"]),
        ("dpam", "texture=rgb", ["texture must be gray or lab, got 'rgb'"]),
        ("dpam", "size=large", ['dpam: size cannot be "large"; expected JSON such as its default, 224']),
        ("dpam", "taps=[1.5]", ["dpam: taps cannot be [1.5]", "[6, 7, 8, 9]"]),
        ("dpam", "heads=5", ["dpam cannot be built with", "heads=5: dim should be divisible by num_heads"]),
        ("dpam", "crop=True", ['dpam: crop cannot be "True"; expected JSON such as its default, false']),
        ("dpam", "size", ["--set size: expected NAME=VALUE"]),
        ("dpam", "outputs=2", ["outputs follows from the columns"]),
        ("delegate_transformer", "heads=[1,2,3,4]", ["do not divide evenly"]),
        ("afine", "patch=0", ["afine: patch cannot be 0"]),
        ("nr_aigciqa", "size=-32", ["nr_aigciqa: size cannot be -32"]),
        ("nr_aigciqa", "size=1.5", ["nr_aigciqa: size cannot be 1.5"]),
        ("nr_aigciqa", "form=fr", ["nr_aigciqa is the form nr; the forms fr and partial are of fr_aigciqa"]),
        ("fr_aigciqa", "backbone=resnet34", ["backbone must be one of vgg16,"]),
    ],
)
def test_a_wrong_setting_is_named_and_says_what_is_possible(run, few, tmp_path, system, setting, words):
    name = setting.partition("=")[0]
    base = settings(system)
    base = [text for text in base if text.partition("=")[0] != name]
    # in two flags, of which the second adds to the first
    result = run("infer_baseline.py", system, few, "-o", tmp_path / "x.csv", "--random-init", *base, "--set", setting)
    assert_one_line(result, *words)


def test_training_without_what_it_takes_ends_with_one_line_that_says_so(run, data, labeled, tmp_path):
    def start(system: str, *options: object) -> tuple:
        return system, "--random-init", *settings(system), *quick(tmp_path), *options

    table = ["--data", data / "table.csv"]
    script = "train_baseline.py"
    assert_usage(run(script, *start("dpam")), "the following arguments are required: --data")
    for flag in ("--label", "--form", "--images", "--test-label", "--test-form", "--test-images"):
        said = f"{flag} is gone; tools/convert_labels.py makes a table of a label file, for --data and --test-data"
        assert_usage(run(script, "dpam", flag, "x"), said)
    assert_usage(run(script, *start("dpam", *table, "--test-target", "PR")), "go with --test-data")
    assert_usage(run(script, *start("dpam", *table, "--epochs", 1, 2)), "--epochs: expected one number, got 2")
    assert_usage(run(script, *start("dpam", *table, "--schedule", "restarts")), "--schedule restarts is A-FINE's")
    assert_usage(run(script, *start("dpam", *table, "--weights", "x.pt")), "leave out --backbone-weights and --random-init")
    assert_usage(
        run(script, *start("dpam", *table, "--folds", 2, "--test-methods", "SWAP")), "leave it out with --test-methods"
    )
    for system in COMPARING:
        assert f"{system} compares images with their originals, and 32 of 32 have none, e.g. DULL_s0.png" in refused(
            run, *start(system, *table)
        )
    reference = ["--reference", data / "originals"]
    assert "nr_aigciqa looks at images alone as it is set; leave out" in refused(run, *start("nr_aigciqa", *table, *reference))
    assert "has no original of any image" in refused(run, *start("afine", *table, "--reference", labeled))
    native = [*start("afine", *table, *reference), "--set", "native=true"]
    assert "--set native=true is for scoring" in refused(run, *native)
    assert "dpam has no setting colour" in refused(run, *start("dpam", *table), "--set", "colour=1")
    assert "no file or folder nowhere" in refused(run, *start("dpam", "--data", "nowhere"))
    assert not (tmp_path / "best.pt").exists()


def test_an_unreachable_hub_names_the_file_to_fetch_and_the_flags(run, data, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    said = refused(run, "nr_aigciqa", "--data", data / "table.csv", "--set", "backbone=resnet18", *quick(tmp_path))
    assert "nr_aigciqa: could not fetch ResNet18_Weights.IMAGENET1K_V1" in said
    assert "fetch https://download.pytorch.org/models/resnet18-f37072fd.pth elsewhere" in said
    assert "pass --backbone-weights FILE, or pass --random-init" in said


def test_bad_images_and_missing_originals_are_error_rows_and_change_no_other_score(run, trained, data, few, tmp_path):
    own = ["--weights", trained["fr_aigciqa"] / "best.pt", "--reference"]
    good = infer(run, "fr_aigciqa", few, tmp_path / "good.csv", *own, data / "originals")
    shutil.copytree(few, tmp_path / "images")
    shutil.copytree(data / "originals", tmp_path / "originals")
    (tmp_path / "images" / "DULL_s1.png").write_bytes((few / "DULL_s0.png").read_bytes()[:200])
    (tmp_path / "originals" / "s3.png").unlink()
    (tmp_path / "originals" / "s7.png").write_text("no image")
    output = tmp_path / "x.csv"
    result = run("infer_baseline.py", "fr_aigciqa", tmp_path / "images", "-o", output, *own, tmp_path / "originals")
    assert result.code == 1
    assert "originals: 4 of 6 images have one" in result.out
    assert "4 of 6 images have no score, see the column error" in result.err
    rows = rows_of(output)
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert {name: row for name, row in rows.items() if name not in errors} == {
        name: good[name] for name in ("DULL_s0.png", "ORG_s0.png")
    }
    assert "DULL_s1.png" in errors["DULL_s1.png"]
    assert "truncated" in errors["DULL_s1.png"]
    assert errors["STAIN_s3.png"] == "STAIN_s3.png: its original is not in --reference"
    assert errors["SWAP_s3.png"] == "SWAP_s3.png: its original is not in --reference"
    assert "s7.png" in errors["SWAP_s7.png"]
    assert all(rows[name][column] == "" for name in errors for column in COLUMNS)


def test_random_weights_score_the_same_every_time_and_say_that_it_means_nothing(run, few, tmp_path):
    for name in ("a.csv", "b.csv"):
        result = run("infer_baseline.py", "dpam", few, "-o", tmp_path / name, "--random-init", *settings("dpam"))
        assert result.code == 0
        assert "dpam with random weights: the scores mean nothing" in result.out
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert list(rows_of(tmp_path / "a.csv")["ORG_s0.png"])[1] == "quality"


# --- scores without bounds


def test_scores_beyond_the_scale_of_the_mos_are_written_and_read_but_not_as_scores_of_ours(run, few, data, tmp_path):
    torch.manual_seed(0)
    model = Baseline("nr_aigciqa", ["PR", "beauty"], TINY["nr_aigciqa"])
    model.network.regressor.fc2.bias.data = torch.tensor([3.0, -40.0])
    save_checkpoint(tmp_path / "high.pt", model)
    rows = infer(run, "nr_aigciqa", few, tmp_path / "x.csv", "--weights", tmp_path / "high.pt", "--json", tmp_path / "x.json")
    assert all(float(row["PR"]) > 1 and float(row["beauty"]) < -1 for row in rows.values())
    frame = read_scores(tmp_path / "x.csv", "beauty")
    assert frame["PR"].tolist() == [float(row["PR"]) for row in rows.values()]
    assert json.loads((tmp_path / "x.json").read_text())["ORG_s0"] == float(rows["ORG_s0.png"]["PR"])
    done = run("evaluate.py", "--predictions", tmp_path / "x.csv", "--mos", data / "table.csv", "--allow-missing")
    assert "PR: 5 images with rating and score" in done.out
    # without its sidecar nothing says that the file is not one of ours
    (tmp_path / "x.csv.json").unlink()
    with pytest.raises(ValueError, match=r"expected a PR score in \[-1, 1\] for DULL_s0\.png"):
        read_scores(tmp_path / "x.csv")


@pytest.mark.parametrize("unbounded", [True, False])
def test_the_writer_has_bounds_unless_told_otherwise(tmp_path, unbounded):
    how = Provenance(tmp_path, weights={}, preprocessing={}, sample="unseen", unbounded=unbounded)
    with ScoreWriter(tmp_path / "x.csv", ["PR"], ["a.png", "b.png", "c.png"], how) as writer:
        for name, score in {"a.png": 7.5, "b.png": float("inf"), "c.png": -0.5}.items():
            writer.add(name, {"PR": score}, gray=False)
    rows = rows_of(tmp_path / "x.csv")
    assert rows["a.png"]["PR"] == ("7.500000" if unbounded else "")
    assert ("is outside [-1, 1]" in rows["a.png"]["error"]) != unbounded
    assert rows["b.png"]["error"] == "PR score is not finite"
    assert read_scores(tmp_path / "x.csv")["PR"].tolist()[2] == -0.5
    if not unbounded:
        with pytest.raises(ValueError, match="expected score columns out of CF, SCC, PR"):
            ScoreWriter(tmp_path / "y.csv", ["beauty"], ["a.png"], how)


# --- originals


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Files that are found by their names alone."""
    for name in ("a/001.jpg", "b/002.png", "s7.png", "s7_x.png", "x.png", "city.png", "DULL_s9.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("image", "scene", "found"),
    [
        ("b/002.png", "", "b/002.png"),  # the same path
        ("other/001.png", "", "a/001.jpg"),  # the same name
        ("BigColor_001.png", "", "a/001.jpg"),
        ("DDColor-tiny_001.png", "", "a/001.jpg"),
        ("001_BigColor.png", "", "a/001.jpg"),
        ("002-1.png", "", "b/002.png"),
        ("SWAP_s7.png", "", "s7.png"),
        ("SWAP_s7_x.png", "", "s7_x.png"),  # the longest, not x or s7
        ("s7_x_SWAP.png", "", "s7_x.png"),
        ("DULL_s9.png", "city", "DULL_s9.png"),  # a name before the scene
        ("SWAP_x.png", "city", "city.png"),  # a scene before a part of the name
        ("SWAPs7.png", "", None),
        ("SWAP_s77.png", "", None),
    ],
)
def test_an_original_is_found_by_path_name_scene_or_the_longest_part_of_the_name(sources, image, scene, found):
    assert Originals(sources).find(image, scene) == (None if found is None else sources / found)


def test_a_table_of_originals_has_paths_relative_to_itself_or_names_of_the_data(sources, tmp_path):
    table = sources / "table.csv"
    table.write_text(
        "image,reference\nimages/SWAP_1.png,a/001.jpg\nSTAIN_1.png,b/002.png\nimages/none.png,\n./x/../y.png,s7.png\n"
    )
    originals = Originals(table)
    assert originals.find("images/SWAP_1.png") == sources / "a/001.jpg"
    assert originals.find("SWAP_1.png", path=sources / "images" / "SWAP_1.png") == sources / "a/001.jpg"
    assert originals.find("STAIN_1.png", path=tmp_path / "far" / "STAIN_1.png") == sources / "b/002.png"
    assert originals.find("y.png") == sources / "s7.png"
    for name in ("images/none.png", "001.jpg", "SWAP_1.png"):
        assert originals.find(name) is None


def test_odd_sources_of_originals_are_refused_by_name_and_line(sources):
    (sources / "c").mkdir()
    (sources / "c" / "001.png").write_text("x")
    with pytest.raises(ValueError, match=r"holds two originals named 001: .*a/001\.jpg, .*c/001\.png"):
        Originals(sources)
    with pytest.raises(FileNotFoundError, match=r"no folder of originals .*gone"):
        Originals(sources / "gone")
    table = sources / "table.csv"
    for text, error, said in (
        ("image,original\na,b\n", ValueError, r"has the columns \['image', 'original'\], expected image and reference"),
        ("image,reference\n", ValueError, "has no rows"),
        ("image,reference\na.png,gone.png\n", FileNotFoundError, r"table\.csv, line 2: no file .*gone\.png"),
        ("image,reference\na.png,s7.png\n,x.png\n", ValueError, r"line 3: the cell image is empty"),
        ("image,reference\na.png,s7.png\na.png,x.png\n", ValueError, r"line 3: a\.png has another original already, .*s7\.png"),
        ("image,reference\na.png;s7.png\n", ValueError, r"line 2: 1 cells, the header has 2"),
    ):
        table.write_text(text)
        with pytest.raises(error, match=said):
            Originals(table)


def test_a_table_of_ratings_may_name_originals_itself(tmp_path):
    frame = pd.DataFrame({"image": ["m/1.png", "2.png"], "scene": ["1", "1"], "method": ["DULL", "original"]})
    frame["path"] = [str(tmp_path / image) for image in frame["image"]]
    frame.attrs = {"root": str(tmp_path)}
    assert with_originals(frame, None)[REFERENCE].tolist() == [str(tmp_path / "2.png")] * 2  # the original of the scene
    frame["reference"] = ["r.png", ""]
    assert with_originals(frame, None)[REFERENCE].tolist() == [str(tmp_path / "r.png"), ""]


# --- images to train on


def image_set(
    data: Path, cache: Path, system: str = "dpam", rows: slice = slice(None), seed: int = 0, **changes: Any
) -> BaselineImages:
    frame = with_originals(load_data([data / "table.csv"], "PR", (-1, 1)), data / "originals").iloc[rows]
    reader = Baseline(system, ["PR"], tiny(system, **changes)).reader()
    return BaselineImages(frame.reset_index(drop=True), reader, ["PR"], torch.arange(len(frame)), seed, cache)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("system", SYSTEMS)
def test_views_are_plain_in_epoch_0_and_else_follow_from_seed_epoch_and_index(data, tmp_path, system):
    one, other = (image_set(data, tmp_path, system, slice(0, 6)) for _ in range(2))
    plain = one.reader.prepare(one.paths[3], one.originals[3] or None)
    assert same(one.inputs(3), plain | {"scene": torch.tensor(3)})

    def view(images: BaselineImages, index: int, epoch: int) -> dict[str, torch.Tensor]:
        images.epoch.fill_(epoch)
        return images.inputs(index)

    views = [view(one, 3, epoch) for epoch in range(1, 9)]
    torch.manual_seed(99)
    for epoch in (8, 2, 1):  # in another order, after other images
        view(other, 1, epoch)
        assert same(view(other, 3, epoch), views[epoch - 1])
    assert sum(not torch.equal(x["rgb"], plain["rgb"]) for x in views) >= 3
    assert len({x["rgb"].sum(1).numpy().tobytes() for x in views}) >= 2
    reseeded = image_set(data, tmp_path, system, slice(0, 6), seed=1)
    assert not all(same(view(reseeded, 3, epoch), views[epoch - 1]) for epoch in range(1, 9))
    moved = image_set(data, tmp_path, system, slice(1, 6))  # the same image at another place
    assert moved.paths[2] == one.paths[3]
    assert not all(torch.equal(view(moved, 2, epoch)["rgb"], views[epoch - 1]["rgb"]) for epoch in range(1, 9))


def test_superpixels_are_kept_and_found_again_under_their_settings(data, tmp_path, monkeypatch):
    shutil.copytree(data, tmp_path / "data")
    cache = tmp_path / "cache"
    images = image_set(tmp_path / "data", cache, rows=slice(0, 4))
    assert images.fill() == 4
    assert len(list((cache / "superpixels").iterdir())) == 4
    first = images.inputs(0)
    network = type(images.reader.network)
    searched = []
    real = network.find_superpixels
    monkeypatch.setattr(network, "find_superpixels", lambda self, image: searched.append(1) or real(self, image))
    again = image_set(tmp_path / "data", cache, rows=slice(0, 4), texture="lab")  # which superpixels do not depend on
    assert again.fill() == 0
    assert torch.equal(again.inputs(0)["superpixels"], first["superpixels"])
    assert searched == []
    assert image_set(tmp_path / "data", cache, rows=slice(0, 4), region=12).fill() == 4
    assert image_set(tmp_path / "data", cache, rows=slice(0, 4), pixel_form=True).fill() == 4
    assert len(list((cache / "superpixels").iterdir())) == 12
    Image.fromarray(make_image(5, 40, 50)).save(images.paths[1])  # another image of that name
    assert images.fill() == 1
    images.file(2).write_bytes(b"damaged")
    searched.clear()
    assert torch.equal(images.inputs(2)["superpixels"], images.reader.prepare(images.paths[2])["superpixels"])
    assert torch.equal(torch.from_numpy(np.load(images.file(2))), images.inputs(2)["superpixels"])
    assert len(searched) == 2  # for the file and for the comparison


def test_images_that_cannot_be_trained_on_are_named(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "images" / "DULL_s1.png").write_text("no image")
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be trained on; .*DULL_s1\.png"):
        image_set(tmp_path / "data", tmp_path, rows=slice(0, 3)).fill()
    narrow = image_set(data, tmp_path, rows=slice(0, 3), crop=True, size=80)
    with pytest.raises(ValueError, match=r"DULL_s0\.png: an image must be at least 80x80 pixels to be cropped"):
        narrow.inputs(0)

"""The six scripts as a user runs them: what they write, what they refuse, and that stopping them changes nothing."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BROCCOLI, CAR, stop_after
from PIL import Image
from readers import assert_one_line, assert_same_weights, history_of, meta_of, rows_of

from data.splits import PARTS, read_split
from data.table import load_data
from inference import scorer
from models import load_model
from train_SCC import RECIPE
from training.images import published_objects, with_object_files
from training.options import add_object_arguments, parse_training, training_parser
from utils.checkpoint import read_checkpoint
from utils.files import image_id, sha256
from utils.scores import fingerprint, read_scores

DIMENSIONS = ("CF", "SCC", "PR")
NETWORK = ["--backbone", "test_efficientnet", "--random-init", "--size", 64, "--device", "cpu"]
QUICK = [*NETWORK, "--epochs", 1, "--workers", 0, "--backbone-lr", 0, "--no-augment"]
NO_PRIORS = ["--prior", "none", "--object-prior", "none"]  # of SCC
FILES = {"best.pt", "last.pt", "metrics.csv", "curves.png", "split.txt", "test.json", "test.csv", "tensorboard"}

# infer_CF.py that gets a signal when it begins with an image of a certain number, midway on any machine
STOPPED = """
import itertools, os, runpy, sys
from inference import scorer
how, images = int(sys.argv.pop(1)), int(sys.argv.pop(1))
real, begun = scorer.Scorer.__call__, itertools.count(1)
def stopped(*values):
    if next(begun) == images:
        os.kill(os.getpid(), how)
    return real(*values)
scorer.Scorer.__call__ = stopped
runpy.run_path("infer_CF.py", run_name="__main__")
"""

Runner = Callable[..., object]


# --- helpers


def priors_of(dimension: str) -> list[str]:
    return NO_PRIORS if dimension == "SCC" else []


def identities(paths: list[Path]) -> set[tuple[int, int]]:
    """Images as checkpoints list them."""
    return {(path.stat().st_size, image_id(path)) for path in paths}


def seen_by(path: Path) -> set[tuple[int, int]]:
    return {(size, number) for size, number in read_checkpoint(path)["seen"].tolist()}


def images_of(rated: Path, scenes: set[str]) -> list[Path]:
    return [path for path in sorted((rated.parent / "images").iterdir()) if path.stem.split("_")[1] in scenes]


def infer(run: Runner, weights: dict[str, Path], dimension: str, images: Path, output: Path, *more: object) -> Path:
    """Score with an inference script that must succeed."""
    own = ["--weights", weights[dimension]]
    if dimension == "PR":
        own += ["--cf-weights", weights["CF"], "--scc-weights", weights["SCC"]]
    result = run(f"infer_{dimension}.py", images, "-o", output, *own, *more)
    assert result.code == 0, result.err
    return output


@pytest.fixture(scope="session")
def scored(run, weights, gallery, tmp_path_factory) -> Path:
    """A folder with cf.csv and scc.csv of the gallery, each by its own script, and pr.csv computed from them."""
    folder = tmp_path_factory.mktemp("scored")
    infer(run, weights, "CF", gallery, folder / "cf.csv")
    infer(run, weights, "SCC", gallery, folder / "scc.csv")
    infer(run, weights, "PR", gallery, folder / "pr.csv", "--cf", folder / "cf.csv", "--scc", folder / "scc.csv")
    return folder


@pytest.fixture(scope="session")
def staged(run, rated, tmp_path_factory) -> Path:
    """Runs cf and scc of the training scripts with two folds, and what infer_CF.py and infer_SCC.py say with them."""
    root = tmp_path_factory.mktemp("staged")
    for dimension in ("CF", "SCC"):
        low = dimension.lower()
        folds = ["--folds", 2, "--oof", root / f"oof_{low}.csv"]
        result = run(f"train_{dimension}.py", "--data", rated, "--output", root / low, *QUICK, *folds, *priors_of(dimension))
        assert result.code == 0, result.err
        scores = ["-o", root / f"{low}.csv", "--weights", root / low / "best.pt"]
        result = run(f"infer_{dimension}.py", rated.parent / "images", *scores)
        assert result.code == 0, result.err
        (root / f"infer_{low}.txt").write_text(result.out)
    return root


@pytest.fixture(scope="session")
def sub_scores(run, rated, weights, tmp_path_factory) -> list[object]:
    """``--cf`` and ``--scc`` of train_PR.py, by weights that have seen no image."""
    folder = tmp_path_factory.mktemp("sub")
    images = rated.parent / "images"
    return [x for d in ("CF", "SCC") for x in (f"--{d.lower()}", infer(run, weights, d, images, folder / f"{d}.csv"))]


# --- training


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_training_writes_weights_that_score(run, rated, sub_scores, gallery, tmp_path, dimension):
    more = sub_scores if dimension == "PR" else priors_of(dimension)
    options = [*NETWORK, "--epochs", 1, "--workers", 0, "--limit", 12, "--backbone-lr", 1e-3, *more]
    output = tmp_path / "run"
    result = run(f"train_{dimension}.py", "--data", rated, "--output", output, *options)
    assert result.code == 0
    assert {path.name for path in output.iterdir()} == FILES
    assert "train: 12 images" in result.out

    content = torch.load(output / "best.pt", weights_only=True)
    assert (content["dimension"], content["epoch"], content["epochs"]) == (dimension, 1, 1)
    assert content["config"]["backbone"] == "test_efficientnet"
    assert content["preprocessing"]["size"] == 64
    assert content["command"].startswith(f"python train_{dimension}.py --data {rated} --output {output} --backbone")
    assert [Path(source).name for source in content["data"]] == ["table.csv"]
    assert {"epoch", "loss", "SRCC", "PLCC", "KRCC"} <= content["metrics"].keys()
    assert torch.load(output / "last.pt", weights_only=True)["optimizer"]["param_groups"]

    assert [row["epoch"] for row in history_of(output)] == ["1"]
    predicted = rows_of(output / "test.csv")
    pairs = np.array([(float(row[dimension]), float(row[f"{dimension}_mos"])) for row in predicted.values()])
    tested = json.loads((output / "test.json").read_text())
    assert len(pairs) == tested["pictures"]
    assert np.sqrt(np.mean((pairs[:, 0] - pairs[:, 1]) ** 2)) == pytest.approx(tested["RMSE"], abs=1e-5)
    assert {"SRCC", "KRCC", "PLCC", "pictures", "scenes"} <= json.loads((output / "test.json").read_text()).keys()
    assert set.union(*read_split(output / "split.txt").values()) == {f"s{number}" for number in range(8)}
    with Image.open(output / "curves.png") as curves:
        assert curves.format == "PNG"
    events = list((output / "tensorboard").iterdir())
    assert len(events) == 1
    assert events[0].stat().st_size > 100

    flags = ["--cf", tmp_path / "c.csv", "--scc", tmp_path / "s.csv"] if dimension == "PR" else []
    for flag in flags[1::2]:
        name = "CF" if flag.name == "c.csv" else "SCC"
        flag.write_text(f"image,{name}\nx.png,0.5\n")
    scores = run(f"infer_{dimension}.py", gallery / "x.png", "--weights", output / "best.pt", "-o", tmp_path / "x.csv", *flags)
    assert scores.code == 0
    assert -1 <= float(rows_of(tmp_path / "x.csv")["x.png"][dimension]) <= 1


@pytest.mark.parametrize(
    ("dimension", "options"),
    [
        ("CF", ["--backbone-lr", 0, "--workers", 0]),
        ("CF", ["--backbone-lr", 1e-3, "--workers", 2]),
        ("SCC", ["--backbone-lr", 1e-3, "--workers", 0]),
        ("PR", ["--backbone-lr", 0, "--workers", 0]),
    ],
)
def test_resuming_continues_exactly(run, rated, sub_scores, tmp_path, monkeypatch, dimension, options):
    more = sub_scores if dimension == "PR" else priors_of(dimension)
    command = [f"train_{dimension}.py", "--data", rated, *NETWORK, "--epochs", 4, "--batch-size", 8, *options, *more]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(*command, "--output", whole).code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2 * 2 + 1)  # 20 images are 2 steps an epoch: within the third epoch
        with pytest.raises(KeyboardInterrupt):
            run(*command, "--output", parts)
    assert read_checkpoint(parts / "last.pt")["epoch"] == 2
    assert not (parts / "test.json").exists()
    result = run(*command, "--output", parts, "--resume")
    assert "resuming after epoch 2 of 4" in result.out
    assert_same_weights(whole / "last.pt", parts / "last.pt")
    assert_same_weights(whole / "best.pt", parts / "best.pt")
    assert [row["epoch"] for row in history_of(whole)] == ["1", "2", "3", "4"]
    assert history_of(whole) == history_of(parts)
    for name in ("split.txt", "test.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    # and the epochs did something
    assert history_of(whole)[0]["loss"] != history_of(whole)[3]["loss"]


def test_parts_share_no_scene_and_the_weights_saw_training_and_validation_only(staged, rated):
    scenes = read_split(staged / "cf" / "split.txt")
    assert all(scenes[part] for part in PARTS)
    assert sum(map(len, scenes.values())) == len(set.union(*scenes.values())) == 8
    used = [path for path in images_of(rated, scenes["train"] | scenes["val"]) if path.name != "DULL_s4.png"]
    seen = seen_by(staged / "cf" / "best.pt")
    assert seen == identities(used)
    assert not seen & identities(images_of(rated, scenes["test"]))


def test_images_and_ratings_of_the_test_part_have_no_influence_on_training(run, rated, staged, tmp_path):
    shutil.copytree(rated.parent, tmp_path / "changed")
    table = tmp_path / "changed" / "table.csv"
    test_scenes = read_split(staged / "scc" / "split.txt")["test"]
    lines = table.read_text().splitlines()
    for number, line in enumerate(lines):
        cells = line.split(",")
        if cells[1] in test_scenes:
            Image.new("RGB", (50, 50), (number, 0, 200)).save(tmp_path / "changed" / cells[0])
            lines[number] = ",".join([*cells[:4], str(-float(cells[4])), cells[5]])
    table.write_text("\n".join(lines))
    assert run("train_SCC.py", "--data", table, "--output", tmp_path / "run", *QUICK, *NO_PRIORS).code == 0
    assert_same_weights(tmp_path / "run" / "best.pt", staged / "scc" / "best.pt")
    assert history_of(tmp_path / "run") == history_of(staged / "scc")
    assert (tmp_path / "run" / "test.json").read_text() != (staged / "scc" / "test.json").read_text()


def test_a_split_file_is_followed(run, rated, tmp_path):
    split = {"train": {"s0", "s1", "s2"}, "val": {"s3", "s4"}, "test": {"s5", "s6", "s7"}}
    lines = [f"{part} {scene}" for part, scenes in split.items() for scene in sorted(scenes)]
    (tmp_path / "mine.txt").write_text("\n".join(lines))
    options = [*QUICK, *NO_PRIORS, "--split", tmp_path / "mine.txt"]
    result = run("train_SCC.py", "--data", rated, "--output", tmp_path / "run", *options)
    assert "train: 12 images of 3 scenes, val: 8 images of 2 scenes, test: 12 images of 3 scenes" in result.out
    assert read_split(tmp_path / "run" / "split.txt") == split


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_split_file_that_shares_a_scene_is_refused_and_the_scene_named(run, rated, sub_scores, tmp_path, dimension):
    lines = [f"train s{n}" for n in range(6)] + ["val s6", "test s7", "test s4"]
    (tmp_path / "bad.txt").write_text("\n".join(lines))
    more = sub_scores if dimension == "PR" else priors_of(dimension)
    with pytest.raises(ValueError, match="scene s4 is in both train and test"):
        run(f"train_{dimension}.py", "--data", rated, "--output", tmp_path, *QUICK, "--split", tmp_path / "bad.txt", *more)
    assert not (tmp_path / "best.pt").exists()


# --- what SCC is built on


@pytest.fixture(scope="session")
def objects(rated, object_prior, tmp_path_factory) -> Path:
    """An object prior, and labels in two folders: by image of one recoloring, by scene of three scenes."""
    root = tmp_path_factory.mktemp("objects")
    object_prior.save(root / "prior.npz")
    for name, stems in {"images": ["SWAP_s1", "SWAP_s2"], "scenes": ["s1", "s2", "s3"]}.items():
        (root / name).mkdir()
        for number, stem in enumerate(stems):
            box = f"{0.4 + 0.1 * number} 0.5 0.5 0.6"
            (root / name / f"{stem}.txt").write_text(f"{BROCCOLI if name == 'scenes' else CAR} {box}\n")
    return root


@pytest.fixture(scope="session")
def with_priors(run, rated, color_prior, objects, tmp_path_factory) -> Path:
    """A run of train_SCC.py on a trained color prior, an object prior and labels."""
    output = tmp_path_factory.mktemp("with_priors")
    priors = ["--prior", color_prior, "--object-prior", objects / "prior.npz"]
    labels = ["--labels", objects / "images", objects / "scenes"]
    result = run("train_SCC.py", "--data", rated, "--output", output, *QUICK, *priors, *labels)
    assert result.code == 0, result.err
    assert f"color prior and backbone: {color_prior}" in result.out
    assert f"object prior: {objects / 'prior.npz'}" in result.out
    assert "objects: 12 of 32 images show labeled ones" in result.out
    return output


def test_scc_starts_from_its_priors_and_keeps_them(with_priors, rated, color_prior, object_prior):
    model, prior = load_model(with_priors / "best.pt"), load_model(color_prior)
    for part in ("backbone", "prior"):
        state = getattr(prior, part).state_dict()
        assert all(torch.equal(v, state[k]) for k, v in getattr(model, part).state_dict().items())
    assert model.config["prior"] == prior.config["prior"] == {"width": 16, "dropout": 0.2, "late": False}
    assert model.object_prior.to_bytes() == object_prior.to_bytes()
    # photographs of the prior count as seen, for a score of one would be in-sample
    scenes = read_split(with_priors / "split.txt")
    own = identities(images_of(rated, scenes["train"] | scenes["val"]))
    assert seen_by(with_priors / "best.pt") == own | seen_by(color_prior)
    assert seen_by(color_prior)


def test_training_learns_from_labeled_objects(run, rated, color_prior, objects, with_priors, tmp_path):
    priors = ["--prior", color_prior, "--object-prior", objects / "prior.npz"]
    command = ["train_SCC.py", "--data", rated, *QUICK, *priors]
    assert run(*command, "--output", tmp_path / "none", "--labels", "none").code == 0
    assert run(*command, "--output", tmp_path / "absent").code == 0
    assert_same_weights(tmp_path / "none" / "best.pt", tmp_path / "absent" / "best.pt")
    assert history_of(tmp_path / "none")[0]["loss"] != history_of(with_priors)[0]["loss"]
    with pytest.raises(FileNotFoundError, match="no folder of object labels"):
        run(*command, "--output", tmp_path / "run", "--labels", tmp_path / "nowhere")


@pytest.mark.parametrize("options", [["--backbone-lr", 0], ["--backbone-lr", 1e-3, "--workers", 2]])
def test_resuming_with_labels_continues_exactly(run, rated, color_prior, objects, tmp_path, monkeypatch, options):
    priors = ["--prior", color_prior, "--object-prior", objects / "prior.npz", "--labels", objects / "scenes"]
    network = ["--backbone", "test_efficientnet", "--size", 64, "--device", "cpu", "--workers", 0, "--batch-size", 8]
    command = ["train_SCC.py", "--data", rated, *network, "--epochs", 3, *options, *priors]
    assert run(*command, "--output", tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2 + 1)  # 20 images are 2 steps an epoch: within the second epoch
        with pytest.raises(KeyboardInterrupt):
            run(*command, "--output", tmp_path / "parts")
    with pytest.raises(ValueError, match=r"was started with .*--prior .*best\.pt"):
        run(*command, "--output", tmp_path / "parts", "--resume", "--prior", "none", "--random-init")
    assert "resuming after epoch 1 of 3" in run(*command, "--output", tmp_path / "parts", "--resume").out
    assert_same_weights(tmp_path / "whole" / "best.pt", tmp_path / "parts" / "best.pt")
    assert history_of(tmp_path / "whole") == history_of(tmp_path / "parts")


def test_scores_with_labels_are_those_of_labels_and_others_stay(run, weights, rated, with_priors, objects, tmp_path):
    images = rated.parent / "images"
    own = ["--weights", with_priors / "best.pt"]
    plain = run("infer_SCC.py", images, "-o", tmp_path / "plain.csv", *own)
    some = run("infer_SCC.py", images, "-o", tmp_path / "some.csv", *own, "--labels", objects / "images")
    assert (plain.code, some.code) == (0, 0)
    assert "objects: " not in plain.out
    assert f"objects: {objects / 'images'}, for 2 of 32 images" in some.out
    assert "they change no score" not in some.out
    before, after = rows_of(tmp_path / "plain.csv"), rows_of(tmp_path / "some.csv")
    assert [name for name in before if before[name] != after[name]] == ["SWAP_s1.png", "SWAP_s2.png"]
    assert meta_of(tmp_path / "some.csv")["preprocessing"]["labels"] == str(objects / "images")
    # PR computes the same SCC in the same run
    both = ["--weights", weights["PR"], "--cf-weights", weights["CF"], "--scc-weights", with_priors / "best.pt"]
    result = run("infer_PR.py", images, "-o", tmp_path / "all_PR.csv", *both, "--labels", objects / "images")
    assert result.code == 0, result.err
    assert {k: r["SCC"] for k, r in rows_of(tmp_path / "all_SCC.csv").items()} == {k: r["SCC"] for k, r in after.items()}
    # scores with labels are not gone on with without them
    again = run("infer_SCC.py", images, "-o", tmp_path / "some.csv", *own)
    assert_one_line(again, "--overwrite")


def test_a_changed_label_file_is_scored_again_and_a_broken_one_is_an_error_row(run, rated, with_priors, objects, tmp_path):
    shutil.copytree(objects / "images", tmp_path / "labels")
    command = ["infer_SCC.py", rated.parent / "images", "-o", tmp_path / "scc.csv", "--weights", with_priors / "best.pt"]
    command += ["--labels", tmp_path / "labels"]
    assert run(*command).code == 0
    before = rows_of(tmp_path / "scc.csv")
    (tmp_path / "labels" / "SWAP_s1.txt").write_text(f"{BROCCOLI} 0.5 0.5 0.9 0.9 0.7\n")
    (tmp_path / "labels" / "SWAP_s2.txt").write_text("car 0.5 0.5 0.9 0.9\n")
    result = run(*command)
    assert result.code == 1
    assert "30 rows kept, 2 changed images to score again" in result.out
    after = rows_of(tmp_path / "scc.csv")
    assert [name for name in before if before[name] != after[name]] == ["SWAP_s1.png", "SWAP_s2.png"]
    assert after["SWAP_s1.png"]["error"] == ""
    assert "SWAP_s2.txt, line 1: 'car' is not a finite number" in after["SWAP_s2.png"]["error"]


def test_labels_that_change_nothing_are_said_to(run, staged, weights, rated, objects, scored, gallery, tmp_path):
    images, labels = rated.parent / "images", ["--labels", objects / "images"]
    result = run("infer_SCC.py", images, "-o", tmp_path / "scc.csv", "--weights", staged / "scc" / "best.pt", *labels)
    assert result.code == 0
    assert "they change no score, for the weights hold no object prior" in result.out
    assert {k: r["SCC"] for k, r in rows_of(tmp_path / "scc.csv").items()} == {
        k: r["SCC"] for k, r in rows_of(staged / "scc.csv").items()
    }
    with pytest.raises(ValueError, match="--labels need an object prior to compare with"):
        run("train_SCC.py", "--data", rated, "--output", tmp_path / "run", *QUICK, *NO_PRIORS, *labels)
    given = ["--cf", scored / "cf.csv", "--scc", scored / "scc.csv", "--weights", weights["PR"], "-o", tmp_path / "pr.csv"]
    assert_one_line(run("infer_PR.py", gallery, *given, *labels), "--labels are for SCC, which is not computed here")
    curves = run("infer_SCC.py", gallery, "--weights", weights["SCC"], "-o", tmp_path / "x.csv", "--color-prior", "color_.json")
    assert_one_line(curves, "--color-prior is for a published SCC network")


def test_a_color_prior_of_another_network_is_refused(run, rated, color_prior, weights, tmp_path):
    command = ["train_SCC.py", "--data", rated, "--output", tmp_path / "run", *QUICK, "--object-prior", "none"]
    again = "; train one with tools/train_color_prior.py, or pass --prior none"
    message = f"--prior {color_prior} was trained with --backbone test_efficientnet, not test_resnet{again}"
    with pytest.raises(ValueError, match=re.escape(message)):
        run(*command, "--prior", color_prior, "--backbone", "test_resnet")
    with pytest.raises(ValueError, match=re.escape(f"was trained with --size 64, not 96{again}")):
        run(*command, "--prior", color_prior, "--size", 96)
    with pytest.raises(ValueError, match=r"CF\.pt holds a CF network without a color prior"):
        run(*command, "--prior", weights["CF"])
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pt"):
        run(*command, "--prior", tmp_path / "absent.pt")
    command[-1] = tmp_path / "absent.npz"
    with pytest.raises(FileNotFoundError, match=r"no object prior .*absent\.npz; make one with tools/build_color_prior\.py"):
        run(*command, "--prior", color_prior)
    command[-1] = color_prior
    with pytest.raises(ValueError, match=r"best\.pt cannot be read as an object prior"):
        run(*command, "--prior", color_prior)
    assert not (tmp_path / "run" / "best.pt").exists()


def test_without_a_color_prior_the_script_says_what_to_expect(run, rated, tmp_path):
    result = run("train_SCC.py", "--data", rated, "--output", tmp_path, *QUICK, *NO_PRIORS)
    assert "color prior: starts untrained and is not trained; expect little of it" in result.out
    assert load_model(tmp_path / "best.pt").object_prior is None


def test_the_published_network_reads_one_folder_of_labels(rated, objects, tmp_path, capsys):
    frame = load_data([rated], "SCC", (-1, 1))
    (tmp_path / "color_.json").write_text('{"2": {"r": {"7": 1.0}}}')
    parser = training_parser(None)
    add_object_arguments(parser)
    words = ["--preset", "published", "--data", rated, "--output", tmp_path / "run", "--color-prior", tmp_path / "color_.json"]
    options = parse_training(parser, "SCC", RECIPE, [*map(str, words), "--labels", str(objects / "images")])
    found = published_objects(with_object_files(options), frame)
    assert "objects: 2 of 32 images have a label file" in capsys.readouterr().out
    assert found.slots("images/SWAP_s1.png")[1] == 1
    two = replace(options, labels=[str(objects / "images"), str(objects / "scenes")])
    with pytest.raises(ValueError, match="--labels of a published network is one folder, got 2"):
        with_object_files(two)
    assert published_objects(with_object_files(replace(options, labels=["none"])), frame).folder is None


# --- out-of-fold predictions and PR


@pytest.mark.parametrize("dimension", ["CF", "SCC"])
def test_out_of_fold_predictions_are_by_networks_that_have_not_seen_the_scene(staged, rated, dimension):
    low = dimension.lower()
    scenes = read_split(staged / low / "split.txt")
    images = {path.name: path for path in images_of(rated, scenes["train"] | scenes["val"])}
    rows = rows_of(staged / f"oof_{low}.csv")
    assert set(rows) == set(images)  # the test part is not in it, an image without a CF rating is
    meta = meta_of(staged / f"oof_{low}.csv")
    assert meta["sample"] == "out-of-fold"
    folds = [staged / low / f"fold{number}" / "best.pt" for number in (1, 2)]
    assert sorted(meta["weights"].values()) == sorted(map(sha256, folds))
    predicted = 0
    for fold in folds:
        model, seen = load_model(fold), seen_by(fold)
        known = {name.split("_")[1].split(".")[0] for name, path in images.items() if identities([path]) & seen}
        for name, path in images.items():
            if path.stem.split("_")[1] not in known:
                # predicted in batches, whose sums are divided otherwise than those of one image
                assert float(rows[name][dimension]) == pytest.approx(model.score(path), abs=2e-5)
                predicted += 1
    assert predicted == len(images)


def test_more_folds_than_scenes_and_an_oof_without_folds_are_refused_before_training(run, rated, tmp_path):
    command = ["train_CF.py", "--data", rated, "--output", tmp_path / "run", *QUICK]
    with pytest.raises(ValueError, match="folds must be from 2 to the number of scenes, 6; got 7"):
        run(*command, "--folds", 7)
    for options in (["--oof", tmp_path / "x.csv"], ["--folds", 2, "--oof", tmp_path / "x.json"]):
        assert_one_line(run(*command, *options), f"--oof {options[-1]} needs --folds, and a name that ends in .csv")
    assert not (tmp_path / "run" / "best.pt").exists()


def test_scores_of_training_images_are_marked_in_sample(staged, scored):
    assert meta_of(staged / "cf.csv")["sample"] == "in-sample"
    seen = len(seen_by(staged / "cf" / "best.pt"))
    said = f"{seen} of 32 images were used to train the CF weights: in-sample scores"
    assert said in (staged / "infer_cf.txt").read_text()
    assert meta_of(scored / "cf.csv")["sample"] == "unseen"


def test_pr_training_warns_of_in_sample_predictions_and_not_of_out_of_fold_ones(run, rated, staged, tmp_path):
    command = ["train_PR.py", "--data", rated, *QUICK]
    both = {low: [staged / f"oof_{low}.csv", staged / f"{low}.csv"] for low in ("cf", "scc")}
    good = run(*command, "--output", tmp_path / "good", "--cf", *both["cf"], "--scc", *both["scc"])
    assert good.code == 0
    assert "WARNING" not in good.out
    bad = run(*command, "--output", tmp_path / "bad", "--cf", both["cf"][1], "--scc", *both["scc"])
    warnings = [line for line in bad.out.splitlines() if "WARNING" in line]
    assert [line.split(":")[1] for line in warnings] == [
        f" {count} of {count} training images have in-sample CF predictions" for count in (20, 4)
    ]
    assert all("train_CF.py --folds 5" in line for line in warnings)


def test_pr_training_says_so_when_a_file_does_not_tell_how_it_was_made(run, rated, staged, tmp_path):
    lines = (staged / "cf.csv").read_text()
    (tmp_path / "by_hand.csv").write_text(lines)
    scc = ["--scc", staged / "oof_scc.csv", staged / "scc.csv"]
    result = run("train_PR.py", "--data", rated, *QUICK, "--output", tmp_path, "--cf", tmp_path / "by_hand.csv", *scc)
    assert "WARNING: the CF file does not say whether the predictions of 20 of" in result.out


def test_pr_training_uses_the_score_of_the_right_image(run, rated, staged, tmp_path):
    """Rows in another order, and names that start from another folder, give the same weights."""
    header, *lines = (staged / "cf.csv").read_text().splitlines()
    (tmp_path / "shuffled.csv").write_text("\n".join([header, *lines[::-1]]))
    shutil.copy(staged / "cf.csv.json", tmp_path / "shuffled.csv.json")
    command = ["train_PR.py", "--data", rated, *QUICK, "--scc", staged / "scc.csv"]
    run(*command, "--cf", staged / "cf.csv", "--output", tmp_path / "a")
    run(*command, "--cf", tmp_path / "shuffled.csv", "--output", tmp_path / "b")
    assert_same_weights(tmp_path / "a" / "best.pt", tmp_path / "b" / "best.pt")


def test_pr_training_refuses_a_missing_sub_score_and_names_the_image(run, rated, staged, tmp_path):
    command = ["train_PR.py", "--data", rated, "--output", tmp_path, *QUICK, "--scc", staged / "scc.csv"]
    # the out-of-fold file has no image of the test part
    test = images_of(rated, read_split(staged / "cf" / "split.txt")["test"])
    with pytest.raises(ValueError, match=rf"8 of 8 images have no CF score .*{test[0].name} \(no row\); run infer_CF"):
        run(*command, "--cf", staged / "oof_cf.csv")
    bad = (staged / "cf.csv").read_text().splitlines()
    name = images_of(rated, read_split(staged / "cf" / "split.txt")["train"])[0].name
    bad = [f"{name},,0,cannot be read" if line.startswith(f"{name},") else line for line in bad]
    (tmp_path / "error.csv").write_text("\n".join(bad))
    with pytest.raises(ValueError, match=rf"1 of 20 images have no CF score .*{name} \(cannot be read\)"):
        run(*command, "--cf", tmp_path / "error.csv")
    assert not (tmp_path / "best.pt").exists()


# --- inference


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_score_file_has_a_row_for_every_image_and_says_how_it_was_made(scored, gallery, weights, dimension):
    path = scored / f"{dimension.lower()}.csv"
    columns = ["PR", "CF", "SCC"] if dimension == "PR" else [dimension]
    with open(path, newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["image", *columns, "gray", "error"]
    expected = ["NA.bmp", 'a,b "c".png', "deep/er/1.png", "deep/er/10.png", "gray.png", "grün/日本 1.png"]
    assert [line[0] for line in lines] == [*expected, "tiny.png", "x.jpg", "x.png"]
    for line in lines:
        for cell in line[1:-2]:
            assert -1 <= float(cell) <= 1
            assert len(cell.split(".")[1]) == 6
        assert line[-1] == ""
    assert [line[0] for line in lines if line[-2] == "1"] == ["gray.png"]
    assert {line[-2] for line in lines} == {"0", "1"}
    assert len({line[1] for line in lines}) == len(lines)  # the network tells the images apart

    meta = meta_of(path)
    assert (meta["dimension"], meta["count"], meta["errors"], meta["sample"]) == (dimension, 9, 0, "unseen")
    assert meta["weights"][dimension] == sha256(weights[dimension])
    assert meta["preprocessing"]["size"] == 64
    assert meta["root"] == str(gallery)
    assert meta["files"] == {line[0]: fingerprint(gallery / line[0]) for line in lines}
    if dimension == "PR":
        assert meta["weights"]["CF file"] == sha256(scored / "cf.csv")
    leftover = {p.name for p in scored.iterdir()} - {f"{d}.csv{s}" for d in ("cf", "scc", "pr") for s in ("", ".json")}
    assert leftover == set()


@pytest.mark.parametrize("dimension", ["CF", "SCC"])
def test_a_image_scores_the_same_alone_and_in_a_folder(run, weights, gallery, scored, tmp_path, dimension):
    folder = rows_of(scored / f"{dimension.lower()}.csv")
    model = load_model(weights[dimension])
    assert model.score([gallery / name for name in folder]) == [model.score(str(gallery / name)) for name in folder]
    for number, (name, row) in enumerate(folder.items()):
        assert f"{model.score(gallery / name):.6f}" == row[dimension]
        alone = rows_of(infer(run, weights, dimension, gallery / name, tmp_path / f"{number}.csv"))
        assert alone == {Path(name).name: {**row, "image": Path(name).name}}


def test_pr_scores_a_image_the_same_alone_and_in_a_folder(run, weights, gallery, scored, tmp_path):
    model = load_model(weights["PR"])
    for number, (name, row) in enumerate(rows_of(scored / "pr.csv").items()):
        assert f"{model.score(gallery / name, cf=float(row['CF']), scc=float(row['SCC'])):.6f}" == row["PR"]
        alone = rows_of(infer(run, weights, "PR", gallery / name, tmp_path / f"{number}.csv"))
        assert alone == {Path(name).name: {**row, "image": Path(name).name}}


def test_pr_computes_the_sub_scores_that_are_not_given_and_writes_them_beside(run, weights, gallery, scored, tmp_path):
    infer(run, weights, "PR", gallery, tmp_path / "all_PR.csv")
    assert (tmp_path / "all_PR.csv").read_bytes() == (scored / "pr.csv").read_bytes()
    assert (tmp_path / "all_CF.csv").read_bytes() == (scored / "cf.csv").read_bytes()
    assert (tmp_path / "all_SCC.csv").read_bytes() == (scored / "scc.csv").read_bytes()
    infer(run, weights, "PR", gallery, tmp_path / "half.csv", "--scc", scored / "scc.csv")
    assert (tmp_path / "half.csv").read_bytes() == (scored / "pr.csv").read_bytes()
    assert (tmp_path / "half_CF.csv").exists()
    assert not (tmp_path / "half_SCC.csv").exists()


def test_the_order_of_rows_in_the_sub_score_files_does_not_matter(run, weights, gallery, scored, tmp_path):
    flags = []
    for low in ("cf", "scc"):
        header, *lines = (scored / f"{low}.csv").read_text(encoding="utf-8").splitlines()
        order = np.random.default_rng(1).permutation(len(lines))
        assert sorted(order) != list(order)
        extra = "other/image.png,0.123456,0,"  # rows of other images do no harm
        content = "\n".join([header, extra, *(lines[i] for i in order)])
        (tmp_path / f"{low}.csv").write_text(content, encoding="utf-8")
        flags += [f"--{low}", tmp_path / f"{low}.csv"]
    infer(run, weights, "PR", gallery, tmp_path / "pr.csv", *flags)
    assert (tmp_path / "pr.csv").read_bytes() == (scored / "pr.csv").read_bytes()


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_threads_does_not_change_a_byte(run, weights, gallery, scored, tmp_path, workers):
    infer(run, weights, "PR", gallery, tmp_path / "all_PR.csv", "--workers", workers)
    for name, low in (("all_PR", "pr"), ("all_CF", "cf"), ("all_SCC", "scc")):
        assert (tmp_path / f"{name}.csv").read_bytes() == (scored / f"{low}.csv").read_bytes()


def test_a_list_file_scores_the_images_it_names(run, weights, gallery, scored, tmp_path):
    names = ["x.png", "grün/日本 1.png", "deep/er/10.png"]
    (tmp_path / "list.txt").write_text("# three\n" + "\n".join(str(gallery / name) for name in names), encoding="utf-8")
    rows = rows_of(infer(run, weights, "CF", tmp_path / "list.txt", tmp_path / "cf.csv"))
    assert rows == {name: rows_of(scored / "cf.csv")[name] for name in sorted(names)}


def test_two_images_of_one_stem_stay_two(scored):
    rows = rows_of(scored / "cf.csv")
    assert rows["x.png"]["CF"] != rows["x.jpg"]["CF"]


def test_results_go_to_a_folder_of_their_own_by_default(run, weights, gallery, scored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("infer_CF.py", gallery, "--weights", weights["CF"])
    assert f"CF: results/{gallery.name}_CF.csv" in result.out
    assert (tmp_path / "results" / f"{gallery.name}_CF.csv").read_bytes() == (scored / "cf.csv").read_bytes()
    assert "gray.png" in result.out
    assert result.err == ""


# --- the published form


@pytest.fixture(scope="session")
def flat(rated, tmp_path_factory) -> Path:
    """A flat folder of eight images of different stems."""
    folder = tmp_path_factory.mktemp("flat")
    for path in images_of(rated, {"s0", "s5"}):
        shutil.copy(path, folder)
    return folder


def test_pr_is_the_same_from_the_published_form(run, weights, flat, tmp_path):
    outputs = {}
    for dimension in ("CF", "SCC"):
        low = dimension.lower()
        infer(run, weights, dimension, flat, tmp_path / f"{low}.csv", "--json", tmp_path / f"{low}.json")
        published = json.loads((tmp_path / f"{low}.json").read_text())
        rows = rows_of(tmp_path / f"{low}.csv")
        assert published == {Path(name).stem: float(row[dimension]) for name, row in rows.items()}
    for kind in ("csv", "json"):
        flags = ["--cf", tmp_path / f"cf.{kind}", "--scc", tmp_path / f"scc.{kind}", "--json", tmp_path / f"pr_{kind}.json"]
        outputs[kind] = infer(run, weights, "PR", flat, tmp_path / f"pr_{kind}.csv", *flags).read_bytes()
    assert outputs["csv"] == outputs["json"]
    assert (tmp_path / "pr_csv.json").read_bytes() == (tmp_path / "pr_json.json").read_bytes()


def test_the_published_form_cannot_hold_two_images_of_one_stem(run, weights, gallery, tmp_path):
    options = ["-o", tmp_path / "cf.csv", "--weights", weights["CF"], "--json", tmp_path / "cf.json"]
    assert_one_line(run("infer_CF.py", gallery, *options), "x.jpg and x.png have the same stem")
    assert len(rows_of(tmp_path / "cf.csv")) == 9  # the work is kept


# --- bad input


@pytest.fixture(scope="session")
def damaged(gallery, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The gallery with files among it that are no images, and a word of the reason for each."""
    root = tmp_path_factory.mktemp("damaged") / "images"
    shutil.copytree(gallery, root)
    jpeg = (gallery / "x.jpg").read_bytes()
    (root / "deep/truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (root / "empty.png").write_bytes(b"")
    (root / "text.jpg").write_text("this is no image")
    (root / "a.png").symlink_to(root / "nowhere.png")
    (root / "notes.txt").write_text("ignored")
    return root, {"a.png": "no such file", "deep/truncated.jpg": "truncated", "empty.png": "is empty", "text.jpg": "no image"}


def test_bad_images_keep_their_rows_with_a_reason_and_the_others_their_scores(run, weights, scored, damaged, tmp_path):
    root, reasons = damaged
    for dimension in ("CF", "SCC"):
        path = tmp_path / f"{dimension}.csv"
        result = run(f"infer_{dimension}.py", root, "-o", path, "--weights", weights[dimension])
        assert result.code == 1
        assert "4 of 13 images have no score" in result.err
        assert result.out.count("ERROR") == 4
        rows = rows_of(path)
        assert list(rows) == sorted(rows)
        for name, reason in reasons.items():
            assert reason in rows[name]["error"]
            assert name in rows[name]["error"]
            assert rows[name][dimension] == ""
        good = {name: row for name, row in rows.items() if name not in reasons}
        assert good == rows_of(scored / f"{dimension.lower()}.csv")
        assert meta_of(path)["errors"] == 4

    # PR on the files with errors: error rows, and nothing else is touched
    for flags in (["--cf", tmp_path / "CF.csv", "--scc", tmp_path / "SCC.csv"], ["--cf", tmp_path / "CF.csv"], []):
        path = tmp_path / f"pr{len(flags)}.csv"
        own = ["--weights", weights["PR"], "--cf-weights", weights["CF"], "--scc-weights", weights["SCC"]]
        result = run("infer_PR.py", root, "-o", path, *own, *flags, "--json", tmp_path / "pr.json")
        assert result.code == 1
        assert "no JSON was written" in result.err
        rows = rows_of(path)
        assert {name: row for name, row in rows.items() if name not in reasons} == rows_of(scored / "pr.csv")
        assert all(rows[name]["PR"] == rows[name]["CF"] == "" and rows[name]["error"] for name in reasons)
    assert not (tmp_path / "pr.json").exists()


def test_a_repaired_image_is_scored_by_the_next_run(run, weights, gallery, scored, tmp_path):
    shutil.copytree(gallery, tmp_path / "images")
    (tmp_path / "images" / "x.jpg").write_bytes(b"")
    command = ["infer_CF.py", tmp_path / "images", "-o", tmp_path / "cf.csv", "--weights", weights["CF"]]
    assert run(*command).code == 1
    shutil.copy(gallery / "x.jpg", tmp_path / "images" / "x.jpg")
    result = run(*command)
    assert result.code == 0
    assert "going on; 8 rows kept" in result.out
    assert (tmp_path / "cf.csv").read_bytes() == (scored / "cf.csv").read_bytes()


def test_a_missing_row_names_the_image(run, weights, gallery, scored, tmp_path):
    lines = (scored / "cf.csv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("deep/er/1.png")]
    (tmp_path / "cf.csv").write_text("\n".join(kept), encoding="utf-8")
    options = ["-o", tmp_path / "pr.csv", "--weights", weights["PR"], "--scc", scored / "scc.csv"]
    assert_one_line(
        run("infer_PR.py", gallery, *options, "--cf", tmp_path / "cf.csv"),
        "1 of 9 images have no CF score",
        "deep/er/1.png",
        "run infer_CF.py",
    )
    assert_one_line(run("infer_PR.py", gallery, *options, "--cf", tmp_path / "none.csv"), "none.csv", "run infer_CF.py")
    assert_one_line(run("infer_PR.py", gallery, *options, "--cf", scored / "scc.csv"), "has no column CF")
    assert not (tmp_path / "pr.csv").exists()


def test_an_error_in_a_sub_score_file_is_an_error_of_pr_and_never_a_number(run, weights, gallery, scored, tmp_path):
    text = (scored / "cf.csv").read_text(encoding="utf-8").splitlines()
    changed = ["x.png,,0,cannot be read: lightning" if line.startswith("x.png") else line for line in text]
    (tmp_path / "cf.csv").write_text("\n".join(changed), encoding="utf-8")
    flags = ["--cf", tmp_path / "cf.csv", "--scc", scored / "scc.csv", "--weights", weights["PR"]]
    result = run("infer_PR.py", gallery, "-o", tmp_path / "pr.csv", *flags)
    assert result.code == 1
    assert "ERROR  x.png: no CF score: cannot be read: lightning" in result.out
    rows, right = rows_of(tmp_path / "pr.csv"), rows_of(scored / "pr.csv")
    assert rows.pop("x.png") == {
        "image": "x.png",
        "PR": "",
        "CF": "",
        "SCC": "",
        "gray": "0",
        "error": "no CF score: cannot be read: lightning",
    }
    del right["x.png"]
    assert rows == right


# --- interruption


@pytest.fixture(scope="session")
def many(rated, tmp_path_factory) -> Path:
    """A folder of so many images that a run can be stopped midway."""
    folder = tmp_path_factory.mktemp("many")
    sources = sorted((rated.parent / "images").iterdir())
    for number in range(200):
        os.link(sources[number % len(sources)], folder / f"{number:03}.png")
    return folder


def start_and_stop(repo: Path, how: signal.Signals, arguments: list[object], images: int) -> tuple[int, str]:
    """Run infer_CF.py in a process of its own and stop it at the image of a certain number; exit code and errors."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(how)), str(images), *map(str, arguments)],
        cwd=repo,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # shells let background jobs ignore it
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_stopped_run_goes_on_where_it_stopped_and_ends_as_one_that_was_not(run, repo, weights, many, tmp_path, monkeypatch):
    whole = infer(run, weights, "CF", many, tmp_path / "whole.csv")
    output = tmp_path / "cf.csv"
    journal = tmp_path / "cf.csv.partial"
    arguments = [many, "--weights", weights["CF"], "-o", output, "--workers", 2, "--device", "cpu"]

    code, _ = start_and_stop(repo, signal.SIGKILL, arguments, 24)
    assert code == -signal.SIGKILL
    killed = journal.read_bytes().count(b"\n") - 1  # but for the header
    assert 20 <= killed < 24  # no more than four in flight
    assert not output.exists()

    code, errors = start_and_stop(repo, signal.SIGINT, arguments, 24)
    assert code == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert not journal.exists()
    interrupted = rows_of(output)
    assert killed + 20 <= len(interrupted) < 200
    done = rows_of(whole)
    assert all(row == done[name] for name, row in interrupted.items())

    scored: list[str] = []
    real = scorer.Scorer.__call__

    def noting(self: scorer.Scorer, path: Path, known: object, name: str) -> scorer.ImageResult:
        scored.append(path.name)
        return real(self, path, known, name)

    monkeypatch.setattr(scorer.Scorer, "__call__", noting)
    result = run("infer_CF.py", *arguments)
    assert result.code == 0
    assert f"going on; {len(interrupted)} rows kept" in result.out
    assert sorted(scored) == sorted(done.keys() - interrupted.keys())
    assert output.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.csv{s}" for n in ("cf", "whole") for s in ("", ".json")}
    assert meta_of(output) == meta_of(whole)


def test_overwrite_starts_anew_and_other_weights_are_refused_without_it(run, weights, gallery, staged, scored, tmp_path):
    for name in ("cf.csv", "cf.csv.json"):
        shutil.copy(scored / name, tmp_path / name)
    command = ["infer_CF.py", gallery, "-o", tmp_path / "cf.csv"]
    other = staged / "cf" / "best.pt"
    assert_one_line(run(*command, "--weights", other), "weights.CF was", "pass --overwrite", "-o")
    assert (tmp_path / "cf.csv").read_bytes() == (scored / "cf.csv").read_bytes()
    result = run(*command, "--weights", other, "--overwrite")
    assert result.code == 0
    assert "going on" not in result.out
    assert meta_of(tmp_path / "cf.csv")["weights"]["CF"] == sha256(other)
    rows, before = rows_of(tmp_path / "cf.csv"), rows_of(scored / "cf.csv")
    assert rows.keys() == before.keys()
    assert all(rows[name]["CF"] != before[name]["CF"] for name in rows)


def test_pr_goes_on_when_some_of_its_three_files_are_complete(run, weights, gallery, scored, tmp_path):
    output = infer(run, weights, "PR", gallery, tmp_path / "all_PR.csv")
    for name in ("all_PR.csv", "all_PR.csv.json"):
        (tmp_path / name).unlink()
    lines = (tmp_path / "all_SCC.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "all_SCC.csv").write_text("".join(lines[:-3]), encoding="utf-8")
    infer(run, weights, "PR", gallery, output)
    for name, low in (("all_PR", "pr"), ("all_CF", "cf"), ("all_SCC", "scc")):
        assert (tmp_path / f"{name}.csv").read_bytes() == (scored / f"{low}.csv").read_bytes()


def test_pr_is_not_continued_with_other_sub_scores(run, weights, gallery, scored, tmp_path):
    for name in ("pr.csv", "pr.csv.json"):
        shutil.copy(scored / name, tmp_path / name)
    text = (scored / "cf.csv").read_text(encoding="utf-8")
    (tmp_path / "cf.csv").write_text(text.replace("x.png,0.", "x.png,-0."), encoding="utf-8")
    flags = ["--weights", weights["PR"], "--cf", tmp_path / "cf.csv", "--scc", scored / "scc.csv"]
    result = run("infer_PR.py", gallery, "-o", tmp_path / "pr.csv", *flags)
    assert_one_line(result, "CF file was", "--overwrite")
    result = run("infer_PR.py", gallery, "-o", tmp_path / "pr.csv", *flags, "--overwrite")
    assert result.code == 0
    before, after = rows_of(scored / "pr.csv"), rows_of(tmp_path / "pr.csv")
    assert [name for name in before if before[name]["PR"] != after[name]["PR"]] == ["x.png"]
    assert read_scores(tmp_path / "pr.csv").attrs["meta"]["weights"]["CF file"] == sha256(tmp_path / "cf.csv")


def test_wrong_input_ends_a_training_script_with_one_line(repo, tmp_path):
    command = [sys.executable, "train_CF.py", "--data", "nowhere", "--output", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: no file or folder nowhere\n")

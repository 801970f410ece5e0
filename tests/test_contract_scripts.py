"""What holds for all scripts: wrong input ends them with one line, and two processes train as one.

Help and mistyped flags are in test_arguments.py, for every script.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MOS, SCENES, make_image
from PIL import Image
from readers import history_of, rows_of
from scipy import stats
from tiny import TINY

from baselines.scorer import Baseline
from data.splits import read_split
from models import load_model
from models.loading import build_model
from utils.checkpoint import read_checkpoint

NETWORK = ["--backbone", "test_efficientnet", "--random-init", "--size", 64, "--device", "cpu"]
QUICK = [*NETWORK, "--epochs", 1, "--workers", 0]
NO_PRIORS = ["--prior", "none", "--object-prior", "none"]


def settings(system: str) -> list[str]:
    """``--set`` with the settings of the tiny network."""
    return ["--set", *(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in TINY[system].items())]


# --- Wrong input


@pytest.fixture(scope="module")
def folder(rated, weights, photos, tmp_path_factory) -> Path:
    """Where the scripts below are started: good tables, images and weights, and files that are none."""
    root = tmp_path_factory.mktemp("wrong")
    shutil.copytree(rated.parent, root, dirs_exist_ok=True)
    for dimension, path in weights.items():
        shutil.copy(path, root / f"{dimension}.pt")
    shutil.copytree(photos, root / "photos")
    (root / "empty").mkdir()
    (root / "two").mkdir()
    for number in range(2):
        shutil.copy(photos / f"p{number + 1:02}.png", root / "two")
    (root / "file.dat").write_text("x")
    (root / "text.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    (root / "torn.pt").write_bytes(weights["CF"].read_bytes()[:5000])
    (root / "no.pt").write_bytes(b"")
    torch.save({"fc.weight": torch.zeros(2)}, root / "state.pt")
    content = torch.load(weights["CF"], weights_only=True)
    content["model"].popitem()
    torch.save(content, root / "less.pt")
    (root / "bad.csv").write_text("image,scene,PR\nimages/ORG_s0.png,s0,7\n")
    (root / "scores.csv").write_text("image,PR\nimages/ORG_s0.png,0.5\n")
    return root


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "split.txt")


TRAIN = ["--output", "run", *QUICK]
PR_FILES = ["--cf", "scores.csv", "--scc", "scores.csv"]
BAD_WEIGHTS = {
    "text.pt": "text.pt cannot be read as weights",
    "torn.pt": "torn.pt cannot be read as weights",
    "no.pt": "no.pt cannot be read as weights (it is empty)",
    "state.pt": "state.pt is no checkpoint of this project (format 'ICQA checkpoint 1' expected, found a dictionary with",
    "less.pt": "less.pt does not hold a CF network of this version: ",
    "gone.pt": "no weights at gone.pt",
    "images": "images is a folder, not a file of weights",
}
WRONG: list[tuple[list[object], str]] = [
    *(
        ([script, "--data", "nowhere", *TRAIN, *more], "no file or folder nowhere")
        for script, more in (("train_CF.py", []), ("train_SCC.py", NO_PRIORS), ("train_PR.py", PR_FILES))
    ),
    (["train_baseline.py", "dpam", "--data", "nowhere", "--output", "run", "--random-init"], "no file or folder nowhere"),
    (["train_ranker.py", "--data", "nowhere.csv", "--output", "run", "--random-init"], "nowhere.csv"),
    (["train_CF.py", "--data", "bad.csv", *TRAIN], "PR of images/ORG_s0.png has the score 7, outside -1 to 1"),
    (["train_PR.py", "--data", "bad.csv", *TRAIN, *PR_FILES], "PR of images/ORG_s0.png has the score 7, outside -1 to 1"),
    (["train_CF.py", "--data", "empty", *TRAIN], "empty"),
    (["train_SCC.py", "--data", "table.csv", *TRAIN, *NO_PRIORS, "--init", "CF.pt"], "CF.pt holds a CF network, expected SCC"),
    (["train_PR.py", "--data", "table.csv", *TRAIN, "--cf", "gone.csv", "--scc", "scores.csv"], "gone.csv"),
    (["tools/train_color_prior.py", "nowhere", "--output", "run", "--random-init"], "nowhere"),
    (["tools/train_color_prior.py", "empty", "--output", "run", "--random-init"], "empty"),
    (
        ["tools/train_color_prior.py", "two", "--output", "run", "--random-init"],
        "two leaves 2 photographs, expected at least",
    ),
    *(
        ([f"infer_{dimension}.py", images, "--weights", f"{dimension}.pt", "-o", "x.csv"], f"{images} {words}")
        for dimension in ("CF", "SCC", "PR")
        for images, words in (("empty", "no image found"), ("missing", "does not exist"), ("file.dat", "is no image"))
    ),
    *((["infer_CF.py", "photos", "-o", "x.csv", "--weights", name], words) for name, words in BAD_WEIGHTS.items()),
    *(
        (["infer_PR.py", "photos", "-o", "x.csv", "--weights", "PR.pt", "--cf-weights", name], words)
        for name, words in BAD_WEIGHTS.items()
    ),
    (["infer_CF.py", "photos", "-o", "x.csv", "--weights", "SCC.pt"], "SCC.pt holds a SCC network, expected CF"),
    (["infer_CF.py", "photos", "-o", "x.csv", "--weights", "CF.pt", "--device", "cuda:99"], "--device cuda:99 cannot be used"),
    (
        ["infer_baseline.py", "dpam", "photos", "-o", "x.csv", "--weights", "CF.pt"],
        "CF.pt holds a network of CF, preset compact",
    ),
    (["infer_baseline.py", "dpam", "photos", "-o", "x.csv", "--weights", "gone.pt"], "no weights at gone.pt"),
    (["infer_baseline.py", "dpam", "empty", "-o", "x.csv", "--random-init"], "empty"),
    (
        ["evaluate.py", "--predictions", "gone.csv", "--mos", "table.csv"],
        "there is no score file gone.csv; run infer_CF.py or infer_SCC.py",
    ),
    (["evaluate.py", "--predictions", "scores.csv", "--mos", "gone.csv"], "no table gone.csv"),
    (["evaluate.py", "--predictions", "scores.csv", "--mos", "bad.csv"], "has the score 7, outside -1 to 1"),
    (["tools/compute_mos.py", "gone.csv", "--output", "mos.csv"], "gone.csv"),
    (["tools/build_color_prior.py", "nowhere", "empty", "-o", "x.npz"], "nowhere"),
    (["tools/detect_objects.py", "nowhere", "-o", "labels"], "nowhere does not exist"),
    (["tools/detect_objects.py", "photos", "-o", "labels", "--device", "abacus"], "--device abacus cannot be used"),
    (["tools/make_recolorings.py", "nowhere", "out"], "nowhere"),
    (["tools/make_colorizations.py", "nowhere", "out"], "nowhere"),
    (["tools/export_weights.py", "gone.pt", "CF.pth"], "no weights at gone.pt"),
    (["tools/export_weights.py", "CF.pt", "CF.pth"], "CF.pt"),
    (["tools/make_icqa2k_standin.py", "photos"], "photos"),
]


@pytest.mark.parametrize(
    ("command", "words"), WRONG, ids=lambda value: " ".join(map(str, value[:3])) if isinstance(value, list) else ""
)
def test_wrong_input_ends_a_script_with_one_line_and_no_output(run, folder, monkeypatch, command, words):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)  # as it is before a script sets its own
    before = files_of(folder)
    err = io.StringIO()
    try:
        done = run(*command)
        code, text = done.code, done.err
    except (ValueError, OSError) as error:
        with contextlib.redirect_stderr(err):
            sys.excepthook(type(error), error, error.__traceback__)  # as Python would
        code, text = 1, err.getvalue()
    assert code in (1, 2)
    assert text.count("\n") == 1, text
    assert "error: " in text
    for word in words.split(" ", 1) if words.split(" ")[0] in ("empty", "missing", "file.dat") else [words]:
        assert word in text
    assert files_of(folder) == before


# --- Two processes


@pytest.fixture(scope="module")
def together(rated, photos, repo, tmp_path_factory) -> Path:
    """Four trainings by the same two processes, each in a folder of its name beside what it printed."""
    root = tmp_path_factory.mktemp("together")
    shutil.copytree(rated.parent, root / "data")
    (root / "originals").mkdir()
    for scene in SCENES:
        shutil.copy(rated.parent / "images" / f"ORG_{scene}.png", root / "originals" / f"{scene}.png")
    (root / "photos").mkdir()
    for path in photos.rglob("*.png"):
        shutil.copy(path, root / "photos")
    for path in sorted((root / "photos").iterdir())[1:12:3]:
        Image.fromarray(make_image(3, 40, 50).mean(2).astype(np.uint8)).save(path)
    branch = [*NETWORK, "--epochs", 1, "--workers", 0, "--backbone-lr", 1e-3, "--folds", 2, "--batch-size", 4]
    table = root / "data" / "table.csv"
    baseline = ["--reference", root / "originals", "--random-init", *settings("afine"), "--epochs", 1, "--workers", 0]
    baseline += ["--device", "cpu", "--cache", root / "cache"]
    prior = ["--width", 16, "--dropout", 0.2, "--views", 1, "--batch-size", 2]
    commands = {
        "CF": ["train_CF.py", "--data", table, *branch],
        "SCC": ["train_SCC.py", "--data", table, *branch, *NO_PRIORS],
        "afine": ["train_baseline.py", "afine", "--data", table, *baseline, "--target", "PR", "CF", "--batch-size", 4],
        "prior": ["tools/train_color_prior.py", root / "photos", *NETWORK, *prior, "--epochs", 2, "--workers", 0],
    }
    commands = {name: [*map(str, command), "--output", str(root / name)] for name, command in commands.items()}
    (root / "commands.json").write_text(json.dumps(commands))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "tests/processes.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, root], cwd=repo, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr + "".join(path.read_text() for path in root.glob("*.err"))
    return root


def epochs_of(folder: Path, name: str = "metrics.csv") -> list[str]:
    return [row["epoch"] for row in history_of(folder, name)]


@pytest.mark.parametrize("dimension", ["CF", "SCC"])
def test_two_processes_train_one_network_and_write_one_set_of_outputs(together, dimension):
    output = together / dimension
    files = {"best.pt", "last.pt", "metrics.csv", "curves.png", "split.txt", "test.json", "test.csv", "tensorboard"}
    assert {path.name for path in output.iterdir()} == files | {"fold1", "fold2", "oof.csv", "oof.csv.json"}
    assert len(list((output / "tensorboard").iterdir())) == 1
    assert epochs_of(output) == ["1"]
    assert (together / f"{dimension}.0.out").read_text().count("epoch   1/1") == 3  # once a network
    assert len(rows_of(output / "oof.csv")) == 24
    assert load_model(output / "best.pt").dimension == dimension


def test_two_processes_train_the_three_stages_of_afine(together):
    output = together / "afine"
    assert (together / "afine.0.out").read_text().count("epoch   1/1") == 3
    for stage in (1, 2, 3):
        assert len(list((output / f"stage{stage}" / "tensorboard").iterdir())) == 1
        assert epochs_of(output / f"stage{stage}") == ["1"]
    results = json.loads((output / "test.json").read_text())
    assert results["pictures"] == 8
    model = build_model(read_checkpoint(output / "best.pt"), "best.pt", {"afine": Baseline}).eval()
    assert model.columns == ["PR", "CF"]
    names = [f"{method}_{scene}.png" for scene in sorted(read_split(output / "split.txt")["test"]) for method in MOS]
    originals = [together / "originals" / f"{name.split('_')[1]}" for name in names]
    scores = model.score([together / "data" / "images" / name for name in names], originals)
    ratings = pd.read_csv(together / "data" / "table.csv").set_index("image").loc[[f"images/{n}" for n in names], "PR"]
    assert results["PR SRCC"] == pytest.approx(stats.spearmanr([s["PR"] for s in scores], ratings).statistic, abs=1e-9)


def test_two_processes_train_one_prior_even_if_one_has_fewer_usable_photographs(together):
    output = together / "prior"
    assert {path.name for path in output.iterdir()} == {"best.pt", "last.pt", "prior.csv", "report.json"}
    assert epochs_of(output, "prior.csv") == ["1", "2"]
    assert (together / "prior.0.out").read_text().count("epoch   1/2") == 1
    said = [(together / f"prior.{rank}.err").read_text().count("has no color") for rank in (0, 1)]
    assert sum(said) == 4  # by the process that met them
    assert load_model(output / "best.pt").surprise(together / "photos" / "p00.png").nats.shape == (8, 8)

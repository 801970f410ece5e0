"""A run and its folder: nobody else's weights, nobody else's data, nothing lost by an interruption."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import pandas as pd
import pytest
import torch
from conftest import stop_after

from models import ChromaticFidelityNet
from models.base import ScoreNet
from train_CF import RECIPE
from training import images, records
from training.engine import fit, make_optimizer, make_schedule
from training.options import parse_training, training_parser
from utils import distributed
from utils.checkpoint import read_checkpoint
from utils.files import give_lock, sha256, take_lock

NETWORK = ["--backbone", "test_efficientnet", "--random-init", "--size", 64, "--workers", 0, "--device", "cpu"]
QUICK = [*NETWORK, "--epochs", 1, "--limit", 12]


@pytest.fixture
def table(rated, tmp_path) -> Path:
    """A copy of the ratings and images, to be changed."""
    shutil.copytree(rated.parent, tmp_path / "data")
    return tmp_path / "data" / "table.csv"


def holder(lock: Path) -> subprocess.Popen:
    """Another process that holds a lock."""
    code = "import sys, time; from pathlib import Path; from utils.files import take_lock\n"
    code += f"take_lock(Path({str(lock)!r}), ''); print('held', flush=True); time.sleep(60)"
    repo = Path(__file__).resolve().parents[1]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=repo, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_two_trainings_do_not_write_into_one_folder(run, rated, tmp_path):
    (tmp_path / "run").mkdir()
    other = holder(tmp_path / "run" / ".lock")
    try:
        with pytest.raises(BlockingIOError, match=rf"process {other.pid}\) is training into .*run; .*another --output"):
            run("train_CF.py", "--data", rated, "--output", tmp_path / "run", *QUICK)
    finally:
        other.kill()
        other.wait()
    assert run("train_CF.py", "--data", rated, "--output", tmp_path / "run", *QUICK).code == 0  # a killed one blocks nobody
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_lock_is_given_back(tmp_path):
    held = take_lock(tmp_path / "l", "is here")
    give_lock(tmp_path / "l", held)
    assert not (tmp_path / "l").exists()


def test_weights_that_something_replaced_are_not_tested(run, rated, weights, tmp_path, monkeypatch):
    real = records.plot_curves
    monkeypatch.setattr(
        records, "plot_curves", lambda h, path, t: (real(h, path, t), shutil.copy(weights["CF"], path.parent / "best.pt"))
    )
    with pytest.raises(ValueError, match=r"best\.pt is not the file that this run wrote"):
        run("train_CF.py", "--data", rated, "--output", tmp_path / "run", *QUICK)
    assert not (tmp_path / "run" / "test.json").exists()


def test_a_kill_between_the_two_checkpoints_of_an_epoch_loses_nothing(run, rated, tmp_path, monkeypatch):
    command = ["train_CF.py", "--data", rated, *NETWORK, "--epochs", 2, "--limit", 12]
    assert run(*command, "--output", tmp_path / "whole").code == 0
    for number in range(1, 4):  # at any write: next.pt and last.pt of the first epoch, and one of the second
        output = tmp_path / f"run{number}"
        with monkeypatch.context() as patch:
            save, count = records.save_checkpoint, iter(range(1, 100))

            def stopped(*a, save=save, count=count, number=number, **k):
                if next(count) == number:
                    raise KeyboardInterrupt
                save(*a, **k)

            patch.setattr(records, "save_checkpoint", stopped)
            with pytest.raises(KeyboardInterrupt):
                run(*command, "--output", output)
        run(*command, "--output", output, "--resume")
        for name in ("best.pt", "last.pt"):
            one, other = (read_checkpoint(folder / name)["model"] for folder in (tmp_path / "whole", output))
            assert all(torch.equal(one[key], other[key]) for key in one), (number, name)


def test_a_run_that_was_killed_before_it_renamed_its_weights_goes_on(run, rated, tmp_path):
    command = ["train_CF.py", "--data", rated, "--output", tmp_path, *QUICK]
    assert run(*command).code == 0
    before = sha256(tmp_path / "best.pt")
    (tmp_path / "best.pt").rename(tmp_path / "next.pt")
    assert run(*command, "--resume").code == 0
    assert sha256(tmp_path / "best.pt") == before


def test_weights_are_overwritten_only_when_asked(run, rated, tmp_path):
    command = ["train_CF.py", "--data", rated, "--output", tmp_path / "run", *QUICK]
    assert run(*command, "--folds", 2).code == 0
    before = sha256(tmp_path / "run" / "best.pt")
    for folder in ("", "fold1"):  # a folder of a fold alone counts as well
        if folder:
            (tmp_path / "run" / "best.pt").unlink()
            (tmp_path / "run" / "last.pt").unlink()
        with pytest.raises(ValueError, match=rf"{folder}/?best\.pt is there .*--resume to go on .*--overwrite to train anew"):
            run(*command)
    result = run(*command, "--overwrite", "--seed", 1)
    assert result.code == 0
    assert sha256(tmp_path / "run" / "best.pt") != before
    assert not (tmp_path / "run" / "fold1" / "best.pt").exists()
    assert run(*command, "--overwrite", "--resume").code == 2
    (tmp_path / "run" / "last.pt").unlink()
    with pytest.raises(ValueError, match=r"best\.pt is there without the last\.pt that --resume goes on from"):
        run(*command, "--resume")


def changed(table: Path, kind: str) -> None:
    """Change the data between a run and its resumption."""
    frame = pd.read_csv(table)
    rows = frame["CF"].notna()
    if kind == "ratings":
        frame.loc[rows, "CF"] *= 0.9
    elif kind == "list of images":
        frame = frame[frame["method"] != "SWAP"]
    else:
        for path in (table.parent / "images").glob("SWAP_*"):
            shutil.copy(path.with_name(path.name.replace("SWAP", "DULL")), path)
    frame.to_csv(table, index=False)


@pytest.mark.parametrize("kind", ["ratings", "list of images", "images"])
def test_a_run_goes_on_with_its_own_data_only(run, table, tmp_path, kind):
    command = ["train_CF.py", "--data", table, "--output", tmp_path / "run", *NETWORK, "--epochs", 1]
    assert run(*command).code == 0
    changed(table, kind)
    with pytest.raises(ValueError, match=rf"was started with other data: .*{kind}.*; a run goes on only with the same data"):
        run(*command, "--resume")


def test_a_run_of_another_dimension_or_version_is_named(run, rated, tmp_path):
    command = ["--data", rated, "--output", tmp_path / "run", *QUICK]
    assert run("train_CF.py", *command).code == 0
    with pytest.raises(ValueError, match="holds a run of CF, not of SCC"):
        run("train_SCC.py", *command, "--resume", "--prior", "none")
    last = tmp_path / "run" / "last.pt"
    content = torch.load(last, weights_only=True)
    fewer = {key: value for key, value in content["settings"].items() if key != "clip"}
    other = content["model"] | {"more": torch.zeros(1)}
    for change in ({"history": None}, {"settings": fewer}, {"model": other}, {"scheduler": {}}, {"optimizer": {}}):
        kept = {key: value for key, value in (content | change).items() if value is not None}
        torch.save(kept, last)
        with pytest.raises(ValueError, match=r"last\.pt is of another version of this project \(.*--overwrite"):
            run("train_CF.py", *command, "--resume")


def test_the_limit_limits_folds(run, rated, tmp_path):
    command = ["train_CF.py", "--data", rated, "--output", tmp_path, *QUICK, "--folds", 2]
    assert run(*command).code == 0
    assert len(pd.read_csv(tmp_path / "oof.csv")) == 12 + 4  # all four rated images of the validation scene


@pytest.mark.parametrize(
    ("ratings", "options", "words"),
    [
        ([0.5], [], r"all \d+ training images have the CF rating 0.5, and a network cannot learn"),
        ([0.5, 0.6], ["--limit", 1], "a single training image has a CF rating"),
    ],
)
def test_ratings_that_teach_nothing_are_refused(run, table, tmp_path, ratings, options, words):
    frame = pd.read_csv(table)
    frame["CF"] = [ratings[i % len(ratings)] for i in range(len(frame))]
    frame.to_csv(table, index=False)
    with pytest.raises(ValueError, match=words):
        run("train_CF.py", "--data", table, "--output", tmp_path / "run", *NETWORK, *options)


def test_without_a_validation_that_can_choose_the_last_epoch_is_kept_and_said_to(run, table, tmp_path):
    frame = pd.read_csv(table)
    command = ["train_CF.py", "--data", table, *NETWORK, "--epochs", 2]
    done = run(*command, "--output", tmp_path / "none", "--val", 0)
    assert "WARNING: no validation images, so that nothing can choose the epoch" in done.out
    lines = (tmp_path / "none" / "split.txt").read_text()
    scene = frame["scene"].iloc[0]
    (tmp_path / "split.txt").write_text(
        lines.replace(f"train {scene}\n", f"val {scene}\n").replace(f"test {scene}\n", f"val {scene}\n")
    )
    frame.loc[frame["scene"] == scene, "CF"] = 0.25
    frame.to_csv(table, index=False)
    done = run(*command, "--output", tmp_path / "same", "--split", tmp_path / "split.txt")
    assert "WARNING: all 4 validation images are rated alike" in done.out
    assert read_checkpoint(tmp_path / "same" / "best.pt")["epoch"] == 2


def test_a_loss_that_is_not_finite_ends_the_training_where_it_happens(run, rated, tmp_path, monkeypatch):
    real = ChromaticFidelityNet.loss
    monkeypatch.setattr(ChromaticFidelityNet, "loss", lambda *a: real(*a) * torch.inf)
    with pytest.raises(ValueError, match=r"epoch 1, step 1 of \d+: the loss is inf, .*lower --lr than 0.001"):
        run("train_CF.py", "--data", rated, "--output", tmp_path, *QUICK)
    assert not (tmp_path / "best.pt").exists()


def test_features_are_found_again_after_an_interruption(run, rated, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_KEPT_TOGETHER", 8)
    command = ["train_CF.py", "--data", rated, *NETWORK, "--epochs", 3, "--limit", 12]
    assert run(*command, "--output", tmp_path / "whole").code == 0
    encoded = []
    real = ChromaticFidelityNet.encode

    def encode(self, inputs, maps=None):
        if "rgb" in inputs:
            encoded.append(len(inputs["rgb"]))
            if stop and len(encoded) == stop:
                raise KeyboardInterrupt
        return real(self, inputs, maps)

    monkeypatch.setattr(ChromaticFidelityNet, "encode", encode)
    output, stop = tmp_path / "run", 6  # within the second view
    with pytest.raises(KeyboardInterrupt):
        run(*command, "--output", output)
    assert len(list(output.glob("features/*/*.pt"))) == 5
    (output / ".0123456789abcdef.tmp").touch()
    stop = 0
    with monkeypatch.context() as patch:
        stop_after(patch, 1, ScoreNet)
        with pytest.raises(KeyboardInterrupt):
            run(*command, "--output", output)
    damaged = next(output.glob("features/*/view0_0.pt"))
    damaged.write_bytes(b"no features")
    result = run(*command, "--output", output, "--resume")
    assert sum(encoded) == 4 * (12 + 4 + 8) + 8 + 8  # each view once, the batch at the stop and the damaged one again
    assert "features of 24 images: " in result.out
    assert not (output / "features").exists()
    assert not list(output.glob(".*"))
    one, other = (read_checkpoint(folder / "best.pt")["model"] for folder in (tmp_path / "whole", output))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_kept_files_of_changed_images_and_killed_runs_are_removed(rated, tmp_path):
    image = tmp_path / "a.png"
    shutil.copy(rated.parent / "images" / "ORG_s0.png", image)
    old = images.kept_file(tmp_path / "cache", image)
    images.make_lacking([old], lambda i: images.kept(old, lambda: torch.zeros(2).numpy()), "")
    earlier, young, left = (tmp_path / "cache" / name for name in ("0" * 32 + ".npy", ".1.tmp", ".2.tmp"))
    for path in (earlier, young, left):
        path.touch()
    long_ago = time.time() - 4000
    os.utime(left, (long_ago, long_ago))
    shutil.copy(rated.parent / "images" / "STAIN_s0.png", image)
    os.utime(image, (1, 1))
    new = images.kept_file(tmp_path / "cache", image)
    images.make_lacking([new], lambda i: images.kept(new, lambda: torch.zeros(2).numpy()), "")
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {new.name, young.name}


# --- several processes, and interruptions


def train_a_share(rank: int, world: int, port: int, output: Path) -> None:
    """Five steps of one of the processes that train together on features in two views."""
    os.environ |= {"WORLD_SIZE": str(world), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.setup("cpu")
    records.summary_writer, records.plot_curves = MagicMock(), MagicMock()  # slow to import
    torch.nn.Dropout.forward = lambda self, x: x
    torch.manual_seed(0)
    model = ChromaticFidelityNet("test_efficientnet", 64).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        plain = model.encode(model.prepare_batch(torch.rand(32, 3, 64, 64, generator=generator)))
    views = {k: torch.stack((v, v + 0.1 * torch.randn(v.shape, generator=generator))) for k, v in plain.items()}
    train_set = images.FeatureSet(views, torch.rand(32, generator=generator) * 2 - 1, None, 2)
    options = ["--data", "x", "--output", output, "--epochs", 1, "--batch-size", 6 // world, "--device", "cpu"]
    options = parse_training(training_parser(""), "CF", RECIPE, list(map(str, options)))
    sets = {"train": train_set, "val": None}
    fit(model, make_optimizer(model, options), make_schedule(options), sets, options, output, {})
    distributed.cleanup()


def test_two_processes_at_batch_3_are_one_at_batch_6(tmp_path):
    """The loss compares the images of a batch, and inputs are standardized by it."""
    contents = []
    for world in (1, 2):
        fork = multiprocessing.get_context("fork")
        port = 20000 + time.time_ns() % 10000
        started = [fork.Process(target=train_a_share, args=(r, world, port, tmp_path / str(world))) for r in range(world)]
        for process in started:
            process.start()
        for process in started:
            process.join(600)
        assert [process.exitcode for process in started] == [0] * world
        contents.append(read_checkpoint(tmp_path / str(world) / "best.pt"))
    one, two = contents
    assert one["metrics"]["loss"] == pytest.approx(two["metrics"]["loss"], abs=1e-5)
    # in the mean: AdamW makes a step of a gradient that is rounding alone
    apart = {k: (v.double() - two["model"][k].double()).abs().mean().item() for k, v in one["model"].items()}
    assert max(apart.values()) < 1e-5


def test_an_inference_script_refuses_torchrun_in_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        result = run("infer_CF.py", tmp_path)
        assert (result.code, len(result.err.splitlines())) == (1, lines)
        assert lines == 0 or "uses several GPUs by itself: run it without torchrun, --device cuda:0,cuda:1" in result.err


@pytest.mark.parametrize(
    ("script", "module"),
    [("train_CF.py", "numpy"), ("infer_PR.py", "numpy"), ("evaluate.py", "pandas"), ("tools/compute_mos.py", "numpy")],
)
def test_an_interruption_while_a_script_loads_is_one_line(repo, tmp_path, script, module):
    """A stand-in for a slow module interrupts its own import."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept KeyboardInterrupt: pass\n"
    )
    required = {
        "train_CF.py": ["--data", "x", "--output", tmp_path / "run"],
        "infer_PR.py": ["x"],
        "evaluate.py": ["--predictions", "x", "--mos", "y"],
        "tools/compute_mos.py": ["x", "-o", "y.csv"],
    }[script]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": ""}
    command = [sys.executable, script, *map(str, required)]
    for how, status, words in ((signal.SIG_DFL, 130, "interrupted\n"), (signal.SIG_IGN, 1, "Traceback")):
        # a job in the background of a shell ignores Ctrl-C; here it fails later, for the module is empty
        begin = {"preexec_fn": lambda how=how: signal.signal(signal.SIGINT, how)}
        done = subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, check=False, **begin)
        assert (done.returncode, done.stdout) == (status, "")
        assert done.stderr.startswith(words)
        assert status == 1 or done.stderr == words


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["images of 8 scenes", "backbone weights", "epoch   1/1000", "epoch   9/1000"])
def test_ctrl_c_in_a_training_is_one_line_and_status_130(repo, rated, tmp_path, moment):
    command = ["train_CF.py", "--data", rated, "--output", tmp_path / "run", *NETWORK, "--epochs", 1000, "--workers", 2]
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": os.environ | {"PYTHONUNBUFFERED": "1"},
    }
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=repo, **options, **heard)
    assert any(moment in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    err = process.communicate()[1]
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "interrupted: run the same command again with --resume to go on"
    assert not (tmp_path / "run" / ".lock").exists()

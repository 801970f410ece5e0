"""Training the published networks: the recipe and what is added to it, the image cache, start weights, and what is refused.

Networks are small ones of the same make, and random; the data are a few made-up images in the layout of ICQA-2K.
"""

import csv
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from conftest import stop_after
from golden import labels, prior
from PIL import Image
from readers import assert_same_weights
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from data.splits import read_split
from models import base, load_model
from models.base import stack
from models.published import PublishedCF, PublishedNet, PublishedPR, PublishedSCC, load_start_weights
from training import runs
from training.batches import Batches, EpochSampler
from training.images import PublishedImages
from training.options import TrainOptions
from utils import metrics
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.files import image_id
from utils.images import ImageReadError
from utils.labels import LabelError, ObjectLabels, read_color_curves

DIMENSIONS = ("CF", "SCC", "PR")
METHODS = ("BIG", "CT2", "GCP")
TRAIN, TEST = (101, 102, 103, 104), (901,)  # scenes
VIT = "test_vit"  # of 160 pixels; the published one takes a second an image
TINY = "resnet_tiny"
SMALL = {"CF": ["--backbone", VIT], "SCC": ["--backbone", TINY], "PR": ["--backbone", TINY]}
PUBLISHED = ["--preset", "published", "--device", "cpu", "--workers", 0]
STRICT = [*PUBLISHED, "--strict-recipe"]

Runner = Callable[..., object]


@pytest.fixture(scope="module", autouse=True)
def _a_tiny_residual_network() -> Iterator[None]:
    """torchvision's smallest residual network takes a second an epoch, and most of that to write its checkpoints."""
    with pytest.MonkeyPatch.context() as patch:
        real = torchvision.models.get_model

        def get_model(name: str, **rest: object) -> nn.Module:
            if name != TINY:
                return real(name, **rest)
            net = nn.Sequential()
            for part, module in (
                ("conv1", nn.Conv2d(3, 16, 7, stride=4, padding=3, bias=False)),
                ("bn1", nn.BatchNorm2d(16)),
                ("relu", nn.ReLU()),
                ("layer1", BasicBlock(16, 16)),
                ("avgpool", nn.AdaptiveAvgPool2d(1)),
                ("fc", nn.Linear(16, 10)),
            ):
                net.add_module(part, module)
            return net

        patch.setattr(torchvision.models, "get_model", get_model)
        yield


# --- helpers


def make_data(root: Path, train: tuple[int, ...] = TRAIN, test: tuple[int, ...] = TEST) -> Path:
    """A data set in the layout of ICQA-2K, with labels for all images but those of GCP."""
    (root / "labels").mkdir(parents=True)
    (root / "color_.json").write_text(json.dumps(prior()))
    for split, scenes in (("train", train), ("test", test)):
        folder = root / f"ICQA_2K_{split}"
        mos: dict[str, dict[str, float]] = {dimension: {} for dimension in DIMENSIONS}
        for scene in scenes:
            folder.mkdir(exist_ok=True)
            for place, method in enumerate(METHODS):
                stem = f"{method}_{scene:012}"
                blobs = np.random.default_rng((scene, place)).integers(0, 256, (5, 6, 3), np.uint8)
                Image.fromarray(blobs).resize((72, 56), Image.Resampling.BICUBIC).save(folder / f"{stem}.png")
                if method != "GCP":
                    (root / "labels" / f"{stem}.txt").write_text("\n".join(labels(1 + place)))
                for number, dimension in enumerate(DIMENSIONS):
                    mos[dimension][stem] = round(0.8 - 0.7 * place + 0.01 * (scene % 7) - 0.05 * number, 3)
        for dimension in DIMENSIONS if scenes else ():
            (root / f"ICQA_2K_{split}_{dimension}_mos.json").write_text(json.dumps(mos[dimension]))
    return root


def images_of(data: Path, *splits: str) -> list[Path]:
    return [path for split in splits or ("train", "test") for path in sorted((data / f"ICQA_2K_{split}").glob("*.png"))]


def write_scores(path: Path, data: Path, dimension: str, sample: str | None, splits: tuple[str, ...] = ()) -> Path:
    """A score file of a data set that says, or does not, what its images were to the weights."""
    names = [path.relative_to(data).as_posix() for path in images_of(data, *splits)]
    rows = "".join(f"{name},{0.9 - 0.1 * (number % 18):.6f}\n" for number, name in enumerate(names))
    path.write_text(f"image,{dimension}\n{rows}")
    if sample is not None:
        path.with_name(path.name + ".json").write_text(json.dumps({"sample": sample, "root": str(data), "files": {}}))
    return path


def sub_scores(folder: Path, data: Path, sample: str | None) -> list[object]:
    """``--cf`` and ``--scc`` of train_PR.py."""
    folder.mkdir(exist_ok=True)
    return [x for d in ("CF", "SCC") for x in (f"--{d.lower()}", write_scores(folder / f"{d}_{sample}.csv", data, d, sample))]


def history_of(folder: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv without the time they took."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def seen_by(path: Path) -> set[int]:
    return set(read_checkpoint(path)["seen"][:, 1].tolist())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four scenes to train on and one to test on, three images each. Not to be changed."""
    return make_data(tmp_path_factory.mktemp("data") / "ICQA_2K")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Resized images, made once for this module."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def train(run, cache) -> Callable[..., object]:
    """Train a small published network of random start weights; must succeed unless it raises."""

    def train(dimension: str, data: Path, output: Path, *options: object, strict: bool = False) -> object:
        preset = STRICT if strict else PUBLISHED
        own = ["--data", data, "--output", output, "--cache", cache, "--random-init", *preset, *SMALL[dimension]]
        result = run(f"train_{dimension}.py", *own, "--batch-size", 4, *options)
        assert result.code == 0, result.err
        return result

    return train


# --- settings


@pytest.fixture
def arguments_of(run, monkeypatch) -> Callable[..., TrainOptions]:
    """The arguments that a training script works with."""

    def arguments_of(dimension: str, *options: object) -> TrainOptions:
        caught = []

        def catch(options: TrainOptions) -> None:
            caught.append(options)
            raise SystemExit(0)

        more = ["--cf", "cf.csv", "--scc", "scc.csv"] if dimension == "PR" else []
        with monkeypatch.context() as patch:
            patch.setattr(runs, "draw_seed_if_none", catch)
            result = run(f"train_{dimension}.py", "--data", "ICQA_2K", "--output", "run", *more, *options)
        assert result.code == 0, result.err
        return caught[0]

    return arguments_of


# github.com/ARBEZ-ZEBRA/ICQA, commit 922ed1e
RECIPE = {
    "CF": {"optimizer": "adamw", "weight_decay": 0.01, "lr": 1e-4, "backbone_lr": 1e-6, "batch_size": 12, "epochs": 400},
    "SCC": {"optimizer": "adam", "weight_decay": 0.0, "lr": 1e-4, "backbone_lr": 1e-4, "batch_size": 16, "epochs": 400},
    "PR": {"optimizer": "adam", "weight_decay": 0.0, "lr": 1e-4, "backbone_lr": 1e-4, "batch_size": 32, "epochs": 500},
}
PLAIN = {
    "schedule": "constant",
    "correlation_weight": 0.0,
    "stop_loss": 0.001,
    "augment": False,
    "patience": None,
    "backbone": None,
    "backbone_weights": None,
    "random_init": False,
}
ADDED = {"val": 0.15, "best_epoch": True, "seed": 0, "clip": 1.0, "amp": True, "shared_scenes": "refuse"}
ADDED_BY_DIMENSION = {
    "CF": {"folds": 5},
    "SCC": {"folds": 5, "attention": "infer"},
    "PR": {"out_of_fold": True},
}
STRICTLY = {"val": 0.0, "best_epoch": False, "seed": None, "clip": 0.0, "amp": False, "shared_scenes": "keep", "warmup": 0.0}
STRICTLY_BY_DIMENSION = {"CF": {"folds": 0}, "SCC": {"folds": 0, "attention": "train"}, "PR": {"out_of_fold": False}}
COMPACT = {
    "epochs": 20,
    "batch_size": 24,
    "lr": 1e-3,
    "backbone_lr": 0,
    "weight_decay": 0.05,
    "warmup": 0.1,
    "clip": 1.0,
    "patience": 8,
    "best_epoch": True,
    "stop_loss": None,
    "optimizer": "adamw",
    "schedule": "cosine",
    "correlation_weight": 0.2,
    "augment": True,
    "val": 0.15,
    "test": 0.2,
    "seed": 0,
    "size": 224,
    "backbone": "tf_efficientnet_lite0",
    "amp": True,
    "shared_scenes": "refuse",
    "cache": None,
    "checkpoint_activations": False,
}


def found(args: TrainOptions, known: dict[str, object]) -> dict[str, object]:
    return {name: getattr(args, name) for name in known}


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_published_preset_has_the_published_settings_and_what_makes_them_sound(arguments_of, dimension):
    args = arguments_of(dimension, "--preset", "published")
    known = RECIPE[dimension] | PLAIN | ADDED | ADDED_BY_DIMENSION[dimension]
    assert found(args, known) == known
    assert 0 < args.warmup * args.epochs <= 1.5  # about the first epoch


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_strict_recipe_turns_off_all_that_the_published_training_lacks(arguments_of, dimension):
    known = RECIPE[dimension] | PLAIN | STRICTLY | STRICTLY_BY_DIMENSION[dimension]
    assert STRICTLY.keys() - {"warmup"} == ADDED.keys()
    for options in (["--preset", "published", "--strict-recipe"], ["--strict-recipe", "--preset=published"]):
        assert found(arguments_of(dimension, *options), known) == known


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("strict", [[], ["--strict-recipe"]])
def test_what_is_said_on_the_command_line_wins(arguments_of, dimension, strict):
    said = {
        "lr": 0.5,
        "backbone_lr": 0.25,
        "batch_size": 7,
        "epochs": 3,
        "stop_loss": 0.5,
        "clip": 0.125,
        "seed": 4,
        "val": 0.25,
        "warmup": 0.0625,
        "weight_decay": 0.75,
        "shared_scenes": "resplit",
    }
    own = {"CF": {"folds": 3}, "SCC": {"folds": 3, "attention": "train"}, "PR": {}}[dimension]
    flags = [x for name, value in (said | own).items() for x in (f"--{name.replace('_', '-')}", value)]
    switches = ["--amp"] + (["--no-best-epoch"] if not strict else ["--best-epoch"])
    switches += ["--augment"] if dimension != "SCC" else []  # boxes are not flipped with the image
    switches += ["--no-out-of-fold" if not strict else "--out-of-fold"] if dimension == "PR" else []
    args = arguments_of(dimension, "--preset", "published", *strict, *flags, *switches)
    assert found(args, said | own) == said | own
    assert (args.amp, args.augment, args.best_epoch) == (True, dimension != "SCC", bool(strict))
    if dimension == "PR":
        assert args.out_of_fold == bool(strict)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_compact_preset_has_its_own_settings(arguments_of, dimension):
    own = {"CF": {"folds": 0}, "SCC": {"folds": 0}, "PR": {"out_of_fold": False}}[dimension]
    for options in ([], ["--preset", "compact"]):
        assert found(arguments_of(dimension, *options), COMPACT | own) == COMPACT | own


@pytest.mark.parametrize(
    ("dimension", "options", "words"),
    [
        ("CF", ["--strict-recipe"], "--strict-recipe needs --preset published"),
        ("PR", ["--preset", "compact", "--cache", "x"], "--cache needs --preset published"),
        ("CF", ["--checkpoint-activations"], "--checkpoint-activations needs --preset published"),
        ("SCC", ["--preset", "published", "--checkpoint-activations"], "--checkpoint-activations is for CF"),
        ("PR", ["--preset", "published", "--checkpoint-activations"], "--checkpoint-activations is for CF"),
        ("CF", ["--preset", "published", "--size", "224"], "--size is for the compact preset"),
        ("SCC", ["--preset", "published", "--backbone-lr", "0"], "--backbone-lr must be above 0"),
        ("CF", ["--preset", "original"], "invalid choice"),
        ("CF", ["--seed", "some"], "--seed"),
        ("PR", ["--cache-gb", "4"], "--cache-gb is gone; up to 8 GB of prepared images are kept in memory"),
        ("CF", ["--optimizer", "adam"], "--optimizer is gone; change the recipe at the top of the script"),
        pytest.param("SCC", ["--preset", "published", "--augment"], "--augment"),
        pytest.param("SCC", ["--color-prior", "x"], "--color-prior"),
        pytest.param("SCC", ["--attention", "train"], "--attention"),
        ("SCC", ["--preset", "published", "--prior", "x.pt"], "--prior is for the compact preset"),
        ("SCC", ["--object-prior", "none", "--preset", "published"], "--object-prior is for the compact preset"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(run, tmp_path, dimension, options, words):
    more = ["--cf", "cf.csv", "--scc", "scc.csv"] if dimension == "PR" else []
    result = run(f"train_{dimension}.py", "--data", tmp_path, "--output", tmp_path / "run", *more, *options)
    assert result.code == 2
    assert words in result.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_help_shows_the_settings_of_the_preset(run):
    for options, epochs, rate in (([], 20, "0.001"), (["--preset", "published"], 400, "0.0001")):
        text = run("train_CF.py", *options, "--help").out
        assert f"(default: {epochs})" in text
        assert f"peak learning rate of the head (default: {rate})" in " ".join(text.split())


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_optimizer_and_rates_are_those_of_the_recipe(train, data, tmp_path, monkeypatch, dimension):
    made = []

    def noting(name: str, real: type, groups: list[dict], **rest: object) -> object:
        made.append((name, rest))
        return real(groups, **rest)

    for name in ("Adam", "AdamW"):
        monkeypatch.setattr(torch.optim, name, partial(noting, name, getattr(torch.optim, name)))
    more = sub_scores(tmp_path / "sub", data, "out-of-fold") if dimension == "PR" else []
    train(dimension, data, tmp_path / "run", "--epochs", 2, "--limit", 4, "--seed", 0, *more, strict=True)
    recipe = RECIPE[dimension]
    rest = {"betas": (0.9, 0.999), "weight_decay": recipe["weight_decay"]}
    assert made == [({"adamw": "AdamW", "adam": "Adam"}[recipe["optimizer"]], rest)]
    head, backbone = read_checkpoint(tmp_path / "run" / "last.pt")["optimizer"]["param_groups"]
    assert (head["lr"], backbone["lr"]) == (recipe["lr"], recipe["backbone_lr"])
    assert [row["lr"] for row in history_of(tmp_path / "run")] == [recipe["lr"]] * 2
    model = load_model(tmp_path / "run" / "best.pt")
    assert len(backbone["params"]) == len(list(model.backbone.parameters()))
    assert len(head["params"]) + len(backbone["params"]) == len(list(model.parameters()))


def test_the_rate_rises_over_the_warm_up_and_then_stays(train, data, tmp_path):
    options = ["--epochs", 4, "--warmup", 0.75, "--folds", 0, "--limit", 4]
    train("CF", data, tmp_path / "run", *options)
    # a step an epoch; the rate of the next step is recorded
    assert [row["lr"] for row in history_of(tmp_path / "run")] == pytest.approx([2e-4 / 3, 1e-4, 1e-4, 1e-4])


def test_the_strict_recipe_is_a_plain_loop_of_adam_on_the_squared_error(run, data, cache, tmp_path):
    torch.manual_seed(5)
    start = PublishedSCC(TINY, train_attention="train")
    save_checkpoint(tmp_path / "start.pt", start)
    own = ["--data", data, "--output", tmp_path / "run", "--cache", cache, *STRICT, "--init", tmp_path / "start.pt"]
    result = run("train_SCC.py", *own, "--epochs", 2, "--limit", 5, "--seed", 1)
    assert result.code == 0, result.err

    seen = seen_by(tmp_path / "run" / "best.pt")
    paths = [path for path in images_of(data, "train") if image_id(path) in seen]
    assert len(paths) == 5
    known = ObjectLabels(data / "labels", read_color_curves(data / "color_.json"))
    mos = json.loads((data / "ICQA_2K_train_SCC_mos.json").read_text())
    batch = stack([start.prepare(path, known.slots(path.name)) for path in paths])
    target = torch.tensor([mos[path.stem] for path in paths])
    optimizer = torch.optim.Adam(start.parameters(), lr=1e-4)
    start.train()
    for row in history_of(tmp_path / "run"):
        loss = F.mse_loss(start.head(start.encode(batch)), target)
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert "SRCC" not in history_of(tmp_path / "run")[0]


# --- when to stop and what to keep


def test_training_stops_once_the_loss_is_low_enough_and_keeps_the_last_epoch(train, data, tmp_path):
    options = ["--lr", 1e-3, "--seed", 0]
    train("CF", data, tmp_path / "whole", *options, "--epochs", 5, strict=True)
    losses = [row["loss"] for row in history_of(tmp_path / "whole")]
    enough = min(losses[:3]) + 1e-6
    last = next(number for number, loss in enumerate(losses, start=1) if loss <= enough)
    assert last < 4
    said = train("CF", data, tmp_path / "run", *options, "--epochs", 5, "--stop-loss", enough, strict=True).out
    assert f"mean training loss {losses[last - 1]:.5f}, no more than {enough:g}: stopping" in said
    assert [row["loss"] for row in history_of(tmp_path / "run")] == losses[:last]
    for name in ("best.pt", "last.pt"):
        assert read_checkpoint(tmp_path / "run" / name)["epoch"] == last
    # a finished run that is taken up again stays finished
    said = train("CF", data, tmp_path / "run", *options, "--epochs", 5, "--stop-loss", enough, "--resume", strict=True).out
    assert "no more than" in said
    assert len(history_of(tmp_path / "run")) == last


@pytest.mark.parametrize(("options", "kept"), [([], 2), (["--no-best-epoch"], 3), (["--val", 0], 3)])
def test_the_epoch_of_the_best_validation_is_kept_or_the_last(train, data, tmp_path, monkeypatch, options, kept):
    quality = itertools.chain([0.1, 0.9, 0.5], itertools.repeat(0.0))  # then the test part
    monkeypatch.setattr(metrics, "correlations", lambda pred, mos: {"SRCC": next(quality), "PLCC": 0.0})
    train("CF", data, tmp_path / "run", "--epochs", 3, "--folds", 0, *options)
    content = read_checkpoint(tmp_path / "run" / "best.pt")
    assert (content["epoch"], read_checkpoint(tmp_path / "run" / "last.pt")["epoch"]) == (kept, 3)
    assert content["metrics"]["epoch"] == kept
    if kept == 3:
        assert_same_weights(tmp_path / "run" / "best.pt", tmp_path / "run" / "last.pt")


# --- seeds, and going on


def seed_said(result: object) -> int:
    line = next(line for line in result.out.splitlines() if line.startswith("seed: "))
    assert line.endswith(", drawn anew for each run")
    return int(line.split()[1].strip(","))


def test_without_a_seed_each_run_is_another_and_one_that_goes_on_keeps_its_own(train, data, tmp_path, monkeypatch):
    options = ["--epochs", 2]
    with monkeypatch.context() as patch:
        stop_after(patch, 4)  # 12 images are 3 steps an epoch: within the second epoch
        with pytest.raises(KeyboardInterrupt):
            train("CF", data, tmp_path / "a", *options, strict=True)
    first = read_checkpoint(tmp_path / "a" / "last.pt")["seed"]
    assert seed_said(train("CF", data, tmp_path / "a", *options, "--resume", strict=True)) == first
    assert seed_said(train("CF", data, tmp_path / "b", "--epochs", 1, strict=True)) != first
    train("CF", data, tmp_path / "c", *options, "--seed", first, strict=True)
    assert_same_weights(tmp_path / "a" / "last.pt", tmp_path / "c" / "last.pt")
    assert history_of(tmp_path / "a") == history_of(tmp_path / "c")
    assert history_of(tmp_path / "a")[0]["loss"] != history_of(tmp_path / "b")[0]["loss"]


@pytest.mark.parametrize(("dimension", "limit"), [("CF", 8), ("SCC", 5), ("PR", 5)])
def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(train, data, tmp_path, monkeypatch, dimension, limit):
    more = sub_scores(tmp_path / "sub", data, "out-of-fold") if dimension == "PR" else ["--folds", 0]
    options = ["--epochs", 3, "--limit", limit, *more]  # 2 steps an epoch, or 1 where a lone image joins the batch
    train(dimension, data, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        stop_after(patch, 3 if dimension == "CF" else 1)
        with pytest.raises(KeyboardInterrupt):
            train(dimension, data, tmp_path / "parts", *options)
    assert read_checkpoint(tmp_path / "parts" / "last.pt")["epoch"] == 1
    with pytest.raises(ValueError, match=r"was started with --clip 1\.0; a run goes on only with the same settings"):
        train(dimension, data, tmp_path / "parts", *options, "--resume", "--clip", 0.5)
    result = train(dimension, data, tmp_path / "parts", *options, "--resume")
    assert "resuming after epoch 1 of 3" in result.out
    for name in ("best.pt", "last.pt"):
        assert_same_weights(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert history_of(tmp_path / "whole") == history_of(tmp_path / "parts")
    for name in ("split.txt", "test.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_a_run_does_not_go_on_with_another_object_attention(train, data, tmp_path):
    options = ["--epochs", 1, "--limit", 4, "--folds", 0]
    train("SCC", data, tmp_path / "run", *options)
    with pytest.raises(ValueError, match="was started with --attention infer"):
        train("SCC", data, tmp_path / "run", *options, "--resume", "--attention", "train")


def test_folds_of_an_earlier_run_are_not_taken_up(train, data, tmp_path, monkeypatch):
    options = ["--epochs", 1, "--val", 0, "--folds", 2]
    train("CF", data, tmp_path / "run", *options)
    other = make_data(tmp_path / "ICQA_2K")
    path = other / "ICQA_2K_train_CF_mos.json"
    path.write_text(json.dumps({stem: -value for stem, value in json.loads(path.read_text()).items()}))
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            train("CF", other, tmp_path / "run", *options, "--overwrite")
    train("CF", other, tmp_path / "run", *options, "--resume")
    train("CF", other, tmp_path / "whole", *options)
    assert (tmp_path / "run" / "oof.csv").read_bytes() == (tmp_path / "whole" / "oof.csv").read_bytes()


# --- batches


@pytest.mark.parametrize(
    ("count", "size", "drop_last", "sizes"),
    [
        (33, 32, False, [33]),
        (65, 32, False, [32, 33]),
        (34, 32, False, [32, 2]),
        (32, 32, False, [32]),
        (31, 32, False, [31]),
        (1, 32, False, [1]),
        (3, 1, False, [1, 1, 1]),
        (33, 32, True, [32]),
        (34, 16, True, [16, 16]),
    ],
)
def test_a_lone_last_image_joins_the_batch_before(count, size, drop_last, sizes):
    batches = Batches(EpochSampler(count, 0), size, drop_last)
    made = list(batches)
    assert [len(batch) for batch in made] == sizes
    assert len(batches) == len(sizes)
    images = [index for batch in made for index in batch]
    assert len(set(images)) == len(images)
    assert set(images) <= set(range(count))
    assert len(images) == count or drop_last


@pytest.fixture(scope="module")
def eleven(tmp_path_factory) -> Path:
    """33 images to train on, none to test on."""
    return make_data(tmp_path_factory.mktemp("eleven") / "ICQA_2K", tuple(range(201, 212)), ())


def test_pr_trains_on_33_images_in_batches_of_32(train, eleven, tmp_path, monkeypatch):
    real, sizes = base.loss_function, []
    monkeypatch.setattr(base, "loss_function", lambda pred, *rest: sizes.append(len(pred)) or real(pred, *rest))
    more = sub_scores(tmp_path / "sub", eleven, "out-of-fold")
    result = train("PR", eleven, tmp_path / "run", "--epochs", 2, *more, "--test", 0, "--batch-size", 32, strict=True)
    assert sizes == [33, 33]
    assert "no test part" in result.out
    assert not (tmp_path / "run" / "test.json").exists()


# --- scenes in both of the given parts


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory) -> Path:
    """A data set whose test images are, but for one scene, other colorings of scenes to train on."""
    root = make_data(tmp_path_factory.mktemp("overlapping") / "ICQA_2K", TRAIN, (*TRAIN[2:], 901))
    for split, method in (("train", "CT2"), ("train", "GCP"), ("test", "BIG")):  # the parts share scenes and no image
        for scene in TRAIN[2:]:
            stem = f"{method}_{scene:012}"
            (root / f"ICQA_2K_{split}" / f"{stem}.png").unlink()
            for path in root.glob(f"ICQA_2K_{split}_*_mos.json"):
                mos = json.loads(path.read_text())
                del mos[stem]
                path.write_text(json.dumps(mos))
    return root


def test_shared_scenes_are_refused_with_a_scene_and_what_can_be_done(train, overlapping, tmp_path):
    with pytest.raises(
        ValueError, match=r"share 2 scenes, e\.g\. 000000000103, .*--shared-scenes keep .*--shared-scenes resplit"
    ):
        train("CF", overlapping, tmp_path / "run", "--epochs", 1, "--folds", 0)
    assert not (tmp_path / "run" / "best.pt").exists()


@pytest.mark.parametrize("strict", [True, False])
def test_shared_scenes_can_be_kept_as_they_are_with_a_warning(train, overlapping, tmp_path, strict):
    options = [] if strict else ["--shared-scenes", "keep", "--folds", 2, "--val", 0]
    result = train("CF", overlapping, tmp_path / "run", "--epochs", 1, *options, strict=strict)
    assert "WARNING: the given train and test images share 2 of 5 scenes" in result.out
    assert "test results are in part those of scenes trained on" in result.out
    test = images_of(overlapping, "test")
    assert json.loads((tmp_path / "run" / "test.json").read_text())["pictures"] == len(test) == 7
    used = seen_by(tmp_path / "run" / "best.pt")
    assert used == {image_id(path) for path in images_of(overlapping, "train")}
    assert not used & {image_id(path) for path in test}
    if not strict:
        with open(tmp_path / "run" / "oof.csv", newline="", encoding="utf-8") as file:
            names = [row["image"] for row in csv.DictReader(file)]
        assert names == [f"ICQA_2K_train/{path.name}" for path in images_of(overlapping, "train")]


@pytest.mark.parametrize("dimension", ["CF", "PR"])
def test_shared_scenes_can_be_divided_anew(train, overlapping, tmp_path, dimension):
    more = sub_scores(tmp_path / "sub", overlapping, "out-of-fold") if dimension == "PR" else ["--folds", 2]
    train(dimension, overlapping, tmp_path / "run", "--epochs", 1, "--shared-scenes", "resplit", *more)
    scenes = read_split(tmp_path / "run" / "split.txt")
    assert sum(map(len, scenes.values())) == len(set.union(*scenes.values())) == 5
    assert all(scenes.values())
    everything = images_of(overlapping)
    used = {image_id(path) for path in everything if path.stem.split("_")[1] in scenes["train"] | scenes["val"]}
    assert seen_by(tmp_path / "run" / "best.pt") == used
    tested = json.loads((tmp_path / "run" / "test.json").read_text())["pictures"]
    assert tested == len(everything) - len(used) > 0
    if dimension == "CF":
        with open(tmp_path / "run" / "oof.csv", newline="", encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == len(used)


# --- out-of-fold predictions


@pytest.fixture(scope="module")
def staged(run, train, data, tmp_path_factory) -> Path:
    """Runs CF and SCC with two folds, and what the inference scripts say of the test and of the training images with them."""
    root = tmp_path_factory.mktemp("staged")
    for dimension in ("CF", "SCC"):
        train(dimension, data, root / dimension, "--epochs", 1, "--folds", 2)
        reads = ["--labels", data / "labels", "--color-prior", data / "color_.json"] if dimension == "SCC" else []
        for split in ("train", "test"):
            own = ["--weights", root / dimension / "best.pt", "-o", root / f"{split}_{dimension}.csv", "--device", "cpu"]
            result = run(f"infer_{dimension}.py", data / f"ICQA_2K_{split}", *own, *reads)
            assert result.code == 0, result.err
    return root


@pytest.mark.parametrize("dimension", ["CF", "SCC"])
def test_every_training_image_is_predicted_by_a_network_that_has_not_seen_its_scene(staged, data, dimension):
    with open(staged / dimension / "oof.csv", newline="", encoding="utf-8") as file:
        rows = {row["image"]: float(row[dimension]) for row in csv.DictReader(file)}
    assert list(rows) == [f"ICQA_2K_train/{path.name}" for path in images_of(data, "train")]
    meta = json.loads((staged / dimension / "oof.csv.json").read_text())
    assert meta["sample"] == "out-of-fold"
    known = ObjectLabels(data / "labels", read_color_curves(data / "color_.json"))
    predicted = 0
    for fold in ("fold1", "fold2"):
        model, seen = load_model(staged / dimension / fold / "best.pt"), seen_by(staged / dimension / fold / "best.pt")
        scenes = {path.stem.split("_")[1] for path in images_of(data, "train") if image_id(path) in seen}
        assert len(scenes) == 2
        for path in images_of(data, "train"):
            if path.stem.split("_")[1] not in scenes:
                objects = [known.slots(path.name)[0]] if dimension == "SCC" else []
                assert rows[f"ICQA_2K_train/{path.name}"] == pytest.approx(model.score(path, *objects), abs=2e-5)
                predicted += 1
    assert predicted == len(rows) == 12


def given(staged: Path, cf: list[str], scc: list[str]) -> list[object]:
    return ["--cf", *(staged / name for name in cf), "--scc", *(staged / name for name in scc)]


def test_pr_is_trained_on_out_of_fold_predictions(train, staged, data, tmp_path):
    files = given(staged, ["CF/oof.csv", "test_CF.csv"], ["SCC/oof.csv", "test_SCC.csv"])
    result = train("PR", data, tmp_path / "run", "--epochs", 1, "--limit", 4, *files)
    assert "WARNING" not in result.out
    assert json.loads((tmp_path / "run" / "test.json").read_text())["pictures"] == 3


@pytest.mark.parametrize("dimension", ["CF", "SCC"])
@pytest.mark.parametrize("sample", ["in-sample", "unknown"])
def test_pr_is_not_trained_on_other_predictions_unless_asked_to(train, staged, data, tmp_path, dimension, sample):
    names = {d: [f"{d}/oof.csv", f"test_{d}.csv"] for d in ("CF", "SCC")}
    if sample == "in-sample":
        names[dimension] = [f"train_{dimension}.csv", f"test_{dimension}.csv"]
    else:
        names[dimension] = [str(write_scores(tmp_path / "by_hand.csv", data, dimension, None))]
    files = given(staged, names["CF"], names["SCC"])
    known = {
        "in-sample": f"training images have in-sample {dimension} predictions",
        "unknown": f"the {dimension} file does not say whether the predictions of",
    }[sample]
    advice = f"use the out-of-fold predictions of train_{dimension}.py --folds 5"
    with pytest.raises(ValueError, match=f"{known}.*{advice}.*--no-out-of-fold") as caught:
        train("PR", data, tmp_path / "run", "--epochs", 1, "--limit", 4, *files)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "last.pt").exists()
    result = train("PR", data, tmp_path / "run", "--epochs", 1, "--limit", 4, *files, "--no-out-of-fold")
    assert (f"WARNING: 4 of 4 {known}" if sample == "in-sample" else f"WARNING: {known} 4 of 4") in result.out


def test_a_image_without_a_sub_score_stops_pr_before_it_begins(train, staged, data, tmp_path):
    with pytest.raises(ValueError, match=r"3 of 3 images have no SCC score .*ICQA_2K_test/BIG_000000000901\.png \(no row\)"):
        train("PR", data, tmp_path / "run", *given(staged, ["CF/oof.csv", "test_CF.csv"], ["SCC/oof.csv"]))
    assert not (tmp_path / "run" / "last.pt").exists()


# --- the image cache


def table_of(paths: list[Path]) -> pd.DataFrame:
    return pd.DataFrame({"image": [path.name for path in paths], "path": list(map(str, paths)), "CF": 0.5})


def resized(path: Path, size: int, how: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((size, size), getattr(Image.Resampling, how.upper())))


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_a_cached_image_takes_its_pixels_and_a_short_header(data, tmp_path, how):
    paths = images_of(data, "train")[:2]
    images = PublishedImages(table_of(paths), 384, how, tmp_path, "CF")
    assert images.fill() == 2
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(442_368 < file.stat().st_size <= 442_368 + 128 for file in files)
    for number, path in enumerate(paths):
        inputs, mos, scores, index = images[number]
        assert torch.equal(inputs["rgb"] * 255, torch.from_numpy(resized(path, 384, how).copy()).permute(2, 0, 1).float())
        assert (mos, scores.numel(), index) == (0.5, 0, number)


def test_cf_is_trained_on_bilinear_images_and_predicts_bicubic_ones_which_are_made_once(train, data, tmp_path):
    options = ["--epochs", 1, "--folds", 2, "--cache", tmp_path / "cache"]
    said = train("CF", data, tmp_path / "a", *options).out
    train_part, val_part, test_part, *_ = [line for line in said.splitlines() if "resized" in line]
    assert train_part == f"9 images resized to 160 pixels, bilinear; cache: 0.7 MB in 9 files of {tmp_path / 'cache'}"
    assert val_part == f"3 images resized to 160 pixels, bicubic; cache: 0.9 MB in 12 files of {tmp_path / 'cache'}"
    assert test_part.startswith("3 images resized to 160 pixels, bicubic; cache: 1.2 MB in 15 files")
    content = {
        how: {np.load(file).tobytes() for file in (tmp_path / "cache" / f"{how}_160").iterdir()}
        for how in ("bilinear", "bicubic")
    }
    assert content["bicubic"] == {resized(path, 160, "bicubic").tobytes() for path in images_of(data)}  # folds predict the rest
    scenes = read_split(tmp_path / "a" / "split.txt")
    fitted = [path for path in images_of(data) if path.stem.split("_")[1] in scenes["train"]]
    assert {resized(path, 160, "bilinear").tobytes() for path in fitted} <= content["bilinear"]

    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")}
    assert "resized" not in train("CF", data, tmp_path / "b", *options).out
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")} == before
    for name in ("best.pt", "fold2/best.pt"):
        assert_same_weights(tmp_path / "a" / name, tmp_path / "b" / name)


def test_a_changed_image_is_resized_again_and_no_other(data, tmp_path):
    shutil.copytree(data / "ICQA_2K_train", tmp_path / "images")
    paths = sorted((tmp_path / "images").iterdir())
    images = PublishedImages(table_of(paths), 32, "bilinear", tmp_path / "cache", "CF")
    assert (images.fill(), images.fill()) == (12, 0)
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(paths[3])
    assert images.fill() == 1
    assert (images.levels(3) == 77).all()
    assert np.array_equal(images.levels(4), resized(paths[4], 32, "bilinear"))
    # another size or filter is another file
    assert PublishedImages(table_of(paths), 48, "bilinear", tmp_path / "cache", "CF").fill() == 12
    assert PublishedImages(table_of(paths), 32, "bicubic", tmp_path / "cache", "CF").fill() == 12


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array", None], ids=["empty", "header", "text", "half"])
def test_a_damaged_cache_file_is_made_again(data, tmp_path, content):
    path = images_of(data)[0]
    images = PublishedImages(table_of([path]), 32, "bilinear", tmp_path, "CF")
    images.fill()
    file = images.file(0)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert np.array_equal(images.levels(0), resized(path, 32, "bilinear"))
    assert file.read_bytes() == whole
    assert len(list(file.parent.iterdir())) == 1


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_an_unreadable_image_stops_the_training_before_it_begins(train, data, tmp_path, dimension):
    broken = tmp_path / "ICQA_2K"
    shutil.copytree(data, broken)
    for method in METHODS[:2]:
        (broken / "ICQA_2K_train" / f"{method}_000000000102.png").write_text("this is no image")
    more = sub_scores(tmp_path / "sub", broken, "out-of-fold") if dimension == "PR" else ["--folds", 0]
    with pytest.raises(ImageReadError, match=r"2 of 12 images cannot be trained on; .*BIG_000000000102\.png.*no image"):
        train(dimension, broken, tmp_path / "run", "--epochs", 1, "--val", 0, *more)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"split.txt"}


# --- objects


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_broken_label_file_stops_the_training_before_it_begins(train, data, tmp_path, where):
    broken = tmp_path / "ICQA_2K"
    shutil.copytree(data, broken)
    scene = {"train": 102, "test": 901}[where]
    (broken / "labels" / f"BIG_{scene:012}.txt").write_text("0 0.5 0.5 0.2 0.2\n\n0 0.5 0.5 oops 0.2\n")
    with pytest.raises(LabelError, match=rf"BIG_{scene:012}\.txt, line 3: 'oops' is not a finite number"):
        train("SCC", broken, tmp_path / "run", "--epochs", 1, "--folds", 0)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"split.txt"}


def test_labels_and_color_prior_are_those_of_the_data_folder_unless_others_are_named(train, data, tmp_path):
    options = ["--epochs", 1, "--limit", 4, "--folds", 0]
    said = train("SCC", data, tmp_path / "a", *options).out
    used = seen_by(tmp_path / "a" / "best.pt") | {image_id(path) for path in images_of(data, "test")}
    with_labels = [path for path in images_of(data) if image_id(path) in used and "GCP" not in path.name]
    assert f"objects: {len(with_labels)} of {len(used)} images have a label file" in said
    assert 0 < len(with_labels) < len(used)
    shutil.copytree(data, tmp_path / "ICQA_2K")
    shutil.move(tmp_path / "ICQA_2K" / "labels", tmp_path / "elsewhere")
    shutil.move(tmp_path / "ICQA_2K" / "color_.json", tmp_path / "prior.json")
    with pytest.raises(FileNotFoundError, match=r"color_\.json.*--color-prior"):
        train("SCC", tmp_path / "ICQA_2K", tmp_path / "b", *options)
    named = ["--color-prior", tmp_path / "prior.json"]
    with pytest.raises(FileNotFoundError, match=r"labels.*--labels"):
        train("SCC", tmp_path / "ICQA_2K", tmp_path / "b", *options, *named)
    train("SCC", tmp_path / "ICQA_2K", tmp_path / "b", *options, *named, "--labels", tmp_path / "elsewhere")
    assert_same_weights(tmp_path / "a" / "best.pt", tmp_path / "b" / "best.pt")
    said = train("SCC", tmp_path / "ICQA_2K", tmp_path / "c", *options, *named, "--labels", "none").out
    assert "objects: 0 of " in said
    assert history_of(tmp_path / "c")[0]["loss"] != history_of(tmp_path / "a")[0]["loss"]


def test_the_attention_of_training_is_in_the_checkpoint_and_scoring_has_one_softmax_unless_asked(
    run, train, data, tmp_path, monkeypatch
):
    real, used = PublishedSCC.features, []

    def noting(self: PublishedSCC, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        stages = real(self, inputs)
        once = stages["logits"].masked_fill(~inputs["used"], -1e9).softmax(1)
        twice = stages["logits"].softmax(1).masked_fill(~inputs["used"], -1e9).softmax(1)
        some = inputs["used"].sum(1) > 1  # with one object, or none, both are the same
        if some.any():
            graphs = {"infer": once[some], "train": twice[some]}
            near = [name for name, graph in graphs.items() if torch.allclose(graph, stages["attention"][some], atol=1e-7)]
            used.append(("training" if self.training else "scoring", *near))
        return stages

    monkeypatch.setattr(PublishedSCC, "features", noting)
    options = ["--epochs", 1, "--limit", 6, "--seed", 0]
    for strict, graph in ((True, "train"), (False, "infer")):
        more = [] if strict else ["--folds", 0, "--val", 0]
        train("SCC", data, tmp_path / graph, *options, *more, strict=strict)
        assert set(used) == {("training", graph), ("scoring", "infer")}
        used.clear()
        config = read_checkpoint(tmp_path / graph / "best.pt")["config"]
        assert config == {"backbone": TINY, "attention": "infer", "train_attention": graph}
    assert history_of(tmp_path / "train")[0]["loss"] != history_of(tmp_path / "infer")[0]["loss"]

    reads = ["--labels", data / "labels", "--color-prior", data / "color_.json"]
    own = [data / "ICQA_2K_test", "--weights", tmp_path / "train" / "best.pt", *reads, "--device", "cpu"]
    for graph in ("infer", "train"):
        more = ["--attention", "train"] if graph == "train" else []
        assert run("infer_SCC.py", *own, *more, "-o", tmp_path / f"{graph}.csv").code == 0
        assert set(used) == {("scoring", graph)}
        used.clear()
        meta = json.loads((tmp_path / f"{graph}.csv.json").read_text())
        assert meta["preprocessing"]["attention"] == graph


# --- start weights


def transformers_state(spelling: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Made-up weights of the small vision transformer as transformers names them, and the same as timm does."""
    sample = PublishedCF(VIT).backbone.state_dict()
    width, hidden = sample["cls_token"].shape[2], sample["blocks.0.mlp.fc1.weight"].shape[0]
    depth = 1 + max(int(name.split(".")[1]) for name in sample if name.startswith("blocks."))
    rng = torch.Generator().manual_seed(7)
    theirs: dict[str, Tensor] = {}
    ours: dict[str, Tensor] = {}

    def draw(name: str, *shape: int) -> Tensor:
        theirs[name] = torch.randn(shape, generator=rng)
        return theirs[name]

    ours["cls_token"] = draw("embeddings.cls_token", 1, 1, width)
    ours["pos_embed"] = draw("embeddings.position_embeddings", *sample["pos_embed"].shape)
    for end, shape in (("weight", (width, 3, 16, 16)), ("bias", (width,))):
        ours[f"patch_embed.proj.{end}"] = draw(f"embeddings.patch_embeddings.projection.{end}", *shape)
    if spelling == "classic":
        layers, attention = "encoder.layer", [f"attention.attention.{x}" for x in ("query", "key", "value")]
        out, widen, narrow = "attention.output.dense", "intermediate.dense", "output.dense"
    else:
        layers, attention = "layers", [f"attention.{x}_proj" for x in "qkv"]
        out, widen, narrow = "attention.o_proj", "mlp.fc1", "mlp.fc2"
    for n in range(depth):
        for end in ("weight", "bias"):
            tail = (width,) if end == "weight" else ()
            qkv = [draw(f"{layers}.{n}.{name}.{end}", width, *tail) for name in attention]
            ours[f"blocks.{n}.attn.qkv.{end}"] = torch.cat(qkv)
            ours[f"blocks.{n}.attn.proj.{end}"] = draw(f"{layers}.{n}.{out}.{end}", width, *tail)
            ours[f"blocks.{n}.mlp.fc1.{end}"] = draw(f"{layers}.{n}.{widen}.{end}", hidden, *tail)
            ours[f"blocks.{n}.mlp.fc2.{end}"] = draw(f"{layers}.{n}.{narrow}.{end}", width, *((hidden,) if tail else ()))
            ours[f"blocks.{n}.norm1.{end}"] = draw(f"{layers}.{n}.layernorm_before.{end}", width)
            ours[f"blocks.{n}.norm2.{end}"] = draw(f"{layers}.{n}.layernorm_after.{end}", width)
    for end in ("weight", "bias"):
        ours[f"norm.{end}"] = draw(f"layernorm.{end}", width)
    return theirs, ours


def assert_backbone(model: PublishedNet, known: dict[str, Tensor]) -> None:
    own = model.backbone.state_dict()
    assert own.keys() == known.keys()
    assert [name for name in own if not torch.equal(own[name], known[name])] == []


@pytest.mark.parametrize("spelling", ["classic", "transformers-5.9"])
@pytest.mark.parametrize("form", ["classifier.bin", "model.safetensors", "folder", "folder of .bin", "CF.pth"])
def test_cf_starts_from_weights_of_transformers(tmp_path, spelling, form):
    theirs, known = transformers_state(spelling)
    pooler = {"pooler.dense.weight": torch.zeros(64, 64), "pooler.dense.bias": torch.zeros(64)}
    prefixed = {f"vit.{name}": tensor for name, tensor in theirs.items()}
    path = tmp_path / form
    if form == "classifier.bin":  # as of a network with a head on top, like the one that the published training starts from
        torch.save(prefixed | {"classifier.weight": torch.zeros(10, 64), "classifier.bias": torch.zeros(10)}, path)
    elif form == "model.safetensors":
        save_file(theirs | pooler, path)
    elif form == "folder":
        path.mkdir()
        (path / "config.json").write_text("{}")
        save_file(prefixed, path / "model.safetensors")
    elif form == "folder of .bin":
        path.mkdir()
        torch.save(theirs | pooler, path / "pytorch_model.bin")
    else:
        torch.save(prefixed | {f"vit.{k}": v for k, v in pooler.items()} | {"chroma_head.0.weight": torch.zeros(3)}, path)
    model = PublishedCF(VIT)
    head = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("backbone.")}
    said = load_start_weights(model, path)
    assert said.startswith(f"backbone weights: {len(known)} tensors of {VIT} from {path}")
    assert_backbone(model, known)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in head.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_cf_starts_from_weights_of_timm_and_leaves_their_classifier_out(tmp_path, suffix):
    source = timm.create_model(VIT, num_classes=10)
    path = tmp_path / f"vit{suffix}"
    save_file(source.state_dict(), path) if suffix == ".safetensors" else torch.save(source.state_dict(), path)
    model = PublishedCF(VIT)
    said = load_start_weights(model, path)
    assert "2 other tensors left out (head.bias, head.weight)" in said
    assert_backbone(model, {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head.")})


STAGES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


@pytest.mark.parametrize("form", ["torchvision", "torchvision.safetensors", "module", "published", "ours"])
@pytest.mark.parametrize("network", [PublishedSCC, PublishedPR])
def test_scc_and_pr_start_from_weights_of_torchvision_or_from_a_checkpoint(tmp_path, network, form):
    source = torchvision.models.resnet18(weights=None)
    with torch.no_grad():
        for tensor in (*source.parameters(), *source.buffers()):
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(3))
    state = source.state_dict()
    known = {
        name.replace(name.split(".")[0], STAGES[name.split(".")[0]], 1): tensor
        for name, tensor in state.items()
        if not name.startswith("fc.")
    }
    path = tmp_path / f"weights{'.safetensors' if form.endswith('tensors') else '.pth'}"
    if form == "torchvision":
        torch.save(state, path)
    elif form == "torchvision.safetensors":
        save_file(state, path)
    elif form == "module":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    elif form == "published":
        prefix = {"SCC": "backbone", "PR": "naturalness_extractor"}[network.dimension]
        torch.save({f"{prefix}.{name}": t for name, t in known.items()} | {"regressor.0.bias": torch.zeros(2)}, path)
    else:
        other = network("resnet18")
        other.backbone.load_state_dict(known)
        save_checkpoint(path, other)
    model = network("resnet18")
    said = load_start_weights(model, path)
    assert ("2 other tensors left out (fc.bias, fc.weight)" in said) == (form not in ("published", "ours"))
    assert_backbone(model, known)


def test_cf_starts_from_a_checkpoint_of_ours(tmp_path):
    other = PublishedCF(VIT)
    save_checkpoint(tmp_path / "best.pt", other)
    model = PublishedCF(VIT)
    load_start_weights(model, tmp_path / "best.pt")
    assert_backbone(model, other.backbone.state_dict())


def test_start_weights_that_do_not_fit_are_refused_with_the_reason(tmp_path):
    theirs, _ = transformers_state("classic")
    model = PublishedCF(VIT)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cases: list[tuple[str, object, type[Exception], str]] = [
        ("no.pth", None, FileNotFoundError, r"no backbone weights at .*no\.pth"),
        ("text.pth", b"version https://git-lfs.github.com/spec/v1\n", ValueError, r"text\.pth cannot be read as weights"),
        ("text.safetensors", b"no tensors at all", ValueError, r"text\.safetensors cannot be read as weights"),
        (
            "other.pth",
            {"fc.weight": torch.zeros(2)},
            ValueError,
            r"other\.pth: \d+ of the \d+ tensors of test_vit are absent, e\.g\. .*the file holds fc\.weight",
        ),
        (
            "size.pth",
            theirs | {"embeddings.position_embeddings": torch.zeros(1, 197, 64)},
            ValueError,
            r"tensor pos_embed has shape \(1, 197, 64\), expected \(1, 101, 64\); weights of another size than test_vit",
        ),
        (
            "lacks.pth",
            {k: v for k, v in theirs.items() if k != "encoder.layer.3.output.dense.bias"},
            ValueError,
            r"tensor 'encoder\.layer\.3\.output\.dense\.bias' .*absent",
        ),
        (
            "shallow.pth",
            {k: v for k, v in theirs.items() if not k.startswith("encoder.layer.5.")},
            ValueError,
            r"12 of the \d+ tensors of test_vit are absent, e\.g\. blocks\.5\.",
        ),
    ]
    for name, content, kind, words in cases:
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        with pytest.raises(kind, match=words):
            load_start_weights(model, path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or pytorch_model\.bin in .*empty"):
        load_start_weights(model, tmp_path / "empty")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(ValueError, match=r"resnet50\.pth: tensor .* has shape .*another size than resnet18"):
        load_start_weights(PublishedSCC(), tmp_path / "resnet50.pth")


@pytest.mark.parametrize("name", ["resnet34", "deeper vit"])
def test_start_weights_of_a_deeper_network_are_refused(tmp_path, name):
    if name == "resnet34":
        model, state = PublishedSCC(), torchvision.models.resnet34(weights=None).state_dict()
    else:
        theirs, _ = transformers_state("classic")
        deeper = {k.replace("layer.5.", "layer.6."): v for k, v in theirs.items() if ".layer.5." in k}
        model, state = PublishedCF(VIT), theirs | deeper
    torch.save(state, tmp_path / "deeper.pth")
    with pytest.raises(ValueError, match="deeper"):
        load_start_weights(model, tmp_path / "deeper.pth")


@pytest.fixture
def offline(monkeypatch) -> None:
    """No hub can be reached."""
    real = timm.create_model

    def create(*values: object, pretrained: bool = False, **rest: object) -> object:
        if pretrained:
            raise OSError("We couldn't connect")
        return real(*values, pretrained=False, **rest)

    def refuse(*values: object, **rest: object) -> None:
        raise OSError("<urlopen error>")

    monkeypatch.setattr(timm, "create_model", create)
    for weights in (torchvision.models.ResNet18_Weights, torchvision.models.ResNet50_Weights):
        monkeypatch.setattr(weights, "get_state_dict", refuse)


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_file_to_fetch_is_named():
    with torch.device("meta"):
        models = [PublishedCF(), PublishedSCC(), PublishedPR()]
    files = [
        r"model\.safetensors of timm/vit_base_patch16_384\.orig_in21k_ft_in1k at huggingface\.co",
        r"https://download\.pytorch\.org/models/resnet18-f37072fd\.pth",
        r"https://download\.pytorch\.org/models/resnet50-0676ba61\.pth",
    ]
    for model, file in zip(models, files, strict=True):
        with pytest.raises(RuntimeError, match=rf"could not fetch start weights .*OSError.*fetch {file}.*--backbone-weights"):
            load_start_weights(model)


@pytest.mark.usefixtures("offline")
def test_a_script_without_a_network_ends_before_the_training_and_goes_with_a_file(run, data, cache, tmp_path):
    command = ["train_CF.py", "--data", data, "--output", tmp_path / "run", "--cache", cache, *PUBLISHED, *SMALL["CF"]]
    command += ["--epochs", 1, "--folds", 0, "--limit", 4]
    with pytest.raises(RuntimeError, match=f"timm/{VIT} .*--backbone-weights FILE, or pass --random-init"):
        run(*command)
    assert not (tmp_path / "run" / "last.pt").exists()
    theirs, known = transformers_state("classic")
    torch.save(theirs, tmp_path / "vit.bin")
    result = run(*command, "--backbone-weights", tmp_path / "vit.bin", "--backbone-lr", 1e-30)
    assert result.code == 0
    assert f"backbone weights: {len(known)} tensors of {VIT} from {tmp_path / 'vit.bin'}" in result.out
    trained = load_model(tmp_path / "run" / "best.pt").backbone.state_dict()
    assert all(torch.allclose(trained[name], tensor, atol=1e-6) for name, tensor in known.items())


def test_start_weights_come_from_the_hubs_of_timm_and_torchvision(monkeypatch):
    source, asked = timm.create_model(VIT, num_classes=0), []
    net = torchvision.models.resnet18(weights=None)
    real = timm.create_model

    def create(name: str, pretrained: bool = False, **rest: object) -> object:
        if pretrained:
            asked.append(name)
        return source if pretrained else real(name, pretrained=False, **rest)

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", lambda self, **_: net.state_dict())
    cf, scc = PublishedCF(VIT), PublishedSCC()
    assert f"{VIT} from the hub" in load_start_weights(cf)
    assert asked == [VIT]
    assert_backbone(cf, source.state_dict())
    assert "resnet18 from the hub, 2 other tensors left out" in load_start_weights(scc)
    assert torch.equal(scc.backbone[7][1].conv2.weight, net.layer4[1].conv2.weight)
    assert torch.equal(scc.backbone[1].running_var, net.bn1.running_var)


# --- less memory


def test_checkpointing_activations_changes_neither_loss_nor_gradients(arguments_of, data):
    models, calls, results = [], [], []
    for flags in ([], ["--checkpoint-activations"]):
        args = arguments_of("CF", "--preset", "published", "--random-init", "--backbone", VIT, *flags)
        models.append(runs.start_model(args, "CF"))
    rgb = stack([models[0].prepare(path) for path in images_of(data)[:3]])
    for model in models:
        count = []
        model.backbone.blocks[0].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        model.train()
        torch.manual_seed(0)  # of dropout
        loss = F.mse_loss(model.head(model.encode(rgb)), torch.tensor([0.5, -0.5, 0.1]))
        loss.backward()
        results.append((loss.item(), {name: p.grad for name, p in model.named_parameters()}))
        calls.append(len(count))
    assert calls == [1, 2]  # computed again on the way back
    (loss, gradients), (again, others) = results
    assert again == pytest.approx(loss, abs=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-6), name
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values())


def test_a_run_with_checkpointed_activations_gives_the_weights_of_one_without(train, data, tmp_path):
    options = ["--epochs", 1, "--limit", 4, "--folds", 0]
    train("CF", data, tmp_path / "a", *options)
    train("CF", data, tmp_path / "b", *options, "--checkpoint-activations")
    one, other = (read_checkpoint(tmp_path / name / "best.pt")["model"] for name in "ab")
    assert all(torch.allclose(one[name].float(), other[name].float(), atol=1e-6) for name in one)

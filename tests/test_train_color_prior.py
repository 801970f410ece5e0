"""tools/train_color_prior.py as a user runs it: which photographs it uses, what it writes; stopping changes nothing."""

import argparse
import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_image
from PIL import Image
from readers import assert_same_weights, history_of, weights_of
from skimage.color import rgb2lab
from torch import Tensor

from models import load_model
from models.color_prior import LEVELS, ColorPriorNet, ab_bins
from models.preprocessing import Preprocess
from tools import train_color_prior as script
from utils.checkpoint import read_checkpoint
from utils.files import image_id
from utils.images import read_rgb

SCRIPT = "tools/train_color_prior.py"
NETWORK = ["--backbone", "test_efficientnet", "--random-init", "--size", 64, "--width", 16, "--device", "cpu"]
QUICK = [*NETWORK, "--workers", 0, "--batch-size", 4]
FORMS = {"views": ["--views", 2], "streaming": ["--views", 0], "late stages": ["--views", 2, "--late"]}
FILES = {"best.pt", "last.pt", "prior.csv", "report.json"}
CPU = torch.device("cpu")

forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def report_of(folder: Path) -> dict[str, object]:
    """The report without the command that made it."""
    return {k: v for k, v in json.loads((folder / "report.json").read_text()).items() if k != "command"}


def arguments(*options: object) -> argparse.Namespace:
    return script.parse_args([str(x) for x in (*options, "--output", "unused")])


@pytest.fixture(scope="module")
def train(run) -> Callable[..., object]:
    """Train a tiny prior; must succeed unless it raises."""

    def train(photos: Path, output: Path, *options: object) -> object:
        result = run(SCRIPT, photos, "--output", output, *QUICK, *options)
        assert result.code == 0, result.err
        return result

    return train


@pytest.fixture(scope="module")
def net() -> ColorPriorNet:
    torch.manual_seed(0)
    return ColorPriorNet("test_efficientnet", 64, {"width": 16})


@pytest.fixture
def mixed(photos, tmp_path) -> Path:
    """The photographs, and among them what cannot be used: two gray ones of one name, a damaged file, a dangling link."""
    root = tmp_path / "mixed"
    shutil.copytree(photos, root)
    for folder in ("", "street"):
        Image.fromarray(make_image(1, 40, 50).mean(2).astype(np.uint8)).save(root / folder / "gray.png")
    (root / "damaged.jpg").write_bytes(b"no image")
    (root / "link.png").symlink_to(root / "nowhere.png")
    return root


UNUSABLE = ["damaged.jpg", "gray.png", "link.png", "street/gray.png"]


# What it writes


@forms
def test_one_epoch_writes_weights_report_and_history(train, photos, tmp_path, form):
    result = train(photos, tmp_path / "run", *form, "--epochs", 1, "--rebalance", 0.5, "--half", "--dropout", 0.1)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert "1 test, 1 calibration, 12 train photographs" in result.out
    content = read_checkpoint(tmp_path / "run" / "best.pt")
    assert content["dimension"] == "prior"
    prior = {"width": 16, "dropout": 0.1, "late": "--late" in form}
    assert content["config"] == {"backbone": "test_efficientnet", "size": 64, "ranking": 0.0, "prior": prior}
    assert content["command"].startswith(f"python tools/train_color_prior.py {photos} --output")
    assert content["photographs"] == 13
    assert {v.dtype for v in content["model"].values()} == {torch.float16, torch.int64}

    loaded = load_model(tmp_path / "run" / "best.pt", dimension="prior")
    assert (loaded.prior.surprise_levels.diff() >= 0).all()
    marginal = loaded.prior.log_marginal.exp()
    assert marginal.sum().item() == pytest.approx(1, abs=1e-2)  # rounded to float16
    assert marginal.max() > 2 / len(marginal)
    assert loaded.surprise(photos / "p01.png").nats.shape == (8, 8)

    report = report_of(tmp_path / "run")
    assert report["photographs"] == {"test": 1, "calibration": 1, "train": 12, "apart": 0}
    assert report["left out"] == []
    measured = report["test"]["cross-entropy in nats"]["all"]
    kinds = [f"{what} {how}" for what in ("prior", "lightness", "unconditional") for how in ("soft", "hard")]
    assert set(measured) == {"photographs", *kinds}
    assert all(0 < measured[kind] < 10 for kind in kinds)
    assert list(report["test"]["share above percentile"]) == ["50", "75", "90", "95", "99"]
    (row,) = history_of(tmp_path / "run", "prior.csv")
    assert row["epoch"] == "1"
    assert 0 < float(row["held-out nats"]) < 10


@forms
def test_the_same_seed_gives_the_same_weights_and_another_one_others(train, photos, tmp_path, form):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(photos, tmp_path / name, *form, "--epochs", 2, "--seed", seed)
    assert_same_weights(tmp_path / "a" / "best.pt", tmp_path / "b" / "best.pt")
    assert report_of(tmp_path / "a") == report_of(tmp_path / "b")
    one, other = weights_of(tmp_path / "a" / "best.pt"), weights_of(tmp_path / "c" / "best.pt")
    assert not torch.equal(one["prior.classify.3.weight"], other["prior.classify.3.weight"])


def test_the_two_forms_and_the_number_of_reading_processes_matter_as_they_should(train, photos, tmp_path):
    train(photos, tmp_path / "a", "--views", 0, "--epochs", 1)
    train(photos, tmp_path / "b", "--views", 0, "--epochs", 1, "--workers", 2)
    assert_same_weights(tmp_path / "a" / "best.pt", tmp_path / "b" / "best.pt")
    train(photos, tmp_path / "c", "--views", 1, "--epochs", 1)
    one, other = weights_of(tmp_path / "a" / "best.pt"), weights_of(tmp_path / "c" / "best.pt")
    assert not torch.equal(one["prior.classify.3.weight"], other["prior.classify.3.weight"])


@forms
def test_training_lowers_the_cross_entropy_and_leaves_the_backbone_as_it_is(train, photos, tmp_path, form):
    train(photos, tmp_path, *form, "--epochs", 6, "--lr", 5e-3)
    nats = [float(row["training nats"]) for row in history_of(tmp_path, "prior.csv")]
    assert nats[-1] < nats[0] - 0.1
    after = load_model(tmp_path / "best.pt")
    start = script.make_net(arguments(photos, *QUICK, *form))
    assert all(torch.equal(v, after.backbone.state_dict()[k]) for k, v in start.backbone.state_dict().items())
    if start.prior.late is None:
        return
    late = after.prior.late.state_dict()
    learned = [k for k, v in start.prior.late.state_dict().items() if not torch.equal(v, late[k])]
    assert learned
    assert not [k for k in learned if "running" in k]


def test_a_prior_without_late_stages_of_its_own_serves_any_backbone(run, photos, tmp_path):
    options = ["--backbone", "test_vit", "--random-init", "--size", 64, "--width", 16, "--device", "cpu", "--workers", 0]
    command = [SCRIPT, photos, "--output", tmp_path / "run", *options, "--epochs", 1, "--views", 1]
    with pytest.raises(ValueError, match="the late stages of test_vit cannot be copied: it is no chain of stages"):
        run(*command, "--late")
    assert run(*command, "--no-late").code == 0
    loaded = load_model(tmp_path / "run" / "best.pt", dimension="prior")
    assert loaded.prior.late is None
    assert loaded.surprise(photos / "p01.png").nats.shape == (4, 4)


def test_the_photographs_that_weights_and_percentiles_were_made_from_are_known_by_content(train, photos, tmp_path):
    train(photos, tmp_path, "--epochs", 1, "--views", 1, "--held-out", 0.2)
    parts = script.split_photographs(arguments(photos, "--held-out", 0.2))
    assert {k: len(v) for k, v in parts.items()} == {"test": 3, "calibration": 3, "train": 8, "apart": 0}
    used = [photos / name for name in parts["train"] + parts["calibration"]]
    expected = {(path.stat().st_size, image_id(path)) for path in used}
    assert {tuple(row) for row in read_checkpoint(tmp_path / "best.pt")["seen"].tolist()} == expected


# Stopping and going on


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Ctrl-C in the middle of an epoch, after so many steps."""
    real, count = torch.nn.utils.clip_grad_norm_, iter(range(1 << 30))

    def clip(*values: object) -> Tensor:
        if next(count) == steps:
            raise KeyboardInterrupt
        return real(*values)

    patch.setattr(torch.nn.utils, "clip_grad_norm_", clip)


@forms
def test_resuming_gives_the_weights_of_a_run_that_was_not_stopped(train, photos, tmp_path, monkeypatch, form):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = [*form, "--epochs", 3, "--rebalance", 0.3]
    train(photos, whole, *options)
    for steps, done in ((1 * 3 + 1, 1), (1 * 3 + 2, 2)):  # 12 photographs are 3 steps an epoch: in the second and the third
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            with pytest.raises(KeyboardInterrupt):
                train(photos, parts, *options, *(["--resume"] if done > 1 else []))
        assert read_checkpoint(parts / "last.pt")["epoch"] == done
        assert not (parts / "best.pt").exists()
        assert len(list(parts.glob("features/*/*.pt"))) == form[1]  # a file per view, to be found again
    result = train(photos, parts, *options, "--resume")
    assert not (parts / "features").exists()
    assert "resuming after epoch 2 of 3" in result.out
    assert_same_weights(whole / "last.pt", parts / "last.pt")
    assert_same_weights(whole / "best.pt", parts / "best.pt")
    assert history_of(whole, "prior.csv") == history_of(parts, "prior.csv")
    assert report_of(whole) == report_of(parts)
    assert [row["epoch"] for row in history_of(whole, "prior.csv")] == ["1", "2", "3"]

    before = (parts / "best.pt").read_bytes()
    train(photos, parts, *options, "--resume")  # nothing is left to do
    assert_same_weights(whole / "best.pt", parts / "best.pt")
    assert len((parts / "best.pt").read_bytes()) == len(before)


def test_a_run_goes_on_with_its_own_settings_only(train, photos, tmp_path):
    (tmp_path / "list.txt").write_text("p05\n")
    train(photos, tmp_path / "run", "--views", 0, "--epochs", 1, "--exclude", tmp_path / "list.txt")
    base = [photos, tmp_path / "run", "--views", 0]
    with pytest.raises(
        ValueError, match=r"run was started with --exclude .*list\.txt'\], --epochs 1; a run goes on only with the same"
    ):
        train(*base, "--epochs", 2, "--resume")
    with pytest.raises(ValueError, match=r"was started with --width 16, --lr \S+; a run goes on"):
        train(*base, "--epochs", 1, "--exclude", tmp_path / "list.txt", "--lr", 1e-4, "--width", 24, "--resume")
    train(*base, "--epochs", 1, "--exclude", tmp_path / "list.txt", "--resume")


def test_a_new_run_forgets_the_earlier_one_even_if_it_is_stopped_at_once(train, photos, tmp_path, monkeypatch):
    options = [photos, tmp_path, "--views", 0, "--epochs", 1]
    train(*options)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(*options, "--overwrite")
    assert "resuming" not in train(*options, "--resume").out


# Which photographs are used


def test_photographs_that_cannot_be_used_are_named_and_left_out(train, mixed, tmp_path):
    for form in FORMS.values():
        result = train(mixed, tmp_path / "run", "--overwrite", *form, "--epochs", 1, "--held-out", 0.1)
        report = report_of(tmp_path / "run")
        assert sum(report["photographs"].values()) == 18
        reasons = report["left out"]
        assert sorted(Path(reason.split(": ")[0]).relative_to(mixed).as_posix() for reason in reasons) == UNUSABLE
        for reason in reasons:
            assert result.err.count(f"left out: {reason}") == 1
        assert sum("has no color" in reason for reason in reasons) == 2
        assert any("no such file" in reason for reason in reasons)


@torch.no_grad()
def test_photographs_that_cannot_be_used_change_no_number(net, mixed, photos):
    net = net.eval()
    good = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    clean = script.Photographs([photos / name for name in good], net, 0)
    dirty = script.Photographs([mixed / name for name in sorted([*good, *UNUSABLE])], net, 0)
    counts = script.count_colors(net, clean, 0)
    np.testing.assert_allclose(script.count_colors(net, dirty, 0), counts, rtol=1e-5)
    encoder = script.Encoder(net, CPU, 0)
    one, other = (script.measure(net, encoder, photographs, counts) for photographs in (clean, dirty))
    assert [Path(name).relative_to(photos) for name in one["name"]] == [Path(n).relative_to(mixed) for n in other["name"]]
    for key in one.keys() - {"name"}:
        np.testing.assert_allclose(one[key], other[key], atol=1e-5, err_msg=key)


def made_up_maps(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, c, s, s, generator=generator) for c, s in ((32, 8), (48, 4), (64, 2))]


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("bad", [[True, False, False, True, False], [False] * 5])
def test_a_step_is_that_of_the_usable_photographs_alone(bad, late):
    maps, lab = made_up_maps(5), 50 * torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    counts = ~torch.tensor(bad)
    black = torch.where(counts[:, None, None, None], lab, 0)
    results = []
    for rows in (slice(None), counts):
        torch.manual_seed(0)
        net = ColorPriorNet("test_efficientnet", 64, {"width": 16, "late": late})
        torch.manual_seed(1)  # dropout
        loss = script.Objective(net, None).train()([m[rows] for m in maps], black[rows], counts[rows])
        loss.backward()
        results.append((loss, [p.grad for p in net.prior.parameters()], list(net.prior.buffers())))
    (loss, gradients, buffers), (right, right_gradients, right_buffers) = results
    assert torch.equal(loss, right)
    assert loss > 0
    assert all(torch.equal(a, b) for a, b in zip(gradients, right_gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(buffers, right_buffers, strict=True))


def test_a_step_without_a_usable_photograph_has_a_gradient_of_zero_for_each_weight(net):
    # processes that train together wait for the gradient of each
    net = copy.deepcopy(net)
    objective = script.Objective(net, None).train()
    loss = objective(made_up_maps(2), torch.zeros(2, 3, 16, 16), torch.zeros(2, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and not p.grad.any() for p in net.prior.parameters())


def test_a_folder_of_gray_photographs_is_refused(train, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(6):
        gray = make_image(number, 40, 50).mean(2).astype(np.uint8)
        Image.fromarray(gray).save(tmp_path / "photos" / f"{number}.png")
    for number, form in enumerate(FORMS.values()):
        with pytest.raises(ValueError, match=r"photos none of 1 photographs held out can be used; add some with color"):
            train(tmp_path / "photos", tmp_path / f"run{number}", *form, "--epochs", 1)
        assert not (tmp_path / f"run{number}" / "best.pt").exists()


def test_a_test_folder_without_a_usable_photograph_has_no_numbers(train, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "old").mkdir()
    for number in range(9):  # more than a batch
        gray = make_image(number, 40, 50).mean(2).astype(np.uint8)
        Image.fromarray(gray).save(tmp_path / "photos" / "old" / f"{number}.png")
    train(tmp_path / "photos", tmp_path / "run", "--views", 1, "--epochs", 1, "--test-folder", "old")
    report = report_of(tmp_path / "run")
    assert "apart" not in report
    assert "test" in report
    assert len(report["left out"]) == 9


def test_parts_share_no_photograph_and_hold_all(photos):
    everything = {path.relative_to(photos).as_posix() for path in photos.rglob("*.png")}
    parts = script.split_photographs(arguments(photos, "--held-out", 0.2))
    assert sorted(name for names in parts.values() for name in names) == sorted(everything)
    assert script.split_photographs(arguments(photos, "--held-out", 0.2)) == parts
    assert script.split_photographs(arguments(photos, "--held-out", 0.2, "--seed", 1)) != parts
    assert sum(map(len, script.split_photographs(arguments(photos, "--limit", 7)).values())) == 7


def test_folders_are_held_out_as_a_whole(train, photos, tmp_path):
    train(photos, tmp_path, "--views", 1, "--epochs", 1, "--test-folder", "street")
    parts = script.split_photographs(arguments(photos, "--test-folder", "street"))
    assert parts["apart"] == sorted(f"street/{path.name}" for path in (photos / "street").iterdir())
    assert not any(name.startswith("street/") for part in ("train", "test", "calibration") for name in parts[part])
    report = report_of(tmp_path)
    assert report["photographs"]["apart"] == len(parts["apart"]) == 4
    assert report["apart"]["cross-entropy in nats"]["all"]["photographs"] == 4
    assert set(report["apart"]["share above percentile"]) == set(report["test"]["share above percentile"])
    with pytest.raises(ValueError, match="--test-folder stree holds no photograph below"):
        script.split_photographs(arguments(photos, "--test-folder", "stree"))


def test_the_scenes_of_a_list_a_table_and_hecd_are_left_out_by_name(photos, tmp_path, capsys):
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    for name in ("15004.jpg", "street/376001.png", "s1.2.png"):  # BSDS500 does not fill numbers up with zeros, HECD does
        Image.fromarray(make_image(7, 40, 50)).save(root / name)
    everything = {name for names in script.split_photographs(arguments(root)).values() for name in names}

    (tmp_path / "list.txt").write_text("\ufeffp05.jpg\n\n  some/folder/p01.png \nelsewhere.png\n", encoding="utf-8")
    (tmp_path / "table").mkdir()
    Image.fromarray(make_image(8, 40, 50)).save(tmp_path / "table" / "x.png")
    Image.fromarray(make_image(9, 40, 50)).save(tmp_path / "table" / "y.png")
    (tmp_path / "table" / "own.csv").write_text("image,scene,method,PR\nx.png,s1.2,A,0.5\ny.png,p03,A,0.5\n")
    hecd = tmp_path / "hecd"
    hecd.mkdir()
    rows = ["Ground Truth File,Recolour File,Mean zScore"]
    for scene in ("015004", "376001"):
        rows += [f"{scene}_gt.jpg,{scene}{version},{z}" for version, z in (("_gt.jpg", 0.4), ("A.jpg", 1.2), ("B_1.jpg", -0.9))]
        for version in ("_gt", "A", "B_1"):
            Image.fromarray(make_image(9, 40, 50)).save(hecd / f"{scene}{version}.jpg")
    (hecd / "mean_zscores.csv").write_text("\n".join(rows) + "\n")

    expected = {
        tmp_path / "list.txt": {"p05.png", "p01.png"},
        tmp_path / "table" / "own.csv": {"s1.2.png", "street/p03.png"},
        hecd: {"15004.jpg", "street/376001.png"},
    }
    capsys.readouterr()
    for source, gone in expected.items():
        parts = script.split_photographs(arguments(root, "--exclude", source))
        assert everything - {name for names in parts.values() for name in names} == gone
        unknown = {"list.txt": 1}.get(source.name, 0)  # elsewhere.png
        said = f"2 of 17 photographs are excluded by name; {unknown} names of --exclude are of none"
        assert said in capsys.readouterr().out
    parts = script.split_photographs(arguments(root, "--exclude", *expected))
    assert everything - {name for names in parts.values() for name in names} == set.union(*expected.values())
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.txt; expected a text file of images to leave out"):
        script.split_photographs(arguments(root, "--exclude", tmp_path / "absent.txt"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        script.split_photographs(arguments(root, "--exclude", tmp_path / "nowhere"))


def test_a_rise_of_exactly_one_step_is_trained_like_one_of_a_little_less(train, photos, tmp_path):
    # 12 photographs are 2 steps an epoch; OneCycleLR alone divides by zero
    options = ["--views", 1, "--epochs", 2, "--batch-size", 8]
    train(photos, tmp_path / "one", *options, "--warmup", 0.25)
    train(photos, tmp_path / "less", *options, "--warmup", 0.2499)
    one, less = (weights_of(tmp_path / name / "best.pt") for name in ("one", "less"))
    assert all(torch.allclose(one[key], less[key], atol=1e-3) for key in one)
    assert [row["epoch"] for row in history_of(tmp_path / "one", "prior.csv")] == ["1", "2"]


@pytest.mark.parametrize("share", [-0.1, 1])
def test_a_rise_that_leaves_no_step_to_fall_is_refused(share, capsys):
    with pytest.raises(SystemExit):
        arguments("photos", "--warmup", share)
    assert "argument --warmup: expected a number from 0 to 0.999" in capsys.readouterr().err


# The numbers of the report


def soft_shares(lab: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and weights of the four lattice cells around each color, by plain arithmetic, both of shape (N, 4)."""
    table = ab_bins()[1].numpy()
    corner = np.floor(lab[:, 1:] / 10).astype(int)
    u, v = (lab[:, 1:] / 10 - corner).T
    numbers = [table[corner[:, 0] + i + 12, corner[:, 1] + j + 12] for i in (0, 1) for j in (0, 1)]
    return np.stack(numbers, 1), np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v], 1)


def pixels_of(path: Path) -> np.ndarray:
    """CIELAB of the 16 x 16 pixels that a map of 8 x 8 cells is compared with, converted by scikit-image."""
    rgb = Preprocess(64)(torch.from_numpy(read_rgb(path).copy()).permute(2, 0, 1))["rgb"]
    return rgb2lab(rgb.permute(1, 2, 0).double().numpy()).reshape(16, 4, 16, 4, 3).mean((1, 3))


def test_the_cross_entropies_without_a_network_are_those_of_a_plain_count(train, photos, tmp_path):
    train(photos, tmp_path, "--views", 1, "--epochs", 1, "--held-out", 0.2)
    parts = script.split_photographs(arguments(photos, "--held-out", 0.2))
    bands, cells = 20, len(ab_bins()[0])
    counts = np.full((bands, cells), 0.5 / bands)
    for name in parts["train"]:
        lab = pixels_of(photos / name).reshape(-1, 3)
        numbers, weights = soft_shares(lab)
        band = (lab[:, :1] / 5).astype(int).clip(0, bands - 1)
        np.add.at(counts, (np.broadcast_to(band, numbers.shape), numbers), weights)
    overall, by_light = counts.sum(0) / counts.sum(), counts / counts.sum(1, keepdims=True)
    soft, light, hard = [], [], []
    for name in parts["test"]:
        lab = pixels_of(photos / name)
        mean = lab.reshape(8, 2, 8, 2, 3).mean((1, 3)).reshape(-1, 3)
        lab = lab.reshape(-1, 3)
        numbers, weights = soft_shares(lab)
        band = (lab[:, :1] / 5).astype(int).clip(0, bands - 1)
        soft.append(-(np.log(overall[numbers]) * weights).sum(1).mean())
        light.append(-(np.log(by_light[band, numbers]) * weights).sum(1).mean())
        rounded = np.round(mean[:, 1:] / 10).astype(int) + 12
        hard.append(-np.log(overall[ab_bins()[1].numpy()[rounded[:, 0], rounded[:, 1]]]).mean())
    measured = report_of(tmp_path)["test"]["cross-entropy in nats"]["all"]
    assert measured["photographs"] == 3
    assert measured["unconditional soft"] == pytest.approx(np.mean(soft), abs=1e-3)
    assert measured["lightness soft"] == pytest.approx(np.mean(light), abs=5e-3)  # a pixel on the edge of a band may differ
    assert measured["unconditional hard"] == pytest.approx(np.mean(hard), abs=5e-3)
    assert np.mean(soft) < math.log(cells)
    loaded = load_model(tmp_path / "best.pt")
    np.testing.assert_allclose(loaded.prior.log_marginal.exp(), overall, rtol=1e-3, atol=1e-6)


def test_the_cross_entropy_of_the_prior_is_that_of_the_file(train, photos, tmp_path):
    train(photos, tmp_path, "--views", 1, "--epochs", 1, "--held-out", 0.2, "--half")
    loaded = load_model(tmp_path / "best.pt")
    names = script.split_photographs(arguments(photos, "--held-out", 0.2))["test"]
    found = []
    for name in names:
        with torch.no_grad():
            log_prior, lab = loaded.predict_prior(loaded.prepare(photos / name)["rgb"][None])
        numbers, weights = soft_shares(lab[0].permute(1, 2, 0).reshape(-1, 3).double().numpy())
        of_pixel = log_prior[0].repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1).T.numpy()
        found.append(-(np.take_along_axis(of_pixel, numbers, 1) * weights).sum(1).mean())
    measured = report_of(tmp_path)["test"]["cross-entropy in nats"]
    assert measured["all"]["prior soft"] == pytest.approx(np.mean(found), abs=1e-3)
    folders = {"street" if name.startswith("street/") else "" for name in names}
    assert set(measured) == {"all"} | (folders if len(folders) > 1 else set())


def test_5_percent_of_the_calibration_photographs_lie_above_the_95th_percentile(train, photos, tmp_path):
    train(photos, tmp_path, "--views", 1, "--epochs", 1, "--held-out", 0.3)
    loaded = load_model(tmp_path / "best.pt")
    parts = script.split_photographs(arguments(photos, "--held-out", 0.3))
    photographs = script.Photographs([photos / name for name in parts["calibration"]], loaded, 0)
    counts = torch.ones(20, len(loaded.prior.centers), dtype=torch.float64)
    measured = script.measure(loaded, script.Encoder(loaded, CPU, 0), photographs, counts)
    assert measured["surprise"].shape == (4, 64)
    np.testing.assert_allclose(loaded.prior.surprise_levels, np.percentile(measured["surprise"], LEVELS), atol=1e-4)
    shares = script.above(loaded, measured)
    for level, share in shares.items():
        assert share == pytest.approx(1 - float(level) / 100, abs=1.5 / 256), level  # of 256 places
    by_map = np.concatenate([loaded.surprise(path).percentile.ravel() for path in photographs.paths])
    assert (by_map > 95).mean() == pytest.approx(shares["95"], abs=1 / 256)

"""What holds for each of our networks, once: the three of both presets, the color prior, the ranker, the published systems."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conftest import make_image
from golden import labels, object_slots
from PIL import Image
from tiny import TINY
from torch import Tensor, nn

from baselines.scorer import SYSTEMS, Baseline
from models import ChromaticFidelityNet, PerceptualRealismNet, SemanticConsistencyNet, load_model
from models.backbone import UnreachableError
from models.base import stack
from models.color_prior import ColorPriorNet
from models.loading import build_model
from models.published import PublishedCF, PublishedPR, PublishedSCC
from models.ranker import Ranker
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.metrics import srcc

COLUMNS = ["CF", "SCC", "PR"]
COMPACT = {"backbone": "test_efficientnet", "size": 64}
PRIOR = {"width": 16, "dropout": 0.2, "late": True}
FAITHFUL_AFINE = {"native": True, "position": "sequence", "exponent_limit": None}
SUB_SCORES = [[0.3, -0.4], [0.9, 0.1], [-0.6, 0.5], [0.0, 0.0]]  # CF and SCC where PR is scored

# by name: how to make a network, and settings that must come back
NETWORKS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "CF": (ChromaticFidelityNet, COMPACT | {"width": 32, "dropout": 0.1}),
    "CF ranked": (ChromaticFidelityNet, COMPACT | {"ranking": 0.4}),
    "SCC": (SemanticConsistencyNet, COMPACT | {"width": 32, "dropout": 0.1, "prior": PRIOR}),
    "PR": (PerceptualRealismNet, COMPACT | {"width": 32, "dropout": 0.1}),
    "prior": (ColorPriorNet, COMPACT | {"prior": PRIOR}),
    "prior without late stages": (ColorPriorNet, COMPACT | {"prior": PRIOR | {"late": False}}),
    "ranker": (Ranker, COMPACT | {"width": 32}),
    "published CF": (PublishedCF, {"backbone": "test_vit", "resize": "bilinear"}),
    "published SCC": (PublishedSCC, {"attention": "infer", "train_attention": "train"}),
    "published PR": (PublishedPR, {"backbone": "resnet18"}),
} | {
    name: (Baseline, {"system": name.split(",")[0], "columns": COLUMNS, "settings": TINY[name.split(",")[0]] | more})
    for name, more in {
        **{system: {} for system in SYSTEMS},
        "dpam, lab": {"texture": "lab"},
        "dpam, pixels": {"pixel_form": True},
        "dpam, faithful": {"faithful_reshape": True, "uint8_texture": True, "relu_scores": True},
        "delegate_transformer, soft": {"gate": "soft", "histogram": "official"},
        "delegate_transformer, running": {"gate": "soft", "reference_mode": "running", "drop_path": 0.1},
        "delegate_transformer, faithful": {"gate": "hard", "reference_mode": "batch_mean", "histogram": "official"},
        "afine, faithful": FAITHFUL_AFINE,
        "afine, naturalness": {"full_reference": False},
        "nr_aigciqa, vgg16": {"backbone": "vgg16", "depths": [1] * 5, "size": 32},
        "fr_aigciqa, inceptionv4": {"backbone": "inceptionv4", "depths": [1] * 3, "size": 75},
        "fr_aigciqa, vit_l_16": {"backbone": "vit_l_16", "depths": [1], "size": 32},
        "fr_aigciqa, partial": {"form": "partial"},
        "fr_aigciqa, compare": {"fusion": "compare", "view": "whole", "score_range": [1, 5]},
    }.items()
}
IDLE = ("CF ranked", "SCC", "prior", "afine, naturalness")  # whose rankers, late stages and fidelity have no part in the scores
MAIN = ["CF", "SCC", "PR", "ranker", "published CF", "published SCC", "published PR", *SYSTEMS]


def build(name: str, seed: int = 0) -> nn.Module:
    """A network in evaluation mode whose scores differ from image to image, as after training."""
    torch.manual_seed(seed)
    make, config = NETWORKS[name]
    net = make(**config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        if name.startswith("dpam"):
            net.network.fc_score[3].bias.fill_(0.3)  # as published, scores below 0 are cut off
            net.network.fc_score[3].weight.mul_(20)
        elif name.startswith("afine"):
            for head in net.network.natural.proj_head:
                head[2].weight.mul_(30)
            net.network.natural_map.width.fill_(0.3)
            net.network.natural_map.center.zero_()
        elif name.startswith("delegate"):
            net.network.class_heads.weight.mul_(20)
            net.network.hst_head.weight.mul_(20)
            if "running" in name:
                net.train().head(net.encode(prepared(net, [image(k) for k in range(4)])))
        elif "inception" in name:  # deep: says about the same of all images, but for statistics of some
            norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
            for norm in norms:
                norm.momentum = 1.0
            net.network.backbone(torch.stack([image(k, 75, 75) for k in range(4)]) / 127.5 - 1)
            for norm in norms:
                norm.momentum = 0.1
    return net.eval()


@pytest.fixture(scope="module")
def nets() -> Callable[[str], nn.Module]:
    made: dict[str, nn.Module] = {}
    return lambda name: made.setdefault(name, made.get(name) or build(name))


def image(seed: int, height: int = 60, width: int = 75) -> Tensor:
    """sRGB, uint8, shape (3, H, W)."""
    return torch.from_numpy(make_image(seed, height, width).copy()).permute(2, 0, 1)


def prepared(net: nn.Module, images: list[Tensor]) -> dict[str, Tensor]:
    """A batch of images as the network reads them, with originals and objects where it takes them."""
    if isinstance(net, Ranker):
        resized = [nn.functional.interpolate(rgb[None] / 255, (64, 64), mode="bilinear")[0] for rgb in images]
        return {"rgb": torch.stack(resized)}
    if isinstance(net, PublishedSCC):
        return stack([net.prepare(rgb, object_slots(labels(k % 4))) for k, rgb in enumerate(images)])
    if isinstance(net, Baseline) and net.uses_reference:
        return stack([net.prepare(rgb, (rgb.float() * 0.7 + 30).round().byte()) for rgb in images])
    return stack([net.prepare(rgb) for rgb in images])


def scores_of(net: nn.Module, inputs: dict[str, Tensor], sub_scores: list[list[float]] | None = None) -> Tensor:
    """Scores of a batch, shape (B,) or (B, K)."""
    if isinstance(net, Ranker):
        return net(inputs["rgb"])
    if isinstance(net, ColorPriorNet):
        return net.predict_prior(inputs["rgb"])[0].flatten(1)[:, ::97]
    given = torch.tensor(sub_scores or SUB_SCORES[: len(inputs["rgb"])]) if net.dimension == "PR" else None
    return net.head(net.encode(inputs), given)


def load(path: Path, net: nn.Module) -> nn.Module:
    if isinstance(net, Baseline):
        return build_model(read_checkpoint(path), str(path), {net.dimension: Baseline}).eval()
    return load_model(path, dimension=net.dimension, preset=net.preset)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- One network, one score


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_from_its_checkpoint_without_any_other_weights(nets, name, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("looked for weights elsewhere than in the checkpoint")

    net, path = nets(name), tmp_path / "new folder" / "best.pt"
    config = copy.deepcopy(net.config)
    given = NETWORKS[name][1]
    for key, value in (given["settings"] if isinstance(net, Baseline) else given).items():
        found = (config["settings"] if isinstance(net, Baseline) else config)[key]
        assert (list(found) if isinstance(found, tuple) else found) == value, key
    save_checkpoint(path, net)
    for place in ("socket.socket.connect", "importlib.util.find_spec", "models.backbone.load_pretrained"):
        monkeypatch.setattr(place, refuse)
    loaded = load(path, net)
    assert (type(loaded), loaded.config, loaded.training) == (type(net), config, False)
    assert loaded.preprocessing() == net.preprocessing() == read_checkpoint(path)["preprocessing"]
    assert same(loaded.state_dict(), net.state_dict())
    inputs = prepared(net, [image(k) for k in range(2)])
    with torch.inference_mode():
        assert torch.equal(scores_of(loaded, inputs), scores_of(net, inputs))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "delegate_transformer, faithful"])
@torch.inference_mode()
def test_a_score_depends_on_its_image_alone_and_is_the_same_every_time(nets, name):
    net, images = nets(name), [image(k, 48 + 6 * k, 90 - 7 * k) for k in range(4)]
    if name in ("afine, faithful",):  # which scores images in their own size
        images = [image(k) for k in range(4)]
    inputs = prepared(net, images)
    before, state = {k: x.clone() for k, x in inputs.items()}, {k: x.clone() for k, x in net.state_dict().items()}
    together = scores_of(net, inputs)
    assert together.shape[0] == 4
    assert same(inputs, before)
    assert same(net.state_dict(), state)
    assert torch.equal(scores_of(net, inputs), together)
    order, tolerance = [2, 0, 3, 1], {"atol": 2e-4 if name.startswith("afine") else 1e-5, "rtol": 1e-5}
    mixed = scores_of(net, {k: x[order] for k, x in inputs.items()}, [SUB_SCORES[k] for k in order])
    torch.testing.assert_close(mixed, together[order], **tolerance)
    for k in range(4):
        alone = scores_of(net, {key: x[k : k + 1] for key, x in inputs.items()}, SUB_SCORES[k : k + 1])
        torch.testing.assert_close(alone, together[k : k + 1], **tolerance)
    apart = (together.reshape(4, -1)[:, None] - together.reshape(4, -1)[None])[~torch.eye(4, dtype=torch.bool)]
    assert apart.abs().amax(1).min() > 3 * tolerance["atol"]  # else company could not be seen
    if name in MAIN:
        assert torch.equal(scores_of(build(name), inputs), together)  # and so says whoever builds it of the same seed


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_finite_also_of_images_without_any_variation(nets, name):
    net = copy.deepcopy(nets(name)).train()
    flat = [torch.full((3, 60, 75), level, dtype=torch.uint8) for level in (0, 255, 128)]
    inputs = prepared(net, [image(1), *flat])
    inputs["rgb"].requires_grad_()
    for stage in (1, 2, 3, None) if name == "afine" else (None,):
        if isinstance(net, Baseline) and net.dimension == "afine":
            net.set_stage(stage)
        net.zero_grad()
        scores_of(net, inputs).square().sum().backward()
        trained = [p for p in net.parameters() if p.requires_grad]
        assert trained
        if name not in IDLE:
            assert [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None] == [], stage
        assert all(p.grad is None or p.grad.isfinite().all() for p in trained), stage
        if stage in (None, 1) and not isinstance(net, ColorPriorNet) and "faithful" not in name:
            assert inputs["rgb"].grad.isfinite().all(), stage
            assert inputs["rgb"].grad[0].any(), stage


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ranker"])
@torch.inference_mode()
def test_images_of_a_few_pixels_have_a_score_that_levels_and_numbers_agree_on(nets, name):
    net = nets(name)
    for size in ((1, 1), (1, 300), (3, 70), (200, 2)):
        levels = image(3, *size)
        inputs = prepared(net, [levels])
        assert scores_of(net, inputs).isfinite().all(), size
        assert same(prepared(net, [levels]), inputs), size
        if not isinstance(net, PublishedSCC) and not getattr(net, "uses_reference", False):
            numbers = net.prepare(levels.double() / 255)
            torch.testing.assert_close(numbers, {k: x[0] for k, x in inputs.items()}, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ranker"])
@pytest.mark.parametrize(
    "wrong", [torch.zeros(1, 9, 9), torch.full((3, 9, 9), 1.5), torch.zeros(3, 9, 9, dtype=torch.int64), torch.zeros(9, 9, 3)]
)
def test_what_is_no_image_is_refused_with_what_was_expected(nets, name, wrong):
    with pytest.raises(ValueError, match=r"image.* (must|has)|must (have|lie|be)"):
        nets(name).prepare(wrong, wrong) if name == "fr_aigciqa" else nets(name).prepare(wrong)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "ranker" and not name.startswith("prior")])
def test_parameters_are_either_pretrained_or_of_the_head_frozen_or_not(name):
    net = build(name)
    pretrained = [id(p) for p in net.pretrained_parameters()]
    head = [id(p) for p in net.head_parameters()]
    assert len(set(pretrained + head)) == len(pretrained) + len(head)
    trained = {id(p) for p in net.parameters() if p.requires_grad}
    assert set(pretrained + head) == trained
    assert pretrained
    assert head
    net.requires_grad_(False)
    assert [id(p) for p in net.pretrained_parameters()] == pretrained


@pytest.mark.parametrize("name", ["dpam", "delegate_transformer", "afine", "nr_aigciqa", "fr_aigciqa, partial"])
def test_sixteen_images_are_learned_by_heart(name):
    torch.manual_seed(0)
    config = NETWORKS[name][1]
    smaller = {"size": 32} if "aigciqa" in name else {}
    net = Baseline(config["system"], ["PR"], config["settings"] | smaller)
    inputs = prepared(net, [image(k, 64, 64) for k in range(16)])
    if "has_reference" in inputs:
        inputs["has_reference"][::2] = False
    mos = torch.linspace(-0.9, 0.9, 16)[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    if name == "afine":
        net.set_stage(1)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 2e-3)
    for step in range(1, 101):
        value = net.train().loss(scores_of(net, inputs), mos, inputs)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step % 5 == 0:
            with torch.inference_mode():
                reached = srcc(scores_of(net.eval(), inputs).numpy(), mos.numpy())
            if reached >= 0.95:
                return
    pytest.fail(f"an SRCC of {reached} in 100 steps")


# --- Foreign files


class Code:
    """In a pickle: whoever loads it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def saved(nets, tmp_path_factory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("saved")

    def write(name: str) -> Path:
        path = folder / f"{name}.pt"
        if not path.exists():
            save_checkpoint(path, nets(name), metrics={"SRCC": 0.5})
        return path

    return write


def torn(path: Path, good: Path) -> None:
    data = good.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def changed(path: Path, good: Path, change: Callable[[dict[str, Tensor], str], object]) -> None:
    content = torch.load(good, weights_only=True)
    change(content["model"], last_matrix(content["model"]))
    torch.save(content, path)


def last_matrix(state: dict[str, Tensor]) -> str:
    return [name for name, x in state.items() if x.ndim > 1][-1]


FOREIGN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "nothing": (lambda path, good: None, "no weights at"),
    "a folder": (lambda path, good: path.mkdir(), "is a folder, not a file of weights"),
    "an empty file": (lambda path, good: path.write_bytes(b""), "cannot be read as weights (it is empty)"),
    "half a file": (torn, "cannot be read as weights ("),
    "text": (lambda path, good: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "cannot be read as weights"),
    "an image": (lambda path, good: Image.new("RGB", (9, 9)).save(path, "PNG"), "cannot be read as weights"),
    "code": (lambda path, good: torch.save(Code(path.parent / "made"), path), "cannot be read as weights (damaged, or"),
    "a list": (lambda path, good: torch.save([1, 2], path), "no dictionary but one list"),
    "a state dict": (lambda path, good: torch.save(nn.Linear(2, 3).state_dict(), path), "a dictionary with weight, bias"),
    "a tensor less": (lambda path, good: changed(path, good, lambda s, k: s.pop(k)), "{tensor}"),
    "a tensor more": (lambda path, good: changed(path, good, lambda s, k: s.update(extra=s[k])), "extra"),
    "another shape": (lambda path, good: changed(path, good, lambda s, k: s.update({k: s[k][:1, :1]})), "{tensor}"),
}  # fmt: skip


@pytest.mark.parametrize("name", MAIN)
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_with_one_line_that_names_it(nets, saved, name, kind, tmp_path):
    make, words = FOREIGN[kind]
    net, path = nets(name), tmp_path / "foreign.pt"
    make(path, saved(name))
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        load(path, net)
    said = str(caught.value)
    assert "\n" not in said
    assert "foreign.pt" in said
    assert words.replace("{tensor}", last_matrix(net.state_dict())) in said
    assert "weights_only" not in said  # torch's advice, how to run the code all the same
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", MAIN)
def test_the_checkpoint_of_another_network_is_refused_with_what_it_holds(nets, saved, name):
    net = nets(name)
    other = next(n for n in MAIN[::-1] if nets(n).dimension != net.dimension and nets(n).preset == net.preset)
    with pytest.raises(ValueError, match=re.escape(f"{other}.pt")) as caught:
        load(saved(other), net)
    assert nets(other).dimension in str(caught.value)
    assert net.dimension in str(caught.value)


# --- Files of the authors of the five systems, and start weights


EDITIONS = [*SYSTEMS, "delegate_transformer, gated"]  # of the last one there are files of two kinds


def official(edition: str, seed: int, columns: int = 1) -> nn.Module:
    """The system's own network in a form that its authors have files of."""
    torch.manual_seed(seed)
    system, _, gated = edition.partition(",")
    settings = {"faithful": True} if system.endswith("aigciqa") else {"gate": "hard"} if gated else {}
    return Baseline(system, COLUMNS[: 2 if gated else columns], TINY[system] | settings).network.eval()


def flat(content: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of a file of the authors by name, those of a group with its name in front."""
    found = {}
    for name, value in content.items():
        found |= {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


def grouped(content: dict[str, Any]) -> bool:
    return any(isinstance(value, dict) for value in content.values())


def wrapped(content: dict[str, Any], wrapper: str | None, prefix: str) -> dict[str, Any]:
    """The same as other programs save it: every state dict with a prefix, and all or each group in a wrapper."""
    if grouped(content):
        groups = {name: {prefix + k: v for k, v in group.items()} for name, group in content.items()}
        return groups if wrapper is None else {name: {wrapper: group} for name, group in groups.items()}
    state = {prefix + k: v for k, v in content.items()}
    return state if wrapper is None else {wrapper: state, "epoch": 7}


pytestmark = pytest.mark.filterwarnings("ignore:.*official weights take reference points from the mean over the batch")


@pytest.mark.parametrize("system", EDITIONS)
@pytest.mark.parametrize(("wrapper", "prefix"), [(None, ""), (None, "module."), ("state_dict", ""), ("model", "module.")])
def test_weights_go_to_the_authors_form_and_back_wrapped_or_not(system, wrapper, prefix):
    if wrapper and system.endswith("aigciqa"):
        pytest.skip("their file has its own wrapper")
    source, target = official(system, 1), official(system, 2)
    content = source.to_official()
    report = target.load_official(wrapped(content, wrapper, prefix), source="their.pth")
    assert str(report).startswith(f"{len(report.loaded)} tensors loaded from their.pth: ")
    assert not set(report.loaded) & set(report.ignored)
    assert {*report.loaded, *report.ignored} - {"epoch"} == flat(content).keys()
    assert same(target.state_dict(), source.state_dict())
    assert same(flat(target.to_official()), flat(content))
    if wrapper is None and system != "afine":  # whose constants are exact
        half = {k: {n: x.half() for n, x in v.items()} if isinstance(v, dict) else v for k, v in content.items()}
        half = {k: v.half() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in half.items()}
        target.load_official(half)
        for name, tensor in source.state_dict().items():
            torch.testing.assert_close(target.state_dict()[name], tensor, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("system", [s for s in SYSTEMS if s != "delegate_transformer"])  # whose heads have names of their own
@torch.inference_mode()
def test_each_of_three_scores_comes_from_and_goes_to_a_file_of_the_authors(system):
    three, one = official(system, 2, 3), official(system, 1)
    one.load_official(one.to_official())  # which goes with settings of its own
    three.load_official(one.to_official())
    parts = prepared(Baseline(system, COLUMNS, TINY[system]), [image(4), image(5)])
    expected = one(**parts)
    torch.testing.assert_close(three(**parts), expected.expand(2, 3), atol=1e-4, rtol=1e-4)
    for parameter in three.parameters():
        parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    scores = three(**parts)
    for output in range(3):
        one.load_official(three.to_official(output))
        torch.testing.assert_close(one(**parts)[:, 0], scores[:, output], atol=1e-4, rtol=1e-4)
    with pytest.raises((ValueError, IndexError), match=r"output must be from 0 to 2, got 3|index 3 is out of range"):
        three.to_official(3)


@pytest.mark.parametrize("system", EDITIONS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda group, key: group.pop(key), r"their\.pth.* 1 absent, e\.g\. .*{key}"),
        (lambda group, key: group.update(extra=torch.zeros(2)), r"their\.pth.* 1 unknown, e\.g\. .*extra"),
        (lambda group, key: group.update({key: torch.zeros(7, 1)}), r"of another shape, e\.g\. .*{key} has \(7, 1\), expected"),
        (lambda group, key: group.clear(), r"their\.pth.*(holds no tensors by name|has no tensors)"),
    ],
    ids=["absent", "unknown", "misshapen", "empty"],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_whole_and_says_why(system, change, words):
    net, content = official(system, 1), copy.deepcopy(official(system, 2).to_official())
    group = list(content.values())[-1 if system.endswith("aigciqa") else 1] if grouped(content) else content
    state, config = {k: v.clone() for k, v in net.state_dict().items()}, copy.deepcopy(net.config)
    key = next(name for name, x in reversed(group.items()) if x.ndim > 1)
    change(group, key)
    with pytest.raises(ValueError, match=words.replace("{key}", re.escape(key))):
        net.load_official(content, source="their.pth")
    assert same(net.state_dict(), state)
    assert net.config == config


@pytest.mark.parametrize("system", EDITIONS)
def test_start_weights_change_the_pretrained_part_and_nothing_else(system, tmp_path):
    net, donor = official(system, 1), official(system, 2)
    torch.save({"model": donor.state_dict(), "config": donor.config}, tmp_path / "own.pt")
    before = {name: x.clone() for name, x in net.state_dict().items()}
    report = net.load_backbone(tmp_path / "own.pt")
    assert f"tensors loaded from {tmp_path / 'own.pt'}: " in str(report)
    pretrained = {id(p) for p in net.pretrained_parameters()}
    changed_ones = 0
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        expected = donor.state_dict()[name] if id(parameter) in pretrained else before[name]
        assert torch.equal(parameter, expected), name
        assert (name in report.fresh) == (id(parameter) not in pretrained), name
        changed_ones += id(parameter) in pretrained
    assert changed_ones == len(pretrained) > 10


@pytest.mark.parametrize("system", EDITIONS)
def test_start_weights_of_nowhere_or_of_another_kind_are_refused_by_name(system, tmp_path):
    net = official(system, 1)
    state = {name: x.clone() for name, x in net.state_dict().items()}
    with pytest.raises(FileNotFoundError, match=r"no backbone weights at .*gone\.pth"):
        net.load_backbone(tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth cannot be read as weights .*; expected a state dict of"):
        net.load_backbone(tmp_path / "text.pth")
    for wrong in ({}, {"weights": 3}, [1, 2]):
        with pytest.raises(ValueError, match=r"holds no tensors by name|groups of A-FINE are absent|has no tensors"):
            net.load_official(wrong)
    with pytest.raises(ValueError, match=r"absent, e\.g\.|no weights of"):
        net.load_backbone({"a": torch.zeros(1)})
    pretrained = {id(p) for p in net.pretrained_parameters()}
    key = [name for name, p in net.named_parameters() if id(p) in pretrained and p.ndim > 1][-1]
    with pytest.raises(ValueError, match=r"1 of another shape, e\.g\. .* has \(7, 1\), expected"):
        net.load_backbone(state | {key: torch.zeros(7, 1)})
    assert same(net.state_dict(), state)


FULL_DPAM = {"size": 224, "width": 768, "heads": 12, "patch": 8, "depth": 12, "taps": [6, 7, 8, 9]}


def full(backbone: str, size: int, *depths: int) -> dict[str, Any]:
    return {"backbone": backbone, "size": size, "depths": list(depths)}


@pytest.mark.parametrize(
    ("system", "settings", "words"),
    [
        ("dpam", FULL_DPAM, r"model\.safetensors of timm/vit_base_patch8_224\.augreg_in21k_ft_in1k at hugg"),
        ("delegate_transformer", {}, r"DAT-Base.*timm/swin_base.*huggingface\.co.*--backbone-weights"),
        ("afine", {}, r"openai/clip-vit-base-patch32.*ViT-B-32\.pt.*--backbone-weights FILE"),
        ("nr_aigciqa", full("inceptionv4", 299, 4, 7, 3), r"model\.safetensors of timm/inception_v4\.tf_in1k"),
        ("nr_aigciqa", full("vit_l_16", 224, 24), r"vit_large_patch16_224\.augreg_in21k_ft_in1k.* and pass --backbone-weights"),
        ("nr_aigciqa", full("vgg16", 64, 2, 2, 3, 3, 3), r"(?i)vgg16_weights.* fetch https://.*/vgg16-397923af\.pth elsewhere"),
        ("nr_aigciqa", full("vgg19", 64, 2, 2, 4, 4, 4), r"(?i)vgg19_weights.* fetch https://.*/vgg19-dcbb9e9d\.pth elsewhere"),
        ("fr_aigciqa", full("resnet18", 64, 2, 2, 2, 2), r"(?i)resnet18_weights.* https://.*/resnet18-f37072fd\.pth elsewhere"),
        ("fr_aigciqa", full("resnet50", 64, 3, 4, 6, 3), r"(?i)resnet50_weights.* https://.*/resnet50-0676ba61\.pth elsewhere"),
    ],
)  # fmt: skip
def test_without_the_hub_the_error_says_which_file_to_fetch(system, settings, words, monkeypatch):
    with torch.device("meta"):
        net = Baseline(system, ["PR"], TINY[system] | settings).network
    create, asked = timm.create_model, []

    def refuse(*names: Any, **options: Any) -> Any:
        if options.get("pretrained") is False or (names and options.get("pretrained", True) is None):
            return create(*names, **options)
        asked.extend(names)
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(UnreachableError, match=words) as caught:
        net.load_backbone()
    assert "no network" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert asked
    if "timm" in str(asked[0]) or "/" not in str(asked[0]):
        assert timm.models.is_model_pretrained(str(asked[0])), asked


@pytest.mark.parametrize(
    ("system", "settings", "words"),
    [
        ("dpam", {"texture": "Lab"}, "texture must be gray or lab, got 'Lab'"),
        ("dpam", {"texture": "lab", "uint8_texture": True}, "uint8_texture is for gray texture"),
        ("dpam", {"size": 72}, "size must be a multiple of patch"),
        ("dpam", {"size": 48}, "at least 4 times it, got 48 and 16"),
        ("dpam", {"taps": [1, 0]}, r"rising numbers of the 3 blocks, from 0, got \[1, 0\]"),
        ("dpam", {"taps": [2, 3]}, "rising numbers of the 3 blocks"),
        ("dpam", {"pixels": 1}, "and pixels 2, got 12, 16 and 1"),
        ("delegate_transformer", {"size": 96}, r"multiple of 32 windows \(32 \* 2 = 64\)"),
        ("delegate_transformer", {"gate": "open"}, "gate must be one of none, soft, hard, got 'open'"),
        ("delegate_transformer", {"reference_mode": "mean"}, "reference_mode must be one of per_sample, running, batch_mean"),
        ("delegate_transformer", {"histogram": "hard"}, "histogram must be one of bounded, official"),
        ("delegate_transformer", {"heads": [3, 2, 4, 8]}, "do not divide evenly"),
        ("delegate_transformer", {"groups": [4]}, "two groups"),
        ("afine", {"position": "table"}, "position must be one of grid, sequence, got 'table'"),
        ("afine", {"heads": 5}, "width must be a multiple of heads, got 32 and 5"),
        ("nr_aigciqa", {"backbone": "alexnet"}, "backbone must be one of vgg16, .*, efficientnet_lite0, got 'alexnet'"),
        ("fr_aigciqa", {"form": "pr"}, "form must be one of nr, fr, partial, got 'pr'"),
        ("fr_aigciqa", {"fusion": "sum"}, "fusion must be one of concat, compare, got 'sum'"),
        ("nr_aigciqa", {"fusion": "compare"}, "fusion 'compare' is of the form fr; the form nr"),
        ("nr_aigciqa", {"view": "left"}, "view must be one of crop, whole, got 'left'"),
        ("nr_aigciqa", full("resnet50", 64, 1, 1), r"resnet50 must be whole numbers from 1 to \[3, 4, 6, 3\], got \[1, 1\]"),
        ("nr_aigciqa", {"depths": [1, 0, 1, 1]}, r"got \[1, 0, 1, 1\]"),
        ("nr_aigciqa", {"backbone": "inceptionv4", "depths": [5, 7, 3]}, r"from 1 to \[4, 7, 3\]"),
    ],
)  # fmt: skip
def test_settings_that_make_no_network_are_refused(system, settings, words):
    with pytest.raises(ValueError, match=words):
        Baseline(system, ["PR"], TINY[system] | settings)


@pytest.mark.parametrize("system", ["afine", "delegate_transformer"])
def test_a_network_without_scores_is_refused(system):
    with pytest.raises(ValueError, match=r"outputs and size must be at least 1|at least one output"):
        Baseline(system, [], TINY[system])

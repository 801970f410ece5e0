"""DPAM against OpenCV's pixels, SciPy, and a restatement of its formulas in plain functions, on reduced networks."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import make_image
from scipy.ndimage import correlate1d
from scipy.signal import correlate2d
from skimage.color import rgb2lab
from torch import Tensor, nn

from baselines import dpam
from baselines.dpam import (
    DPAM,
    SUPERPIXELS,
    ChannelAttention,
    DynamicConvolution,
    ResidualBlock,
    SuperpixelSimilarity,
    gray_levels,
    pixel_moments,
    rating_loss,
    sample_superpixels,
    shuffled,
    superpixel_labels,
    texture_strips,
)

SPECS = Path(__file__).resolve().parents[2] / "shared" / "specs"  # the manifest itself, where it is at hand
SMALL = {
    "size": 32,
    "width": 32,
    "depth": 3,
    "heads": 2,
    "taps": [0, 1],
    "pixel_width": 16,
    "slic_size": [40, 32],
    "region": 8,
    "superpixels": 18,
    "pixels": 30,
}
MILLIONS = {  # parameters, as published
    "vit": 86.58,
    "resblock1": 21.24,
    "fusionconv": 18.88,
    "ta": 9.54,
    "t_conv": 9.44,
    "dyd1": 5.36,
    "resblock2": 5.31,
    "teablock": 3.69,
    "block1": 3.54,
    "conv1": 2.36,
    "tablock": 1.85,
    "dyd2": 1.35,
    "block2": 1.18,
    "catconv1": 1.18,
}
Shapes = dict[str, tuple[int, ...]]


def small(seed: int = 0, **config: object) -> DPAM:
    """A reduced network in evaluation mode, of weights and batch statistics that follow from the seed."""
    torch.manual_seed(seed)
    net = DPAM(**(SMALL | config))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    net.dyd1.bias.data.normal_()  # zero at the start
    net.dyd2.bias.data.normal_()
    net.simi_matrix.similarity_weight_block[0].weight.data.fill_(0.8)  # else the weights of all similarities may be 0
    net.vit.pos_embed.data.normal_(0, 0.3)
    return net.eval()


def image(height: int = 52, width: int = 61, seed: int = 0) -> Tensor:
    """uint8, shape (3, H, W)."""
    return torch.from_numpy(make_image(seed, height, width).copy()).permute(2, 0, 1)


def pattern(height: int, width: int, formula: str) -> Tensor:
    """The images that OpenCV was given, uint8, shape (3, H, W)."""
    y, x, c = np.mgrid[:height, :width, :3]
    levels = 29 * x + 53 * y + 71 * c + 7 * x * y if formula == "small" else x * x // 3 + 2 * y + 85 * c + x * y // 9
    return torch.from_numpy((levels % 256).astype(np.uint8)).permute(2, 0, 1).contiguous()


def batch(items: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    items = list(items)
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


def pixels_of(count: int, pixels: int, seed: int = 0) -> Tensor:
    """Pixels of superpixels that are colored, gray or of a single color, in [0, 1], shape (1, count, pixels, 3)."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 1, 3, generator=rng) + 0.2 * torch.randn(count, pixels, 3, generator=rng)
    x[1::3] = x[1::3, :, :1]
    x[2::3] = x[2::3, :1]
    return (x.clamp(0, 1) * 255).round()[None] / 255


def digest(values: Tensor | np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, np.uint8).tobytes()).hexdigest()[:16]


# --- Names and shapes


def published_layout() -> Shapes:
    """Name and shape of every tensor of the published state dict."""
    layout: Shapes = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        layout[f"{name}.weight"] = shape
        if bias:
            layout[f"{name}.bias"] = shape[:1]

    def batch_norm(name: str, width: int) -> None:
        layer(name, width)
        layout.update({f"{name}.running_mean": (width,), f"{name}.running_var": (width,), f"{name}.num_batches_tracked": ()})

    def block(name: str, width: int, hidden: int, bias: bool) -> None:
        layer(f"{name}.norm1", width)
        layer(f"{name}.attn.qkv", 3 * width, width, bias=bias)
        layer(f"{name}.attn.proj", width, width)
        layer(f"{name}.norm2", width)
        layer(f"{name}.mlp.fc1", hidden, width)
        layer(f"{name}.mlp.fc2", width, hidden)

    layout["vit.cls_token"], layout["vit.pos_embed"] = (1, 1, 768), (1, 1 + 28 * 28, 768)
    layer("vit.patch_embed.proj", 768, 3, 8, 8)
    for number in range(12):
        block(f"vit.blocks.{number}", 768, 3072, bias=True)
    layer("vit.norm", 768)
    layer("vit.head", 1000, 768)
    layer("simi_matrix.pixel_conv", 256, 3, 1, 1)
    layer("simi_matrix.reduce_conv", 256, 512, 1, 1)
    layer("simi_matrix.similarity_weight_block.0", 1, 1, 1, 1)
    batch_norm("simi_matrix.similarity_weight_block.1", 1)
    layer("slic_conv", 3072, 1, 1, 1)
    layer("ta.texture_attention.0", 3072, 3, 3, 3)
    batch_norm("ta.texture_attention.1", 3072)
    layer("ta.texture_attention.2", 3072, 3072, 1, 1)
    batch_norm("ta.texture_attention.3", 3072)
    layer("t_conv", 3072, 3072, 1, 1)
    for name in ("teablock.0", "teablock.1", "tablock"):
        for kind in ("c_q", "c_k", "c_v"):
            layer(f"{name}.{kind}", 784, 784)
    layer("fusionconv", 3072, 6144, 1, 1)
    layer("conv1", 768, 3072, 1, 1)
    layer("conv2", 384, 768, 1, 1)
    for stage, width, hidden in ((1, 768, 768), (2, 384, 768)):
        block(f"block{stage}", width, hidden, bias=False)
        for number in range(2):
            for half in (1, 2):
                layer(f"resblock{stage}.blocks.{number}.conv{half}", width, width, 3, 3)
                batch_norm(f"resblock{stage}.blocks.{number}.bn{half}", width)
            for third in range(3):
                layer(f"dyd{stage}.Block{number + 1}.{third}", width, 1, 3, 3)
        layout[f"dyd{stage}.bias"] = (width,)
        layer(f"dyd{stage}.tokernel", 9 * width, width, 1, 1)
        layer(f"catconv{stage}", width, 2 * width, 1, 1)
    for head in ("fc_score", "fc_weight"):
        layer(f"{head}.0", 384, 384)
        layer(f"{head}.3", 1, 384)
    return layout


def shapes(state: dict[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.fixture(scope="module")
def full() -> DPAM:
    with torch.device("meta"):
        return DPAM()


def test_the_layout_is_that_of_the_manifest():
    if not SPECS.is_dir():
        pytest.skip("the manifest lies outside the repository")
    manifest = json.loads((SPECS / "dpam_state_dict.json").read_text(encoding="utf-8"))
    assert published_layout() == {name: tuple(shape) for name, shape in manifest.items()}


def test_the_full_network_has_the_tensors_of_the_published_one_and_no_others(full):
    assert len(published_layout()) == 325
    assert shapes(full.state_dict()) == published_layout()
    assert shapes(full.to_official()) == published_layout()


def test_every_tensor_of_the_published_state_is_loaded(full):
    state = {name: torch.empty(shape, device="meta") for name, shape in published_layout().items()}
    report = full.load_official(state)
    assert set(report.loaded) == set(state)
    assert report.ignored == {}


def test_the_parts_are_as_large_as_published(full):
    found = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in full.named_children()}
    assert sum(found.values()) == pytest.approx(172.54, abs=0.005)
    assert {name: found[name] for name in MILLIONS} == pytest.approx(MILLIONS, abs=0.005)
    assert max(size for name, size in found.items() if name not in MILLIONS) < 0.301


def test_the_transformer_has_the_names_of_timm(full):
    with torch.device("meta"):
        expected = timm.create_model("vit_base_patch8_224", pretrained=False).state_dict()
    assert shapes(full.vit.state_dict()) == shapes(expected)


def test_published_weights_switch_the_published_flaws_on_unless_told_otherwise():
    net = small()
    net.load_official(net.to_official(), faithful=False)
    assert not any(net.config[name] for name in ("faithful_reshape", "uint8_texture", "relu_scores"))
    net.load_official(net.to_official())
    assert all(net.config[name] for name in ("faithful_reshape", "uint8_texture", "relu_scores"))
    color = small(texture="lab")
    with pytest.raises(ValueError, match="published weights are for gray texture; build the network with texture='gray'"):
        color.load_official(net.to_official())
    color.load_official(net.to_official(), faithful=False)


# --- Start weights


def test_start_weights_are_loaded_and_all_others_left_alone(tmp_path):
    net, donor = small(seed=1), small(seed=2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = {name: tensor for name, tensor in donor.vit.state_dict().items() if not name.startswith("head.")}
    torch.save(state, tmp_path / "vit.pth")
    report = net.load_backbone(tmp_path / "vit.pth")
    assert len(report.loaded) == len(state)
    assert {"vit.head.weight", "conv1.weight"} <= set(report.fresh)
    assert len(report.loaded) + len(report.fresh) == len(before)
    assert str(report).startswith(f"{len(state)} tensors loaded from {tmp_path / 'vit.pth'}: cls_token, pos_embed, ")
    assert f"\n  {len(report.fresh)} of the network not in it, left as they were: vit.head.weight, " in str(report)
    for name, tensor in net.state_dict().items():
        expected = before[name] if name in report.fresh else donor.state_dict()[name]
        assert torch.equal(tensor, expected), name


def test_start_weights_may_be_of_another_dpam_or_have_another_classifier():
    net, donor = small(seed=1), small(seed=2)
    assert not net.load_backbone(donor.state_dict()).ignored
    assert torch.equal(net.vit.pos_embed, donor.vit.pos_embed)
    state = {**donor.vit.state_dict(), "head.weight": torch.zeros(10, 32), "pre_logits.fc.bias": torch.zeros(3)}
    report = net.load_backbone(state)
    assert report.ignored == {
        "head.weight": "of another shape, and no score depends on it",
        "pre_logits.fc.bias": "no part of the network",
    }
    assert "\n  1 ignored, no part of the network: pre_logits.fc.bias\n" in str(report)


# --- Texture


def test_gray_and_its_wrapped_residual_are_those_of_opencv():
    # OpenCV 5.0.0: cvtColor BGR2GRAY, and gray - GaussianBlur(gray, (0, 0), 2.0) in uint8
    gray = [
        [58, 87, 116, 145, 145, 174, 203],
        [111, 147, 154, 190, 75, 111, 71],
        [164, 178, 70, 113, 80, 123, 166],
        [188, 87, 61, 111, 161, 182, 81],
        [90, 71, 128, 156, 213, 119, 100],
        [67, 131, 166, 79, 67, 131, 166],
    ]
    residual = [
        [189, 217, 246, 18, 18, 46, 75],
        [242, 22, 29, 63, 204, 239, 199],
        [42, 55, 202, 243, 209, 250, 37],
        [69, 223, 195, 242, 33, 53, 207],
        [230, 209, 7, 31, 84, 244, 225],
        [207, 14, 46, 210, 194, 0, 34],
    ]
    levels = pattern(6, 7, "small")
    assert gray_levels(levels)[0].tolist() == gray
    (strip,) = texture_strips(levels, wrap=True)
    assert (strip[0] * 255).round().tolist() == residual
    (large,) = texture_strips(pattern(90, 130, "large"), wrap=True)
    assert digest((large * 255).round()) == "2d79d9c8e5de953b"


def test_images_are_resized_as_by_opencv():
    # OpenCV 5.0.0: resize of uint8 with INTER_CUBIC; the green plane of the small pattern, all of the large one
    def resized(levels: Tensor, width: int, height: int) -> Tensor:
        return dpam._to_levels(dpam._resized(dpam._strips(levels), width, height))

    assert resized(pattern(6, 7, "small"), 4, 3)[1].tolist() == [[100, 189, 103, 146], [196, 13, 122, 141], [61, 178, 175, 133]]
    larger = resized(pattern(6, 7, "small"), 9, 8)[1]
    assert larger[0].tolist() == [65, 84, 109, 131, 153, 188, 217, 240, 255]
    assert larger[7].tolist() == [80, 121, 200, 176, 3, 40, 113, 180, 219]
    large = pattern(90, 130, "large")
    assert digest(resized(large, 32, 32).permute(1, 2, 0)) == "4337166444b7f85d"
    assert torch.equal(resized(large, 130, 90), large)


def test_the_published_texture_is_that_of_opencv_after_resizing():
    net = small(uint8_texture=True)
    texture = dpam._resized(texture_strips(pattern(6, 7, "small"), wrap=True), 3, 4)[0]
    # OpenCV 5.0.0: the residual above / 255 as float32, resize with INTER_CUBIC
    expected = [
        [0.70977, 0.085754, 0.387163],
        [0.110306, 0.799632, 0.831697],
        [0.832446, 0.736458, 0.543916],
        [0.435806, 0.635401, 0.215324],
    ]
    assert np.allclose(texture, expected, atol=2e-6)
    made = net.preprocess(image())["texture"]
    assert made.shape == (3, 32, 32)
    assert torch.equal(made[0], made[2])


def test_the_residual_is_what_scipy_says():
    kernel = np.exp(-(np.arange(-6, 7) ** 2) / 8)
    kernel /= kernel.sum()
    levels = image(33, 47)
    values = levels.permute(1, 2, 0).numpy() / 255
    for color, planes, scale in (
        (False, gray_levels(levels).double().numpy(), 255),
        (True, np.moveaxis(rgb2lab(values), 2, 0), 100),
    ):
        smooth = correlate1d(correlate1d(planes, kernel, 1, mode="mirror"), kernel, 2, mode="mirror")
        (found,) = texture_strips(levels, color=color)
        # OpenCV's kernel is rounded to 1/256
        assert np.allclose(found, 0.5 + (planes - smooth) / scale / 2, atol=0.002)


def test_texture_is_the_same_in_strips_of_any_height(monkeypatch):
    levels = image(70, 33)
    whole = {color: torch.cat(list(texture_strips(levels, color)), 1) for color in (False, True)}
    resized = dpam._resized(dpam._strips(levels), 20, 20)
    monkeypatch.setattr(dpam, "_STRIP_PIXELS", 33 * 9)
    for color in (False, True):
        strips = list(texture_strips(levels, color))
        assert [strip.shape[1] for strip in strips] == [9] * 7 + [7]
        assert torch.allclose(torch.cat(strips, 1), whole[color], atol=1e-6)
    assert torch.allclose(dpam._resized(dpam._strips(levels), 20, 20), resized, atol=1e-4)


def test_a_little_less_light_is_a_little_change_of_texture():
    # as published a level of -1 reads as 255, so noise of one level in a flat patch swings between black and white
    flat = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    dotted = flat.clone()
    dotted[:, 20, 20] = 99
    change = {}
    for wrap in (False, True):
        a, b = (torch.cat(list(texture_strips(x, wrap=wrap))) for x in (flat, dotted))
        change[wrap] = (a - b).abs().max().item()
    assert change[False] < 0.01
    assert change[True] > 0.99


def test_color_texture_tells_colorizations_of_one_gray_apart():
    rng = np.random.default_rng(0)
    colors = torch.from_numpy(rng.integers(0, 256, (3, 1, 20000), np.uint8))
    gray = gray_levels(colors)[0, 0]
    first, second = [], []
    for level in range(60, 200):
        place = (gray == level).nonzero()[:2, 0]
        first.append(colors[:, 0, place[0]])
        second.append(colors[:, 0, place[1]])
    pick = torch.from_numpy(rng.integers(0, 140, (48, 48)))
    a, b = (torch.stack(palette, 1)[:, pick] for palette in (first, second))
    assert torch.equal(gray_levels(a), gray_levels(b))
    assert not torch.equal(a, b)
    gray_net, color_net = small(), small(texture="lab")
    made = [net.preprocess(x)["texture"] for net in (gray_net, color_net) for x in (a, b)]
    assert torch.equal(made[0], made[1])
    assert (made[2] - made[3]).abs().mean() > 0.02
    assert shapes(gray_net.state_dict()) == shapes(color_net.state_dict())


def test_neutral_images_have_no_color_texture():
    gray = image()[:1].expand(3, -1, -1).contiguous()
    made = small(texture="lab").preprocess(gray)["texture"]
    assert torch.allclose(made[1:], torch.full_like(made[1:], 0.5), atol=1e-4)
    assert made[0].std() > 0.005


# --- Superpixels


def test_superpixels_follow_borders_of_color():
    # squares of a grid do not; scikit-image gives just these where the units of color are lost
    y, x = np.mgrid[:120, :120]
    inside = (x + 0.5 * y) % 47 < 20
    noise = np.random.default_rng(0).normal(0, 12, (3, 120, 120))
    levels = torch.from_numpy((np.where(inside, 90, 150) + noise).clip(0, 255).astype(np.uint8))
    labels = superpixel_labels(levels, 15)

    def purity(found: np.ndarray) -> float:
        sizes, shares = np.bincount(found.ravel()), np.bincount(found.ravel(), inside.ravel())
        return np.maximum(shares, sizes - shares).sum() / found.size

    assert len(np.unique(labels)) == 64
    assert purity(y // 15 * 8 + x // 15) < 0.84
    assert purity(labels) > 0.98
    assert np.array_equal(labels, superpixel_labels(levels, 15))


@pytest.mark.parametrize(("size", "region", "count"), [((500, 500), 40, 144), ((384, 512), 45, 99), ((256, 256), 40, 36)])
def test_there_are_as_many_superpixels_as_published(size, region, count):
    assert len(np.unique(superpixel_labels(image(*size), region))) == count


def test_a_image_of_one_color_has_superpixels():
    labels = superpixel_labels(torch.full((3, 32, 40), 255, dtype=torch.uint8), 8)
    assert len(np.unique(labels)) == 20


def test_pixels_are_taken_evenly_in_the_order_of_rows():
    # three superpixels of 6, 4 and 2 pixels; the level of a pixel is its place
    labels = np.array([[7, 7, 2, 2], [7, 9, 9, 2], [7, 7, 7, 2]])
    levels = torch.arange(12, dtype=torch.uint8).view(1, 3, 4) + torch.tensor([100, 50, 0], dtype=torch.uint8).view(3, 1, 1)
    found = (sample_superpixels(levels, labels, 3, 4) * 255).round().int()
    assert found[..., 0].tolist() == [[2, 3, 7, 11], [0, 1, 8, 10], [5, 5, 6, 6]]  # blue, of superpixels 2, 7 and 9
    assert (found - found[..., :1] == torch.tensor([0, 50, 100])).all()  # green, red
    fewer = (sample_superpixels(levels, labels, 2, 3)[..., 0] * 255).round().int()
    assert fewer.tolist() == [[2, 3, 11], [5, 5, 6]]  # the first and the last
    more = (sample_superpixels(levels, labels, 5, 2)[..., 0] * 255).round().int()
    assert more.tolist() == [[2, 11], [0, 10], [5, 6], [2, 11], [0, 10]]


def test_superpixels_are_the_same_every_time_even_where_they_must_be_filled_up():
    net = small(superpixels=50, pixels=90)  # of 20 with 64 pixels
    first, second = (net.find_superpixels(image()) for _ in range(2))
    assert first.shape == (50, 9)
    assert torch.equal(first, second)


def test_moments_are_those_of_numpy():
    x = torch.rand(4, 30, 3, generator=torch.Generator().manual_seed(0))
    found = pixel_moments(x)
    for pixels, moments in zip(x.numpy(), found.numpy(), strict=True):
        covariance = np.cov(pixels.T.astype(np.float64))
        assert np.allclose(moments, [*pixels.mean(0), *covariance[np.triu_indices(3)]], atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_moments_tell_the_network_what_pixels_tell(seed):
    torch.manual_seed(seed)
    layer = SuperpixelSimilarity(256).eval()
    layer.similarity_weight_block[0].weight.data.fill_(1.0)
    pixels = pixels_of(24, 600, seed)
    with torch.inference_mode():
        by_pixels, by_moments = layer(pixels), layer(pixel_moments(pixels))
    assert by_pixels.abs().max() > 0.5
    assert torch.allclose(by_pixels, by_moments, rtol=0, atol=1e-5)


def test_a_image_has_one_score_in_both_forms():
    by_moments, by_pixels = small(), small(pixel_form=True)
    first, second = (batch([net.preprocess(image())]) for net in (by_moments, by_pixels))
    assert first["superpixels"].shape == (1, 18, 9)
    assert second["superpixels"].shape == (1, 18, 30, 3)
    with torch.inference_mode():
        assert torch.allclose(by_moments(**first), by_pixels(**second), rtol=0, atol=1e-5)
        assert by_moments.superpixel_queries(first["superpixels"]).std(2).max() > 0.01


def test_moments_have_finite_gradients_where_a_superpixel_has_one_color():
    layer = SuperpixelSimilarity(8)
    layer(pixel_moments(pixels_of(9, 20))).sum().backward()
    layer(pixel_moments(torch.ones(1, 9, 20, 3))).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_moments_are_not_read_in_half_precision():
    layer = SuperpixelSimilarity(16).eval()
    layer.similarity_weight_block[0].weight.data.fill_(1.0)
    moments = pixel_moments(pixels_of(9, 50))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        rounded = layer._of_moments(moments)
    assert torch.equal(rounded, layer._of_moments(moments))


def test_every_published_setting_builds_a_network():
    for name, settings in SUPERPIXELS.items():
        net = small(**settings)
        assert net.superpixel_key[1:4] == (settings["region"], settings["superpixels"], settings["pixels"]), name
    keys = {small(**s).superpixel_key for s in SUPERPIXELS.values()}
    assert len(keys) == len(SUPERPIXELS) - 2  # LIVEC and CSIQ are alike, and so are TID2013 and KADID-10k
    assert small().superpixel_key != small(pixel_form=True).superpixel_key


# --- Views


@pytest.mark.parametrize("crop", [False, True])
def test_a_image_is_prepared_alike_every_time_and_in_training_at_random(crop):
    net, levels = small(crop=crop, uint8_texture=True), image()
    first, second = net.preprocess(levels), net.preprocess(levels)
    assert all(torch.equal(first[key], second[key]) for key in first)
    kept = net.find_superpixels(levels)
    assert torch.equal(net.preprocess(levels, kept)["superpixels"], first["superpixels"])
    made = [net.augment(levels, torch.Generator().manual_seed(seed), kept)["rgb"] for seed in range(30)]
    again = net.augment(levels, torch.Generator().manual_seed(3))
    assert torch.equal(again["rgb"], made[3])
    assert torch.equal(again["superpixels"], first["superpixels"])  # of the unflipped whole
    different = {digest((x * 255).round()) for x in made}
    assert len(different) > 15 if crop else len(different) == 2


def test_images_are_flipped_in_seven_of_ten_cases():
    net, levels, generator = small(), image(), torch.Generator().manual_seed(0)
    kept, straight = net.find_superpixels(levels), net.preprocess(levels)
    flipped = net.preprocess(levels.flip(2), kept)
    count = 0
    for _ in range(200):
        made = net.augment(levels, generator, kept)
        if torch.equal(made["rgb"], flipped["rgb"]):
            count += 1
            assert torch.equal(made["texture"], flipped["texture"])
        else:
            assert torch.equal(made["rgb"], straight["rgb"])
    assert 120 <= count <= 160


def test_a_crop_is_taken_from_the_middle_for_scoring():
    levels = image(52, 61)
    made = small(crop=True).preprocess(levels)
    middle = levels[:, 10:42, 14:46]
    assert torch.equal((made["rgb"] * 255).round().to(torch.uint8), middle)
    (texture,) = texture_strips(middle)
    assert torch.allclose(made["texture"][:1], texture, atol=1e-6)
    assert torch.equal(made["superpixels"], small().preprocess(levels)["superpixels"])  # of the whole image
    with pytest.raises(ValueError, match="at least 32x32 pixels to be cropped, got 61x20"):
        small(crop=True).preprocess(levels[:, :20])


def test_inputs_of_another_shape_are_refused():
    net = small()
    inputs = batch([net.preprocess(image())])
    with pytest.raises(ValueError, match=r"texture must have shape \(B, 3, 32, 32\), got \(1, 3, 16, 16\)"):
        net(**{**inputs, "texture": torch.zeros(1, 3, 16, 16)})
    with pytest.raises(ValueError, match=r"superpixels must have shape \(B, n, 9\) or \(B, n, P, 3\), got \(1, 18, 7\)"):
        net(**{**inputs, "superpixels": torch.zeros(1, 18, 7)})


# --- Formulas


def restated(net: DPAM, rgb: Tensor, texture: Tensor, pixels: Tensor) -> Tensor:
    """The published forward pass by its formulas, from the state dict alone."""
    w, config = net.state_dict(), net.config
    grid, heads = config["size"] // config["patch"], config["heads"]

    def linear(x: Tensor, name: str) -> Tensor:
        y = x @ w[f"{name}.weight"].flatten(1).T
        return y + w[f"{name}.bias"] if f"{name}.bias" in w else y

    def one_by_one(x: Tensor, name: str) -> Tensor:
        return linear(x.movedim(1, -1), name).movedim(-1, 1)

    def three_by_three(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1, groups=x.shape[1] // w[f"{name}.weight"].shape[1])

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def batch_norm(x: Tensor, name: str) -> Tensor:
        mean, var, gain, shift = (w[f"{name}.{k}"][:, None, None] for k in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * gain + shift

    def block(x: Tensor, name: str, heads: int, eps: float) -> Tensor:
        b, n, d = x.shape
        q, k, v = (
            linear(norm(x, f"{name}.norm1", eps), f"{name}.attn.qkv").view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        )
        attention = (q @ k.transpose(2, 3) / math.sqrt(d // heads)).softmax(-1)
        x = x + linear((attention @ v).transpose(1, 2).reshape(b, n, d), f"{name}.attn.proj")
        return x + linear(F.gelu(linear(norm(x, f"{name}.norm2", eps), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")

    def reread(x: Tensor) -> Tensor:
        return torch.stack([sample.T.contiguous().flatten().view(sample.shape) for sample in x])

    def attention(query: Tensor, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
        logits = linear(query, f"{name}.c_q") @ linear(x, f"{name}.c_k").transpose(1, 2)
        return (logits / math.sqrt(x.shape[2])).softmax(2), linear(x, f"{name}.c_v")

    def stage(x: Tensor, number: int) -> Tensor:
        tokens = block(x.flatten(2).transpose(1, 2), f"block{number}", 4, 1e-5).transpose(1, 2).reshape(x.shape)
        y = x
        for k in range(2):
            name = f"resblock{number}.blocks.{k}"
            z = batch_norm(three_by_three(y, f"{name}.conv1"), f"{name}.bn1").relu()
            y = (batch_norm(three_by_three(z, f"{name}.conv2"), f"{name}.bn2") + y).relu()
        name = f"dyd{number}"
        z = F.avg_pool2d(y, 2)
        for k in range(3):
            z = three_by_three(z, f"{name}.Block1.{k}")
        z = F.max_pool2d(z, 2)
        for k in range(3):
            z = three_by_three(z, f"{name}.Block2.{k}")
        kernels = linear(z.mean((2, 3)), f"{name}.tokernel").view(len(x), -1, 1, 3, 3)
        dynamic = [F.conv2d(y[i : i + 1], kernels[i], w[f"{name}.bias"], padding=1, groups=y.shape[1]) for i in range(len(y))]
        return one_by_one(torch.cat((tokens, torch.cat(dynamic)), 1), f"catconv{number}")

    x = F.conv2d(rgb * 2 - 1, w["vit.patch_embed.proj.weight"], w["vit.patch_embed.proj.bias"], stride=config["patch"])
    x = torch.cat((w["vit.cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)), 1) + w["vit.pos_embed"]
    seen = []
    for number in range(config["depth"]):
        x = block(x, f"vit.blocks.{number}", heads, 1e-6)
        if number in config["taps"]:
            seen.append(x[:, 1:])
    seen = torch.cat(seen, 2).transpose(1, 2)

    side = texture.shape[-1] // grid
    coarse = texture.unflatten(3, (grid, side)).unflatten(2, (grid, side)).mean((3, 5))
    t = batch_norm(three_by_three(coarse, "ta.texture_attention.0"), "ta.texture_attention.1")
    t = batch_norm(one_by_one(t, "ta.texture_attention.2"), "ta.texture_attention.3").sigmoid()
    asks_texture = one_by_one(t, "t_conv").flatten(2)

    projected = linear(pixels, "simi_matrix.pixel_conv")  # (B, n, P, D)
    statistics = torch.cat((projected.mean(2), projected.std(2)), 2)
    features = linear(statistics, "simi_matrix.reduce_conv")
    features = features / features.square().sum(2, keepdim=True).sqrt()
    similarity = (features @ features.transpose(1, 2))[:, None]
    name = "simi_matrix.similarity_weight_block"
    similarity = similarity * batch_norm(one_by_one(similarity, f"{name}.0"), f"{name}.1").relu()
    s = one_by_one(similarity, "slic_conv")  # before resizing, as published
    asks_superpixels = F.interpolate(s, (grid, grid), mode="bilinear", align_corners=False).flatten(2)

    found = []
    for number, query in enumerate((asks_texture, asks_superpixels)):
        a, v = attention(query, seen, f"teablock.{number}")
        found.append(a @ (reread(v) if config["faithful_reshape"] else v) + seen)
    x = one_by_one(torch.cat(found, 1).unflatten(2, (grid, grid)), "fusionconv")
    x = stage(one_by_one(x, "conv1"), 1)
    flat = x.flatten(2)
    a, v = attention(flat, flat, "tablock")
    x = ((reread(a @ v) if config["faithful_reshape"] else a @ v) + flat).view(x.shape)
    x = stage(one_by_one(x, "conv2"), 2)
    tokens = x.flatten(2).transpose(1, 2)
    score, weight = (linear(linear(tokens, f"{head}.0").relu(), f"{head}.3") for head in ("fc_score", "fc_weight"))
    score, weight = score.relu() if config["relu_scores"] else score, weight.sigmoid()
    return (score * weight).sum(1) / weight.sum(1)


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_network_is_the_sum_of_its_formulas(faithful, outputs):
    flags = dict.fromkeys(("faithful_reshape", "uint8_texture", "relu_scores"), faithful)
    net = small(seed=4, outputs=outputs, pixel_form=True, **flags).double()
    net.fc_score[3].bias.data += 0.3  # else some scores are cut off at 0 for both images
    inputs = batch(net.preprocess(image(seed=seed)) for seed in range(2))
    inputs = {key: x.double() for key, x in inputs.items()}
    with torch.inference_mode():
        found = net(**inputs)
        expected = restated(net, inputs["rgb"], inputs["texture"], inputs["superpixels"])
    assert found.shape == (2, outputs)
    assert torch.allclose(found.double(), expected, rtol=0, atol=1e-6)  # the head computes in float32
    assert (found[0] - found[1]).abs().min() > 1e-5


def test_channel_attention_is_a_loop_over_channels():
    torch.manual_seed(0)
    layer = ChannelAttention(6, 0.1, "values").double().eval()
    query, x = torch.randn(2, 1, 5, 6, dtype=torch.float64)
    found = layer(query, x, faithful=False).detach()[0].numpy()
    (wq, bq), (wk, bk), (wv, bv) = (
        [p.detach().numpy() for p in (part.weight, part.bias)] for part in (layer.c_q, layer.c_k, layer.c_v)
    )
    for i in range(5):
        logits = np.array([(wq @ query[0, i].numpy() + bq) @ (wk @ x[0, j].numpy() + bk) / 6**0.5 for j in range(5)])
        weights = np.exp(logits) / np.exp(logits).sum()
        value = sum(weights[j] * (wv @ x[0, j].numpy() + bv) for j in range(5))
        assert np.allclose(found[i], value + x[0, i].numpy(), atol=1e-12)


def test_shuffling_reads_a_transposed_matrix_row_by_row():
    x = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8]]])
    assert shuffled(x).tolist() == [[[1, 5, 2, 6], [3, 7, 4, 8]]]


def test_similarity_is_what_loops_make_of_the_pixels():
    torch.manual_seed(0)
    layer = SuperpixelSimilarity(5).double().eval()
    layer.similarity_weight_block[0].weight.data.fill_(0.7)
    layer.similarity_weight_block[1].running_mean.fill_(0.2)
    layer.similarity_weight_block[1].running_var.fill_(0.5)
    pixels = pixels_of(4, 8).double()
    found = layer(pixels).detach()[0, 0].numpy()
    weight, bias = layer.pixel_conv.weight.detach().numpy()[..., 0, 0], layer.pixel_conv.bias.detach().numpy()
    reduce, shift = layer.reduce_conv.weight.detach().numpy()[..., 0, 0], layer.reduce_conv.bias.detach().numpy()
    features = []
    for superpixel in pixels[0].numpy():
        projected = np.array([weight @ pixel + bias for pixel in superpixel])
        feature = reduce @ np.concatenate((projected.mean(0), projected.std(0, ddof=1))) + shift
        features.append(feature / np.linalg.norm(feature))
    offset = layer.similarity_weight_block[0].bias.item()
    for i in range(4):
        for j in range(4):
            s = features[i] @ features[j]
            gate = max(0.0, (0.7 * s + offset - 0.2) / (0.5 + 1e-5) ** 0.5)
            assert found[i, j] == pytest.approx(s * gate, abs=1e-9)


def test_resizing_before_the_convolution_is_the_same_as_after():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 7, 1).double()
    x = torch.randn(2, 1, 19, 19, dtype=torch.float64)
    before = conv(F.interpolate(x, (8, 8), mode="bilinear", align_corners=False))
    after = F.interpolate(conv(x), (8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(before, after, atol=1e-12)


def test_a_dynamic_convolution_has_a_kernel_for_each_channel_of_each_image():
    torch.manual_seed(0)
    layer = DynamicConvolution(3).double()
    layer.bias.data.normal_()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    with torch.inference_mode():
        found = layer(x)
        for number in range(2):
            summary = layer.Block2(F.max_pool2d(layer.Block1(F.avg_pool2d(x[number : number + 1], 2)), 2)).mean((2, 3))[0]
            kernels = (layer.tokernel.weight[..., 0, 0] @ summary + layer.tokernel.bias).view(3, 3, 3)
            for channel in range(3):
                expected = correlate2d(x[number, channel], kernels[channel], mode="same") + layer.bias[channel].item()
                assert np.allclose(found[number, channel], expected, atol=1e-12)


def test_a_residual_block_is_two_correlations_beside_an_identity():
    torch.manual_seed(0)
    layer = ResidualBlock(2).double().eval()
    for norm in (layer.bn1, layer.bn2):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)

    def half(planes: np.ndarray, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> np.ndarray:
        kernels, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        out = np.stack([sum(correlate2d(planes[j], kernels[i, j], "same") for j in range(2)) + bias[i] for i in range(2)])
        mean, var = (v.numpy()[:, None, None] for v in (norm.running_mean, norm.running_var))
        return (out - mean) / np.sqrt(var + 1e-5)

    hidden = np.maximum(half(x[0].numpy(), layer.conv1, layer.bn1), 0)
    expected = np.maximum(half(hidden, layer.conv2, layer.bn2) + x[0].numpy(), 0)
    assert np.allclose(layer(x).detach()[0], expected, atol=1e-12)


def test_the_score_is_a_weighted_mean_over_tokens_of_each_output_alone():
    # as published, sums run over the outputs as well, so that scores of one image would be one number
    net = small(outputs=3)
    tokens = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = net.weighted_score(tokens)
        said, weight = net.fc_score(tokens), net.fc_weight(tokens).sigmoid()
    for number in range(2):
        for output in range(3):
            s, w = said[number, :, output].tolist(), weight[number, :, output].tolist()
            mean = sum(a * b for a, b in zip(s, w, strict=True)) / sum(w)
            assert found[number, output].item() == pytest.approx(mean, abs=1e-6)
    assert found.unique().numel() == 6


def test_no_score_depends_on_the_last_blocks_of_the_transformer():
    net = small()
    inputs = batch([net.preprocess(image())])
    with torch.inference_mode():
        before = net(**inputs)
        for module in (net.vit.blocks[2], net.vit.norm, net.vit.head):
            for parameter in module.parameters():
                parameter.fill_(torch.nan)
        assert torch.equal(net(**inputs), before)
        net.vit.blocks[1].mlp.fc2.bias += 1
        assert not torch.equal(net(**inputs), before)
    frozen = {name.split(".")[1] + "." + name.split(".")[2] for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"blocks.2", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    trained = net.pretrained_parameters()
    assert len(trained) == 28
    net.requires_grad_(False)
    assert [id(p) for p in net.pretrained_parameters()] == [id(p) for p in trained]


# --- What is mended


def test_attention_does_not_depend_on_the_order_of_what_is_looked_at():
    # as published it does, for the values are shuffled and the keys are not
    torch.manual_seed(0)
    layer = ChannelAttention(6, 0.0, "values").eval()
    query, x = torch.randn(2, 1, 5, 6)
    order = torch.tensor([3, 0, 4, 1, 2])

    def found(x: Tensor, faithful: bool) -> Tensor:
        return layer(query, x, faithful) - x

    assert torch.allclose(found(x, False), found(x[:, order], False), atol=1e-6)
    assert not torch.allclose(found(x, True), found(x[:, order], True), atol=1e-2)


def test_attention_among_channels_gives_each_channel_its_own():
    # as published the product is shuffled, so that channels in another order are other channels
    torch.manual_seed(0)
    layer = ChannelAttention(6, 0.0, "product").eval()
    x, order = torch.randn(1, 5, 6), torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(layer(x, x, False)[:, order], layer(x[:, order], x[:, order], False), atol=1e-6)
    assert not torch.allclose(layer(x, x, True)[:, order], layer(x[:, order], x[:, order], True), atol=1e-2)


def test_attention_is_shuffled_where_it_is_published_so():
    torch.manual_seed(0)
    before, after = ChannelAttention(6, 0.0, "values").eval(), ChannelAttention(6, 0.0, "product").eval()
    after.load_state_dict(before.state_dict())
    x = torch.randn(1, 5, 6)
    logits = before.c_q(x) @ before.c_k(x).transpose(1, 2) / 6**0.5
    attention, values = logits.softmax(2), before.c_v(x)
    assert torch.allclose(before(x, x, True), attention @ shuffled(values) + x, atol=1e-6)
    assert torch.allclose(after(x, x, True), shuffled(attention @ values) + x, atol=1e-6)
    assert torch.allclose(before(x, x, False), after(x, x, False), atol=1e-6)


def test_a_network_whose_tokens_all_say_less_than_nothing_can_still_learn():
    tokens = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    gradient = {}
    for cut in (False, True):
        net = small(relu_scores=cut)
        net.fc_score[3].bias.data.fill_(-5)
        net.weighted_score(tokens).sum().backward()
        gradient[cut] = net.fc_score[3].weight.grad.abs().sum().item()
    assert gradient[False] > 0.1
    assert gradient[True] == 0


# --- Training


def test_the_loss_is_the_mean_of_each_scores_squared_error():
    scores = torch.tensor([[0.2, 0.4], [0.6, 0.8], [1.0, 0.0]], requires_grad=True)
    label = torch.tensor([[0.1, torch.nan], [0.4, 0.5], [torch.nan, torch.nan]])
    value = rating_loss(scores, label)
    assert value.item() == pytest.approx(((0.1**2 + 0.2**2) / 2 + 0.3**2) / 2)
    value.backward()
    assert torch.allclose(scores.grad, torch.tensor([[0.05, 0.0], [0.1, 0.3], [0.0, 0.0]]))
    assert rating_loss(scores, label[:, :1].expand(3, 2) * torch.tensor([1.0, torch.nan])).item() == pytest.approx(0.025)
    assert rating_loss(scores, torch.full((3, 2), torch.nan)).item() == 0
    with pytest.raises(ValueError, match=r"one shape \(B, outputs\), got \(3, 2\), \(3,\)"):
        rating_loss(scores, torch.zeros(3))

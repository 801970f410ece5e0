"""The three networks on tiny random backbones: one score an image by every way in, gradients, and what each one reads."""

import copy
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from models import ChromaticFidelityNet, PerceptualRealismNet, SemanticConsistencyNet, load_model
from models.base import Inputs, LoadedBatches, ScoreNet, Standardize, stack, to_tensor
from models.color_prior import COMPARISONS
from models.object_prior import OBJECT_COMPARISONS
from models.semantic import MOST_OBJECTS
from utils.color import lab_to_rgb, rgb_to_lab

NETWORKS = (ChromaticFidelityNet, SemanticConsistencyNet, PerceptualRealismNet)
BACKBONES = ("test_efficientnet", "test_vit", "test_convnext")  # with batch norm, of one scale, with layer norm
SUB_SCORES = (0.3, -0.4)  # CF and SCC where PR is scored


def build(network: type[ScoreNet], backbone: str = "test_efficientnet", seed: int = 0) -> ScoreNet:
    torch.manual_seed(seed)
    return network(backbone=backbone, size=64).eval()


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda network: network.dimension)
def net(request) -> ScoreNet:
    return build(request.param)


@pytest.fixture(scope="module")
def cf_net() -> ChromaticFidelityNet:
    return build(ChromaticFidelityNet)


@pytest.fixture(scope="module")
def scc_net() -> SemanticConsistencyNet:
    return build(SemanticConsistencyNet)


@pytest.fixture(scope="module")
def pr_net() -> PerceptualRealismNet:
    return build(PerceptualRealismNet)


def image(height: int = 60, width: int = 90, seed: int = 0) -> np.ndarray:
    """Smooth colors with some noise, 8-bit, shape (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 226, (5, 7, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse) + rng.integers(-8, 9, (height, width, 3)), 0, 255).astype(np.uint8)


def images() -> list[np.ndarray]:
    return [image(60, 90, 1), image(33, 41, 2), image(130, 64, 3), image(64, 64, 4)]


def score(net: ScoreNet, shown: object) -> float | list[float]:
    """``net.score``, with the same sub-scores for each image where the network reads them."""
    if net.dimension != "PR":
        return net.score(shown)
    many = isinstance(shown, list) or (isinstance(shown, Tensor) and shown.ndim == 4)
    cf, scc = ([s] * len(shown) for s in SUB_SCORES) if many else SUB_SCORES
    return net.score(shown, cf, scc)


def sub_scores(net: ScoreNet, count: int) -> tuple[Tensor, ...]:
    """The second argument of ``net(...)`` where there is one."""
    return (torch.tensor([SUB_SCORES] * count),) if net.dimension == "PR" else ()


def prepared(net: ScoreNet, batch: Tensor) -> Inputs:
    """What the network reads of a batch, with two made-up objects an image where it compares them."""
    inputs = net.prepare_batch(batch)
    if net.dimension == "SCC":
        generator, count = torch.Generator().manual_seed(0), len(batch)
        present = (torch.arange(MOST_OBJECTS) < 2).float().expand(count, -1)
        inputs |= {
            "objects": torch.rand(count, MOST_OBJECTS, len(OBJECT_COMPARISONS), generator=generator) * present[..., None],
            "object_cells": torch.rand(count, MOST_OBJECTS, net.cells, net.cells, generator=generator)
            * present[..., None, None],
            "present": present,
        }
    return inputs


def scores_of(net: ScoreNet, inputs: Inputs) -> Tensor:
    """Scores of a batch of prepared images, with the same sub-scores for each."""
    return net.head(net.encode(inputs), *sub_scores(net, len(inputs["rgb"])))


def floats(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb).permute(2, 0, 1).float() / 255


def recolored(rgb: np.ndarray, degrees: float = 90) -> np.ndarray:
    """Another color at every pixel, the lightness kept to the rounding: low chroma, so that nothing is clipped."""
    lab = rgb_to_lab(floats(rgb)[None])
    lab[:, 0] = lab[:, 0].clamp(30, 80)
    lab[:, 1:] *= 20 / lab[:, 1:].norm(dim=1, keepdim=True).clamp(min=20)
    angle = torch.tensor(math.radians(degrees))
    turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    lab[:, 1:] = torch.einsum("ij,bjhw->bihw", turn, lab[:, 1:])
    return (lab_to_rgb(lab)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


# One image, one score


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.dimension)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_timm_backbone_gives_scores_between_minus_1_and_1(network, backbone):
    net = build(network, backbone)
    batch = torch.stack([floats(image(40, 50, seed)) for seed in range(3)])
    with torch.no_grad():
        scores = net(batch, *sub_scores(net, 3))
    assert scores.shape == (3,)
    assert scores.dtype == torch.float32
    assert (scores.abs() < 1).all()
    assert len(set(scores.tolist())) == 3


def test_a_image_has_one_score_as_path_image_array_and_tensor(net, tmp_path):
    rgb = image()
    Image.fromarray(rgb).save(tmp_path / "image.png")
    expected = score(net, rgb)
    assert isinstance(expected, float)
    assert -1 < expected < 1
    bytes_tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    for same in (tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(rgb), bytes_tensor):
        assert score(net, same) == expected
    for same in (bytes_tensor.float() / 255, bytes_tensor.double() / 255):
        assert score(net, same) == pytest.approx(expected, abs=1e-6)


def test_a_gray_file_scores_as_its_three_equal_channels(net):
    gray = image()[..., 1]
    assert score(net, Image.fromarray(gray)) == score(net, np.repeat(gray[..., None], 3, 2))


def test_a_list_gives_scores_in_its_order_equal_to_those_alone(net):
    shown = images()
    alone = [score(net, rgb) for rgb in shown]
    assert len(set(alone)) == len(shown)
    assert score(net, shown) == alone
    assert score(net, shown[::-1]) == alone[::-1]
    assert score(net, shown[:1]) == alone[:1]
    assert score(net, []) == []


def test_a_batch_tensor_is_scored_as_a_list_of_its_images(net):
    batch = torch.stack([torch.from_numpy(image(50, 70, seed)).permute(2, 0, 1) for seed in range(3)])
    assert score(net, batch) == score(net, list(batch))


@torch.no_grad()
def test_features_give_the_score_of_their_image(net):
    prepared = stack([net.prepare(rgb) for rgb in images()])
    features = net.encode(prepared)
    assert all(len(tensor) == 4 for tensor in features.values())
    before = set(features)
    expected = scores_of(net, prepared)
    for batch, encoded in ((features, True), (prepared, False)):
        assert torch.equal(LoadedBatches(net, encoded)(batch, *sub_scores(net, 4)), expected)
    assert set(features) == before


@torch.no_grad()
def test_a_batch_of_pixels_scores_as_its_prepared_images(net):
    batch = torch.stack([floats(image(50, 70, seed)) for seed in range(3)])
    assert torch.equal(net(batch, *sub_scores(net, 3)), scores_of(net, net.prepare_batch(batch)))


@pytest.mark.parametrize(
    ("wrong", "found"),
    [(image(), "ndarray"), (["a.jpg"], "list"), ({"rgb": 1}, "dict"), (torch.zeros(3, 4, 5), "shape (3, 4, 5)")],
)
def test_a_network_is_called_with_a_batch_of_pixels_alone(net, wrong, found):
    with pytest.raises(TypeError, match=re.escape(f"expected a tensor (B, 3, H, W), got {found}; score(images) takes images")):
        net(wrong, *sub_scores(net, 1))


def test_scoring_in_training_mode_uses_evaluation_mode_and_goes_back(net):
    expected = score(net, image())
    net.train()
    try:
        assert score(net, image()) == expected
        assert net.training
    finally:
        net.eval()


def test_wrong_types_are_refused_with_what_was_expected_and_came(net):
    for wrong in (None, 3, b"image.jpg", {"rgb": 1}, [None]):
        with pytest.raises(
            TypeError, match=r"expected a path, a PIL image, a tensor or an array, or a list .*got (NoneType|int|bytes|dict)"
        ):
            score(net, wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 5), np.uint8), "an array must have shape (H, W, 3), got (4, 5); pass the PIL image or the path"),
        (np.zeros((4, 5, 4), np.uint8), "an array must have shape (H, W, 3), got (4, 5, 4); pass the PIL image or the path"),
        (np.zeros((3, 4, 5), np.uint8), "got (3, 4, 5); transpose(1, 2, 0) puts the channels last"),
        (np.zeros((4, 5, 3), np.uint16), "an array must be uint8, or floating point in [0, 1], got uint16"),
        (np.zeros((4, 5, 3), int), "an array must be uint8, or floating point in [0, 1], got int64"),
        (np.full((4, 5, 3), 200.0), "a floating point image must lie in [0, 1], got [200, 200]; divide it by 255"),
        (np.full((4, 5, 3), np.nan), "a floating point image must lie in [0, 1], got [nan, nan]"),
        (np.full((4, 5, 3), -0.1), "a floating point image must lie in [0, 1], got [-0.1, -0.1]"),
        (torch.zeros(4, 5, 3), "got (4, 5, 3); permute(2, 0, 1) puts the channels first"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "an image must be uint8 or floating point, got torch.int64"),
    ],
)
def test_wrong_arrays_are_refused_with_what_to_do(cf_net, wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cf_net.score(wrong)


def test_a_missing_file_is_named(net, tmp_path):
    with pytest.raises(ValueError, match=r"missing\.jpg"):
        score(net, tmp_path / "missing.jpg")


def test_an_unwritable_or_flipped_array_is_read_as_it_looks():
    rgb = image()
    rgb.flags.writeable = False
    expected = torch.from_numpy(rgb[:, ::-1].copy()).permute(2, 0, 1)
    assert torch.equal(to_tensor(rgb[:, ::-1]), expected)


def test_arrays_of_pil_and_floating_point_arrays_give_the_score_of_the_image_without_a_warning(net, recwarn):
    pil = Image.fromarray(image())
    expected = score(net, pil)
    assert score(net, np.asarray(pil)) == expected
    assert not list(recwarn)
    for kind in (np.float16, np.float32, np.float64):
        values = (np.asarray(pil) / 255).astype(kind)
        assert score(net, values) == pytest.approx(expected, abs=0.01 if kind is np.float16 else 1e-4)
    assert not list(recwarn)


# Training


def test_the_gradient_reaches_the_sub_scores(pr_net):
    scores = torch.tensor([SUB_SCORES], requires_grad=True)
    pr_net(floats(image())[None], scores).sum().backward()
    assert (scores.grad != 0).all()


def test_a_training_step_moves_every_parameter_and_no_batch_norm_statistic(net):
    net = copy.deepcopy(net).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for seed in range(2):
        batch = torch.stack([floats(image(48, 56, 10 * seed + i)) for i in range(3)])
        loss = (scores_of(net, prepared(net, batch)) - torch.tensor([0.8, -0.8, 0.1])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        idle = {name for name, p in net.named_parameters() if not p.grad.any()}
        assert idle <= {"regions.weigh.bias", "objects.weigh.bias"}  # which softmax takes no notice of
        optimizer.step()
    statistics = [k for k in before if "running_" in k or "num_batches" in k]
    assert statistics
    calibrated = ["prior.log_marginal", "prior.surprise_levels", "object_file"]  # by photographs, before the training
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]) == (key in statistics or key in calibrated), key


def test_training_mode_switches_dropout_on_but_not_batch_norm(net):
    net = copy.deepcopy(net).train()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert all(m.training for m in net.modules() if isinstance(m, nn.Dropout))
    batch = floats(image())[None]
    draws = {net(batch, *sub_scores(net, 1)).item() for _ in range(4)}
    assert len(draws) == 4


def test_with_pretrained_parameters_frozen_the_head_alone_learns_from_features(net):
    net = copy.deepcopy(net).train()
    with torch.no_grad():
        features = net.encode(stack([net.prepare(rgb) for rgb in images()]))
    net.head(features, *sub_scores(net, 4)).sum().backward()
    assert all(p.grad is None for p in net.pretrained_parameters())
    assert all(p.grad is not None for p in net.head_parameters())


def test_standardize_learns_the_mean_and_the_spread_of_all_it_was_shown():
    x = 5 + 3 * torch.randn(3, 10, 4, generator=torch.Generator().manual_seed(0))
    layer = Standardize(4).train()
    for batch in x:
        layer(batch)
    mean = x.mean((0, 1))
    variance = x.var(1).mean(0) + x.mean(1).var(0, unbiased=False)  # law of total variance: within batches and between them
    torch.testing.assert_close(layer.mean, mean)
    torch.testing.assert_close(layer.variance, variance)
    layer.eval()
    torch.testing.assert_close(layer(x[0]), (x[0] - mean) / variance.sqrt(), atol=1e-5, rtol=1e-5)
    assert layer.batches == 3
    assert not layer.batches.is_floating_point()  # a checkpoint of float16 could not count beyond 65504


def test_standardize_changes_nothing_before_training_and_learns_nothing_in_evaluation_or_from_one_image():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    layer = Standardize(4).eval()
    torch.testing.assert_close(layer(x), x, atol=1e-5, rtol=1e-5)
    layer.train()(x[:1])
    assert torch.equal(layer.mean, torch.zeros(4))
    assert torch.equal(layer.variance, torch.ones(4))


def test_standardize_treats_each_image_of_a_batch_alike_in_evaluation():
    layer = Standardize(4).train()
    x = 2 + torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    layer(x)
    layer.eval()
    assert torch.equal(layer(x)[:1], layer(x[:1]))


# What each network reads


@torch.no_grad()
def test_a_gray_image_has_no_color_effect_and_a_colored_one_has(net):
    colored = image(64, 64)
    gray = np.repeat(colored[..., 1:2], 3, 2)
    effect = [net.encode(stack([net.prepare(rgb)]))["global"].norm() for rgb in (gray, colored)]
    assert effect[0] < 1e-3 * effect[1]


@torch.no_grad()
def test_maps_of_the_gray_version_do_not_see_the_color(net):
    one, other = (net.prepare(recolored(image(64, 64), degrees))["rgb"] for degrees in (0, 120))
    colored, gray, ranks = net.backbone_maps({"rgb": torch.stack((one, other))})
    assert ranks is None
    assert [m.shape for m in colored] == [m.shape for m in gray]
    assert [m.shape[0] for m in gray] == [2, 2, 2]
    for m in gray:
        assert (m[0] - m[1]).norm() < 0.02 * m[0].norm()  # up to the rounding of the recolored pixels to 8 bits
    assert (colored[-1][0] - colored[-1][1]).norm() > 0.05 * colored[-1][0].norm()


@torch.no_grad()
def test_maps_seen_by_another_network_with_the_same_backbone_give_the_same_score(net):
    other = build(ChromaticFidelityNet, seed=9)
    other.backbone.load_state_dict(net.backbone.state_dict())
    inputs = net.prepare(image())
    maps = other.backbone_maps(stack([inputs]))
    inputs = net.inputs_of(inputs, "a.jpg", None, dict(zip(("CF", "SCC"), SUB_SCORES, strict=True)))
    assert net.score_prepared(inputs, maps) == net.score_prepared(inputs) == score(net, image())


@torch.no_grad()
def test_scc_takes_meaning_from_lightness_and_compares_the_pixels(scc_net):
    one, other = recolored(image(64, 64), 0), recolored(image(64, 64), 120)
    features = [scc_net.encode(stack([scc_net.prepare(rgb)])) for rgb in (one, other)]
    cells = [dict(zip(COMPARISONS, f["cells"][0], strict=True)) for f in features]
    for name in ("expected a", "expected b", "entropy", "lightness"):  # what the gray image says
        torch.testing.assert_close(cells[0][name], cells[1][name], atol=1e-3, rtol=0)
    for name in ("a", "b", "residual a", "residual b"):  # what the pixels say
        assert (cells[0][name] - cells[1][name]).abs().mean() > 0.05, name
    assert (cells[0]["surprise"] - cells[1]["surprise"]).abs().mean() > 0.003  # little, for an untrained prior is almost flat
    assert scc_net.score(one) != scc_net.score(other)


@torch.no_grad()
def test_scc_compares_the_pixels_of_one_place_with_the_prior_of_that_place(scc_net):
    rgb = recolored(image(64, 64), 0)
    patched = rgb.copy()
    patched[32:, 32:] = recolored(rgb[32:, 32:], 180)
    cells = [scc_net.encode(stack([scc_net.prepare(x)]))["cells"][0] for x in (rgb, patched)]
    changed = (cells[0] - cells[1])[COMPARISONS.index("residual a")].abs() > 0.05
    assert changed[4:, 4:].float().mean() > 0.5
    assert not changed[:4].any()
    assert not changed[:, :4].any()


@torch.no_grad()
def test_scc_expects_colors_by_the_gray_image_alone(scc_net):
    color = scc_net.prepare(recolored(image(64, 64), 0))["rgb"][None]
    log_prior, lab = scc_net.predict_prior(color, scc_net.backbone_maps({"rgb": color})[1])
    assert log_prior.shape == (1, 260, 8, 8)
    assert lab.shape == (1, 3, 16, 16)
    torch.testing.assert_close(log_prior.exp().sum(1), torch.ones(1, 8, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(lab, nn.functional.avg_pool2d(rgb_to_lab(color), 4), atol=1e-4, rtol=0)


def test_pr_changes_with_each_sub_score(pr_net):
    base = pr_net.score(image(), cf=0.0, scc=0.0)
    assert abs(pr_net.score(image(), cf=0.9, scc=0.0) - base) > 1e-4
    assert abs(pr_net.score(image(), cf=0.0, scc=0.9) - base) > 1e-4
    assert pr_net.score(image(), cf=0.9, scc=0.0) != pr_net.score(image(), cf=0.0, scc=0.9)


def test_pr_sets_sub_scores_beside_their_own_image(pr_net):
    shown, cf, scc = images(), [0.1, -0.9, 0.5, 0.0], [0.7, 0.2, -0.3, -0.8]
    expected = [pr_net.score(rgb, c, s) for rgb, c, s in zip(shown, cf, scc, strict=True)]
    assert pr_net.score(shown, cf, scc) == expected
    assert pr_net.score(shown, np.array(cf), torch.tensor(scc)) == pytest.approx(expected, abs=1e-6)


def test_pr_computes_sub_scores_that_are_not_given(pr_net, cf_net, scc_net):
    shown = images()
    net = copy.deepcopy(pr_net)
    net.branches = (cf_net, scc_net)
    cf, scc = ([round(s, 6) for s in branch.score(shown)] for branch in net.branches)  # as score files hold them
    assert net.score(shown) == net.score(shown, cf, scc)
    assert net.score(shown, scc=[0.0] * 4) == net.score(shown, cf, [0.0] * 4)
    assert net.score(shown[0]) == net.score(shown[0], cf[0], scc[0])
    assert net.state_dict().keys() == pr_net.state_dict().keys()


def test_pr_needs_sub_scores_for_a_tensor(pr_net):
    message = re.escape("the PR network needs CF and SCC of each image, shape (B, 2)")
    for call in (lambda: pr_net(floats(image())[None]), lambda: pr_net.score_prepared(pr_net.prepare(image()))):
        with pytest.raises(ValueError, match=message):
            call()


def test_pr_refuses_another_number_of_sub_scores_than_images(pr_net):
    with pytest.raises(ValueError, match="4 images but 3 CF scores"):
        pr_net.score(images(), [0.0] * 3, [0.0] * 4)
    with pytest.raises(ValueError, match="4 images but 5 SCC scores"):
        pr_net.score(images(), [0.0] * 4, [0.0] * 5)
    with pytest.raises(ValueError, match="1 image but 2 CF scores"):
        pr_net.score(image(), [0.1, 0.2], [0.1, 0.2])


def test_one_sub_score_counts_for_all_images(pr_net):
    expected = pr_net.score(images(), [0.3] * 4, [0.1] * 4)
    assert pr_net.score(images(), 0.3, 0.1) == expected
    assert pr_net.score(images(), cf=[0.3] * 4, scc=np.float64(0.1)) == expected
    assert pr_net.score(image(), [0.3], torch.tensor([0.1])) == pytest.approx(pr_net.score(image(), 0.3, 0.1))


@pytest.mark.parametrize("wrong", [5, -1.01, float("nan"), float("inf"), "high", [0.1, None, 0, 0], {"a": 0.1}, [[0.1] * 4]])
def test_sub_scores_that_are_no_numbers_in_the_range_are_refused(pr_net, wrong):
    with pytest.raises(ValueError, match=re.escape("CF must be a number in [-1, 1], or a list with one per image")):
        pr_net.score(images(), wrong, 0.1)


def test_pr_without_shipped_weights_says_where_they_were_looked_for(pr_net, weights, monkeypatch, tmp_path):
    monkeypatch.setattr("models.loading.SHIPPED", tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(f"no weights at {Path(tmp_path / 'CF.pt')}")):
        load_model(weights["PR"]).score(image())
    with pytest.raises(ValueError, match="give cf and scc, or set branches to a CF and an SCC network"):
        copy.deepcopy(pr_net).score(image())

"""The color prior: its cells against scikit-image, its percentiles against SciPy, its comparisons against plain loops."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import uniform_filter
from scipy.stats import percentileofscore
from skimage.color import rgb2lab
from torch import Tensor

from models.backbone import Backbone
from models.color_prior import (
    COMPARISONS,
    GRID,
    LEVELS,
    ColorPrior,
    ColorPriorNet,
    _four_pixels,
    ab_bins,
    cell_numbers,
    class_weights,
    soft_encode,
)
from utils.color import lab_to_rgb, rgb_to_lab

CENTERS, TABLE = ab_bins()


@pytest.fixture(scope="module")
def prior() -> ColorPrior:
    torch.manual_seed(0)
    return ColorPrior(Backbone("test_efficientnet", 64), width=16, late=True).eval()


@pytest.fixture(scope="module", params=[True, False], ids=["late stages of its own", "the backbone as it is"])
def net(request) -> ColorPriorNet:
    torch.manual_seed(0)
    return ColorPriorNet("test_efficientnet", 64, {"width": 16, "late": request.param}).eval()


def dull_image(seed: int = 0, side: int = 64) -> Tensor:
    """CIELAB of smooth colors that stay in the gamut whatever their hue, shape (1, 3, side, side)."""
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    lab = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return torch.cat((40 + 30 * lab[:, :1], 30 * lab[:, 1:] - 15), 1)


def inner_colors(count: int = 200, seed: int = 0) -> Tensor:
    """Colors whose four lattice neighbors all lie in the gamut, shape (1, 2, 1, count)."""
    return torch.tensor(np.random.default_rng(seed).uniform(-28, 28, (1, 2, 1, count)), dtype=torch.float32)


def random_prior(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    logits = torch.randn(batch, len(CENTERS), height, width, generator=torch.Generator().manual_seed(seed))
    return (3 * logits).log_softmax(1)


def cell_of(a: float, b: float) -> int:
    return int((CENTERS - torch.tensor([a, b])).abs().sum(1).argmin())


def comparisons(prior: ColorPrior, log_prior: Tensor, lab: Tensor) -> dict[str, Tensor]:
    return dict(zip(COMPARISONS, prior.compare_pixels(log_prior, lab)[0], strict=True))


def test_there_are_260_cells_on_a_grid_of_10_units():
    assert CENTERS.shape == (260, 2)
    assert torch.equal(CENTERS, 10 * (CENTERS / 10).round())
    assert len(set(map(tuple, CENTERS.tolist()))) == 260


def test_the_cells_are_those_that_scikit_image_finds_in_the_gamut():
    levels = np.linspace(0, 1, 52)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 1, 3)
    found = np.unique(np.round(rgb2lab(cube)[:, 0, 1:] / 10).astype(int) * 10, axis=0)
    assert {tuple(ab) for ab in found.tolist()} == {tuple(ab) for ab in CENTERS.int().tolist()}


def test_the_table_leads_each_lattice_point_to_the_nearest_cell():
    assert TABLE.shape == (25, 25)
    for i, j in np.random.default_rng(0).integers(0, 25, (100, 2)):
        point = torch.tensor([(i - 12) * GRID, (j - 12) * GRID])
        distances = (CENTERS - point).norm(dim=1)
        assert distances[TABLE[i, j]] == distances.min()


def test_encoding_weights_are_positive_and_sum_to_1(prior):
    ab = 130 * (2 * torch.rand(2, 2, 6, 8, generator=torch.Generator().manual_seed(0)) - 1)  # far outside the gamut too
    index, weight = soft_encode(ab, TABLE)
    assert index.shape == weight.shape == (2, 4, 6, 8)
    assert (weight >= 0).all()
    torch.testing.assert_close(weight.sum(1), torch.ones(2, 6, 8), atol=1e-5, rtol=0)
    assert index.min() >= 0
    assert index.max() < len(CENTERS)


def test_the_soft_assignment_reproduces_the_color(prior):
    ab = inner_colors()
    index, weight = soft_encode(ab, TABLE)
    decoded = (CENTERS[index] * weight[..., None]).sum(1).permute(0, 3, 1, 2)
    torch.testing.assert_close(decoded, ab, atol=1e-3, rtol=0)


def test_a_cell_center_is_assigned_to_its_cell_alone(prior):
    for number in range(0, len(CENTERS), 7):
        index, weight = soft_encode(CENTERS[number].view(1, 2, 1, 1), TABLE)
        on_cell = weight.flatten()[index.flatten() == number].sum()
        assert on_cell.item() == pytest.approx(1, abs=1e-5)


def test_the_encoding_has_the_gradient_of_a_bilinear_weight(prior):
    ab = torch.tensor([12.0, -7.0]).view(1, 2, 1, 1).requires_grad_()
    index, weight = soft_encode(ab, TABLE)
    number = cell_of(20, 0)  # u = 0.2, v = 0.3, so the corner (1, 1) weighs 0.06
    on_cell = weight.flatten()[index.flatten() == number].sum()
    assert on_cell.item() == pytest.approx(0.06, abs=1e-5)
    on_cell.backward()
    torch.testing.assert_close(ab.grad.flatten(), torch.tensor([0.03, 0.02]), atol=1e-5, rtol=0)


def test_the_log_likelihood_agrees_with_a_loop_over_pixels_and_corners(prior):
    height, width = 3, 2
    log_prior = random_prior(height, width, batch=2)
    ab = torch.tensor(np.random.default_rng(1).uniform(-60, 60, (2, 2, 2 * height, 2 * width)), dtype=torch.float32)
    found = prior.log_likelihood(log_prior, ab)
    assert found.shape == (2, 4, height, width)
    for n in range(2):
        for y in range(2 * height):
            for x in range(2 * width):
                a, b = ab[n, :, y, x].tolist()
                i, j = math.floor(a / 10), math.floor(b / 10)
                u, v = a / 10 - i, b / 10 - j
                total = 0.0
                for di, dj, weight in ((0, 0, (1 - u) * (1 - v)), (0, 1, (1 - u) * v), (1, 0, u * (1 - v)), (1, 1, u * v)):
                    number = int(TABLE[i + di + 12, j + dj + 12])
                    total += weight * math.exp(log_prior[n, number, y // 2, x // 2])
                pixel = 2 * (y % 2) + x % 2
                assert found[n, pixel, y // 2, x // 2].item() == pytest.approx(math.log(total), abs=2e-3)


def test_the_cross_entropy_of_the_true_prior_is_near_zero_and_of_a_flat_one_is_log_of_the_count(prior):
    ab = CENTERS[cell_of(20, -10)].view(1, 2, 1, 1).expand(1, 2, 4, 4)
    logits = torch.zeros(1, len(CENTERS), 2, 2)
    flat = logits.log_softmax(1)
    assert prior.cross_entropy(flat, ab).item() == pytest.approx(math.log(260), abs=1e-4)
    logits[:, cell_of(20, -10)] = 30
    assert prior.cross_entropy(logits.log_softmax(1), ab).item() == pytest.approx(0, abs=1e-4)
    logits[:, cell_of(20, -10)] = 0
    logits[:, cell_of(-20, 10)] = 30
    assert prior.cross_entropy(logits.log_softmax(1), ab).item() == pytest.approx(30, abs=1e-3)


def test_the_cross_entropy_is_least_for_the_shares_of_the_colors(prior):
    # a cell with three pixels of one color and one of another: its best prior is (3/4, 1/4), with the entropy of those shares
    ab = torch.zeros(1, 2, 2, 2)
    ab[0, :, 0, 0] = torch.tensor([30.0, 20.0])
    values = []
    for share in (0.25, 0.1, 0.5):
        probability = torch.full((1, len(CENTERS), 1, 1), 1e-12)
        probability[:, cell_of(30, 20)], probability[:, cell_of(0, 0)] = share, 1 - share
        values.append(prior.cross_entropy(probability.log(), ab).item())
    assert values[0] == min(values)
    assert values[0] == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), abs=1e-4)


def test_pixels_at_the_mode_of_the_prior_surprise_less_than_others(prior):
    logits = -0.5 * ((CENTERS - torch.tensor([20.0, 10.0])) / 8).square().sum(1)
    log_prior = logits.log_softmax(0).view(1, -1, 1, 1).expand(1, -1, 2, 2)
    surprise = []
    for a, b in ((20, 10), (30, 10), (0, 0), (-40, 10), (-40, 40)):
        lab = torch.tensor([60.0, a, b]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
        surprise.append(comparisons(prior, log_prior, lab)["surprise"].mean().item())
    assert surprise == sorted(surprise)
    assert surprise[0] + 0.1 < surprise[1]


def test_the_comparison_agrees_with_a_hand_count_of_its_definitions(prior):
    log_prior = random_prior(2, 2)
    lab = torch.tensor(np.random.default_rng(2).uniform(-40, 40, (1, 3, 4, 4)), dtype=torch.float32)
    lab[:, 0] = lab[:, 0].abs() + 30
    found = comparisons(prior, log_prior, lab)
    assert list(found) == list(COMPARISONS)
    p = log_prior[0, :, 1, 0].double().exp().numpy()  # one cell of the second row
    pixels = lab[0, :, 2:, :2].double().numpy()
    centers = CENTERS.double().numpy()
    mean, expected = pixels.mean((1, 2)), p @ centers
    entropy = -(p * np.log(p)).sum()
    surprise = -prior.log_likelihood(log_prior, lab[:, 1:])[0, :, 1, 0].mean().item()
    deviation = np.sqrt((p * ((centers - expected) ** 2).sum(1)).sum())
    residual = mean[1:] - expected
    values = {
        "surprise": surprise / 5,
        "surprise over entropy": (surprise - entropy) / 5,
        "entropy": entropy / 5,
        "expected a": expected[0] / 50,
        "expected b": expected[1] / 50,
        "a": mean[1] / 50,
        "b": mean[2] / 50,
        "residual a": residual[0] / 50,
        "residual b": residual[1] / 50,
        "residual in standard deviations": np.hypot(*residual) / deviation / 3,
        "chroma over expected chroma": (np.hypot(*mean[1:]) - p @ np.hypot(*centers.T)) / 50,
        "lightness": mean[0] / 100,
    }
    for name, value in values.items():
        assert found[name][1, 0].item() == pytest.approx(value, abs=1e-4), name


def test_the_comparison_is_finite_with_a_finite_gradient_for_a_certain_prior(prior):
    logits = torch.zeros(1, len(CENTERS), 2, 2)
    logits[:, 5] = 200  # the probabilities of the other cells underflow
    logits.requires_grad_()
    lab = torch.full((1, 3, 4, 4), 0.0, requires_grad=True)
    compared = prior.compare_pixels(logits.log_softmax(1), lab)
    assert compared.isfinite().all()
    compared.sum().backward()
    assert logits.grad.isfinite().all()
    assert lab.grad.isfinite().all()


def test_four_pixels_have_one_order_for_numbers_and_for_weights():
    values = torch.arange(2 * 4 * 6 * 8).view(2, 4, 6, 8)
    whole, floating = _four_pixels(values), _four_pixels(values.float())
    assert whole.shape == (2, 16, 3, 4)
    assert torch.equal(whole.float(), floating)
    # channel-major: the four pixels of channel 1, row by row, at the cell in row 2 and column 3
    assert torch.equal(whole[0, 4:8, 2, 3], values[0, 1, 4:6, 6:8].flatten())


def test_the_network_gives_log_probabilities_that_depend_on_lightness_but_not_on_color(prior):
    generator = torch.Generator().manual_seed(0)
    finest = torch.randn(2, 32, 8, 8, generator=generator)
    lab = torch.rand(2, 3, 16, 16, generator=generator) * 50
    with torch.no_grad():
        maps = prior.semantics([finest])
        log_prior = prior(maps, lab)
        recolored = prior(maps, lab * torch.tensor([1.0, -1.0, 0.3])[:, None, None])
        darker = prior(maps, lab * torch.tensor([0.3, 1.0, 1.0])[:, None, None])
    assert [m.shape for m in maps] == [(2, 32, 8, 8), (2, 48, 4, 4), (2, 64, 2, 2)]
    assert log_prior.shape == (2, 260, 8, 8)
    torch.testing.assert_close(log_prior.exp().sum(1), torch.ones(2, 8, 8), atol=1e-4, rtol=0)
    assert torch.equal(log_prior, recolored)
    assert (log_prior - darker).abs().max() > 1e-3


def test_no_gradient_leads_from_the_distribution_to_the_colors(prior):
    lab = (50 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))).requires_grad_()
    log_prior = prior(prior.semantics([torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(1))]), lab)
    log_prior[:, :9].sum().backward()
    assert (lab.grad[:, 1:] == 0).all()
    assert (lab.grad[:, 0] != 0).any()


@torch.no_grad()
def test_another_color_of_the_same_lightness_leaves_the_distribution_of_a_image_as_it_is(net):
    lab = dull_image()
    turned = torch.cat((lab[:, :1], -lab[:, 2:], lab[:, 1:2]), 1)
    darker = torch.cat((lab[:, :1] - 20, lab[:, 1:]), 1)
    log_prior, pixels = net.predict_prior(lab_to_rgb(lab))
    of_turned, turned_pixels = net.predict_prior(lab_to_rgb(turned))
    torch.testing.assert_close(of_turned, log_prior, atol=1e-4, rtol=0)
    assert (turned_pixels - pixels)[:, 1:].abs().max() > 10
    assert (net.predict_prior(lab_to_rgb(darker))[0] - log_prior).abs().max() > 1e-3


def test_the_gradient_to_each_pixel_points_to_another_lightness(net):
    rgb = lab_to_rgb(dull_image()).requires_grad_()
    net.predict_prior(rgb)[0][:, :9].sum().backward()
    found = rgb.grad.clone()
    rgb.grad = None
    rgb_to_lab(rgb)[:, 0].sum().backward()
    across = torch.linalg.cross(found, rgb.grad, dim=1).norm(dim=1)  # zero where the two are parallel
    assert found.norm() > 0
    assert (across <= 1e-3 * found.norm(dim=1).max() * rgb.grad.norm(dim=1)).all()


@torch.no_grad()
def test_a_prior_without_late_stages_reads_the_maps_of_the_backbone():
    torch.manual_seed(0)
    net = ColorPriorNet("test_vit", 64, {"width": 16, "late": False}).eval()  # three maps of one scale
    rgb = lab_to_rgb(dull_image())
    maps = net.gray_maps(rgb)
    assert net.prior.semantics(maps) is maps
    log_prior, lab = net.predict_prior(rgb)
    assert (log_prior.shape, lab.shape, net.cells) == ((1, 260, 4, 4), (1, 3, 8, 8), 4)
    torch.testing.assert_close(log_prior.exp().sum(1), torch.ones(1, 4, 4), atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_prior_with_late_stages_of_its_own_needs_the_finest_map_alone():
    net = ColorPriorNet("test_efficientnet", 64, {"width": 16, "late": True}).eval()
    rgb = lab_to_rgb(dull_image())
    maps = net.gray_maps(rgb)
    for own, other in zip(net.prior.semantics(maps[:1]), maps, strict=True):
        torch.testing.assert_close(own, other)
    assert torch.equal(net.predict_prior(rgb, maps[:1])[0], net.predict_prior(rgb)[0])


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_class_weights_agree_with_a_hand_count_and_are_1_on_average(share):
    frequency = np.array([0.5, 0.3, 0.15, 0.05])
    plain = [1 / (share * f + (1 - share) / 4) for f in frequency]  # Zhang et al., equation 4, lambda = 1 - share
    mean = sum(f * w for f, w in zip(frequency, plain, strict=True))
    found = class_weights(torch.from_numpy(frequency).log(), share)
    assert found.tolist() == pytest.approx([w / mean for w in plain])
    assert (found * torch.from_numpy(frequency)).sum().item() == pytest.approx(1)
    if share == 0:
        assert found.tolist() == pytest.approx([1.0] * 4)
    if share == 1:
        assert (found * torch.from_numpy(frequency)).tolist() == pytest.approx([0.25] * 4)


def test_a_weighted_color_counts_as_often_as_its_weight_says(prior):
    red, blue = cell_of(50, 30), cell_of(10, -40)
    log_prior = random_prior(1, 1)
    ab = torch.stack([CENTERS[k] for k in (red, red, red, blue)], 1).view(1, 2, 2, 2)
    weights = torch.ones(len(CENTERS))
    weights[blue] = 7
    expected = -(3 * log_prior[0, red] + 7 * log_prior[0, blue]).item() / 4
    assert prior.cross_entropy(log_prior, ab, weights).item() == pytest.approx(expected, abs=1e-3)
    plain = prior.cross_entropy(log_prior, ab, torch.ones(len(CENTERS)))
    torch.testing.assert_close(plain, prior.cross_entropy(log_prior, ab))


def test_the_number_of_a_color_is_that_of_the_cell_nearest_to_its_lattice_point():
    ab = torch.tensor(np.random.default_rng(0).uniform(-115, 115, (2, 2, 6, 7)), dtype=torch.float32)
    found = cell_numbers(ab, TABLE)
    assert found.shape == (2, 1, 6, 7)
    lattice = torch.cartesian_prod(*[torch.arange(-12.0, 13) * GRID] * 2)
    for color, number in zip(ab.permute(0, 2, 3, 1).reshape(-1, 2), found.flatten(), strict=True):
        point = lattice[(lattice - color).norm(dim=1).argmin()]
        distances = (CENTERS - point).norm(dim=1)
        assert distances[number] == distances.min()


def test_the_number_of_a_color_in_the_gamut_is_that_of_the_nearest_cell():
    near = CENTERS + torch.tensor(np.random.default_rng(0).uniform(-4.9, 4.9, CENTERS.shape), dtype=torch.float32)
    found = cell_numbers(near.T.reshape(1, 2, 1, -1), TABLE).flatten()
    assert found.tolist() == list(range(len(CENTERS))) == torch.cdist(near, CENTERS).argmin(1).tolist()


def test_colors_drawn_from_the_prior_itself_are_as_improbable_as_expected_and_no_more(prior):
    log_prior = random_prior(1, 1).expand(1, -1, 40, 40)
    drawn = torch.multinomial(log_prior[0, :, 0, 0].exp(), 1600, replacement=True, generator=torch.Generator().manual_seed(0))
    ab = CENTERS[drawn].view(40, 40, 2).permute(2, 0, 1).repeat_interleave(2, 1).repeat_interleave(2, 2)
    lab = torch.cat((torch.full((1, 80, 80), 50.0), ab))[None]
    excess = prior.excess(log_prior, lab)
    assert excess.shape == (1, 40, 40)
    assert excess.mean().item() == pytest.approx(0, abs=0.1)
    rare = CENTERS[log_prior[0, :, 0, 0].argmin()].view(1, 2, 1, 1).expand(1, 2, 80, 80)
    assert prior.excess(log_prior, torch.cat((lab[:, :1], rare), 1)).min() > 1


@pytest.fixture
def calibrated(prior) -> tuple[ColorPrior, np.ndarray]:
    """A prior whose percentiles are those of a skewed sample, and the sample."""
    sample = np.random.default_rng(0).gamma(2.0, 1.5, 20_000).astype(np.float32)
    before = prior.surprise_levels.clone()
    prior.surprise_levels.copy_(torch.from_numpy(np.percentile(sample, LEVELS)))
    yield prior, sample
    prior.surprise_levels.copy_(before)


def test_percentiles_undo_those_of_numpy(calibrated):
    prior, sample = calibrated
    percent = np.array([0.5, 1, 10, 33.3, 50, 80, 94, 94.7, 95, 95.05, 97.3, 99, 99.9])
    found = prior.percentiles(torch.from_numpy(np.percentile(sample, percent)).float())
    assert found.tolist() == pytest.approx(percent, abs=0.25)  # straight between the levels, 1 % apart and 0.1 % from 95 on
    levels = prior.percentiles(torch.from_numpy(np.percentile(sample, LEVELS)).float())
    assert levels.tolist() == pytest.approx(LEVELS, abs=0.01)


def test_percentiles_are_the_share_that_scipy_counts(calibrated):
    prior, sample = calibrated
    values = np.random.default_rng(1).gamma(2.0, 1.5, (4, 50)).astype(np.float32)
    found = prior.percentiles(torch.from_numpy(values))
    assert found.shape == values.shape
    np.testing.assert_allclose(found, percentileofscore(sample, values), atol=0.3)


def test_percentiles_rise_with_the_surprise_and_end_at_0_and_100(calibrated):
    prior, sample = calibrated
    surprise = torch.linspace(-1, float(sample.max()) + 5, 2000)
    percent = prior.percentiles(surprise)
    assert (percent.diff() >= 0).all()
    assert (percent[surprise <= float(sample.min())] == 0).all()
    assert (percent[surprise >= float(sample.max())] == 100).all()
    assert prior.percentiles(torch.tensor([-math.inf, math.inf])).tolist() == [0, 100]


def test_levels_that_coincide_do_no_harm(calibrated):
    prior, _ = calibrated
    prior.surprise_levels.fill_(2.0)
    below, at, beyond = prior.percentiles(torch.tensor([1.999, 2.0, 2.001])).tolist()
    assert (below, beyond) == (0, 100)
    assert 0 <= at <= 100


def test_the_plausible_color_of_a_certain_prior_is_its_cell(prior):
    numbers = torch.tensor([[0, 259], [130, 77]])
    logits = torch.full((1, len(CENTERS), 2, 2), -math.inf)
    logits.scatter_(1, numbers[None, None], 0.0)
    torch.testing.assert_close(prior.plausible(logits)[0], CENTERS[numbers].permute(2, 0, 1))


def test_the_plausible_color_leans_to_the_mode_as_the_annealed_mean_does(prior):
    probability = torch.full((1, len(CENTERS), 1, 1), 1e-9)
    probability[:, cell_of(40, 0)], probability[:, cell_of(-40, 0)] = 0.7, 0.3
    sharp = 0.7 ** (1 / 0.38) / (0.7 ** (1 / 0.38) + 0.3 ** (1 / 0.38))  # Zhang et al., equation 5
    a, b = prior.plausible(probability.log()).flatten().tolist()
    assert a == pytest.approx(40 * sharp - 40 * (1 - sharp), abs=1e-2)
    assert a > 40 * 0.7 - 40 * 0.3
    assert b == pytest.approx(0, abs=1e-3)


def test_surprise_of_a_image_comes_in_nats_and_percentiles_with_the_expected_color(net, tmp_path: Path):
    rgb = (lab_to_rgb(dull_image())[0] * 255).round().to(torch.uint8)
    Image.fromarray(rgb.permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    found = net.surprise(tmp_path / "image.png")
    assert found.nats.shape == found.percentile.shape == (8, 8)
    assert found.expected.shape == (2, 8, 8)
    with torch.no_grad():
        log_prior, lab = net.predict_prior(rgb[None].float() / 255)
        likelihood = net.prior.log_likelihood(log_prior, lab[:, 1:])[0]
    entropy = -(log_prior.exp() * log_prior).sum(1)[0]
    around = uniform_filter(-likelihood.mean(0).numpy() - entropy.numpy(), 3, mode="nearest")
    np.testing.assert_allclose(found.nats, around, atol=1e-4)
    np.testing.assert_allclose(found.percentile, net.prior.percentiles(torch.from_numpy(found.nats)), atol=1e-4)
    np.testing.assert_array_equal(net.surprise(rgb).nats, found.nats)
    assert ((found.percentile >= 0) & (found.percentile <= 100)).all()

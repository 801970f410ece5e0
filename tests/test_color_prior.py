"""The color prior: its cells against scikit-image, its encoding and its comparisons against plain loops."""

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor

from models.color_prior import COMPARISONS, GRID, ColorPrior, _four_pixels, ab_bins, soft_encode

CENTERS, TABLE = ab_bins()


@pytest.fixture(scope="module")
def prior() -> ColorPrior:
    torch.manual_seed(0)
    return ColorPrior([4, 6, 8], width=16)


def inner_colors(count: int = 200, seed: int = 0) -> Tensor:
    """Colors whose four lattice neighbors all lie in the gamut, shape (1, 2, 1, count)."""
    return torch.tensor(np.random.default_rng(seed).uniform(-28, 28, (1, 2, 1, count)), dtype=torch.float32)


def random_prior(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    logits = torch.randn(batch, len(CENTERS), height, width, generator=torch.Generator().manual_seed(seed))
    return (3 * logits).log_softmax(1)


def cell_of(a: float, b: float) -> int:
    return int((CENTERS - torch.tensor([a, b])).abs().sum(1).argmin())


def comparisons(prior: ColorPrior, log_prior: Tensor, lab: Tensor) -> dict[str, Tensor]:
    return dict(zip(COMPARISONS, prior.compare(log_prior, lab)[0], strict=True))


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
    compared = prior.compare(logits.log_softmax(1), lab)
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
    maps = [torch.randn(2, c, s, s, generator=generator) for c, s in ((4, 8), (6, 4), (8, 2))]
    lab = torch.rand(2, 3, 16, 16, generator=generator) * 50
    with torch.no_grad():
        log_prior = prior(maps, lab)
        recolored = prior(maps, lab * torch.tensor([1.0, -1.0, 0.3])[:, None, None])
        darker = prior(maps, lab * torch.tensor([0.3, 1.0, 1.0])[:, None, None])
    assert log_prior.shape == (2, 260, 8, 8)
    torch.testing.assert_close(log_prior.exp().sum(1), torch.ones(2, 8, 8), atol=1e-4, rtol=0)
    assert torch.equal(log_prior, recolored)
    assert (log_prior - darker).abs().max() > 1e-3

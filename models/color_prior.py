"""The color prior, P(ab | gray image) as a map: which color would a thing have here? And the comparison of pixels with it.

The classes are cells of a 10-unit grid over the ab plane, as in Zhang et al., Colorful Image Colorization (ECCV 2016,
arXiv 1603.08511); the list of cells inside the sRGB gamut is generated here. The comparison with the actual pixels is ours.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import DEFAULT_BACKBONE, Backbone, LateStages, pooled_statistics
from models.base import CompactNet, ImageInput, one_thread
from models.preprocessing import lab_of
from utils.color import gray_version, rgb_to_lab

GRID = 10.0  # CIELAB units
_REACH = 12  # lattice points from the center in each direction; the sRGB gamut ends below 110

_TEMPERATURE = 0.38  # of the annealed mean, Zhang et al.

# Percentiles of the surprise of real photographs that a prior keeps, in finer steps for the highest ones
LEVELS = (*range(0, 95), *(95 + i / 10 for i in range(51)))

COMPARISONS = (
    "surprise",
    "surprise over entropy",
    "entropy",
    "expected a",
    "expected b",
    "a",
    "b",
    "residual a",
    "residual b",
    "residual in standard deviations",
    "chroma over expected chroma",
    "lightness",
)


@lru_cache(maxsize=1)
def ab_bins() -> tuple[Tensor, Tensor]:
    """Return the cells of the ab lattice that sRGB colors fall into.

    Returns:
        Centers in CIELAB units, shape (K, 2), and a table from lattice point (a, b) to the nearest cell, shape (25, 25).
    """
    levels = torch.linspace(0, 1, 52, dtype=torch.float64)
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, -1, 1)
    ab = rgb_to_lab(cube)[0, 1:, :, 0].T
    centers = torch.unique((ab / GRID).round().long(), dim=0)
    lattice = torch.cartesian_prod(torch.arange(-_REACH, _REACH + 1), torch.arange(-_REACH, _REACH + 1))
    nearest = torch.cdist(lattice.double(), centers.double()).argmin(1)
    return centers.float() * GRID, nearest.view(2 * _REACH + 1, -1)


def soft_encode(ab: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Assign colors softly to the four nearest lattice cells, bilinear and differentiable.

    Args:
        ab: a and b in CIELAB units, shape (B, 2, H, W).
        table: The table of ``ab_bins`` from lattice point to cell.

    Returns:
        Cell numbers and weights (which sum to 1), both of shape (B, 4, H, W).
    """
    position = (ab / GRID).clamp(-float(_REACH), _REACH - 1e-3) + _REACH
    corner = position.detach().floor()
    u, v = (position - corner).unbind(1)
    i, j = corner.long().unbind(1)
    index = torch.stack([table[i + di, j + dj] for di in (0, 1) for dj in (0, 1)], 1)
    weight = torch.stack(((1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v), 1)
    return index, weight


def cell_numbers(ab: Tensor, table: Tensor) -> Tensor:
    """Return the nearest ab cell of each color, (B, 2, H, W) to (B, 1, H, W); arguments are the same as in ``soft_encode``."""
    i, j = ((ab / GRID).round().clamp(-_REACH, _REACH).long() + _REACH).unbind(1)
    return table[i, j][:, None]


def class_weights(log_marginal: Tensor, share: float) -> Tensor:
    """Return weights that make rare colors count more, 1 on average over the colors of photographs, shape (K,).

    Args:
        log_marginal: Natural logarithm of the frequency of each cell, shape (K,).
        share: 0 for equal weights, 1 for the inverse of the frequency.

    Reference:
        Zhang et al., Colorful Image Colorization, equation 4, whose lambda is 1 - share.
    """
    frequency = log_marginal.exp()
    weights = 1 / (share * frequency + (1 - share) / len(frequency))
    return weights / (frequency * weights).sum()


class Refine(nn.Sequential):
    """A residual block that adds to each cell what the cell and its surroundings say together; shape kept."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.GroupNorm(8, width),
            nn.Conv2d(width, width, 5, padding=2, groups=width),
            nn.Conv2d(width, 2 * width, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class ColorPrior(nn.Module):
    """A decoder that predicts the distribution over ab cells from backbone maps of the gray image.

    The decoder goes from the coarsest map, which knows the scene, to the finest, where lightness joins in, and refines each
    scale. Its buffers hold statistics of real photographs (the frequency of each color, the surprise of their colors), which
    tools/train_color_prior.py sets.

    Args:
        backbone: The backbone of the maps.
        width: Channels inside.
        dropout: Share of channels dropped in training.
        late: Whether the prior has its own late stages of the backbone, trained for gray images.
    """

    centers: Tensor
    table: Tensor
    log_marginal: Tensor
    surprise_levels: Tensor

    def __init__(self, backbone: Backbone, width: int = 128, dropout: float = 0.3, late: bool = False) -> None:
        super().__init__()
        self.config = {"width": width, "dropout": dropout, "late": late}
        channels = backbone.channels
        self.late = LateStages(backbone) if late else None
        centers, table = ab_bins()
        self.register_buffer("centers", centers, persistent=False)
        self.register_buffer("table", table, persistent=False)
        self.standardize = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in channels)
        self.drop = nn.Dropout2d(dropout)
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.scene = nn.Linear(2 * channels[-1], width)
        self.refine = nn.ModuleList(Refine(width) for _ in channels)
        self.lightness = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, width, 4, 2, 1))
        self.classify = nn.Sequential(
            nn.GroupNorm(8, width), nn.GELU(), nn.Dropout2d(dropout / 2), nn.Conv2d(width, len(centers), 1)
        )
        uniform = -torch.full((len(centers),), float(len(centers))).log()
        self.register_buffer("log_marginal", uniform)
        self.register_buffer("surprise_levels", torch.linspace(0, 10, len(LEVELS)))

    def semantics(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the maps that the prior reads: those of its own late stages if it has any, else those of the backbone.

        Args:
            maps: Backbone maps of the gray image, finest first; a prior with late stages needs only the finest.
        """
        return maps if self.late is None else self.late(maps[0])

    def forward(self, maps: list[Tensor], lab: Tensor) -> Tensor:
        """Return log-probabilities of the ab cells.

        Args:
            maps: Result of ``semantics``, finest first; the finest sets the resolution h x w.
            lab: CIELAB of the pixels, shape (B, 3, 2h, 2w); only lightness is read.

        Returns:
            Natural logarithms, shape (B, K, h, w).
        """
        maps = [self.drop(standardize(m)) for standardize, m in zip(self.standardize, maps, strict=True)]
        x = self.scene(pooled_statistics(maps[-1:]))[:, :, None, None]
        for number in reversed(range(len(maps))):
            m = maps[number]
            if x.shape[-2:] not in ((1, 1), m.shape[-2:]):
                x = F.interpolate(x, m.shape[-2:], mode="bilinear", align_corners=False)
            x = x + self.project[number](m)
            if number == 0:
                x = x + self.lightness(lab[:, :1] / 50 - 1)
            x = self.refine[number](x)
        return self.classify(x).float().log_softmax(1)

    def log_likelihood(self, log_prior: Tensor, ab: Tensor) -> Tensor:
        """Return the log-probability of each pixel's color under its cell of the prior.

        Args:
            log_prior: Log-probabilities of the ab cells, shape (B, K, h, w).
            ab: a and b of the pixels, shape (B, 2, 2h, 2w).

        Returns:
            Natural logarithm of the expected cell probability, one for each of the four pixels of a cell, shape (B, 4, h, w).
        """
        index, weight = soft_encode(ab, self.table)
        index, weight = _four_pixels(index), _four_pixels(weight)  # (B, 16, h, w): four corners x four pixels
        log_p = log_prior.gather(1, index) + weight.clamp(min=1e-6).log()
        b, _, h, w = log_p.shape
        return log_p.view(b, 4, 4, h, w).logsumexp(1)

    def cross_entropy(self, log_prior: Tensor, ab: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy of the soft-encoded pixels under the prior.

        Args:
            log_prior: Log-probabilities of the ab cells, shape (B, K, h, w).
            ab: a and b of the pixels, shape (B, 2, 2h, 2w).
            weights: Weights of the cells, shape (K,); None for equal weights.

        Returns:
            In nats, shape (B,).
        """
        index, weight = soft_encode(ab, self.table)
        if weights is not None:
            weight = weight * weights.to(weight)[index]
        index, weight = _four_pixels(index), _four_pixels(weight)
        return -(log_prior.gather(1, index) * weight).sum(1).mean((1, 2)) / 4

    def surprise(self, log_prior: Tensor, lab: Tensor) -> Tensor:
        """Return how improbable the color of each cell is: minus the mean log-probability of its pixels, in nats, (B, h, w).

        Args:
            log_prior: Log-probabilities of the ab cells, shape (B, K, h, w).
            lab: CIELAB of the pixels, shape (B, 3, 2h, 2w).
        """
        return -self.log_likelihood(log_prior, lab[:, 1:]).mean(1)

    def excess(self, log_prior: Tensor, lab: Tensor) -> Tensor:
        """Return how much more improbable the colors around each cell are than the prior expects.

        The excess is surprise minus the entropy of the prior, which is the expected surprise, as a mean of 3 x 3 cells. The
        excess is zero on average where the prior is right, for things of one color and for things of any color.
        benchmarks/color_prior.md compares other measures.

        Args:
            log_prior: Log-probabilities of the ab cells, shape (B, K, h, w).
            lab: CIELAB of the pixels, shape (B, 3, 2h, 2w).

        Returns:
            In nats, shape (B, h, w).
        """
        entropy = -(log_prior.exp() * log_prior).sum(1)
        around = F.pad((self.surprise(log_prior, lab) - entropy)[:, None], (1, 1, 1, 1), mode="replicate")
        return F.avg_pool2d(around, 3, 1)[:, 0]

    def percentiles(self, surprise: Tensor) -> Tensor:
        """Return the percentiles of ``excess`` among places in real photographs: the share with less, in percent, any shape."""
        levels = self.surprise_levels
        upper = torch.searchsorted(levels, surprise.contiguous(), right=True).clamp(1, len(levels) - 1)
        low, high = levels[upper - 1], levels[upper]
        part = ((surprise - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
        percent = torch.tensor(LEVELS, dtype=surprise.dtype, device=surprise.device)
        return percent[upper - 1] + part * (percent[upper] - percent[upper - 1])

    def plausible(self, log_prior: Tensor) -> Tensor:
        """Return a likely and clear color: the mean a and b of the sharpened distribution, (B, K, h, w) to (B, 2, h, w).

        Reference:
            Zhang et al., Colorful Image Colorization, equation 5, the annealed mean.
        """
        return torch.einsum("bkhw,kc->bchw", (log_prior / _TEMPERATURE).softmax(1), self.centers)

    def compare_pixels(self, log_prior: Tensor, lab: Tensor) -> Tensor:
        """Compare the pixels with the prior.

        Args:
            log_prior: Log-probabilities of the ab cells, shape (B, K, h, w).
            lab: CIELAB of the pixels, shape (B, 3, 2h, 2w).

        Returns:
            ``COMPARISONS`` of each cell, scaled to about [-1, 1], shape (B, 12, h, w).
        """
        probability = log_prior.exp()
        expected = torch.einsum("bkhw,kc->bchw", probability, self.centers)
        second = torch.einsum("bkhw,k->bhw", probability, self.centers.square().sum(1))[:, None]
        chroma = torch.einsum("bkhw,k->bhw", probability, self.centers.norm(dim=1))[:, None]
        entropy = -(probability * log_prior).sum(1, keepdim=True)
        return comparison_maps(lab, expected, second, chroma, entropy, self.surprise(log_prior, lab)[:, None])


def comparison_maps(
    lab: Tensor, expected: Tensor, second: Tensor, expected_chroma: Tensor, entropy: Tensor, surprise: Tensor
) -> Tensor:
    """Set the pixels of each cell beside moments of its prior.

    Args:
        lab: CIELAB of the pixels, shape (B, 3, 2h, 2w).
        expected: Mean a and b under the prior, shape (B, 2, h, w).
        second: Mean of a^2 + b^2 under the prior, shape (B, 1, h, w), the same as what follows.
        expected_chroma: Mean chroma under the prior.
        entropy: Entropy of the prior, in nats.
        surprise: Mean surprise of the four pixels, in nats.

    Returns:
        ``COMPARISONS`` of each cell, scaled to about [-1, 1], shape (B, 12, h, w).
    """
    deviation = (second - expected.square().sum(1, keepdim=True)).clamp(min=1).sqrt()
    mean = F.avg_pool2d(lab, 2)
    ab = mean[:, 1:]
    residual = ab - expected
    distance = (residual.square().sum(1, keepdim=True) + 1e-6).sqrt()
    chroma = (ab.square().sum(1, keepdim=True) + 1e-6).sqrt()
    maps = (
        surprise / 5,
        (surprise - entropy) / 5,
        entropy / 5,
        expected / 50,
        ab / 50,
        residual / 50,
        distance / deviation / 3,
        (chroma - expected_chroma) / 50,
        mean[:, :1] / 100,
    )
    return torch.cat(maps, 1)


@dataclass(frozen=True)
class Surprise:
    """The map of surprise of one image.

    Attributes:
        nats: How much more improbable the colors around each place are than the prior expects, in nats, shape (h, w).
        percentile: The share of places in real photographs that are less surprising, in percent, shape (h, w).
        expected: A plausible a and b of each place, in CIELAB units, shape (2, h, w).
    """

    nats: np.ndarray
    percentile: np.ndarray
    expected: np.ndarray


class ColorPriorNet(CompactNet):
    """A backbone and the color prior that reads its maps, without a score; SCC is built on it.

    Args:
        backbone: Name of a timm network with feature maps.
        size: Side of the image that the backbone sees, in pixels.
        prior: ``width``, ``dropout`` and ``late`` of the prior, where they are not the defaults of ``ColorPrior``.
        ranking: Weight of the ranker of a branch that is built on this network.
    """

    dimension = "prior"

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        size: int = 224,
        prior: dict[str, Any] | None = None,
        ranking: float = 0.0,
    ) -> None:
        super().__init__(backbone, size, ranking)
        self.prior = ColorPrior(self.backbone, **(prior or {}))
        self.config["prior"] = self.prior.config

    def pretrained_parameters(self) -> list[nn.Parameter]:
        return [*self.backbone.parameters(), *self.prior.parameters()]

    def gray_maps(self, rgb: Tensor) -> list[Tensor]:
        """Return the backbone maps of the gray version of prepared images, finest first."""
        return self.backbone(gray_version(rgb_to_lab(rgb)))

    def pixels(self, rgb: Tensor, cells: int) -> Tensor:
        """Return CIELAB of the pixels to compare with a map of ``cells`` x ``cells``, shape (B, 3, 2 cells, 2 cells)."""
        return lab_of(rgb, 2 * cells)

    @cached_property
    def cells(self) -> int:
        """Return the side of the map of the prior, in cells."""
        with torch.inference_mode():
            return self.backbone(torch.zeros(1, 3, self.size, self.size, device=self.device))[0].shape[-1]

    def predict_prior(self, rgb: Tensor, gray_maps: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Predict the color prior from the gray version of prepared images.

        Args:
            rgb: sRGB in [0, 1], shape (B, 3, size, size); the prior sees only the lightness.
            gray_maps: Backbone maps of the gray version, if they are computed already.

        Returns:
            Log-probabilities of the ab cells, shape (B, K, h, w); CIELAB of the pixels to compare with them, shape
            (B, 3, 2h, 2w).
        """
        maps = self.gray_maps(rgb) if gray_maps is None else gray_maps
        lab = self.pixels(rgb, maps[0].shape[-1])
        return self.prior(self.prior.semantics(maps), lab), lab

    @torch.inference_mode()
    def surprise(self, image: ImageInput) -> Surprise:
        """Find where the colors of an image are improbable given its gray version, and which colors would be plausible.

        Args:
            image: An image in any form that ``score`` takes.
        """
        with one_thread():
            rgb = self.prepare(image)["rgb"][None]
            log_prior, lab = self.predict_prior(rgb)
            nats = self.prior.excess(log_prior, lab)
            maps = (nats[0], self.prior.percentiles(nats)[0], self.prior.plausible(log_prior)[0])
        return Surprise(*(x.float().cpu().numpy() for x in maps))


def _four_pixels(x: Tensor) -> Tensor:
    """Return the 2 x 2 pixels of a cell as channels: (B, C, 2h, 2w) to (B, 4C, h, w), channel-major."""
    if x.is_floating_point():
        return F.pixel_unshuffle(x, 2)
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)

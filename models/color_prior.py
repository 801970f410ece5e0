"""Which color would a thing have here: P(ab | gray picture) as a map, and the comparison of pixels with it.

The classes are cells of a 10-unit grid over the ab plane, as in Zhang et al., Colorful Image Colorization (ECCV 2016,
arXiv 1603.08511); the list of cells inside the sRGB gamut is generated here. The comparison with the actual pixels is ours.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.color import rgb_to_lab

GRID = 10.0  # CIELAB units
_REACH = 12  # lattice points from the center in each direction; the sRGB gamut ends below 110

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
    """Cells of the ab lattice that sRGB colors fall into.

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


class ColorPrior(nn.Module):
    """Predicts the distribution over ab cells from backbone maps of the gray picture.

    Args:
        channels: Channels of the three backbone maps, finest first.
        width: Channels inside.
    """

    def __init__(self, channels: list[int], width: int = 96) -> None:
        super().__init__()
        centers, table = ab_bins()
        self.register_buffer("centers", centers, persistent=False)
        self.register_buffer("table", table, persistent=False)
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.lightness = nn.Conv2d(3, width, 1)
        self.mix = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, width * 2, 1),
            nn.ReLU(),
            nn.Conv2d(width * 2, len(centers), 1),
        )

    def forward(self, maps: list[Tensor], lab: Tensor) -> Tensor:
        """Log-probabilities of the ab cells.

        Args:
            maps: Backbone maps of the gray picture, finest first; the finest sets the resolution h x w.
            lab: CIELAB of the pixels, shape (B, 3, 2h, 2w); only lightness is read.

        Returns:
            Shape (B, K, h, w).
        """
        side = maps[0].shape[-2:]
        light = F.avg_pool2d(lab[:, :1], 2) / 100
        x = self.lightness(torch.cat((light, light.square(), light**3), 1))
        for project, m in zip(self.project, maps, strict=True):
            y = project(m)
            x = x + (y if y.shape[-2:] == side else F.interpolate(y, side, mode="bilinear", align_corners=False))
        return self.mix(x).log_softmax(1)

    def encode(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Soft assignment of colors to the four nearest lattice cells, bilinear and differentiable.

        Args:
            ab: Shape (B, 2, H, W), in CIELAB units.

        Returns:
            Cell numbers and weights (which sum to 1), both of shape (B, 4, H, W).
        """
        position = (ab / GRID).clamp(-_REACH, _REACH - 1e-3) + _REACH
        corner = position.detach().floor()
        u, v = (position - corner).unbind(1)
        i, j = corner.long().unbind(1)
        index = torch.stack([self.table[i + di, j + dj] for di in (0, 1) for dj in (0, 1)], 1)
        weight = torch.stack(((1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v), 1)
        return index, weight

    def log_likelihood(self, log_prior: Tensor, ab: Tensor) -> Tensor:
        """Log-probability of each pixel's color under its cell of the prior.

        Args:
            log_prior: Shape (B, K, h, w).
            ab: Shape (B, 2, 2h, 2w).

        Returns:
            Natural logarithm of the expected cell probability, the four pixels of a cell apart, shape (B, 4, h, w).
        """
        index, weight = self.encode(ab)
        index, weight = _four_pixels(index), _four_pixels(weight)  # (B, 16, h, w): four corners x four pixels
        log_p = log_prior.gather(1, index) + weight.clamp(min=1e-6).log()
        b, _, h, w = log_p.shape
        return log_p.view(b, 4, 4, h, w).logsumexp(1)

    def cross_entropy(self, log_prior: Tensor, ab: Tensor) -> Tensor:
        """Mean cross-entropy in nats of the soft-encoded pixels under the prior, shape (B,)."""
        index, weight = self.encode(ab)
        index, weight = _four_pixels(index), _four_pixels(weight)
        return -(log_prior.gather(1, index) * weight).sum(1).mean((1, 2)) / 4

    def compare(self, log_prior: Tensor, lab: Tensor) -> Tensor:
        """Set the pixels against the prior.

        Args:
            log_prior: Shape (B, K, h, w).
            lab: CIELAB of the pixels, shape (B, 3, 2h, 2w).

        Returns:
            ``COMPARISONS`` of each cell, scaled to about [-1, 1], shape (B, 12, h, w).
        """
        probability = log_prior.exp()
        entropy = -(probability * log_prior).sum(1, keepdim=True)
        expected = torch.einsum("bkhw,kc->bchw", probability, self.centers)
        second = torch.einsum("bkhw,k->bhw", probability, self.centers.square().sum(1))[:, None]
        deviation = (second - expected.square().sum(1, keepdim=True)).clamp(min=1).sqrt()
        surprise = -self.log_likelihood(log_prior, lab[:, 1:]).mean(1, keepdim=True)
        mean = F.avg_pool2d(lab, 2)
        ab = mean[:, 1:]
        residual = ab - expected
        distance = (residual.square().sum(1, keepdim=True) + 1e-6).sqrt()
        chroma = (ab.square().sum(1, keepdim=True) + 1e-6).sqrt()
        expected_chroma = torch.einsum("bkhw,k->bhw", probability, self.centers.norm(dim=1))[:, None]
        return torch.cat(
            (
                surprise / 5,
                (surprise - entropy) / 5,
                entropy / 5,
                expected / 50,
                ab / 50,
                residual / 50,
                distance / deviation / 3,
                (chroma - expected_chroma) / 50,
                mean[:, :1] / 100,
            ),
            1,
        )


def _four_pixels(x: Tensor) -> Tensor:
    """The 2 x 2 pixels of a cell as channels: (B, C, 2h, 2w) to (B, 4C, h, w), channel-major."""
    if x.is_floating_point():
        return F.pixel_unshuffle(x, 2)
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)

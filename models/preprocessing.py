"""From an image of any size to the image of fixed size that the networks read.

Every path to a score (training, inference scripts, Python call) goes through ``Preprocess``. Large images are read in strips
of rows, so memory is bounded, and an image gets the same pixels whatever else is scored beside it.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.color import rgb_to_lab

CHROMA_MAPS = (
    "lightness",
    "lightness squared",
    "a",
    "b",
    "chroma squared",
    "chroma",
    "luminance edge",
    "chroma edge",
    "luminance and chroma edge together",
    "chroma edge where luminance is flat",
    "luminance edge where chroma is flat",
    "clipped and chromatic",
    "gray",
)

_STRIP_PIXELS = 1 << 16  # pixels worked on at a time; they stay in the cache of a core
_GPU_STRIP_PIXELS = 1 << 22  # the same of a GPU, for which few large steps are best
_AB_SCALE = 50.0  # CIELAB units that become 1
_EDGE_SCALE = 20.0  # CIELAB units per pixel that become 1
_FLAT = 0.15  # edge strength, in units of _EDGE_SCALE, below which a plane counts as flat
_GRAY_CHROMA = 3.0  # CIELAB units; below about this chroma people see no color
_CLIP_LEVEL = 0.5 / 255


class Preprocess(nn.Module):
    """The resizing of one image to the size that the networks see.

    Args:
        size: Side of the square image, in pixels; the aspect ratio is not kept.
    """

    def __init__(self, size: int = 224) -> None:
        super().__init__()
        self.size = size

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """Prepare one image.

        Args:
            rgb: sRGB, shape (3, H, W), as uint8 or as floating point in [0, 1].

        Returns:
            ``rgb``: sRGB in [0, 1] on 8-bit levels, shape (3, size, size).

        Raises:
            ValueError: If shape, type or range is not as above.
        """
        check_image(rgb)
        return {"rgb": self._resize(rgb.float() if rgb.is_floating_point() else rgb)}

    def _strips(self, rgb: Tensor, multiple: int = 1) -> Iterator[tuple[int, int]]:
        height, width = rgb.shape[1:]
        pixels = _STRIP_PIXELS if rgb.device.type == "cpu" else _GPU_STRIP_PIXELS
        rows = max(multiple, pixels // width // multiple * multiple)
        for top in range(0, height, rows):
            yield top, min(top + rows, height)

    def _resize(self, rgb: Tensor) -> Tensor:
        # A large image is box-averaged by a whole factor first: exact, cheap and bounded in memory.
        factor = max(1, min(rgb.shape[1:]) // (2 * self.size))
        height, width = (-(-side // factor) for side in rgb.shape[1:])
        # made first: small results between the large strips would keep the allocator from using their memory again
        image = torch.empty(1, 3, height, width, device=rgb.device)
        for top, bottom in self._strips(rgb, factor):
            strip = _as_float(rgb[:, top:bottom])
            if factor > 1:
                strip = F.avg_pool2d(strip, factor, ceil_mode=True, count_include_pad=False)
            image[0, :, top // factor : -(-bottom // factor)] = strip
        image = F.interpolate(image, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        image = image[0].clamp(0, 1)
        # 8-bit levels, as image libraries resize: a cache of bytes is then exact. The gradient passes straight through.
        return image + (_divided_by_255((image * 255).round()) - image).detach()


def chroma_maps(rgb: Tensor, grid: int = 32) -> Tensor:
    """Return ``CHROMA_MAPS`` of prepared images, averaged into a grid of cells.

    The maps come from the prepared image, not from the file: a score must not tell a large image from a small one.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, S, S).
        grid: Cells along each side.

    Returns:
        Shape (B, 13, grid, grid).
    """
    lab = rgb_to_lab(rgb)
    lightness, ab = lab[:, 0] / 100, lab[:, 1:] / _AB_SCALE
    squared = ab.square().sum(1)
    chroma = (squared + 1e-10).sqrt()
    edges = _gradient_squared(lab) / _EDGE_SCALE**2
    luminance_edge = (edges[:, 0] + 1e-8).sqrt()
    chroma_edge = (edges[:, 1:].sum(1) + 1e-8).sqrt()
    clipped = ((rgb.amin(1) <= _CLIP_LEVEL) | (rgb.amax(1) >= 1 - _CLIP_LEVEL)).float()
    maps = torch.stack(
        (
            lightness,
            lightness.square(),
            ab[:, 0],
            ab[:, 1],
            squared,
            chroma,
            luminance_edge,
            chroma_edge,
            (luminance_edge * chroma_edge).sqrt(),
            chroma_edge * torch.exp(-luminance_edge / _FLAT),
            luminance_edge * torch.exp(-chroma_edge / _FLAT),
            clipped * chroma,
            torch.exp(-squared * (_AB_SCALE / _GRAY_CHROMA) ** 2),
        ),
        1,
    )
    return F.adaptive_avg_pool2d(maps, grid)


def check_image(rgb: Tensor) -> None:
    """Check that a tensor is sRGB of shape (3, H, W), uint8 or floating point in [0, 1].

    Raises:
        ValueError: If it is not.
    """
    if rgb.ndim != 3 or rgb.shape[0] != 3 or 0 in rgb.shape:
        advice = "; permute(2, 0, 1) puts the channels first" if rgb.ndim == 3 and rgb.shape[2] == 3 else ""
        raise ValueError(f"an image must have shape (3, H, W) and at least one pixel, got {tuple(rgb.shape)}{advice}")
    if rgb.is_floating_point():
        low, high = rgb.aminmax()
        if not (low >= 0 and high <= 1):
            advice = "; divide it by 255" if low >= 0 and 1 < high <= 255 else ""
            raise ValueError(f"a floating point image must lie in [0, 1], got [{low:.4g}, {high:.4g}]{advice}")
    elif rgb.dtype != torch.uint8:
        raise ValueError(f"an image must be uint8 or floating point, got {rgb.dtype}")


def _as_float(rgb: Tensor) -> Tensor:
    return _divided_by_255(rgb.float()) if rgb.dtype == torch.uint8 else rgb


def _divided_by_255(levels: Tensor) -> Tensor:
    # by a tensor, for CUDA multiplies by the reciprocal of a number, which rounds otherwise than the CPU
    return levels / torch.full((), 255.0, device=levels.device)


def _gradient_squared(planes: Tensor) -> Tensor:
    """Return the squared length of the forward difference, zero at the last row and column, shape (B, C, H, W) in and out."""
    across = F.pad((planes[..., 1:] - planes[..., :-1]).square(), (0, 1))
    down = F.pad((planes[..., 1:, :] - planes[..., :-1, :]).square(), (0, 0, 0, 1))
    return across + down


def lab_of(rgb: Tensor, side: int) -> Tensor:
    """Return CIELAB of prepared images, averaged to ``side`` x ``side`` cells, shape (B, 3, side, side)."""
    lab = rgb_to_lab(rgb)
    factor = rgb.shape[-1] / side
    if factor == math.floor(factor):
        return F.avg_pool2d(lab, int(factor))
    return F.interpolate(lab, (side, side), mode="area")

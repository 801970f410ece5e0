"""Other people's measures of a colored picture: colorfulness, PSNR, SSIM, MS-SSIM, CIEDE2000, and packages with weights.

No-reference metrics take one batch, full-reference metrics a batch and its originals, both sRGB in [0, 1] of shape
(B, 3, H, W), and give one value a picture, shape (B,). None of them was made to say how natural colors look; how well each
does is in benchmarks/hecd_metrics.md. All are computed here but LPIPS, DISTS and the metrics of pyiqa, which come from
packages that are not among our requirements: :func:`packaged_metric`.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.color import chroma, rgb_to_lab

SPACES = ("RGB", "ab", "hue-chroma")

_WINDOW, _SIGMA = 11, 1.5  # Wang et al. 2004, section III-C
_K1, _K2 = 0.01, 0.03
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik 2003, section 3.2
# Halved four times, rounding up, this leaves a window.
MS_SSIM_SIDE = (_WINDOW - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1

_ENTROPY_BIN = 10.0  # CIELAB units, the grid of Zhang et al., "Colorful Image Colorization", ECCV 2016
_ENTROPY_BINS = 23  # to +-115, which holds all of sRGB
_GRAY_CHROMA = 5.0  # CIELAB units, around which the hue of a color fades


def _require_pictures(rgb: Tensor, reference: Tensor | None = None) -> None:
    for name, picture in (("rgb", rgb), ("reference", reference)):
        if picture is None:
            continue
        if picture.ndim != 4 or picture.shape[1] != 3:
            raise ValueError(f"{name} must have shape (B, 3, H, W), got {tuple(picture.shape)}")
        if not picture.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {picture.dtype}; divide 8-bit values by 255")
    if reference is not None and rgb.shape != reference.shape:
        raise ValueError(f"rgb and reference must have one shape, got {tuple(rgb.shape)} and {tuple(reference.shape)}")


# No reference


def mean_chroma(rgb: Tensor) -> Tensor:
    """Mean CIELAB chroma.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).

    Returns:
        From 0, which is gray, to 134, in CIELAB units, shape (B,). More is not better.
    """
    _require_pictures(rgb)
    return chroma(rgb_to_lab(rgb)).mean((1, 2, 3))


def ab_entropy(rgb: Tensor) -> Tensor:
    """How many colors there are, regardless of lightness: entropy of the histogram of a and b.

    The bins are squares of 10 CIELAB units, one of them centered on gray.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).

    Returns:
        From 0, where all colors are in one bin, to log2(23 * 23) = 9.05, in bits, shape (B,). More is not better.
    """
    _require_pictures(rgb)
    half = _ENTROPY_BINS // 2
    bins = (rgb_to_lab(rgb)[:, 1:] / _ENTROPY_BIN).round().long().clamp(-half, half) + half
    flat = (bins[:, 0] * _ENTROPY_BINS + bins[:, 1]).flatten(1)  # (B, HW)
    counts = torch.stack([torch.bincount(picture, minlength=_ENTROPY_BINS**2) for picture in flat])
    return torch.special.entr(counts.to(rgb.dtype) / flat.shape[1]).sum(1) / math.log(2)


# Planes of a color space


def planes(rgb: Tensor, space: str) -> Tensor:
    """What PSNR, SSIM and MS-SSIM compare, all for a data range of 1.

    - "RGB": sRGB.
    - "ab": a and b of CIELAB, +128 and divided by 255 as in its 8-bit form; SSIM depends on the offset.
    - "hue-chroma": chroma divided by 128, then the cosine and the sine of the hue, as the angle itself has a seam at pi. Gray
      has no hue, and that of nearly gray is noise. So both are multiplied by C / sqrt(C^2 + 5^2), for the chroma C, which
      is 0 at gray and almost 1 for vivid colors, and then brought from [-1, 1] to [0, 1].

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).
        space: One of :data:`SPACES`.

    Returns:
        About [0, 1], shape (B, C, H, W) with 3, 2 and 3 planes.

    Raises:
        ValueError: If the space is another one, or ``rgb`` is not floating point of shape (B, 3, H, W).
    """
    _require_pictures(rgb)
    if space not in SPACES:
        raise ValueError(f"expected a space of {', '.join(SPACES)}, got {space!r}")
    if space == "RGB":
        return rgb
    lab = rgb_to_lab(rgb)
    if space == "ab":
        return (lab[:, 1:] + 128) / 255
    distance = chroma(lab)
    hue = lab[:, 1:] / (distance.square() + _GRAY_CHROMA**2).sqrt()
    return torch.cat((distance / 128, (hue + 1) / 2), dim=1)


# Full reference


def psnr(rgb: Tensor, reference: Tensor, space: str = "RGB") -> Tensor:
    """Peak signal-to-noise ratio, of the square error over all planes.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).
        reference: The originals, likewise.
        space: One of :data:`SPACES`.

    Returns:
        In dB for a data range of 1, higher is more alike, infinite for equal pictures, shape (B,).
    """
    _require_pictures(rgb, reference)
    return plane_psnr(planes(rgb, space), planes(reference, space))


def plane_psnr(x: Tensor, y: Tensor) -> Tensor:
    """:func:`psnr` of planes with a data range of 1, shape (B, C, H, W)."""
    return -10 * (x - y).square().mean((1, 2, 3)).log10()


def ssim(rgb: Tensor, reference: Tensor, space: str = "RGB") -> Tensor:
    """Structural similarity, in Gaussian windows that lie inside the picture, averaged over the planes.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W), of at least 11 pixels a side.
        reference: The originals, likewise.
        space: One of :data:`SPACES`.

    Returns:
        In [-1, 1], higher is more alike, 1 for equal pictures, shape (B,).

    Raises:
        ValueError: If the pictures are smaller, or no pair of pictures.

    Reference:
        Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
        IEEE TIP 13, 2004. At its first scale: the authors' script first makes large pictures smaller.
    """
    _require_pictures(rgb, reference)
    _require_side(rgb, _WINDOW, "SSIM")
    similarity, _ = _similarity(planes(rgb, space), planes(reference, space))
    return similarity.mean(1)


def ms_ssim(rgb: Tensor, reference: Tensor, space: str = "RGB") -> Tensor:
    """Structural similarity at five scales, averaged over the planes.

    A picture with a side below 161 pixels is refused: fewer scales would be another measure, with other values. A negative
    contrast term, which has no root, counts as 0. For an odd side the first row or column is repeated before it is halved,
    as in photosynthesis-team/piq; libraries differ in this, by some 0.001.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W), of at least 161 pixels a side.
        reference: The originals, likewise.
        space: One of :data:`SPACES`.

    Returns:
        In [0, 1], higher is more alike, 1 for equal pictures, shape (B,).

    Raises:
        ValueError: If the pictures are smaller, or no pair of pictures.

    Reference:
        Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar 2003.
    """
    _require_pictures(rgb, reference)
    _require_side(rgb, MS_SSIM_SIDE, "MS-SSIM")
    x, y = planes(rgb, space), planes(reference, space)
    product = torch.ones_like(x[:, :, 0, 0])
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        similarity, contrast = _similarity(x, y)
        last = scale == len(_SCALE_WEIGHTS) - 1
        product = product * (similarity if last else contrast).clamp(min=0) ** weight
        if not last:
            x, y = _halve(x), _halve(y)
    return product.mean(1)


def ciede2000(rgb: Tensor, reference: Tensor) -> Tensor:
    """Mean color difference.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).
        reference: The originals, likewise.

    Returns:
        At least 0, lower is more alike, about 1 is just visible, shape (B,).
    """
    _require_pictures(rgb, reference)
    return delta_e_2000(rgb_to_lab(rgb), rgb_to_lab(reference)).mean((1, 2))


def delta_e_2000(lab: Tensor, reference: Tensor) -> Tensor:
    """CIEDE2000 of each pair of colors, with all weights 1.

    Args:
        lab: CIELAB, shape (B, 3, H, W).
        reference: Likewise.

    Returns:
        At least 0, shape (B, H, W). Not for training: its gradient is not finite at equal or gray colors.

    Reference:
        Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula: implementation notes, supplementary test data, and
        mathematical observations", Color Research and Application 30, 2005. The numbers in comments are its equations.
    """
    (l1, a1, b1), (l2, a2, b2) = lab.unbind(1), reference.unbind(1)
    c7 = ((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2) ** 7  # (2), (3)
    stretch = 1.5 - 0.5 * (c7 / (c7 + 25.0**7)).sqrt()  # 1 + G, (4)
    a1, a2 = a1 * stretch, a2 * stretch  # (5)
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)  # (6)
    h1, h2 = (torch.atan2(b, a) % (2 * math.pi) for a, b in ((a1, b1), (a2, b2)))  # (7)

    gray = c1 * c2 == 0
    half = math.pi + 1e-6  # opposite hues are not more than half a turn apart, whatever the rounding
    turn = h2 - h1
    turn = torch.where(turn > half, turn - 2 * math.pi, torch.where(turn < -half, turn + 2 * math.pi, turn))  # (10)
    dh = torch.where(gray, 0, 2 * (c1 * c2).sqrt() * torch.sin(turn / 2))  # (11)
    dl, dc = l2 - l1, c2 - c1  # (8), (9)

    lightness, c = (l1 + l2) / 2, (c1 + c2) / 2  # (12), (13)
    total = h1 + h2
    wrapped = torch.where(total < 2 * math.pi, total + 2 * math.pi, total - 2 * math.pi)
    h = torch.where((h1 - h2).abs() > half, wrapped, total) / 2
    h = torch.where(gray, total, h)  # (14)
    t = (
        1
        - 0.17 * torch.cos(h - math.radians(30))
        + 0.24 * torch.cos(2 * h)
        + 0.32 * torch.cos(3 * h + math.radians(6))
        - 0.20 * torch.cos(4 * h - math.radians(63))
    )  # (15)
    angle = math.radians(30) * torch.exp(-(((torch.rad2deg(h) - 275) / 25) ** 2))  # (16)
    c7 = c**7
    rotation = -torch.sin(2 * angle) * 2 * (c7 / (c7 + 25.0**7)).sqrt()  # (17), (21)
    away = (lightness - 50) ** 2
    dl = dl / (1 + 0.015 * away / (20 + away).sqrt())  # (18)
    dc = dc / (1 + 0.045 * c)  # (19)
    dh = dh / (1 + 0.015 * c * t)  # (20)
    return (dl**2 + dc**2 + dh**2 + rotation * dc * dh).clamp(min=0).sqrt()  # (22)


def _require_side(rgb: Tensor, side: int, name: str) -> None:
    if min(rgb.shape[2:]) < side:
        raise ValueError(f"{name} needs pictures of at least {side} pixels a side, got {rgb.shape[3]} x {rgb.shape[2]}")


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term of each plane, shape (B, C); the data range is 1."""
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x) - mean_x**2 + _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    contrast = (2 * covariance + _K2**2) / (variances + _K2**2)
    luminance = (2 * mean_x * mean_y + _K1**2) / (mean_x**2 + mean_y**2 + _K1**2)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


def _blur(x: Tensor) -> Tensor:
    """Each plane under the Gaussian window, where that lies inside the picture."""
    window = [math.exp(-((k - _WINDOW // 2) ** 2) / (2 * _SIGMA**2)) for k in range(_WINDOW)]
    # Sums of shifted planes: on a CPU several times as fast as a convolution with one channel.
    for axis in (2, 3):
        length = x.shape[axis] - _WINDOW + 1
        total = torch.zeros_like(x.narrow(axis, 0, length))
        for k, weight in enumerate(window):
            total = total.add_(x.narrow(axis, k, length), alpha=weight / sum(window))
        x = total
    return x


def _halve(x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    return F.avg_pool2d(F.pad(x, (width % 2, 0, height % 2, 0), mode="replicate"), 2)


# Metrics of other packages


class MetricUnavailable(RuntimeError):
    """A metric whose package or weights are absent. The message is one line that says which, and what to do."""


@dataclass(frozen=True)
class PackagedMetric:
    """A metric of another package.

    Attributes:
        function: Takes sRGB in [0, 1], shape (B, 3, H, W), and the originals, likewise, which it may not need; gives (B,).
        needs_reference: Whether it looks at the originals.
        lower_is_better: As its package says.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    needs_reference: bool
    lower_is_better: bool


def packaged_metric(name: str) -> PackagedMetric:
    """A metric with learned weights, from its own package, which downloads them on first use.

    Args:
        name: "LPIPS" (of the package lpips, on AlexNet; Zhang et al., CVPR 2018), "DISTS" (of DISTS-pytorch; Ding et al.,
            IEEE TPAMI 2020) or "pyiqa:NAME", where NAME is of the catalog of pyiqa (``pyiqa.list_models()``).

    Raises:
        MetricUnavailable: If the package is not installed, or it cannot set the metric up: for want of its weights, mostly.
        ValueError: If the name is none of these.
    """
    package, _, model = name.partition(":")
    makers = {
        "LPIPS": (_lpips, "lpips", "lpips"),
        "DISTS": (_dists, "DISTS_pytorch", "DISTS-pytorch"),
        "pyiqa": (_pyiqa, "pyiqa", "pyiqa"),
    }
    if package not in makers or (package == "pyiqa") != bool(model):
        raise ValueError(f"expected LPIPS, DISTS or pyiqa:NAME, got {name!r}")
    make, module, distribution = makers[package]
    try:
        return make(model)
    except ImportError as error:
        # The package may be there and lack one that it needs, whose name on PyPI need not be that of the module.
        lacks = error.name not in (None, module)
        advice = f"{distribution} is installed, but needs {error.name}" if lacks else f"pip install {distribution}"
        raise MetricUnavailable(f"{name}: skipped, {_line(error)}; {advice}") from error
    except Exception as error:  # each package fails in its own ways when it cannot download: OSError, RuntimeError, ...
        raise MetricUnavailable(f"{name}: skipped, cannot be set up, mostly for want of weights: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _lpips(_: str) -> PackagedMetric:
    network = importlib.import_module("lpips").LPIPS(net="alex", verbose=False).eval()
    return PackagedMetric(lambda rgb, reference: network(rgb, reference, normalize=True).flatten(), True, True)


def _dists(_: str) -> PackagedMetric:
    network = importlib.import_module("DISTS_pytorch").DISTS().eval()
    return PackagedMetric(lambda rgb, reference: network(rgb, reference).reshape(len(rgb)), True, True)


def _pyiqa(model: str) -> PackagedMetric:
    metric = importlib.import_module("pyiqa").create_metric(model, device="cpu")
    needs_reference = metric.metric_mode == "FR"

    def function(rgb: Tensor, reference: Tensor) -> Tensor:
        return (metric(rgb, reference) if needs_reference else metric(rgb)).reshape(len(rgb))

    return PackagedMetric(function, needs_reference, bool(metric.lower_better))

"""Published measures of a colored image: colorfulness, PSNR, SSIM, MS-SSIM, CIEDE2000, and packages with weights.

No-reference metrics take one batch, full-reference metrics a batch and its originals, both sRGB in [0, 1] of shape
(B, 3, H, W), and return one value per image, shape (B,). None was made to measure how natural colors look; their agreement with
people is in benchmarks/hecd_metrics.md. Colorfulness, chroma and entropy are computed here, PSNR, SSIM and CIEDE2000 by
scikit-image. MS-SSIM, LPIPS, DISTS and the metrics of pyiqa come from packages of requirements-metrics.txt.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from utils.color import chroma, rgb_to_lab

SPACES = ("RGB", "ab", "hue-chroma")

_WINDOW = 11  # of SSIM, pixels per side; Wang et al. 2004, section III-C
MS_SSIM_SIDE = (_WINDOW - 1) * 2**4 + 1  # halved four times, rounding up, this leaves a window

_ENTROPY_BIN = 10.0  # CIELAB units, the grid of Zhang et al., "Colorful Image Colorization", ECCV 2016
_ENTROPY_BINS = 23  # to +-115, which holds all of sRGB
_GRAY_CHROMA = 5.0  # CIELAB units, around which the hue of a color fades


def _require_images(rgb: Tensor, reference: Tensor | None = None) -> None:
    for name, image in (("rgb", rgb), ("reference", reference)):
        if image is None:
            continue
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"{name} must have shape (B, 3, H, W), got {tuple(image.shape)}")
        if not image.is_floating_point():
            raise ValueError(f"{name} must be floating point, got {image.dtype}; divide 8-bit values by 255")
    if reference is not None and rgb.shape != reference.shape:
        raise ValueError(f"rgb and reference must have one shape, got {tuple(rgb.shape)} and {tuple(reference.shape)}")


# No reference


def mean_chroma(rgb: Tensor) -> Tensor:
    """Compute the mean CIELAB chroma.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).

    Returns:
        From 0 (gray) to 134, in CIELAB units, shape (B,). Higher is not better.
    """
    _require_images(rgb)
    return chroma(rgb_to_lab(rgb)).mean((1, 2, 3))


def ab_entropy(rgb: Tensor) -> Tensor:
    """Compute the entropy of the histogram of a and b, a measure of the number of colors regardless of lightness.

    The bins are squares of 10 CIELAB units, one of them centered on gray.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).

    Returns:
        From 0 (all colors in one bin) to log2(23 * 23) = 9.05, in bits, shape (B,). Higher is not better.
    """
    _require_images(rgb)
    half = _ENTROPY_BINS // 2
    bins = (rgb_to_lab(rgb)[:, 1:] / _ENTROPY_BIN).round().long().clamp(-half, half) + half
    flat = (bins[:, 0] * _ENTROPY_BINS + bins[:, 1]).flatten(1)  # (B, HW)
    counts = torch.stack([torch.bincount(image, minlength=_ENTROPY_BINS**2) for image in flat])
    return torch.special.entr(counts.to(rgb.dtype) / flat.shape[1]).sum(1) / math.log(2)


# Planes of a color space


def planes(rgb: Tensor, space: str) -> Tensor:
    """Compute the planes that PSNR, SSIM and MS-SSIM compare, with a data range of 1.

    - "RGB": sRGB.
    - "ab": a and b of CIELAB, +128 and divided by 255 as in its 8-bit form; SSIM depends on the offset.
    - "hue-chroma": chroma divided by 128, then the cosine and the sine of the hue, since the angle has a seam at pi. Gray has
      no hue, and the hue of nearly gray colors is noise. Cosine and sine are therefore multiplied by C / sqrt(C^2 + 5^2) for
      the chroma C, a factor that is 0 at gray and almost 1 for vivid colors, and then mapped from [-1, 1] to [0, 1].

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).
        space: One of :data:`SPACES`.

    Returns:
        About [0, 1], shape (B, C, H, W) with 3, 2 and 3 planes.

    Raises:
        ValueError: If the space is unknown, or ``rgb`` is not floating point of shape (B, 3, H, W).
    """
    _require_images(rgb)
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
    """Return the peak signal-to-noise ratio, of the square error over all planes.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).
        reference: The originals, same shape.
        space: One of :data:`SPACES`.

    Returns:
        In dB for a data range of 1, higher is more alike, infinite for equal images, shape (B,).
    """
    _require_images(rgb, reference)
    return plane_psnr(planes(rgb, space), planes(reference, space))


def plane_psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return :func:`psnr` of planes with a data range of 1, shape (B, C, H, W)."""
    with np.errstate(divide="ignore"):  # equal images
        return _by_scikit_image(lambda image, original: peak_signal_noise_ratio(original, image, data_range=1), x, y)


def ssim(rgb: Tensor, reference: Tensor, space: str = "RGB") -> Tensor:
    """Return the structural similarity, in Gaussian windows that lie inside the image, averaged over the planes.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W), of at least 11 pixels per side.
        reference: The originals, same shape.
        space: One of :data:`SPACES`.

    Returns:
        In [-1, 1], higher is more alike, 1 for equal images, shape (B,).

    Raises:
        ValueError: If the images are smaller, or no pair of images.

    Reference:
        Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
        IEEE TIP 13, 2004. At its first scale: the authors' script first makes large images smaller.
    """
    _require_images(rgb, reference)
    _require_side(rgb, _WINDOW, "SSIM")
    options = {"channel_axis": 2, "data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return _by_scikit_image(
        lambda image, original: structural_similarity(image, original, **options),
        planes(rgb, space),
        planes(reference, space),
    )


def ms_ssim(rgb: Tensor, reference: Tensor, space: str = "RGB") -> Tensor:
    """Return the structural similarity at five scales, averaged over the planes, by the package piq.

    An image with a side below 161 pixels is refused: fewer scales would be another measure, with other values. For odd sides
    piq repeats the first row and column before it halves an image. torchmetrics drops the last ones, which changes values of
    HECD by 0.01.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W), of at least 161 pixels per side.
        reference: The originals, same shape.
        space: One of :data:`SPACES`.

    Returns:
        In [0, 1], higher is more alike, 1 for equal images, shape (B,).

    Raises:
        ModuleNotFoundError: If piq is not installed.
        ValueError: If the images are smaller, or no pair of images.

    Reference:
        Wang, Simoncelli and Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar 2003.
    """
    _require_images(rgb, reference)
    _require_side(rgb, MS_SSIM_SIDE, "MS-SSIM")
    piq = importlib.import_module("piq")  # only here, for it is no requirement of the other metrics
    # Chroma divided by 128 can reach 1.05, which piq refuses for a range of 1. Half the constants at a range of 2 are the same.
    halved = {"data_range": 2.0, "k1": 0.005, "k2": 0.015}
    return piq.multi_scale_ssim(planes(rgb, space), planes(reference, space), reduction="none", **halved)


def ciede2000(rgb: Tensor, reference: Tensor) -> Tensor:
    """Return the mean color difference, with all weights of CIEDE2000 1.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).
        reference: The originals, same shape.

    Returns:
        At least 0, lower is more alike, about 1 is just visible, shape (B,).
    """
    _require_images(rgb, reference)
    return _by_scikit_image(
        lambda image, original: deltaE_ciede2000(image, original).mean(), rgb_to_lab(rgb), rgb_to_lab(reference)
    )


def _by_scikit_image(metric: Callable[[np.ndarray, np.ndarray], float], x: Tensor, y: Tensor) -> Tensor:
    """Return a metric of each pair of images, shape (B,); it takes arrays of shape (H, W, C) in float64."""
    pairs = zip(*(planes.movedim(1, 3).double().numpy() for planes in (x, y)), strict=True)
    return torch.tensor([float(metric(image, original)) for image, original in pairs], dtype=x.dtype)


def _require_side(rgb: Tensor, side: int, name: str) -> None:
    if min(rgb.shape[2:]) < side:
        raise ValueError(f"{name} needs images of at least {side} pixels a side, got {rgb.shape[3]} x {rgb.shape[2]}")


# Metrics of other packages


class MetricUnavailable(RuntimeError):
    """Absence of a metric's package or weights. The message is one line that names it and says what to do."""


@dataclass(frozen=True)
class PackagedMetric:
    """Metric of another package.

    Attributes:
        function: Takes sRGB in [0, 1], shape (B, 3, H, W), and the originals, same shape, which it may ignore; returns (B,).
        needs_reference: Whether the metric reads the originals.
        lower_is_better: Direction that its package states.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    needs_reference: bool
    lower_is_better: bool


def packaged_metric(name: str) -> PackagedMetric:
    """Load a metric with learned weights from its package, which downloads them on first use.

    Args:
        name: "LPIPS" (of the package lpips, on AlexNet; Zhang et al., CVPR 2018), "DISTS" (of DISTS-pytorch; Ding et al.,
            IEEE TPAMI 2020) or "pyiqa:NAME", with a NAME from the catalog of pyiqa (``pyiqa.list_models()``).

    Raises:
        MetricUnavailable: If the package is not installed, or cannot set the metric up, usually because weights are missing.
        ValueError: If the name is unknown.
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
        raise MetricUnavailable(f"{name}: skipped, cannot be set up, mostly for lack of weights: {_line(error)}") from error


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

"""What papers on colorization measure of an image beside its original: colorfulness, PSNR, SSIM, LPIPS and FID.

All of 8-bit sRGB of 256 x 256 pixels, as :func:`prepare` makes it. Colorfulness, PSNR and SSIM need nothing but our own
requirements. LPIPS and FID come from packages of requirements-metrics.txt, which download their weights at first use.
"""

import copy
import importlib.util
import socket
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from utils.color import colorfulness

SIDE = 256  # pixels
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_SECONDS = 30  # until a server that does not answer counts as out of reach
# Wang et al. 2004, section III-C, by the recipe that scikit-image gives for it
_WANG: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}

_Made = TypeVar("_Made")


class Measure(NamedTuple):
    """How a measure is shown and judged.

    Attributes:
        name: Column of the tables.
        better: 1 if higher is better, -1 if lower is better, 0 if neither is.
        decimals: Shown of it.
        low: Least value.
        high: Largest value.
    """

    name: str
    better: int
    decimals: int
    low: float = -np.inf
    high: float = np.inf


FID = Measure("FID", -1, 2, 0)
COLORFULNESS = Measure("colorfulness", 0, 2, 0)
PSNR = Measure("PSNR", 1, 2)
SSIM = Measure("SSIM", 1, 3, -1, 1)
LPIPS = Measure("LPIPS", -1, 3, 0)


def prepare(rgb: np.ndarray, crop: bool = False) -> np.ndarray:
    """Bring an image to 256 x 256 pixels, by Pillow's bicubic filter, which smooths as it shrinks.

    Args:
        rgb: sRGB, uint8, shape (H, W, 3).
        crop: Bring the short side to 256 pixels and keep the middle, as ``Resize(256)`` and ``CenterCrop(256)`` of torchvision
            do. Else the whole image is squeezed into the square.

    Returns:
        sRGB, uint8, shape (256, 256, 3). An image of this size comes back as it is.
    """
    height, width = rgb.shape[:2]
    if (height, width) == (SIDE, SIDE):
        return rgb
    size = (SIDE, SIDE)
    if crop:
        short = min(height, width)
        size = (SIDE * width // short, SIDE * height // short)
    image = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - SIDE) / 2) for length in size)
    return np.array(image.crop((left, top, left + SIDE, top + SIDE)))


def measure(rgb: np.ndarray, original: np.ndarray) -> dict[str, float]:
    """Return the measures of one image that need no weights, by name.

    Args:
        rgb: sRGB, uint8, shape (256, 256, 3).
        original: Same shape.

    Returns:
        colorfulness, see :func:`utils.color.colorfulness`; PSNR in dB, of the squared error over all three channels, infinite
        for equal images; SSIM in [-1, 1], of a Gaussian window, mean of the three channels.
    """
    with np.errstate(divide="ignore"):  # equal images
        psnr = peak_signal_noise_ratio(original, rgb, data_range=255)
    ssim = structural_similarity(original, rgb, data_range=255, channel_axis=2, **_WANG)
    return {COLORFULNESS.name: colorfulness_of(rgb), PSNR.name: float(psnr), SSIM.name: float(ssim)}


def colorfulness_of(rgb: np.ndarray) -> float:
    """Return the colorfulness of one image, uint8, shape (H, W, 3)."""
    return colorfulness(_batch(rgb[None]).double() / 255).item()


def luma_correlation(rgb: np.ndarray, original: np.ndarray) -> float:
    """Return the correlation of two images without their color, near 1 for a colorization and its original.

    Args:
        rgb: sRGB, shape (H, W, 3).
        original: Same shape.

    Returns:
        In [-1, 1]; 1 where one of the two is flat and nothing can be told.
    """
    values, wanted = ((image @ _LUMA).ravel() for image in (rgb, original))
    if np.ptp(values) == 0 or np.ptp(wanted) == 0:
        return 1.0
    return float(np.corrcoef(values, wanted)[0, 1])


# Packages with weights


class PerceptualDistance:
    """LPIPS 0.1 on AlexNet, of the package lpips.

    Args:
        network: The network of the package; None to build it, with the weights that it downloads.
        device: Where it runs.

    Reference:
        Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of deep features as a perceptual metric",
        CVPR 2018.
    """

    says = "AlexNet, its weights 0.1 (VGG has other values)"

    def __init__(self, network: torch.nn.Module | None = None, device: str = "cpu") -> None:
        import lpips  # not among our requirements

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old arguments that lpips gives to torchvision
            network = lpips.LPIPS(net="alex", verbose=False) if network is None else network
        self._network, self._device = network.eval().to(device), device

    @torch.no_grad()
    def __call__(self, rgb: np.ndarray, originals: np.ndarray) -> np.ndarray:
        """Return the distance of each pair of images, uint8, shape (B, H, W, 3): at least 0, lower is more alike, (B,)."""
        pair = (_batch(images).to(self._device).float() / 255 for images in (rgb, originals))
        return self._network(*pair, normalize=True).flatten().cpu().numpy()


class FrechetDistances:
    """FID of several methods to the same originals, by torchmetrics, whose Inception network is that of torch-fidelity.

    The network sees 299 x 299 pixels, enlarged bilinearly, as in pytorch-fid; clean-fid enlarges by a bicubic filter.

    Args:
        methods: Their number.
        inception: A network in place of Inception: takes uint8, shape (B, 3, H, W), gives (B, D), and has ``num_features``.
        device: Where it runs.

    Reference:
        Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, "GANs trained by a two time-scale update rule converge to a
        local Nash equilibrium", NeurIPS 2017.
    """

    says = "Inception of torch-fidelity, 2048 features, 299 x 299 pixels by a bilinear filter, as in pytorch-fid"

    def __init__(self, methods: int, inception: torch.nn.Module | None = None, device: str = "cpu") -> None:
        if inception is None and importlib.util.find_spec("torch_fidelity") is None:  # known before what is slow to load
            raise ModuleNotFoundError("no torch_fidelity")
        from torchmetrics.image.fid import FrechetInceptionDistance  # not among our requirements

        first = FrechetInceptionDistance(2048 if inception is None else inception).to(device)
        self._device, network = device, first.inception
        del first.inception  # one network for all
        self._metrics = [first, *(copy.deepcopy(first) for _ in range(methods - 1))]
        for metric in self._metrics:
            metric.inception = network

    @torch.no_grad()
    def update(self, originals: np.ndarray, methods: np.ndarray) -> None:
        """Take more images: originals, uint8, shape (B, H, W, 3), and those of all methods, shape (M, B, H, W, 3)."""
        self._metrics[0].update(_batch(originals).to(self._device), real=True)
        for metric, images in zip(self._metrics, methods, strict=True):
            metric.update(_batch(images).to(self._device), real=False)

    def values(self) -> list[float]:
        """Return the FID of each method, at least 0, lower is more alike; NaN for fewer than two images."""
        first = self._metrics[0]
        if first.real_features_num_samples < 2:
            return [np.nan] * len(self._metrics)
        for metric in self._metrics[1:]:  # the originals were looked at once
            for name in ("real_features_sum", "real_features_cov_sum", "real_features_num_samples"):
                setattr(metric, name, getattr(first, name))
        return [float(metric.compute()) for metric in self._metrics]


def make_or_skip(name: str, packages: tuple[str, ...], make: Callable[[], _Made]) -> tuple[_Made | None, str]:
    """Set up a measure of other packages.

    Args:
        name: Of the measure.
        packages: That it needs, as pip names them.
        make: Builds it.

    Returns:
        What was built, and the versions of the packages; or None, and one line that says why it is skipped.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        return make(), ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    except ImportError:
        needs = " and ".join(packages)
        return None, f"{name}: skipped, it needs {needs}; pip install -r requirements-metrics.txt"
    except Exception as error:  # each package fails in its own ways when it cannot download: OSError, RuntimeError, ...
        reason = " ".join(f"{error}".split())
        return None, f"{name}: skipped, its weights cannot be fetched ({reason}); run it once where there is a network"
    finally:
        socket.setdefaulttimeout(before)


def _batch(images: np.ndarray) -> torch.Tensor:
    """Images of shape (B, H, W, 3) as a tensor (B, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

"""Color in batched torch: sRGB, CIELAB, chroma, hue and colorfulness.

Differentiable, on any device, in the dtype of the input. Values agree with scikit-image's ``rgb2lab`` (D65, 2 degrees).
"""

import torch
from torch import Tensor

# IEC 61966-2-1, linear sRGB to CIE XYZ under D65, in the digits that scikit-image and the published ICQA-Net use.
_XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE_D65 = (0.95047, 1.0, 1.08883)  # CIE 15:2004, 2 degree observer
_LAB_THRESHOLD = 0.008856  # CIE 15:2004; below it f(t) is a line
_LAB_SLOPE = 7.787


def _require_image(x: Tensor, name: str) -> None:
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"{name} must have shape (B, 3, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {x.dtype}; divide 8-bit values by 255")


def srgb_to_linear(rgb: Tensor) -> Tensor:
    """Undo the sRGB transfer curve, in [0, 1], any shape.

    Reference:
        IEC 61966-2-1.
    """
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Apply the sRGB transfer curve, in [0, 1], any shape."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def linear_to_lab(linear: Tensor) -> Tensor:
    """Convert linear-light sRGB to CIELAB.

    Args:
        linear: Linear RGB in [0, 1], shape (B, 3, H, W).

    Returns:
        L in [0, 100], a and b about [-110, 110], shape (B, 3, H, W).
    """
    matrix = linear.new_tensor(_XYZ_FROM_RGB) / linear.new_tensor(_WHITE_D65)[:, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    root = xyz.clamp(min=_LAB_THRESHOLD) ** (1 / 3)  # the clamp keeps the gradient finite at black
    f = torch.where(xyz > _LAB_THRESHOLD, root, _LAB_SLOPE * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB to CIELAB under D65.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).

    Returns:
        L in [0, 100], a and b about [-110, 110], shape (B, 3, H, W).

    Raises:
        ValueError: If ``rgb`` is not floating point of shape (B, 3, H, W).

    Reference:
        CIE 15:2004; IEC 61966-2-1.
    """
    _require_image(rgb, "rgb")
    return linear_to_lab(srgb_to_linear(rgb))


def lab_to_rgb(lab: Tensor) -> Tensor:
    """Convert CIELAB under D65 to sRGB, clipped to the gamut.

    Args:
        lab: L in [0, 100], a, b, shape (B, 3, H, W).

    Returns:
        sRGB in [0, 1], shape (B, 3, H, W).

    Raises:
        ValueError: If ``lab`` is not floating point of shape (B, 3, H, W).
    """
    _require_image(lab, "lab")
    lightness, a, b = lab.unbind(1)
    y = (lightness + 16) / 116
    f = torch.stack((y + a / 500, y, y - b / 200), dim=1)
    xyz = torch.where(f > _LAB_THRESHOLD ** (1 / 3), f**3, (f - 16 / 116) / _LAB_SLOPE)
    xyz = xyz * lab.new_tensor(_WHITE_D65)[:, None, None]
    inverse = torch.linalg.inv(torch.tensor(_XYZ_FROM_RGB, dtype=torch.float64)).to(lab)
    linear = torch.einsum("ij,bjhw->bihw", inverse, xyz)
    return linear_to_srgb(linear.clamp(0, 1)).clamp(0, 1)


def chroma(lab: Tensor) -> Tensor:
    """Return the distance of each color from gray.

    Args:
        lab: CIELAB, shape (B, 3, H, W).

    Returns:
        At least 0, in CIELAB units, shape (B, 1, H, W). The gradient is finite at gray.

    Reference:
        CIE 15:2004, CIELAB chroma.
    """
    _require_image(lab, "lab")
    return (lab[:, 1:].square().sum(1, keepdim=True) + 1e-12).sqrt()


def hue(lab: Tensor) -> Tensor:
    """Return the hue angle of each color, ``atan2(b, a)`` in radians in (-pi, pi], shape (B, 1, H, W)."""
    _require_image(lab, "lab")
    return torch.atan2(lab[:, 2:], lab[:, 1:2])


def colorfulness(rgb: Tensor) -> Tensor:
    """Return how strong and how varied the colors of an image are, the M(3) of its authors.

    Args:
        rgb: sRGB in [0, 1], shape (B, 3, H, W).

    Returns:
        At least 0, which is gray; the authors call 33 moderately and 109 extremely colorful. Shape (B,). Higher is not better.
        The gradient is not finite at gray.

    Reference:
        Hasler and Suesstrunk, "Measuring colourfulness in natural images", Proc. SPIE 5007, 2003: M(3), with the
        standard deviations of all pixels.
    """
    _require_image(rgb, "rgb")
    red, green, blue = (255 * rgb).flatten(2).unbind(1)
    opponents = torch.stack((red - green, (red + green) / 2 - blue), dim=1)  # (B, 2, HW)
    spread = opponents.var(2, correction=0).sum(1).sqrt()
    return spread + 0.3 * opponents.mean(2).square().sum(1).sqrt()


def gray_version(lab: Tensor) -> Tensor:
    """Return the image with its lightness kept and its color removed.

    Args:
        lab: CIELAB, shape (B, 3, H, W).

    Returns:
        sRGB in [0, 1] with three equal channels, shape (B, 3, H, W).
    """
    _require_image(lab, "lab")
    y = (lab[:, :1] + 16) / 116
    luminance = torch.where(y > _LAB_THRESHOLD ** (1 / 3), y**3, (y - 16 / 116) / _LAB_SLOPE)
    return linear_to_srgb(luminance.clamp(0, 1)).expand(-1, 3, -1, -1)

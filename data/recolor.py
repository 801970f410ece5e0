"""Recolorings of a photograph with a known fault: mistakes of colorizers, planted on purpose.

Only the a and b planes of CIELAB change; lightness stays as it is, up to the clipping of the sRGB gamut. The faults follow
the experimental manipulations of HECD (Mullery and Whelan 2022: chroma shift, chroma spread, registration, hue and chroma of
a segment) and add known faults of colorization networks: stains, mottling, bleeding, gray patches, color casts.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

# Which dimension a fault belongs to: is the color unclean (CF), or clean but wrong for the thing (SCC)?
CHROMATIC_KINDS = ("shift", "bleed", "stain", "mottle", "gray_patch", "fade", "oversaturate", "spread", "cast")
SEMANTIC_KINDS = ("hue", "global_hue", "transfer", "region_chroma")
KINDS = CHROMATIC_KINDS + SEMANTIC_KINDS

# A displacement of this many CIELAB units (root mean square over the image) is a severity of 1 - 1/e.
_SEVERITY_SCALE = 18.0
_FADE_WEIGHT = 0.6  # people forgive a lack of chroma more than a wrong hue (HECD, kinds B and G against F)


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """Convert an 8-bit sRGB image (H, W, 3) to CIELAB, float32, shape (3, H, W)."""
    import torch  # in functions, for tools/make_samples.py shows its help without it

    from utils.color import rgb_to_lab

    tensor = torch.from_numpy(np.array(rgb, copy=True)).permute(2, 0, 1)[None].float() / 255
    return rgb_to_lab(tensor)[0].numpy()


def from_lab(lab: np.ndarray) -> np.ndarray:
    """Convert a CIELAB image (3, H, W) to 8-bit sRGB (H, W, 3), clipped to the gamut."""
    import torch

    from utils.color import lab_to_rgb

    rgb = lab_to_rgb(torch.from_numpy(np.ascontiguousarray(lab, dtype=np.float32))[None])[0]
    return (rgb * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian noise blurred by ``sigma`` pixels, zero mean, unit variance, shape (H, W)."""
    step = max(1, int(sigma / 3))  # blur a coarse grid and enlarge it: the same look, much faster
    coarse = rng.standard_normal((shape[0] // step + 4, shape[1] // step + 4))
    coarse = ndimage.gaussian_filter(coarse, sigma / step, mode="wrap")
    noise = ndimage.zoom(coarse, step, order=1)[: shape[0], : shape[1]]
    return ((noise - noise.mean()) / (noise.std() + 1e-6)).astype(np.float32)


def pick_region(lab: np.ndarray, rng: np.random.Generator, colored: bool = True) -> np.ndarray:
    """Draw a region of similar color and place and return its soft mask, in [0, 1], shape (H, W).

    Pixels are clustered by k-means on lightness, color and position. Large clusters are preferred and, if ``colored``,
    chromatic ones.
    """
    _, height, width = lab.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    features = np.stack((0.5 * lab[0], lab[1], lab[2], 40 * y / height, 40 * x / width)).reshape(5, -1).T
    clusters = int(rng.integers(4, 9))
    sample = features[rng.integers(0, len(features), 1500)]
    centers = sample[:clusters].copy()
    for _ in range(6):
        nearest = ((sample[:, None] - centers) ** 2).sum(2).argmin(1)
        for k in range(clusters):
            if (nearest == k).any():
                centers[k] = sample[nearest == k].mean(0)
    distances = (centers**2).sum(1) - 2 * features @ centers.T
    label = distances.argmin(1).reshape(height, width)
    weights = np.bincount(label.ravel(), minlength=clusters) / label.size
    if colored:
        weights = weights * (2 + np.hypot(centers[:, 1], centers[:, 2]))
    choice = rng.choice(clusters, p=weights / weights.sum())
    mask = ndimage.median_filter((label == choice).astype(np.uint8), 5).astype(np.float32)
    return ndimage.gaussian_filter(mask, 0.8)


def _rotate(ab: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack((cosine * ab[0] - sine * ab[1], sine * ab[0] + cosine * ab[1])).astype(np.float32)


def _signed(rng: np.random.Generator) -> float:
    return float(rng.choice((-1.0, 1.0)))


def _scale_chroma(ab: np.ndarray, new_chroma: np.ndarray) -> np.ndarray:
    return ab * (new_chroma / (np.hypot(ab[0], ab[1]) + 1e-3))


def _shift(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    distance = strength * 0.05 * max(lab.shape[1:])
    angle = rng.uniform(0, 2 * np.pi)
    offset = (0, distance * np.sin(angle), distance * np.cos(angle))
    return ndimage.shift(lab[1:], offset, order=1, mode="nearest")


def _bleed(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    sigma = strength * 0.06 * max(lab.shape[1:]) * rng.uniform(0.6, 1.0)
    return ndimage.gaussian_filter(lab[1:], (0, sigma, sigma))


def _stain(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    height, width = lab.shape[1:]
    y, x = np.mgrid[:height, :width]
    ab = lab[1:].copy()
    for _ in range(int(rng.integers(1, 4))):
        radius = rng.uniform(0.08, 0.25) * max(height, width)
        wobble = 0.35 * smooth_noise((height, width), radius / 2 + 1, rng)
        distance = np.hypot(y - rng.uniform(0, height), x - rng.uniform(0, width)) / radius
        mask = 1 / (1 + np.exp(8 * (distance + wobble - 1)))
        angle = rng.uniform(0, 2 * np.pi)
        color = (10 + 60 * strength) * np.array((np.cos(angle), np.sin(angle)))
        ab += (mask * rng.uniform(0.5, 1))[None] * (color[:, None, None] - (0.5 * ab if rng.random() < 0.5 else 0))
    return ab


def _mottle(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    sigma = np.exp(rng.uniform(np.log(0.004), np.log(0.04))) * max(lab.shape[1:])
    noise = np.stack([smooth_noise(lab.shape[1:], sigma, rng) for _ in range(2)])
    return lab[1:] + 25 * strength * noise


def _gray_patch(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        mask = pick_region(lab, rng)
    else:
        sigma = rng.uniform(0.05, 0.2) * max(lab.shape[1:])
        mask = 1 / (1 + np.exp(-6 * (smooth_noise(lab.shape[1:], sigma, rng) - rng.uniform(-0.3, 0.6))))
    return lab[1:] * (1 - strength * mask)


def _fade(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    faded = lab[1:] * (1 - strength)
    if rng.random() < 0.3:  # toward sepia rather than gray
        faded = faded + strength * np.array((4.0, 14.0))[:, None, None] * rng.uniform(0.3, 1)
    return faded


def _oversaturate(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        return lab[1:] * (1 + 2.5 * strength)
    chroma = np.hypot(lab[1], lab[2])
    return _scale_chroma(lab[1:], chroma + 40 * strength)


def _spread(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    chroma = np.hypot(lab[1], lab[2])
    factor = 1 - 0.9 * strength if rng.random() < 0.4 else 1 + 3 * strength
    return _scale_chroma(lab[1:], np.maximum(0, chroma.mean() + factor * (chroma - chroma.mean())))


def _cast(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return lab[1:] + 30 * strength * np.array((np.cos(angle), np.sin(angle)))[:, None, None]


def _hue(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    mask = pick_region(lab, rng)
    return lab[1:] + mask * (_rotate(lab[1:], 180 * strength * _signed(rng)) - lab[1:])


def _global_hue(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return _rotate(lab[1:], 180 * strength * _signed(rng))


def _transfer(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Replace the color by a smooth function of lightness and place: clean, but without meaning."""
    knots = rng.normal(0, 22, (2, 5)).astype(np.float32)
    position = lab[0] / 100 * 3 + 0.4 * smooth_noise(lab.shape[1:], 0.3 * max(lab.shape[1:]), rng) + 0.5
    invented = np.stack([np.interp(position, np.arange(5), knots[c]) for c in range(2)])
    return (1 - strength) * lab[1:] + strength * invented


def _region_chroma(lab: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    mask = pick_region(lab, rng)
    target = lab[1:] * (1 - strength) if rng.random() < 0.5 else lab[1:] * (1 + 2 * strength)
    return lab[1:] + mask * (target - lab[1:])


_FAULTS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "shift": _shift,
    "bleed": _bleed,
    "stain": _stain,
    "mottle": _mottle,
    "gray_patch": _gray_patch,
    "fade": _fade,
    "oversaturate": _oversaturate,
    "spread": _spread,
    "cast": _cast,
    "hue": _hue,
    "global_hue": _global_hue,
    "transfer": _transfer,
    "region_chroma": _region_chroma,
}


def recolor(rgb: np.ndarray, kind: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Plant one fault in a photograph.

    Args:
        rgb: 8-bit sRGB, shape (H, W, 3).
        kind: One of ``KINDS``.
        strength: In [0, 1]; 0 changes nothing (but for rounding), 1 is gross.
        rng: Source of the place, direction and color of the fault.

    Returns:
        8-bit sRGB, shape (H, W, 3).

    Raises:
        ValueError: If the kind is unknown or the strength outside [0, 1].
    """
    if kind not in _FAULTS:
        raise ValueError(f"unknown fault {kind!r}; known are {', '.join(KINDS)}")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    lab = to_lab(rgb)
    lab[1:] = _FAULTS[kind](lab, strength, rng) if strength > 0 else lab[1:]
    return from_lab(lab)


def severity(original: np.ndarray, recolored: np.ndarray) -> float:
    """Return how far a recoloring is from its photograph, the stand-in for a human rating of a planted fault.

    A saturating curve maps the root mean square displacement in the ab plane, where loss of chroma counts less. The constants
    are set by judgment and are fitted to no rating.

    Args:
        original: 8-bit sRGB, shape (H, W, 3).
        recolored: 8-bit sRGB, same shape.

    Returns:
        In [0, 1): 0 for identical images, near 1 for gross faults.
    """
    return lab_severity(to_lab(original), to_lab(recolored))


def lab_severity(original: np.ndarray, recolored: np.ndarray) -> float:
    """Return the ``severity`` for two CIELAB images of shape (3, H, W)."""
    delta = recolored[1:] - original[1:]
    displacement = (delta**2).sum(0)
    loss = np.minimum(np.hypot(*recolored[1:]) - np.hypot(*original[1:]), 0)
    # of the squared displacement, the part along the loss of chroma is weighted down
    weighted = displacement - (1 - _FADE_WEIGHT**2) * np.minimum(loss**2, displacement)
    distance = float(np.sqrt(weighted.mean()))
    return 1 - float(np.exp(-distance / _SEVERITY_SCALE))

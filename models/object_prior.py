"""The object prior, P(ab | category, lightness): which color does a thing have? And the comparison of one object with it.

The prior is a table, counted from photographs with labeled objects (``tools/build_color_prior.py``): for each category of
COCO-80 and each band of lightness a distribution over the ab cells of ``models/color_prior.py``. Every comparison also comes
as a percentile among real objects of the category: a car may have any color, so no distance is unusual for a car, unlike for
broccoli. The published network has a prior too (``color_.json``) and compares nothing with it.

Colors are counted and compared at the resolution of ``Preprocess(224)``.
"""

import copy
import io
import json
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.color_prior import ab_bins, soft_encode
from utils.choices import SHRINKAGE, SMOOTHING
from utils.files import write_atomic
from utils.labels import COCO_NAMES

SIZE = 224  # side of the prepared image, in pixels
MIN_PIXELS = 16  # an object of fewer pixels is mostly edge, mixed with the background, and counts as no object
LIGHTNESS_EDGES = (20.0, 40.0, 60.0, 80.0)  # of the bands, CIELAB; a pixel on an edge belongs to the lighter band
BANDS = len(LIGHTNESS_EDGES) + 1
CATEGORIES = len(COCO_NAMES)
ALL = CATEGORIES  # row of the prior for any category

POOL = 10.0  # objects that the values of all categories count for in a percentile

MEASURES = (
    "sliced Wasserstein",  # CIELAB units, from the colors of the object to those expected for its lightness
    "KL divergence",  # nats, of the same two distributions
    "surprise",  # nats, minus the mean log-likelihood of its pixels, each given its lightness band
    "chroma z",  # mean chroma minus the expected one, in standard deviations between objects
    "a difference",  # mean a minus the expected one, CIELAB units
    "b difference",
    "hue difference",  # degrees between mean color and expected color, 0 to 180
)
SIGNED = ("chroma z", "a difference", "b difference")  # unusual at both ends
_DISTANCES = ("sliced Wasserstein", "KL divergence", "surprise")

OBJECT_COMPARISONS = (
    *MEASURES,
    *(f"{measure}, percentile" for measure in MEASURES),
    "lightness",
    "a",
    "b",
    "expected a",
    "expected b",
    "area",  # share of the image
    "pixels",
    "objects known",  # of the category, in the photographs of the prior: how far the prior can be trusted
)

# Percentile, counted from either end for signed measures, from which on a measure is named as unusual.
# benchmarks/object_prior.md counts the objects that reach it in their own color and in another one.
UNUSUAL = 98.0
_WORDS = {
    "chroma z": ("duller", "more colorful"),
    "a difference": ("greener", "redder"),
    "b difference": ("bluer", "yellower"),
}
_GRAY = 5.0  # chroma below which a mean color has no hue to speak of
_SAME_HUE = 20.0  # degrees; within them a color differs in chroma rather than in hue

_UNITS = {  # for a network
    "sliced Wasserstein": 20,
    "KL divergence": 3,
    "surprise": 5,
    "chroma z": 3,
    "a difference": 50,
    "b difference": 50,
    "hue difference": 180,
    **{f"{measure}, percentile": 50 for measure in MEASURES},
    "lightness": 100,
    **dict.fromkeys(("a", "b", "expected a", "expected b"), 50),
}

_FULL_WEIGHT = 100  # pixels; an object of as many or more counts as one, a smaller one in proportion
_DIRECTIONS = 16
_ANY_COLOR = 1e-3  # share of an object that may have any color, however rare: a stray pixel costs 12.5 nats at most
_CHROMA_DEVIATION = 2.0  # least standard deviation of chroma, CIELAB units
_LEVELS = np.array(
    (0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 7.5, *range(10, 91, 5), 92.5, 95, 96, 97, 97.5, 98, 98.5, 99, 99.5, 100), np.float64
)


@lru_cache(maxsize=1)
def _centers() -> np.ndarray:
    """Return the centers of the ab cells, shape (K, 2)."""
    return ab_bins()[0].double().numpy()


@lru_cache(maxsize=4)
def _blur(deviation: float) -> np.ndarray:
    """Return a Gaussian over the ab cells, ``deviation`` in CIELAB units, shape (K, K); each row sums to 1."""
    centers = _centers()
    squared = ((centers[:, None] - centers) ** 2).sum(2)
    weights = np.exp(-squared / (2 * deviation**2))
    return weights / weights.sum(1, keepdims=True)


@lru_cache(maxsize=1)
def _projections() -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the cells along each direction, shape (D, K), and the gaps between neighbors, shape (D, K - 1)."""
    angles = np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS
    positions = np.stack((np.cos(angles), np.sin(angles)), 1) @ _centers().T
    order = positions.argsort(1, kind="stable")
    return order, np.diff(np.take_along_axis(positions, order, 1))


def sliced_wasserstein(p: np.ndarray, q: np.ndarray) -> float:
    """Return the distance of two color distributions.

    Args:
        p: Shares of the ab cells, shape (K,).
        q: Shares of the other distribution, shape (K,).

    Returns:
        The 1-D Wasserstein distance of the cell centers projected on a direction, in CIELAB units, mean over 16 directions.
        For two single colors, 2 / pi of their distance.

    Reference:
        Rabin et al., Wasserstein Barycenter and its Application to Texture Mixing, SSVM 2011; here the directions are fixed.
    """
    order, gaps = _projections()
    return float((np.abs((p - q)[order].cumsum(1)[:, :-1]) * gaps).sum(1).mean())


@dataclass(frozen=True, eq=False)
class Observation:
    """The colors of one object.

    Attributes:
        histogram: Share of the pixels in each lightness band and ab cell, shape (BANDS, K); sums to 1.
        chroma: Mean chroma of the pixels in each band, 0 where there are none, shape (BANDS,).
        lab: Mean color in CIELAB, shape (3,).
        pixels: Size in the prepared image, in pixels.
        area: Share of the image.
    """

    histogram: np.ndarray
    chroma: np.ndarray
    lab: np.ndarray
    pixels: int
    area: float

    @property
    def shares(self) -> np.ndarray:
        """Return the share of the pixels in each lightness band, shape (BANDS,)."""
        return self.histogram.sum(1)

    @property
    def weight(self) -> float:
        """Return the weight of the object in counts, in (0, 1]: 1 from 100 pixels on, less in proportion below."""
        return min(1.0, self.pixels / _FULL_WEIGHT)


def observe(lab: Tensor, mask: np.ndarray) -> Observation | None:
    """Return the colors of the pixels of an object.

    Args:
        lab: CIELAB of the prepared image, shape (3, H, W).
        mask: True for the pixels that show the object, bool, shape (H, W), as from ``utils.labels.object_mask``.

    Returns:
        The observation; None for fewer than ``MIN_PIXELS`` pixels.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if lab.ndim != 3 or lab.shape[0] != 3 or tuple(lab.shape[1:]) != mask.shape:
        raise ValueError(f"lab must be (3, H, W) and mask (H, W), got {tuple(lab.shape)} and {mask.shape}")
    count = int(mask.sum())
    if count < MIN_PIXELS:
        return None
    pixels = lab[:, torch.from_numpy(mask)].detach().cpu().double()  # (3, count)
    index, weight = soft_encode(pixels[1:].view(1, 2, 1, -1), ab_bins()[1])
    values = pixels.numpy()
    band = np.digitize(values[0], LIGHTNESS_EDGES)
    cells = len(_centers())
    joint = (band * cells + index[0, :, 0].numpy()).ravel()
    histogram = np.bincount(joint, weight[0, :, 0].numpy().ravel(), BANDS * cells).reshape(BANDS, cells)
    in_band = np.bincount(band, minlength=BANDS)
    chroma = np.bincount(band, np.hypot(values[1], values[2]), BANDS) / np.maximum(in_band, 1)
    return Observation(histogram / histogram.sum(), chroma, values.mean(1), count, count / mask.size)


Labeled = tuple[int, Observation]  # an object with its category


@dataclass(frozen=True, eq=False)
class Expectation:
    """The expected colors of one category.

    Attributes:
        probability: P(ab cell | category, band), shape (BANDS, K), nowhere 0; each row sums to 1.
        chroma_mean: Mean over objects of their mean chroma in a band, shape (BANDS,).
        chroma_deviation: Standard deviation between objects, shape (BANDS,).
    """

    probability: np.ndarray
    chroma_mean: np.ndarray
    chroma_deviation: np.ndarray

    def mixed(self, observation: Observation) -> np.ndarray:
        """Return the distribution over ab for the lightness of an object, shape (K,)."""
        return observation.shares @ self.probability


def measure(observation: Observation, expectation: Expectation) -> np.ndarray:
    """Return ``MEASURES`` of one object compared with the expectation for its category, shape (7,)."""
    shares, mixed = observation.shares, expectation.mixed(observation)
    colors = observation.histogram.sum(0)
    filled = colors > 0
    divergence = (colors[filled] * np.log(colors[filled] / mixed[filled])).sum()
    surprise = -(observation.histogram * np.log(expectation.probability)).sum()
    excess = shares @ (observation.chroma - expectation.chroma_mean)
    deviation = np.sqrt(shares @ expectation.chroma_deviation**2)
    expected = mixed @ _centers()
    difference = observation.lab[1:] - expected
    turn = np.angle(complex(*observation.lab[1:]) * complex(*expected).conjugate(), deg=True)
    return np.array(
        (sliced_wasserstein(colors, mixed), divergence, surprise, excess / deviation, *difference, abs(turn)), np.float64
    )


class Evidence:
    """Counts of the colors of objects; images can be added and taken away.

    Args:
        smoothing: Standard deviation of the blur over ab, CIELAB units; above 0.
        shrinkage: Number of objects that the prior of all categories counts as, in each band; above 0.

    Attributes:
        histogram: Sum over objects of ``Observation.histogram`` times weight, shape (80, BANDS, K).
        chroma: Sums over objects, times weight, of the share s in a band, of s times the chroma c there, and of s times c
            squared, shape (80, BANDS, 3).
        objects: Number of objects of each category and of all, shape (81,).
        pictures: Number of images that show such an object, shape (81,).
    """

    def __init__(self, smoothing: float = SMOOTHING, shrinkage: float = SHRINKAGE) -> None:
        self.smoothing, self.shrinkage = smoothing, shrinkage
        self.histogram = np.zeros((CATEGORIES, BANDS, len(_centers())))
        self.chroma = np.zeros((CATEGORIES, BANDS, 3))
        self.objects = np.zeros(CATEGORIES + 1, int)
        self.pictures = np.zeros(CATEGORIES + 1, int)

    def add(self, image: list[Labeled]) -> None:
        """Count the objects of one image."""
        self._count(image, 1)

    def without(self, image: list[Labeled]) -> "Evidence":
        """Return the evidence without one of the added images, to judge the objects of that image by."""
        rest = copy.deepcopy(self)
        rest._count(image, -1)
        np.maximum(rest.histogram, 0, out=rest.histogram)  # where rounding left less than nothing
        np.maximum(rest.chroma, 0, out=rest.chroma)
        return rest

    def _count(self, image: list[Labeled], sign: int) -> None:
        for category, observation in image:
            sums = observation.shares[:, None] * observation.chroma[:, None] ** np.arange(3)
            self.histogram[category] += sign * observation.weight * observation.histogram
            self.chroma[category] += sign * observation.weight * sums
            self.objects[[category, ALL]] += sign
        if image:
            self.pictures[sorted({category for category, _ in image} | {ALL})] += sign

    def expectation(self, category: int) -> Expectation:
        """Return the expected colors of a category, from 0 to 79, or of ``ALL``.

        Histograms are blurred. In each band, the distribution of all categories is added to the histogram of a category as
        ``shrinkage`` objects. The distribution of all categories contains one object of all colors.
        """
        total, sums = self.histogram.sum(0), self.chroma.sum(0)
        uniform = 1 / len(_centers())
        probability = _shrunken(total @ _blur(self.smoothing), uniform, 1.0)
        weight, *over_bands = sums.sum(0)
        moments = _shrunken_moments(sums, np.array(over_bands) / (weight + 1e-9), 1.0)
        if category != ALL:
            probability = _shrunken(self.histogram[category] @ _blur(self.smoothing), probability, self.shrinkage)
            moments = _shrunken_moments(self.chroma[category], moments, self.shrinkage)
        probability = (1 - _ANY_COLOR) * probability + _ANY_COLOR * uniform
        mean, square = moments.T
        return Expectation(probability, mean, np.sqrt(np.maximum(square - mean**2, _CHROMA_DEVIATION**2)))


def _shrunken(counts: np.ndarray, prior: np.ndarray | float, weight: float) -> np.ndarray:
    """Return distributions from counts, shape (BANDS, K), and from a prior that counts as ``weight`` objects."""
    return (counts + weight * prior) / (counts.sum(1, keepdims=True) + weight)


def _shrunken_moments(sums: np.ndarray, prior: np.ndarray, weight: float) -> np.ndarray:
    """Return mean and mean square, shape (BANDS, 2), from ``Evidence.chroma`` and a prior that counts as ``weight`` objects."""
    return (sums[:, 1:] + weight * prior) / (sums[:, :1] + weight)


_ARRAYS: dict[str, tuple[int | None, ...]] = {  # and their shapes, None for the number of ab cells
    "probability": (CATEGORIES + 1, BANDS, None),
    "chroma_mean": (CATEGORIES + 1, BANDS),
    "chroma_deviation": (CATEGORIES + 1, BANDS),
    "quantiles": (CATEGORIES + 1, len(MEASURES), len(_LEVELS)),
    "objects": (CATEGORIES + 1,),
    "pictures": (CATEGORIES + 1,),
}


@dataclass(frozen=True, eq=False)
class ObjectPrior:
    """The prior of every category, and the distances of real objects from the prior.

    Attributes:
        probability: P(ab cell | category, band), float32, shape (81, BANDS, K); the last row is for any category.
        chroma_mean: Expected chroma by band, shape (81, BANDS).
        chroma_deviation: Standard deviation between objects, shape (81, BANDS).
        quantiles: Values of ``MEASURES`` at ``_LEVELS`` percent of the real objects of a category, each compared with the
            prior of all other images, shape (81, 7, Q).
        objects: Number of objects of each category, shape (81,).
        pictures: Number of images that show such objects, shape (81,).
        about: Origin of the prior: settings, counts, names of the folders.
    """

    probability: np.ndarray
    chroma_mean: np.ndarray
    chroma_deviation: np.ndarray
    quantiles: np.ndarray
    objects: np.ndarray
    pictures: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        evidence: Evidence,
        categories: np.ndarray,
        values: np.ndarray,
        values_of_any: np.ndarray,
        about: dict[str, Any] | None = None,
    ) -> "ObjectPrior":
        """Make the prior from counts and from the values of the counted objects.

        The percentiles of a category are computed from its own objects and from the objects of all categories, which count as
        ``POOL`` objects together. In this pool every category has the same share, whatever its size: most categories are small,
        and objects of a category that is known less well are farther from the expectation.

        Args:
            evidence: Counts of all images.
            categories: Category of each object, shape (N,).
            values: ``MEASURES`` of each object, compared with its category without its own image, shape (N, 7).
            values_of_any: ``MEASURES`` of each object, compared with any category without its own image, shape (N, 7).
            about: Origin of the prior, in numbers, strings, lists and dictionaries.

        Raises:
            ValueError: If there is no object.
        """
        if len(categories) == 0:
            raise ValueError("no object to take a prior from; check that label files and images belong together")
        expectations = [evidence.expectation(category) for category in range(CATEGORIES + 1)]
        counts = np.bincount(categories, minlength=CATEGORIES)
        pool = POOL / np.count_nonzero(counts) / counts[categories]  # sums to POOL
        quantiles = np.empty((CATEGORIES + 1, len(MEASURES), len(_LEVELS)))
        for number in range(len(MEASURES)):
            order = values[:, number].argsort(kind="stable")
            ordered, of, weights = values[order, number], categories[order], pool[order]
            for category in range(CATEGORIES):
                quantiles[category, number] = _quantiles(ordered, weights + (of == category))
            ordered = np.sort(values_of_any[:, number])
            quantiles[ALL, number] = _quantiles(ordered, np.ones(len(ordered)))
        # Rounded as on disk, so that a saved prior gives the same comparisons.
        return cls(
            np.stack([e.probability for e in expectations]).astype(np.float16).astype(np.float32),
            np.stack([e.chroma_mean for e in expectations]).astype(np.float32),
            np.stack([e.chroma_deviation for e in expectations]).astype(np.float32),
            quantiles.astype(np.float32),
            evidence.objects.astype(np.int64),
            evidence.pictures.astype(np.int64),
            about or {},
        )

    def save(self, path: str | Path) -> None:
        """Write the prior to an ``.npz`` file, which holds no code."""
        write_atomic(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the content of the file that ``save`` writes."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["probability"] = self.probability.astype(np.float16)
        file = io.BytesIO()
        np.savez_compressed(file, **arrays, about=np.array(json.dumps(self.about)))
        return file.getvalue()

    @classmethod
    def load(cls, path: str | Path) -> "ObjectPrior":
        """Read a prior.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or no object prior.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no object prior {path}; make one with tools/build_color_prior.py")
        return cls.from_bytes(path.read_bytes(), str(path))

    @classmethod
    def from_bytes(cls, data: bytes, path: str = "the file") -> "ObjectPrior":
        """Read a prior from the content of its file, same as ``load``; ``path`` names the file in errors."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as content:
                arrays = {name: content[name] for name in _ARRAYS}
                about = json.loads(str(content["about"]))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(
                f"{path} cannot be read as an object prior ({error}); make it with tools/build_color_prior.py"
            ) from error
        for name, shape in _ARRAYS.items():
            expected = tuple(len(_centers()) if side is None else side for side in shape)
            if arrays[name].shape != expected or not np.isfinite(arrays[name]).all():
                raise ValueError(
                    f"{path}: {name} must be finite and of shape {expected}, got {arrays[name].shape}; make it again with "
                    "tools/build_color_prior.py"
                )
        arrays["probability"] = arrays["probability"].astype(np.float32)
        return cls(**arrays, about=about)

    def expectation(self, category: int) -> Expectation:
        """Return the expected colors of a category, from 0 to 79, or of ``ALL``."""
        probability = self.probability[category].astype(np.float64)
        probability /= probability.sum(1, keepdims=True)
        return Expectation(probability, self.chroma_mean[category], self.chroma_deviation[category])

    def percentiles(self, values: np.ndarray, category: int) -> np.ndarray:
        """Return the percentage of the real objects of a category with smaller ``MEASURES``, in [0, 100], shape (7,).

        Half of the objects with the same value count as smaller.
        """
        below = [np.interp(v, q, _LEVELS) for v, q in zip(values, self.quantiles[category], strict=True)]
        above = [np.interp(-v, -q[::-1], 100 - _LEVELS[::-1]) for v, q in zip(values, self.quantiles[category], strict=True)]
        return (100 + np.array(below) - np.array(above)) / 2

    def compare_object(self, lab: Tensor, mask: np.ndarray, category: int) -> dict[str, float] | None:
        """Compare the colors of an object with those of its category.

        Args:
            lab: CIELAB of the image that ``Preprocess(224)`` prepared, shape (3, 224, 224).
            mask: True for the pixels that show the object, bool, shape (224, 224), as from ``utils.labels.object_mask``.
            category: From 0 to 79, or ``ALL`` if it is not known.

        Returns:
            ``OBJECT_COMPARISONS`` by name and in that order; None for an object of fewer than ``MIN_PIXELS`` pixels.

        Raises:
            ValueError: If there is no such category, or the shapes do not fit.
        """
        if not 0 <= category <= ALL:
            raise ValueError(f"category must be from 0 to {ALL}, got {category}")
        observation = observe(lab, mask)
        return None if observation is None else self.compare_observed(observation, category)

    def compare_observed(self, observation: Observation, category: int) -> dict[str, float]:
        """Compare an observation with its category, same as ``compare_object``."""
        expectation = self.expectation(category)
        values = measure(observation, expectation)
        expected = expectation.mixed(observation) @ _centers()
        numbers = (
            *values,
            *self.percentiles(values, category),
            *observation.lab,
            *expected,
            observation.area,
            observation.pixels,
            self.objects[category],
        )
        return dict(zip(OBJECT_COMPARISONS, map(float, numbers), strict=True))

    def shuffled(self, seed: int) -> "ObjectPrior":
        """Return the prior with its categories permuted, none in its own place, to measure the effect of the category."""
        cycle = np.random.default_rng(seed).permutation(CATEGORIES)
        rows = np.arange(CATEGORIES + 1)
        rows[cycle] = np.roll(cycle, 1)
        return self._with_rows(rows)

    def unconditional(self) -> "ObjectPrior":
        """Return the prior with every category replaced by ``ALL``."""
        return self._with_rows(np.full(CATEGORIES + 1, ALL))

    def _with_rows(self, rows: np.ndarray) -> "ObjectPrior":
        return replace(self, **{name: getattr(self, name)[rows] for name in _ARRAYS})


def _quantiles(ordered: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the values at ``_LEVELS`` percent of a weighted sample in ascending order, shape (Q,)."""
    below = weights.cumsum() - weights / 2
    return np.interp(_LEVELS, 100 * below / weights.sum(), ordered)


def scaled(comparison: dict[str, float]) -> np.ndarray:
    """Scale ``OBJECT_COMPARISONS`` for a network, each to about [-1, 1], float32, shape (22,)."""
    values = dict(comparison)
    for name, unit in _UNITS.items():
        values[name] /= unit
    for measure_name in MEASURES:
        values[f"{measure_name}, percentile"] -= 1
    values["area"] = values["area"] ** 0.5  # about its length
    values["pixels"] = np.log10(values["pixels"]) / 5
    values["objects known"] = np.log10(1 + values["objects known"]) / 3
    return np.array([values[name] for name in OBJECT_COMPARISONS], np.float32)


def describe_unusual(category: int, comparison: dict[str, float], level: float = UNUSUAL) -> str:
    """Describe the unusual color of an object, such as "stop sign: hue bluer than 99 % of photos".

    Args:
        category: From 0 to 79, or ``ALL``.
        comparison: Result of ``ObjectPrior.compare_object``.
        level: Percentile from which on a measure is unusual, counted from either end for signed measures.

    Returns:
        Empty if no measure is unusual. Names unusual hue and chroma of the mean color; where neither is unusual but a distance
        is, says that the colors are less usual. Says so if few objects of the category are known.
    """

    def unusual(name: str) -> tuple[float, str]:
        percentile = comparison[f"{name}, percentile"]
        return max(percentile, 100 - percentile), _WORDS[name][percentile >= 50]

    colored = np.hypot(comparison["a"], comparison["b"]) >= _GRAY
    expects_hue = np.hypot(comparison["expected a"], comparison["expected b"]) >= _GRAY
    phrases = []
    if colored and not (expects_hue and comparison["hue difference"] < _SAME_HUE):
        name = max(("a difference", "b difference"), key=lambda name: (unusual(name)[0], abs(comparison[name])))
        phrases.append((unusual(name)[0], f"hue {unusual(name)[1]} than"))
    phrases.append((unusual("chroma z")[0], f"{unusual('chroma z')[1]} than"))
    rarest = max(comparison[f"{name}, percentile"] for name in _DISTANCES)
    named = [phrase for phrase in phrases if phrase[0] >= level] or [(rarest, "colors less usual than in")]
    if named[0][0] < level:
        return ""
    words = " and ".join(f"{word} {min(99, int(percent))} %" for percent, word in named)
    count = int(comparison["objects known"])
    among = "" if count >= POOL or category == ALL else f" (compared with all objects: {count} of its kind known)"
    return f"{COCO_NAMES[category] if category != ALL else 'object'}: {words} of photos{among}"

"""How well predictions agree with people: SRCC, KRCC, PLCC and RMSE against MOS.

All correlations lie in [-1, 1], higher is better. Where a correlation is not defined it is NaN and not an error: with
fewer than two images, or if all predictions or all MOS are equal.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

_MIN_SCENE_IMAGES = 3  # with two images SRCC can only be -1 or 1


def srcc(pred: np.ndarray, mos: np.ndarray) -> float:
    """Return the Spearman rank correlation, ties at their mean rank.

    Args:
        pred: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).

    Returns:
        In [-1, 1], higher is better; NaN where not defined.

    Raises:
        ValueError: If the shapes differ or are not (N,), or a value is not finite.
    """
    return _correlation(stats.spearmanr, pred, mos)


def krcc(pred: np.ndarray, mos: np.ndarray) -> float:
    """Return the Kendall rank correlation, tau-b, which corrects for ties. Arguments, result and errors: see ``srcc``."""
    return _correlation(stats.kendalltau, pred, mos)


def plcc(pred: np.ndarray, mos: np.ndarray) -> float:
    """Return the Pearson linear correlation, with no logistic mapping. Arguments, result and errors: see ``srcc``."""
    return _correlation(stats.pearsonr, pred, mos)


def rmse(pred: np.ndarray, mos: np.ndarray) -> float:
    """Return the root mean square error, with no logistic mapping, in the unit of the scores.

    Args:
        pred: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).

    Returns:
        At least 0, lower is better; NaN for no images.

    Raises:
        ValueError: If the shapes differ or are not (N,), or a value is not finite.
    """
    pred, mos = _checked(pred, mos)
    return float(np.sqrt(np.mean((pred - mos) ** 2))) if len(pred) else float("nan")


def correlations(pred: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """Return all four measures by name: "SRCC", "KRCC", "PLCC" and "RMSE", with no logistic mapping.

    Args:
        pred: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).

    Raises:
        ValueError: If the shapes differ or are not (N,), or a value is not finite.
    """
    return {"SRCC": srcc(pred, mos), "KRCC": krcc(pred, mos), "PLCC": plcc(pred, mos), "RMSE": rmse(pred, mos)}


def column_correlations(pred: np.ndarray, mos: np.ndarray, columns: list[str]) -> dict[str, float]:
    """Return ``correlations``; with several columns, their means, and each also as "COLUMN SRCC" and so on.

    Args:
        pred: Shape (N,), or (N, K).
        mos: Same shape as ``pred``; NaN where an image is not rated.
        columns: K names.
    """
    values = {}
    for name, p, m in zip(columns, pred.reshape(len(pred), -1).T, mos.reshape(len(mos), -1).T, strict=True):
        rated = np.isfinite(m)
        values[name] = correlations(p[rated], m[rated])
    if len(columns) == 1:
        return values[columns[0]]
    # a column that nobody rated here, or that is constant, has no part in the mean
    finite = {key: [of[key] for of in values.values() if not math.isnan(of[key])] for key in values[columns[0]]}
    means = {key: float(np.mean(numbers)) if numbers else math.nan for key, numbers in finite.items()}
    return means | {f"{name} {key}": value for name, of in values.items() for key, value in of.items()}


def within_scene_srcc(pred: np.ndarray, mos: np.ndarray, scenes: Sequence[str] | np.ndarray) -> float:
    """Return the mean over the scenes of the SRCC among the images of one scene.

    This measure tells whether colorizations of one photograph are ranked as people rank them. An SRCC over all images mixes
    that with the differences between scenes. Every scene counts the same. Scenes with fewer than three images and scenes
    whose predictions or MOS are all equal are left out.

    Args:
        pred: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).
        scenes: Scene of each image, length N.

    Returns:
        In [-1, 1], higher is better; NaN if no scene is left.

    Raises:
        ValueError: If the shapes differ or are not (N,), or a value is not finite.
    """
    pred, mos = _checked(pred, mos)
    scenes = np.asarray(scenes)
    if scenes.shape != pred.shape:
        raise ValueError(f"expected one scene per image, shape {pred.shape}, got {scenes.shape}")
    members = [np.flatnonzero(scenes == scene) for scene in np.unique(scenes)]
    values = [srcc(pred[rows], mos[rows]) for rows in members if len(rows) >= _MIN_SCENE_IMAGES]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _correlation(function: Callable, pred: np.ndarray, mos: np.ndarray) -> float:
    pred, mos = _checked(pred, mos)
    # SciPy returns NaN here too, but warns each time and, with fewer than two images, raises an error.
    if len(pred) < 2 or np.ptp(pred) == 0 or np.ptp(mos) == 0:
        return float("nan")
    return float(function(pred, mos).statistic)


def _checked(pred: np.ndarray, mos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    pred, mos = np.asarray(pred, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    if pred.ndim != 1 or pred.shape != mos.shape:
        raise ValueError(f"expected pred and mos of one shape (N,), got {pred.shape} and {mos.shape}")
    for name, values in (("pred", pred), ("mos", mos)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(values)} values of {name} are not finite, e.g. {values[bad[0]]} at index "
                f"{bad[0]}; keep only rated images, and check the model if it is pred"
            )
    return pred, mos

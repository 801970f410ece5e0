"""Comparison of two predictors on the same images: differences with intervals, tests, and pairs won.

References:
    Williams, The comparison of regression variables, J. R. Stat. Soc. B 21, 1959: the t test.
    Steiger, Tests for comparing elements of a correlation matrix, Psychological Bulletin 87, 1980: equation 7 is the t of
    Williams, equation 14 the Z.
    McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 12, 1947: the pairs.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from evaluation.agreement import Predictor, Resamples, resampled_plcc, resampled_srcc, shown
from evaluation.pairs import pairwise_accuracy, scene_pairs, verdicts
from utils.metrics import plcc, srcc

METRICS = ("SRCC", "PLCC", "pairwise accuracy")
COLUMNS = (
    *("metric", "first", "second", "difference", "low", "high", "williams_t", "williams_p", "steiger_z", "steiger_p"),
    *("wins", "losses", "mcnemar_p", "n", "scenes", "note"),
)
_LARGEST = {"SRCC": 2.0, "PLCC": 2.0, "pairwise accuracy": 1.0}  # differences
_PAIRS_NOTE = "n counts clearly different pairs"
_ALIKE = 1e-12  # correlation of the two predictors up to which they are told apart, below 1


class Tested(NamedTuple):
    """Statistic and p of a test; NaN where the test is not defined."""

    statistic: float
    p: float  # two-sided


def williams(first: float, second: float, between: float, n: int) -> Tested:
    """Test whether two predictors correlate equally with the MOS: the t test of Williams, with n - 3 degrees of freedom.

    Args:
        first: Correlation of one predictor with the MOS.
        second: Correlation of the other with the MOS.
        between: Correlation of the two predictors.
        n: Number of images, which the test assumes to be independent.

    Returns:
        t and p; t is above 0 if ``first`` is higher. NaN for fewer than 4 images and for predictors that correlate perfectly.
    """
    if n < 4 or not 1 - abs(between) > _ALIKE:
        return Tested(math.nan, math.nan)
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    mean = (first + second) / 2
    spread = 2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - between) ** 3
    if not spread > 0:
        return Tested(math.nan, math.nan)
    t = (first - second) * math.sqrt((n - 1) * (1 + between) / spread)
    return Tested(t, float(2 * stats.t.sf(abs(t), n - 3)))


def steiger(first: float, second: float, between: float, n: int) -> Tested:
    """Test whether two predictors correlate equally with the MOS: Steiger's Z of Fisher-transformed correlations.

    Arguments and result are the same as in :func:`williams`, with Z, which is normal, in place of t. The result is NaN also
    where a predictor correlates perfectly with the MOS.
    """
    mean = (first + second) / 2
    if n < 4 or not (1 - abs(between) > _ALIKE and max(abs(first), abs(second)) < 1):
        return Tested(math.nan, math.nan)
    covariance = between * (1 - 2 * mean**2) - mean**2 / 2 * (1 - 2 * mean**2 - between**2)
    together = covariance / (1 - mean**2) ** 2
    if not together < 1:
        return Tested(math.nan, math.nan)
    z = (math.atanh(first) - math.atanh(second)) * math.sqrt((n - 3) / (2 - 2 * together))
    return Tested(z, float(2 * stats.norm.sf(abs(z))))


def mcnemar(wins: int, losses: int) -> float:
    """Return the two-sided p of McNemar's exact test that ``wins`` and ``losses`` are equally likely; 1 if both are 0."""
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def compare_predictors(
    first: Predictor,
    second: Predictor,
    mos: np.ndarray,
    scenes: np.ndarray,
    noise: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare two predictors on the same images.

    Args:
        first: Predictions, shape (N,).
        second: Predictions of the other predictor for the same images, shape (N,).
        mos: Mean opinion scores, shape (N,).
        scenes: Scene of each image, shape (N,).
        noise: Standard error of each MOS, shape (N,).
        resamples: Number of bootstrap draws of scenes, the same draws for both predictors.
        seed: Seed of the bootstrap.

    Returns:
        :data:`COLUMNS`, one row for each of :data:`METRICS`: both values, ``first`` less ``second`` with its 95 %
        interval, and the tests of correlations (for SRCC on ranks, which is an approximation). For pairs that people tell
        apart, ``wins`` and ``losses`` are the shares that only the first or only the second predictor orders as people do.
        NaN where a value does not apply or is not defined. n counts images, or pairs.
    """
    names, scene = np.unique(scenes, return_inverse=True)
    draws = Resamples(len(names), resamples, seed)
    pairs = scene_pairs(mos, scene, noise)
    both = (first, second)
    ones = np.ones((1, len(names)))
    values = {
        "SRCC": [srcc(p.order, mos) for p in both],
        "PLCC": [plcc(p.value, mos) for p in both],
        "pairwise accuracy": [float(pairwise_accuracy(pairs, p.step, ones)[0]) for p in both],
    }
    samples = {
        "SRCC": [resampled_srcc(p.order, mos, scene, draws.counts) for p in both],
        "PLCC": [resampled_plcc(p.value, mos, scene, draws.counts) for p in both],
        "pairwise accuracy": [pairwise_accuracy(pairs, p.step, draws.counts) for p in both],
    }
    scenes_of = dict.fromkeys(METRICS, len(names)) | {"pairwise accuracy": len(np.unique(pairs.scene[pairs.clear]))}
    between = {"SRCC": srcc(first.order, second.order), "PLCC": plcc(first.value, second.value)}
    rows = []
    for metric in METRICS:
        value, other = values[metric]
        difference = value - other
        low, high, note = draws.interval(difference, samples[metric][0] - samples[metric][1], scenes_of[metric])
        low, high = np.clip((low, high), -_LARGEST[metric], _LARGEST[metric])
        notes = [note]
        row: dict[str, Any] = {"metric": metric, "first": value, "second": other, "n": len(mos)}
        row |= {"difference": difference, "low": low, "high": high}
        if metric in between:
            row["williams_t"], row["williams_p"] = williams(value, other, between[metric], len(mos))
            row["steiger_z"], row["steiger_p"] = steiger(value, other, between[metric], len(mos))
            if math.isfinite(difference) and math.isnan(row["williams_t"]):
                notes.append("no test: fewer than 4 images, or the predictors correlate perfectly")
        else:
            right = [verdicts(pairs, p.step) == 1 for p in both]
            won, lost = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
            row["n"] = len(right[0])
            notes.append(_PAIRS_NOTE)
            if row["n"]:
                row |= {"wins": won / row["n"], "losses": lost / row["n"], "mcnemar_p": mcnemar(won, lost)}
        rows.append(row | {"note": "; ".join(filter(None, notes))})
    return pd.DataFrame(rows).assign(scenes=len(names)).reindex(columns=list(COLUMNS))


def compact_comparison(table: pd.DataFrame) -> pd.DataFrame:
    """Format the table of :func:`compare_predictors` as text; the columns dimension and versus stand before it."""
    lines = []
    for row in table.to_dict("records"):
        line = {"dimension": row["dimension"], "versus": Path(row["versus"]).name, "measure": row["metric"], "n": str(row["n"])}
        line |= {"network": shown(row["first"]), "other": shown(row["second"])}
        line["difference"] = shown(row["difference"], row["low"], row["high"])
        for name, column, p in (("Williams t", "williams_t", "williams_p"), ("Steiger Z", "steiger_z", "steiger_p")):
            line[name] = _with_p(f"{row[column]:.2f}", row[p])
        line["won : lost"] = _with_p(f"{100 * row['wins']:.1f} % : {100 * row['losses']:.1f} %", row["mcnemar_p"])
        lines.append(line)
    return pd.DataFrame(lines)


def comparison_notes(table: pd.DataFrame) -> list[str]:
    """Return lines that explain how to read the table, and every note on its rows."""
    notes: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        for note in row["note"].split("; "):
            if note and note != _PAIRS_NOTE:
                notes.setdefault(f"{row['dimension']}, versus {row['versus']}: {note}", []).append(row["metric"])
    return [
        "difference: network less the other, on the images that both have; every draw takes the same scenes for both.",
        "p is two-sided and takes images and pairs for independent, which those of one scene are not: the interval is safer.",
        "Williams t and Steiger Z of SRCC are those of ranks, an approximation.",
        "won : lost: clear pairs that the network orders rightly and the other does not, and the reverse; p by McNemar, exact.",
        *(note if len(on) == len(METRICS) else f"{note} ({', '.join(on)})" for note, on in notes.items()),
    ]


def _with_p(text: str, p: float) -> str:
    return f"{text}, p = {p:.2g}" if math.isfinite(p) else ""

"""Do scores order pairs of images of one scene as people do: pairwise accuracy, and two areas under a ROC curve.

Reference:
    Krasula, Fliegel, Le Callet and Klima, On the accuracy of objective image and video quality models: new methodology for
    performance evaluation, QoMEX 2016. Differs from it: pairs are within scenes only.

Every measure is computed in any number of resamples of scenes at once; ``counts``, shape (R, K), says how often each of the K
scenes occurs in each. A scene that occurs twice has its pairs twice, and none between its copies. With ones, shape (1, K), a
measure is that of the images themselves.
"""

from dataclasses import dataclass

import numpy as np

_CLEAR = 1.96  # standard errors, for 95 %
_DECIMALS = 12  # lest equal differences, such as 0.3 - 0.1 and 0.2 - 0.0, come out unequal


@dataclass(frozen=True)
class Pairs:
    """All pairs of images of one scene.

    Attributes:
        first: Index of one image of each pair, shape (P,).
        second: Index of the other, shape (P,).
        scene: Number of the scene of each pair, shape (P,).
        better: 1 where people put the first image clearly above the second, -1 where below, and 0 where the difference of
            their MOS may be noise of the ratings, shape (P,).
    """

    first: np.ndarray
    second: np.ndarray
    scene: np.ndarray
    better: np.ndarray

    @property
    def clear(self) -> np.ndarray:
        """Where the two are clearly different, shape (P,)."""
        return self.better != 0

    def steps(self, pred: np.ndarray) -> np.ndarray:
        """Prediction of the first image less that of the second, shape (P,)."""
        return (pred[self.first] - pred[self.second]).round(_DECIMALS)


def scene_pairs(mos: np.ndarray, scene: np.ndarray, noise: np.ndarray) -> Pairs:
    """The pairs within scenes, and which of them people tell apart.

    Two images are clearly different if |d| / sqrt(e1^2 + e2^2) is at least 1.96, with d the difference of their MOS and e the
    standard errors.

    Args:
        mos: Mean opinion scores, shape (N,).
        scene: Number of each image's scene, shape (N,), at least 0.
        noise: Standard error of each MOS, in its unit, shape (N,).
    """
    members = [np.flatnonzero(scene == k) for k in np.unique(scene)]
    both = [m[np.stack(np.triu_indices(len(m), 1))] for m in members]  # (2, P') each
    first, second = np.concatenate([np.empty((2, 0), int), *both], axis=1)
    difference = (mos[first] - mos[second]).round(_DECIMALS)
    clear = (difference != 0) & (np.abs(difference) >= _CLEAR * np.hypot(noise[first], noise[second]))
    return Pairs(first, second, scene[first], np.where(clear, np.sign(difference), 0).astype(int))


def verdicts(pairs: Pairs, pred: np.ndarray) -> np.ndarray:
    """Of the clearly different pairs, 1 where the predictions order the two as people do, -1 where the other way round, 0
    where they are equal."""
    return (np.sign(pairs.steps(pred)) * pairs.better)[pairs.clear].astype(int)


def pairwise_accuracy(pairs: Pairs, pred: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of the clearly different pairs that the predictions order as people do; equal predictions count one half.

    Args:
        pairs: Of :func:`scene_pairs`.
        pred: Predictions, shape (N,).
        counts: How often each scene occurs, shape (R, K).

    Returns:
        In [0, 1], higher is better, 0.5 for predictions that say nothing, shape (R,); NaN where no pair is left.
    """
    scene, scenes = pairs.scene[pairs.clear], counts.shape[1]
    right = counts @ np.bincount(scene, (1 + verdicts(pairs, pred)) / 2, scenes)
    return safe_divide(right, counts @ np.bincount(scene, minlength=scenes))


def auc_different(pairs: Pairs, pred: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Can the size of a difference of predictions tell clearly different pairs from the others?

    The probability that it is larger for a pair of the former than for one of the latter, equal ones counted one half. The
    two pairs may be of two scenes. Arguments and result as of :func:`pairwise_accuracy`.
    """
    size, clear = np.abs(pairs.steps(pred)), pairs.clear
    return _auc(size[clear], pairs.scene[clear], size[~clear], pairs.scene[~clear], counts)


def auc_better(pairs: Pairs, pred: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Can the difference of predictions tell which image of a clearly different pair is the better one?

    Unlike :func:`pairwise_accuracy`, it counts how large a difference is: one that goes the wrong way must be smaller than
    those that go the right way. Every pair is taken both ways round, since which image comes first is arbitrary: the
    probability that better less worse exceeds worse less better of any pair. Arguments and result as of
    :func:`pairwise_accuracy`.
    """
    clear = pairs.clear
    step, scene = (pairs.steps(pred) * pairs.better)[clear], pairs.scene[clear]
    return _auc(step, scene, -step, scene, counts)


def _auc(high: np.ndarray, of_high: np.ndarray, low: np.ndarray, of_low: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Probability that a value of ``high`` exceeds one of ``low``, which are of the scenes ``of_high`` and ``of_low``."""
    scenes = counts.shape[1]
    wins = np.zeros((scenes, scenes))  # of the values of one scene over those of another
    for scene in np.unique(of_low):
        lower = np.sort(low[of_low == scene])
        exceeded = (np.searchsorted(lower, high, "left") + np.searchsorted(lower, high, "right")) / 2
        wins[:, scene] = np.bincount(of_high, exceeded, scenes)
    against = (counts @ np.bincount(of_high, minlength=scenes)) * (counts @ np.bincount(of_low, minlength=scenes))
    return safe_divide(((counts @ wins) * counts).sum(1), against)


def safe_divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient of two arrays of shape (R,); NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)

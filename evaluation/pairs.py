"""Agreement of scores with people on pairs of images of one scene: pairwise accuracy, and two areas under a ROC curve.

Reference:
    Krasula, Fliegel, Le Callet and Klima, On the accuracy of objective image and video quality models: new methodology for
    performance evaluation, QoMEX 2016. Unlike there, pairs are within scenes only.

Every measure is computed in R resamples of scenes at once; ``counts``, shape (R, K), holds how often each of the K
scenes occurs in each resample. A scene that occurs twice has its pairs twice, and no pairs between its copies. With ones, shape
(1, K), the result is the measure of the images without resampling.
"""

from dataclasses import dataclass

import numpy as np

_CLEAR = 1.96  # standard errors, for 95 %
_DECIMALS = 12  # so that equal differences, such as 0.3 - 0.1 and 0.2 - 0.0, stay equal


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
        """Return whether the two images of each pair are clearly different, shape (P,)."""
        return self.better != 0

    def steps(self, pred: np.ndarray) -> np.ndarray:
        """Return the prediction of the first image less the prediction of the second, shape (P,)."""
        return (pred[self.first] - pred[self.second]).round(_DECIMALS)


def scene_pairs(mos: np.ndarray, scene: np.ndarray, noise: np.ndarray) -> Pairs:
    """Return the pairs within scenes, and which of them people tell apart.

    Two images are clearly different if |d| / sqrt(e1^2 + e2^2) is at least 1.96, with d the difference of their MOS and e their
    standard errors.

    Args:
        mos: Mean opinion scores, shape (N,).
        scene: Number of each image's scene, shape (N,), at least 0.
        noise: Standard error of each MOS, in the unit of the MOS, shape (N,).
    """
    members = [np.flatnonzero(scene == k) for k in np.unique(scene)]
    both = [m[np.stack(np.triu_indices(len(m), 1))] for m in members]  # (2, P') each
    first, second = np.concatenate([np.empty((2, 0), int), *both], axis=1)
    difference = (mos[first] - mos[second]).round(_DECIMALS)
    clear = (difference != 0) & (np.abs(difference) >= _CLEAR * np.hypot(noise[first], noise[second]))
    return Pairs(first, second, scene[first], np.where(clear, np.sign(difference), 0).astype(int))


def verdicts(pairs: Pairs, pred: np.ndarray) -> np.ndarray:
    """Return for each clearly different pair 1 if the predictions order its images as people do, -1 if they order them the
    other way round, and 0 if they are equal."""
    return (np.sign(pairs.steps(pred)) * pairs.better)[pairs.clear].astype(int)


def pairwise_accuracy(pairs: Pairs, pred: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the share of clearly different pairs that the predictions order as people do; equal predictions count one half.

    Args:
        pairs: Result of :func:`scene_pairs`.
        pred: Predictions, shape (N,).
        counts: How often each scene occurs, shape (R, K).

    Returns:
        Shares in [0, 1], shape (R,). Higher is better, and 0.5 is chance. NaN where no pair is left.
    """
    scene, scenes = pairs.scene[pairs.clear], counts.shape[1]
    right = counts @ np.bincount(scene, (1 + verdicts(pairs, pred)) / 2, scenes)
    return safe_divide(right, counts @ np.bincount(scene, minlength=scenes))


def auc_different(pairs: Pairs, pred: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Measure how well the size of a difference of predictions tells clearly different pairs from the others.

    The measure is the probability that the size is larger for a clearly different pair than for another pair; equal sizes count
    one half. The two pairs may be of two scenes. Arguments and result are the same as in :func:`pairwise_accuracy`.
    """
    size, clear = np.abs(pairs.steps(pred)), pairs.clear
    return _auc(size[clear], pairs.scene[clear], size[~clear], pairs.scene[~clear], counts)


def auc_better(pairs: Pairs, pred: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Measure how well the difference of predictions tells which image of a clearly different pair is better.

    The measure is the probability that the difference "better less worse" of one pair exceeds the difference "worse less
    better" of any pair. Every pair is taken both ways round, since the order of its images is arbitrary. Unlike
    :func:`pairwise_accuracy`, the measure depends on the size of the differences: wrong ones should be smaller than right ones.
    Arguments and result are the same as in :func:`pairwise_accuracy`.
    """
    clear = pairs.clear
    step, scene = (pairs.steps(pred) * pairs.better)[clear], pairs.scene[clear]
    return _auc(step, scene, -step, scene, counts)


def _auc(high: np.ndarray, of_high: np.ndarray, low: np.ndarray, of_low: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the probability that a value of ``high`` exceeds one of ``low``; ``of_high`` and ``of_low`` are their scenes."""
    scenes = counts.shape[1]
    wins = np.zeros((scenes, scenes))  # of the values of one scene over those of another
    for scene in np.unique(of_low):
        lower = np.sort(low[of_low == scene])
        exceeded = (np.searchsorted(lower, high, "left") + np.searchsorted(lower, high, "right")) / 2
        wins[:, scene] = np.bincount(of_high, exceeded, scenes)
    against = (counts @ np.bincount(of_high, minlength=scenes)) * (counts @ np.bincount(of_low, minlength=scenes))
    return safe_divide(((counts @ wins) * counts).sum(1), against)


def safe_divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient of two arrays of shape (R,); NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)

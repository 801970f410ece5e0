"""Pairs within scenes: against SciPy, hand counts, and plain loops over pairs written out."""

import itertools
import math

import numpy as np
import pytest
from conftest import drawn_scenes
from scipy import stats

from evaluation.agreement import PAIR_METRICS, Resamples, draw_scenes, pair_agreement
from evaluation.pairs import auc_better, auc_different, pairwise_accuracy, scene_pairs, verdicts

MEASURES = dict(zip(PAIR_METRICS, (pairwise_accuracy, auc_different, auc_better), strict=True))


def sample(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predictions and MOS with ties, scenes of 1 to 6 images that lie apart, and standard errors."""
    rng = np.random.default_rng(seed)
    scene = rng.permutation(np.repeat(np.arange(8), [1, 2, 3, 4, 5, 6, 3, 4]))
    pred = rng.normal(0, 0.4, len(scene)).round(1)
    mos = (0.6 * pred + rng.normal(0, 0.3, len(scene))).round(1)
    return pred, mos, scene, rng.uniform(0.02, 0.2, len(scene))


def by_loop(pred: np.ndarray, mos: np.ndarray, noise: np.ndarray, members: list[np.ndarray]) -> dict[str, float]:
    """The measures of scenes, as often as they are listed, one pair after another."""
    right, sure, unsure, steps = [], [], [], []
    for rows in members:
        for i, j in itertools.combinations(rows, 2):
            step, apart = round(pred[i] - pred[j], 9), mos[i] - mos[j]
            if abs(apart) / math.sqrt(noise[i] ** 2 + noise[j] ** 2) < 1.96:
                unsure.append(abs(step))
                continue
            sure.append(abs(step))
            steps.append(step if apart > 0 else -step)
            right.append(0.5 if step == 0 else float((step > 0) == (apart > 0)))

    def area(high: list[float], low: list[float]) -> float:
        return float(np.mean([(h > v) + 0.5 * (h == v) for h in high for v in low])) if high and low else math.nan

    return {
        "pairwise accuracy": float(np.mean(right)) if right else math.nan,
        "AUC different": area(sure, unsure),
        "AUC better": area(steps, [-step for step in steps]),
    }


def test_values_and_intervals_are_those_of_a_plain_loop_over_drawn_images():
    pred, mos, scene, noise = sample()
    names = np.array([f"s{k}" for k in scene])
    measured = pair_agreement(pred, mos, names, noise, 60, 3).set_index("metric")
    members = [np.flatnonzero(scene == k) for k in range(8)]
    expected = by_loop(pred, mos, noise, members)
    drawn = [by_loop(pred, mos, noise, [members[k] for k in draw]) for draw in drawn_scenes(8, 60, 3)]
    pairs = scene_pairs(mos, scene, noise)
    assert tuple(measured.index) == PAIR_METRICS
    for metric in PAIR_METRICS:
        of = pairs.scene if metric == "AUC different" else pairs.scene[pairs.clear]
        sample_of_metric = np.array([values[metric] for values in drawn])
        low, high, _ = Resamples(8, 60, 3).interval(expected[metric], sample_of_metric, len(set(of)), (0, 1))
        assert measured.loc[metric, ["value", "low", "high"]].tolist() == pytest.approx([expected[metric], low, high])
        assert low < expected[metric] < high


def test_areas_are_those_of_the_u_test_of_scipy():
    pred, mos, scene, noise = sample(1)
    pairs = scene_pairs(mos, scene, noise)
    size, clear = np.abs(pairs.steps(pred)), pairs.clear
    u = stats.mannwhitneyu(size[clear], size[~clear]).statistic
    ones = np.ones((1, 8))
    assert auc_different(pairs, pred, ones)[0] == pytest.approx(u / (clear.sum() * (~clear).sum()))
    step = (pairs.steps(pred) * pairs.better)[clear]
    assert auc_better(pairs, pred, ones)[0] == pytest.approx(stats.mannwhitneyu(step, -step).statistic / len(step) ** 2)


def test_measures_agree_with_a_hand_count():
    # Scene 0: MOS 0.0, 0.1, 0.5; noise 0.1, so 0.28 is a clear difference: pairs (0, 2) and (1, 2) are clear.
    # Scene 1: MOS 0.4, 0.0: clear. Predictions order (0, 2) rightly by 0.4, (1, 2) not at all, (3, 4) wrongly by 0.1.
    mos = np.array([0.0, 0.1, 0.5, 0.4, 0.0])
    pred = np.array([0.1, 0.5, 0.5, 0.2, 0.3])
    pairs = scene_pairs(mos, np.array([0, 0, 0, 1, 1]), np.full(5, 0.1))
    assert list(zip(pairs.first, pairs.second, pairs.better, strict=True)) == [(0, 1, 0), (0, 2, -1), (1, 2, -1), (3, 4, 1)]
    assert verdicts(pairs, pred).tolist() == [1, 0, -1]
    counts = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0], [1.0, 3.0]])
    # 1.5 of 3; of scene 0 twice 3 of 4; of scene 1 none of 2; 1.5 of 5
    assert pairwise_accuracy(pairs, pred, counts) == pytest.approx([0.5, 0.75, 0, 0.3])
    # sizes 0.4, 0, 0.1 of clear pairs against 0.4 of the one that is not: half a win of 3; half of 2; no other; half of 5
    assert auc_different(pairs, pred, counts) == pytest.approx([0.5 / 3, 0.25, math.nan, 0.1], nan_ok=True)
    # 0.4, 0, -0.1 against -0.4, 0, 0.1: 3 + 1.5 + 1 of 9; 0.4, 0 against -0.4, 0: 2 + 1.5 of 4; none
    assert auc_better(pairs, pred, counts)[:3] == pytest.approx([5.5 / 9, 3.5 / 4, 0])


def test_a_difference_is_clear_from_1_96_standard_errors_on():
    mos, scene = np.array([0.0, 0.3]), np.zeros(2, int)
    limit = 0.3 / 1.96 / math.sqrt(2)
    assert scene_pairs(mos, scene, np.full(2, 1.001 * limit)).better.tolist() == [0]
    assert scene_pairs(mos, scene, np.full(2, 0.999 * limit)).better.tolist() == [-1]
    assert scene_pairs(mos, scene, np.array([0.3 / 1.95, 0.0])).better.tolist() == [0]
    assert scene_pairs(mos, scene, np.array([0.0, 0.3 / 1.97])).better.tolist() == [-1]


def test_without_noise_only_equal_mos_are_ties():
    mos = np.array([0.3 - 0.1, 0.2, 0.2 + 1e-6])  # the first two differ in the last digit
    assert mos[0] != mos[1]
    assert scene_pairs(mos, np.zeros(3, int), np.zeros(3)).better.tolist() == [0, -1, -1]


def test_equal_differences_of_predictions_are_equal_although_floats_differ():
    # Both pairs have the step 0.2, in floats 0.19999999999999998 and 0.2.
    mos, scene = np.array([0.5, 0.0, 0.0, 0.0]), np.array([0, 0, 1, 1])
    pred = np.array([0.3, 0.1, 0.2, 0.0])
    assert pred[0] - pred[1] != pred[2] - pred[3]
    pairs = scene_pairs(mos, scene, np.full(4, 0.1))
    assert auc_different(pairs, pred, np.ones((1, 2)))[0] == 0.5


def test_measures_depend_on_the_order_of_neither_images_nor_scenes():
    pred, mos, scene, noise = sample(2)
    shuffled = np.random.default_rng(0).permutation(len(pred))
    other = np.array([3, 0, 7, 5, 1, 6, 2, 4])[scene]
    for function in MEASURES.values():
        once = function(scene_pairs(mos, scene, noise), pred, np.ones((1, 8)))
        arguments = (values[shuffled] for values in (mos, other, noise))
        again = function(scene_pairs(*arguments), pred[shuffled], np.ones((1, 8)))
        assert again == pytest.approx(once, abs=1e-12)


def test_perfect_predictions_are_right_everywhere_and_reversed_ones_nowhere():
    _, mos, scene, noise = sample()
    pairs = scene_pairs(mos, scene, np.full_like(noise, 0.1))
    ones = np.ones((1, 8))
    for function in MEASURES.values():
        assert function(pairs, mos, ones)[0] == 1
    assert pairwise_accuracy(pairs, -mos, ones)[0] == auc_better(pairs, -mos, ones)[0] == 0
    assert auc_different(pairs, -mos, ones)[0] == 1


def test_constant_predictions_are_chance_and_constant_mos_leave_no_clear_pair():
    pred, mos, scene, noise = sample()
    names = scene.astype(str)
    flat = pair_agreement(np.full(len(pred), 1 / 3), mos, names, noise, 20)
    assert flat[["value", "low", "high"]].to_numpy() == pytest.approx(np.full((3, 3), 0.5))
    measured = pair_agreement(pred, np.full(len(pred), 1 / 3), names, noise, 20).set_index("metric")
    assert measured[["value", "low", "high"]].isna().all(axis=None)
    assert measured["n"].tolist() == [0, 44, 0]  # 0 + 1 + 3 + 6 + 10 + 15 + 3 + 6
    assert measured.loc["AUC better", "note"] == "n counts pairs within scenes, 0 of 44 clearly different"


def test_scenes_of_one_image_have_no_pairs_and_one_scene_no_interval():
    alone = pair_agreement(np.arange(4.0), np.arange(4.0), np.array(list("abcd")), np.full(4, 0.1), 20)
    assert alone[["value", "low", "high"]].isna().all(axis=None)
    assert alone["n"].tolist() == [0, 0, 0]
    one = pair_agreement(np.arange(4.0), np.arange(4.0), np.array(["a"] * 4), np.full(4, 0.1), 20).set_index("metric")
    assert one.loc["pairwise accuracy", ["value", "n"]].tolist() == [1, 6]
    assert one[["low", "high"]].isna().all(axis=None)
    assert one.loc["pairwise accuracy", "note"].endswith("6 of 6 clearly different; one scene: no interval")
    none = pair_agreement(np.array([]), np.array([]), np.array([], dtype=str), np.array([]), 20)
    assert none["value"].isna().all()


def test_resamples_without_a_clear_pair_do_not_count_and_are_noted():
    step = [0.05, 0.05, 0.6, 0.7, 0.8, 0.9]  # of the two images of each scene; two of the six are no clear pairs
    mos = np.array([[0.0, s] for s in step]).ravel()
    pred = np.array([[0.0, s] for s in (0.1, 0.1, 0.2, 0.3, -0.1, 0.2)]).ravel()
    names = np.repeat(list("abcdef"), 2)
    measured = pair_agreement(pred, mos, names, np.full(12, 0.1), 2000).set_index("metric")
    without = int((draw_scenes(6, 2000, 0)[:, 2:].sum(1) == 0).sum())
    assert 0 < without < 100
    assert measured.loc["pairwise accuracy", "note"].endswith(f"not defined in {without} of 2000 resamples")
    low, high = measured.loc["pairwise accuracy", ["low", "high"]]
    assert 0 < low < 0.75 < high < 1

"""Agreement with MOS, against hand counts and published values."""

import math
import warnings

import numpy as np
import pytest

from utils.metrics import correlations, krcc, plcc, rmse, srcc, within_scene_srcc

# Anscombe, "Graphs in Statistical Analysis", The American Statistician 27, 1973: set I.
ANSCOMBE_X = np.array([10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5], dtype=float)
ANSCOMBE_Y = np.array([8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68])


def test_correlations_agree_with_a_hand_count():
    pred, mos = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 1, 4, 3, 5])
    assert srcc(pred, mos) == pytest.approx(1 - 6 * 4 / (5 * 24))  # squared rank differences sum to 4
    assert krcc(pred, mos) == pytest.approx((8 - 2) / 10)  # 8 pairs agree, 2 do not
    assert plcc(pred, mos) == pytest.approx(8 / 10)  # covariance over variance, both times n
    assert rmse(pred, mos) == pytest.approx(math.sqrt(4 / 5))


def test_ties_take_mean_ranks_and_tau_b():
    pred, mos = np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4])
    assert srcc(pred, mos) == pytest.approx(4.5 / math.sqrt(4.5 * 5))  # ranks 1, 2.5, 2.5, 4
    assert krcc(pred, mos) == pytest.approx(5 / math.sqrt(5 * 6))  # 5 of 6 pairs agree, one is tied; tau-a is 5/6


def test_plcc_of_anscombe_is_the_published_one():
    assert plcc(ANSCOMBE_X, ANSCOMBE_Y) == pytest.approx(0.816, abs=5e-4)


def test_rank_correlations_ignore_a_monotone_map_and_plcc_a_linear_one():
    x, y = ANSCOMBE_X / 10, ANSCOMBE_Y
    assert srcc(np.exp(x), y) == pytest.approx(srcc(x, y))
    assert krcc(np.exp(x), y) == pytest.approx(krcc(x, y))
    assert plcc(3 * x - 1, y) == pytest.approx(plcc(x, y))
    assert plcc(np.exp(x), y) != pytest.approx(plcc(x, y))  # no logistic mapping hides inside
    assert srcc(-x, y) == pytest.approx(-srcc(x, y))


def test_correlations_name_all_measures():
    metrics = correlations(ANSCOMBE_X.astype(np.float32), ANSCOMBE_Y)
    assert metrics == {
        "SRCC": srcc(ANSCOMBE_X, ANSCOMBE_Y),
        "KRCC": krcc(ANSCOMBE_X, ANSCOMBE_Y),
        "PLCC": plcc(ANSCOMBE_X, ANSCOMBE_Y),
        "RMSE": rmse(ANSCOMBE_X, ANSCOMBE_Y),
    }
    assert all(type(value) is float for value in metrics.values())


@pytest.mark.parametrize("measure", [srcc, krcc, plcc])
def test_undefined_correlations_are_nan_without_a_warning(measure):
    some, constant = np.array([0.1, 0.2, 0.3]), np.full(3, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(measure(constant, some))
        assert math.isnan(measure(some, constant))
        assert math.isnan(measure(some[:1], some[:1]))
        assert math.isnan(measure(some[:0], some[:0]))
        assert measure(some[:2], -some[:2]) == pytest.approx(-1)


def test_rmse_is_defined_from_one_image():
    assert rmse(np.array([0.5]), np.array([0.2])) == pytest.approx(0.3)
    assert math.isnan(rmse(np.array([]), np.array([])))


@pytest.mark.parametrize("measure", [srcc, krcc, plcc, rmse, correlations])
def test_values_that_are_not_finite_are_errors(measure):
    good, bad = np.array([0.1, 0.2, 0.3]), np.array([0.1, np.nan, np.inf])
    with pytest.raises(ValueError, match=r"2 of 3 values of pred are not finite, e\.g\. nan at index 1"):
        measure(bad, good)
    with pytest.raises(ValueError, match="values of mos are not finite"):
        measure(good, bad)


def test_shapes_must_be_equal_and_flat():
    with pytest.raises(ValueError, match=r"of one shape \(N,\), got \(3,\) and \(2,\)"):
        srcc(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match=r"got \(3, 1\) and \(3, 1\)"):
        correlations(np.zeros((3, 1)), np.zeros((3, 1)))


def test_within_scene_srcc_is_the_mean_over_scenes():
    # Within scene a the order is right, within b two of three are swapped (SRCC 0.5); over all images it is wrong.
    pred = np.array([7.0, 8, 9, 1, 3, 2])
    mos = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    scenes = ["a", "a", "a", "b", "b", "b"]
    assert within_scene_srcc(pred, mos, scenes) == pytest.approx((1 + 0.5) / 2)
    assert srcc(pred, mos) < 0
    order = np.array([4, 0, 3, 2, 5, 1])
    assert within_scene_srcc(pred[order], mos[order], np.array(scenes)[order]) == pytest.approx(0.75)


def test_within_scene_srcc_leaves_out_small_and_constant_scenes():
    pred = np.array([1.0, 2, 3, 2, 1, 5, 5, 5])
    mos = np.array([1.0, 2, 3, 1, 2, 1, 2, 3])
    scenes = np.array(["a"] * 3 + ["pair"] * 2 + ["flat"] * 3)
    assert within_scene_srcc(pred, mos, scenes) == pytest.approx(1)
    assert math.isnan(within_scene_srcc(pred[3:], mos[3:], scenes[3:]))


def test_within_scene_srcc_needs_a_scene_per_image():
    with pytest.raises(ValueError, match=r"one scene per image, shape \(3,\), got \(2,\)"):
        within_scene_srcc(np.zeros(3), np.zeros(3), ["a", "b"])

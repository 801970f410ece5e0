"""Comparison of two predictors: tests against published values and other formulas, intervals against plain loops."""

import math

import numpy as np
import pandas as pd
import pytest
from conftest import drawn_scenes
from scipy import stats

from evaluation.agreement import Predictor, Resamples
from evaluation.compare import (
    COLUMNS,
    METRICS,
    compact_comparison,
    compare_predictors,
    comparison_notes,
    mcnemar,
    steiger,
    williams,
)

NOISE = 0.05


def same(values: np.ndarray) -> Predictor:
    return Predictor(values, values, values)


def sample(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two sets of predictions, MOS and scenes of 1 to 6 images, with ties."""
    rng = np.random.default_rng(seed)
    scenes = rng.permutation(np.repeat([f"s{k}" for k in range(12)], [1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4]))
    mos = rng.normal(0, 0.4, len(scenes)).round(1)
    first = (mos + rng.normal(0, 0.3, len(scenes))).round(1)
    second = (0.5 * first + 0.4 * mos + rng.normal(0, 0.3, len(scenes))).round(1)
    return first, second, mos, scenes


def compared(first: np.ndarray, second: np.ndarray, mos: np.ndarray, scenes: np.ndarray, resamples: int = 40) -> pd.DataFrame:
    noise = np.full(len(mos), NOISE)
    return compare_predictors(same(first), same(second), mos, scenes, noise, resamples, 5).set_index("metric")


def steiger_of_four(jk: float, hm: float, jh: float, jm: float, kh: float, km: float, n: int) -> float:
    """Z of two correlations of four variables, of which ours is the case that two are the same (Steiger 1980, equation 2 with
    the mean of the two correlations in place of each, and equation 15)."""
    mean = (jk + hm) / 2
    jk_, hm_ = mean, mean
    together = (
        (jh - jk_ * kh) * (km - kh * hm_)
        + (jm - jh * hm_) * (kh - jk_ * jh)
        + (jh - jm * hm_) * (km - jk_ * jm)
        + (jm - jk_ * km) * (kh - km * hm_)
    ) / 2
    covariance = together / (1 - mean**2) ** 2
    return (math.atanh(jk) - math.atanh(hm)) * math.sqrt((n - 3) / (2 - 2 * covariance))


# Tests of correlations


def test_williams_t_is_that_of_published_examples():
    # Howell, Statistical Methods for Psychology, chapter 9: two tests of intelligence and one of arithmetic, t(23) = 1.36
    assert williams(0.80, 0.72, 0.89, 26).statistic == pytest.approx(1.36, abs=0.005)
    # Steiger 1980, two correlations with one variable in common, as in the manual of the R package psych: t = -0.89, p < 0.37
    found = williams(0.4, 0.5, 0.1, 103)
    assert found.statistic == pytest.approx(-0.89, abs=0.005)
    assert 0.365 < found.p < 0.375
    assert found.p == pytest.approx(2 * stats.t.cdf(found.statistic, 100))
    # By hand: |R| = 1 - 0.36 - 0.04 - 0.25 + 0.12 = 0.47, so 0.4 sqrt(4 * 1.5 / (2 * 4 / 2 * 0.47 + 0.16 * 0.125))
    assert williams(0.6, 0.2, 0.5, 5).statistic == pytest.approx(0.4 * math.sqrt(6 / 1.9))


def test_steiger_z_is_the_case_of_a_shared_variable_of_the_published_formula_for_four():
    # Steiger 1980, two correlations of four variables, as in the manual of the R package psych: z = -1.40
    assert steiger_of_four(jk=0.5, hm=0.6, jh=0.7, jm=0.5, kh=0.5, km=0.8, n=103) == pytest.approx(-1.40, abs=0.005)
    for first, second, between, n in (
        (0.4, 0.5, 0.1, 103),
        (0.8, 0.72, 0.89, 26),
        (-0.3, 0.2, 0.6, 12),
        (0.63, 0.41, 0.52, 50),
    ):
        mean = (first + second) / 2  # also for the two correlations with the shared variable
        expected = steiger_of_four(jk=first, hm=second, jh=1, jm=mean, kh=mean, km=between, n=n)
        found = steiger(first, second, between, n)
        assert found.statistic == pytest.approx(expected, rel=1e-9)
        assert found.p == pytest.approx(math.erfc(abs(expected) / math.sqrt(2)))


@pytest.mark.parametrize("test", [williams, steiger])
def test_swapped_predictors_change_the_sign_only_and_equal_correlations_have_none(test):
    one, other = test(0.6, 0.45, 0.5, 80), test(0.45, 0.6, 0.5, 80)
    assert one.statistic == -other.statistic > 0
    assert one.p == other.p
    assert test(0.5, 0.5, 0.3, 40) == (0, 1)


@pytest.mark.parametrize("test", [williams, steiger])
@pytest.mark.parametrize("true", [0.0, 0.5])
def test_predictors_that_are_equally_good_are_told_apart_in_one_of_twenty_samples(test, true):
    rng = np.random.default_rng(1)
    n, times = 60, 3000
    covariance = [[1, true, true], [true, 1, 0.6], [true, 0.6, 1]]
    drawn = rng.multivariate_normal([0, 0, 0], covariance, (times, n))
    drawn -= drawn.mean(1, keepdims=True)
    drawn /= np.sqrt((drawn**2).sum(1, keepdims=True))
    r = np.einsum("tni,tnj->tij", drawn, drawn)
    rejected = np.mean([test(m[0, 1], m[0, 2], m[1, 2], n).p < 0.05 for m in r])
    assert 0.038 < rejected < 0.062  # three standard deviations of the share


@pytest.mark.parametrize("test", [williams, steiger])
def test_tests_that_are_not_defined_are_nan(test):
    for arguments in ((0.5, 0.5, 1.0, 50), (0.5, -0.5, -1.0, 50), (0.5, 0.4, 0.3, 3), (math.nan, 0.4, 0.3, 50)):
        assert all(math.isnan(value) for value in test(*arguments))
    assert math.isnan(test(0.5, 0.4, math.nan, 50).statistic)
    assert math.isnan(steiger(1.0, 0.4, 0.4, 50).statistic)


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(10, 2, 0.03857421875), (25, 11, 0.0288167), (0, 7, 0.015625), (8, 8, 1.0), (0, 0, 1.0)]
)
def test_mcnemar_is_exact(wins, losses, p):
    """Values of statsmodels 0.15, ``mcnemar(table, exact=True)``, but for no pairs, where it has none."""
    assert mcnemar(wins, losses) == pytest.approx(p, abs=1e-6)
    assert mcnemar(losses, wins) == mcnemar(wins, losses)


# Comparison


def test_values_and_intervals_are_those_of_a_plain_loop_over_drawn_images():
    first, second, mos, scenes = sample()
    found = compared(first, second, mos, scenes)
    names = sorted(set(scenes))
    members = [np.flatnonzero(scenes == name) for name in names]

    def accuracy(pred: np.ndarray, chosen: list[np.ndarray]) -> float:
        right = []
        for rows in chosen:
            for position, i in enumerate(rows):
                for j in rows[:position]:
                    if abs(mos[i] - mos[j]) >= 1.96 * NOISE * math.sqrt(2):
                        step = round(pred[i] - pred[j], 9)
                        right.append(0.5 if step == 0 else float((step > 0) == (mos[i] > mos[j])))
        return float(np.mean(right))

    def measures(pred: np.ndarray, chosen: list[np.ndarray]) -> list[float]:
        rows = np.concatenate(chosen)
        srcc, plcc = (f(pred[rows], mos[rows]).statistic for f in (stats.spearmanr, stats.pearsonr))
        return [srcc, plcc, accuracy(pred, chosen)]

    draws = drawn_scenes(len(names), 40, 5)
    drawn = np.array([[measures(p, [members[k] for k in draw]) for p in (first, second)] for draw in draws])
    for column, metric in enumerate(METRICS):
        values = [measures(p, members)[column] for p in (first, second)]
        with_pairs = sum(len(rows) > 1 for rows in members) if metric == "pairwise accuracy" else None
        steps = drawn[:, 0, column] - drawn[:, 1, column]
        low, high, _ = Resamples(len(names), 40, 5).interval(values[0] - values[1], steps, with_pairs)
        expected = [*values, values[0] - values[1], low, high]
        assert found.loc[metric, ["first", "second", "difference", "low", "high"]].tolist() == pytest.approx(expected)
    assert (found["scenes"] == 12).all()


def test_tests_take_the_correlations_of_the_images_and_for_srcc_those_of_their_ranks():
    first, second, mos, scenes = sample()
    found = compared(first, second, mos, scenes)
    for metric, values in (("PLCC", (first, second, mos)), ("SRCC", [stats.rankdata(v) for v in (first, second, mos)])):
        r = np.corrcoef(values)
        tested = r[0, 2], r[1, 2], r[0, 1], len(mos)
        assert found.loc[metric, ["williams_t", "williams_p"]].tolist() == pytest.approx(williams(*tested))
        assert found.loc[metric, ["steiger_z", "steiger_p"]].tolist() == pytest.approx(steiger(*tested))
        assert found.loc[metric, "n"] == len(mos)
    assert found.loc["pairwise accuracy", ["williams_t", "steiger_z"]].isna().all()
    assert found.loc[["SRCC", "PLCC"], "mcnemar_p"].isna().all()


def test_pairs_won_and_lost_agree_with_a_hand_count():
    # All five pairs of images are clear. The first is right in 01, 02, 34 and wrong in 12 and 56; the second is right in 12
    # and 56, wrong in 01 and 34, and has 02 equal.
    scenes = np.array(["a", "a", "a", "b", "b", "c", "c"])
    mos = np.array([0.0, 0.4, 0.8, 0.0, 0.5, 0.0, 0.5])
    first = np.array([0.0, 0.5, 0.3, 0.0, 0.1, 0.2, 0.1])
    second = np.array([0.3, 0.2, 0.3, 0.1, 0.0, 0.1, 0.2])
    row = compared(first, second, mos, scenes).loc["pairwise accuracy"]
    assert row["n"] == 5
    assert row[["first", "second", "difference"]].tolist() == pytest.approx([3 / 5, 2.5 / 5, 0.1])
    assert row[["wins", "losses"]].tolist() == pytest.approx([3 / 5, 2 / 5])
    assert row["mcnemar_p"] == pytest.approx(1.0)  # 3 to 2
    assert row["note"] == "fewer than 4 scenes: no interval; n counts clearly different pairs"


def test_a_predictor_differs_from_itself_by_nothing_and_from_its_reverse_by_twice_its_own():
    first, _, mos, scenes = sample()
    itself = compared(first, first, mos, scenes)
    assert (itself[["difference", "low", "high"]] == 0).all(axis=None)
    assert itself.loc["pairwise accuracy", ["wins", "losses", "mcnemar_p"]].tolist() == [0, 0, 1]
    for metric in ("SRCC", "PLCC"):
        assert math.isnan(itself.loc[metric, "williams_p"])
        assert itself.loc[metric, "note"] == "no test: fewer than 4 images, or the predictors correlate perfectly"
    reverse = compared(first, -first, mos, scenes)
    for metric in ("SRCC", "PLCC"):
        assert reverse.loc[metric, "difference"] == pytest.approx(2 * reverse.loc[metric, "first"])
    assert reverse.loc["pairwise accuracy", ["first", "second"]].sum() == pytest.approx(1)


def test_swapped_predictors_swap_everything():
    first, second, mos, scenes = sample()
    one, other = compared(first, second, mos, scenes), compared(second, first, mos, scenes)
    assert other["difference"].to_numpy() == pytest.approx(-one["difference"].to_numpy())
    assert other["low"].to_numpy() == pytest.approx(-one["high"].to_numpy())
    row = other.loc["pairwise accuracy"]
    assert row[["wins", "losses"]].tolist() == one.loc["pairwise accuracy", ["losses", "wins"]].tolist()


def test_intervals_are_narrower_than_those_of_two_predictors_drawn_apart():
    rng = np.random.default_rng(0)
    scenes = np.repeat(np.arange(40).astype(str), 3)
    mos = rng.normal(0, 0.4, 120)
    first = mos + rng.normal(0, 0.3, 120)
    found = compared(first, first + rng.normal(0, 0.02, 120), mos, scenes, 300)
    alone = compared(first, rng.permutation(first), mos, scenes, 300)
    assert found.loc["PLCC", "high"] - found.loc["PLCC", "low"] < 0.2 * (alone.loc["PLCC", "high"] - alone.loc["PLCC", "low"])


def test_constant_predictions_have_no_correlation_to_compare_but_chance_accuracy():
    first, _, mos, scenes = sample()
    found = compared(first, np.full(len(mos), 1 / 3), mos, scenes)
    assert found.loc[["SRCC", "PLCC"], ["second", "difference", "low", "high", "williams_t", "steiger_z"]].isna().all(axis=None)
    assert found.loc["pairwise accuracy", ["second", "losses"]].tolist() == [0.5, 0]
    constant = compared(first, -first, np.full(len(mos), 0.2), scenes)
    assert constant[["difference", "wins", "mcnemar_p"]].isna().all(axis=None)
    assert constant.loc["pairwise accuracy", "n"] == 0


def test_one_scene_has_a_difference_but_no_interval():
    first, second, mos, _ = sample()
    found = compared(first, second, mos, np.full(len(mos), "a"))
    assert found["difference"].notna().all()
    assert found[["low", "high"]].isna().all(axis=None)
    assert found.loc["SRCC", "note"] == "one scene: no interval"


def test_ranks_differences_and_values_of_a_predictor_are_used_for_their_own_measures():
    first, second, mos, scenes = sample()
    noise = np.full(len(mos), NOISE)
    mixed = compare_predictors(Predictor(second, first, mos), same(second), mos, scenes, noise, 20).set_index("metric")
    expected = [stats.spearmanr(first, mos).statistic, stats.pearsonr(second, mos).statistic, 1.0]
    assert mixed.loc[list(METRICS), "first"].tolist() == pytest.approx(expected)
    for metric, used in zip(METRICS, (first, second, mos), strict=True):
        own = compare_predictors(same(used), same(second), mos, scenes, noise, 20).set_index("metric")
        assert mixed.loc[metric, ["low", "high"]].tolist() == own.loc[metric, ["low", "high"]].tolist()


def test_table_shows_values_tests_and_what_is_not_defined():
    first, second, mos, scenes = sample()
    table = compare_predictors(same(first), same(second), mos, scenes, np.full(len(mos), NOISE), 40, 5)
    assert tuple(table.columns) == COLUMNS
    table.insert(0, "dimension", "PR")
    table.insert(1, "versus", "folder/other.csv")
    srcc, _, accuracy = compact_comparison(table).to_dict("records")
    row = table.iloc[0]
    assert srcc["versus"] == "other.csv"
    assert srcc["difference"] == f"{row['difference']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    assert srcc["Williams t"] == f"{row['williams_t']:.2f}, p = {row['williams_p']:.2g}"
    assert srcc["won : lost"] == ""
    row = table.iloc[2]
    assert accuracy["won : lost"] == f"{100 * row['wins']:.1f} % : {100 * row['losses']:.1f} %, p = {row['mcnemar_p']:.2g}"
    assert accuracy["Williams t"] == accuracy["Steiger Z"] == ""
    flat = compare_predictors(same(first), same(first * 0), mos, np.full(len(mos), "a"), np.full(len(mos), NOISE))
    flat = flat.assign(dimension="PR", versus="flat.csv")
    assert compact_comparison(flat)["difference"].tolist()[:2] == ["n/a", "n/a"]
    assert comparison_notes(flat)[-1] == "PR, versus flat.csv: one scene: no interval"

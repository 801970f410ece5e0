"""From ratings and choices to MOS: the statistics against published examples and other people's code, and the command."""

import itertools
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from data.table import load_dataset
from evaluation import mos as computing
from evaluation.ratings import (
    icc,
    icc_oneway,
    krippendorff_alpha,
    mean_opinions,
    pairwise_scale,
    recover,
    screen_bt500,
    screen_p910,
    spearman_brown,
    split_half,
    zscores,
)
from utils.metrics import srcc

REPO = Path(__file__).resolve().parents[1]
HECD_COPIES = [REPO.parent / "shared" / "data" / "hecd", REPO / "data" / "HECD"]
HECD_ROOT = next((copy for copy in HECD_COPIES if list(copy.rglob("clean_raw_data.csv"))), None)
needs_hecd = pytest.mark.skipif(HECD_ROOT is None, reason="no copy of HECD")

# Shrout and Fleiss 1979, table 2: six targets by four judges.
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
NAN = math.nan
# Krippendorff 2011: four observers by twelve units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
# Twelve images by six raters; what sureal 0.9.0 (SubjectMLEModelProjectionSolver, Netflix) makes of it.
SUREAL_SCORES = np.array(
    [
        [16, 1, 11, 9, NAN, 25],
        [38, 34, 47, 48, 43, 42],
        [68, 52, 45, 51, 48, 67],
        [64, NAN, 66, 58, 44, 70],
        [86, 65, 77, 72, 57, 94],
        [94, 64, 92, 104, 85, 109],
        [81, 40, 36, 32, 67, 55],
        [28, 11, 33, 24, 39, 45],
        [46, 33, 35, 37, 30, 39],
        [97, 58, 75, 96, 74, 72],
        [93, 67, 94, 70, 99, 85],
        [34, 14, 34, 22, 39, 28],
    ]
)
# fmt: off
SUREAL_QUALITY = [12.869384, 42.706579, 55.835257, 60.601521, 77.553604, 90.296623,
                  49.000673, 29.856147, 37.631662, 75.888498, 84.317291, 28.055274]
# fmt: on
SUREAL_ERROR = [3.354013, 3.230523, 3.230523, 3.751301]  # of the first four images
SUREAL_BIAS = [8.365624, -13.182817, 0.032291, -1.801043, -0.613012, 7.198957]
SUREAL_INCONSISTENCY = [9.53324, 6.355415, 6.372996, 10.094058, 12.015984, 7.31337]

WINS = np.array([[0, 3, 4, 1], [1, 0, 3, 2], [2, 1, 0, 4], [2, 1, 1, 0]], float)
CHOIX_SCALE = [0.3803685998, 0.1678888170, -0.0912226274, -0.4570347795]  # opt_pairwise of choix 0.4.1, no penalty
SUREAL_THURSTONE = [0.23117957, 0.10437286, -0.05709456, -0.27845797]  # of sureal 0.9.0, to about 1e-5


def as_table(scores: np.ndarray) -> pd.DataFrame:
    """Ratings of a matrix, images by raters, without the missing ones."""
    rows = [
        (f"r{rater:03d}", f"i{image:03d}", score) for (image, rater), score in np.ndenumerate(scores) if not math.isnan(score)
    ]
    return pd.DataFrame(rows, columns=["rater", "image", "score"])


def simulate(seed: int, images: int, bias: np.ndarray, inconsistency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Planted qualities, and scores of images by raters."""
    rng = np.random.default_rng(seed)
    quality = rng.uniform(1, 5, images)
    return quality, quality[:, None] + bias + inconsistency * rng.standard_normal((images, len(bias)))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# ---- MOS and z-scores ----


def test_zscores_are_those_of_scipy_rater_by_rater():
    scores = np.array([[1, 5, 2], [3, 4, 4], [4, 1, 5], [2, 2, NAN]], float)
    table = as_table(scores)
    for rater, rows in table.groupby("rater"):
        column = scores[:, int(rater[1:])]
        expected = stats.zscore(column[~np.isnan(column)])
        np.testing.assert_allclose(zscores(table)[rows.index], expected)


def test_a_rater_of_constant_scores_has_no_zscore_also_where_rounding_would_give_one():
    table = as_table(np.array([[0.1, 1], [0.1, 2], [0.1, 4]]))
    z = zscores(table)
    assert z[table["rater"] == "r000"].isna().all()
    assert z[table["rater"] == "r001"].notna().all()


def test_sessions_are_standardized_by_themselves():
    table = pd.DataFrame({"rater": "a", "session": ["1", "1", "2", "2"], "score": [1.0, 2.0, 4.0, 5.0]})
    np.testing.assert_allclose(zscores(table, ("rater", "session")), [-1, 1, -1, 1])


def test_the_interval_of_a_mean_is_students():
    scores = [3.0, 4.0, 5.0, 4.0, 2.0]
    row = mean_opinions(as_table(np.array([scores]))).iloc[0]
    low, high = stats.t.interval(0.95, 4, np.mean(scores), stats.sem(scores))
    np.testing.assert_allclose(row[["mos", "low", "high", "n", "std"]], [3.6, low, high, 5, np.std(scores, ddof=1)])


def test_one_rating_has_a_mean_but_no_interval():
    frame = mean_opinions(as_table(np.array([[3, NAN], [4, 5]])))
    assert frame.loc["i000", "mos"] == 3
    assert frame.loc["i000", ["low", "high", "std"]].isna().all()
    assert frame.loc["i001"].notna().all()


# ---- screening ----


@pytest.mark.parametrize("screen", [screen_bt500, screen_p910])
def test_screening_rejects_a_planted_inverted_rater_and_no_other(screen):
    _, scores = simulate(0, 40, np.zeros(24), np.full(24, 0.5))
    scores[:, 7] = 6 - scores[:, 7]
    assert list(screen(as_table(scores))) == ["r007"]


@pytest.mark.parametrize("screen", [screen_bt500, screen_p910])
def test_screening_keeps_a_rater_who_is_only_stricter(screen):
    bias = np.zeros(24)
    bias[3] = -2.5  # far below the others on each image, on one side only
    _, scores = simulate(1, 40, bias, np.full(24, 0.5))
    assert screen(as_table(scores)) == {}


def test_bt500_follows_a_count_by_hand():
    # Nine scores 0, 0, 0, 0, 0, 1, 1, 1 and x: with x = 3 it lies 2.4 deviations above the mean, with x = -3 as far below,
    # and the kurtosis is outside [2, 4], so that only the root of 20 counts.
    base = np.array([0, 0, 0, 0, 0, 1, 1, 1], float)
    high = np.append(base, 3)
    assert stats.kurtosis(high, fisher=False) > 4
    assert 2 < (high[-1] - high.mean()) / high.std(ddof=1) < math.sqrt(20)
    assert screen_bt500(as_table(np.stack([high, 1 - high] * 5))) == {}
    # Nineteen quantiles of the normal distribution and 2.3: kurtosis near 3, so 2 deviations count; once above, once below.
    high = np.append(stats.norm.ppf(np.arange(1, 20) / 20), 2.3)
    assert 2 < stats.kurtosis(high, fisher=False) < 4
    assert (high[-1] - high.mean()) / high.std(ddof=1) > 2
    reasons = screen_bt500(as_table(np.stack([high, -high] * 5)))
    assert reasons == {"r019": "BT.500: 5 scores far above and 5 far below the mean, of 10"}
    assert screen_bt500(as_table(np.stack([high] * 10))) == {}  # all above: a shifted scale


def test_p910_says_the_correlation_and_rejects_constant_scores():
    _, scores = simulate(2, 30, np.zeros(10), np.full(10, 0.3))
    scores[:, 2] = 3.0
    scores[:, 5] = np.random.default_rng(0).uniform(1, 5, 30)
    reasons = screen_p910(as_table(scores))
    assert set(reasons) == {"r002", "r005"}
    assert reasons["r002"] == "P.910: all scores are equal"
    without = np.delete(scores, 2, axis=1)
    expected = stats.pearsonr(scores[:, 5], without.mean(1)).statistic
    assert reasons["r005"] == f"P.910: correlation with the MOS {expected:.2f}, below 0.75"


def test_p910_takes_the_worst_rater_first_and_then_looks_again():
    # Three inverted of seven drag the MOS so far that honest raters too lie below the limit at first.
    _, scores = simulate(3, 40, np.zeros(7), np.full(7, 0.4))
    scores[:, :3] = 6 - scores[:, :3]
    table = as_table(scores)
    at_once = [rater for rater in range(7) if stats.pearsonr(scores[:, rater], scores.mean(1)).statistic < 0.9]
    assert len(at_once) > 3
    assert sorted(screen_p910(table, 0.9)) == ["r000", "r001", "r002"]


def test_the_second_criterion_of_p910_keeps_honest_noisy_raters_but_not_one_upside_down():
    """Fifteen honest raters with noise as large as the spread of the images, of 8 methods in 10 scenes, and one inverted."""
    rng = np.random.default_rng(0)
    quality = np.repeat(np.linspace(-0.5, 0.5, 8), 10) + rng.normal(0, 0.4, 80)
    scores = quality[:, None] + 0.5 * rng.normal(size=(80, 16))
    scores[:, 7] = -scores[:, 7]
    table = as_table(scores)
    methods = dict(zip(sorted(table["image"].unique()), np.repeat(list("ABCDEFGH"), 10), strict=True))
    table["method"] = table["image"].map(methods)
    assert len(screen_p910(table)) > 3
    rejected = screen_p910(table, 0.75, 0.8)
    assert list(rejected) == ["r007"]
    assert re.fullmatch(r"P\.910: correlation with the MOS -.*, below 0\.75, and by methods -.*, below 0\.8", rejected["r007"])


# ---- maximum likelihood ----


def test_maximum_likelihood_gives_what_sureal_gives():
    found = recover(as_table(SUREAL_SCORES))
    assert found.groups == 1
    np.testing.assert_allclose(found.images["quality"], SUREAL_QUALITY, atol=2e-5)
    np.testing.assert_allclose(found.raters["bias"], SUREAL_BIAS, atol=2e-5)
    np.testing.assert_allclose(found.raters["inconsistency"], SUREAL_INCONSISTENCY, atol=2e-5)
    np.testing.assert_allclose(found.images["error"].iloc[:4], SUREAL_ERROR, atol=2e-5)


def test_maximum_likelihood_recovers_planted_bias_and_inconsistency_better_than_the_mean():
    bias = np.linspace(-1, 1, 12)
    inconsistency = np.array([0.3] * 8 + [2.0] * 4)
    quality, scores = simulate(4, 150, bias, inconsistency)
    scores[np.random.default_rng(4).random(scores.shape) < 0.3] = NAN  # so that biases move the means
    found = recover(as_table(scores))
    error = np.sqrt(np.mean((found.images["quality"] - quality) ** 2))
    error_of_mean = np.sqrt(np.mean((np.nanmean(scores, axis=1) - quality) ** 2))
    assert error < 0.4 * error_of_mean
    np.testing.assert_allclose(found.raters["bias"] - found.raters["bias"].mean(), bias, atol=0.35)
    np.testing.assert_allclose(found.raters["bias"].iloc[:8] - found.raters["bias"].mean(), bias[:8], atol=0.12)
    np.testing.assert_allclose(found.raters["inconsistency"], inconsistency, rtol=0.25)
    inside = np.abs(found.images["quality"] - quality) < 1.96 * found.images["error"] + 0.1
    assert inside.mean() > 0.9


@pytest.mark.parametrize(("raters", "images", "most"), [(15, 10, 1.8), (8, 40, 1.25), (15, 40, 1.2), (60, 400, 1.03)])
def test_intervals_of_maximum_likelihood_are_wider_where_inconsistencies_are_less_sure(raters, images, most):
    _, scores = simulate(0, images, np.linspace(-0.5, 0.5, raters), np.full(raters, 0.7))
    found = recover(as_table(scores)).images
    ratio = found["half"] / (1.96 * found["error"])
    assert ratio.min() > 1
    assert ratio.median() < most


@pytest.mark.slow
@pytest.mark.parametrize(("raters", "images", "times"), [(15, 10, 200), (8, 40, 100), (15, 40, 60)])
@pytest.mark.parametrize("kind", ["equal raters", "unequal raters", "scores from 1 to 5"])
def test_intervals_of_maximum_likelihood_hold_the_quality_in_95_of_100_cases(raters, images, times, kind):
    rng = np.random.default_rng(raters * images)
    hits = []
    for _ in range(times):
        quality, bias = rng.uniform(1.5, 4.5, images), rng.normal(0, 0.4, raters)
        noise = np.full(raters, 0.7) if kind == "equal raters" else rng.uniform(0.3, 1.0, raters)
        scores = quality[:, None] + bias - bias.mean() + noise * rng.normal(size=(images, raters))
        if kind == "scores from 1 to 5":
            scores = np.clip(np.rint(scores), 1, 5)
        found = recover(as_table(scores)).images
        hits.append(np.abs(found["quality"] - quality) <= found["half"])
    print(raters, images, kind, np.mean(hits))
    assert 0.935 <= np.mean(hits) <= 0.985


def test_no_rater_gets_infinite_weight_by_agreeing_exactly():
    scores = np.array(
        [[2, 1, 2, 2, 3], [3, 2, 2, 3, 3], [4, 2, 3, 4, 3], [4, 3, 4, 3, 4], [5, 4, 5, 4, 5], [4, 2, 3, 2, 3]], float
    )
    found = recover(as_table(scores))
    assert found.raters["inconsistency"].min() >= 1 / math.sqrt(12) - 1e-12  # rounding to whole scores
    assert found.images["error"].min() > 0


def test_maximum_likelihood_converges_where_raters_share_few_images_and_tells_groups_apart():
    rng = np.random.default_rng(0)
    rows = [
        (f"{group}{rater:03d}", f"{group}{rater + step:03d}", rng.normal(50, 10))
        for group in "ab"
        for rater, step in itertools.product(range(100), range(4))
    ]
    found = recover(pd.DataFrame(rows, columns=["rater", "image", "score"]))
    assert found.groups == 2
    for group in "ab":
        assert abs(found.raters["bias"][found.raters.index.str.startswith(group)].mean()) < 1e-6


def test_one_rating_of_a_rater_is_refused_by_name():
    with pytest.raises(ValueError, match="rater r001 has one rating"):
        recover(as_table(np.array([[1, 2], [3, NAN]], float)))


# ---- reliability ----


def test_icc_gives_the_values_of_shrout_and_fleiss():
    expected = {"ICC(1,1)": 0.17, "ICC(2,1)": 0.29, "ICC(3,1)": 0.71, "ICC(1,k)": 0.44, "ICC(2,k)": 0.62, "ICC(3,k)": 0.91}
    assert {name: round(value, 2) for name, value in icc(SHROUT_FLEISS).items()} == expected


def test_one_way_icc_of_a_complete_design_is_that_of_the_matrix():
    found, expected = icc_oneway(as_table(SHROUT_FLEISS)), icc(SHROUT_FLEISS)
    assert found == pytest.approx({name: expected[name] for name in found})


def test_one_way_icc_of_unequal_groups_follows_a_count_by_hand():
    # Images rated 1, 3 and 4, 5, 6, the mean 3.8: MSB = 2 * 1.8^2 + 3 * 1.2^2 = 10.8, MSW = (2 + 2) / 3, k = 5 - 13 / 5.
    table = as_table(np.array([[1, 3, NAN], [4, 5, 6]], float))
    assert icc_oneway(table)["ICC(1,1)"] == pytest.approx((10.8 - 4 / 3) / (10.8 + 1.4 * 4 / 3))
    assert icc_oneway(table)["ICC(1,k)"] == pytest.approx(1 - 4 / 3 / 10.8)


def test_icc_refuses_missing_scores():
    with pytest.raises(ValueError, match=r"finite scores .* got shape \(12, 6\)"):
        icc(SUREAL_SCORES)


def test_alpha_gives_the_value_of_krippendorff():
    assert round(krippendorff_alpha(as_table(KRIPPENDORFF)), 3) == 0.849


def test_alpha_is_one_less_observed_over_expected_pairs():
    table = as_table(SUREAL_SCORES)
    observed = []
    for _, rows in table.groupby("image")["score"]:
        pairs = [(a - b) ** 2 for a, b in itertools.permutations(rows, 2)]
        observed += [pair / (len(rows) - 1) for pair in pairs]
    expected = np.mean([(a - b) ** 2 for a, b in itertools.permutations(table["score"], 2)])
    assert krippendorff_alpha(table) == pytest.approx(1 - sum(observed) / len(table) / expected)


def test_spearman_brown_doubles_the_raters():
    assert spearman_brown(0.6) == pytest.approx(0.75)


def test_split_half_finds_the_reliability_of_the_mean():
    # One rater has the variance 4/3 of the qualities and 4 of the noise: the mean of 12 has 4/3 / (4/3 + 4/12) = 0.8.
    _, scores = simulate(5, 2000, np.zeros(12), np.full(12, 2.0))
    found = split_half(as_table(scores), splits=20)
    assert found["PLCC_SB"] == pytest.approx(0.8, abs=0.02)
    assert found["low"] <= found["PLCC_SB"] <= found["high"]
    assert icc(scores)["ICC(1,k)"] == pytest.approx(0.8, abs=0.02)


def test_halves_of_a_complete_design_are_halves_of_the_raters():
    # With two raters each is a half, so every split has the same correlation.
    _, scores = simulate(6, 30, np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    found = split_half(as_table(scores), splits=5)
    assert found["PLCC"] == pytest.approx(stats.pearsonr(*scores.T).statistic)
    assert found["SRCC"] == pytest.approx(srcc(*scores.T))
    assert found["high"] == pytest.approx(found["low"])


def test_there_is_no_reliability_without_images_of_two_ratings():
    alone = as_table(np.array([[1, NAN], [NAN, 2]]))
    assert math.isnan(split_half(alone)["PLCC_SB"])
    assert math.isnan(icc_oneway(alone)["ICC(1,1)"])
    assert math.isnan(krippendorff_alpha(alone))


# ---- choices ----


def test_two_images_are_placed_as_by_hand():
    # Three of four choices: log odds ln 3, or the normal quantile of 3/4; information 4 * 3/4 * 1/4, or 4 phi^2 / (3/4 * 1/4).
    wins = np.array([[0, 3], [1, 0]], float)
    logistic = pairwise_scale(wins)
    np.testing.assert_allclose(logistic.scale, [math.log(3) / 2, -math.log(3) / 2])
    np.testing.assert_allclose(logistic.error, math.sqrt(1 / (4 * 3 / 16)) / 2)
    normal = pairwise_scale(wins, "thurstone")
    quantile = stats.norm.ppf(0.75)
    np.testing.assert_allclose(normal.scale, [quantile / 2, -quantile / 2])
    np.testing.assert_allclose(normal.error, math.sqrt(3 / 16 / (4 * stats.norm.pdf(quantile) ** 2)) / 2)
    np.testing.assert_allclose(logistic.chance, [math.sqrt(3) / (1 + math.sqrt(3)), 1 / (1 + math.sqrt(3))])


def test_scales_are_those_of_choix_and_sureal():
    np.testing.assert_allclose(pairwise_scale(WINS).scale, CHOIX_SCALE, atol=1e-9)
    np.testing.assert_allclose(pairwise_scale(WINS, "thurstone").scale, SUREAL_THURSTONE, atol=2e-5)


@pytest.mark.parametrize(
    ("method", "chance"), [("bradley-terry", lambda d: 1 / (1 + np.exp(-d))), ("thurstone", stats.norm.cdf)]
)
def test_known_places_are_recovered_within_their_intervals(method, chance):
    rng = np.random.default_rng(7)
    places = np.linspace(-1.5, 1.5, 12)
    wins = np.zeros((12, 12))
    for i, j in itertools.combinations(range(12), 2):
        wins[i, j] = rng.binomial(100, chance(places[i] - places[j]))
        wins[j, i] = 100 - wins[i, j]
    found = pairwise_scale(wins, method)
    deviation = (found.scale - places) / found.error
    assert 0.5 < np.sqrt(np.mean(deviation**2)) < 1.6
    assert np.all((found.chance_low < found.chance) & (found.chance < found.chance_high))
    assert srcc(found.scale, places) > 0.97


def test_ties_alone_put_images_together_and_narrow_the_interval():
    few, many = (pairwise_scale(np.array([[0, n / 2], [n / 2, 0]])) for n in (4, 16))
    np.testing.assert_allclose(few.scale, 0, atol=1e-12)
    np.testing.assert_allclose(few.error, 2 * many.error)


def test_an_image_that_always_won_needs_a_prior():
    wins = np.array([[0, 2, 3], [0, 0, 1], [0, 1, 0]], float)
    with pytest.raises(ValueError, match=r"infinite.*prior such as 0\.5"):
        pairwise_scale(wins)
    weak, strong = pairwise_scale(wins, prior=0.1), pairwise_scale(wins, prior=2)
    assert np.isfinite(weak.scale).all()
    assert weak.scale[0] > strong.scale[0] > 0
    assert weak.scale.mean() == pytest.approx(0)
    # Two choices alike, places a and -a: the pull of the choices is that of the ties, half of which the image at 0 won.
    a = pairwise_scale(np.array([[0, 2], [0, 0]]), prior=3).scale[0]
    assert 2 / (1 + math.exp(2 * a)) == pytest.approx(3 * (1 / (1 + math.exp(-a)) - 0.5))


def test_choices_that_do_not_link_all_images_are_refused():
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = wins[2, 3] = wins[3, 2] = 1
    for prior in (0.0, 1.0):
        with pytest.raises(ValueError, match="fall into 2 groups"):
            pairwise_scale(wins, prior=prior)


# ---- the command ----

RATINGS = """rater,image,score
ann,a.jpg,1
ann,b.jpg,3
ann,c.jpg,5
bob,a.jpg,2
bob,b.jpg,4
bob,c.jpg,4
cy,a.jpg,3
cy,b.jpg,3
cy,c.jpg,3
"""


def test_raw_scores_are_mapped_by_the_range(run, tmp_path):
    done = run(
        "tools/compute_mos.py",
        write(tmp_path / "r.csv", RATINGS),
        "--method",
        "raw",
        "--range",
        1,
        5,
        "-o",
        tmp_path / "mos.csv",
    )
    assert done.code == 0
    frame = pd.read_csv(tmp_path / "mos.csv")
    assert list(frame.columns) == ["image", "PR", "PR_se", "low", "high", "n", "std"]
    np.testing.assert_allclose(frame["PR"], [-0.5, 1 / 6, 0.5], atol=1e-6)
    np.testing.assert_allclose(frame["std"], [0.5, np.std([3, 4, 3], ddof=1) / 2, 0.5], atol=1e-6)
    np.testing.assert_allclose(frame["PR_se"], frame["std"] / np.sqrt(3), atol=1e-6)
    assert frame["low"].min() == -1  # the interval of a.jpg ends below the scale
    assert "reliability: split-half" in done.out


def test_zscores_are_halved_and_a_constant_rater_is_left_out_by_name(run, tmp_path):
    done = run("tools/compute_mos.py", write(tmp_path / "r.csv", RATINGS), "-o", tmp_path / "mos.csv")
    assert "left out: 1 rater (all scores are equal): cy" in done.out
    frame = pd.read_csv(tmp_path / "mos.csv")
    expected = (stats.zscore([1, 3, 5]) + stats.zscore([2, 4, 4])) / 4
    np.testing.assert_allclose(frame["PR"], expected, atol=1e-6)
    assert list(frame["n"]) == [2, 2, 2]
    raters = pd.read_csv(tmp_path / "raters.csv").set_index("rater")
    assert list(raters.columns) == ["n", "bias", "inconsistency", "screened"]
    assert raters.loc["cy", "screened"] == "all scores are equal: no z-score"
    assert raters.loc[["ann", "bob"], "screened"].isna().all()
    record = json.loads((tmp_path / "mos.csv.json").read_text())
    assert record["left_out"] == {"cy": "all scores are equal: no z-score"}
    assert set(record["reliability"]["icc"]) == set(icc(SHROUT_FLEISS))


def test_maximum_likelihood_mos_are_the_recovered_quality_on_the_range():
    table = as_table(SUREAL_SCORES).assign(session="")
    frame, raters, _ = computing.compute_mos(table, "mle", score_range=(0, 120))
    np.testing.assert_allclose(frame["mos"], np.array(SUREAL_QUALITY) / 60 - 1, atol=1e-6)
    np.testing.assert_allclose(frame["high"] - frame["mos"], recover(table).images["half"] / 60, rtol=1e-4)
    np.testing.assert_allclose(raters["bias"], SUREAL_BIAS, atol=2e-5)
    np.testing.assert_allclose(frame["se"], recover(table).images["error"] / 60, rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "images", "options", "dimension"),
    [
        ("rater,image,score,scene,method", ["a.jpg", "b.jpg", "c.jpg"], [], "PR"),
        ("rater,image,CF,scene,method", ["a.jpg", "b.jpg", "c.jpg"], ["--score", "CF"], "CF"),
        ("user,path,score,scene_id,colorizer", ["x/a.jpg", "x/b.jpg", "x/c.jpg"], ["--dimension", "SCC"], "SCC"),
        ("rater,image,score,x,y", ["A_1_7.jpg", "B_7.png", "B_8.png"], [], "PR"),
    ],
)
@pytest.mark.parametrize("method", ["zscore", "raw", "mle"])
def test_mos_are_a_table_to_train_on_as_they_are(run, tmp_path, columns, images, options, dimension, method):
    about = {"a": "7,A_1", "b": "7,B", "c": "8,B"}
    rows = [line.split(",") for line in RATINGS.split()[1:]]
    lines = [f"{rater},{images['abc'.index(image[0])]},{score},{about[image[0]]}" for rater, image, score in rows]
    path = write(tmp_path / "r.csv", "\n".join([columns, *lines]) + "\n")
    rater, image, _, scene, who = columns.split(",")
    if rater == "user":
        options = [*options, "--rater", rater, "--image", image, "--scene", scene, "--method-column", who]
    done = run("tools/compute_mos.py", path, *options, "--method", method, "--range", 1, 5, "-o", tmp_path / "mos.csv")
    assert done.code == 0, done.err
    assert f"as {dimension} with scene and method" in done.out
    for name in images:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = load_dataset(tmp_path / "mos.csv")
    assert table["scene"].tolist() == ["7", "7", "8"]
    assert table["method"].tolist() == ["A_1", "B", "B"]
    written = pd.read_csv(tmp_path / "mos.csv")
    np.testing.assert_allclose(table[dimension], written[dimension])
    np.testing.assert_allclose(table[f"{dimension}_se"], written[f"{dimension}_se"])
    assert (table[f"{dimension}_se"] > 0).all()
    write(tmp_path / "pred.csv", f"image,{dimension}\n" + "".join(f"{name},0.{i}\n" for i, name in enumerate(images)))
    done = run("evaluate.py", "--predictions", tmp_path / "pred.csv", "--mos", tmp_path / "mos.csv", "--resamples", 2)
    assert "Standard error of a MOS: that of its ratings." in done.out


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("rater,image,score,scene\na,x,1,1\nb,x,2,2\n", [], "line 3: scene of x is '2', expected one scene per image"),
        ("rater,image,score,scene\na,x,1,\nb,x,2,\n", [], "line 2: scene of x is '', expected one scene per image"),
        ("rater,image,score,method\na,x,1,A\nb,x,2,B\n", [], "line 3: method of x is 'B', expected one method per image"),
        ("rater,image,score\na,x,1\nb,x,2\n", ["--scene", "photo"], "has no column 'photo'"),
    ],
)
def test_scene_and_method_of_an_image_are_one_each(run, tmp_path, text, options, message):
    done = run("tools/compute_mos.py", write(tmp_path / "r.csv", text), *options, "-o", tmp_path / "mos.csv")
    assert message in done.err
    assert not (tmp_path / "mos.csv").exists()


@pytest.mark.parametrize("method", ["zscore", "raw", "mle"])
@pytest.mark.parametrize("screening", ["bt500", "p910"])
def test_a_screened_rater_is_named_and_does_not_count(method, screening):
    quality, scores = simulate(0, 40, np.zeros(24), np.full(24, 0.5))
    scores[:, 7] = 6 - scores[:, 7]
    without = np.delete(scores, 7, axis=1)
    found, raters, reliable = computing.compute_mos(as_table(scores).assign(session=""), method, screening, (-2, 8))
    expected, _, _ = computing.compute_mos(as_table(without).assign(session=""), method, "none", (-2, 8))
    np.testing.assert_allclose(found["mos"], expected["mos"], atol=1e-6)
    assert srcc(found["mos"].to_numpy(), quality) > 0.97
    assert list(raters.loc[raters["screened"] != "", "rater"]) == ["r007"]
    assert raters.loc[7, "inconsistency"] > 3 * raters["inconsistency"].median()  # held against the others' scores
    assert reliable["raters"] == 23


def test_what_a_rater_scores_in_two_sessions_counts_once(tmp_path):
    path = write(
        tmp_path / "r.csv",
        "rater,image,score,session\na,x,1,1\na,y,2,1\na,x,3,2\na,y,5,2\nb,x,1,1\nb,y,4,1\n",
    )
    ratings = computing.read_ratings(path)
    frame, _, _ = computing.compute_mos(ratings, "raw", score_range=(1, 5))
    assert list(frame["n"]) == [2, 2]
    np.testing.assert_allclose(frame["mos"], [(2 + 1) / 2 / 2 - 1.5, (3.5 + 4) / 2 / 2 - 1.5])
    frame, _, _ = computing.compute_mos(ratings)
    np.testing.assert_allclose(frame["mos"], [-0.5, 0.5])


def test_a_session_of_equal_scores_is_left_out_with_a_warning(tmp_path):
    text = "rater,image,score,session\na,x,1,1\na,y,2,1\na,x,3,2\na,y,3,2\nb,x,1,1\nb,y,4,1\n"
    with pytest.warns(UserWarning, match=r"left out: 1 session without z-scores.*session 2 of rater a"):
        frame, raters, _ = computing.compute_mos(computing.read_ratings(write(tmp_path / "r.csv", text)))
    np.testing.assert_allclose(frame["mos"], [-0.5, 0.5])
    assert (raters["screened"] == "").all()


def test_other_column_names_are_understood(run, tmp_path):
    text = RATINGS.replace("rater,image,score", "who,file,points")
    path = write(tmp_path / "r.csv", text)
    columns = ["--rater", "who", "--image", "file", "--score", "points"]
    assert run("tools/compute_mos.py", path, *columns, "-o", tmp_path / "mos.csv").code == 0
    failed = run("tools/compute_mos.py", path, "-o", tmp_path / "mos2.csv")
    assert failed.code != 0
    assert "r.csv has no column 'rater'" in failed.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rater,image,score\na,x,1\na,y,high\n", "line 3: score is 'high', expected a number"),
        ("rater,image,score\na,x,1\nb,x,nan\n", "line 3: score is 'nan', expected a number"),
        ("rater,image,score\na,x,1\n\na,x,2\n", "line 4: rater a rates x again, as in line 2"),
        ("rater,image,score\na,x,1\nb,,2\n", "line 3: the cell image is empty"),
        ("rater,image,score\na,x,1\nb,x\n", "line 3: 2 cells, the header has 3"),
        ("rater,image,score\na,x,1\na,y,2\n", "has one rater, a"),
        ("rater,image,score\na,x,2\nb,x,2\n", "all 2 scores are 2"),
        ("rater,image,score\na,x,1\nb,x,7\n", "line 3: score 7 is outside --range 1 5"),
        ("rater,image,score\n", "has no rows"),
        ("rater,image,image,score\na,x,x,1\n", "more than one column 'image'"),
        ("rater;image;score\na;x;1\n", "--session; its cells are separated by semicolons, expected commas"),
        ("rater;image;score\na;x;1,5\n", "2 cells, the header has 1; its cells are separated by semicolons, expected commas"),
    ],
)
def test_bad_ratings_are_refused_with_file_and_line(tmp_path, text, message):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(ValueError, match=r"bad\.csv") as error:
        computing.read_ratings(path, score_range=(1, 5))
    assert message in str(error.value)


def test_the_second_criterion_of_p910_takes_the_column_method(tmp_path, run):
    rng = np.random.default_rng(0)
    quality = np.repeat(np.linspace(-0.5, 0.5, 8), 10) + rng.normal(0, 0.4, 80)
    table = as_table(quality[:, None] + 0.5 * rng.normal(size=(80, 12)))
    table["method"] = (table["image"].rank(method="dense").astype(int) - 1) // 10
    table.to_csv(tmp_path / "r.csv", index=False)
    command = ["tools/compute_mos.py", tmp_path / "r.csv", "--screening", "p910", "-o", tmp_path / "mos.csv"]
    first = run(*command)
    assert first.code == 0, first.err
    assert "P.910 rejects noisy honest raters too" in first.out
    second = run(*command, "--least-of-methods", 0.8)
    assert second.code == 0, second.err
    assert "left out" not in second.out
    assert json.loads((tmp_path / "mos.csv.json").read_text())["least_of_methods"] == 0.8
    table.drop(columns="method").to_csv(tmp_path / "r.csv", index=False)
    assert "no column 'method'" in run(*command, "--least-of-methods", 0.8).err
    assert "--least-of-methods: expected a number from -1 to 1, got 2" in run(*command, "--least-of-methods", 2).err


def test_screening_that_leaves_nobody_is_an_error():
    rng = np.random.default_rng(0)
    table = as_table(rng.uniform(1, 5, (20, 4))).assign(session="")
    with pytest.raises(ValueError, match="of 4 raters are left out, which leaves fewer than two"):
        computing.compute_mos(table, "raw", "p910", (1, 5), least_correlation=1.0)
    _, raters, _ = computing.compute_mos(table, "raw", "p910", (1, 5), least_correlation=-1.0)
    assert (raters["screened"] == "").all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r.csv", "-o", "m.csv", "--method", "raw"], "--method raw needs --range"),
        (["r.csv", "-o", "m.csv", "--method", "thurstone"], "--method thurstone does not apply"),
        (["r.csv", "-o", "m.csv", "--pairs", "--method", "mle"], "--method mle does not apply"),
        (["r.csv", "-o", "m.csv", "--pairs", "--range", "1", "5"], "--range does not apply to --pairs"),
        (["r.csv", "-o", "m.csv", "--range", "5", "1"], "--range: expected LOW below HIGH"),
        (["r.csv", "-o", "m.csv", "--prior", "1"], "--prior takes a number"),
        (["r.csv", "-o", "m.csv", "--least-correlation", "0.5"], "--least-correlation takes"),
        (["r.csv", "-o", "raters.csv"], "--output must not be raters.csv"),
        (["r.csv"], "--output is needed"),
        ([], "give a CSV file"),
    ],
)
def test_flags_that_do_not_fit_are_refused(run, arguments, message):
    done = run("tools/compute_mos.py", *arguments)
    assert done.code == 2
    assert message in done.err


def test_choices_become_a_scale_file(run, tmp_path):
    text = "winner,loser,tie\n" + "a,b,0\n" * 3 + "b,a,\n" + "b,c,0\nc,b,0\na,c,1\n"
    done = run("tools/compute_mos.py", write(tmp_path / "p.csv", text), "--pairs", "-o", tmp_path / "scale.csv")
    assert done.code == 0
    assert "7 choices, 1 tie among them, between 3 images" in done.out
    frame = pd.read_csv(tmp_path / "scale.csv")
    expected = pairwise_scale(np.array([[0, 3, 0.5], [1, 0, 1], [0.5, 1, 0]]))
    np.testing.assert_allclose(frame["scale"], expected.scale, atol=1e-6)
    np.testing.assert_allclose(frame["PR"], 2 * expected.chance - 1, atol=1e-6)
    np.testing.assert_allclose(frame["PR"], np.tanh(frame["scale"] / 2), atol=1e-5)
    assert list(frame["n"]) == [5, 6, 3]
    record = json.loads((tmp_path / "scale.csv.json").read_text())
    assert (record["n"], record["ties"]) == (7, 1)
    assert record["agreement"] == pytest.approx((3 + 1 + 0.5) / 7)  # the scale is a, c, b


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("winner,loser\na,a\n", "line 2: a is compared with itself"),
        ("winner,loser,tie\na,b,yes\n", "line 2: tie is 'yes', expected 1"),
        ("winner,loser\na,b\nb,\n", "line 3: expected two images"),
        ("better,worse\na,b\n", "has no column 'winner'"),
        ("winner,loser\na,b\na,b\n", "scale would be infinite"),
    ],
)
def test_bad_choices_are_refused_with_their_file(run, tmp_path, text, message):
    done = run("tools/compute_mos.py", write(tmp_path / "pairs.csv", text), "--pairs", "-o", tmp_path / "scale.csv")
    assert done.code != 0
    assert "pairs.csv" in done.err
    assert message in done.err
    assert not (tmp_path / "scale.csv").exists()


# ---- HECD ----


def test_hecd_without_its_raw_ratings_is_refused_with_its_source(run, tmp_path):
    done = run("tools/compute_mos.py", "--hecd", tmp_path)
    assert done.code != 0
    assert "clean_raw_data.csv" in done.err
    assert "https://github.com/seanmullery/HECD" in done.err


def test_a_hecd_trial_is_read_with_the_original_on_either_side(tmp_path):
    write(
        tmp_path / "clean_raw_data.csv",
        "ID,SurNum,Date,File1,Score1,File2,Score2\n7,0,d,1AB_1.jpg,2,1_gt.jpg,5\n7,0,d,2_gt.jpg,4,2A.jpg,3\n",
    )
    write(
        tmp_path / "mean_zscores.csv", "Ground Truth File,Recolour File,Mean zScore\n1_gt.jpg,1AB_1.jpg,-1\n2_gt.jpg,2A.jpg,1\n"
    )
    trials, published = computing.read_hecd(tmp_path)
    assert trials[["image", "scene", "recoloring", "original"]].to_numpy().tolist() == [
        ["1AB_1.jpg", "1", 2, 5],
        ["2A.jpg", "2", 3, 4],
    ]
    assert published["2A.jpg"] == 1


@pytest.fixture(scope="module")
def proof() -> list[str]:
    return computing.hecd_proof(HECD_ROOT).splitlines()


@needs_hecd
def test_hecds_published_scores_follow_from_its_raw_ratings(proof):
    (plain, fitted) = ([float(cell) for cell in line.split()[-3:]] for line in proof if "less original (*)" in line)
    assert plain[0] >= 0.9885  # 0.9890 with 15 of the 20 scenes
    assert fitted[0] >= 0.999  # once what the missing scenes move is fitted


@needs_hecd
def test_hecd_is_as_reliable_as_stated(proof):
    values = [float(line[60:].split()[0]) for line in proof if "Spearman-Brown" in line or ",k)" in line]
    assert len(values) == 5
    assert all(abs(value - computing.HECD_RELIABILITY) < 0.02 for value in values)


@needs_hecd
def test_the_page_shows_what_the_command_prints(proof, repo):
    page = (repo / "docs" / "mos.md").read_text()
    if f"of {computing._HECD_SCENES} of the" in proof[0]:
        pytest.skip("the page was made with 15 scenes")
    assert "\n".join(proof) in page


def test_the_noise_of_hecd_is_that_of_the_standardized_differences(tmp_path):
    (tmp_path / "mean_zscores.csv").write_text(
        "Ground Truth File,Recolour File,Mean zScore\n" + "".join(f"x,1{v},0\n" for v in ("_gt.jpg", "B_1.jpg", "F_2.jpg"))
    )
    # differences of B_1 and F_2 from the original: -3 and 0, -2 and 1, 0 and -1; so each rater's z-scores are 1 and -1
    scores = {"p": (1, 4), "q": (2, 5), "r": (4, 3)}
    rows = [
        f"{who},1,1{v}.jpg,{s},1_gt.jpg,4" for who, both in scores.items() for v, s in zip(("B_1", "F_2"), both, strict=True)
    ]
    (tmp_path / "clean_raw_data.csv").write_text("\n".join(["ID,SurNum,File1,Score1,File2,Score2", *rows]))
    noise = computing.hecd_noise(tmp_path)
    assert noise.index.tolist() == ["1B_1.jpg", "1F_2.jpg"]
    assert noise["n"].tolist() == [3, 3]
    expected = 0.5 * np.std([-1, -1, 1], ddof=1) / np.sqrt(3)
    assert noise["se"].tolist() == pytest.approx([expected, expected])

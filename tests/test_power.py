"""benchmarks/power.py: its simulation meets closed forms, and its estimates what made-up data were made with."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks import power


def test_simulated_power_is_that_of_the_paired_t_test() -> None:
    n, effect, sd = 34, 0.5, 1.0
    critical = stats.t.ppf(0.975, n - 1)
    exact = stats.nct.sf(critical, n - 1, effect / sd * np.sqrt(n))
    assert power.study_power(n, effect, np.zeros((1, 15)), extra=sd, studies=20_000) == pytest.approx(exact, abs=0.01)


def test_scenes_needed_are_those_of_the_paired_t_test() -> None:
    # Cohen's table: 80 % at 5 % two-sided takes 34 pairs for an effect of 0.5, and 199 for one of 0.2.
    assert power.scenes_needed(0.5, np.zeros((1, 15)), extra=1.0) == pytest.approx(34, abs=1)
    assert power.scenes_needed(0.2, np.zeros((1, 15)), extra=1.0) == pytest.approx(199, abs=5)


def test_one_scene_less_is_too_few() -> None:
    none = np.zeros((1, 15))
    n = power.scenes_needed(0.5, none, extra=1.0)
    assert power.study_power(n, 0.5, none, extra=1.0) >= power.POWER > power.study_power(n - 1, 0.5, none, extra=1.0)


def differences() -> np.ndarray:
    """Of standard deviation sqrt(2), as of two methods with normal noise each."""
    noise = power.paired_noise(np.random.default_rng(0).normal(size=(20, 60)))
    return noise * np.sqrt(2 / np.mean(noise**2))


def test_paired_noise_has_no_mean_and_the_spread_of_differences() -> None:
    values = np.random.default_rng(0).normal(size=(200, 5)) + np.arange(200)[:, None]
    noise = power.paired_noise(values)
    assert noise.shape == (200 * 199, 5)
    assert np.abs(noise.mean(1)).max() < 1e-12
    assert np.mean(noise**2) == pytest.approx(2, abs=0.15)  # not 2 * 4 / 5


def test_drawn_scenes_make_the_noise_that_normal_draws_make() -> None:
    assert power.scenes_needed(0.5 * np.sqrt(2), differences()) == pytest.approx(34, abs=3)


def test_extra_noise_adds_to_that_of_the_scenes() -> None:
    assert power.scenes_needed(1.0, differences(), extra=np.sqrt(2)) == pytest.approx(34, abs=3)  # an effect of 0.5


def test_no_number_of_scenes_makes_up_for_bias() -> None:
    noise = power.paired_noise(np.random.default_rng(0).normal(size=(6, 15)))
    assert power.scenes_needed(0.1, noise, bias=0.2) == np.inf  # right in 69 % of studies without end
    assert power.study_power(10**8, 0.1, noise, bias=0.2) == pytest.approx(stats.norm.cdf(0.5), abs=0.02)
    assert power.scenes_needed(-0.1, noise) == np.inf


def test_components_are_those_of_the_data() -> None:
    rng = np.random.default_rng(0)
    methods, scenes = 2000, 10
    mean = rng.normal(0, 0.3, (methods, 1))
    shared = rng.normal(0, 0.5, (methods, scenes))  # by which both err alike: a line through the means would be too steep
    mos = mean + rng.normal(0, 0.2, scenes) + shared
    pred = 0.6 * mean + rng.normal(0, 0.1, (methods, 1)) + 2 * shared + rng.normal(0, 0.2, (methods, scenes))
    found = power.components(mos, pred)
    assert found == pytest.approx((0.6, 0.01, 0.09), abs=0.03)
    assert np.polyfit(mos.mean(1), pred.mean(1), 1)[0] > 0.75
    low, high = power.jackknife(mos, pred)[0]
    assert low < found.slope < high


def test_perfect_predictions_order_all_pairs() -> None:
    rng = np.random.default_rng(0)
    mos = rng.normal(size=40)
    scene = np.repeat([0, 1], 20)
    pairs = power.scene_pairs(mos, scene, np.zeros(40))
    size, right = np.abs(pairs.steps(mos)), (1 + power.verdicts(pairs, mos)) / 2
    shares, n = power.share_right(size, right, power.EDGES)
    assert n.sum() == 2 * 190
    assert shares[n > 0] == pytest.approx(1.0)
    backwards, _ = power.share_right(size, (1 + power.verdicts(pairs, -mos)) / 2, power.EDGES)
    assert backwards[n > 0] == pytest.approx(0.0)


def test_shares_and_sizes_of_a_hand_count() -> None:
    shares, n = power.share_right(np.array([0.0, 0.04, 0.05, 0.3, 0.39]), np.array([0.5, 1.0, 0.0, 1.0, 1.0]), power.EDGES)
    assert n.tolist() == [2, 1, 0, 2, 0]
    assert shares[[0, 1, 3]] == pytest.approx([0.75, 0.0, 1.0])
    assert np.isnan(shares[[2, 4]]).all()


def test_curve_is_the_one_that_made_the_pairs() -> None:
    rng = np.random.default_rng(0)
    size, scene = rng.uniform(0, 1, 40_000), rng.integers(0, 4, 40_000)
    right = (rng.random(40_000) < 1 / (1 + np.exp(-5 * size))).astype(float)
    counts = np.array([[1, 1, 1, 1], [2, 0, 1, 1]])
    assert power.steepness(size, right, scene, counts) == pytest.approx([5, 5], abs=0.25)
    assert power.steepness(size, 1 - right, scene, counts) == pytest.approx([0, 0])


def test_threshold_without_enough_right_pairs_beyond_is_none() -> None:
    size = np.linspace(0, 1, 101)
    found = np.array([0.5, 0.4, 0.6])
    assert power.reached(found, size, np.ones(101), 0.75) == "0.50 [0.40, 0.60]"
    assert power.reached(found, size, np.where(size < 0.5, 1.0, 0.7), 0.75) == "none [0.40, 0.60]"
    assert power.reached(np.array([2.0, np.inf, 3.0]), size, np.ones(101), 0.75) == "none"
    assert power.reached(np.array([0.95, 0.9, np.inf]), size, np.ones(101), 0.75) == "none [0.90, none]"  # 6 pairs


def test_residuals_within_scenes_ignore_offsets_of_scenes() -> None:
    rng = np.random.default_rng(0)
    scene = np.repeat(np.arange(50), 100)
    pred = rng.normal(size=5000) + 10 * scene
    mos = 0.5 * (pred - 10 * scene) + rng.normal(0, 5, 50)[scene] + rng.normal(0, 0.2, 5000)
    slope, residual = power.within_scene_fit(pred, mos, scene, np.ones((1, 50)))
    assert (slope[0], residual[0]) == pytest.approx((0.5, 0.2), abs=0.01)


def test_worst_images_are_those_of_the_largest_rank_difference() -> None:
    frame = power.pd.DataFrame(
        {
            "image": [f"{k}.jpg" for k in range(4)],
            "scene": "1",
            "kind": ["B", "C", "D", "Z"],
            "PR": [0.9, 0.5, 0.1, 0.0],
            "pred_PR": [-0.9, 0.5, 0.2, 0.1],
        }
    )
    row = power.worst_table(frame, 1).iloc[0]
    assert (row["image"], row["kind"], row["rank by people"], row["rank by PR"]) == ("0", "mean chroma shifted", "1", "4")


def test_percentiles_are_read_or_their_command_is_named(tmp_path: Path) -> None:
    path = tmp_path / "percentiles.json"
    assert "benchmarks/make_percentiles.py" in power.percentile_text(path)
    levels = list(range(5, 100, 5))
    path.write_text(
        json.dumps({"levels": levels, "count": 7, "photos": "seven"} | {d: [x / 100 for x in levels] for d in power.DIMENSIONS})
    )
    assert "| CF | 0.05 | 0.25 | 0.50 | 0.75 | 0.95 |" in power.percentile_text(path)


def test_text_between_the_markers_is_replaced() -> None:
    page = f"above\n{power.BEGIN}\nold\nolder\n{power.END}\nbelow\n"
    new = power.replace_between(page, "new \\1")
    assert new == f"above\n{power.BEGIN}\n\nnew \\1\n\n{power.END}\nbelow\n"
    assert power.replace_between(new, "new \\1") == new
    for broken in (page.replace(power.END, ""), page + power.BEGIN, f"{power.END}\n{power.BEGIN}"):
        with pytest.raises(ValueError, match="expected one line <!-- benchmarks/power"):
            power.replace_between(broken, "new")


def test_page_holds_the_section_and_is_short() -> None:
    page = power.PAGE.read_text(encoding="utf-8")
    made = page.split(power.BEGIN)[1].split(power.END)[0]
    for title in ("Noise", "How many images", "Percentiles", "Between scenes", "Failures"):
        assert f"\n## {title}" in made
    assert len(page.splitlines()) < 160

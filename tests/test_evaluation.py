"""Agreement with people: values and intervals against SciPy and plain loops, joins, and evaluate.py as a user runs it."""

import csv
import json
import math
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import drawn_scenes
from PIL import Image
from scipy import stats

from data.table import load_table
from evaluation import agreement as evaluation
from evaluation.agreement import (
    METRICS,
    PAIR_METRICS,
    SYSTEM_SRCC,
    Resamples,
    Scores,
    as_latex,
    as_markdown,
    compact,
    compact_methods,
    draw_scenes,
    evaluate,
    join,
    logistic_fit,
    measure_agreement,
    method_means,
    method_table,
    pair_agreement,
    read_predictions,
    require_rows,
    system_agreement,
)
from evaluation.compare import COLUMNS
from utils.scores import Provenance, ScoreWriter, read_scores

METHODS = ("BIG", "CIC", "CT2")
SCENES = ("000000000017", "000000000042", "000000000139", "000000000285", "000000000632")
ALL_METRICS = (*METRICS, *PAIR_METRICS, SYSTEM_SRCC)
IMAGES = [f"{method}_{scene}.png" for method in METHODS for scene in SCENES]


def ratings(seed: int, names: Sequence[str] = IMAGES) -> dict[str, float]:
    """A number in [-1, 1] with six decimals for each name."""
    return dict(zip(names, np.random.default_rng(seed).uniform(-1, 1, len(names)).round(6).tolist(), strict=True))


MOS = {"CF": ratings(1), "SCC": ratings(2), "PR": ratings(3)}


def write_mos(path: Path, mos: Mapping[str, Mapping[str, float]] = MOS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "scene", "method", *mos])
        for image in IMAGES:
            method, scene = image.removesuffix(".png").split("_")
            table.writerow([image, scene, method, *(values.get(image, "") for values in mos.values())])
    return path


def write_scores(
    path: Path,
    columns: Mapping[str, Mapping[str, float]],
    root: Path,
    sample: str = "unseen",
    errors: Mapping[str, str] | None = None,
) -> Path:
    """A score file as the inference scripts write it; the images need not exist."""
    errors = errors or {}
    names = [*next(iter(columns.values())), *errors]
    with ScoreWriter(path, list(columns), names, Provenance(root, {}, {}, sample)) as writer:
        for name in names:
            scores = {} if name in errors else {column: values[name] for column, values in columns.items()}
            writer.add(name, scores, gray=False, error=errors.get(name, ""))
    return path


def write_icqa2k(root: Path, split: str, images: Sequence[str] = IMAGES) -> Path:
    folder = root / f"ICQA_2K_{split}"
    folder.mkdir(parents=True)
    for image in images:
        Image.new("RGB", (8, 8)).save(folder / image)
    for dimension, mos in MOS.items():
        labels = {Path(image).stem: mos.get(image, 0.5) for image in images}
        (root / f"ICQA_2K_{split}_{dimension}_mos.json").write_text(json.dumps(labels))
    return root


def write_json(path: Path, scores: Mapping[str, float]) -> Path:
    path.write_text(json.dumps({Path(image).stem: score for image, score in scores.items()}))
    return path


def read_metrics(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics.csv", keep_default_na=False, na_values={"value": "", "low": "", "high": ""})


def mos_table(root: Path, mos: Mapping[str, float]) -> pd.DataFrame:
    """A MOS table of images that are rated in CF."""
    frame = pd.DataFrame(
        {"image": list(mos), "scene": "s", "method": "", "CF": list(mos.values()), "SCC": np.nan, "PR": np.nan}
    )
    frame.attrs = {"root": str(root), "name": "test"}
    return frame


def sample(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions and MOS with ties, in scenes of 1 to 6 images, one of them constant; images of a scene lie apart."""
    rng = np.random.default_rng(seed)
    scenes = np.repeat([f"s{k}" for k in range(12)], [1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 3, 4])
    pred = rng.normal(0, 0.4, len(scenes)).round(1)
    mos = (0.6 * pred + rng.normal(0, 0.3, len(scenes))).round(1)
    pred[scenes == "s2"] = 0.2
    shuffled = rng.permutation(len(scenes))
    return pred[shuffled], mos[shuffled], scenes[shuffled]


def by_scipy(pred: np.ndarray, mos: np.ndarray, mapped: np.ndarray, order: np.ndarray) -> dict[str, float]:
    return {
        "SRCC": stats.spearmanr(order, mos).statistic,
        "KRCC": stats.kendalltau(order, mos).statistic,
        "PLCC": stats.pearsonr(pred, mos).statistic,
        "RMSE": math.sqrt(np.mean((pred - mos) ** 2)),
        "PLCC logistic": stats.pearsonr(mapped, mos).statistic,
        "RMSE logistic": math.sqrt(np.mean((mapped - mos) ** 2)),
    }


def mean_over_scenes(order: np.ndarray, mos: np.ndarray, members: Sequence[np.ndarray]) -> float:
    """Mean SRCC of the scenes, as often as they are listed, that have three images and are not constant."""
    values = [
        stats.spearmanr(order[m], mos[m]).statistic for m in members if len(m) > 2 and np.ptp(order[m]) and np.ptp(mos[m])
    ]
    return float(np.mean(values))


# Measures and intervals


@pytest.mark.parametrize("own_order", [False, True])
def test_values_and_intervals_are_those_of_scipy_on_drawn_images_written_out(own_order):
    pred, mos, scenes = sample()
    order = np.random.default_rng(5).integers(0, 4, len(pred)).astype(float) if own_order else pred
    measured = measure_agreement(pred, mos, scenes, 150, 7, order if own_order else None).set_index("metric")
    mapped, _ = logistic_fit(pred, mos)

    names = sorted(set(scenes))
    members = [np.flatnonzero(scenes == name) for name in names]
    expected = by_scipy(pred, mos, mapped, order) | {"within-scene SRCC": mean_over_scenes(order, mos, members)}
    resampled = []
    for draw in drawn_scenes(len(names), 150, 7):
        rows = np.concatenate([members[k] for k in draw])
        within = {"within-scene SRCC": mean_over_scenes(order, mos, [members[k] for k in draw])}
        resampled.append(by_scipy(pred[rows], mos[rows], mapped[rows], order[rows]) | within)
    assert tuple(measured.index) == METRICS == tuple(expected)
    for metric in METRICS:
        bounds = (0, np.inf) if metric.startswith("RMSE") else (-1, 1)
        ranked = [m for m in members if len(m) > 2 and np.ptp(order[m]) and np.ptp(mos[m])]
        defined = len(ranked) if metric == "within-scene SRCC" else 12
        values = np.array([values[metric] for values in resampled])
        low, high, _ = Resamples(12, 150, 7).interval(expected[metric], values, defined, bounds)
        assert measured.loc[metric, ["value", "low", "high"]].tolist() == pytest.approx([expected[metric], low, high], abs=1e-9)
        assert low < expected[metric] < high


def test_measures_agree_with_a_hand_count():
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: SRCC 4.5 / sqrt(4.5 * 5); 5 of 6 pairs agree and one is tied: 5 / sqrt(5 * 6)
    measured = measure_agreement(np.array([0.1, 0.2, 0.2, 0.3]), np.array([0.1, 0.2, 0.3, 0.4]), np.array(["a"] * 4))
    values = dict(zip(measured["metric"], measured["value"], strict=True))
    assert values["SRCC"] == values["within-scene SRCC"] == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert values["KRCC"] == pytest.approx(5 / math.sqrt(5 * 6))
    assert values["PLCC"] == pytest.approx(0.03 / math.sqrt(0.02 * 0.05))
    assert values["RMSE"] == pytest.approx(math.sqrt(0.02 / 4))


def test_resamples_draw_as_many_scenes_as_there_are_and_follow_the_seed():
    counts = draw_scenes(9, 200, 3)
    assert counts.shape == (200, 9)
    assert (counts.sum(1) == 9).all()
    assert (counts == draw_scenes(9, 200, 3)).all()
    assert (counts != draw_scenes(9, 200, 4)).any()


def test_the_interval_of_a_mean_is_that_of_student_or_wider_where_one_scene_is_far_off():
    even = np.array([-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3])
    draws = Resamples(7, 4000)
    low, high, note = draws.interval(0.0, draws.counts @ even / draws.counts.sum(1))
    expected = stats.t.interval(0.95, 6, 0, stats.sem(even))
    assert note == ""
    assert (low, high) == pytest.approx(expected, rel=0.1)
    far = np.array([0.0, 0.0, 0.01, 0.01, 0.02, 0.02, 0.5])
    low, high, _ = draws.interval(far.mean(), draws.counts @ far / draws.counts.sum(1))
    student = stats.t.interval(0.95, 6, far.mean(), stats.sem(far))
    assert low == pytest.approx(student[0], rel=0.05)  # the side that the far one does not lie on
    assert high == pytest.approx(far.mean() + 1.5 * (student[1] - far.mean()), rel=0.05)


@pytest.mark.parametrize(
    ("scenes", "value", "note"),
    [
        (1, 0.5, "one scene: no interval"),
        (2, 0.5, "fewer than 4 scenes: no interval"),
        (3, 0.5, "fewer than 4 scenes: no interval"),
        (9, 1.0, "at the end of its range: no interval"),
        (9, math.nan, ""),
    ],
)
def test_there_is_no_interval_of_few_scenes_nor_at_the_end_of_the_range(scenes, value, note):
    draws = Resamples(scenes, 20)
    low, high, said = draws.interval(value, np.full(len(draws.counts), value), bounds=(-1, 1))
    assert (math.isnan(low), math.isnan(high), said) == (True, True, note)


def test_many_scenes_are_left_out_in_groups_with_nearly_the_same_interval():
    values = np.random.default_rng(0).normal(0.1, 0.3, 730)
    draws = Resamples(730, 1500)
    assert len(draws.counts) == 1600
    assert draws.counts[-100:].sum() == 99 * 730
    low, high, _ = draws.interval(values.mean(), draws.counts @ values / draws.counts.sum(1))
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 729, values.mean(), stats.sem(values)), abs=0.004)


@pytest.mark.slow
@pytest.mark.parametrize(("scenes", "times"), [(4, 400), (6, 400), (15, 400)])
def test_intervals_hold_the_true_value_in_95_of_100_cases(scenes, times):
    """Six methods a scene, scenes that differ in MOS and prediction; the truth is that of 3000 scenes."""
    rng = np.random.default_rng(scenes)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mos = np.linspace(-0.4, 0.4, 6) + rng.normal(0, 0.15, (count, 1)) + rng.normal(0, 0.3, (count, 6))
        pred = mos + rng.normal(0, 0.2, (count, 1)) + rng.normal(0, 0.2, (count, 6))
        return pred.ravel(), mos.ravel(), np.repeat(np.arange(count).astype(str), 6)

    true = measure_agreement(*drawn(3000), 1).set_index("metric")["value"]
    hits = {metric: [] for metric in METRICS}
    for seed in range(times):
        found = measure_agreement(*drawn(scenes), 300, seed).set_index("metric")
        for metric in METRICS:
            hits[metric].append(found.loc[metric, "low"] <= true[metric] <= found.loc[metric, "high"])
    for metric in ("SRCC", "KRCC", "PLCC", "RMSE", "within-scene SRCC"):
        print(scenes, metric, np.mean(hits[metric]))
        assert 0.925 <= np.mean(hits[metric]) <= 1, metric


def test_intervals_count_scenes_and_not_images():
    pred, mos, scenes = sample()
    once = measure_agreement(pred, mos, scenes, 200).set_index("metric")
    twice = measure_agreement(np.tile(pred, 2), np.tile(mos, 2), np.tile(scenes, 2), 200).set_index("metric")
    for metric in ("PLCC", "RMSE"):  # which copies of all images leave as they are
        assert twice.loc[metric, ["value", "low", "high"]].tolist() == pytest.approx(
            once.loc[metric, ["value", "low", "high"]].tolist()
        )
    apart = measure_agreement(np.tile(pred, 2), np.tile(mos, 2), np.arange(2 * len(pred)).astype(str), 200).set_index("metric")
    assert apart.loc["PLCC", "high"] - apart.loc["PLCC", "low"] < 0.9 * (twice.loc["PLCC", "high"] - twice.loc["PLCC", "low"])


def test_intervals_do_not_depend_on_the_size_of_the_blocks(monkeypatch):
    pred, mos, scenes = sample()
    whole = measure_agreement(pred, mos, scenes, 60)
    monkeypatch.setattr(evaluation, "_BLOCK", 100)
    pd.testing.assert_frame_equal(measure_agreement(pred, mos, scenes, 60), whole, rtol=1e-12)


@pytest.mark.parametrize("constant", ["pred", "mos"])
def test_constant_predictions_or_mos_have_no_correlation_but_an_error(constant):
    pred, mos, scenes = sample()
    same = np.full(len(pred), 0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = measure_agreement(same if constant == "pred" else pred, same if constant == "mos" else mos, scenes, 50)
    measured = measured.set_index("metric")
    for metric in METRICS:
        assert np.isfinite(measured.loc[metric, ["value", "low", "high"]].tolist()).all() == metric.startswith("RMSE")
    assert "all predictions or all MOS are equal" in measured.loc["RMSE logistic", "note"]
    assert measured.loc["SRCC", "note"] == ""


def test_resamples_in_which_a_measure_is_not_defined_do_not_count_and_are_noted():
    draws = np.random.default_rng(0).integers(0, 6, (200, 6))
    undefined = sum(not ({5} < set(draw)) for draw in draws)  # only equal predictions, or one image
    assert 0 < undefined < 200
    mos = np.array([0.4, -0.3, 0.1, 0.35, 0.2, -0.2])
    for value in (0.1, 0.3, 0.7, 1 / 3):  # of which sums of squares are not exact
        pred = np.array([value] * 5 + [-0.1])
        measured = measure_agreement(pred, mos, np.array(list("abcdef")), 200).set_index("metric")
        for metric in ("SRCC", "KRCC", "PLCC"):
            assert measured.loc[metric, "note"] == f"not defined in {undefined} of 200 resamples"
            assert np.isfinite(measured.loc[metric, ["low", "high"]].tolist()).all()
        assert measured.loc["RMSE", "note"] == ""


def test_one_scene_has_values_but_no_interval_and_no_image_has_neither():
    one = measure_agreement(np.array([0.1, 0.2, 0.4]), np.array([0.1, 0.3, 0.2]), np.array(["a"] * 3)).set_index("metric")
    assert one.loc["SRCC", "value"] == pytest.approx(0.5)
    assert one[["low", "high"]].isna().all(axis=None)
    assert one.loc["SRCC", "note"] == "one scene: no interval"
    none = measure_agreement(np.array([]), np.array([]), np.array([], dtype=str))
    assert none[["value", "low", "high"]].isna().all(axis=None)


def test_logistic_fit_finds_the_curve_that_made_the_mos_and_keeps_the_order():
    pred = np.random.default_rng(0).uniform(-1, 1, 60)
    mos = -0.4 + 1.1 / (1 + np.exp(-(pred - 0.2) / 0.15))
    mapped, note = logistic_fit(pred, mos)
    assert note == ""
    assert mapped == pytest.approx(mos, abs=1e-3)
    assert stats.spearmanr(mapped, pred).statistic == pytest.approx(1)


def test_logistic_fit_comes_to_an_end_on_predictions_that_need_no_curve():
    rng = np.random.default_rng(0)
    pred = rng.normal(0, 0.3, 300)
    for mos in (0.5 * pred + 0.1, 0.5 * pred + rng.normal(0, 1e-3, 300)):
        mapped, note = logistic_fit(pred, mos)
        assert note == ""
        assert mapped == pytest.approx(mos, abs=0.02)
    for seed in (0, 1, 6, 8):  # seeds that SciPy's default tolerances have no end for
        rng = np.random.default_rng(seed)
        pred, mos = rng.normal(0, 0.3, (2, 300))
        assert "converge" not in logistic_fit(pred, mos)[1]


def test_logistic_fit_that_fails_leaves_the_predictions_and_says_why(monkeypatch):
    rng = np.random.default_rng(0)
    pred = rng.normal(0, 0.3, 50)
    cases = {
        "the logistic fit falls": (pred, -pred + rng.normal(0, 0.05, 50)),
        "all predictions or all MOS are equal": (np.full(50, 0.2), pred),
        "fewer than 5 images": (pred[:4], pred[:4]),
    }
    for reason, (x, y) in cases.items():
        mapped, note = logistic_fit(x, y)
        assert (mapped == x).all()
        assert note == f"not mapped: {reason}"

    def no_end(*arguments: object, **options: object) -> None:
        raise RuntimeError("Optimal parameters not found")

    monkeypatch.setattr(evaluation, "curve_fit", no_end)
    mapped, note = logistic_fit(pred, pred + 0.1)
    assert (mapped == pred).all()
    assert note == "not mapped: the logistic fit did not converge"
    measured = measure_agreement(pred, pred + 0.1, np.arange(50).astype(str), 20).set_index("metric")
    assert measured.loc["RMSE logistic", "value"] == measured.loc["RMSE", "value"] == pytest.approx(0.1)
    assert measured.loc["RMSE logistic", "note"] == note


# The trivial predictor


def test_method_mean_leaves_out_the_scene_of_the_image():
    rows = [
        ("s1", "A", 0.5),
        ("s1", "B", -0.1),
        ("s1", "C", 0.9),  # no other scene has C
        ("s2", "A", 0.3),
        ("s2", "B", 0.1),
        ("s3", "A", 0.1),
        ("s3", "B", math.nan),  # not rated
        ("s3", "", 0.2),
    ]
    table = pd.DataFrame(rows, columns=["scene", "method", "PR"], index=range(10, 18))
    means = method_means(table, "PR")
    assert means.index.equals(table.index)
    assert means["mean"].tolist() == pytest.approx([0.2, 0.1, math.nan, 0.3, -0.1, 0.4, 0.0, math.nan], nan_ok=True)
    # without s1 only A and B are known, B below A; without s2 or s3 the order is B, A, C
    places = [3 / 4, 1 / 4, math.nan, 3 / 6, 1 / 6, 3 / 6, 1 / 6, math.nan]
    assert means["place"].tolist() == pytest.approx(places, nan_ok=True)
    assert method_means(table.assign(method=""), "PR").isna().all(axis=None)


def test_methods_of_equal_means_share_a_place():
    rows = [("s1", "A", 0.3), ("s2", "A", 0.1), ("s3", "A", 0.2), ("s1", "B", 0.1), ("s2", "B", 0.3), ("s3", "B", 0.0)]
    means = method_means(pd.DataFrame(rows, columns=["scene", "method", "CF"]), "CF")
    assert means["mean"].tolist() == pytest.approx([0.15, 0.25, 0.2, 0.15, 0.05, 0.2])  # floats of 0.15 and 0.2 may differ
    assert means["place"].tolist() == [0.5, 0.75, 0.5, 0.5, 0.25, 0.5]


def test_place_of_the_method_is_as_good_as_its_true_quality_and_ranked_means_are_not():
    rng = np.random.default_rng(0)
    quality = np.array([-0.4, 0.1, 0.4, -0.1, 0.2])
    mos = quality + rng.normal(0, 0.25, (200, 1)) + rng.normal(0, 0.3, (200, 5))
    table = pd.DataFrame(
        {"scene": np.repeat(np.arange(200).astype(str), 5), "method": np.tile(list("ABCDE"), 200), "PR": mos.ravel()}
    )
    means = method_means(table, "PR")
    true = stats.spearmanr(np.tile(quality, 200), table["PR"]).statistic
    assert stats.spearmanr(means["place"], table["PR"]).statistic == pytest.approx(true, abs=0.01)
    assert stats.spearmanr(means["mean"], table["PR"]).statistic < true - 0.1


def test_steps_of_the_method_means_are_as_good_as_true_quality_and_the_means_themselves_are_not():
    rng = np.random.default_rng(0)
    quality = np.array([-0.4, 0.1, 0.4, -0.1, 0.2])
    mos = (quality + rng.normal(0, 0.25, (200, 1)) + rng.normal(0, 0.3, (200, 5))).ravel()
    scenes, noise = np.repeat(np.arange(200).astype(str), 5), np.full(1000, 0.1)
    means = method_means(pd.DataFrame({"scene": scenes, "method": np.tile(list("ABCDE"), 200), "PR": mos}), "PR")

    def areas(pred: np.ndarray) -> np.ndarray:
        return pair_agreement(pred, mos, scenes, noise, 1).set_index("metric").loc[["AUC different", "AUC better"], "value"]

    true = areas(np.tile(quality, 200)).to_numpy()
    assert areas(means["step"].to_numpy()).to_numpy() == pytest.approx(true, abs=0.005)
    assert (areas(means["mean"].to_numpy()).to_numpy() < true - 0.005).all()
    assert means.groupby("place")["step"].nunique().eq(1).all()


# Methods


def test_system_srcc_and_its_interval_are_those_of_the_means_of_drawn_images():
    rng = np.random.default_rng(0)
    scenes, method = np.repeat(np.arange(9).astype(str), 5), np.tile(list("ABCDE"), 9)
    mos = rng.normal(0, 0.3, 45).round(1)
    pred = (mos + rng.normal(0, 0.5, 45)).round(1)
    method[[3, 11]] = ""  # no method, which counts nowhere
    measured = system_agreement(pred, mos, method, scenes, 80, 2).iloc[0]

    def by_scipy(rows: np.ndarray) -> float:
        table = pd.DataFrame({"pred": pred[rows], "mos": mos[rows], "method": method[rows]})
        means = table[table["method"] != ""].groupby("method").mean().round(9)
        return stats.spearmanr(means["pred"], means["mos"]).statistic

    draws = drawn_scenes(9, 80, 2)
    drawn = np.array([by_scipy(np.concatenate([np.arange(5 * k, 5 * k + 5) for k in draw])) for draw in draws])
    assert len(set(np.round(drawn, 6))) > 10
    value = by_scipy(np.arange(45))
    low, high, _ = Resamples(9, 80, 2).interval(value, drawn, bounds=(-1, 1))
    assert measured[["value", "low", "high"]].tolist() == pytest.approx([value, low, high])
    assert measured["n"] == 5


def test_methods_that_a_draw_lacks_are_left_out_of_its_ranks():
    # A to C in scenes a to c, D in scene d only
    scenes, method = np.array([*"aaabbbccc", "d"]), np.array([*"ABCABCABC", "D"])
    mos = np.array([0.1, 0.2, 0.3, 0.2, 0.3, 0.4, 0.0, 0.2, 0.4, 0.9])
    pred = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2, 0.3, -0.9])
    measured = system_agreement(pred, mos, method, scenes, 200).iloc[0]
    members = [np.arange(3), np.arange(3, 6), np.arange(6, 9), np.array([9])]
    drawn = []
    for draw in drawn_scenes(4, 200, 0):
        rows = np.concatenate([members[k] for k in draw])
        means = pd.DataFrame({"pred": pred[rows], "mos": mos[rows], "method": method[rows]}).groupby("method").mean().round(9)
        drawn.append(stats.spearmanr(means["pred"], means["mos"]).statistic if len(means) > 1 else math.nan)
    assert set(np.round([value for value in drawn if not math.isnan(value)], 6)) == {1, -0.2}  # without and with D
    low, high, _ = Resamples(4, 200).interval(-0.2, np.array(drawn), bounds=(-1, 1))
    assert [measured["value"], measured["low"], measured["high"]] == pytest.approx([-0.2, low, high])
    found = evaluation._srcc_of_means(np.array([[0.1, 0.2, 0.3, math.nan]]), np.array([[0.1, 0.3, 0.2, math.nan]]))
    assert found == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("pred", "method", "note"),
    [
        ([0.1, 0.2, 0.1, 0.2], list("ABAB"), "n counts methods; fewer than 3 methods"),
        ([0.3, 0.3, 0.3, 0.3], list("ABCD"), "n counts methods"),
        ([0.1, 0.2, 0.3, 0.4], [""] * 4, "n counts methods; fewer than 3 methods"),
    ],
)
def test_system_srcc_is_not_defined_for_two_methods_or_equal_means(pred, method, note):
    scenes = np.array(["a", "a", "b", "b"])
    measured = system_agreement(np.array(pred), np.arange(4.0), np.array(method), scenes, 30).iloc[0]
    assert measured[["value", "low", "high"]].isna().all()
    assert measured["note"] == note


def test_methods_whose_means_are_equal_share_a_rank():
    # Sums 0.3 of A and B, of which the floats differ, and 0.1 of C
    values = np.array([0.15, 0.15, 0.1, 0.2, 0.0, 0.1]), np.array([0.5, 0.5, 0.4, 0.4, 0.1, 0.1])
    assert 0.15 + 0.15 != 0.1 + 0.2
    measured = system_agreement(*values, np.array(list("AABBCC")), np.array(list("ababab")), 5).iloc[0]
    assert measured["value"] == pytest.approx(stats.spearmanr([2, 2, 1], [3, 2, 1]).statistic)


def test_table_of_methods_has_their_means_intervals_and_ranks():
    pred, mos, scenes = sample()
    method = np.array(list("ABC"))[np.arange(len(mos)) % 3]
    rows = pd.DataFrame({"dimension": "PR", "scene": scenes, "method": method, "mos": mos, "prediction": pred})
    rows.loc[4, "prediction"] = math.nan  # not scored: counts nowhere
    rows.loc[5, "method"] = ""
    table = method_table(rows, 60, 1).set_index("method")
    known = rows.drop(index=[4, 5])
    draws = Resamples(known["scene"].nunique(), 60, 1)
    for name, own in known.groupby("method"):
        assert table.loc[name, ["n", "scenes"]].tolist() == [len(own), own["scene"].nunique()]
        for column in ("mos", "prediction"):
            by_scene = own.groupby("scene")[column].agg(["sum", "size"]).reindex(sorted(set(known["scene"])), fill_value=0)
            with np.errstate(invalid="ignore"):  # draws without the method
                drawn = (draws.counts @ by_scene["sum"].to_numpy()) / (draws.counts @ by_scene["size"].to_numpy())
            mean = own[column].mean()
            expected = [mean, *draws.interval(mean, drawn, own["scene"].nunique())[:2]]
            assert table.loc[name, [column, f"{column}_low", f"{column}_high"]].tolist() == pytest.approx(expected)
    means = known.groupby("method")[["mos", "prediction"]].mean()
    assert table["rank_people"].to_dict() == means["mos"].rank(ascending=False).to_dict()
    assert table["rank_network"].to_dict() == means["prediction"].rank(ascending=False).to_dict()
    assert table["rank_people"].tolist() == [1, 2, 3]
    best = compact_methods(table.reset_index()).iloc[0]
    assert best["MOS"].startswith(f"{means['mos'].max():.3f} [")
    assert (best["rank by people"], best["n"]) == ("1", str(table["n"].iloc[0]))
    assert method_table(rows.assign(method=""), 5).empty


def test_both_predictors_are_measured_on_the_same_images_unless_a_mean_is_lacking():
    scenes, methods = ["a", "a", "a", "b", "b", "b"], ["M", "N", "O", "M", "N", "M"]
    rows = pd.DataFrame({"scene": scenes, "method": methods, "mos": [0.1, 0.4, 0.2, 0.0, 0.3, 0.2]})
    rows = rows.assign(dimension="CF", prediction=[0.2, 0.3, 0.1, 0.1, 0.4, math.nan], noise=0.01)
    rows[["mean", "place", "step"]] = method_means(rows.rename(columns={"mos": "CF"}), "CF")
    metrics = evaluate(rows, {"CF": "in-sample"}, 20, subset="some")
    by_predictor = metrics[metrics["metric"] == "RMSE"].set_index("predictor")
    assert by_predictor["n"].to_dict() == {"network": 5, "method mean": 4}
    lacking = "some; 1 image without a score left out; 1 image without a method that other scenes have left out"
    few = "; fewer than 4 scenes: no interval"
    assert by_predictor["note"].to_dict() == {
        "network": "some; in-sample; 1 image without a score left out" + few,
        "method mean": lacking + few,
    }
    # means 0.1, 0.3, 0.1, 0.4 of M and N in the other scene
    assert by_predictor.loc["method mean", "value"] == pytest.approx(math.sqrt((0 + 0.1**2 + 0.1**2 + 0.1**2) / 4))
    assert metrics["metric"].tolist() == [*ALL_METRICS] * 2
    counts = metrics[metrics["predictor"] == "network"].set_index("metric")["n"]
    # a: three pairs of 0.1, 0.4, 0.2; b: 0.0 and 0.3
    assert counts[[*PAIR_METRICS, SYSTEM_SRCC]].tolist() == [4, 4, 4, 3]
    assert set(evaluate(rows.assign(method="M"), {}, 20)["predictor"]) == {"network"}


# Score files and joins


def test_a_file_counts_for_its_main_dimension_and_pr_gives_what_no_other_file_does(tmp_path):
    pr = write_scores(tmp_path / "pr.csv", {"PR": MOS["PR"], "CF": MOS["CF"], "SCC": MOS["SCC"]}, tmp_path)
    cf = write_scores(tmp_path / "cf.csv", {"CF": MOS["SCC"]}, tmp_path)
    found = read_predictions([str(pr), str(cf)])
    assert [(d, s.path.name, s.is_sub_score) for d, s in found.items()] == [
        ("CF", "cf.csv", False),
        ("SCC", "pr.csv", True),
        ("PR", "pr.csv", False),
    ]
    assert list(read_predictions([f"{pr}:SCC"])) == ["SCC"]
    hand_made = tmp_path / "hand.csv"
    hand_made.write_text("image,SCC,CF\na.png,0.1,0.2\n")
    assert {d: s.is_sub_score for d, s in read_predictions([str(hand_made)]).items()} == {"CF": True, "SCC": False}
    with pytest.raises(ValueError, match=r"cf\.csv and .*pr\.csv both give CF"):
        read_predictions([str(cf), f"{pr}:CF"])


def test_json_needs_a_dimension_in_its_name_or_after_a_colon(tmp_path):
    named = write_json(tmp_path / "ICQA_2K_test_SCC_result.json", MOS["SCC"])
    bare = write_json(tmp_path / "mine.json", MOS["CF"])
    assert list(read_predictions([str(named), f"{bare}:CF"])) == ["CF", "SCC"]
    with pytest.raises(ValueError, match=r"mine\.json does not say .* after a colon: .*mine\.json:CF"):
        read_predictions([str(bare)])
    both = write_json(tmp_path / "a_CF_SCC_b.json", MOS["CF"])
    with pytest.raises(ValueError, match=r"a_CF_SCC_b\.json does not say"):
        read_predictions([str(both)])
    with pytest.raises(ValueError, match=r"expected one of CF, SCC, PR after the colon of .*mine\.json:cf, got 'cf'"):
        read_predictions([f"{bare}:cf"])
    with pytest.raises(FileNotFoundError, match=r"there is no score file .*gone\.csv; run infer_PR\.py"):
        read_predictions([str(tmp_path / "gone.csv:PR")])
    write_scores(tmp_path / "cf.csv", {"CF": MOS["CF"]}, tmp_path)
    with pytest.raises(ValueError, match=r"cf\.csv\.json says how the scores of cf\.csv were made"):
        read_predictions([str(tmp_path / "cf.csv.json")])


def test_join_by_relative_path_where_the_folder_is_another_one(tmp_path):
    write_scores(tmp_path / "cf.csv", {"CF": {"x/a.png": 0.1, "x/b.png": 0.2, "y/a.png": 0.3}}, tmp_path / "old")
    scores = Scores(tmp_path / "cf.csv", read_scores(tmp_path / "cf.csv"), False)
    joined = join(mos_table(tmp_path / "new", {"y/a.png": 0, "x/a.png": 0}), scores, "CF")
    assert joined.rows["prediction"].tolist() == [0.3, 0.1]
    assert (joined.unused, joined.absent, joined.failed) == (1, [], {})
    assert joined.elsewhere == f"by relative path: the scored folder was {tmp_path / 'old'}"


def test_join_by_absolute_path_where_the_roots_differ(tmp_path):
    """Also where another image has the same path relative to its root."""
    write_scores(tmp_path / "cf.csv", {"CF": {"a.png": -0.9, "x/a.png": 0.1, "x/b.png": 0.2}}, tmp_path)
    scores = Scores(tmp_path / "cf.csv", read_scores(tmp_path / "cf.csv"), False)
    joined = join(mos_table(tmp_path / "x", {"b.png": 0, "a.png": 0}), scores, "CF")
    assert joined.rows["prediction"].tolist() == [0.2, 0.1]
    assert (joined.unused, joined.elsewhere) == (1, "")
    assert join(mos_table(tmp_path / "x", {"a.png": 0}), scores, "CF").rows["prediction"].tolist() == [0.1]
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert join(mos_table(tmp_path / "link", {"a.png": 0}), scores, "CF").rows["prediction"].tolist() == [0.1]


def test_join_by_stem_refuses_two_images_of_one_stem(tmp_path):
    scores = read_predictions([str(write_json(tmp_path / "x_CF_y.json", {"a": 0.1, "b": 0.2, "c": 0.3}))])["CF"]
    joined = join(mos_table(tmp_path, {"one/b.png": 0, "two/a.jpg": 0}), scores, "CF")
    assert joined.rows["prediction"].tolist() == [0.2, 0.1]
    assert joined.unused == 1
    with pytest.raises(ValueError, match=r"x_CF_y\.json goes by stem, which cannot tell one/b\.png from two/b\.png"):
        join(mos_table(tmp_path, {"one/b.png": 0, "two/b.png": 0}), scores, "CF")


def test_error_rows_and_absent_rows_are_told_apart(tmp_path):
    write_scores(tmp_path / "cf.csv", {"CF": {"a.png": 0.1}}, tmp_path, errors={"b.png": "cannot read: truncated"})
    hand_made = tmp_path / "hand.csv"
    hand_made.write_text("image,CF,error\na.png,0.1,\nb.png,,\n")
    broken = tmp_path / "broken.csv"
    broken.write_text("image,CF,error\na.png,0.1,\nb.png,0.5,not to be trusted\n")
    table = mos_table(tmp_path, {"a.png": 0, "b.png": 0, "c.png": 0, "d.png": 0})
    for path, reason in (
        (tmp_path / "cf.csv", "cannot read: truncated"),
        (hand_made, "its score is empty"),
        (broken, "not to be trusted"),
    ):
        scores = Scores(path, read_scores(path), False)
        joined = join(table, scores, "CF")
        assert joined.rows["prediction"].tolist() == pytest.approx([0.1, math.nan, math.nan, math.nan], nan_ok=True)
        assert (joined.failed, joined.absent) == ({"b.png": reason}, ["c.png", "d.png"])
        with pytest.raises(
            ValueError, match=r"2 of 4 images .* no row in .*\.csv \(it has 2.*e\.g\. c\.png; run infer_CF\.py on"
        ):
            require_rows(joined, scores, "CF", "folder")
    with pytest.raises(ValueError, match=r"run infer_PR\.py on folder, or pass --allow-missing"):
        require_rows(joined, Scores(broken, scores.frame, True), "CF", "folder")


# Tables


def test_what_is_not_defined_is_shown_as_na_in_every_form():
    row = {"dimension": "CF", "predictor": "network", "n": 3, "scenes": 2, "note": ""}
    metrics = pd.DataFrame(
        [
            {**row, "metric": "SRCC", "value": math.nan, "low": math.nan, "high": math.nan},
            {**row, "metric": "KRCC", "value": -0.0001, "low": -0.1, "high": 0.1},
            {**row, "metric": "within-scene SRCC", "value": 0.25, "low": -0.5, "high": 0.75},
        ]
    )
    table = compact(metrics, 0.921)
    assert table.to_dict("records") == [
        {
            "dimension": "CF",
            "predictor": "network",
            "n": "3",
            "scenes": "2",
            "SRCC": "n/a",
            "published SRCC": "0.9210",
            "KRCC": "0.000",
            "within-scene SRCC": "0.250 [-0.500, 0.750]",
        }
    ]
    assert as_markdown(table).splitlines()[-1] == "| CF | network | 3 | 2 | n/a | 0.9210 | 0.000 | 0.250 [-0.500, 0.750] |"
    assert "CF & network & 3 & 2 & n/a & 0.9210 & 0.000 & 0.250 [-0.500, 0.750] \\\\\n\\bottomrule" in as_latex(table)


# The script


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Path]:
    """A MOS table without images, and score files of them; SCC is not rated for the first image."""
    mos = {**MOS, "SCC": {image: value for image, value in MOS["SCC"].items() if image != IMAGES[0]}}
    return {
        "mos": write_mos(tmp_path / "mos.csv", mos),
        "cf": write_scores(tmp_path / "cf.csv", {"CF": ratings(4)}, tmp_path),
        "pr": write_scores(tmp_path / "pr.csv", {"PR": ratings(6), "CF": ratings(7), "SCC": ratings(8)}, tmp_path),
    }


def test_script_writes_what_scipy_finds_in_the_files(run: Callable, own, tmp_path):
    done = run(
        "evaluate.py", "--predictions", own["cf"], own["pr"], "--mos", own["mos"], "--resamples", 40, "--output", tmp_path / "o"
    )
    assert done.code == 0
    files = {"metrics.csv", "methods.csv", "predictions.csv", "table.md", "table.tex"}
    assert {path.name for path in (tmp_path / "o").iterdir()} == files
    metrics = read_metrics(tmp_path / "o")
    assert list(metrics.columns) == ["dimension", "metric", "value", "low", "high", "n", "predictor", "scenes", "note"]
    assert len(metrics) == 3 * 2 * len(ALL_METRICS)
    for dimension, seed in {"CF": 4, "SCC": 8, "PR": 6}.items():
        images = IMAGES[1:] if dimension == "SCC" else IMAGES
        pred, mos = ([values[image] for image in images] for values in (ratings(seed), MOS[dimension]))
        network = metrics[(metrics["dimension"] == dimension) & (metrics["predictor"] == "network")].set_index("metric")
        assert network.loc["SRCC", "value"] == pytest.approx(stats.spearmanr(pred, mos).statistic, abs=1e-6)
        assert network.loc["KRCC", "value"] == pytest.approx(stats.kendalltau(pred, mos).statistic, abs=1e-6)
        assert network.loc["PLCC", "value"] == pytest.approx(stats.pearsonr(pred, mos).statistic, abs=1e-6)
        scenes = [[i for i, image in enumerate(images) if scene in image] for scene in SCENES]
        within = mean_over_scenes(np.array(pred), np.array(mos), [np.array(rows) for rows in scenes])
        assert network.loc["within-scene SRCC", "value"] == pytest.approx(within, abs=1e-6)
        assert (network.loc[list(METRICS), "n"] == len(images)).all()
        pairs = [(i, j) for rows in scenes for i in rows for j in rows if mos[i] - mos[j] >= 1.96 * 0.1 * math.sqrt(2)]
        right = [pred[i] > pred[j] for i, j in pairs]
        assert network.loc["pairwise accuracy", ["value", "n"]].tolist() == pytest.approx(
            [np.mean(right), len(right)], abs=1e-6
        )
        assert network.loc["AUC different", "n"] == sum(len(rows) * (len(rows) - 1) // 2 for rows in scenes)
        means = [[np.mean([v for v, i in zip(x, images, strict=True) if m in i]) for m in METHODS] for x in (pred, mos)]
        assert network.loc[SYSTEM_SRCC, "value"] == pytest.approx(stats.spearmanr(*means).statistic, abs=1e-6)
        assert (network["scenes"] == 5).all()
        shown = f"{network.loc['SRCC', 'value']:.3f} [{network.loc['SRCC', 'low']:.3f}, {network.loc['SRCC', 'high']:.3f}]"
        for text in (done.out, (tmp_path / "o" / "table.md").read_text(), (tmp_path / "o" / "table.tex").read_text()):
            assert shown in text
    predictions = pd.read_csv(tmp_path / "o" / "predictions.csv", dtype={"scene": str})
    assert list(predictions.columns) == ["image", "scene", "method", "dimension", "mos", "prediction"]
    row = predictions[(predictions["image"] == IMAGES[3]) & (predictions["dimension"] == "CF")].iloc[0]
    assert row.tolist() == [IMAGES[3], SCENES[3], "BIG", "CF", MOS["CF"][IMAGES[3]], ratings(4)[IMAGES[3]]]
    assert "1 prediction for images without a SCC rating is not used" in done.out
    assert "SCC: 14 images with rating and score; the sub-scores in" in done.out
    assert "IN-SAMPLE" not in done.out
    again = run("evaluate.py", "--predictions", own["cf"], own["pr"], "--mos", own["mos"], "--resamples", 40)
    assert again.out == done.out.removesuffix(
        f"\n{tmp_path / 'o'}: metrics.csv, methods.csv, predictions.csv, table.md, table.tex\n"
    )


def test_script_leaves_out_images_with_an_error_by_name_and_stops_at_those_without_a_row(run: Callable, own, tmp_path):
    some = {image: 0.1 * i for i, image in enumerate(IMAGES[:10])}
    path = write_scores(tmp_path / "some.csv", {"CF": some}, tmp_path, errors={IMAGES[10]: "cannot read: truncated"})
    arguments = ["--predictions", path, "--mos", own["mos"], "--resamples", 10, "--output", tmp_path / "o"]
    refused = run("evaluate.py", *arguments)
    assert refused.code == 1
    assert f"error: 4 of 15 images with a CF rating have no row in {path}" in refused.err
    assert f"e.g. {IMAGES[11]}; run infer_CF.py on {tmp_path}" in refused.err
    assert not (tmp_path / "o").exists()
    done = run("evaluate.py", *arguments, "--allow-missing")
    assert done.code == 0
    assert f"left out, 1 with an error in place of a score: {IMAGES[10]} (cannot read: truncated)" in done.out
    assert f"left out, 4 without a row: {', '.join(IMAGES[11:])}" in done.out
    metrics = read_metrics(tmp_path / "o")
    assert (metrics.loc[metrics["metric"].isin(METRICS), "n"] == 10).all()
    assert metrics["note"].str.contains("5 images without a score left out").all()
    assert "without a score left out" not in done.out  # said above, with the names
    written = (tmp_path / "o" / "table.md").read_text()
    assert written.count("5 images without a score left out") == 1
    assert "CF, network and method mean: 5 images without a score left out" in written
    predictions = pd.read_csv(tmp_path / "o" / "predictions.csv")
    assert predictions.loc[predictions["prediction"].isna(), "image"].tolist() == sorted(IMAGES[10:])


def test_script_says_loudly_that_scores_are_in_sample(run: Callable, own, tmp_path):
    path = write_scores(tmp_path / "seen.csv", {"CF": ratings(4)}, tmp_path, sample="in-sample")
    done = run(
        "evaluate.py", "--predictions", path, own["pr"], "--mos", own["mos"], "--resamples", 10, "--output", tmp_path / "o"
    )
    assert f"*** CF IS IN-SAMPLE: its weights were trained on images in {path}" in done.out
    assert "\nCF, network: in-sample\n" in done.out
    assert "PR IS IN-SAMPLE" not in done.out
    metrics = read_metrics(tmp_path / "o")
    network = metrics["predictor"] == "network"
    assert metrics["note"].str.contains("in-sample").equals((metrics["dimension"] == "CF") & network)


def test_script_shows_constant_predictions_as_na(run: Callable, own, tmp_path):
    path = write_scores(tmp_path / "flat.csv", {"PR": dict.fromkeys(IMAGES, 0.25)}, tmp_path)
    done = run("evaluate.py", "--predictions", path, "--mos", own["mos"], "--resamples", 10, "--output", tmp_path / "o")
    assert done.code == 0
    line = next(line for line in done.out.splitlines() if line.startswith("PR         network"))
    assert line.split()[4:7] == ["n/a"] * 3
    metrics = read_metrics(tmp_path / "o").set_index(["predictor", "metric"])
    assert math.isnan(metrics.loc[("network", "SRCC"), "value"])
    assert metrics.loc[("network", "RMSE"), "value"] > 0
    assert "not mapped" in metrics.loc[("network", "RMSE logistic"), "note"]
    assert "CF: rated, but no predictions were given" in done.out


def test_script_maps_the_range_of_the_mos_and_skips_what_is_not_rated(run: Callable, own, tmp_path):
    raw = {image: round(3 + 2 * value, 6) for image, value in MOS["PR"].items()}
    table = write_mos(tmp_path / "raw" / "raw.csv", {"PR": raw})
    arguments = ["--predictions", own["cf"], own["pr"], "--mos", table, "--mos-range", 1, 5, "--resamples", 5]
    done = run("evaluate.py", *arguments, "--output", tmp_path)
    assert done.code == 0
    assert "raw has no CF ratings" in done.out
    metrics = read_metrics(tmp_path).set_index(["dimension", "predictor", "metric"])
    error = np.array([ratings(6)[image] - MOS["PR"][image] for image in IMAGES])
    assert metrics.loc[("PR", "network", "RMSE"), "value"] == pytest.approx(math.sqrt(np.mean(error**2)), abs=1e-5)
    nothing = run("evaluate.py", "--predictions", own["cf"], "--mos", table, "--mos-range", 1, 5)
    assert nothing.code == 1
    assert "error: raw has no ratings in CF: nothing to evaluate" in nothing.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mos", "m.csv", "--dataset", "hecd"], "not allowed with argument"),
        ([], "expected --predictions or --images, with --mos or --dataset"),
        (["--dataset", "icqa2k"], "--dataset icqa2k needs --root"),
        (["--mos", "m.csv", "--split", "test"], "--split needs --dataset icqa2k"),
        (["--mos", "m.csv", "--compare-published"], "--compare-published needs --dataset icqa2k"),
        (["--dataset", "hecd", "--root", ".", "--mos-range", "1", "5"], "--mos-range does not apply to HECD"),
        (["--mos", "m.csv", "--resamples", "0"], "--resamples: expected a whole number from 1 to 1000000, got 0"),
        (["--mos", "m.csv", "--output", __file__], "--output must be a folder"),
        (["--mos", "m.csv", "--noise", "-0.1"], "--noise: expected a number from 0 to 2, got -0.1"),
        (["--mos", "m.csv", "--noise", "nan"], "--noise: expected a number from 0 to 2, got nan"),
        (["--mos", "m.csv", "--ratings", "r.csv"], "--dataset cin25 and --ratings, its file, need each other"),
        (["--dataset", "cin25", "--root", "."], "--dataset cin25 and --ratings, its file, need each other"),
        (["--mos", "m.csv", "--report", "page.pdf"], "--report needs a name that ends in .html, got page.pdf"),
        (["--mos", "m.csv", "--report-labels", "labels"], "--report-labels needs --report"),
        (["--mos", "m.csv", "--index", "gone.csv"], "--index takes a table image, scene, method, got gone.csv"),
        (["--mos", "m.csv", "--mistyped", "x"], "unrecognized arguments: --mistyped x"),
        (["--score-options", "--preset published"], "--score-options is gone; pass the flags of infer_PR.py as they are"),
    ],
)
def test_script_refuses_arguments_that_do_not_go_together(run: Callable, arguments, message):
    done = run("evaluate.py", "--predictions", "cf.csv", *arguments)
    assert done.code == 2
    assert message in done.err


def test_script_reads_hecd(run: Callable, tmp_path):
    versions = {"_gt": 0.4, "B_1": -0.9, "F_2": 0.6, "Z_1": 0.1}
    names = [f"{scene}{version}.jpg" for scene in ("015004", "022090") for version in versions]
    lines = [f"x,{name},{z}" for name, z in zip(names, [*versions.values()] * 2, strict=True)]
    (tmp_path / "mean_zscores.csv").write_text("\n".join(["Ground Truth File,Recolour File,Mean zScore", *lines]))
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    path = write_scores(
        tmp_path / "pr.csv", {"PR": ratings(1, names), "CF": ratings(2, names), "SCC": ratings(3, names)}, tmp_path
    )
    done = run("evaluate.py", "--predictions", path, "--dataset", "hecd", "--root", tmp_path, "--resamples", 5)
    assert done.code == 0
    assert "HECD: 8 images of 2 scenes; rated: CF 6, SCC 6, PR 8" in done.out
    assert "0.1 (--noise) for all" in done.out
    # Raw ratings of B_1 of one scene, beside the original: differences -3, -2 and -2, for other raters 0 and 1 of F_2.
    trials = [(rater, "B_1", score) for rater, score in (("p", 1), ("q", 2), ("r", 2))]
    trials += [(rater, "F_2", score) for rater, score in (("p", 4), ("q", 5), ("r", 4))]
    lines = [f"{rater},1,015004{version}.jpg,{score},015004_gt.jpg,4" for rater, version, score in trials]
    (tmp_path / "clean_raw_data.csv").write_text("\n".join(["ID,SurNum,File1,Score1,File2,Score2", *lines]))
    done = run("evaluate.py", "--predictions", path, "--dataset", "hecd", "--root", tmp_path, "--resamples", 5)
    assert done.code == 0, done.err
    assert "that of its ratings; 0.1 (--noise) for the" in done.out


# Noise of the ratings


def test_table_gives_the_standard_error_of_each_mos(tmp_path):
    path = tmp_path / "mos.csv"
    path.write_text(
        "image,scene,CF,SCC,PR,CF_std,CF_n,PR_std,n,SCC_n\n"
        "a.png,1,2,3,4,0.8,16,0.6,9,5\nb.png,1,2,3,4,0.8,1,,9,5\nc.png,1,2,3,4,0,4,0.6,,5\n"
    )
    with pytest.warns(UserWarning, match=r"ignoring the columns \['SCC_n'\]"):
        frame = load_table(path, (1, 5), check_files=False)
    assert list(frame.columns) == ["image", "scene", "method", "CF", "SCC", "PR", "CF_se", "PR_se"]
    assert frame["CF_se"].tolist() == pytest.approx(
        [0.8 / 4 / 2, math.nan, 0], nan_ok=True
    )  # two units of 1 to 5 are one of ours
    assert frame["PR_se"].tolist() == pytest.approx([0.6 / 3 / 2, math.nan, math.nan], nan_ok=True)
    path.write_text("image,scene,CF,CF_std,n\na.png,1,0,-0.1,4\n")
    with pytest.raises(ValueError, match=r"line 2: CF_std is '-0.1', expected a number of at least 0, or an empty cell"):
        load_table(path, check_files=False)
    path.write_text("image,scene,CF,CF_std,n\na.png,1,0,0.1,many\n")
    with pytest.raises(ValueError, match=r"line 2: n is 'many'"):
        load_table(path, check_files=False)
    path.write_text("image,scene,CF,n\na.png,1,0,4\n")
    with pytest.warns(UserWarning, match=r"ignoring the columns \['n'\]"):
        assert "CF_se" not in load_table(path, check_files=False)


def test_noise_of_the_ratings_says_which_pairs_are_clear_and_that_of_the_command_line_fills_gaps(run: Callable, tmp_path):
    # Differences 0.1 in scene 1, with an error of 0.01; 0.3 in scene 2, with an error of 0.2; 0.3 in scene 3, not known.
    rows = ["a,1,0,0.04,16", "b,1,0.1,0.04,16", "c,2,0,0.8,16", "d,2,0.3,0.8,16", "e,3,0,,", "f,3,0.3,,"]
    (tmp_path / "mos.csv").write_text("\n".join(["image,scene,PR,PR_std,PR_n", *rows]) + "\n")
    pred = write_scores(tmp_path / "pr.csv", {"PR": dict.fromkeys("abcdef", 0.5) | {"b": 0.6, "e": 0.7}}, tmp_path)
    found = {}
    for noise in (0.1, 0.2):
        arguments = ["--predictions", pred, "--mos", tmp_path / "mos.csv", "--noise", noise, "--output", tmp_path / "o"]
        done = run("evaluate.py", *arguments, "--resamples", 20)
        assert f"Standard error of a MOS: that of its ratings; {noise} (--noise) for the 2 of 6 whose" in done.out
        row = read_metrics(tmp_path / "o").set_index("metric").loc["pairwise accuracy"]
        found[noise] = row["value"], row["n"]
    assert found == {0.1: (0.5, 2), 0.2: (1, 1)}  # scene 1 right, scene 3 wrong; scene 1 alone


# A second predictor


def test_comparison_is_that_of_scipy_on_the_images_both_have(run: Callable, own, tmp_path):
    other = write_scores(tmp_path / "other.csv", {"PR": ratings(9, IMAGES[:12])}, tmp_path, sample="in-sample")
    arguments = ["--predictions", own["cf"], own["pr"], "--mos", own["mos"], "--resamples", 30, "--output", tmp_path / "o"]
    refused = run("evaluate.py", *arguments, "--versus", other)
    assert f"error: 3 of 15 images with a PR rating have no row in {other}" in refused.err
    done = run("evaluate.py", *arguments, "--versus", other, "--allow-missing")
    assert done.code == 0
    compared = pd.read_csv(tmp_path / "o" / "comparison.csv", keep_default_na=False, na_values={"difference": ""})
    assert list(compared.columns) == ["dimension", "versus", *COLUMNS]
    assert set(compared["dimension"]) == {"PR"}
    assert set(compared["versus"]) == {str(other)}
    compared = compared.set_index("metric")
    mine, theirs, mos = ([values[image] for image in IMAGES[:12]] for values in (ratings(6), ratings(9), MOS["PR"]))
    for metric, function in (("SRCC", stats.spearmanr), ("PLCC", stats.pearsonr)):
        values = [function(pred, mos).statistic for pred in (mine, theirs)]
        assert compared.loc[metric, ["first", "second", "difference"]].tolist() == pytest.approx(
            [*values, values[0] - values[1]], rel=1e-4
        )
        assert float(compared.loc[metric, "low"]) < values[0] - values[1] < float(compared.loc[metric, "high"])
        assert compared.loc[metric, "n"] == 12
    note = "the other is in-sample; 3 images that the other has no value for left out"
    assert compared["note"].tolist() == [note, note, f"{note}; n counts clearly different pairs"]
    shown = f"{compared.loc['SRCC', 'difference']:.3f} ["
    for text in (done.out, (tmp_path / "o" / "table.md").read_text(), (tmp_path / "o" / "table.tex").read_text()):
        assert shown in text
        assert "PR, versus" in text


def test_another_metric_is_compared_as_it_is(run: Callable, own, tmp_path):
    values = {image: 50 + 40 * value for image, value in ratings(9).items()}
    plain = write_scores(tmp_path / "plain.csv", {"PR": ratings(9)}, tmp_path)
    rows = [f"{image},{value!r},{'x' * i}" for i, (image, value) in enumerate(values.items())]
    (tmp_path / "niqe.csv").write_text("\n".join(["image,NIQE,note", *rows]) + "\n")
    rows = [f"{image},{100 - value!r},{i}" for i, (image, value) in enumerate(values.items())]
    (tmp_path / "two.csv").write_text("\n".join(["image,PR,seconds", *rows]) + "\n")
    (tmp_path / "x.json").write_text(json.dumps({Path(image).stem: value for image, value in values.items()}))
    arguments = ["--predictions", own["cf"], own["pr"], "--mos", own["mos"], "--resamples", 5, "--output", tmp_path / "o"]

    def compared(*versus: object) -> pd.DataFrame:
        done = run("evaluate.py", *arguments, "--versus", *versus)
        assert done.code == 0, done.err
        found = pd.read_csv(tmp_path / "o" / "comparison.csv")
        return found[found["dimension"] == "PR"].drop(columns="versus").reset_index(drop=True)

    wanted = compared(plain)
    for versus in (["niqe.csv"], ["x.json"], ["x.json:PR"], ["niqe.csv:NIQE"], ["two.csv", "--lower-is-better"]):
        found = compared(tmp_path / versus[0], "--versus-range", 0, 100, *versus[1:])
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-3, atol=1e-4)
    assert set(pd.read_csv(tmp_path / "o" / "comparison.csv")["dimension"]) == {"PR"}  # the column says PR
    compared(tmp_path / "niqe.csv", "--versus-range", 0, 100)
    assert set(pd.read_csv(tmp_path / "o" / "comparison.csv")["dimension"]) == {"CF", "SCC", "PR"}
    for versus, message in (
        (["niqe.csv"], "outside -1 to 1; give the lowest and the highest possible score, such as --versus-range 0 100"),
        (["niqe.csv", "--versus-range", 0, 1], "outside 0 to 1; give"),
        (["two.csv:brisque"], "has no column brisque, only image, PR, seconds"),
        (["niqe.csv:note"], "note of "),
        (["niqe.csv", str(tmp_path / "x.json"), "--versus-range", 0, 100], "both give CF; evaluate one at a time"),
    ):
        refused = run("evaluate.py", *arguments, "--versus", tmp_path / versus[0], *versus[1:])
        assert (refused.code, refused.err.count("\n")) == (1, 1)
        assert message in refused.err
    for options in (["--versus-range", 1, 0], ["--versus-range", 0, "inf"]):
        assert run("evaluate.py", *arguments, "--versus", plain, *options).code == 2
    for options in (["--versus-range", 0, 1], ["--lower-is-better"], ["--lower-is-better", "--versus", "method-mean"]):
        assert run("evaluate.py", *arguments, *options).code == 2


def test_network_is_compared_with_the_method_mean_and_with_a_file_at_once(run: Callable, own, tmp_path):
    other = write_scores(tmp_path / "other.csv", {"CF": ratings(9)}, tmp_path)
    arguments = ["--predictions", own["cf"], own["pr"], "--mos", own["mos"], "--resamples", 20, "--output", tmp_path / "o"]
    done = run("evaluate.py", *arguments, "--versus", other, "method-mean")
    assert done.code == 0
    compared = pd.read_csv(tmp_path / "o" / "comparison.csv")
    pairs = list(zip(compared["dimension"], compared["versus"], strict=True))[::3]
    assert pairs == [("CF", str(other)), ("CF", "method-mean"), ("SCC", "method-mean"), ("PR", "method-mean")]
    metrics = read_metrics(tmp_path / "o").set_index(["dimension", "predictor", "metric"])
    for row in compared.to_dict("records"):
        assert row["first"] == pytest.approx(metrics.loc[(row["dimension"], "network", row["metric"]), "value"], abs=1e-5)
        if row["versus"] == "method-mean":
            assert row["second"] == pytest.approx(
                metrics.loc[(row["dimension"], "method mean", row["metric"]), "value"], abs=1e-5
            )


def test_comparison_without_a_common_dimension_or_method_is_an_error(run: Callable, own, tmp_path):
    other = write_scores(tmp_path / "other.csv", {"SCC": ratings(9)}, tmp_path)
    done = run("evaluate.py", "--predictions", own["cf"], "--mos", own["mos"], "--versus", other, "--resamples", 5)
    assert (done.code, done.err) == (1, "error: --versus gives SCC, --predictions CF: nothing to compare\n")
    (tmp_path / "bare.csv").write_text(
        "image,scene,CF\n" + "".join(f"{image},{image},0.{i}\n" for i, image in enumerate(IMAGES))
    )
    done = run(
        "evaluate.py", "--predictions", own["cf"], "--mos", tmp_path / "bare.csv", "--versus", "method-mean", "--resamples", 5
    )
    assert "CF: no image that the network and method-mean both have, not compared" in done.out
    assert done.err == "error: --versus has no image in common with --predictions: nothing to compare\n"


# Methods and CIN25


def test_table_of_methods_is_written_and_latex_escapes_their_names(run: Callable, own, tmp_path):
    table = tmp_path / "named.csv"
    table.write_text(own["mos"].read_text().replace(",BIG,", ",B_1 & %,"))
    done = run("evaluate.py", "--predictions", own["cf"], "--mos", table, "--resamples", 20, "--output", tmp_path / "o")
    assert done.code == 0
    methods = pd.read_csv(tmp_path / "o" / "methods.csv").set_index("method")
    assert set(methods.index) == {"B_1 & %", "CIC", "CT2"}
    big = [image for image in IMAGES if image.startswith("BIG")]
    assert methods.loc["B_1 & %", "mos"] == pytest.approx(np.mean([MOS["CF"][image] for image in big]), abs=1e-6)
    assert methods.loc["B_1 & %", "prediction"] == pytest.approx(np.mean([ratings(4)[image] for image in big]), abs=1e-6)
    assert "## named: methods" in (tmp_path / "o" / "table.md").read_text()
    assert "CF & B\\_1 \\& \\% & 5 & 5 & " in (tmp_path / "o" / "table.tex").read_text()


def test_script_reads_cin25_and_takes_the_noise_from_its_people(run: Callable, tmp_path):
    lines = []
    for image in IMAGES:
        method, scene = image.removesuffix(".png").split("_")
        for user, offset in enumerate((-0.5, 0, 0.5)):
            lines.append(f"{scene},{image},{method},{3 + MOS['PR'][image] + offset:.6f},u{user}")
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    path = write_scores(tmp_path / "pr.csv", {"PR": ratings(6)}, tmp_path)
    with pytest.warns(UserWarning, match="15 images of 5 scenes"):
        done = run(
            "evaluate.py", "--predictions", path, "--dataset", "cin25", "--ratings", tmp_path / "r.csv", "--mos-range", 1, 5,
            "--resamples", 10, "--output", tmp_path / "o",
        )  # fmt: skip
    assert done.code == 0
    assert "CIN25: 15 images of 5 scenes; rated: CF 0, SCC 0, PR 15" in done.out
    assert "Standard error of a MOS: that of its ratings.\n" in done.out
    assert "CIN25: that its people judged naturalness (PR) is our reading; scores in [1, 5] (--mos-range)." in done.out
    metrics = read_metrics(tmp_path / "o").set_index(["predictor", "metric"])
    pred, mos = ([values[image] for image in IMAGES] for values in (ratings(6), MOS["PR"]))
    assert metrics.loc[("network", "SRCC"), "value"] == pytest.approx(stats.spearmanr(pred, mos).statistic, abs=1e-6)
    # The deviation of every image is 0.5 of the raw scale, that of the mean of three 0.5 / sqrt(3), half of it in [-1, 1].
    limit = 1.96 * 0.5 / math.sqrt(3) * math.sqrt(2)
    scenes = [[i for i, image in enumerate(IMAGES) if scene in image] for scene in SCENES]
    clear = sum(mos[i] - mos[j] >= limit for rows in scenes for i in rows for j in rows)
    assert 0 < clear < 15
    assert metrics.loc[("network", "pairwise accuracy"), "n"] == clear


# ICQA-2K and the published number


def published_files(folder: Path, split: str = "test", images: Sequence[str] = IMAGES) -> list[Path]:
    return [
        write_json(folder / f"ICQA_2K_{split}_{dimension}_result.json", ratings(seed, images))
        for dimension, seed in (("CF", 4), ("SCC", 5), ("PR", 6))
    ]


def test_published_results_are_measured_on_the_test_split_and_beside_the_headline(run: Callable, tmp_path):
    root = write_icqa2k(tmp_path / "data", "test")
    arguments = ["--predictions", *published_files(tmp_path), "--dataset", "icqa2k", "--root", root, "--resamples", 10]
    done = run("evaluate.py", *arguments, "--compare-published", "--output", tmp_path / "o")
    assert done.code == 0
    assert "ICQA-2K test: 15 images of 5 scenes; rated: CF 15, SCC 15, PR 15" in done.out
    assert "it does not say whether the weights have seen these images" in done.out
    assert "does not say which dimension or split it is for" in done.out
    assert f"There is no ICQA_2K_train in {root}" in done.out
    metrics = read_metrics(tmp_path / "o").set_index(["dimension", "predictor", "metric"])
    for dimension, seed in (("CF", 4), ("SCC", 5), ("PR", 6)):
        pred, mos = ([values[image] for image in IMAGES] for values in (ratings(seed), MOS[dimension]))
        srcc = metrics.loc[(dimension, "network", "SRCC")]
        assert srcc["value"] == pytest.approx(stats.spearmanr(pred, mos).statistic, abs=1e-6)
        line = next(line for line in done.out.splitlines() if line.startswith(f"{dimension} ") and "network" in line)
        assert f"{srcc['value']:.3f} [{srcc['low']:.3f}, {srcc['high']:.3f}]" in line
        assert "  0.9210  " in line
    assert "0.9210" not in run("evaluate.py", *arguments).out


def test_scenes_that_train_and_test_share_are_counted_and_left_out_of_a_second_table(run: Callable, tmp_path):
    root = write_icqa2k(tmp_path / "data", "test")
    write_icqa2k(root, "train", [f"DDC_{SCENES[0]}.png", f"GCP_{SCENES[3]}.png", "GCP_000000099999.png"])
    files = published_files(tmp_path)
    done = run(
        "evaluate.py", "--predictions", *files, "--dataset", "icqa2k", "--root", root, "--compare-published", "--resamples", 10,
        "--output", tmp_path / "o",
    )  # fmt: skip
    assert done.code == 0
    assert "Scenes in both ICQA_2K_train and ICQA_2K_test: 2 of 5 in test." in done.out
    assert "ICQA-2K test, scenes not in train\n" in done.out
    assert "network: scenes not in train" not in done.out  # the title says it
    metrics = read_metrics(tmp_path / "o")
    rest = metrics[metrics["note"].str.startswith("scenes not in train")]
    assert len(rest) == len(metrics) / 2 == 3 * 2 * len(ALL_METRICS)
    rest = rest[rest["metric"].isin(METRICS)]
    assert set(zip(rest["n"], rest["scenes"], strict=True)) == {(9, 3)}
    images = [image for image in IMAGES if SCENES[0] not in image and SCENES[3] not in image]
    pred, mos = ([values[image] for image in images] for values in (ratings(6), MOS["PR"]))
    row = rest[(rest["dimension"] == "PR") & (rest["predictor"] == "network") & (rest["metric"] == "KRCC")].iloc[0]
    assert row["value"] == pytest.approx(stats.kendalltau(pred, mos).statistic, abs=1e-6)
    assert "## ICQA-2K test, scenes not in train" in (tmp_path / "o" / "table.md").read_text()


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (SCENES, "No test image is left whose scene is not in the train folder."),
        (["000000099999"], "Scenes in both ICQA_2K_train and ICQA_2K_test: 0 of 5 in test."),
    ],
)
def test_there_is_no_second_table_where_all_or_no_scenes_are_shared(run: Callable, tmp_path, train, said):
    root = write_icqa2k(tmp_path / "data", "test")
    write_icqa2k(root, "train", [f"DDC_{scene}.png" for scene in train])
    (root / "ICQA_2K_train" / f"DDC_{SCENES[1]}.txt").touch()
    (root / "ICQA_2K_train" / f"._DDC_{SCENES[1]}.png").touch()  # as some systems leave beside an image
    files = published_files(tmp_path)
    done = run(
        "evaluate.py", "--predictions", *files, "--dataset", "icqa2k", "--root", root, "--compare-published", "--resamples", 5
    )
    assert done.code == 0
    assert said in done.out
    assert "ICQA-2K test, scenes not in train" not in done.out


def test_train_split_is_measured_on_its_own_images(run: Callable, tmp_path):
    images = [*IMAGES[:7], "DDC_000000099999.png"]
    root = write_icqa2k(tmp_path / "data", "train", images)
    arguments = ["--dataset", "icqa2k", "--root", root, "--split", "train", "--resamples", 5, "--compare-published"]
    files = published_files(tmp_path, "train", images)
    done = run("evaluate.py", "--predictions", *files, *arguments)
    assert done.code == 0
    assert "ICQA-2K train: 8 images of 6 scenes; rated: CF 8, SCC 8, PR 8" in done.out
    assert f"There is no ICQA_2K_test in {root}" in done.out
    write_icqa2k(root, "test", IMAGES)
    done = run("evaluate.py", "--predictions", *files, *arguments)
    assert "Scenes in both ICQA_2K_train and ICQA_2K_test: 5 of 5 in test.\nThese rows are of the train folder" in done.out
    assert "scenes not in train" not in done.out
    refused = run("evaluate.py", "--predictions", published_files(tmp_path)[0], *arguments)
    assert refused.code == 1
    assert f"1 of 8 images with a CF rating have no row in {tmp_path / 'ICQA_2K_test_CF_result.json'}" in refused.err


def test_a_copy_in_other_folders_is_joined_by_file_name_unless_two_images_share_one(tmp_path):
    table = pd.DataFrame({"image": ["x/a.png", "x/b.png"], "scene": ["1", "2"], "method": "", "CF": [0.1, 0.2]})
    table.attrs = {"root": str(tmp_path), "name": "t"}
    (tmp_path / "cf.csv").write_text("image,CF\nb.png,0.5\na.png,0.25\n")
    joined = join(table, read_predictions([str(tmp_path / "cf.csv:CF")])["CF"], "CF")
    assert joined.rows["prediction"].tolist() == [0.25, 0.5]
    assert joined.elsewhere == "2 by a name that is written in another way, e.g. a.png for x/a.png"
    (tmp_path / "cf.csv").write_text("image,CF\ny/a.png,0.5\nz/a.png,0.25\n")
    joined = join(table, read_predictions([str(tmp_path / "cf.csv:CF")])["CF"], "CF")
    assert joined.absent == ["x/a.png", "x/b.png"]


def test_scores_without_any_row_that_joins_end_with_an_error_though_images_may_be_missing(run, tmp_path):
    (tmp_path / "mos.csv").write_text("image,scene,PR\n" + "".join(f"a{i}.jpg,{i},0.{i}\n" for i in range(6)))
    (tmp_path / "pr.csv").write_text("image,PR\n" + "".join(f"x/a{i}.jpg,0.{i}\ny/a{i}.jpg,0.{i}\n" for i in range(6)))
    (tmp_path / "bad.csv").write_text("image,PR,error\na0.jpg,,cannot read\n")
    arguments = ["--mos", tmp_path / "mos.csv", "--resamples", 5]
    for more in ([], ["--allow-missing"]):
        done = run("evaluate.py", "--predictions", tmp_path / "pr.csv", *arguments, *more)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert "6 of 6 images with a PR rating have no row" in done.err
        assert "(it has 12, e.g. x/a0.jpg, y/a0.jpg)" in done.err
        assert "--allow-missing" not in done.err
    done = run("evaluate.py", "--predictions", tmp_path / "bad.csv", *arguments, "--allow-missing")
    assert done.err.endswith("bad.csv, e.g. a0.jpg: cannot read\n")


@pytest.mark.parametrize("count", [1, 2])
def test_counts_agree_with_their_nouns(run, tmp_path, count):
    rows = [f"{m}{i}.jpg,1,{m},0.{i}" for i in range(5) for m in "AB"]
    (tmp_path / "mos.csv").write_text("image,scene,method,PR\n" + "\n".join(rows) + "\n")
    names = [row.split(",")[0] for row in rows]
    for name, rest in (("pr", [*names, "x.jpg"]), ("b", names[count:])):
        (tmp_path / f"{name}.csv").write_text("image,PR\n" + "".join(f"{image},0.{i}\n" for i, image in enumerate(rest)))
    files = ["--predictions", tmp_path / "pr.csv", "--versus", tmp_path / "b.csv", "--allow-missing"]
    done = run("evaluate.py", *files, "--mos", tmp_path / "mos.csv", "--resamples", 5)
    assert "mos: 10 images of 1 scene;" in done.out
    assert "1 prediction for images without a PR rating is not used" in done.out
    assert f"{count} image{'s' * (count > 1)} that the other has no value for left out" in done.out


def test_names_in_another_unicode_form_are_joined(run, tmp_path):
    for name, form, column in (("mos", "NFC", "image,scene,PR"), ("pr", "NFD", "image,scene,PR")):
        rows = "".join(f"{unicodedata.normalize(form, 'ü')}{i}.jpg,{i},0.{i}\n" for i in range(6))
        (tmp_path / f"{name}.csv").write_text(f"{column}\n{rows}", encoding="utf-8")
    done = run("evaluate.py", "--predictions", tmp_path / "pr.csv", "--mos", tmp_path / "mos.csv", "--resamples", 5)
    assert done.code == 0, done.err
    assert "PR: 6 images with rating and score" in done.out
    assert "joined 6 by a name that is written in another way" in done.out


def test_images_are_scored_first_and_a_report_is_written_on_request(run, rated, weights, tmp_path):
    flags = ["--cf-weights", weights["CF"], "--scc-weights", weights["SCC"], "--weights", weights["PR"], "--device", "cpu"]
    done = run(
        *("evaluate.py", "--images", rated.parent / "images", *flags),
        *("--mos", rated, "--output", tmp_path / "out", "--report", tmp_path / "page.html", "--resamples", 20),
    )
    assert done.code == 0, done.err
    scores = read_scores(tmp_path / "out" / "scores_PR.csv", "PR").set_index("image")["PR"]
    images = pd.read_csv(tmp_path / "out" / "predictions.csv").query("dimension == 'PR'")
    assert len(images) == 32
    for image, prediction in zip(images["image"], images["prediction"], strict=True):
        assert prediction == pytest.approx(scores[Path(image).name], abs=1e-6)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "ORG_s0.png" in page


def test_the_report_names_objects_and_says_why_a_image_has_no_score(run, rated, tmp_path):
    names = [f"images/{path.name}" for path in sorted((rated.parent / "images").iterdir())]
    scores = ratings(1, names)
    failed = names[0]
    errors = {failed: "is truncated"}
    path = write_scores(tmp_path / "pr.csv", {"PR": {n: scores[n] for n in names[1:]}}, rated.parent, errors=errors)
    (tmp_path / "labels" / "images").mkdir(parents=True)
    (tmp_path / "labels" / Path(names[1]).with_suffix(".txt")).write_text("11 0.5 0.5 1 1\n")
    (tmp_path / "labels" / Path(names[2]).with_suffix(".txt")).write_text("no label\n")
    done = run(
        *("evaluate.py", "--predictions", path, "--mos", rated, "--resamples", 5),
        *("--report", tmp_path / "page.html", "--report-labels", tmp_path / "labels"),
    )
    assert done.code == 0, done.err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "are named as looking wrong" in page
    assert f"{Path(names[2]).stem}.txt, line 1" in page
    assert "is truncated" in page
    assert "table: methods\n" in done.out  # few enough for the console


def test_scenes_and_methods_come_from_an_index(run, rated, tmp_path):
    names = [f"images/{path.name}" for path in sorted((rated.parent / "images").iterdir())]
    path = write_scores(tmp_path / "pr.csv", {"PR": ratings(1, names)}, rated.parent)
    pd.read_csv(rated).drop(columns=["scene", "method"]).to_csv(tmp_path / "mos.csv", index=False)
    rows = [f"{name},{number % 8},{'even' if number % 2 else 'odd'}" for number, name in enumerate(names)]
    (tmp_path / "index.csv").write_text("\n".join(["image,scene,method", *rows]))
    arguments = ["--predictions", path, "--mos", tmp_path / "mos.csv", "--root", rated.parent, "--resamples", 5]
    done = run("evaluate.py", *arguments, "--index", tmp_path / "index.csv", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "of 8 scenes" in done.out
    assert "no column scene" not in done.err
    assert set(pd.read_csv(tmp_path / "out" / "methods.csv")["method"]) == {"even", "odd"}
    (tmp_path / "index.csv").write_text("\n".join(["image,scene,method", *rows[1:]]))
    refused = run("evaluate.py", *arguments, "--index", tmp_path / "index.csv")
    assert refused.code == 1
    assert f"1 of {len(names)} images have no row in {tmp_path / 'index.csv'}" in refused.err
    missing = run("evaluate.py", *arguments, "--index", tmp_path / "none.csv")
    assert missing.code == 2
    assert "--index takes a table image, scene, method" in missing.err


def test_a_folder_of_labels_that_is_not_there_is_known_before_the_work(run, rated, tmp_path):
    report = ["--report", tmp_path / "page.html", "--report-labels", tmp_path / "none"]
    done = run("evaluate.py", "--images", rated.parent / "images", "--mos", rated, "--output", tmp_path / "out", *report)
    assert done.code == 1
    assert str(tmp_path / "none") in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_tables_are_written_also_where_the_images_of_the_report_are_gone(run, own, tmp_path):
    done = run(
        *("evaluate.py", "--predictions", own["cf"], "--mos", own["mos"], "--resamples", 5),
        *("--output", tmp_path / "out", "--report", tmp_path / "page.html"),
    )
    assert done.code == 1
    assert "none of the 15 images is in" in done.err
    assert (tmp_path / "out" / "metrics.csv").is_file()


def test_images_that_are_not_there_are_refused(run, rated, tmp_path):
    done = run("evaluate.py", "--images", tmp_path / "none", "--mos", rated, "--output", tmp_path / "out")
    assert done.code == 1
    assert "infer_PR.py could not score" in done.err

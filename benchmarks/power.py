"""Measure how far the scores can be trusted on HECD: noise, images needed to tell two colorizers apart, worst failures.

    python benchmarks/power.py                    # prints the section of docs/reading_scores.md that holds numbers
    python benchmarks/power.py --write            # and puts it there, between the two markers; writes weights/method_bias.json

Inputs: the predictions of benchmarks/hecd_predictions.csv, by networks that have not seen the scene; HECD's MOS and raw
ratings; weights/percentiles.json.

The model of two colorizers, on n photographs each: predicted difference = slope * d + bias + scene noise, with d the difference
of their mean MOS over all photographs. Slope and spread of the bias are components of (co)variance between HECD's methods. The
scene noise is drawn from HECD's differences of two methods, less the mean of each pair over the scenes. The model of people has
a slope of 1 and no bias. A study succeeds if the 95 % interval of Student's t lies on the same side of 0 as d.
"""

import argparse
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__)
    parser.add_argument("--hecd", type=Path, default=ROOT / "data" / "HECD", help="the HECD folder (default: data/HECD)")
    parser.add_argument("--write", action="store_true", help="put the section into docs/reading_scores.md")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
from scipy import stats

from data.hecd import load_hecd
from evaluation.agreement import METHOD_COLUMNS, as_markdown, draw_scenes, method_means, resampled_srcc
from evaluation.mos import hecd_noise
from evaluation.pairs import safe_divide, scene_pairs, verdicts
from utils.choices import METHOD_BIAS
from utils.files import write_atomic
from utils.metrics import plcc, srcc, within_scene_srcc
from utils.scores import DIMENSIONS

PAGE = ROOT / "docs" / "reading_scores.md"
BEGIN, END = "<!-- benchmarks/power.py: begin -->", "<!-- benchmarks/power.py: end -->"

LEVELS = (0.75, 0.90)  # share of pairs that people order as the scores do
EDGES = (0.0, 0.05, 0.1, 0.2, 0.4, np.inf)  # of differences of PR
DIFFERENCES = (0.05, 0.1, 0.2, 0.4)  # of mean MOS
LEAST_PAIRS = 10  # beyond a threshold, so that a few pairs do not decide
POWER = 0.8
FEW_RATERS = 5
PERCENTILES = (5, 25, 50, 75, 95)
WORST = 10
RESAMPLES = 1000  # draws of scenes
STUDIES = 10_000  # simulated at each number of scenes
MOST_SCENES = 100_000
_STEEPNESS = np.geomspace(0.01, 1000, 600)  # grid on which logistic curves are fitted, per unit of score

COLORIZERS = {
    "O": "DeOldify",
    "L": "Larsson et al.",
    "I": "Iizuka et al.",
    "Z": "Zhang et al. (two)",
    "P": "Photoshop",
}
KINDS = {
    "original": "white balance only",
    "B": "mean chroma shifted",
    "C": "chroma spread changed",
    "D": "color planes displaced",
    "F": "hue of a segment",
    "G": "chroma of a segment",
    **COLORIZERS,
}


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def decimals(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # the sum turns -0.0 into 0.0


def wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 127, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def markdown(table: pd.DataFrame) -> str:
    return as_markdown(table.astype(str))


# --- data


def load(hecd: Path) -> pd.DataFrame:
    """Load HECD: image (file name), scene, method, kind, MOS as CF, SCC, PR, predictions as pred_CF and so on, and the standard
    error ``se`` of the MOS with the number ``n`` of its raters; NaN for originals, which were shown with every recoloring."""
    frame = load_hecd(hecd)
    frame["image"] = [Path(name).name for name in frame["image"]]
    saved = pd.read_csv(ROOT / "benchmarks" / "hecd_predictions.csv").set_index("image")
    absent = sorted(set(frame["image"]) - set(saved.index))
    if absent:
        raise ValueError(
            f"benchmarks/hecd_predictions.csv has no row of {len(absent)} images of {hecd}, e.g. {absent[0]}; "
            "make it with benchmarks/hecd.py --write"
        )
    for dimension in DIMENSIONS:
        frame[f"pred_{dimension}"] = saved.loc[frame["image"], dimension].to_numpy(float)
    noise = hecd_noise(hecd)
    for column in noise:
        frame[column] = frame["image"].map(noise[column])
    return frame


def groups(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the groups of images in the tables, by name."""
    return {"all": frame, "colorizers": frame[frame["kind"].isin(list(COLORIZERS))]}


def codes(scenes: pd.Series) -> np.ndarray:
    """Return the number of each image's scene, shape (N,)."""
    return np.unique(scenes, return_inverse=True)[1]


# --- noise


def within_scene_fit(pred: np.ndarray, mos: np.ndarray, scene: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a line of MOS on predictions with an intercept for each scene.

    Args:
        pred: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).
        scene: Number of each image's scene, shape (N,).
        counts: How often each scene occurs, shape (R, K); ones for the images themselves.

    Returns:
        Slope and standard deviation of the residuals, shape (R,) each.
    """
    sizes = np.bincount(scene)
    x, y = (values - (np.bincount(scene, values) / sizes)[scene] for values in (pred, mos))
    xx, xy, yy, n = (counts @ np.bincount(scene, values) for values in (x * x, x * y, y * y, np.ones(len(x))))
    slope = xy / xx
    return slope, np.sqrt((yy - slope * xy) / (n - counts.sum(1) - 1))


def share_right(size: np.ndarray, right: np.ndarray, edges: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the share of pairs ordered as people do, by the size of the predicted difference, and the number of pairs.

    Args:
        size: Predicted difference of each pair, at least 0, shape (P,).
        right: 1 for the order of people, 0 for the other one, 0.5 for equal predictions, shape (P,).
        edges: Bounds of the B bins; a bin holds its lower bound.

    Returns:
        Share in [0, 1], NaN for an empty bin, and the number, shape (B,) each.
    """
    of = np.digitize(size, edges) - 1
    n = np.bincount(of, minlength=len(edges) - 1)
    return safe_divide(np.bincount(of, right, len(edges) - 1), n.astype(float)), n


def steepness(size: np.ndarray, right: np.ndarray, scene: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fit a logistic curve of the share of right pairs by the size of the difference, by maximum likelihood.

    The curve 1 / (1 + exp(-b size)) has no constant, since a difference of 0 is no information. The slope of the likelihood
    falls with b, so its root is read from its values on a grid, which are sums over scenes.

    Args:
        size: Predicted difference of each pair, at least 0, shape (P,).
        right: Same as in :func:`share_right`, shape (P,).
        scene: Number of the scene of each pair, shape (P,).
        counts: How often each scene occurs, shape (R, K).

    Returns:
        b, shape (R,); 0 if larger differences are not more often right.
    """
    gradient = np.stack(
        [np.bincount(scene, size * (right - 1 / (1 + np.exp(-b * size))), counts.shape[1]) for b in _STEEPNESS], axis=1
    )
    roots = [np.interp(0.0, -row, _STEEPNESS, left=0.0) for row in counts @ gradient]
    return np.array(roots)


def pair_table(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of differences at which people agree with the sign, and the shares behind the rows of PR."""
    rows, bins = [], []
    for dimension, (name, images), clear in itertools.product(("PR", "CF", "SCC"), groups(frame).items(), (False, True)):
        if clear and dimension != "PR":
            continue
        images = images[images[dimension].notna()]
        scene, mos, pred = codes(images["scene"]), images[dimension].to_numpy(), images[f"pred_{dimension}"].to_numpy()
        noise = images["se"].to_numpy() if clear else np.zeros(len(images))
        pairs = scene_pairs(mos, scene, noise)
        size, right = np.abs(pairs.steps(pred))[pairs.clear], (1 + verdicts(pairs, pred)) / 2
        counts = np.vstack([np.ones(scene.max() + 1), draw_scenes(scene.max() + 1, RESAMPLES, 0)])
        b = steepness(size, right, pairs.scene[pairs.clear], counts)
        row = {"images": f"{dimension}, {name}" + (", clear pairs" if clear else ""), "pairs": len(size)}
        row["right"] = percent(right.mean())
        for level in LEVELS:
            with np.errstate(divide="ignore"):
                row[f"for {percent(level)}"] = reached(np.log(level / (1 - level)) / b, size, right, level)
        row["largest"] = f"{size.max():.2f}"
        rows.append(row)
        if dimension == "PR" and not clear:
            shares, n = share_right(size, right, EDGES)
            bins.append({"images": row["images"]} | {
                f"{low:g} to {high:g}" if np.isfinite(high) else f"{low:g} or more": f"{percent(share)} of {count}"
                for low, high, share, count in zip(EDGES[:-1], EDGES[1:], shares, n, strict=True)
            })  # fmt: skip
    return pd.DataFrame(rows), pd.DataFrame(bins)


def reached(thresholds: np.ndarray, size: np.ndarray, right: np.ndarray, level: float) -> str:
    """Format a threshold and its interval, "none" where it is not reached.

    Args:
        thresholds: Difference at which the curve reaches the level, followed by those of the resamples.
        size: Predicted difference of each pair, shape (P,).
        right: Same as in :func:`share_right`, shape (P,).
        level: Share of right pairs. The threshold is reached if at least ``LEAST_PAIRS`` pairs lie beyond it and this share of
            them is right.
    """
    low, high = (
        decimals(x) if x <= size.max() else "none" for x in np.quantile(thresholds[1:], (0.025, 0.975), method="inverted_cdf")
    )
    beyond = right[size >= thresholds[0]]
    value = decimals(thresholds[0]) if len(beyond) >= LEAST_PAIRS and beyond.mean() >= level else "none"
    return value if value == low == high else f"{value} [{low}, {high}]"


def noise_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the spread of MOS around the line on predictions within a scene, beside the noise of people."""
    rows = []
    for dimension, (name, images) in itertools.product(("PR", "CF", "SCC"), groups(frame).items()):
        images = images[images[dimension].notna()]
        scene, mos, pred = codes(images["scene"]), images[dimension].to_numpy(), images[f"pred_{dimension}"].to_numpy()
        counts = np.vstack([np.ones(scene.max() + 1), draw_scenes(scene.max() + 1, RESAMPLES, 0)])
        slope, residual = within_scene_fit(pred, mos, scene, counts)
        _, spread = within_scene_fit(np.random.default_rng(0).normal(size=len(mos)), mos, scene, counts[:1])
        error = np.sqrt(np.mean(images["se"] ** 2))
        reliability = 1 - error**2 / spread[0] ** 2
        rows.append(
            {
                "images": f"{dimension}, {name}",
                "n": len(images),
                "MOS in a scene": f"{spread[0]:.2f}",
                "MOS given the score": with_interval(residual),
                "difference given the scores": with_interval(np.sqrt(2) * residual),
                "by rating noise": f"{np.sqrt(2) * error:.2f}",
                "MOS per score": with_interval(slope),
                "two panels": percent(0.5 + np.arcsin(reliability) / np.pi),
            }
        )
    return pd.DataFrame(rows)


def with_interval(values: np.ndarray) -> str:
    """Format the first value with the 95 % interval of the others."""
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return f"{decimals(values[0])} [{decimals(low)}, {decimals(high)}]"


# --- power


class Components(NamedTuple):
    """Relation of the mean prediction of a method to its mean MOS, over all photographs; HECD has a sample of these."""

    slope: float  # of predictions on MOS, between methods
    bias: float  # variance between methods of what the line leaves; an estimate that may come out below 0
    mos: float  # variance between methods of the MOS


def components(mos: np.ndarray, pred: np.ndarray) -> Components:
    """Estimate components of (co)variance between methods, by the analysis of variance with one image per method and scene.

    Means of few scenes are noisy, which would flatten a line through them. The residual (co)variance, not explained by method
    and scene, is therefore divided by the number of scenes and subtracted from the (co)variance of the means.

    Args:
        mos: Mean opinion scores, shape (methods, scenes).
        pred: Predictions, same shape.
    """
    methods, scenes = mos.shape
    rest = [x - x.mean(1, keepdims=True) - x.mean(0) + x.mean() for x in (mos, pred)]
    within = np.array([[np.sum(a * b) for a in rest] for b in rest]) / ((methods - 1) * (scenes - 1))
    between = np.cov(mos.mean(1), pred.mean(1)) - within / scenes
    slope = between[0, 1] / between[0, 0]
    return Components(slope, between[1, 1] - slope**2 * between[0, 0], between[0, 0])


def jackknife(mos: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Compute the 95 % interval of each component, leaving out one scene at a time, shape (3, 2)."""
    scenes = mos.shape[1]
    left = np.array([components(np.delete(mos, k, 1), np.delete(pred, k, 1)) for k in range(scenes)])
    half = stats.t.ppf(0.975, scenes - 1) * np.sqrt(scenes - 1) * left.std(0)
    return np.array(components(mos, pred))[:, None] + np.stack([-half, half], axis=1)


def paired_noise(values: np.ndarray) -> np.ndarray:
    """Compute differences of two methods by scene, less the mean of each pair, scaled to the variance of independent scenes.

    Args:
        values: Values, shape (methods, scenes).

    Returns:
        Differences, shape (pairs of methods, scenes), every pair both ways round.
    """
    first, second = np.triu_indices(len(values), 1)
    steps = values[first] - values[second]
    scenes = values.shape[1]
    steps = (steps - steps.mean(1, keepdims=True)) * np.sqrt(scenes / (scenes - 1))
    return np.concatenate([steps, -steps])


def study_power(
    n: int, effect: float, noise: np.ndarray, bias: float = 0.0, extra: float = 0.0, studies: int = STUDIES, seed: int = 0
) -> float:
    """Compute the share of simulated studies whose 95 % interval of the mean difference lies above 0.

    Args:
        n: Scenes in a study, at least 2, drawn with replacement.
        effect: Expected difference, above 0.
        noise: Differences by scene with the mean 0, one row per pair of methods, shape (J, K); a study draws one row.
        bias: Standard deviation between studies of the bias, which does not average out over scenes.
        extra: Standard deviation of normal noise that is added to each scene's difference.
        studies: Number of studies.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(seed)
    rows = noise[rng.integers(0, len(noise), studies)]
    times = rng.multinomial(n, np.full(noise.shape[1], 1 / noise.shape[1]), studies)  # of each scene in each study
    mean = (times * rows).sum(1) / n
    squares = (times * (rows - mean[:, None]) ** 2).sum(1)
    if extra > 0:  # sum of squares about the mean of values plus normal noise: a noncentral chi-squared variable
        squares = extra**2 * rng.noncentral_chisquare(n - 1, squares / extra**2)
        mean = mean + rng.normal(0, extra / np.sqrt(n), studies)
    mean = mean + effect + bias * rng.normal(size=studies)
    return float(np.mean(mean > stats.t.ppf(0.975, n - 1) * np.sqrt(squares / (n - 1) / n)))


def scenes_needed(effect: float, noise: np.ndarray, bias: float = 0.0, extra: float = 0.0, power: float = POWER) -> float:
    """Find the least number of scenes at which :func:`study_power` reaches ``power``; infinity above 100,000."""
    if effect <= 0 or study_power(MOST_SCENES, effect, noise, bias, extra) < power:
        return np.inf
    low, high = 2, 3  # with 2 scenes an interval may have the width 0 by chance: two draws of one scene
    while study_power(high, effect, noise, bias, extra) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if study_power(middle, effect, noise, bias, extra) < power:
            low = middle
        else:
            high = middle
    return high


def grid(images: pd.DataFrame, column: str) -> np.ndarray:
    """Return a column by method and scene, shape (methods, scenes)."""
    return images.pivot(index="method", columns="scene", values=column).to_numpy(float)


def power_table(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the table of scenes that a comparison of two colorizers needs, and a text on the model."""
    mos, pred = grid(frame, "PR"), grid(frame, "pred_PR")
    model, intervals = components(mos, pred), jackknife(mos, pred)
    bias = np.sqrt(2 * max(model.bias, 0))
    colorizers = groups(frame)["colorizers"]
    rater = np.sqrt(np.mean(colorizers["se"] ** 2) * colorizers["n"].mean())
    noise, human = paired_noise(grid(colorizers, "pred_PR")), paired_noise(grid(colorizers, "PR"))
    few = np.sqrt(2 * rater**2 * (1 / FEW_RATERS - 1 / colorizers["n"].mean()))
    rows = []
    for d in DIFFERENCES:
        row: dict[str, str] = {"d": f"{d:g}"}
        for name, sd in (("scores, no bias", 0.0), ("scores, with bias", bias)):
            value, low, high = (scenes_needed(s * d, noise, sd) for s in (model.slope, *intervals[0][::-1]))
            row[name] = f"{number(value)} [{number(low)}, {number(high)}]" if number(low) != number(high) else number(value)
        row["right side, endless scenes"] = percent(stats.norm.cdf(model.slope * d / bias) if bias else 1.0)
        row[f"people, {colorizers['n'].mean():.0f} raters"] = number(scenes_needed(d, human))
        row[f"people, {FEW_RATERS} raters"] = number(scenes_needed(d, human, extra=few))
        rows.append(row)
    six, six_interval = (
        components(grid(colorizers, "PR"), grid(colorizers, "pred_PR")),
        jackknife(grid(colorizers, "PR"), grid(colorizers, "pred_PR")),
    )
    bias_low, bias_high = np.sqrt(np.maximum(intervals[1] * 2, 0))
    means = colorizers.groupby("method")["PR"].mean()
    (low, high), (six_low, six_high) = intervals[0], six_interval[0]
    text = (
        f"Slope {model.slope:.2f} [{low:.2f}, {high:.2f}] and bias of a pair {bias:.3f} [{bias_low:.3f}, {bias_high:.3f}] "
        f"(standard deviation) come from HECD's {len(mos)} methods, intervals by a jackknife over scenes; the "
        f"{len(means)} colorizers alone give a slope of {six.slope:.1f} [{six_low:.1f}, {six_high:.1f}], too wide to use. "
        f"Scene noise of a difference, from the colorizers: scores {rms(noise):.2f}, MOS {rms(human):.2f}. "
        f"Among them no `d` above {np.ptp(means):.2f} was seen. In brackets: the number at the ends of the interval of "
        "the slope, with the bias as it is."
    )
    return pd.DataFrame(rows), text


def bias_table(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return standard deviation and interval of the bias of a pair of methods by dimension, for the report."""
    biases = {}
    for dimension in DIMENSIONS:
        rated = frame[frame[dimension].notna()]
        mos, pred = grid(rated, dimension), grid(rated, f"pred_{dimension}")
        spread = [components(mos, pred).bias, *jackknife(mos, pred)[1]]
        sd, low, high = (round(float(x), 4) for x in np.sqrt(2 * np.maximum(spread, 0)))
        biases[dimension] = {"sd": sd, "low": low, "high": high, "methods": len(mos), "scenes": mos.shape[1]}
    return biases


def bias_text(biases: dict[str, dict[str, float]]) -> str:
    """Return a text on the use of the bias in the report."""
    words = ", ".join(f"{b['sd']:.3f} [{b['low']:.3f}, {b['high']:.3f}] in {d}" for d, b in biases.items())
    return (
        f"The same estimate by dimension, each on the methods that stand in for it: {words}. The report of `--report` and of "
        "`evaluate.py` takes these into the interval of every difference of two methods (weights/method_bias.json), beside the "
        f"sampling of scenes: means of PR that differ by less than {1.96 * biases['PR']['sd']:.2f} are never told apart, with "
        "any number of scenes."
    )


def rms(values: np.ndarray) -> float:
    """Return the standard deviation of paired noise; every row has the mean 0."""
    return float(np.sqrt(np.mean(values**2)))


def number(n: float) -> str:
    return f"{n:,.0f}" if np.isfinite(n) else "never"


def check_text(frame: pd.DataFrame) -> str:
    """Return a text on pairs of methods on HECD's scenes, by the intervals of scores and of people, without a model."""
    parts = []
    for name, images in groups(frame).items():
        scores, people = (_intervals(grid(images, column)) for column in ("pred_PR", "PR"))
        clear, both = scores != 0, (scores != 0) & (people != 0)
        words = "pairs of all methods" if name == "all" else "pairs of colorizers"
        parts.append(
            f"of {len(clear)} {words}, scores tell {clear.sum()} apart and people {(people != 0).sum()}; of the {both.sum()} "
            f"told apart by both, {(scores == people)[both].sum()} in the same order; {(clear & ~both).sum()} by scores alone"
        )
    return "; ".join(parts) + "."


def _intervals(values: np.ndarray) -> np.ndarray:
    """Return the sign of the 95 % interval of each pair's mean difference, 0 if it holds 0, shape (pairs,)."""
    first, second = np.triu_indices(len(values), 1)
    steps = values[first] - values[second]
    n = steps.shape[1]
    mean, half = steps.mean(1), stats.t.ppf(0.975, n - 1) * steps.std(1, ddof=1) / np.sqrt(n)
    return np.where(np.abs(mean) > half, np.sign(mean), 0)


# --- percentiles and failures


def percentile_text(path: Path) -> str:
    """Return the table of the percentiles of photographs, or the command that makes the file."""
    if not path.is_file():
        return (
            "Not measured yet: `python benchmarks/make_percentiles.py PHOTOS... --note TEXT` writes weights/percentiles.json."
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    levels = [record["levels"].index(level) for level in PERCENTILES]
    table = pd.DataFrame(
        [{"score": d} | {f"{record['levels'][k]} %": f"{record[d][k]:.2f}" for k in levels} for d in ("PR", "CF", "SCC")]
    )
    lowest = record["PR"][levels[0]]
    return f"{markdown(table)}\n" + wrap(
        f"{record['count']:,} photographs, shipped weights. {percent(PERCENTILES[0] / 100)} of real photographs have a PR "
        f"below {lowest:.2f}: a low score alone condemns no image. The photographs: {record['photos']}"
    )


def kind_table(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return a table of mean ratings and scores by kind, and a text on the kinds off the line through all images."""
    slope, offset = np.polyfit(frame["pred_PR"], frame["PR"], 1)
    frame = frame.assign(residual=frame["PR"] - offset - slope * frame["pred_PR"])
    rows: list[dict[str, object]] = []
    off: dict[bool, list[str]] = {True: [], False: []}  # above 0 or below
    for kind, words in KINDS.items():
        images = frame[frame["kind"] == kind]
        sums, sizes = images.groupby("scene")["residual"].sum().to_numpy(), images.groupby("scene").size().to_numpy()
        counts = np.vstack([np.ones(len(sums)), draw_scenes(len(sums), RESAMPLES, 0)])
        residual = (counts @ sums) / (counts @ sizes)
        low, high = np.percentile(residual[1:], (2.5, 97.5))
        if low > 0 or high < 0:
            off[bool(low > 0)].append(words)
        within = within_scene_srcc(images["pred_PR"].to_numpy(), images["PR"].to_numpy(), images["scene"].to_numpy())
        rows.append(
            {
                "kind": f"{kind if len(kind) == 1 else 'A'}: {words}",
                "n": len(images),
                "mean MOS": decimals(images["PR"].mean()),
                "mean PR": decimals(images["pred_PR"].mean()),
                "residual": with_interval(residual),
                "SRCC within scene": "" if np.isnan(within) else f"{within:.2f}",
            }
        )
    better, worse = (", ".join(off[above]) or "none" for above in (True, False))
    return pd.DataFrame(rows), f"On average scored too low: {better}. Too high: {worse}."


def worst_table(frame: pd.DataFrame, count: int = WORST) -> pd.DataFrame:
    """Return the images whose ranks by people and by PR differ most; rank 1 is the best."""
    ranks = frame[["PR", "pred_PR"]].rank(ascending=False)
    order = (ranks["PR"] - ranks["pred_PR"]).abs().sort_values(ascending=False, kind="stable").index[:count]
    return pd.DataFrame(
        [
            {
                "image": Path(frame.loc[k, "image"]).stem,
                "scene": frame.loc[k, "scene"],
                "kind": KINDS[frame.loc[k, "kind"]],
                "MOS": f"{frame.loc[k, 'PR']:.2f}",
                "PR": f"{frame.loc[k, 'pred_PR']:.2f}",
                "rank by people": f"{ranks.loc[k, 'PR']:.0f}",
                "rank by PR": f"{ranks.loc[k, 'pred_PR']:.0f}",
            }
            for k in order
        ]
    )


def scene_text(frame: pd.DataFrame) -> str:
    """Return a text that compares the network with a predictor that knows only which change was made, between scenes.

    Args:
        frame: HECD with the originals, as in evaluate.py.
    """
    recolored = frame[frame["method"] != "original"]
    results = []
    for images in (recolored, frame):
        mos, scene = images["PR"].to_numpy(), images["scene"].to_numpy()
        known = method_means(images, "PR")[METHOD_COLUMNS[1]].to_numpy()
        for pred in (images["pred_PR"].to_numpy(), known):
            results.append((srcc(pred, mos), within_scene_srcc(pred, mos, scene)))
    means = recolored.groupby("scene")[["pred_PR", "PR"]].mean()
    shares = [means[column].var(ddof=0) / recolored[column].var(ddof=0) for column in ("pred_PR", "PR")]
    together = plcc(means["pred_PR"].to_numpy(), means["PR"].to_numpy())
    table = pd.DataFrame(
        {
            "SRCC with people": ["PR", "mean MOS of the same change in the other scenes"],
            "pooled": [f"{pooled:.3f}" for pooled, _ in results[:2]],
            "pooled, with the originals": [f"{pooled:.3f}" for pooled, _ in results[2:]],
            "within scene": [f"{within:.3f}" for _, within in results[:2]],
            "within scene, with the originals": [f"{within:.3f}" for _, within in results[2:]],
        }
    )
    mos, scene = recolored["PR"].to_numpy(), codes(recolored["scene"])
    known = method_means(recolored, "PR")[METHOD_COLUMNS[1]].to_numpy()
    counts = np.vstack([np.ones(len(means)), draw_scenes(len(means), RESAMPLES, 0)])
    ahead = np.subtract(*(resampled_srcc(x, mos, scene, counts) for x in (known, recolored["pred_PR"].to_numpy())))
    text = (
        f"The scene explains {percent(shares[0])} of the variance of PR but {percent(shares[1])} of that of the MOS, and the "
        f"two means of a scene correlate by {together:.2f} (PLCC, {len(means)} scenes): PR's offset between scenes is largely "
        "its own. A rule that knows the change and never looks at the image is ahead of PR, pooled, by "
        f"{with_interval(ahead)}. Compare scores within a scene and average the differences over scenes; a score of one scene "
        "against one of another says little."
    )
    return f"{markdown(table)}\n{wrap(text)}"


# --- page


def section(frame: pd.DataFrame, percentiles: Path) -> str:
    """Return the part of the page that holds numbers."""
    everything, frame = frame, frame[frame["method"] != "original"].reset_index(drop=True)
    pairs, bins = pair_table(frame)
    kinds, off = kind_table(frame)
    power, model = power_table(frame)
    low, high = np.percentile(frame["pred_PR"], (5, 95))
    lowest, highest = frame["pred_PR"].min(), frame["pred_PR"].max()
    n_scenes = frame["scene"].nunique()
    noise = (
        f"Of [-1, 1], PR of the {len(frame)} recolorings uses [{lowest:.2f}, {highest:.2f}], nine in ten lie in [{low:.2f}, "
        f"{high:.2f}]. Standard deviations within a scene, with 95 % intervals of {RESAMPLES} draws of the {n_scenes} scenes. "
        "*Difference given the scores*: the standard error of a difference of two MOS of one scene, when predicted as `MOS per "
        "score` times that of the scores; *by rating noise* is the part of it that no score could foresee. *Two panels*: pairs "
        "that two panels as large as HECD's would order alike, if errors are normal."
    )
    question = (
        "How large must the difference of two scores of one scene be, until people agree with its sign in "
        f"{percent(LEVELS[0])} or {percent(LEVELS[1])} of the pairs?"
    )
    curve = (
        "By a logistic curve of the share of right pairs. *None*: no difference reaches it; it would lie beyond the largest "
        f"one, or beyond it are fewer than {LEAST_PAIRS} pairs, or too few are right. The sign of people is that of "
        "the two MOS, with rating noise; *clear pairs* differ by 1.96 standard errors or more. "
        "The shares by the size of the difference:"
    )
    model = "Predicted difference = slope x d + bias + scene noise. " + model
    seen = (
        f"- The networks had other scenes of the same {frame['method'].nunique()} methods in training; bias against an unseen "
        f"colorizer is not known and may be larger. *Never*: not with {MOST_SCENES:,} scenes."
    )
    check = (
        f"Without a model, by 95 % intervals on HECD's {n_scenes} scenes, not corrected for their number: {check_text(frame)}"
    )
    off += " (Intervals without 0, not corrected for their number.) Residual: MOS less that of one line through all images."
    return f"""## Noise

{markdown(noise_table(frame))}
{wrap(noise)}

{wrap(question)}

{markdown(pairs)}
{wrap(curve)}

{markdown(bins)}
## How many images tell two colorizers apart?

Photographs that both color, until the 95 % interval of the mean difference of PR is on the right side of 0 in {percent(POWER)}
of studies; `d` is the true difference of their mean MOS. *Endless scenes*: how often the mean is on the right side at all.

{markdown(power)}
- **The column without bias is no reason to prefer scores to people.** Scores vary less from scene to scene, so their mean is
  soon precise, not thereby right: what the network has against a colorizer never averages out.
{wrap(seen, "  ")}

{wrap(model + " " + check)}

{wrap(bias_text(bias_table(frame)))}

## Percentiles among real photographs

{percentile_text(percentiles)}

## Between scenes

{scene_text(everything)}

## Failures

{markdown(kinds)}
{wrap(off)}

The {WORST} images of {len(frame)} whose ranks by people and by PR differ most, 1 being the best:

{markdown(worst_table(frame))}"""


def replace_between(page: str, text: str) -> str:
    """Replace the part of a page between the two markers by ``text``.

    Raises:
        ValueError: If the page does not have each marker once, in order.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"expected one line {BEGIN} and, below it, one line {END}")
    return re.sub(
        rf"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n\n{text.strip()}\n\n{END}", page, flags=re.DOTALL
    )


def main() -> None:
    args = parse_args()
    text = section(load(args.hecd), ROOT / "weights" / "percentiles.json")
    print(text)
    if args.write:
        write_atomic(PAGE, replace_between(PAGE.read_text(encoding="utf-8"), text))
        recolored = load(args.hecd)
        biases = bias_table(recolored[recolored["method"] != "original"])
        write_atomic(METHOD_BIAS, json.dumps(biases, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error

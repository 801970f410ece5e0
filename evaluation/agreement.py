"""Agreement of score files with people: joining, measures and tables of ``evaluate.py``.

Intervals come from a bootstrap that draws *scenes*, because colorizations of one photograph are not independent. A resample
is stored as the number of times that each scene occurs in it, so that ranks, ties and sums of all resamples are computed
together. The values equal those of :mod:`utils.metrics` on a list of the drawn images.

Intervals are computed by a bootstrap t (:meth:`Resamples.interval`). Percentiles of the resamples would be too narrow for few
scenes: the interval of an SRCC then holds the true one in .84 to .90 of the cases at 4 scenes, and in .90 to .94 at 15.

References:
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993: the bootstrap t (12.5), pseudo-values (11.5).
    Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69, 2015: few units.
"""

import os
import posixpath
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit
from scipy.special import expit
from scipy.stats import rankdata
from scipy.stats import t as student

from evaluation.pairs import auc_better, auc_different, pairwise_accuracy, safe_divide, scene_pairs
from utils.metrics import correlations, plcc, rmse, within_scene_srcc
from utils.names import amount, match_names, nearest, written_otherwise
from utils.scores import DIMENSIONS, in_sample, read_metric, read_scores
from utils.tables import csv_lines

METRICS = ("SRCC", "KRCC", "PLCC", "RMSE", "PLCC logistic", "RMSE logistic", "within-scene SRCC")
PAIR_METRICS = ("pairwise accuracy", "AUC different", "AUC better")
SYSTEM_SRCC = "system SRCC"
PUBLISHED_SRCC = 0.9210  # in the README of https://github.com/ARBEZ-ZEBRA/ICQA
NETWORK, METHOD_MEAN = "network", "method mean"  # predictors
NETWORK_COLUMNS, METHOD_COLUMNS = ("prediction",), ("mean", "place", "step")
IN_SAMPLE = "in-sample"
_WITH_INTERVAL = ("SRCC", "within-scene SRCC")  # in the compact table; metrics.csv has the intervals of all
MIN_SCENES = 4  # with fewer scenes there is no interval
_LEVEL = 0.975  # of the upper end of an interval
_MOST_STRETCH = 1.5  # times Student's t: few scenes with one far off make the quantiles of a bootstrap t endless
_MOST_LEFT_OUT = 100  # groups of scenes that are left out in turn, for the sake of time
_CORRELATION, _SHARE, _ERROR, _ANY = (-1.0, 1.0), (0.0, 1.0), (0.0, np.inf), (-np.inf, np.inf)  # ranges of measures
_RANGES = {"RMSE": _ERROR, "RMSE logistic": _ERROR} | dict.fromkeys(PAIR_METRICS, _SHARE)  # of the others: _CORRELATION
_BLOCK = 4_000_000  # numbers worked on at a time, for the sake of memory
_MIN_METHODS = 3  # with two, a rank correlation can only be -1 or 1


# Score files and MOS


@dataclass(frozen=True)
class Scores:
    """Source of the predictions of a dimension."""

    path: Path
    frame: pd.DataFrame  # from read_scores
    is_sub_score: bool  # a sub-score column of PR's file, used when the dimension has no score file


@dataclass(frozen=True)
class Joined:
    """Images that are rated in a dimension, beside their predictions.

    Attributes:
        rows: Columns image, scene, method, dimension, mos and prediction (NaN where there is none), in the order of the
            MOS table.
        failed: Reason by image, for images whose row in the file has no score.
        absent: Images without a row in the file.
        unused: Number of rows in the file that belong to other images.
        elsewhere: How the rows were joined, if not by paths that surely belong to one folder; else empty.
    """

    rows: pd.DataFrame
    failed: dict[str, str]
    absent: list[str]
    unused: int
    elsewhere: str


def read_predictions(named: Sequence[str]) -> dict[str, Scores]:
    """Read score files, by the dimension that they are used for.

    A file is used for its main dimension, which its sidecar names, or else for its first score column. The sub-scores in PR's
    file are used for dimensions without a score file.

    Args:
        named: Paths of CSV or published JSON files; ``PATH:CF`` names the dimension.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file cannot be read, its dimension is not known, or two files give the same one.
    """
    main_scores: dict[str, Scores] = {}
    sub_scores: dict[str, Scores] = {}
    for name in named:
        path, dimension = _named_dimension(name)
        frame = read_scores(path, dimension)
        columns = [column for column in frame.columns if column in DIMENSIONS]
        if not columns:
            unknown = ", ".join(column for column in frame.columns if column not in ("image", "gray", "error"))
            raise ValueError(f"{path} has no column CF, SCC or PR but {unknown}; name it after what it is to be compared with")
        main = dimension or frame.attrs["meta"].get("dimension", columns[0])
        if main not in columns:
            raise ValueError(f"{path} has no column {main}, which the file beside it names as its dimension")
        if main in main_scores:
            raise ValueError(f"{main_scores[main].path} and {path} both give {main}; evaluate one at a time")
        main_scores[main] = Scores(path, frame, False)
        if dimension is None:
            sub_scores |= {column: Scores(path, frame, True) for column in columns if column != main}
    return {d: main_scores.get(d) or sub_scores[d] for d in DIMENSIONS if d in main_scores or d in sub_scores}


def read_versus(
    named: Sequence[str], dimensions: Sequence[str], score_range: tuple[float, float] | None = None, lower: bool = False
) -> dict[str, Scores]:
    """Read the scores of a second predictor, by the dimension in which they are compared.

    Columns CF, SCC and PR are compared in that dimension, any other metric in all of ``dimensions``.

    Args:
        named: Paths of CSV or JSON files; ``PATH:NAME`` names the column of the scores, or the dimension of a JSON file.
        dimensions: Dimensions of the network.
        score_range: Lowest and highest possible score; None for [-1, 1].
        lower: Whether lower is better; the sign of the scores is then changed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file cannot be read, or two files are for the same dimension.
    """
    by_dimension: dict[str, Scores] = {}
    for name in named:
        head, _, tail = name.rpartition(":")
        path, column = (Path(head), tail) if head and not Path(name).is_file() else (Path(name), None)
        columns: list[str | None] = [column]
        if column is None and path.is_file():
            by_name = [d for d in DIMENSIONS if f"_{d}_" in path.name]
            header = (
                by_name
                if path.suffix.lower() == ".json"
                else [cell.strip() for _, cells in csv_lines(path)[:1] for cell in cells]
            )
            columns = [c for c in header if c in DIMENSIONS] or [None]
        for column in columns:
            frame = read_metric(path, column, score_range)
            frame["score"] *= -1.0 if lower else 1.0
            main = frame.attrs["meta"].get("dimension", columns[0])
            is_sub_score = len(columns) > 1 and column != (main if main in columns else columns[0])
            for dimension in [column] if column in DIMENSIONS else dimensions:
                earlier = by_dimension.get(dimension)
                if earlier and not earlier.is_sub_score and not is_sub_score:
                    raise ValueError(f"{earlier.path} and {path} both give {dimension}; evaluate one at a time")
                if not earlier or earlier.is_sub_score:
                    by_dimension[dimension] = Scores(path, frame.rename(columns={"score": dimension}), is_sub_score)
    return by_dimension


def _named_dimension(name: str) -> tuple[Path, str | None]:
    """Return path and dimension of ``PATH:CF``, or of a JSON file with ``_CF_`` in its name; the dimension may be None."""
    head, _, tail = name.rpartition(":")
    if head and tail in DIMENSIONS:
        return Path(head), tail
    if Path(head).is_file():
        raise ValueError(f"expected one of {', '.join(DIMENSIONS)} after the colon of {name}, got {tail!r}")
    path = Path(name)
    if path.suffix.lower() != ".json" or path.name.lower().endswith(".csv.json"):  # the latter is refused by read_scores
        return path, None
    recognized = [dimension for dimension in DIMENSIONS if f"_{dimension}_" in path.name]
    if len(recognized) != 1:
        raise ValueError(f"{path} does not say whether it holds CF, SCC or PR; put it after a colon: {path}:CF")
    return path, recognized[0]


def join(table: pd.DataFrame, scores: Scores, dimension: str) -> Joined:
    """Join the rated images of a MOS table with their predictions.

    The JSON form is joined by stem. A CSV is joined by relative path (from the scored folder and from the root of the table)
    or, where its sidecar names the scored folder, by absolute path, whichever matches more images. If neither matches any
    image, the CSV is joined by file name, provided that no two images share one. Other spellings of names: see
    :mod:`utils.names`.

    Args:
        table: MOS table.
        scores: Predictions, from :func:`read_predictions` or :func:`read_versus`.
        dimension: CF, SCC or PR.

    Raises:
        ValueError: If predictions are joined by stem and two rated images share a stem.
    """
    rated = table[table[dimension].notna()]
    images = rated["image"].tolist()
    frame = scores.frame
    names = frame["image"].tolist()
    root, scored_root = table.attrs["root"], frame.attrs["meta"].get("root", "")
    if frame.attrs["by_stem"]:
        stems = [PurePosixPath(image).stem for image in images]
        _refuse_same_stem(scores.path, images, stems)
        ways = [(stems, names, "")]
    else:
        ways = [(images, names, f"by relative path: the scored folder was {scored_root}" if scored_root else "")]
        if scored_root:
            # First, for an absolute path cannot take an image for one of the same name in another folder.
            ways.insert(0, ([_absolute(root, i) for i in images], [_absolute(scored_root, n) for n in names], ""))
        bare = [posixpath.basename(i) for i in images], [posixpath.basename(n) for n in names]
        if all(len(set(part)) == len(part) for part in bare):  # a copy in other folders
            ways.append((*bare, "by file name, for no path agrees"))
    matches: dict[str, str] = {}
    wanted, given, elsewhere = ways[0]
    for way in ways:
        matched = {} if matches and way[2].startswith("by file name") else match_names(*way[:2])
        if len(matched) > len(matches):
            matches, (wanted, given, elsewhere) = matched, way
    elsewhere = "; ".join(filter(None, (elsewhere, written_otherwise(matches))))

    values = dict(zip(given, zip(frame[dimension], frame["error"], strict=True), strict=True))
    values = {key: values[matches[key]] for key in wanted if key in matches}
    rows = rated[["image", "scene", "method"]].assign(dimension=dimension, mos=rated[dimension])
    rows["prediction"] = [values[key][0] if key in values and not values[key][1] else np.nan for key in wanted]
    failed = {
        image: values[key][1] or "its score is empty"
        for image, key, value in zip(images, wanted, rows["prediction"], strict=True)
        if key in values and np.isnan(value)
    }
    absent = [image for image, key in zip(images, wanted, strict=True) if key not in values]
    unused = len(set(given) - set(matches.values()))
    return Joined(rows.reset_index(drop=True), failed, absent, unused, elsewhere)


def require_rows(joined: Joined, scores: Scores, dimension: str, root: str, allow_missing: bool = False) -> None:
    """Refuse a score file that has no row for a rated image; with ``allow_missing``, only one that scores no rated image.

    Raises:
        ValueError: Names an image, the closest rows of the file, and the script to run.
    """
    none = joined.rows["prediction"].isna().all()
    if not none and (allow_missing or not joined.absent):
        return
    names, scored = scores.frame["image"].tolist(), scores.frame.attrs["meta"].get("root")
    first = joined.absent[0] if joined.absent else ""
    of = f" of {scored}" if scored else ""
    has = f"it has {len(names)}{of}, e.g. {', '.join(nearest(first, names))}" if names else "it is empty"
    count = len(joined.rows) if none else len(joined.absent)
    text = f"{count} of {len(joined.rows)} images with a {dimension} rating have no row in {scores.path}"
    if none and joined.failed:
        image, reason = next(iter(joined.failed.items()))
        raise ValueError(f"no image with a {dimension} rating has a score in {scores.path}, e.g. {image}: {reason}")
    advice = f"run infer_{'PR' if scores.is_sub_score else dimension}.py on {root}"
    if scores.frame.attrs.get("metric"):
        advice = "score them as well"
    advice += "" if none else ", or pass --allow-missing to leave them out"
    raise ValueError(f"{text} ({has}), e.g. {first}; {advice}")


def sample_of(scores: Scores) -> str:
    """Return whether the weights have seen the images: a sample of :mod:`utils.scores`, or "unknown"."""
    in_sample(scores.frame)  # refuses an unknown sample
    return scores.frame.attrs["meta"].get("sample", "unknown")


def _absolute(root: str, image: str) -> str:
    return os.path.normpath(os.path.join(os.path.realpath(root), image))


def _refuse_same_stem(path: Path, images: list[str], stems: list[str]) -> None:
    first: dict[str, str] = {}
    for image, stem in zip(images, stems, strict=True):
        if first.setdefault(stem, image) != image:
            raise ValueError(f"{path} goes by stem, which cannot tell {first[stem]} from {image}; use the CSV form")


# Predictors


@dataclass(frozen=True)
class Predictor:
    """Predictions for N images, shape (N,) each; the three arrays are equal except for the method means."""

    value: np.ndarray  # in the unit of the MOS
    order: np.ndarray  # for rank correlations
    step: np.ndarray  # for differences within a scene

    @classmethod
    def of(cls, rows: pd.DataFrame, columns: Sequence[str]) -> "Predictor":
        """Build a predictor from one column of a table, or from three: value, order and step."""
        arrays = [rows[column].to_numpy(float) for column in columns]
        return cls(*(arrays * 3 if len(arrays) == 1 else arrays))


def method_means(table: pd.DataFrame, dimension: str) -> pd.DataFrame:
    """Compute the trivial predictor: the mean MOS of images of the same method in other scenes.

    The means must not be ranked. They leave out the image's scene, so among images of one method the better rated ones have
    slightly lower means. A rank correlation counts these tiny differences in full: for 5 methods of 200 scenes, SRCC is
    about 0.18 too low. Rank correlations therefore take ``place``, the rank of the method among all methods, also without the
    scene.

    Args:
        table: MOS table.
        dimension: CF, SCC or PR.

    Returns:
        Same index as ``table``. ``mean``: in the unit of the MOS. ``place``: in (0, 1), for ranks. ``step``: for differences,
        in the unit of the MOS, the average of all ``mean`` with the same place. NaN where the image has no method, or its
        method has no rated image in another scene.
    """
    rated = table[table[dimension].notna() & (table["method"] != "")]
    if rated.empty:
        return pd.DataFrame({"mean": np.nan, "place": np.nan, "step": np.nan}, index=table.index)
    groups = rated.groupby(["scene", "method"])[dimension]
    sums, sizes = groups.sum().unstack(fill_value=0.0), groups.size().unstack(fill_value=0)
    # NaN where nothing is left. Rounded, so that equal means of two methods do not differ in the last digit.
    means = ((sums.sum() - sums) / (sizes.sum() - sizes)).round(12)
    places = (means.rank(axis=1) - 0.5).div(means.notna().sum(axis=1), axis=0)
    flat = pd.DataFrame({"place": places.to_numpy().ravel(), "mean": means.to_numpy().ravel()})
    steps = flat.groupby("place")["mean"].transform("mean").to_numpy().reshape(means.shape)
    row, column = means.index.get_indexer(table["scene"]), means.columns.get_indexer(table["method"])
    has_mean = (row >= 0) & (column >= 0)
    return pd.DataFrame(
        {
            "mean": np.where(has_mean, means.to_numpy()[row, column], np.nan),
            "place": np.where(has_mean, places.to_numpy()[row, column], np.nan),
            "step": np.where(has_mean, steps[row, column], np.nan),
        },
        index=table.index,
    )


def logistic_fit(pred: np.ndarray, mos: np.ndarray, at: np.ndarray | None = None) -> tuple[np.ndarray, str]:
    """Map predictions by a rising logistic curve with four parameters, fitted to the MOS by least squares.

    Args:
        pred: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).
        at: Predictions to map, shape (M,); None for ``pred``.

    Returns:
        Mapped predictions, shape (N,) or (M,), and an empty text; or the unchanged predictions and the reason.

    Reference:
        VQEG, Final report from the Video Quality Experts Group on the validation of objective models of video quality
        assessment, phase II, 2003: the mapping.
    """
    wanted = pred if at is None else at
    if len(pred) < 5 or np.ptp(pred) == 0 or np.ptp(mos) == 0:
        reason = "fewer than 5 images" if len(pred) < 5 else "all predictions or all MOS are equal"
        return wanted, f"not mapped: {reason}"
    scaled = (pred - pred.mean()) / pred.std()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the covariance of the parameters, which is not used
            start = (mos.min(), mos.max(), 0.0, 0.0)
            # With the default tolerance of 1e-8 the fit does not end on predictions that are linear or unrelated to the MOS.
            parameters, _ = curve_fit(_logistic, scaled, mos, start, maxfev=5000, ftol=1e-6, xtol=1e-6)
    except RuntimeError:
        return wanted, "not mapped: the logistic fit did not converge"
    mapped = _logistic(scaled, *parameters)
    if not np.isfinite(mapped).all() or np.ptp(mapped) == 0:
        return wanted, "not mapped: the logistic fit came out constant"
    if parameters[0] > parameters[1]:  # would turn a predictor with the wrong sign into a good one
        return wanted, "not mapped: the logistic fit falls"
    return (mapped if at is None else _logistic((at - pred.mean()) / pred.std(), *parameters)), ""


def _logistic(x: np.ndarray, low: float, high: float, middle: float, log_steepness: float) -> np.ndarray:
    return low + (high - low) * expit((x - middle) * np.exp(np.clip(log_steepness, -10, 10)))


# Measures with intervals


def measure_agreement(
    pred: np.ndarray,
    mos: np.ndarray,
    scenes: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
    order: np.ndarray | None = None,
) -> pd.DataFrame:
    """Compute all measures of one predictor, each with the 95 % interval of a bootstrap t over scenes.

    Args:
        pred: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).
        scenes: Scene of each image, shape (N,).
        resamples: Number of draws; each draws as many scenes as there are, with replacement.
        seed: The same seed draws the same scenes for every predictor of the same scenes.
        order: Predictions for rank correlations, shape (N,); None for ``pred``.

    Returns:
        One row for each of :data:`METRICS`, with ``metric``, ``value``, ``low``, ``high`` and ``note``. The logistic curve is
        fitted once, to all images, and not again in the resamples. NaN where a measure is not defined. Intervals are NaN
        also with fewer than :data:`MIN_SCENES` scenes. Resamples in which a measure is not defined are left out, and
        ``note`` says how many.

    Raises:
        ValueError: If the shapes differ or are not (N,), or a value is not finite.
    """
    order = pred if order is None else order
    ranked, direct = correlations(order, mos), correlations(pred, mos)
    mapped, fit_note = logistic_fit(pred, mos)
    values = {
        "SRCC": ranked["SRCC"],
        "KRCC": ranked["KRCC"],
        "PLCC": direct["PLCC"],
        "RMSE": direct["RMSE"],
        "PLCC logistic": plcc(mapped, mos),
        "RMSE logistic": rmse(mapped, mos),
        "within-scene SRCC": within_scene_srcc(order, mos, scenes),
    }
    names, scene = np.unique(scenes, return_inverse=True)
    members = [np.flatnonzero(scene == k) for k in range(len(names))]
    within = np.array([within_scene_srcc(order[m], mos[m], scenes[m]) for m in members])
    draws = Resamples(len(names), resamples, seed)
    samples = _resampled(pred, order, mapped, mos, scene, within, draws.counts) if len(draws.counts) else {}
    rows = []
    for metric in METRICS:
        notes = [fit_note] if metric.endswith("logistic") else []
        scenes_defined = len(names)
        if metric == "within-scene SRCC" and not np.isfinite(within).all():
            scenes_defined = int(np.isfinite(within).sum())
            notes.append(f"defined in {scenes_defined} of {len(names)} scenes")
        bounds = _RANGES.get(metric, _CORRELATION)
        low, high, note = draws.interval(values[metric], samples.get(metric, np.array([])), scenes_defined, bounds)
        rows.append((metric, values[metric], low, high, "; ".join(filter(None, [*notes, note]))))
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "note"])


class Resamples:
    """Draws of scenes for the intervals of measures.

    Attributes:
        counts: How often each scene occurs, shape (R + G, K). The first R rows are resamples; each of the G others leaves out
            one group of scenes. A group is one scene, or several if there are more than 100 scenes. No rows for fewer than
            :data:`MIN_SCENES` scenes.
    """

    def __init__(self, scenes: int, resamples: int = 1000, seed: int = 0) -> None:
        self.counts = np.empty((0, scenes))
        if scenes >= MIN_SCENES:
            groups = min(scenes, _MOST_LEFT_OUT)
            left_out = np.arange(scenes) % groups == np.arange(groups)[:, None]
            self.counts = np.vstack([draw_scenes(scenes, resamples, seed), ~left_out])
            self._groups, self._of_groups = groups, draw_scenes(groups, resamples, seed)

    def interval(
        self, value: float, sample: np.ndarray, scenes: int | None = None, bounds: tuple[float, float] = _ANY
    ) -> tuple[float, float, str]:
        """Compute the 95 % interval of a measure by a bootstrap t.

        The standard error is the larger one of the resamples and of the jackknife, both corrected for few scenes. The quantiles
        come from the bootstrap t of the jackknife's pseudo-values. They are at least the quantiles of Student's t with one
        degree of freedom less than there are scenes, and at most 1.5 times these. A measure with bounds is first mapped to a
        scale without bounds, by the inverse hyperbolic tangent (Fisher's z) or the logarithm.

        Args:
            value: The measure.
            sample: The measure in each row of ``counts``, shape (R + G,); NaN where it is not defined.
            scenes: Number of scenes in which the measure is defined; None for all.
            bounds: Range of the measure.

        Returns:
            Both ends, NaN if there is no interval, and a note, "" if there is nothing to note.
        """
        count = self.counts.shape[1] if scenes is None else scenes
        if self.counts.shape[1] == 1 or (np.isfinite(value) and count == 1):
            return np.nan, np.nan, "one scene: no interval"
        if not np.isfinite(value):
            return np.nan, np.nan, ""
        if count < MIN_SCENES:
            return np.nan, np.nan, f"fewer than {MIN_SCENES} scenes: no interval"
        sample, left = np.split(sample, [-self._groups])
        defined, left = sample[np.isfinite(sample)], np.where(np.isfinite(left), left, value)
        note = f"not defined in {len(sample) - len(defined)} of {len(sample)} resamples" if len(defined) < len(sample) else ""
        slope, forward, back = _unbounded(value, bounds)
        if not np.isfinite(slope):
            return np.nan, np.nan, "; ".join(filter(None, (note, "at the end of its range: no interval")))
        groups = self._groups
        pseudo = (groups - 1) * (left.mean() - left)
        of_resamples = np.std(defined) * np.sqrt(count / (count - 1)) if len(defined) else 0.0
        error = max(of_resamples, np.std(pseudo) / np.sqrt(groups - 1))
        means = self._of_groups @ pseudo / groups
        spread = np.sqrt(np.maximum(self._of_groups @ pseudo**2 / groups - means**2, 0) / (groups - 1))
        least = student.ppf(_LEVEL, count - 1)
        with np.errstate(divide="ignore", invalid="ignore"):  # where a resample is of equal scenes
            ratio = np.nan_to_num(means / spread).clip(-_MOST_STRETCH * least, _MOST_STRETCH * least)
        above, below = np.quantile(ratio, (1 - _LEVEL, _LEVEL))
        low, high = forward - slope * error * max(least, below), forward + slope * error * max(least, -above)
        return float(back(low)), float(back(high)), note


def _unbounded(value: float, bounds: tuple[float, float]) -> tuple[float, float, Callable[[float], float]]:
    """Map a value to a scale without bounds.

    Returns:
        Slope of the inverse map at the value (infinite at a bound), the mapped value, and the inverse map.
    """
    low, high = bounds
    if np.isinf(low):
        return 1.0, value, lambda x: x
    if np.isinf(high):
        return (1 / value if value > low else np.inf), np.log(max(value, 1e-300)), np.exp
    half, middle = (high - low) / 2, (high + low) / 2
    share = (value - middle) / half
    if 1 - abs(share) < 1e-9:
        return np.inf, np.inf, np.tanh
    return 1 / (half * (1 - share**2)), np.arctanh(share), lambda x: middle + half * np.tanh(x)


def draw_scenes(scenes: int, resamples: int, seed: int) -> np.ndarray:
    """Draw scenes with replacement; return how often each scene occurs in each resample, shape (resamples, scenes)."""
    draws = np.random.default_rng(seed).integers(0, scenes, (resamples, scenes))
    counts = np.zeros((resamples, scenes))
    np.add.at(counts, (np.arange(resamples)[:, None], draws), 1)
    return counts


def _resampled(
    pred: np.ndarray,
    order: np.ndarray,
    mapped: np.ndarray,
    mos: np.ndarray,
    scene: np.ndarray,
    within: np.ndarray,
    counts: np.ndarray,
) -> dict[str, np.ndarray]:
    """Compute each measure in each resample, shape (R,); NaN where it is not defined.

    Args:
        pred: Predictions, shape (N,).
        order: Predictions for rank correlations, shape (N,).
        mapped: Predictions after the logistic curve, shape (N,).
        mos: Mean opinion scores, shape (N,).
        scene: Number of each image's scene, shape (N,), 0 to K-1.
        within: SRCC within each scene, shape (K,).
        counts: How often each scene occurs, shape (R, K).
    """
    x, y = _Levels(order), _Levels(mos)
    agreeing = _agreeing_pairs(x.level, y.level, scene, counts.shape[1])
    blocks = []
    for block in np.array_split(counts, max(1, len(counts) * len(mos) // _BLOCK)):
        weights = block[:, scene]  # (R', N)
        of_x, of_y = x.frequencies(weights), y.frequencies(weights)
        pairs = ((block @ agreeing) * block).sum(1) / 2
        blocks.append(
            {
                "SRCC": _weighted_srcc(x, y, of_x, of_y, weights),
                "KRCC": _tau_b(pairs, of_x, of_y),
                "PLCC": resampled_plcc(pred, mos, scene, block),
                "RMSE": _weighted_rmse(pred, mos, scene, block),
                "PLCC logistic": resampled_plcc(mapped, mos, scene, block),
                "RMSE logistic": _weighted_rmse(mapped, mos, scene, block),
                "within-scene SRCC": safe_divide(block @ np.nan_to_num(within), block @ np.isfinite(within)),
            }
        )
    return {metric: np.concatenate([values[metric] for values in blocks]) for metric in METRICS}


def resampled_srcc(order: np.ndarray, mos: np.ndarray, scene: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute SRCC in each resample, shape (R,); NaN where it is not defined.

    Args:
        order: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).
        scene: Number of each image's scene, shape (N,), 0 to K-1.
        counts: How often each scene occurs, shape (R, K).
    """
    x, y = _Levels(order), _Levels(mos)
    blocks = [np.empty(0)]
    for block in np.array_split(counts, max(1, len(counts) * len(mos) // _BLOCK)):
        weights = block[:, scene]
        blocks.append(_weighted_srcc(x, y, x.frequencies(weights), y.frequencies(weights), weights))
    return np.concatenate(blocks)


class _Levels:
    """Distinct values of a sample, numbered in their order, so that their frequencies in any resample are sums."""

    def __init__(self, values: np.ndarray) -> None:
        _, self.level, sizes = np.unique(values, return_inverse=True, return_counts=True)
        self._sorted = np.argsort(self.level, kind="stable")
        self._starts = np.cumsum(sizes) - sizes

    def frequencies(self, weights: np.ndarray) -> np.ndarray:
        """Count how often each distinct value occurs, shape (R, L), where images occur ``weights`` times, shape (R, N)."""
        return np.add.reduceat(weights[:, self._sorted], self._starts, axis=1)


def _agreeing_pairs(x: np.ndarray, y: np.ndarray, scene: np.ndarray, scenes: int) -> np.ndarray:
    """Count pairs that x and y order alike less pairs that they order differently, by the two scenes, shape (K, K)."""
    by_scene = np.argsort(scene, kind="stable")
    x, y, scene = x[by_scene], y[by_scene], scene[by_scene]
    starts = np.searchsorted(scene, np.arange(scenes))
    total = np.zeros((scenes, scenes))
    for rows in np.array_split(np.arange(len(x)), len(x) ** 2 // _BLOCK + 1):
        signs = np.sign(x[rows, None] - x) * np.sign(y[rows, None] - y)
        np.add.at(total, scene[rows], np.add.reduceat(signs, starts, axis=1))
    return total


def _weighted_srcc(x: _Levels, y: _Levels, of_x: np.ndarray, of_y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    middle = (weights.sum(1, keepdims=True) + 1) / 2
    # From the frequencies of the values: the mean rank of equal values, less the mean of all ranks.
    rank_x, rank_y = (np.cumsum(f, axis=1) - (f - 1) / 2 - middle for f in (of_x, of_y))
    covariance = np.einsum("rn,rn,rn->r", weights, rank_x[:, x.level], rank_y[:, y.level])
    spread = np.sqrt((of_x * rank_x**2).sum(1) * (of_y * rank_y**2).sum(1))
    return safe_divide(covariance, spread)


def _tau_b(pairs: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    n = of_x.sum(1)
    untied_x, untied_y = ((n * (n - 1) - (f * (f - 1)).sum(1)) / 2 for f in (of_x, of_y))
    return safe_divide(pairs, np.sqrt(untied_x * untied_y))


def resampled_plcc(pred: np.ndarray, mos: np.ndarray, scene: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Compute PLCC in each resample, shape (R,); same arguments as :func:`resampled_srcc`."""
    x, y = pred - pred.mean(), mos - mos.mean()
    n, sum_x, sum_y, xx, yy, xy = (
        counts @ np.bincount(scene, values, counts.shape[1]) for values in (np.ones_like(x), x, y, x * x, y * y, x * y)
    )
    constant = _constant(pred, scene, counts) | _constant(mos, scene, counts)  # where rounding leaves a spread
    spread = np.sqrt(np.maximum(n * xx - sum_x**2, 0) * np.maximum(n * yy - sum_y**2, 0))
    return safe_divide(n * xy - sum_x * sum_y, np.where(constant, 0, spread)).clip(-1, 1)


def _constant(values: np.ndarray, scene: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return whether all values of a resample are equal, shape (R,)."""
    low, high = np.full(counts.shape[1], np.inf), np.full(counts.shape[1], -np.inf)
    np.minimum.at(low, scene, values)
    np.maximum.at(high, scene, values)
    drawn = counts > 0
    return np.where(drawn, low, np.inf).min(1) == np.where(drawn, high, -np.inf).max(1)


def _weighted_rmse(pred: np.ndarray, mos: np.ndarray, scene: np.ndarray, counts: np.ndarray) -> np.ndarray:
    squares, sizes = (np.bincount(scene, values, counts.shape[1]) for values in ((pred - mos) ** 2, np.ones_like(mos)))
    return np.sqrt((counts @ squares) / (counts @ sizes))


def pair_agreement(
    step: np.ndarray, mos: np.ndarray, scenes: np.ndarray, noise: np.ndarray, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compute the measures of :mod:`evaluation.pairs`, with the same kind of intervals as :func:`measure_agreement`.

    Args:
        step: Predictions for differences within scenes, shape (N,).
        mos: Mean opinion scores, shape (N,).
        scenes: Scene of each image, shape (N,).
        noise: Standard error of each MOS, shape (N,).
        resamples: Number of bootstrap draws of scenes.
        seed: Seed of the bootstrap.

    Returns:
        Same as :func:`measure_agreement`, one row for each of :data:`PAIR_METRICS`, and ``n``: the number of clearly different
        pairs, or, for "AUC different", of all pairs.
    """
    names, scene = np.unique(scenes, return_inverse=True)
    pairs = scene_pairs(mos, scene, noise)
    clear = int(pairs.clear.sum())
    note = f"n counts pairs within scenes, {clear} of {len(pairs.clear)} clearly different"
    draws = Resamples(len(names), resamples, seed)
    rows = []
    for metric, function in zip(PAIR_METRICS, (pairwise_accuracy, auc_different, auc_better), strict=True):
        of_pairs = pairs.scene if metric == "AUC different" else pairs.scene[pairs.clear]
        measure = partial(function, pairs, step)
        measured = _with_interval(measure, draws, len(np.unique(of_pairs)), _SHARE, note)
        rows.append((metric, *measured, len(pairs.clear) if metric == "AUC different" else clear))
    return pd.DataFrame(rows, columns=["metric", "value", "low", "high", "note", "n"])


def _with_interval(
    measure: Callable[[np.ndarray], np.ndarray], draws: Resamples, scenes: int, bounds: tuple[float, float], note: str
) -> tuple[float, float, float, str]:
    """Return value, interval and note of a measure that is a function of how often each scene occurs."""
    every = np.ones((1, draws.counts.shape[1]))
    value, *sample = measure(np.vstack([every, draws.counts]))
    low, high, interval_note = draws.interval(float(value), np.array(sample), scenes, bounds)
    return float(value), low, high, "; ".join(filter(None, (note, interval_note)))


# Methods


class _Methods:
    """Sums over the images of each of M methods, by scene; images without a method are left out."""

    def __init__(self, method: np.ndarray, scene: np.ndarray, scenes: int) -> None:
        has_method = method != ""
        self.names, column = np.unique(method[has_method], return_inverse=True)
        self._has_method, self._shape = has_method, (scenes, len(self.names))
        self._cell = scene[has_method] * len(self.names) + column
        self.sizes = self._sums(np.ones(len(method)))

    def _sums(self, values: np.ndarray) -> np.ndarray:
        total = np.bincount(self._cell, values[self._has_method], self._shape[0] * self._shape[1])
        return total.reshape(self._shape)

    def means(self, values: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Return the mean of each method in each resample, shape (R, M); NaN for a method without an image there."""
        sums, sizes = counts @ self._sums(values), counts @ self.sizes
        # Rounded, so that equal means of two methods do not differ in the last digit and take two ranks.
        return np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0).round(12)


def _srcc_of_means(pred: np.ndarray, mos: np.ndarray) -> np.ndarray:
    """Compute SRCC of two tables row by row, shape (R,), over the columns that are not NaN; NaN for fewer than three."""
    present = ~np.isnan(mos)  # a method has both means or none
    # Infinity takes the ranks above all others and so leaves these as they are.
    ranks = [np.where(present, rankdata(np.where(present, m, np.inf), axis=1), np.nan) for m in (pred, mos)]
    n = present.sum(1)
    x, y = (np.nan_to_num(r - ((n + 1) / 2)[:, None]) for r in ranks)
    enough = n >= _MIN_METHODS
    return safe_divide((x * y).sum(1), np.where(enough, np.sqrt((x**2).sum(1) * (y**2).sum(1)), 0))


def system_agreement(
    pred: np.ndarray, mos: np.ndarray, method: np.ndarray, scenes: np.ndarray, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compute the system SRCC: SRCC of mean prediction and mean MOS over methods, with an interval.

    Args:
        pred: Predictions, shape (N,).
        mos: Mean opinion scores, shape (N,).
        method: Method of each image, shape (N,); empty where there is none.
        scenes: Scene of each image, shape (N,).
        resamples: Number of bootstrap draws of scenes.
        seed: Seed of the bootstrap.

    Returns:
        One row, with the same columns as :func:`pair_agreement`; ``n`` is the number of methods. NaN for fewer than three.
    """
    names, scene = np.unique(scenes, return_inverse=True)
    methods = _Methods(method, scene, len(names))
    note = "n counts methods" + ("" if len(methods.names) >= _MIN_METHODS else f"; fewer than {_MIN_METHODS} methods")
    measured = _with_interval(
        lambda counts: _srcc_of_means(methods.means(pred, counts), methods.means(mos, counts)),
        Resamples(len(names), resamples, seed), len(names), _CORRELATION, note,
    )  # fmt: skip
    row = (SYSTEM_SRCC, *measured, len(methods.names))
    return pd.DataFrame([row], columns=["metric", "value", "low", "high", "note", "n"])


def method_table(rows: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Compute mean MOS and mean prediction of each method, over the images that have a method and a prediction.

    Args:
        rows: Columns scene, method, dimension, mos and prediction.
        resamples: Number of bootstrap draws of scenes.
        seed: Seed of the bootstrap.

    Returns:
        One row for each dimension and method, the highest mean MOS first: dimension, method, n (images), scenes,
        the mean MOS with low and high, the mean prediction with low and high, and ranks by either mean, 1 for the highest.
    """
    tables = []
    for dimension in dict.fromkeys(rows["dimension"]):
        images = rows[(rows["dimension"] == dimension) & rows["prediction"].notna() & (rows["method"] != "")]
        names, scene = np.unique(images["scene"].to_numpy(str), return_inverse=True)
        methods = _Methods(images["method"].to_numpy(str), scene, len(names))
        draws = Resamples(len(names), resamples, seed)
        table = pd.DataFrame({"dimension": dimension, "method": methods.names, "n": methods.sizes.sum(0).astype(int)})
        table["scenes"] = (methods.sizes > 0).sum(0)
        for column in ("mos", "prediction"):
            values = images[column].to_numpy(float)
            table[column] = methods.means(values, np.ones((1, len(names))))[0]
            samples = methods.means(values, draws.counts).T
            ends = [draws.interval(*row)[:2] for row in zip(table[column], samples, table["scenes"], strict=True)]
            table[[f"{column}_low", f"{column}_high"]] = np.array(ends).reshape(-1, 2)
        for column, name in (("mos", "rank_people"), ("prediction", "rank_network")):
            table[name] = table[column].rank(ascending=False)
        tables.append(table.sort_values(["rank_people", "method"]))
    return pd.concat(tables, ignore_index=True)


# Tables


def evaluate(
    rows: pd.DataFrame, notes: Mapping[str, str], resamples: int = 1000, seed: int = 0, subset: str = ""
) -> pd.DataFrame:
    """Measure the agreement of the network and of the method means, by dimension, on the images that have a prediction.

    Args:
        rows: Columns scene, method, dimension, mos, prediction, noise (standard error of the MOS), and the columns of
            :func:`method_means`.
        notes: Note for every row of the network, by dimension.
        resamples: Number of bootstrap draws of scenes.
        seed: Seed of the bootstrap.
        subset: Beginning of the note of every row.

    Returns:
        Columns dimension, metric, value, low, high, n, predictor, scenes and note. n counts images; for
        :data:`PAIR_METRICS` it counts pairs, for the system SRCC methods.
    """
    tables = []
    for dimension in dict.fromkeys(rows["dimension"]):
        rated = rows[rows["dimension"] == dimension]
        scored = rated[rated["prediction"].notna()]
        without_score = _left_out(len(rated) - len(scored), "a score")
        note = "; ".join(filter(None, (notes.get(dimension, ""), without_score)))
        predictors: list[tuple[str, pd.DataFrame, tuple[str, ...], str]] = [(NETWORK, scored, NETWORK_COLUMNS, note)]
        if len(set(rated["method"]) - {""}) > 1:
            with_mean = scored[scored["mean"].notna()]
            without_mean = _left_out(len(scored) - len(with_mean), "a method that other scenes have")
            note = "; ".join(filter(None, (without_score, without_mean)))
            predictors.append((METHOD_MEAN, with_mean, METHOD_COLUMNS, note))
        for predictor, images, predictor_columns, note in predictors:
            measured = _measured(images, Predictor.of(images, predictor_columns), resamples, seed)
            if predictor == METHOD_MEAN:
                measured.loc[measured["metric"] == SYSTEM_SRCC, "note"] += "; near 1 by construction"
            measured["note"] = ["; ".join(filter(None, (subset, note, of_metric))) for of_metric in measured["note"]]
            tables.append(measured.assign(dimension=dimension, predictor=predictor, scenes=images["scene"].nunique()))
    columns = ["dimension", "metric", "value", "low", "high", "n", "predictor", "scenes", "note"]
    return pd.concat(tables, ignore_index=True)[columns]


def _measured(images: pd.DataFrame, predictor: Predictor, resamples: int, seed: int) -> pd.DataFrame:
    mos, noise = images["mos"].to_numpy(float), images["noise"].to_numpy(float)
    scenes, method = images["scene"].to_numpy(str), images["method"].to_numpy(str)
    tables = [
        measure_agreement(predictor.value, mos, scenes, resamples, seed, predictor.order).assign(n=len(mos)),
        pair_agreement(predictor.step, mos, scenes, noise, resamples, seed),
        system_agreement(predictor.value, mos, method, scenes, resamples, seed),
    ]
    return pd.concat(tables, ignore_index=True)


def _left_out(count: int, what: str) -> str:
    return f"{amount(count, 'image')} without {what} left out" if count else ""


def compact(metrics: pd.DataFrame, published: float | None = None) -> pd.DataFrame:
    """Format the measures of :data:`METRICS` as text, one row for each dimension and predictor.

    Args:
        metrics: Result of :func:`evaluate`.
        published: Published SRCC to show beside each SRCC, or None.
    """
    lines = []
    of_images = metrics[metrics["metric"].isin(METRICS)]
    for (dimension, predictor), group in of_images.groupby(["dimension", "predictor"], sort=False):
        line = {"dimension": dimension, "predictor": predictor, "n": str(group["n"].iloc[0])}
        line["scenes"] = str(group["scenes"].iloc[0])
        for row in group.to_dict("records"):
            with_interval = row["metric"] in _WITH_INTERVAL
            line[row["metric"]] = shown(row["value"], *((row["low"], row["high"]) if with_interval else ()))
            if row["metric"] == "SRCC" and published is not None:
                line["published SRCC"] = f"{published:.4f}"
        lines.append(line)
    return pd.DataFrame(lines)


def compact_pairs(metrics: pd.DataFrame) -> pd.DataFrame:
    """Format the measures of pairs and methods as text, one row for each dimension and predictor of :func:`evaluate`."""
    lines = []
    for (dimension, predictor), group in metrics.groupby(["dimension", "predictor"], sort=False):
        rows = group.set_index("metric")
        line = {"dimension": dimension, "predictor": predictor, "pairs": str(rows.loc["AUC different", "n"])}
        line["clear"] = str(rows.loc["pairwise accuracy", "n"])
        line |= {metric: shown(*rows.loc[metric, ["value", "low", "high"]]) for metric in PAIR_METRICS}
        line["methods"] = str(rows.loc[SYSTEM_SRCC, "n"])
        lines.append(line | {SYSTEM_SRCC: shown(*rows.loc[SYSTEM_SRCC, ["value", "low", "high"]])})
    return pd.DataFrame(lines)


def compact_methods(table: pd.DataFrame) -> pd.DataFrame:
    """Format the result of :func:`method_table` as text."""
    lines = []
    for row in table.to_dict("records"):
        line = {"dimension": row["dimension"], "method": row["method"], "n": str(row["n"]), "scenes": str(row["scenes"])}
        line |= {what: shown(row[what], row[f"{what}_low"], row[f"{what}_high"]) for what in ("mos", "prediction")}
        lines.append(line | {"rank by people": f"{row['rank_people']:g}", "by network": f"{row['rank_network']:g}"})
    return pd.DataFrame(lines).rename(columns={"mos": "MOS"})


def notes_of(metrics: pd.DataFrame, subset: str = "") -> list[str]:
    """Return every note of :func:`evaluate`, with its dimension, predictors and measures.

    Notes that repeat ``subset`` (it is in the title) or tell what n counts (the columns do) are left out.
    """
    measures = metrics["metric"].nunique()
    places: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in metrics.to_dict("records"):
        for note in row["note"].split("; "):
            if note and note != subset and not note.startswith("n counts"):
                places.setdefault((row["dimension"], note), {}).setdefault(row["predictor"], []).append(row["metric"])
    lines = []
    for (dimension, note), by_predictor in places.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for predictor, metrics_of in by_predictor.items():
            alike.setdefault(tuple(metrics_of), []).append(predictor)
        for names, predictors in alike.items():
            where = "" if len(names) == measures else ", " + ", ".join(names)
            lines.append(f"{dimension}, {' and '.join(predictors)}{where}: {note}")
    return lines


def as_text(table: pd.DataFrame) -> str:
    """Format a table with aligned columns, for the console."""
    cells = [list(table.columns), *table.to_numpy().tolist()]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def as_markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def as_latex(table: pd.DataFrame) -> str:
    """Format a table as a LaTeX ``tabular``, which needs the package booktabs."""
    columns = "ll" + "r" * (len(table.columns) - 2)
    cells = [list(table.columns), *table.to_numpy().tolist()]
    header, *body = (" & ".join(re.sub(r"([&%$#_])", r"\\\1", cell) for cell in row) + " \\\\\n" for row in cells)
    rules = "\\toprule\n" + header + "\\midrule\n" + "".join(body) + "\\bottomrule\n"
    return f"\\begin{{tabular}}{{{columns}}}\n{rules}\\end{{tabular}}\n"


def shown(value: float, low: float = np.nan, high: float = np.nan) -> str:
    """Format a value with three decimals, and with its interval if there is one."""
    if not np.isfinite(value):
        return "n/a"
    text = _three_decimals(value)
    return f"{text} [{_three_decimals(low)}, {_three_decimals(high)}]" if np.isfinite(low) else text


def _three_decimals(value: float) -> str:
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text

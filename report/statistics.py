"""What the report says in numbers: methods against each other, distributions, people against prediction, percentiles.

The charts are geometry only; the template draws them.
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluation.agreement import MIN_SCENES, logistic_fit, measure_agreement, method_table
from utils.choices import METHOD_BIAS
from utils.scenes import ORIGINALS

RESAMPLES, _SEED = 2000, 0
_NORMAL_95 = 1.959963984540054  # half-width of a 95 % interval in standard deviations
_NO_MEAN = {"mean": math.nan, "low": math.nan, "high": math.nan, "scenes": 0}
_MOST_PAIRS = 45  # on the page, those of 10 methods; the files have all
_CURVE_POINTS = 120
_MATRIX_METHODS = 30


def statistics(frame: pd.DataFrame, dimensions: Sequence[str]) -> dict[str, Any]:
    """Return all that the page says of more than one image.

    Args:
        frame: A row per image: scores, ``scene``, ``method``, ``error``, ``left_out`` (of :func:`gray_originals`) and, where
            known, ratings ``mos_PR`` and so on.
        dimensions: The scores, the main one first.
    """
    scored = frame[frame["error"] == ""]
    counted = scored[~scored["left_out"]]
    biases = read_biases()
    board = leaderboard(counted, dimensions, biases)
    pairs = compared_pairs(board, dimensions[0])
    judged = [row for row in differences(board, dimensions) if any(c["verdict"] is not None for c in row[2].values())]
    show_matrix = pairs["compared"] and len(board) <= _MATRIX_METHODS  # a larger one cannot be read
    return {
        "dimensions": dimensions,
        "rated": [dimension for dimension in dimensions if f"mos_{dimension}" in frame],
        "methods": sorted(set(frame["method"])),
        "scenes": [scene for scene, size in sorted(frame["scene"].value_counts().items()) if size > 1],
        "originals": {method for method in frame["method"] if is_original(method)},
        "gray_originals": int(scored["left_out"].sum()),
        "board": board,
        "answers": [answer(board, dimension, dimensions) for dimension in dimensions],
        "pairs": pairs,
        "differences": judged if len(judged) <= _MOST_PAIRS else [],
        "matrices": [matrix(board, dimension) for dimension in dimensions] if show_matrix else [],
        "distributions": [distribution(counted, board, dimension) for dimension in dimensions],
        "scatters": [plot for dimension in dimensions if (plot := scatter(scored, dimension))],
        "biases": {dimension: biases[dimension] for dimension in dimensions},
        "resamples": RESAMPLES,
        "min_scenes": MIN_SCENES,
    }


# --- methods against each other


def is_original(method: str) -> bool:
    """Whether a method is the photographs themselves, to go by its name."""
    return method.casefold() in ORIGINALS


def gray_originals(frame: pd.DataFrame) -> pd.Series:
    """Whether each image is a gray original: what color its scene had is not known, and no mean should count it."""
    return frame["gray"].astype(bool) & frame["method"].map(is_original)


def read_biases(path: str | Path = METHOD_BIAS) -> dict[str, Any]:
    """Read what scores have for or against a method, whatever the scene, as benchmarks/power.py estimates it on rated images.

    Returns:
        By dimension ``sd``, the standard deviation of the bias of a pair of methods, in the unit of the scores, with ``low``
        and ``high``, and the number of ``methods`` and ``scenes``.
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def leaderboard(
    scored: pd.DataFrame, dimensions: Sequence[str], biases: Mapping[str, Mapping[str, float]] | None = None
) -> list[dict[str, Any]]:
    """Return methods from the best to the worst by the first dimension, then the originals.

    Args:
        scored: Images with scores.
        dimensions: Columns of ``scored``.
        biases: Of :func:`read_biases`: a random effect of each pair of methods, which more scenes do not average out. None for
            the shipped ones.

    Returns:
        For each: ``method``, ``original``, ``images``, ``scenes``, and by dimension ``mean``, ``low`` and ``high`` (95 %
        interval of a bootstrap t over scenes; NaN with few scenes) and ``against``: by other method the mean difference over
        the scenes that both have, its interval, which counts the bias as well, the verdict 1 (better), -1 (worse), 0 (not told
        apart) or None (too few scenes), and the ``share`` of scenes in which it is higher (equal scores count one half).
    """
    methods = sorted(set(scored["method"]))
    counts = scored.groupby("method").agg(images=("image", "size"), scenes=("scene", "nunique"))
    board = {
        m: {"method": m, "original": is_original(m), "images": counts.loc[m, "images"], "scenes": counts.loc[m, "scenes"]}
        for m in methods
    }
    biases = read_biases() if biases is None else biases
    for dimension in dimensions:
        known = scored[scored[dimension].notna()]
        means = _means(known[["scene", "method"]].assign(prediction=known[dimension]))
        against = _differences(known, dimension, methods, _NORMAL_95 * biases.get(dimension, {}).get("sd", 0.0))
        for method, entry in board.items():
            verdicts = [other["verdict"] for other in against[method].values()]
            entry[dimension] = means.get(method, _NO_MEAN) | {
                "against": against[method],
                "better": verdicts.count(1),
                "worse": verdicts.count(-1),
                "compared": sum(verdict is not None for verdict in verdicts),
            }
    return ranked(board.values(), dimensions[0])


def ranked(board: Iterable[dict[str, Any]], dimension: str) -> list[dict[str, Any]]:
    """Return methods from the highest mean of a dimension to the lowest, then the originals."""

    def place(entry: dict[str, Any]) -> tuple[Any, ...]:
        mean = entry[dimension]["mean"]
        return entry["original"], not math.isfinite(mean), -mean if math.isfinite(mean) else 0.0, entry["method"]

    return sorted(board, key=place)


def _means(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return mean, interval and number of scenes by method, of the columns scene, method and prediction.

    Only the scenes of a method are drawn for its interval, so methods go together by their number of scenes.
    """
    number = rows.groupby("method")["scene"].transform(lambda scenes: pd.factorize(scenes, sort=True)[0])
    rows = rows.assign(dimension="", mos=math.nan, scene=[f"{k:09d}" for k in number])
    found: dict[str, dict[str, float]] = {}
    for _, alike in rows.groupby(number.groupby(rows["method"]).transform("max")):
        table = method_table(alike, RESAMPLES, _SEED).set_index("method")
        table = table[["prediction", "prediction_low", "prediction_high", "scenes"]]
        found |= table.set_axis(list(_NO_MEAN), axis=1).to_dict("index")
    return found


def _differences(
    known: pd.DataFrame, dimension: str, methods: Sequence[str], bias: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the comparison of each method with each other one, as :func:`leaderboard` gives it.

    Args:
        known: Images with a score in the dimension.
        dimension: Column of ``known``.
        methods: All methods.
        bias: Half-width of the 95 % interval that comes from the bias of the score.
    """
    by_scene = known.groupby(["scene", "method"])[dimension].mean().unstack().reindex(columns=methods)
    pairs = {f"{number}": pair for number, pair in enumerate(itertools.combinations(methods, 2))}
    differences = [(by_scene[a] - by_scene[b]).dropna().rename("prediction").to_frame().assign(method=key)
                   for key, (a, b) in pairs.items()]  # fmt: skip
    shares = {key: float(np.mean((1 + np.sign(steps["prediction"])) / 2)) if len(steps) else math.nan
              for key, steps in zip(pairs, differences, strict=True)}  # fmt: skip
    means = _means(pd.concat(differences).reset_index(names="scene")) if differences else {}
    against: dict[str, dict[str, dict[str, Any]]] = {method: {} for method in methods}
    for key, (a, b) in pairs.items():
        mean, low, high, scenes = means.get(key, _NO_MEAN).values()
        low, high = mean - math.hypot(mean - low, bias), mean + math.hypot(high - mean, bias)
        verdict = None if math.isnan(low) else int(low > 0) - int(high < 0)
        against[a][b] = {"mean": mean, "low": low, "high": high, "scenes": scenes, "verdict": verdict, "share": shares[key]}
        against[b][a] = {"mean": -mean, "low": -high, "high": -low, "scenes": scenes, "share": 1 - shares[key]}
        against[b][a]["verdict"] = None if verdict is None else -verdict
    return against


def answer(board: Sequence[dict[str, Any]], dimension: str, dimensions: Sequence[str]) -> dict[str, Any]:
    """Return which method is the best by one score, how far the others are below it, and whether other scores agree.

    Args:
        board: Of :func:`leaderboard`.
        dimension: The score.
        dimensions: All scores.

    Returns:
        ``rows``: methods in their order with ``gap``, the comparison of the first with each (None for itself); ``first``;
        ``beaten``, ``alike``, ``above`` and ``unjudged``: methods that are below the first, not told apart from it, above it
        on the scenes that both have, or share too few with it, without the originals; ``reach``, the farthest end of an
        interval of a gap; and ``others``: scores that order the methods otherwise, with their order and the number of pairs
        that both scores tell apart in opposite ways.
    """
    order = ranked(board, dimension)
    first = order[0] if order else None
    rows = [(entry, first[dimension]["against"].get(entry["method"])) for entry in order] if first else []
    groups: dict[int | None, list[str]] = {1: [], 0: [], -1: [], None: []}
    for entry, gap in rows:
        if gap is not None and not entry["original"]:
            groups[gap["verdict"]].append(entry["method"])
    ends = [abs(gap[end]) for _, gap in rows if gap for end in ("low", "high") if math.isfinite(gap[end])]
    others = []
    for other in dimensions:
        known = [e["method"] for e in ranked(board, other) if not e["original"] and math.isfinite(e[other]["mean"])]
        mine = [e["method"] for e in order if not e["original"] and e["method"] in known]
        if known != mine:
            opposite = sum(
                (e[dimension]["against"][m]["verdict"] or 0) * (e[other]["against"][m]["verdict"] or 0) < 0
                for e in board
                for m in known
                if m != e["method"] and not e["original"]
            )
            others.append({"dimension": other, "order": known, "opposite": opposite // 2})
    return {
        "dimension": dimension,
        "first": first,
        "rows": rows,
        "beaten": groups[1],
        "alike": groups[0],
        "above": groups[-1],
        "unjudged": groups[None],
        "reach": max(ends, default=1.0),
        "others": others,
    }


def differences(board: Sequence[dict[str, Any]], dimensions: Sequence[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return each two methods, the one that comes first on the board before the other, and by dimension how they compare."""
    return [
        (a["method"], b["method"], {dimension: a[dimension]["against"][b["method"]] for dimension in dimensions})
        for a, b in itertools.combinations(board, 2)
    ]


def most_shared(board: Sequence[dict[str, Any]], dimension: str) -> list[str]:
    """Return the two methods that share most scenes, the first ones on the board of those; empty if no two share one."""
    rows = [(found[dimension]["scenes"], a, b) for a, b, found in differences(board, [dimension])]
    most = max((scenes for scenes, _, _ in rows), default=0)
    return next(([a, b] for scenes, a, b in rows if scenes == most > 0), [])


def matrix(board: Sequence[dict[str, Any]], dimension: str) -> dict[str, Any]:
    """Every method against every other, in the order of the leaderboard."""
    names = [entry["method"] for entry in board]
    rows = [(entry["method"], [entry[dimension]["against"].get(name) for name in names]) for entry in board]
    return {"dimension": dimension, "methods": names, "rows": rows}


def compared_pairs(board: Sequence[dict[str, Any]], dimension: str) -> dict[str, int]:
    """How many pairs of methods were compared, and told apart."""
    verdicts = [entry[dimension] for entry in board]
    return {
        "all": len(board) * (len(board) - 1) // 2,
        "compared": sum(entry["compared"] for entry in verdicts) // 2,
        "apart": sum(entry["better"] for entry in verdicts),
    }


# --- charts


def distribution(scored: pd.DataFrame, board: Sequence[dict[str, Any]], dimension: str) -> dict[str, Any]:
    """Quartiles, whiskers and single scores of each method, on an axis of 0 to 100 that all methods share."""
    values = scored[dimension].dropna()
    low, high = (math.floor(values.min() * 10) / 10, math.ceil(values.max() * 10) / 10) if len(values) else (-1.0, 1.0)
    high = max(high, low + 0.1)
    rows = []
    for entry in board:
        own = np.sort(values[scored["method"] == entry["method"]].to_numpy())
        if len(own):
            place = [round(float(x), 1) for x in (np.percentile(own, (5, 25, 50, 75, 95)) - low) / (high - low) * 100]
            ticks = dict.fromkeys(f"{x:.1f}" for x in (own - low) / (high - low) * 100)
            rows.append({"method": entry["method"], "median": float(np.median(own)), "place": place, "ticks": list(ticks)})
    zero = -low / (high - low) * 100
    return {"dimension": dimension, "low": low, "high": high, "zero": zero if 0 < zero < 100 else None, "rows": rows}


def scatter(scored: pd.DataFrame, dimension: str) -> dict[str, Any] | None:
    """MOS against prediction with the fitted curve, in a square of 300; None without ratings."""
    column = f"mos_{dimension}"
    if column not in scored:
        return None
    rows = scored[scored[column].notna() & scored[dimension].notna()]
    if rows.empty:
        return None
    pred, mos = rows[dimension].to_numpy(float), rows[column].to_numpy(float)
    low = math.floor(min(pred.min(), mos.min()) * 5) / 5
    high = max(math.ceil(max(pred.max(), mos.max()) * 5) / 5, low + 0.2)

    def place(values: np.ndarray) -> list[float]:
        return [round(float(x), 1) for x in (values - low) / (high - low) * 300]

    grid = np.linspace(pred.min(), pred.max(), _CURVE_POINTS)
    mapped, why_not = logistic_fit(pred, mos, grid)
    curve = [] if why_not else list(zip(place(grid), place(mapped), strict=True))
    measured = measure_agreement(pred, mos, rows["scene"].to_numpy(str)).set_index("metric")
    step = 0.5 if high - low > 1.2 else 0.2
    steps = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
    return {
        "dimension": dimension,
        "count": len(rows),
        "points": list(zip(place(pred), place(mos), rows["image"], pred, mos, strict=True)),
        "curve": curve,
        "why_not": why_not,
        "axis": list(zip(steps.tolist(), place(steps), strict=True)),
        "measures": [
            (name, measured.loc[name, "value"], measured.loc[name, "low"], measured.loc[name, "high"])
            for name in ("SRCC", "within-scene SRCC", "PLCC logistic")
            if math.isfinite(measured.loc[name, "value"])
        ],
    }


# --- percentiles among photographs


def percentile(score: float, values: Sequence[float], levels: Sequence[int]) -> str:
    """Which share of the photographs scores lower, in percent."""
    if not math.isfinite(score):
        return ""
    if score < values[0]:
        return f"<{levels[0]}"
    return f">{levels[-1]}" if score > values[-1] else f"{np.interp(score, values, levels):.0f}"

"""MOS from ratings and choices: reading files, MOS with reliability, and HECD's published z-scores from its raw ratings.

The command is tools/compute_mos.py. Methods, columns, references: docs/mos.md. The statistics are in evaluation/ratings.py.
"""

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from data.hecd import HECD_URL, MOS_PER_Z, find_ratings
from evaluation.ratings import (
    Recovery,
    icc,
    icc_oneway,
    krippendorff_alpha,
    mean_opinions,
    recover,
    screen_bt500,
    screen_p910,
    split_half,
    zscores,
)
from utils.choices import P910_CORRELATION
from utils.metrics import correlations
from utils.names import amount
from utils.tables import csv_rows, finite_number, separator_hint

HECD_RELIABILITY = 0.85  # stated for HECD, without naming the statistic
HECD_RAW = "clean_raw_data.csv"
_HECD_SCENES = 20
_STEM = re.compile(r"(?P<method>.+)_(?P<scene>\d+)")  # of a file name


def read_ratings(
    path: Path,
    rater: str = "rater",
    image: str = "image",
    score: str = "score",
    session: str | None = None,
    score_range: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Read the ratings of a CSV file.

    Args:
        path: CSV file, UTF-8, comma separated, with a header; other columns are ignored.
        rater: Column of the rater's name.
        image: Column of the image.
        score: Column of the score.
        session: Column of the session. None takes ``session`` if there is such a column.
        score_range: Lowest and highest possible score; None for any.

    Returns:
        One row per rating, in the order of the file: rater, image, score, session ("" without one).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read as described; the error names the line.
    """
    header, rows = csv_rows(path, "rating")
    require_columns(
        header, (rater, image, score, *([session] if session else [])), path, "--rater, --image, --score, --session"
    )
    if session is None and "session" in header and "session" not in (rater, image, score):
        session = "session"
    records: list[tuple[str, str, float, str]] = []
    first: dict[tuple[str, str, str], int] = {}
    for line, row in rows:
        key = (row[rater], row[image], row[session] if session else "")
        for name, cell in zip((rater, image, session), key, strict=True):
            if name and not cell:
                raise ValueError(f"{path}, line {line}: the cell {name} is empty")
        value = finite_number(row[score], f"{path}, line {line}: {score} is")
        if score_range and not score_range[0] <= value <= score_range[1]:
            raise ValueError(f"{path}, line {line}: {score} {value:g} is outside --range {score_range[0]:g} {score_range[1]:g}")
        if key in first:
            once = "in one session" if session else "once; if there were sessions, give them a column"
            raise ValueError(
                f"{path}, line {line}: rater {key[0]} rates {key[1]} again, as in line {first[key]}; expected each image {once}"
            )
        first[key] = line
        records.append((key[0], key[1], value, key[2]))
    frame = pd.DataFrame(records, columns=["rater", "image", "score", "session"])
    if frame["rater"].nunique() < 2:
        raise ValueError(f"{path} has one rater, {frame['rater'].iloc[0]}; a mean opinion needs at least two")
    if frame["score"].nunique() < 2:
        raise ValueError(
            f"{path}: all {len(frame)} scores are {frame['score'].iloc[0]:g}; there is nothing to tell images apart"
        )
    return frame


def read_places(
    path: Path, images: list[str], image: str | None = None, scene: str | None = None, method: str | None = None
) -> pd.DataFrame:
    """Return scene and method of the images in a file of ratings, as columns by image.

    Args:
        path: File of ratings.
        images: Images of the file.
        image: Column of the image; None for a file of choices, whose scenes and methods come from names only.
        scene: Column of the scene. None takes ``scene`` if there is such a column, or else the digits of names such as
            CIC_000123.jpg, if all images have such names.
        method: Column of the method. None takes ``method``, or else the part of the name before these digits.

    Returns:
        Columns scene and method, indexed by image; a column that is not known is absent.

    Raises:
        ValueError: If an image has two scenes, no scene, or two methods; the error names the line.
    """
    header, rows = csv_rows(path, "rating")
    columns = {"scene": scene, "method": method}
    require_columns(header, tuple(filter(None, columns.values())), path, "--scene, --method-column")
    parsed = [match for name in images if (match := _STEM.fullmatch(PurePosixPath(name.replace("\\", "/")).stem))]
    places = {name: [match[name] for match in parsed] for name in columns} if len(parsed) == len(images) else {}
    for name, column in columns.items():
        if image is None or (column or name) not in header or (column or name) == image:
            continue
        values: dict[str, str] = {}
        for line, row in rows:
            cell = row[column or name]
            if values.setdefault(row[image], cell) != cell or (name == "scene" and not cell):
                expected = f"expected one {name} per image"
                raise ValueError(f"{path}, line {line}: {column or name} of {row[image]} is {cell!r}, {expected}")
        places[name] = [values[name] for name in images]
    return pd.DataFrame({name: places[name] for name in columns if name in places}, index=pd.Index(images))


def read_pairs(path: Path) -> tuple[list[str], np.ndarray, int]:
    """Read the choices of a CSV file with the columns winner, loser and, if there were ties, tie.

    Returns:
        Names of the N images, sorted; how often the row was preferred to the column, shape (N, N), where a tie counts one half
        for each image; and the number of ties.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read as described; the error names the line.
    """
    header, rows = csv_rows(path, "choice")
    require_columns(header, ("winner", "loser"), path, "winner, loser and, if there were ties, tie")
    choices = []
    for line, row in rows:
        text = row.get("tie", "") or "0"
        if text not in ("0", "1"):
            raise ValueError(f"{path}, line {line}: tie is {text!r}, expected 1 for a tie, 0 or nothing for none")
        if not row["winner"] or not row["loser"]:
            raise ValueError(f"{path}, line {line}: expected two images, got {row['winner']!r} and {row['loser']!r}")
        if row["winner"] == row["loser"]:
            raise ValueError(f"{path}, line {line}: {row['winner']} is compared with itself")
        choices.append((row["winner"], row["loser"], text == "1"))
    names = sorted({name for choice in choices for name in choice[:2]})
    index = {name: number for number, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for winner, loser, tie in choices:
        wins[index[winner], index[loser]] += 0.5 if tie else 1.0
        wins[index[loser], index[winner]] += 0.5 if tie else 0.0
    return names, wins, sum(tie for *_, tie in choices)


def compute_mos(
    ratings: pd.DataFrame,
    method: str = "zscore",
    screening: str = "none",
    score_range: tuple[float, float] | None = None,
    least_correlation: float = P910_CORRELATION,
    seed: int = 0,
    least_of_methods: float | None = None,
    methods: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Compute MOS in [-1, 1] with 95 % intervals, a table of the raters, and the reliability.

    Args:
        ratings: Columns rater, image, score, session, from :func:`read_ratings`.
        method: "zscore", "raw" or "mle".
        screening: "none", "bt500" or "p910".
        score_range: Lowest and highest possible score, mapped to -1 and 1 by "raw" and "mle", which need it.
        least_correlation: Correlation with the MOS below which "p910" rejects a rater.
        seed: Seed of the random halves.
        least_of_methods: Second criterion of "p910", on the means of methods; None for none.
        methods: Method of each image, needed by the second criterion.

    Returns:
        Table with image, mos, low, high, n, std, se (standard error of the MOS, NaN for one rating); table with rater, n, bias,
        inconsistency, screened; and the result of :func:`reliability`.

    Raises:
        ValueError: If screening leaves fewer than two raters, or the method cannot be applied.
    """
    once = _one_per_rater(ratings)
    screened: dict[str, str] = {}
    if screening == "bt500":
        screened = screen_bt500(once)
    elif screening == "p910":
        by_method = once if methods is None else once.assign(method=once["image"].map(methods))
        screened = screen_p910(by_method, least_correlation, least_of_methods)
    values = _standard_scores(ratings, screened) if method == "zscore" else once
    if method == "mle":
        n = once.groupby("rater").size()
        for rater in n.index[n < 2]:
            screened.setdefault(rater, "one rating: bias and inconsistency cannot be told")
    kept = values[~values["rater"].isin(list(screened))].reset_index(drop=True)
    if kept["rater"].nunique() < 2:
        first = next(iter(screened.items()))
        raise ValueError(
            f"{len(screened)} of {ratings['rater'].nunique()} raters are left out, which leaves fewer than two: e.g. "
            f"{first[0]} ({first[1]}); use another screening or method"
        )
    modelled = once[~once["rater"].isin(list(screened))]
    modelled = modelled[modelled.groupby("rater")["score"].transform("size") > 1]
    recovery = recover(modelled) if len(modelled) else None
    frame = _in_unit_range(kept, method, score_range, recovery)
    return frame.reset_index(), _raters(once, recovery, screened), reliability(kept, seed)


def _standard_scores(ratings: pd.DataFrame, screened: dict[str, str]) -> pd.DataFrame:
    """Return z-scores, one per rater and image; add raters without any to ``screened``."""
    standard = ratings.assign(score=zscores(ratings, ("rater", "session"))).dropna(subset="score")
    for rater in sorted(set(ratings["rater"]) - set(standard["rater"])):
        screened.setdefault(rater, "all scores are equal: no z-score")
    lost = ratings.drop(standard.index)
    lost = lost[~lost["rater"].isin(list(screened))].drop_duplicates(["rater", "session"])
    if len(lost):
        warnings.warn(
            f"left out: {amount(len(lost), 'session')} without z-scores, for all scores in it are equal, e.g. session "
            f"{lost['session'].iloc[0]} of rater {lost['rater'].iloc[0]}",
            stacklevel=3,
        )
    return _one_per_rater(standard)


def _in_unit_range(
    kept: pd.DataFrame, method: str, score_range: tuple[float, float] | None, recovery: Recovery | None
) -> pd.DataFrame:
    """Return mos, low, high, n, std and se by image, in [-1, 1].

    Args:
        kept: One score per rater and image: z-scores, or scores in ``score_range``.
        method: "zscore", "raw" or "mle".
        score_range: Range of the scores; None for z-scores.
        recovery: Result of :func:`evaluation.ratings.recover`, needed by "mle".
    """
    if method == "mle":
        assert recovery is not None  # two raters with two ratings or more are left
        frame = mean_opinions(kept.assign(score=kept["score"] - kept["rater"].map(recovery.raters["bias"])))
        quality, half = recovery.images["quality"], recovery.images["half"]
        frame = frame.assign(mos=quality, low=quality - half, high=quality + half)
    else:
        frame = mean_opinions(kept)
    slope, offset = MOS_PER_Z, 0.0
    if method != "zscore":
        if score_range is None:
            raise ValueError(f"method {method} needs score_range, the lowest and the highest score that could be given")
        low, high = score_range
        slope, offset = 2 / (high - low), -(high + low) / (high - low)
    for column in ("mos", "low", "high"):
        frame[column] = (slope * frame[column] + offset).clip(-1.0, 1.0)
    frame["std"] *= slope
    frame["se"] = frame["std"] / np.sqrt(frame["n"])
    if method == "mle" and recovery is not None:
        frame["se"] = slope * recovery.images["error"]
    return frame


def reliability(table: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Measure how well raters agree: split halves, intraclass correlation, Krippendorff's alpha."""
    matrix = table.pivot(index="image", columns="rater", values="score").to_numpy()
    complete = min(matrix.shape) > 1 and not np.isnan(matrix).any()
    return {
        "raters": table["rater"].nunique(),
        "images": table["image"].nunique(),
        "ratings": len(table),
        "split_half": split_half(table, seed=seed),
        "icc": icc(matrix) if complete else icc_oneway(table),
        "krippendorff_alpha": krippendorff_alpha(table),
    }


def read_hecd(root: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Read the raw trials and the published z-scores of HECD.

    Returns:
        One row per trial: rater, survey, scene, image (the recoloring), recoloring and original (their scores, 1 to 5);
        and the published mean z-score by image, including the originals.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not as published.
    """
    published = find_ratings(root) if root.is_dir() else None
    raw = published.with_name(HECD_RAW) if published else root / HECD_RAW
    if published is None or not raw.is_file():
        raise FileNotFoundError(
            f"no mean_zscores.csv with {HECD_RAW} beside it in {root} or below; fetch HECD with: python data/hecd.py {root} "
            f"(source: {HECD_URL})"
        )
    header, rows = csv_rows(raw, "trial")
    require_columns(
        header, ("ID", "SurNum", "File1", "Score1", "File2", "Score2"), raw, "ID, SurNum, File1, Score1, File2, Score2"
    )
    trials = []
    for line, row in rows:
        first, second = (
            (row[f"File{side}"], finite_number(row[f"Score{side}"], f"{raw}, line {line}: Score{side} is")) for side in "12"
        )
        if first[0].endswith("_gt.jpg"):
            first, second = second, first
        if first[0].endswith("_gt.jpg") or not second[0].endswith("_gt.jpg"):
            raise ValueError(f"{raw}, line {line}: expected one original (_gt.jpg) and a recoloring, got {row}")
        trials.append((row["ID"], row["SurNum"], second[0].removesuffix("_gt.jpg"), first[0], first[1], second[1]))
    header, rows = csv_rows(published, "image")
    require_columns(header, ("Recolour File", "Mean zScore"), published, "Recolour File, Mean zScore")
    z = {
        row["Recolour File"]: finite_number(row["Mean zScore"], f"{published}, line {line}: Mean zScore is")
        for line, row in rows
    }
    frame = pd.DataFrame(trials, columns=["rater", "survey", "scene", "image", "recoloring", "original"])
    absent = sorted(set(frame["image"]) - set(z))
    if absent:
        raise ValueError(f"{published} has no z-score of {len(absent)} images rated in {raw}, e.g. {absent[0]}")
    return frame, pd.Series(z)


def hecd_noise(root: Path) -> pd.DataFrame:
    """Compute the standard errors of HECD's MOS by the procedure of docs/mos.md.

    Returns:
        By file name of each recoloring: ``se``, the standard error of its MOS, in the unit of the MOS, and ``n``, the number
        of its raters. Originals, which were shown with every recoloring, have no row.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not as published.
    """
    trials, _ = read_hecd(root)
    differences = trials.assign(score=trials["recoloring"] - trials["original"])
    rated = mean_opinions(differences.assign(score=zscores(differences)).dropna(subset="score"))
    return pd.DataFrame({"se": MOS_PER_Z * rated["std"] / np.sqrt(rated["n"]), "n": rated["n"]})


def hecd_proof(root: Path, seed: int = 0) -> str:
    """Return a text that compares HECD's published z-scores with its raw ratings and states their reliability."""
    trials, published = read_hecd(root)
    both = pd.concat(
        [
            trials.assign(score=trials["recoloring"], is_recoloring=True),
            trials.assign(score=trials["original"], is_recoloring=False),
        ],
        ignore_index=True,
    )
    pooled = both.assign(score=zscores(both))[both["is_recoloring"]]
    recoloring = trials.assign(score=trials["recoloring"])
    difference = trials.assign(score=trials["recoloring"] - trials["original"])
    standard = difference.assign(score=zscores(difference)).dropna(subset="score")
    ours = standard.groupby("image")["score"].mean()
    groups = difference.groupby("rater")["score"]
    no_difference = (-groups.mean() / groups.std(ddof=0).replace(0.0, np.nan)).mean()
    original = published[published.index.str.endswith("_gt.jpg")].mean()
    n_scenes, n_raters = trials["scene"].nunique(), trials["rater"].nunique()

    lines = [
        f"HECD: {n_raters} raters, {len(trials)} trials, {len(ours)} recolorings of {n_scenes} of the {_HECD_SCENES} scenes",
        "",
        f"{'agreement with mean_zscores.csv, by what is averaged':<60}  SRCC   PLCC   RMSE",
    ]
    for name, value in (
        ("score of the recoloring", recoloring.groupby("image")["score"].mean()),
        ("z-score of the recoloring, per rater over recolorings", _mean_z(recoloring)),
        ("z-score of the recoloring, per rater over all scores", pooled.groupby("image")["score"].mean()),
        ("recoloring less its original", difference.groupby("image")["score"].mean()),
        ("recoloring less its original, by maximum likelihood", recover(difference).images["quality"]),
        ("z-score per rater of recoloring less original (*)", ours),
    ):
        lines.append(_agreement_line(name, value, published))
    lines += ["the same after a line per survey, fitted to the published values of the survey's other images:"]
    for name, value in (
        ("z-score of the recoloring, per rater over recolorings", _mean_z(recoloring)),
        ("recoloring less its original", difference.groupby("image")["score"].mean()),
        ("z-score per rater of recoloring less original (*)", ours),
    ):
        lines.append(_agreement_line("  " + name, _rescaled(value, published, trials), published))
    constant = n_raters - standard["rater"].nunique()
    lines += [
        f"(*) the procedure; left out: {amount(constant, 'rater')} with constant differences",
        f"an original, that is no difference: {no_difference:.4f}; published, for every original: {original:.4f}",
    ]
    if n_scenes < _HECD_SCENES:
        lines += ["", "what missing scenes cost: (*) of some scenes against (*) of all here, mean of 20 draws"]
        rng = np.random.default_rng(seed)
        for kept in sorted({math.floor(0.75 * n_scenes), math.ceil(0.75 * n_scenes + 0.5)}):
            mean = pd.DataFrame([_without_scenes(difference, ours, kept, rng) for _ in range(20)]).mean()
            share = f"{kept} of {n_scenes} scenes, {kept / n_scenes:.0%}; (*) above has {n_scenes / _HECD_SCENES:.0%} of all"
            lines.append(f"{share:<60}  {mean['SRCC']:.4f} {mean['PLCC']:.4f} {mean['RMSE']:.4f}")

    of = reliability(standard, seed)
    blocks = [
        icc(block.pivot(index="image", columns="rater", values="score").to_numpy()) for _, block in standard.groupby("survey")
    ]
    halves = of["split_half"]
    lines += [
        "",
        f"reliability of (*); stated for HECD: {HECD_RELIABILITY}",
        f"{'split-half with Spearman-Brown, PLCC':<60}  {halves['PLCC_SB']:.3f} [{halves['low']:.3f}, {halves['high']:.3f}]",
        f"{'split-half with Spearman-Brown, SRCC':<60}  {halves['SRCC_SB']:.3f}",
        f"{'ICC(1,k), all images':<60}  {of['icc']['ICC(1,k)']:.3f}",
    ]
    for form in ("ICC(2,k)", "ICC(3,k)"):
        lines.append(f"{f'{form}, mean over the {len(blocks)} surveys':<60}  {np.mean([block[form] for block in blocks]):.3f}")
    lines += [
        f"{'one rater alone, ICC(1,1)':<60}  {of['icc']['ICC(1,1)']:.3f}",
        f"{'one rater alone, alpha of Krippendorff, interval':<60}  {of['krippendorff_alpha']:.3f}",
    ]
    return "\n".join(lines)


def _agreement_line(name: str, value: pd.Series, published: pd.Series) -> str:
    agreement = correlations(value.to_numpy(), published[value.index].to_numpy())
    return f"{name:<60}  {agreement['SRCC']:.4f} {agreement['PLCC']:.4f} {agreement['RMSE']:.4f}"


def _mean_z(table: pd.DataFrame) -> pd.Series:
    return table.assign(score=zscores(table)).dropna(subset="score").groupby("image")["score"].mean()


def _rescaled(ours: pd.Series, published: pd.Series, trials: pd.DataFrame) -> pd.Series:
    """Map our values to the published z-scores by a line for each survey, fitted without the image that is mapped.

    All raters of a survey saw the same images. The scenes that we lack therefore shifted the means and deviations of these
    raters, and all images of the survey alike. If the procedure is right, the line leaves little error.
    """
    survey = trials.drop_duplicates("image").set_index("image")["survey"].reindex(ours.index)
    mapped = []
    for _, x in ours.groupby(survey):
        y = published[x.index]
        error = y - np.polyval(np.polyfit(x, y, 1), x)
        leverage = 1 / len(x) + (x - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
        mapped.append(y - error / (1 - leverage))
    return pd.concat(mapped)


def _without_scenes(table: pd.DataFrame, whole: pd.Series, kept: int, rng: np.random.Generator) -> dict[str, float]:
    scenes = rng.choice(np.unique(table["scene"]), kept, replace=False)
    part = _mean_z(table[table["scene"].isin(scenes)])
    return correlations(part.to_numpy(), whole[part.index].to_numpy())


def _one_per_rater(ratings: pd.DataFrame) -> pd.DataFrame:
    """Return one row per rater and image, with the mean over sessions."""
    return ratings.groupby(["rater", "image"], as_index=False, sort=True)["score"].mean()


def _raters(once: pd.DataFrame, recovery: Recovery | None, screened: dict[str, str]) -> pd.DataFrame:
    """Return the table of raters. Bias and inconsistency of raters outside the model come from the quality by the others."""
    frame = once.groupby("rater").size().rename("n").to_frame()
    if recovery is None:
        frame[["bias", "inconsistency"]] = np.nan
    else:
        residual = once["score"] - once["image"].map(recovery.images["quality"])
        by_rater = residual.groupby(once["rater"])
        frame["bias"] = recovery.raters["bias"].reindex(frame.index).fillna(by_rater.mean())
        frame["inconsistency"] = recovery.raters["inconsistency"].reindex(frame.index).fillna(by_rater.std(ddof=0))
        frame.loc[frame["n"] < 2, ["bias", "inconsistency"]] = np.nan
    frame["screened"] = frame.index.map(lambda rater: screened.get(rater, ""))
    return frame.reset_index()


def require_columns(header: list[str], names: tuple[str, ...], path: Path, how: str) -> None:
    for name in names:
        if header.count(name) != 1:
            times = "no" if name not in header else "more than one"
            raise ValueError(f"{path} has {times} column {name!r}, only {header}; expected: {how}{separator_hint(header)}")

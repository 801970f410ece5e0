"""From what people said to MOS: raw ratings, or choices between two images, to one score an image, for a new data set.

    python tools/compute_mos.py RATINGS.csv --range 1 5 --output mos.csv
    python tools/compute_mos.py RATINGS.csv --method mle --range 1 5 --screening bt500 --output mos.csv
    python tools/compute_mos.py PAIRS.csv --pairs --method thurstone --output scale.csv
    python tools/compute_mos.py FOLDER --screening bt500 --output mos.csv              # files of a rating page (docs/rating.md)
    python tools/compute_mos.py --hecd data/HECD

RATINGS has a row for each rating, with the columns rater, image, score, session if there were several, and scene and method of
the image. mos.csv is a table for --data and for evaluate.py --mos as it is. PAIRS has a row for
each choice: winner, loser, and tie (1 where neither was preferred) if ties were allowed. FOLDER holds what raters saved of a
page of tools/make_rating_page.py; single files can be named too. --hecd shows on real data that the
z-scores are right: it computes those that HECD publishes from its raw ratings. Methods, columns, references: docs/mos.md.

Beside mos.csv are written raters.csv (bias and inconsistency of each rater, and who was screened and why) and mos.csv.json
(reliability, and what was done).
"""

import argparse
import json
import math
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import DIMENSIONS, P910_CORRELATION, P910_OF_METHODS, RATING_SCALE

METHODS = ("zscore", "raw", "mle")
PAIR_METHODS = ("bradley-terry", "thurstone")
SCREENINGS = ("none", "bt500", "p910")


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s RATINGS --output CSV [options]", ("data", "method", "run"))
    add = parser.groups["data"].add_argument
    what = "ratings, or with --pairs choices: a CSV, or files of a rating page or their folder"
    add("ratings", nargs="*", type=Path, metavar="FILE", help=what)
    add("--pairs", action="store_true", help="rows are choices: winner, loser, and tie if there were any")
    add("--hecd", type=Path, metavar="FOLDER", help="compute HECD's published z-scores from its raw ratings; writes nothing")
    add("--rater", default="rater", metavar="COL", help="column of the rater (default: %(default)s)")
    add("--image", default="image", metavar="COL", help="column of the image (default: %(default)s)")
    add("--score", default="score", metavar="COL", help="column of the score, higher is better (default: %(default)s)")
    add("--session", metavar="COL", help="column of the session (default: session, if there is such a column)")
    add(
        "--scene", metavar="COL", help="column of the photograph that was colorized (default: scene, if there is such a column)"
    )
    add("--method-column", metavar="COL", help="column of what colorized it (default: method, if there is such a column)")
    add(
        "--dimension",
        choices=DIMENSIONS,
        help="what people were asked for (default: the name of --score if it is one, else PR)",
    )

    add = parser.groups["method"].add_argument
    add("--method", choices=(*METHODS, *PAIR_METHODS), help="default: zscore; with --pairs bradley-terry")
    add("--screening", choices=SCREENINGS, help="which raters to reject (default: none)")
    add("--least-correlation", type=float, metavar="R", help=f"of --screening p910 (default: {P910_CORRELATION:g})")
    methods = f"p910: keep a rater who agrees by the means of the column method as well (P.910: {P910_OF_METHODS:g})"
    add("--least-of-methods", type=float, metavar="R", help=methods)
    add("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of the rating scale, mapped to -1 and 1 by raw and mle")
    add("--prior", type=float, metavar="TIES", help="of --pairs: ties with an average image, added to each (default: 0)")

    add = parser.groups["run"].add_argument
    add("--seed", type=int, default=0, help="of the random halves (default: %(default)s)")
    add("-o", "--output", type=Path, metavar="CSV", help="where the MOS go, or the scale")
    args = parser.parse_args()
    args.pages = [path for path in args.ratings if path.is_dir() or path.suffix.lower() == ".json"]
    if bool(args.ratings) == (args.hecd is not None) or not (args.pages == args.ratings or len(args.ratings) == 1):
        parser.error("give a CSV file of ratings or choices, or files of a rating page or their folder, or --hecd FOLDER")
    if args.hecd is not None:
        return args
    if args.pages:
        names = (
            "rater",
            "image",
            "score",
            "session",
            "scene",
            "method_column",
            "range",
            "prior" if not args.pairs else "range",
        )
        for name in names:
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name.replace('_', '-')} does not apply to files of a rating page")
        args.range = None if args.pairs else list(RATING_SCALE)
    else:
        args.ratings = args.ratings[0]
    if args.output is None:
        parser.error("--output is needed, the CSV file to write")
    if args.pairs:
        args.method = args.method or PAIR_METHODS[0]
        for flag, value in (
            ("screening", args.screening),
            ("range", args.range),
            ("session", args.session),
            ("scene", args.scene),
        ):
            if value is not None:
                parser.error(f"--{flag} does not apply to --pairs")
    if not args.pages:
        args.dimension = args.dimension or (args.score if args.score in DIMENSIONS else "PR")
    args.method = args.method or METHODS[0]
    if args.method not in (PAIR_METHODS if args.pairs else METHODS):
        expected = f"--pairs takes {' or '.join(PAIR_METHODS)}, ratings take {', '.join(METHODS)}"
        parser.error(f"--method {args.method} does not apply: {expected}")
    if args.prior is not None and (not args.pairs or not 0 <= args.prior < math.inf):
        parser.error("--prior takes a number of at least 0, with --pairs")
    args.screening = args.screening or "none"
    if args.least_correlation is not None and (args.screening != "p910" or not -1 <= args.least_correlation <= 1):
        parser.error("--least-correlation takes a number in [-1, 1], with --screening p910")
    if args.least_of_methods is not None and (args.screening != "p910" or not -1 <= args.least_of_methods <= 1):
        parser.error("--least-of-methods takes a number in [-1, 1], with --screening p910")
    if args.method in ("raw", "mle") and args.range is None:
        parser.error(f"--method {args.method} needs --range, the lowest and the highest score that could be given")
    if args.output.name == "raters.csv":
        parser.error("--output must not be raters.csv, the file of the raters")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd

from data.hecd import HECD_URL, MOS_PER_Z, find_ratings
from evaluation.rating_files import RatingFiles, read_rating_files
from evaluation.ratings import (
    NORMAL_95,
    Recovery,
    icc,
    icc_oneway,
    krippendorff_alpha,
    mean_opinions,
    pairwise_scale,
    recover,
    screen_bt500,
    screen_p910,
    split_half,
    zscores,
)
from utils.files import sha256, write_atomic
from utils.metrics import correlations
from utils.names import amount
from utils.tables import csv_rows, finite_number, separator_hint

HECD_RELIABILITY = 0.85  # stated for HECD; of which statistic is not known to us
HECD_RAW = "clean_raw_data.csv"
_HECD_SCENES = 20
_STEM = re.compile(r"(?P<method>.+)_(?P<scene>\d+)")  # of a file name
_MOST_NAMES = 5  # on the console


def read_ratings(
    path: Path,
    rater: str = "rater",
    image: str = "image",
    score: str = "score",
    session: str | None = None,
    score_range: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Ratings of a CSV file.

    Args:
        path: UTF-8, comma separated, with a header; other columns are ignored.
        rater: Column of the rater's name; likewise ``image`` and ``score``.
        session: Column of the session. None takes ``session`` if there is such a column.
        score_range: Lowest and highest possible score; None for any.

    Returns:
        Columns rater, image, score, session ("" without one), a row each, in the order of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as described; the error names the line.
    """
    header, rows = csv_rows(path, "rating")
    _require(header, (rater, image, score, *([session] if session else [])), path, "--rater, --image, --score, --session")
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
    """Return what a file of ratings says of its images: the columns scene and method of a MOS table, by image.

    Args:
        path: The file.
        images: Its images.
        image: Column of the image; None where there are no other columns.
        scene: Column of the scene. None takes ``scene`` if there is such a column, or else the digits of names such as
            CIC_000123.jpg, if all images have such names.
        method: Column of the method; None takes ``method``, or else what stands before these digits.

    Raises:
        ValueError: If an image has two scenes or methods, or none; the error names the line.
    """
    header, rows = csv_rows(path, "rating")
    columns = {"scene": scene, "method": method}
    _require(header, tuple(filter(None, columns.values())), path, "--scene, --method-column")
    parsed = [_STEM.fullmatch(PurePosixPath(name.replace("\\", "/")).stem) for name in images]
    found = {name: [match[name] for match in parsed] for name in columns} if None not in parsed else {}
    for name, column in columns.items():
        if image is None or (column or name) not in header or (column or name) == image:
            continue
        values: dict[str, str] = {}
        for line, row in rows:
            cell = row[column or name]
            if values.setdefault(row[image], cell) != cell or (name == "scene" and not cell):
                expected = f"expected one {name} per image"
                raise ValueError(f"{path}, line {line}: {column or name} of {row[image]} is {cell!r}, {expected}")
        found[name] = [values[name] for name in images]
    return pd.DataFrame({name: found[name] for name in columns if name in found}, index=pd.Index(images))


def read_pairs(path: Path) -> tuple[list[str], np.ndarray, int]:
    """Choices of a CSV file with the columns winner, loser and, if there were ties, tie.

    Returns:
        Names of the N images, sorted; how often the row was preferred to the column, a tie as half for either, shape (N, N);
        and the number of ties.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as described; the error names the line.
    """
    header, rows = csv_rows(path, "choice")
    _require(header, ("winner", "loser"), path, "winner, loser and, if there were ties, tie")
    choices = []
    for line, row in rows:
        tie = row.get("tie", "") or "0"
        if tie not in ("0", "1"):
            raise ValueError(f"{path}, line {line}: tie is {tie!r}, expected 1 for a tie, 0 or nothing for none")
        if not row["winner"] or not row["loser"]:
            raise ValueError(f"{path}, line {line}: expected two images, got {row['winner']!r} and {row['loser']!r}")
        if row["winner"] == row["loser"]:
            raise ValueError(f"{path}, line {line}: {row['winner']} is compared with itself")
        choices.append((row["winner"], row["loser"], tie == "1"))
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
    """MOS in [-1, 1] with 95 % intervals, what is known of the raters, and the reliability.

    Args:
        ratings: Columns rater, image, score, session, as of ``read_ratings``.
        method: "zscore", "raw" or "mle".
        screening: "none", "bt500" or "p910".
        score_range: Lowest and highest possible score, mapped to -1 and 1 by "raw" and "mle", which need it.
        least_correlation: Of "p910".
        seed: Of the random halves.
        least_of_methods: Second criterion of "p910", between the means of methods; None for none.
        methods: Method of each image, which the second criterion needs.

    Returns:
        Table image, mos, low, high, n, std, se (standard error of the MOS, NaN for one rating); table rater, n, bias,
        inconsistency, screened; and the reliability.

    Raises:
        ValueError: If screening leaves fewer than two raters, or the method cannot be applied.
    """
    once = _once(ratings)
    screened: dict[str, str] = {}
    if screening == "bt500":
        screened = screen_bt500(once)
    elif screening == "p910":
        by_method = once if methods is None else once.assign(method=once["image"].map(methods))
        screened = screen_p910(by_method, least_correlation, least_of_methods)
    if method == "zscore":
        standard = ratings.assign(score=zscores(ratings, ("rater", "session"))).dropna(subset="score")
        for rater in sorted(set(ratings["rater"]) - set(standard["rater"])):
            screened.setdefault(rater, "all scores are equal: no z-score")
        lost = ratings.drop(standard.index)
        lost = lost[~lost["rater"].isin(list(screened))].drop_duplicates(["rater", "session"])
        if len(lost):
            warnings.warn(
                f"left out: {amount(len(lost), 'session')} without z-scores, for all scores in it are equal, e.g. session "
                f"{lost['session'].iloc[0]} of rater {lost['rater'].iloc[0]}",
                stacklevel=2,
            )
        values = _once(standard)
    else:
        values = once
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
    if method == "mle":
        debiased = kept.assign(score=kept["score"] - kept["rater"].map(recovery.raters["bias"]))
        frame = mean_opinions(debiased)
        quality, half = recovery.images["quality"], recovery.images["half"]
        frame = frame.assign(mos=quality, low=quality - half, high=quality + half)
    else:
        frame = mean_opinions(kept)

    if method == "zscore":
        slope, offset = MOS_PER_Z, 0.0
    else:
        low, high = score_range
        slope, offset = 2 / (high - low), -(high + low) / (high - low)
    for column in ("mos", "low", "high"):
        frame[column] = (slope * frame[column] + offset).clip(-1.0, 1.0)
    frame["std"] *= slope
    frame["se"] = slope * recovery.images["error"] if method == "mle" else frame["std"] / np.sqrt(frame["n"])
    return frame.reset_index(), _raters(once, recovery, screened), reliability(kept, seed)


def reliability(table: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """How far other raters would give the same: split halves, intraclass correlation, Krippendorff's alpha."""
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
    """Raw trials and published z-scores of HECD.

    Returns:
        A row per trial, with rater, survey, scene, image (the recoloring), recoloring and original (their scores, 1 to 5);
        and the published mean z-score by image, the originals among them.

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
    _require(header, ("ID", "SurNum", "File1", "Score1", "File2", "Score2"), raw, "ID, SurNum, File1, Score1, File2, Score2")
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
    _require(header, ("Recolour File", "Mean zScore"), published, "Recolour File, Mean zScore")
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
    """How sure HECD's MOS are: the spread of their raters, by the procedure of docs/mos.md.

    Returns:
        By file name of each recoloring: ``se``, the standard error of its MOS, in the unit of the MOS, and ``n``, the number
        of its raters. Originals, which were shown with every recoloring, have none.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is not as published.
    """
    trials, _ = read_hecd(root)
    differences = trials.assign(score=trials["recoloring"] - trials["original"])
    rated = mean_opinions(differences.assign(score=zscores(differences)).dropna(subset="score"))
    return pd.DataFrame({"se": MOS_PER_Z * rated["std"] / np.sqrt(rated["n"]), "n": rated["n"]})


def hecd_proof(root: Path, seed: int = 0) -> str:
    """What of HECD's published z-scores follows from its raw ratings, and how reliable they are, as text."""
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
        lines.append(_agreement(name, value, published))
    lines += ["the same after a line per survey, fitted to the published values of the survey's other images:"]
    for name, value in (
        ("z-score of the recoloring, per rater over recolorings", _mean_z(recoloring)),
        ("recoloring less its original", difference.groupby("image")["score"].mean()),
        ("z-score per rater of recoloring less original (*)", ours),
    ):
        lines.append(_agreement("  " + name, _rescaled(value, published, trials), published))
    constant = n_raters - standard["rater"].nunique()
    lines += [
        f"(*) the procedure; left out: {amount(constant, 'rater')} with constant differences",
        f"an original, that is no difference: {no_difference:.4f}; published, for every original: {original:.4f}",
    ]
    if n_scenes < _HECD_SCENES:
        lines += ["", "what missing scenes cost: (*) of some scenes against (*) of all here, mean of 20 draws"]
        rng = np.random.default_rng(seed)
        for kept in sorted({math.floor(0.75 * n_scenes), math.ceil(0.75 * n_scenes + 0.5)}):
            found = pd.DataFrame([_without_scenes(difference, ours, kept, rng) for _ in range(20)]).mean()
            share = f"{kept} of {n_scenes} scenes, {kept / n_scenes:.0%}; (*) above has {n_scenes / _HECD_SCENES:.0%} of all"
            lines.append(f"{share:<60}  {found['SRCC']:.4f} {found['PLCC']:.4f} {found['RMSE']:.4f}")

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


def _agreement(name: str, value: pd.Series, published: pd.Series) -> str:
    found = correlations(value.to_numpy(), published[value.index].to_numpy())
    return f"{name:<60}  {found['SRCC']:.4f} {found['PLCC']:.4f} {found['RMSE']:.4f}"


def _mean_z(table: pd.DataFrame) -> pd.Series:
    return table.assign(score=zscores(table)).dropna(subset="score").groupby("image")["score"].mean()


def _rescaled(ours: pd.Series, published: pd.Series, trials: pd.DataFrame) -> pd.Series:
    """Our values after a line for each survey, fitted to the published z-scores of its other images.

    All raters of a survey saw the same images. Scenes that are not here moved the means and deviations of its raters, and so
    all its images alike. If the procedure is the right one, little is left after the line; each image is left out of its own.
    """
    survey = trials.drop_duplicates("image").set_index("image")["survey"].reindex(ours.index)
    parts = []
    for _, x in ours.groupby(survey):
        y = published[x.index]
        error = y - np.polyval(np.polyfit(x, y, 1), x)
        leverage = 1 / len(x) + (x - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
        parts.append(y - error / (1 - leverage))
    return pd.concat(parts)


def _without_scenes(table: pd.DataFrame, whole: pd.Series, kept: int, rng: np.random.Generator) -> dict[str, float]:
    scenes = rng.choice(np.unique(table["scene"]), kept, replace=False)
    part = _mean_z(table[table["scene"].isin(scenes)])
    return correlations(part.to_numpy(), whole[part.index].to_numpy())


def _once(ratings: pd.DataFrame) -> pd.DataFrame:
    """One row per rater and image: what was rated in several sessions counts once, with the mean."""
    return ratings.groupby(["rater", "image"], as_index=False, sort=True)["score"].mean()


def _raters(once: pd.DataFrame, recovery: Recovery | None, screened: dict[str, str]) -> pd.DataFrame:
    """Table of the raters. Those the model leaves out are held against the quality that the others give."""
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


def _require(header: list[str], names: tuple[str, ...], path: Path, how: str) -> None:
    for name in names:
        if header.count(name) != 1:
            times = "no" if name not in header else "more than one"
            raise ValueError(f"{path} has {times} column {name!r}, only {header}; expected: {how}{separator_hint(header)}")


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))


def _write_mos(args: argparse.Namespace, frame: pd.DataFrame, places: pd.DataFrame) -> str:
    """Write MOS as a table that ``data/table.py`` reads; what to say of it."""
    named = {"mos": args.dimension, "se": f"{args.dimension}_se"}
    first = frame[["image"]].join(places, on="image")
    rest = [column for column in frame if column not in ("image", *named)]
    _write_csv(args.output, pd.concat([first, frame[list(named)].rename(columns=named), frame[rest]], axis=1))
    return f"as {args.dimension} with " + (
        " and ".join(places) if len(places.columns) else "neither scene nor method, see --scene"
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(_without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path.with_name(path.name + ".json"), text + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _without_nan(value) for name, value in content.items()}
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _names(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")


def run_ratings(args: argparse.Namespace) -> None:
    score_range = tuple(args.range) if args.range else None
    ratings = read_ratings(args.ratings, args.rater, args.image, args.score, args.session, score_range)
    images = sorted(set(ratings["image"]))
    places = read_places(args.ratings, images, args.image, args.scene, args.method_column)
    least = P910_CORRELATION if args.least_correlation is None else args.least_correlation
    methods = None
    if args.least_of_methods is not None:
        header, rows = csv_rows(args.ratings, "rating")
        _require(header, ("method",), args.ratings, "method, which --least-of-methods needs")
        methods = {row[args.image]: row["method"] for _, row in rows}
    mos, raters, found = compute_mos(
        ratings, args.method, args.screening, score_range, least, args.seed, args.least_of_methods, methods
    )
    if args.method == "zscore":
        mapping = f"{MOS_PER_Z:g} times the mean z-score, clipped to [-1, 1]"
    else:
        mapping = f"{args.range[0]:g} to -1, {args.range[1]:g} to 1, linear"
    _write_csv(args.output.with_name("raters.csv"), raters)
    said = _write_mos(args, mos, places)
    screened = raters[raters["screened"] != ""]
    _write_json(
        args.output,
        {
            "ratings": str(args.ratings),
            "sha256": sha256(args.ratings),
            "method": args.method,
            "screening": args.screening,
            **({"least_correlation": least, "least_of_methods": args.least_of_methods} if args.screening == "p910" else {}),
            "mapping": mapping,
            "left_out": dict(zip(screened["rater"], screened["screened"], strict=True)),
            "reliability": found,
        },
    )
    print(f"{args.ratings}: {len(ratings)} ratings of {amount(ratings['image'].nunique(), 'image')} by {len(raters)} raters")
    for reason, group in screened.groupby(screened["screened"].str.split(":").str[0]):
        print(f"left out: {amount(len(group), 'rater')} ({reason}): {_names(list(group['rater']))}")
    if args.screening == "p910" and len(screened):
        print(
            "P.910 rejects noisy honest raters too, about 3 of 15 where noise is as large as the differences of images: "
            "--least-correlation and --least-of-methods reject fewer, --method mle weighs raters in place of it (docs/mos.md)"
        )
    unrated = ratings["image"].nunique() - len(mos)
    if unrated:
        print(f"{amount(unrated, 'image')} without a rating left, so without a MOS")
    alone = mos.loc[mos["n"] < 2, "image"]
    if len(alone):
        print(f"{amount(len(alone), 'image')} with one rating, so without a spread: {_names(list(alone))}")
    halves = found["split_half"]
    forms = ", ".join(f"{name} {value:.3f}" for name, value in found["icc"].items())
    print(
        f"reliability: split-half {halves['PLCC_SB']:.3f} (PLCC, Spearman-Brown), {forms}, "
        f"Krippendorff's alpha {found['krippendorff_alpha']:.3f}"
    )
    print(
        f"{len(mos)} MOS ({args.method}; {mapping}) in {args.output}, {said}; raters in {args.output.with_name('raters.csv')}"
    )


def run_pairs(args: argparse.Namespace) -> None:
    names, wins, ties = read_pairs(args.ratings)
    source = {"choices": str(args.ratings), "sha256": sha256(args.ratings)}
    _write_scale(args, str(args.ratings), names, wins, ties, read_places(args.ratings, names), source)


def _write_scale(
    args: argparse.Namespace,
    path: str,
    names: list[str],
    wins: np.ndarray,
    ties: int,
    places: pd.DataFrame,
    source: dict[str, Any],
) -> pd.DataFrame:
    """Place images by choices, write the scale and say what was done; returns the scale."""
    try:
        scale = pairwise_scale(wins, args.method, args.prior or 0.0)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    frame = pd.DataFrame(
        {
            "image": names,
            "mos": 2 * scale.chance - 1,
            "low": 2 * scale.chance_low - 1,
            "high": 2 * scale.chance_high - 1,
            "n": (wins + wins.T).sum(1).astype(int),
            "std": scale.error,
            "scale": scale.scale,
            "se": (scale.chance_high - scale.chance_low) / NORMAL_95,  # half the interval of 2 p - 1
        }
    )
    choices = int(wins.sum())
    as_scaled = wins[scale.scale[:, None] > scale.scale].sum() / choices
    mapping = "2 p - 1, p the chance to be preferred to an image at the mean of the scale"
    said = _write_mos(args, frame, places)
    _write_json(
        args.output,
        {
            **source,
            "method": args.method,
            "prior": args.prior or 0.0,
            "mapping": mapping,
            "n": choices,
            "ties": ties,
            "agreement": as_scaled,
        },
    )
    print(f"{path}: {amount(choices, 'choice')}, {amount(ties, 'tie')} among them, between {len(names)} images")
    print(f"{as_scaled:.1%} of the choices agree with the scale, ties counted half")
    print(f"scale ({args.method}; MOS is {mapping}) in {args.output}, {said}")
    return frame


def run_pages(args: argparse.Namespace) -> None:
    """From the files that raters saved of a rating page to MOS of everything that was asked."""
    files = read_rating_files(args.ratings)
    path = ", ".join(map(str, args.ratings[:_MOST_NAMES])) + (", ..." if len(args.ratings) > _MOST_NAMES else "")
    if (files.kind == "pairs") != args.pairs:
        done, how = ("choices between two images", "add --pairs") if files.kind == "pairs" else ("ratings", "leave out --pairs")
        raise ValueError(f"{path}: these are {done}; {how}")
    if args.dimension and len(files.questions) > 1:
        raise ValueError(f"--dimension does not apply to {path}, which rates {', '.join(files.questions)}")
    for note in files.notes:
        print(note)
    left = files.raters[files.raters["screened"] != ""]
    if len(left) == len(files.raters):
        first = left.iloc[0]
        raise ValueError(f"{path}: no rater is left of {len(left)}, e.g. {first['rater']} is left out ({first['screened']})")
    source = {
        "study_id": files.study_id,
        "files": files.sha256,
        "repeat_difference": files.raters["repeat_difference"].mean(),
        "left_out": dict(zip(left["rater"], left["screened"], strict=True)),
    }
    if args.pairs:
        args.dimension = args.dimension or page_dimensions(files.questions)[0]
        names, wins = files.wins()
        _print_left_out(left["rater"], left["screened"])
        scale = _write_scale(args, path, names, wins, 0, files.places, source)
        _write_csv(args.output.with_name("raters.csv"), files.raters)
        _write_published(args.output, args.dimension, scale)
        return
    _write_page_mos(args, path, files, source)


def _write_page_mos(args: argparse.Namespace, path: str, files: RatingFiles, source: dict[str, Any]) -> None:
    """Compute and write the MOS of every question of a page, raters, and MOS files in the layout of ICQA-2K."""
    least = P910_CORRELATION if args.least_correlation is None else args.least_correlation
    methods = dict(files.places["method"]) if args.least_of_methods is not None and "method" in files.places else None
    if args.least_of_methods is not None and methods is None:
        raise ValueError(f"{path}: the page knew no method of its images, which --least-of-methods needs")
    columns = (args.dimension,) if args.dimension else page_dimensions(files.questions)
    table = pd.DataFrame(index=pd.Index(sorted({*files.trials["image"].dropna()}), name="image")).join(files.places)
    raters = files.raters.set_index("rater")
    found: dict[str, Any] = {}
    print(
        f"{path}: {len(raters)} raters, {amount(len(table), 'image')}; hidden repeats differ by "
        f"{source['repeat_difference']:.2f} points on average"
    )
    for question, column in zip(files.questions, columns, strict=True):
        ratings = files.ratings(question)
        if ratings["rater"].nunique() < 2:
            left = f"{amount(ratings['rater'].nunique(), 'rater')} of {len(raters)}"
            raise ValueError(f"{path}: {left} rated {column} and is kept; a mean opinion needs at least two")
        try:
            mos, seen, found[column] = compute_mos(
                ratings, args.method, args.screening, RATING_SCALE, least, args.seed, args.least_of_methods, methods
            )
        except ValueError as error:
            raise ValueError(f"{path}: {column}: {error}") from error
        named = {"mos": column} | {name: f"{column}_{name}" for name in ("se", "low", "high", "n", "std")}
        table = table.join(mos.set_index("image")[list(named)].rename(columns=named))
        seen = seen.set_index("rater")
        raters = raters.join(seen[["bias", "inconsistency"]].add_prefix(f"{column}_"))
        reasons = seen["screened"][seen["screened"] != ""].map(lambda reason, column=column: f"{column}: {reason}")
        before = raters.loc[reasons.index, "screened"]
        raters.loc[reasons.index, "screened"] = before.where(before == "", before + "; ") + reasons
        _write_published(args.output, column, mos)
        forms = ", ".join(f"{name} {value:.3f}" for name, value in found[column]["icc"].items())
        halves = found[column]["split_half"]["PLCC_SB"]
        print(f"{column}: {len(mos)} MOS from {len(ratings)} ratings; split-half {halves:.3f}, {forms}")
    _print_left_out(raters.index.to_series(), raters["screened"])
    mapping = f"{MOS_PER_Z:g} times the mean z-score, clipped" if args.method == "zscore" else "1 to -1, 5 to 1, linear"
    done = {"method": args.method, "screening": args.screening, "mapping": mapping, "reliability": found}
    _write_json(args.output, source | done)
    counts = [name for name in table if name.endswith("_n")]
    table[counts] = table[counts].astype("Int64")
    _write_csv(args.output, table.reset_index())
    _write_csv(args.output.with_name("raters.csv"), raters.reset_index())
    published = args.output.with_name(f"{args.output.stem}_{columns[0]}_mos.json")
    print(
        f"MOS ({args.method}; {mapping}) in {args.output}, as {', '.join(columns)}; in the layout of ICQA-2K in "
        f"{published.name}{' and so on' if len(columns) > 1 else ''}; raters in {args.output.with_name('raters.csv')}"
    )


def page_dimensions(questions: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the columns of MOS: those of the questions, but naturalness is PR, as in HECD, if PR was not asked."""
    return tuple("PR" if name == "naturalness" and "PR" not in questions else name for name in questions)


def _write_published(output: Path, dimension: str, mos: pd.DataFrame) -> None:
    """Write a MOS file as ICQA-2K has it: score by stem, or by path without suffix where two images have one stem."""
    paths = {name: PurePosixPath(name).with_suffix("").as_posix() for name in mos["image"]}
    sizes = Counter(PurePosixPath(path).name for path in paths.values())
    keys = {name: stem if sizes[stem := PurePosixPath(path).name] == 1 else path for name, path in paths.items()}
    if len(set(keys.values())) < len(keys):  # a.jpg beside a.png
        keys = {name: name for name in keys}
    scores = {keys[name]: round(float(score), 6) for name, score in zip(mos["image"], mos["mos"], strict=True)}
    path = output.with_name(f"{output.stem}_{dimension}_mos.json")
    write_atomic(path, json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _print_left_out(raters: pd.Series, screened: pd.Series) -> None:
    left = screened != ""
    for reason, group in raters[left].groupby(screened[left].str.replace(r"[\d.%]+", "N", regex=True)):
        example = screened[group.index[0]]
        print(f"left out: {amount(len(group), 'rater')} ({example if len(group) == 1 else reason}): {_names(list(group))}")


def main() -> None:
    args = parse_args()
    try:
        if args.hecd is not None:
            print(hecd_proof(args.hecd, args.seed))
        elif args.pages:
            run_pages(args)
        elif args.pairs:
            run_pairs(args)
        else:
            run_ratings(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()

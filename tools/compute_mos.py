"""Compute MOS for a new data set, one score per image, from raw ratings or from choices between two images.

    python tools/compute_mos.py RATINGS.csv --range 1 5 --output mos.csv
    python tools/compute_mos.py RATINGS.csv --method mle --range 1 5 --screening bt500 --output mos.csv
    python tools/compute_mos.py PAIRS.csv --pairs --method thurstone --output scale.csv
    python tools/compute_mos.py FOLDER --screening bt500 --output mos.csv              # files of a rating page (docs/rating.md)
    python tools/compute_mos.py --hecd data/HECD

RATINGS has one row per rating, with the columns rater, image, score, session if there were several, and scene and method of the
image. mos.csv is a table for --data and for evaluate.py --mos. PAIRS has one row per choice: winner, loser, and tie (1 where
neither was preferred) if ties were allowed. FOLDER holds the files that raters saved on a page of tools/make_rating_page.py;
single files can be named too. --hecd checks the z-scores on real data: it computes the published z-scores of HECD from its raw
ratings. Methods, columns, references: docs/mos.md.

The program also writes raters.csv (bias and inconsistency of each rater, and why raters were screened) and mos.csv.json
(reliability, method and screening).
"""

import argparse
import json
import math
import sys
from collections import Counter
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
    add("--method-column", metavar="COL", help="column of the colorizer (default: method, if there is such a column)")
    add(
        "--dimension",
        choices=DIMENSIONS,
        help="what people were asked for (default: the name of --score if it is one, else PR)",
    )

    add = parser.groups["method"].add_argument
    add("--method", choices=(*METHODS, *PAIR_METHODS), help="default: zscore; with --pairs bradley-terry")
    add("--screening", choices=SCREENINGS, help="which raters to reject (default: none)")
    add("--least-correlation", type=float, metavar="R", help=f"limit of --screening p910 (default: {P910_CORRELATION:g})")
    methods = f"p910: keep a rater who agrees by the means of the column method as well (P.910: {P910_OF_METHODS:g})"
    add("--least-of-methods", type=float, metavar="R", help=methods)
    add("--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="rating scale; raw and mle map it to -1 and 1")
    add("--prior", type=float, metavar="TIES", help="--pairs: ties with an average image to add per image (default: 0)")

    add = parser.groups["run"].add_argument
    add("--seed", type=int, default=0, help="seed of the random halves (default: %(default)s)")
    add("-o", "--output", type=Path, metavar="CSV", help="file for the MOS, or for the scale")
    args = parser.parse_args()
    args.pages = [path for path in args.ratings if path.is_dir() or path.suffix.lower() == ".json"]
    if bool(args.ratings) == (args.hecd is not None) or not (args.pages == args.ratings or len(args.ratings) == 1):
        parser.error("give a CSV file of ratings or choices, or files of a rating page or their folder, or --hecd FOLDER")
    if args.hecd is not None:
        return args
    if args.pages:
        last = "range" if args.pairs else "prior"
        names = ("rater", "image", "score", "session", "scene", "method_column", "range", last)
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
        for flag in ("screening", "range", "session", "scene"):
            if getattr(args, flag) is not None:
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

from data.hecd import MOS_PER_Z
from evaluation.mos import compute_mos, hecd_proof, read_pairs, read_places, read_ratings, require_columns
from evaluation.rating_files import RatingFiles, read_rating_files
from evaluation.ratings import NORMAL_95, pairwise_scale
from utils.files import sha256, write_atomic
from utils.names import amount
from utils.tables import csv_rows

_MOST_NAMES = 5  # on the console


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))


def _write_mos(args: argparse.Namespace, frame: pd.DataFrame, places: pd.DataFrame) -> str:
    """Write MOS as a table that ``data/table.py`` reads; return a remark on its scenes for the console."""
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
        require_columns(header, ("method",), args.ratings, "method, which --least-of-methods needs")
        methods = {row[args.image]: row["method"] for _, row in rows}
    mos, raters, reliability = compute_mos(
        ratings, args.method, args.screening, score_range, least, args.seed, args.least_of_methods, methods
    )
    if args.method == "zscore":
        mapping = f"{MOS_PER_Z:g} times the mean z-score, clipped to [-1, 1]"
    else:
        mapping = f"{args.range[0]:g} to -1, {args.range[1]:g} to 1, linear"
    _write_csv(args.output.with_name("raters.csv"), raters)
    remark = _write_mos(args, mos, places)
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
            "reliability": reliability,
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
    halves = reliability["split_half"]
    forms = ", ".join(f"{name} {value:.3f}" for name, value in reliability["icc"].items())
    print(
        f"reliability: split-half {halves['PLCC_SB']:.3f} (PLCC, Spearman-Brown), {forms}, "
        f"Krippendorff's alpha {reliability['krippendorff_alpha']:.3f}"
    )
    print(
        f"{len(mos)} MOS ({args.method}; {mapping}) in {args.output}, {remark}; raters in {args.output.with_name('raters.csv')}"
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
    """Place images on a scale by choices, write the scale, print a summary and return the scale."""
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
    remark = _write_mos(args, frame, places)
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
    print(f"scale ({args.method}; MOS is {mapping}) in {args.output}, {remark}")
    return frame


def run_pages(args: argparse.Namespace) -> None:
    """Compute MOS for every question of a rating page from the files of its raters."""
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
        "repeat_difference": files.raters.loc[files.raters["screened"] == "", "repeat_difference"].mean(),
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
    reliabilities: dict[str, Any] = {}
    apart = source["repeat_difference"]  # NaN where nothing was repeated
    repeats = f"; hidden repeats differ by {apart:.2f} points on average" if apart == apart else ""
    print(f"{path}: {amount(len(raters), 'rater')}, {amount(len(table), 'image')}{repeats}")
    for question, column in zip(files.questions, columns, strict=True):
        ratings = files.ratings(question)
        if ratings["rater"].nunique() < 2:
            left = f"{amount(ratings['rater'].nunique(), 'rater')} of {len(raters)}"
            raise ValueError(f"{path}: {left} rated {column} and is kept; a mean opinion needs at least two")
        try:
            mos, rater_table, reliabilities[column] = compute_mos(
                ratings, args.method, args.screening, RATING_SCALE, least, args.seed, args.least_of_methods, methods
            )
        except ValueError as error:
            raise ValueError(f"{path}: {column}: {error}") from error
        named = {"mos": column} | {name: f"{column}_{name}" for name in ("se", "low", "high", "n", "std")}
        table = table.join(mos.set_index("image")[list(named)].rename(columns=named))
        rater_table = rater_table.set_index("rater")
        raters = raters.join(rater_table[["bias", "inconsistency"]].add_prefix(f"{column}_"))
        reasons = rater_table["screened"][rater_table["screened"] != ""].map(
            lambda reason, column=column: f"{column}: {reason}"
        )
        before = raters.loc[reasons.index, "screened"]
        raters.loc[reasons.index, "screened"] = before.where(before == "", before + "; ") + reasons
        _write_published(args.output, column, mos)
        forms = ", ".join(f"{name} {value:.3f}" for name, value in reliabilities[column]["icc"].items())
        halves = reliabilities[column]["split_half"]["PLCC_SB"]
        print(f"{column}: {len(mos)} MOS from {len(ratings)} ratings; split-half {halves:.3f}, {forms}")
    _print_left_out(raters.index.to_series(), raters["screened"])
    mapping = f"{MOS_PER_Z:g} times the mean z-score, clipped" if args.method == "zscore" else "1 to -1, 5 to 1, linear"
    done = {"method": args.method, "screening": args.screening, "mapping": mapping, "reliability": reliabilities}
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
    """Return the names of the MOS columns: the questions, but PR for naturalness, as in HECD, if PR was not asked."""
    return tuple("PR" if name == "naturalness" and "PR" not in questions else name for name in questions)


def _write_published(output: Path, dimension: str, mos: pd.DataFrame) -> None:
    """Write a MOS file in the form of ICQA-2K: score by stem, or by path without suffix if two images share a stem."""
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

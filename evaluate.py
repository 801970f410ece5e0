"""Measure how well scores agree with people: tables of SRCC, KRCC, PLCC, RMSE, pairs and methods with intervals.

    python evaluate.py --predictions cf.csv scc.csv pr.csv --mos mos.csv --output results/own
    python evaluate.py --predictions cf.csv scc.csv pr.csv --dataset icqa2k --root ICQA_2K --split test
    python evaluate.py --predictions ICQA_2K_test_CF_result.json --dataset icqa2k --root ICQA_2K --compare-published
    python evaluate.py --images ICQA_2K/ICQA_2K_test --dataset icqa2k --root ICQA_2K --output results/icqa2k
    python evaluate.py --predictions pr.csv --mos mos.csv --versus other_pr.csv method-mean
    python evaluate.py --predictions pr.csv --mos mos.csv --versus niqe.csv --versus-range 0 100 --lower-is-better
    python evaluate.py --predictions pr.csv --dataset cin25 --ratings Results_raw_all.csv
    python evaluate.py --images METHOD_A METHOD_B --originals PHOTOS --paper-table            # the table of a paper, no ratings

Predictions are files of infer_CF.py, infer_SCC.py and infer_PR.py, or the published form {stem: score}. For the latter, ``:CF``
after the path gives the dimension, unless the file name holds ``_CF_``. MOS come from a CSV, ICQA-2K, HECD or CIN25
(data/README.md). For each dimension the tables show the network beside a trivial predictor: the mean MOS that the image's
method has in other scenes.

--output receives metrics.csv, methods.csv, with --versus comparison.csv, the same tables in table.md and table.tex, and
predictions.csv, where images without a score have an empty prediction. --report writes one HTML page. With --images,
all other flags are passed to infer_PR.py. cross_validate.py trains and tests.

--paper-table compares methods with the originals by FID, colorfulness, PSNR, SSIM, LPIPS and our scores, with intervals of
means and of paired differences (docs/paper_table.md).
"""

from utils import interrupt  # first, so that Ctrl-C is heard

# isort: split

import argparse
import math
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from utils.arguments import ScriptParser
from utils.choices import CIN25_RANGE, DIMENSIONS, NOISE, SPLITS

NOT_IN_TRAIN = "scenes not in train"
METHOD_MEAN = "method-mean"  # as a second predictor
PAPER_OPTIONS = ("paper_table", "images", "originals", "index", "crop", "allow_missing", "resamples", "seed", "output")
_MOST_NAMES, _MOST_METHODS = 10, 30  # on the console, the latter over all dimensions


def parse_args() -> argparse.Namespace:
    usage = "%(prog)s --predictions FILE (--mos CSV | --dataset NAME --root DIR) [options]"
    parser = ScriptParser(__doc__, usage, ("data", "measures", "table of a paper", "run"), allow_abbrev=False)
    add = parser.groups["data"].add_argument
    add(
        "--images",
        type=Path,
        nargs="+",
        metavar="FOLDER",
        help="score these images first, in place of --predictions; needs --output; --paper-table: one folder per method",
    )
    add("--predictions", nargs="+", metavar="FILE", help="score files; FILE:CF names the dimension")
    source = parser.groups["data"].add_mutually_exclusive_group()
    source.add_argument("--mos", type=Path, metavar="CSV", help="table with image, scene, method, CF, SCC, PR")
    source.add_argument("--dataset", choices=("icqa2k", "hecd", "cin25"), help="a known data set, in --root or --ratings")
    add("--root", type=Path, help="folder of the data set, or of the images of --mos (default: folder of the CSV)")
    add("--ratings", type=Path, metavar="FILE", help="ratings of CIN25: scene_id,image_path,method,score,user_id")
    add("--split", choices=SPLITS, help="split of ICQA-2K (default: test)")
    add("--mos-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="range of the MOS (default: -1 1; CIN25: 1 5)")
    add("--index", type=Path, metavar="CSV", help="table with image, scene, method; replaces scene and method of the MOS table")
    add("--allow-missing", action="store_true", help="leave out images without a row in the score file instead of stopping")
    add = parser.groups["measures"].add_argument
    add("--noise", type=float, default=NOISE, help="standard error of a MOS without ratings, in [-1, 1] (default: %(default)s)")
    add("--versus", nargs="+", metavar="FILE", help=f"score files of another metric, FILE:COLUMN; or {METHOD_MEAN}")
    add("--versus-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="range of the scores of --versus (default: -1 1)")
    add("--lower-is-better", action="store_true", help="lower scores of --versus are better")
    add = parser.groups["table of a paper"].add_argument
    add("--paper-table", action="store_true", help="--images beside --originals: FID, PSNR, SSIM, LPIPS, our scores, ...")
    add("--originals", type=Path, metavar="FOLDER", help="photographs (default: method original of --images, by --index)")
    add("--crop", action="store_true", help="crop images to the middle square (default: squeeze them into 256 x 256)")
    add = parser.groups["run"].add_argument
    add("--resamples", type=int, default=1000, help="bootstrap draws of scenes for the intervals (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")
    add("--compare-published", action="store_true", help="show the published SRCC of ICQA-2K; count shared scenes")
    add("--output", type=Path, metavar="FOLDER", help="folder for the tables (default: print them only)")
    add("--report", type=Path, metavar="HTML", help="also write one HTML page with all images, scores and ratings")
    add("--report-labels", type=Path, metavar="DIR", help="folder of YOLO files; the report then names objects that look wrong")
    parser.replaced(
        ("--protocol", "--repeats", "--train-root", "--train-options", "--scc-options", "--folds"),
        "cross_validate.py trains and tests, and takes the flags of the training scripts as they are; to set scores that are "
        "there beside the published number, pass --compare-published",
    )
    parser.replaced(("--score-options",), "pass the flags of infer_PR.py as they are, with --images")
    args, args.flags = parser.parse_known_args()
    (check_paper_table if args.paper_table else check_arguments)(parser, args)
    args.split = args.split or "test"
    args.mos_range = tuple(args.mos_range or (CIN25_RANGE if args.dataset == "cin25" else (-1.0, 1.0)))
    return args


def check_arguments(parser: ScriptParser, args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together, in one line."""
    if args.originals or args.crop:
        parser.error("--originals and --crop are for --paper-table")
    if args.images is not None:
        if len(args.images) > 1:
            parser.error(f"--images takes one folder, got {len(args.images)}; several are for --paper-table")
        args.images = args.images[0]
    if args.flags and not args.images:
        parser.error(f"unrecognized arguments: {' '.join(args.flags)}")
    if bool(args.predictions) == bool(args.images) or not (args.mos or args.dataset):
        parser.error("expected --predictions or --images, with --mos or --dataset")
    if args.images and args.output is None:
        parser.error("--images needs --output, where the score files go")
    if (args.dataset == "cin25") != (args.ratings is not None):
        parser.error("--dataset cin25 and --ratings, its file, need each other")
    if args.dataset in ("icqa2k", "hecd") and args.root is None:
        parser.error(f"--dataset {args.dataset} needs --root, the folder of the data set")
    if args.split and args.dataset != "icqa2k":
        parser.error("--split needs --dataset icqa2k, the only one with given splits")
    if args.mos_range and args.dataset == "hecd":
        parser.error("--mos-range does not apply to HECD, whose z-scores have a fixed mapping")
    if args.compare_published and args.dataset != "icqa2k":
        parser.error("--compare-published needs --dataset icqa2k, which the published number is for")
    if (args.versus_range or args.lower_is_better) and not set(args.versus or ()) - {METHOD_MEAN}:
        parser.error("--versus-range and --lower-is-better need the file of another metric in --versus")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        parser.error(f"--output must be a folder, {args.output} is a file")
    if args.report is not None and args.report.suffix.lower() not in (".html", ".htm"):
        parser.error(f"--report needs a name that ends in .html, got {args.report}")
    if args.index is not None and not args.index.is_file():
        parser.error(f"--index takes a table image, scene, method, got {args.index}")
    if args.report_labels is not None and args.report is None:
        parser.error("--report-labels needs --report")


def check_paper_table(parser: ScriptParser, args: argparse.Namespace) -> None:
    """Refuse arguments that do not go with ``--paper-table``, in one line."""
    given = [name for name, value in vars(args).items() if name != "flags" and value != parser.get_default(name)]
    unknown = [*args.flags, *(f"--{name.replace('_', '-')}" for name in given if name not in PAPER_OPTIONS)]
    if unknown:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in PAPER_OPTIONS[1:])
        parser.error(f"--paper-table goes with {known}, and not with {unknown[0]}")
    if args.images is None:
        parser.error("--paper-table needs --images, a folder for each method")
    if len(args.images) > 1 and (args.originals is None or args.index is not None):
        parser.error("--images of several folders needs --originals; --index is for one folder with the images of all methods")
    if args.index is not None and not args.index.is_file():
        parser.error(f"--index takes a table image, scene, method, got {args.index}")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        parser.error(f"--output must be a folder, {args.output} is a file")


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import pandas as pd

from data.cin25 import load_cin25
from data.hecd import find_ratings, load_hecd
from data.icqa2k import load_icqa2k, split_folder
from data.table import load_table
from evaluation.agreement import (
    IN_SAMPLE,
    METHOD_COLUMNS,
    METRICS,
    MIN_SCENES,
    NETWORK_COLUMNS,
    PUBLISHED_SRCC,
    Joined,
    Predictor,
    Scores,
    as_latex,
    as_markdown,
    as_text,
    compact,
    compact_methods,
    compact_pairs,
    evaluate,
    join,
    method_means,
    method_table,
    notes_of,
    read_predictions,
    read_versus,
    require_rows,
    sample_of,
)
from evaluation.compare import compact_comparison, compare_predictors, comparison_notes
from evaluation.mos import HECD_RAW, hecd_noise
from utils.files import write_atomic
from utils.images import IMAGE_EXTENSIONS
from utils.labels import ObjectLabels
from utils.names import amount
from utils.scenes import read_index

SAMPLES = {
    "unseen": "unseen by the weights",
    "out-of-fold": "out-of-fold",
    IN_SAMPLE: "IN-SAMPLE",
    "unknown": "it does not say whether the weights have seen these images",
}
LEFT_OUT = "without a score left out"  # end of a note of evaluation/agreement.py


class Table(NamedTuple):
    """Table of agreement as shown to the user."""

    title: str
    cells: pd.DataFrame  # text
    notes: list[str]


def score(images: Path, output: Path, options: list[str]) -> list[str]:
    """Score images with infer_PR.py and return the paths of the three score files; skip images that cannot be read."""
    target = output / "scores_PR.csv"
    script = Path(__file__).resolve().with_name("infer_PR.py")
    status = subprocess.run(
        [sys.executable, script, images, "-o", target, *options], stdout=subprocess.DEVNULL, check=False
    ).returncode
    files = [output / f"scores_{dimension}.csv" for dimension in DIMENSIONS]
    if status not in (0, 1) or not all(file.is_file() for file in files):
        raise ValueError(f"infer_PR.py could not score {images}, see above")
    return [str(file) for file in files]


def load_mos(args: argparse.Namespace) -> pd.DataFrame:
    """Load the MOS table that the arguments name."""
    if args.mos is not None:
        return load_table(args.mos, args.mos_range, args.root, check_files=False)
    if args.dataset == "icqa2k":
        return load_icqa2k(args.root, args.split, args.mos_range)
    if args.dataset == "cin25":
        return load_cin25(args.ratings, args.mos_range, args.root)
    table = load_hecd(args.root)
    if find_ratings(args.root).with_name(HECD_RAW).is_file():
        files = [Path(image).name for image in table["image"]]
        errors = hecd_noise(args.root)["se"].reindex(files).to_numpy()
        table = table.assign(**{f"{dimension}_se": errors for dimension in DIMENSIONS})
    return table


def join_all(table: pd.DataFrame, predictions: dict[str, Scores], allow_missing: bool) -> tuple[pd.DataFrame, dict[str, str]]:
    """Join predictions and method means of all dimensions, and print how many images have a rating and a score.

    Returns:
        One table, with the column ``error`` for the reason why a prediction is missing; and a note per dimension.

    Raises:
        ValueError: If a rated image has no row and must have one, or nothing is left to evaluate.
    """
    frames, notes = [], {}
    for dimension, scores in predictions.items():
        if table[dimension].isna().all():
            print(f"{dimension}: {table.attrs['name']} has no {dimension} ratings, {scores.path} is not used for it")
            continue
        joined = join(table, scores, dimension)
        require_rows(joined, scores, dimension, table.attrs["root"], allow_missing)
        notes[dimension] = print_joined(joined, scores, dimension)
        # The table is in the order of joined.rows, once the images without a rating are left out.
        means = method_means(table, dimension)[table[dimension].notna()].reset_index(drop=True)
        reasons = dict.fromkeys(joined.absent, f"no row in {scores.path.name}") | joined.failed
        error = [reasons.get(image, "") for image in joined.rows["image"]]
        frames.append(pd.concat([joined.rows.assign(error=error), means], axis=1))
    if not frames:
        raise ValueError(f"{table.attrs['name']} has no ratings in {', '.join(predictions)}: nothing to evaluate")
    return pd.concat(frames, ignore_index=True), notes


def print_joined(joined: Joined, scores: Scores, dimension: str) -> str:
    """Print how many images a score file could be joined with, and return the note for the table ("" or "in-sample")."""
    sample = sample_of(scores)
    origin = f"the sub-scores in {scores.path}" if scores.is_sub_score else str(scores.path)
    count = int(joined.rows["prediction"].notna().sum())
    print(f"{dimension}: {amount(count, 'image')} with rating and score; {origin}, {SAMPLES[sample]}")
    if sample == IN_SAMPLE:
        print(f"*** {dimension} IS IN-SAMPLE: its weights were trained on images in {scores.path}: agreement is too good ***")
    if joined.elsewhere:
        print(f"  joined {joined.elsewhere}")
    if joined.unused:
        are = "is" if joined.unused == 1 else "are"
        print(f"  {amount(joined.unused, 'prediction')} for images without a {dimension} rating {are} not used")
    for what, names in (
        ("with an error in place of a score", [f"{image} ({reason})" for image, reason in joined.failed.items()]),
        ("without a row", joined.absent),
    ):
        if names:
            more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            print(f"  left out, {len(names)} {what}: {', '.join(names[:_MOST_NAMES])}{more}")
    return IN_SAMPLE if sample == IN_SAMPLE else ""


def add_noise(rows: pd.DataFrame, table: pd.DataFrame, default: float) -> tuple[pd.DataFrame, str]:
    """Add the column ``noise``, the standard error of each MOS, and return a sentence that says where it comes from."""
    rows = rows.assign(noise=math.nan)
    for dimension in rows["dimension"].unique():
        if f"{dimension}_se" in table:
            in_dimension = rows["dimension"] == dimension
            errors = table.set_index("image")[f"{dimension}_se"]
            rows.loc[in_dimension, "noise"] = rows.loc[in_dimension, "image"].map(errors)
    unknown = int(rows["noise"].isna().sum())
    sources = {0: "that of its ratings.", len(rows): f"{default:g} (--noise) for all, since their ratings are not known."}
    mixed = f"that of its ratings; {default:g} (--noise) for the {unknown} of {len(rows)} whose ratings are not known."
    return rows.fillna({"noise": default}), f"Standard error of a MOS: {sources.get(unknown, mixed)}"


def compare_all(rows: pd.DataFrame, notes: dict[str, str], table: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """Compare the network with the predictors of ``--versus`` on the images that both score, by dimension.

    Args:
        rows: Images with rating and prediction, the column noise, and the columns of the method means.
        notes: Note on the predictions of each dimension.
        table: MOS table.
        args: Arguments of the command line.

    Returns:
        Columns dimension and versus, and the columns of :func:`evaluation.compare.compare_predictors`.

    Raises:
        ValueError: If no dimension is left to compare.
    """
    files = [name for name in args.versus if name != METHOD_MEAN]
    given = read_versus(files, list(dict.fromkeys(rows["dimension"])), args.versus_range, args.lower_is_better)
    shared = {dimension: scores for dimension, scores in given.items() if dimension in set(rows["dimension"])}
    others, their_notes = pd.DataFrame(), {}
    if shared:
        print(f"\nversus: {', '.join(dict.fromkeys(str(scores.path) for scores in shared.values()))}")
        others, their_notes = join_all(table, shared, args.allow_missing)
    elif given:
        raise ValueError(
            f"--versus gives {', '.join(given)}, --predictions {', '.join(rows['dimension'].unique())}: nothing to compare"
        )
    comparisons = []
    for dimension, scored in rows[rows["prediction"].notna()].groupby("dimension", sort=False):
        candidates = []
        if dimension in shared:
            other = others[others["dimension"] == dimension].set_index("image")["prediction"]
            candidates.append((str(shared[dimension].path), scored.assign(other=scored["image"].map(other)), ("other",)))
        if METHOD_MEAN in args.versus:
            candidates.append((METHOD_MEAN, scored, METHOD_COLUMNS))
        for name, images, columns in candidates:
            both = images[images[columns[0]].notna()]
            if both.empty:
                print(f"{dimension}: no image that the network and {name} both have, not compared")
                continue
            compared = compare_predictors(
                Predictor.of(both, NETWORK_COLUMNS),
                Predictor.of(both, columns),
                both["mos"].to_numpy(float),
                both["scene"].to_numpy(str),
                both["noise"].to_numpy(float),
                args.resamples,
                args.seed,
            )
            remarks = [f"the network is {notes[dimension]}"] if notes.get(dimension) else []
            if name != METHOD_MEAN and their_notes.get(dimension):
                remarks.append(f"the other is {their_notes[dimension]}")
            if len(both) < len(scored):
                remarks.append(f"{amount(len(scored) - len(both), 'image')} that the other has no value for left out")
            compared["note"] = ["; ".join(filter(None, [*remarks, note])) for note in compared["note"]]
            compared.insert(0, "dimension", dimension)
            compared.insert(1, "versus", name)
            comparisons.append(compared)
    if not comparisons:
        raise ValueError("--versus has no image in common with --predictions: nothing to compare")
    return pd.concat(comparisons, ignore_index=True)


def agreement_tables(name: str, metrics: pd.DataFrame, published: float | None, subset: str = "") -> list[Table]:
    """Return two tables of text: the measures of images, and the measures of pairs and methods."""
    of_images = metrics["metric"].isin(METRICS)
    title = f"{name}, {subset}" if subset else name
    notes = notes_of(metrics[of_images], subset)
    more = [note for note in notes_of(metrics[~of_images], subset) if note not in notes]
    return [
        Table(title, compact(metrics, published), notes),
        Table(f"{title}: pairs and methods", compact_pairs(metrics), more),
    ]


def folder_scenes(root: Path, split: str) -> set[str] | None:
    """Return the scenes of a split of ICQA-2K, read from file names, or None if the folder of the split is absent."""
    folder = root / split_folder(split)
    if not folder.is_dir():
        return None
    stems = [p.stem for p in folder.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS and not p.name.startswith(".")]
    return {match[1] for stem in stems if (match := re.fullmatch(r".+_(\d+)", stem))}


def compare_published(root: Path, split: str, rows: pd.DataFrame) -> tuple[list[str], pd.DataFrame | None]:
    """Say how far the results can be compared with the published number.

    Returns:
        Lines to print; and the rows whose scenes are not among the training images, or None if these are all rows, no rows,
        or not known.
    """
    lines = [
        f"published SRCC: the headline {PUBLISHED_SRCC:.4f} of https://github.com/ARBEZ-ZEBRA/ICQA. The publication does not "
        "say which dimension or split it is for, so no row is known to be its counterpart."
    ]
    scenes = {part: folder_scenes(root, part) for part in SPLITS}
    absent = [split_folder(part) for part in SPLITS if scenes[part] is None]
    if absent:
        lines.append(f"There is no {' and no '.join(absent)} in {root}: how many scenes train and test share is not known.")
        return lines, None
    shared = scenes["train"] & scenes["test"]
    lines.append(
        f"Scenes in both {split_folder('train')} and {split_folder('test')}: {len(shared)} of {len(scenes['test'])} in test."
    )
    if split == "train":
        lines.append("These rows are of the train folder itself.")
        return lines, None
    if not shared:
        return lines, None
    rest = rows[~rows["scene"].isin(scenes["train"])]
    if rest.empty:
        lines.append("No test image is left whose scene is not in the train folder.")
        return lines, None
    return lines, rest


def write_files(folder: Path, data: dict[str, pd.DataFrame], tables: list[Table], lines: list[str]) -> None:
    """Write the CSV files, ``table.md`` and ``table.tex``.

    Args:
        folder: Output folder.
        data: Contents of the CSV files by name.
        tables: Tables of text for ``table.md`` and ``table.tex``.
        lines: Notes on all tables.
    """
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    markdown, latex = f"# Agreement with people\n\n```\n{command}\n```\n", f"% {command}\n% needs the package booktabs\n"
    for table in tables:
        markdown += f"\n## {table.title}\n\n{as_markdown(table.cells)}\n" + "".join(f"- {note}\n" for note in table.notes)
        latex += f"% {table.title}\n{as_latex(table.cells)}" + "".join(f"% {note}\n" for note in table.notes)
    texts = {
        # p is often less than six decimals can say.
        name: frame.to_csv(index=False, float_format="%.6g" if name == "comparison.csv" else "%.6f", lineterminator="\n")
        for name, frame in data.items()
    }
    for name, text in {
        **texts,
        "table.md": markdown + "\n" + "".join(f"{line}\n" for line in lines),
        "table.tex": latex + "".join(f"% {line}\n" for line in lines),
    }.items():
        write_atomic(folder / name, text)


def write_page(
    args: argparse.Namespace,
    rows: pd.DataFrame,
    predictions: dict[str, Scores],
    mos: pd.DataFrame,
    notes: dict[str, str],
    labels: ObjectLabels | None,
) -> None:
    """Write the page of ``--report``."""
    from report.page import report_evaluation, written  # only here, for it is slow to load

    scored = rows.groupby("image")["prediction"].transform("count") > 0
    report_evaluation(
        rows,
        args.report,
        root=mos.attrs["root"],
        title=mos.attrs["name"],
        metas={dimension: s.frame.attrs["meta"] for dimension, s in predictions.items() if s.frame.attrs["meta"]},
        errors=rows[~scored].drop_duplicates("image").set_index("image")["error"].to_dict(),
        notes=[note for note in notes.values() if note],
        command=shlex.join(["python", "evaluate.py", *sys.argv[1:]]),
        labels=labels,
    )
    print(written(args.report))


def main() -> None:
    args = parse_args()
    if args.paper_table:
        from report.paper_table import write_paper_table  # only here, for it is slow to load

        if status := write_paper_table(args):
            raise SystemExit(status)
        return
    # read before the work starts, so that a wrong folder is refused at once
    labels = None if args.report_labels is None else ObjectLabels(args.report_labels)
    if args.images is not None:
        args.predictions = score(args.images, args.output, args.flags)
    with warnings.catch_warnings():
        if args.index is not None:
            warnings.filterwarnings("ignore", ".*has no column scene")
        mos = load_mos(args)
    if args.index is not None:
        mos["scene"], mos["method"] = read_index(args.index, mos["image"].tolist())
    name = mos.attrs["name"]
    rated = ", ".join(f"{dimension} {mos[dimension].notna().sum()}" for dimension in DIMENSIONS)
    print(f"{name}: {amount(len(mos), 'image')} of {amount(mos['scene'].nunique(), 'scene')}; rated: {rated}")
    predictions = read_predictions(args.predictions)
    rows, notes = join_all(mos, predictions, args.allow_missing)
    for dimension in DIMENSIONS:
        if dimension not in predictions and mos[dimension].notna().any():
            print(f"{dimension}: rated, but no predictions were given")
    rows, noise_line = add_noise(rows, mos, args.noise)

    published = PUBLISHED_SRCC if args.compare_published else None
    metrics = [evaluate(rows, notes, args.resamples, args.seed)]
    tables = agreement_tables(name, metrics[0], published)
    lines = [
        f"In brackets: 95 % interval of a bootstrap t over scenes, {args.resamples} draws (seed {args.seed}), none below "
        f"{MIN_SCENES} scenes. Higher is better, but for RMSE.",
        "logistic: after a rising 4-parameter logistic curve, fitted once to these images and not again in the draws.",
        "method mean: mean MOS of the image's method in the other scenes; ranks by the place of the method among all.",
        "Pairs are of one scene; clear ones differ in MOS by 1.96 standard errors or more, the others count as ties of people.",
        noise_line,
        "pairwise accuracy: share of the clear pairs in the right order, equal scores for one half. AUC (Krasula et al. 2016):",
        "different: do scores tell clear pairs from ties; better: which image of a clear pair is better. Chance is 0.5.",
        "system SRCC: over methods, mean prediction against mean MOS.",
    ]
    if args.dataset == "cin25":
        low, high = args.mos_range
        lines.append(
            f"CIN25: that its people judged naturalness (PR) is our reading; scores in [{low:g}, {high:g}] (--mos-range)."
        )
    if args.compare_published:
        published_lines, rest = compare_published(args.root, args.split, rows)
        lines += published_lines
        if rest is not None:
            metrics.append(evaluate(rest, notes, args.resamples, args.seed, NOT_IN_TRAIN))
            tables += agreement_tables(name, metrics[1], published, NOT_IN_TRAIN)
    data = {"metrics.csv": pd.concat(metrics)}
    if args.versus:
        compared = data["comparison.csv"] = compare_all(rows, notes, mos, args)
        tables.append(Table(f"{name}: comparison", compact_comparison(compared), comparison_notes(compared)))

    data["methods.csv"] = method_table(rows, args.resamples, args.seed)
    methods = Table(f"{name}: methods", compact_methods(data["methods.csv"]), []) if len(data["methods.csv"]) else None
    few = methods is not None and len(methods.cells) <= _MOST_METHODS
    for table in [*tables, methods] if few else tables:
        remarks = [note for note in table.notes if not note.endswith(LEFT_OUT)]  # print_joined named these images
        print("\n" + "\n".join([table.title, as_text(table.cells), *remarks]))
    print("\n" + "\n".join(lines))
    if args.output is not None:
        data["predictions.csv"] = rows[["image", "scene", "method", "dimension", "mos", "prediction"]]
        write_files(args.output, data, [*tables, methods] if methods else tables, lines)
        print(f"\n{args.output}: {', '.join([*data, 'table.md', 'table.tex'])}")
    if args.report is not None:
        write_page(args, rows, predictions, mos, notes, labels)


if __name__ == "__main__":
    try:
        interrupt.hear()  # a script that is called here must end too
        main()
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, open to the end
        raise SystemExit(141) from None
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        interrupt.deafen()
        kept = "nothing was written" if "--paper-table" in sys.argv else "what it scored is kept"
        print(f"interrupted: run the same command again; {kept}", file=sys.stderr)
        interrupt.leave(130)

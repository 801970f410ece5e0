"""Repeated training and testing: scene-disjoint splits, left-out colorizers, other data sets.

Each trial runs the documented commands in separate processes: train CF and SCC with out-of-fold predictions, score the test
images with them, train PR on both, score the test images with PR. A trial has one folder; finished steps are not run again.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data.splits import split_by_scene, write_split
from data.table import load_dataset, with_paths
from evaluation.agreement import METHOD_MEAN, NETWORK, as_markdown, as_text, join, read_predictions
from utils.files import image_id, write_atomic
from utils.metrics import correlations, within_scene_srcc
from utils.scores import DIMENSIONS

ROOT = Path(__file__).resolve().parents[1]
_TOGETHER = "all together"
METRICS = ("SRCC", "PLCC", "KRCC", "RMSE", "within-scene SRCC")


MIN_IMAGES = 10  # of a trial that counts in a summary: the SRCC of fewer spreads by a third or more by chance


class TrialError(RuntimeError):
    """Failure of a script of a trial. The message holds the end of the script's output."""


@dataclass(frozen=True)
class Trial:
    """One training of the three networks, and the images it is tested on.

    Attributes:
        name: Name of the trial and of its folder.
        train: MOS table of the images to train and validate on, with the column ``path``.
        test: MOS table of the images to test on, with the column ``path``.
        split: Division of ``train`` into training and validation scenes.
    """

    name: str
    train: pd.DataFrame
    test: pd.DataFrame
    split: dict[str, pd.DataFrame]


def plan(args: argparse.Namespace) -> list[Trial]:
    """Return the trials of a protocol.

    - official: the given folders of ICQA-2K; if they share scenes, a second trial splits all images by scene.
    - scene: ``--repeats`` splits by scene, 80 % to train on, 20 % to test on.
    - colorizer: each method in turn is left out of training and tested, on scenes that are not trained on.
    - cross: trained on ``--train-root``, tested on ``--root``.

    Raises:
        ValueError: If the data set does not allow the protocol.
    """
    table = load_with_paths(args.root, args.mos_range)
    if args.protocol == "cross":
        other = load_with_paths(args.train_root, args.mos_range)
        trained_on = {image_id(path) for path in other["path"]}
        both = [path for path in table["path"] if image_id(path) in trained_on]
        if both:
            raise ValueError(
                f"{len(both)} of {len(table)} images of {args.root} are in {args.train_root} too, e.g. {both[0]}: a test on "
                "images that are trained on says nothing; take them out of one of the two"
            )
        return [make_trial("cross", other, table, args.seed)]
    if args.protocol == "official":
        if "split" not in table or set(table["split"]) != {"train", "test"}:
            raise ValueError(f"{args.root} has no ICQA_2K_train and ICQA_2K_test, which --protocol official is about")
        given = table["split"] == "test"
        trials = [make_trial("official", table[~given], table[given], args.seed)]
        if set(table.loc[given, "scene"]) & set(table.loc[~given, "scene"]):
            trials += by_scene(table.drop(columns="split"), "scene_disjoint", args.seed)
        return trials
    table = table.drop(columns="split", errors="ignore")
    if args.protocol == "scene":
        return [t for n in range(args.repeats) for t in by_scene(table, f"scene{n + 1:02d}", args.seed + n)]
    methods = sorted(set(table["method"]))
    if len(methods) < 2:
        raise ValueError(f"--protocol colorizer needs at least two methods, {args.root} has {len(methods)}")
    parts = split_by_scene(table, 0, 0.2, args.seed)
    trials = []
    for method in methods:
        train = parts["train"][parts["train"]["method"] != method]
        trials.append(make_trial(f"without_{method}", train, parts["test"][parts["test"]["method"] == method], args.seed))
    return trials


def load_with_paths(root: Path, mos_range: tuple[float, float]) -> pd.DataFrame:
    """Load a data set with the absolute path of each image in the column ``path``."""
    table = with_paths(load_dataset(root, mos_range=mos_range))
    table["path"] = [os.path.abspath(path) for path in table["path"]]
    return table


def by_scene(table: pd.DataFrame, name: str, seed: int) -> list[Trial]:
    """Return one trial of a split by scene, in a list."""
    parts = split_by_scene(table, 0, 0.2, seed)
    return [make_trial(name, parts["train"], parts["test"], seed)]


def make_trial(name: str, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> Trial:
    """Return a trial whose validation scenes come from the images to train on."""
    train = train.drop(columns="split", errors="ignore").reset_index(drop=True)
    return Trial(name, train, test.reset_index(drop=True), split_by_scene(train, 0.15, 0, seed))


def run_trial(args: argparse.Namespace, trial: Trial) -> pd.DataFrame:
    """Train and test the networks of a trial.

    Returns:
        One row per rated test image with a score and dimension: image, scene, method, dimension, mos, prediction.

    Raises:
        ValueError: If the folder holds a trial of other settings.
        TrialError: If a script fails; the message holds the end of its output.
    """
    folder = args.output / trial.name
    done = folder / "predictions.csv"
    train_csv, test_list = folder / "train.csv", folder / "test.txt"
    settings = json.dumps(
        {
            "options": [str(x) for x in (*args.options, *args.scc_options)],
            "folds": args.folds,
            "seed": args.seed,
            "train": sorted(map(str, trial.train["path"])),
            "test": sorted(map(str, trial.test["path"])),
        }
    )
    recorded = folder / "trial.json"
    if recorded.is_file() and recorded.read_text(encoding="utf-8") != settings:
        raise ValueError(f"{folder} was made with other images or options; give another --output, or delete it")
    write_atomic(recorded, settings)
    if done.is_file():
        print(f"{trial.name}: taken from {done}")
        return pd.read_csv(done, dtype={"image": str, "scene": str, "method": str}, keep_default_na=False)
    write_table(trial.train, train_csv)
    write_atomic(test_list, "".join(f"{path}\n" for path in sorted(trial.test["path"])))
    write_split(trial.split, folder / "split.txt")

    common = ["--data", train_csv, "--split", folder / "split.txt", "--seed", str(args.seed), "--resume", *args.options]
    scores = {}
    for dimension in ("CF", "SCC"):
        run_folder = folder / dimension.lower()
        more = args.scc_options if dimension == "SCC" else []
        run_logged(folder, f"train_{dimension}.py", *common, "--folds", str(args.folds), "--output", run_folder, *more)
        scores[dimension] = folder / f"{dimension}.csv"
        more = args.scc_scoring if dimension == "SCC" else []
        weights = run_folder / "best.pt"
        run_logged(folder, f"infer_{dimension}.py", test_list, "--weights", weights, "-o", scores[dimension], *more)
    oof = [x for d in ("CF", "SCC") for x in (f"--{d.lower()}", folder / d.lower() / "oof.csv")]
    given = [x for d in ("CF", "SCC") for x in (f"--{d.lower()}", scores[d])]
    run_logged(folder, "train_PR.py", *common, *oof, "--output", folder / "pr")
    scores["PR"] = folder / "PR.csv"
    run_logged(folder, "infer_PR.py", test_list, "--weights", folder / "pr" / "best.pt", *given, "-o", scores["PR"])

    predictions = read_predictions([str(path) for path in scores.values()])
    table = trial.test.drop(columns="path")
    table.attrs = {"root": os.path.commonpath([os.path.dirname(p) for p in trial.test["path"]]), "name": trial.name}
    table["image"] = [Path(os.path.relpath(p, table.attrs["root"])).as_posix() for p in trial.test["path"]]
    rows = pd.concat([join(table, predictions[d], d).rows for d in DIMENSIONS if table[d].notna().any()], ignore_index=True)
    without = int(rows["prediction"].isna().sum())
    if without:
        print(f"{trial.name}: {without} of {len(rows)} rated test images have no score, see the score files in {folder}")
    rows = rows[rows["prediction"].notna()].reset_index(drop=True)
    write_atomic(done, rows.to_csv(index=False, lineterminator="\n"))
    return rows


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a MOS table as the generic CSV, with paths relative to the CSV."""
    rows = table[["scene", "method", *DIMENSIONS]].copy()
    rows.insert(0, "image", [Path(os.path.relpath(p, path.parent.resolve())).as_posix() for p in table["path"]])
    write_atomic(path, rows.to_csv(index=False, lineterminator="\n"))


def run_logged(folder: Path, script: str, *arguments: object) -> None:
    """Run a script of this repository and append its output to ``log.txt`` of the trial.

    Raises:
        TrialError: If the script fails. An inference script that could not score single images has not failed.
    """
    print(f"{folder.name}: {script}", flush=True)
    command = [sys.executable, str(ROOT / script), *(str(a) for a in arguments)]
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    scored = "-o" in arguments and Path(str(arguments[arguments.index("-o") + 1])).is_file()
    if status and not (status == 1 and scored):
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
        raise TrialError(f"{script} ended with status {status}; the end of {folder / 'log.txt'}:\n" + "\n".join(lines[-5:]))


def with_method_mean(images: pd.DataFrame, train: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``method_mean`` to the test images of a trial: the mean MOS of the training images of their method.

    It is a trivial predictor, which does not look at the image. NaN where no training image is of the method.
    """
    means = train[train["method"] != ""].groupby("method")[list(DIMENSIONS)].mean()
    pairs = zip(images["method"], images["dimension"], strict=True)
    return images.assign(method_mean=[means[d].get(method, np.nan) for method, d in pairs])


def measure_trials(trials: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Measure the agreement of each trial and predictor.

    Args:
        trials: Test images by trial, from :func:`run_trial`, with ``method_mean`` to measure the method mean as well.

    Returns:
        Columns trial, dimension, predictor, metric, value, n, scenes. A predictor that is NaN for all images has no rows.
    """
    rows = []
    for name, images in trials.items():
        for dimension, rated in images.groupby("dimension"):
            for predictor, column in ((NETWORK, "prediction"), (METHOD_MEAN, "method_mean")):
                if column not in rated or rated[column].isna().all():
                    continue
                part = rated[rated[column].notna()]
                pred, mos = part[column].to_numpy(float), part["mos"].to_numpy(float)
                values = {
                    **correlations(pred, mos),
                    "within-scene SRCC": within_scene_srcc(pred, mos, part["scene"].to_numpy()),
                }
                about = {"trial": name, "dimension": dimension, "predictor": predictor}
                counts = {"n": len(part), "scenes": part["scene"].nunique()}
                rows += [about | {"metric": metric, "value": values[metric]} | counts for metric in METRICS]
    return pd.DataFrame(rows)


def summarize_trials(measured: pd.DataFrame) -> pd.DataFrame:
    """Compute median and standard deviation over trials, without undefined values and trials of fewer than 10 images.

    Returns:
        Columns dimension, predictor, metric, median, std, and trials, the number of trials that have a value.
    """
    rows = []
    measured = measured.assign(value=measured["value"].where(measured["n"] >= MIN_IMAGES))
    for keys, part in measured.groupby(["dimension", "predictor", "metric"], sort=False):
        values = part["value"].dropna().to_numpy(float)
        rows.append(
            dict(zip(("dimension", "predictor", "metric"), keys, strict=True))
            | {
                "median": float(np.median(values)) if len(values) else np.nan,
                "std": float(np.std(values, ddof=1)) if len(values) > 1 else np.nan,
                "trials": len(values),
            }
        )
    return pd.DataFrame(rows)


def run_protocol(args: argparse.Namespace, published: float | None) -> None:
    """Train and test all trials of a protocol, then print and write the results.

    Args:
        args: Arguments of cross_validate.py.
        published: Published SRCC to show beside every SRCC, or None.
    """
    trials = plan(args)
    shared = {t.name: len(set(t.train["scene"]) & set(t.test["scene"])) for t in trials}
    for t in trials:
        print(
            f"{t.name}: {len(t.train)} images of {t.train['scene'].nunique()} scenes to train on, {len(t.test)} of "
            f"{t.test['scene'].nunique()} to test on, scenes in both: {shared[t.name]}"
        )
    tested = {t.name: with_method_mean(run_trial(args, t), t.train) for t in trials}
    measured = measure_trials(tested)
    summary = summarize_trials(measured)
    if args.protocol == "colorizer":  # alone, a colorizer has one image of a scene: nothing to compare within it
        measured = pd.concat([measured, measure_trials({_TOGETHER: pd.concat(tested.values())})], ignore_index=True)
    lines = []
    for (name, dimension, predictor), part in measured.groupby(["trial", "dimension", "predictor"], sort=False):
        line = {"trial": name, "dimension": dimension, "predictor": predictor}
        line |= {"n": str(part["n"].iloc[0]), "scenes": str(part["scenes"].iloc[0])}
        if any(shared.values()) or published is not None:
            line["also trained on"] = str(shared[name])
        line |= {metric: _number(value) for metric, value in zip(part["metric"], part["value"], strict=True)}
        lines.append(line | ({} if published is None else {"published SRCC": f"{published:.4f}"}))
    tables = [("Trials", pd.DataFrame(lines))]
    small = measured["n"] < MIN_IMAGES
    # The trials of the official protocol differ in kind.
    if len(trials) > 1 and args.protocol != "official" and summary["trials"].any():
        overall = []
        for (dimension, predictor), part in summary.groupby(["dimension", "predictor"], sort=False):
            if not part["trials"].any():
                continue
            cells = [f"{_number(row.median)} ± {_number(row.std)}" if row.trials else "n/a" for row in part.itertuples()]
            overall.append({"dimension": dimension, "predictor": predictor, **dict(zip(part["metric"], cells, strict=True))})
        tables.append((f"Median ± standard deviation of {summary['trials'].max()} trials", pd.DataFrame(overall)))

    notes = [
        "Networks are trained and chosen without the test images; CF and SCC reach PR as out-of-fold predictions.",
        "method mean: mean MOS of the training images of the same method, a predictor that does not look at the image.",
        "Intervals, pairs and methods of a trial: evaluate.py --allow-missing --predictions with its CF.csv, SCC.csv, PR.csv.",
    ]
    if args.protocol == "colorizer":
        notes[1] = f"{_TOGETHER}: every test image, scored by networks that know neither its scene nor its colorizer."
    if small.any() and args.protocol != "official":
        notes.append(
            f"Trials of fewer than {MIN_IMAGES} rated test images are in no median: correlations of so few say nothing."
        )
    if "also trained on" in tables[0][1]:
        notes.append("also trained on: how many of these scenes, by name, have images among those to train on.")
    if published is not None:
        notes.append(f"Published SRCC: {published:.4f}, which does not say for which dimension or split.")
    for title, cells in tables:
        print(f"\n{title}\n{as_text(cells)}")
    print("\n" + "\n".join(notes))
    command = shlex.join(["python", "cross_validate.py", *sys.argv[1:]])
    page = f"# Protocol {args.protocol}\n\n```\n{command}\n```\n"
    page += "".join(f"\n## {title}\n\n{as_markdown(cells)}\n" for title, cells in tables)
    write_atomic(args.output / "protocol.md", page + "".join(f"- {line}\n" for line in notes))
    write_atomic(args.output / "trials.csv", measured.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    write_atomic(args.output / "protocol.csv", summary.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    print(f"\n{args.output}: trials.csv, protocol.csv, protocol.md")


def _number(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.3f}"

"""Train Perceptual Realism (PR): would a person take it for a photograph?

    python train_PR.py --data data/HECD --cf runs/cf/oof.csv cf.csv --scc runs/scc/oof.csv scc.csv --output runs/pr
    python train_PR.py --data data/HECD --cf cf.csv --scc scc.csv --output runs/try/pr --epochs 1 --limit 32   # a minute, CPU
    python train_PR.py --preset published --data ICQA_2K --cf runs/cf/oof.csv cf_test.csv --scc runs/scc/oof.csv scc_test.csv \\
        --output runs/published/pr                                                   # the published network and recipe

PR reads the predicted CF and SCC of every picture. For training pictures these should be out-of-fold predictions (from
``train_CF.py --folds 5``); with several files the first that has a picture counts, so name the out-of-fold file first and the
predictions for the remaining pictures after it. The published result JSONs are read as well.
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

import argparse
from collections import Counter
from pathlib import Path

from utils.arguments import parse_training, training_parser


def parse_args() -> argparse.Namespace:
    parser = training_parser(__doc__)
    parser.usage = "%(prog)s --data PATH --cf CSV --scc CSV --output DIR [options]"
    add = parser.groups["data"].add_argument
    add("--cf", type=Path, nargs="+", required=True, metavar="CSV", help="predicted CF, out-of-fold first")
    add("--scc", type=Path, nargs="+", required=True, metavar="CSV", help="predicted SCC, likewise")
    add(
        "--out-of-fold",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="refuse other sub-scores of training pictures, in place of a warning (published: yes)",
    )
    return parse_training(parser, "PR")


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd

from data.table import load_data
from training.engine import fit
from training.runs import (
    clear_folder,
    dataset_maker,
    divide,
    finish,
    forget_features,
    one_line_errors,
    run_folder,
    settle_scenes,
    settle_seed,
    start_model,
    sub_scores,
    training_record,
)
from utils import distributed


def check_samples(dimension: str, samples: list[str], refuse: bool) -> None:
    """Say so when PR would learn to trust sub-scores that are better than they will be on new pictures.

    Raises:
        ValueError: In place of a warning, if ``refuse``.
    """
    count = Counter(samples)
    advice = f"use the out-of-fold predictions of train_{dimension}.py --folds 5 --oof FILE"
    problem = ""
    if count["in-sample"]:
        problem = (
            f"{count['in-sample']} of {len(samples)} training pictures have in-sample {dimension} predictions: they are too "
            f"good, and PR will trust {dimension} too much; {advice}"
        )
    elif count["unknown"]:
        problem = (
            f"the {dimension} file does not say whether the predictions of {count['unknown']} of {len(samples)} training "
            f"pictures are in-sample; if they are, PR will trust {dimension} too much: {advice}"
        )
    if problem and refuse:
        raise ValueError(f"{problem}, or pass --no-out-of-fold to train on these, as published")
    if problem:
        print(f"WARNING: {problem}")


def main() -> None:
    one_line_errors()
    args = parse_args()
    args.device = distributed.setup(args.device)
    with run_folder(args, "PR"):
        train(args)
    distributed.cleanup()


def train(args: argparse.Namespace) -> None:
    """Train on the split of the data, with the sub-scores of each image, and score the test part once."""
    settle_seed(args)
    parts = divide(args, settle_scenes(args, load_data(args.data, "PR", args.mos_range)), ["PR"])
    model = start_model(args, "PR")

    sub = {}
    for name, part in parts.items():
        columns = []
        for dimension, files in (("CF", args.cf), ("SCC", args.scc)):
            values, samples = sub_scores(part, files, dimension)
            columns.append(values)
            if name != "test":
                check_samples(dimension, list(samples.values()), args.out_of_fold)
        sub[name] = np.stack(columns, 1)
    make_set = dataset_maker(args, model, pd.concat(parts.values()).sort_values("image", ignore_index=True))
    sets = {name: make_set(part, name == "train", sub[name]) for name, part in parts.items()}
    clear_folder(args)
    model = fit(model, sets["train"], sets["val"], args, args.output, training_record(args, parts, ["PR"], sub))
    finish(args, model, parts["test"], sets["test"])
    forget_features(args)


if __name__ == "__main__":
    main()

"""Train Perceptual Realism (PR): would a person take it for a photograph?

    python train_PR.py --data data/HECD --cf runs/cf/oof.csv cf.csv --scc runs/scc/oof.csv scc.csv --output runs/pr
    python train_PR.py --data data/HECD --cf cf.csv --scc scc.csv --output runs/try/pr --epochs 1 --limit 32   # one minute, CPU
    python train_PR.py --preset published --data ICQA_2K --cf runs/cf/oof.csv cf_test.csv --scc runs/scc/oof.csv scc_test.csv \\
        --output runs/published/pr                                                   # the published network and recipe

PR reads the predicted CF and SCC of every image. For training images these should be out-of-fold predictions (from
``train_CF.py --folds 5``); with several files the first that has an image counts, so name the out-of-fold file first and the
predictions for the remaining images after it. The published result JSONs are read as well.
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

import argparse
from pathlib import Path

from training.options import Recipe, TrainOptions, parse_training, training_parser

# The recipe of the experiment. Published: github.com/ARBEZ-ZEBRA/ICQA, commit 922ed1e, with corrections that the last column,
# for --strict-recipe, leaves out. None: not part of the recipe, or fixed by the published network.
# fmt: off
RECIPE: Recipe = {
    #                      compact                  published   --strict-recipe
    "backbone":           ("tf_efficientnet_lite0", None,       None),
    "size":               (224,                     None,       None),       # side of the backbone's image, in pixels
    "width":              (64,                      None,       None),       # of the head
    "dropout":            (0.5,                     None,       None),       # share of inputs of the head
    "ranking":            (0.3,                     0.3,        0.3),        # weight of the ranker beside the compact head
    "val":                (0.15,                    0.15,       0.0),        # share of the scenes that choose the epoch
    "test":               (0.2,                     0.2,        0.2),        # share that are tested on, if none are given
    "out_of_fold":        (False,                   True,       False),      # refuse other CF and SCC of training images
    "shared_scenes":      ("refuse",                "refuse",   "keep"),     # if given train and test images share some
    "optimizer":          ("adamw",                 "adam",     "adam"),     # betas 0.9 and 0.999
    "lr":                 (1e-3,                    1e-4,       1e-4),       # peak rate of the head
    "backbone_lr":        (0,                       1e-4,       1e-4),       # of the backbone; 0 freezes it
    "weight_decay":       (0.05,                    0.0,        0.0),
    "schedule":           ("cosine",                "constant", "constant"), # after the warm-up
    "warmup":             (0.1,                     0.0025,     0.0),        # share of the steps with rising rate
    "clip":               (1.0,                     1.0,        0.0),        # largest gradient norm; 0 for any
    "epochs":             (20,                      500,        500),
    "batch_size":         (24,                      32,         32),         # images per step and process
    "patience":           (8,                       None,       None),       # epochs without a better one to stop after
    "stop_loss":          (None,                    0.001,      0.001),      # mean training loss of an epoch to stop at
    "best_epoch":         (True,                    True,       False),      # keep the best epoch, not the last
    "correlation_weight": (0.2,                     0.0,        0.0),        # of 1 - PLCC beside the squared error
    "augment":            (True,                    False,      False),      # flips, and crops of up to 12 % of a side
    "views":              (4,                       1,          1),          # per training image, if the backbone is frozen
    "seed":               (0,                       0,          None),
    "amp":                (True,                    True,       False),      # mixed precision on CUDA
}
# fmt: on


def parse_args() -> TrainOptions:
    parser = training_parser(__doc__)
    parser.usage = "%(prog)s --data PATH --cf CSV --scc CSV --output DIR [options]"
    add = parser.groups["data"].add_argument
    add("--cf", type=Path, nargs="+", required=True, metavar="CSV", help="predicted CF, out-of-fold first")
    add("--scc", type=Path, nargs="+", required=True, metavar="CSV", help="predicted SCC, out-of-fold first")
    add(
        "--out-of-fold",
        action=argparse.BooleanOptionalAction,
        help="refuse other sub-scores of training images, in place of a warning (published: yes)",
    )
    return parse_training(parser, "PR", RECIPE)


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before the slow imports

from data.table import load_data
from training.engine import fit, make_optimizer, make_schedule
from training.images import image_sets, sets_of
from training.runs import (
    apply_shared_scenes_policy,
    clear_folder,
    open_run,
    score_test_part,
    split_parts,
    start_model,
    sub_scores_of,
    training_record,
)


def main() -> None:
    with open_run(parse_args(), "PR") as options:
        # Data: a row per image, with its MOS
        frame = apply_shared_scenes_policy(options, load_data(options.data, "PR", options.mos_range))

        # Split, by scene
        parts = split_parts(options, frame, ["PR"])

        # Network, and its image sets, with CF and SCC of the images
        start = start_model(options, "PR")
        scores = sub_scores_of(options, parts)
        sets = sets_of(image_sets(options, start, list(parts.values())), parts, scores)
        clear_folder(options.output, options.overwrite)

        # Optimizer, schedule and loop
        optimizer = make_optimizer(start, options)  # the head learns at lr, the backbone at backbone_lr
        schedule = make_schedule(options)
        record = training_record(options, parts, ["PR"], scores)
        model = fit(start, optimizer, schedule, sets, options, options.output, record)

        # Test, once
        score_test_part(options, model, parts["test"], sets["test"])


if __name__ == "__main__":
    main()

"""Train Chromatic Fidelity (CF): is the color clean?

    python train_CF.py --data data/HECD --output runs/cf --folds 5           # HECD, with out-of-fold predictions for PR
    python train_CF.py --data data/HECD --output runs/try/cf --epochs 1 --limit 32      # a check, one minute on a CPU
    python train_CF.py --preset published --data ICQA_2K --output runs/published/cf  # the published network and recipe

``--data`` takes HECD, ICQA-2K or a CSV (data/README.md). The output folder holds best.pt, metrics.csv, curves.png, split.txt
and test.json; ``--resume`` goes on with a run that was stopped, ``--overwrite`` trains anew. docs/reproduce.md explains the
published recipe.
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

from pathlib import Path

from training.options import Recipe, TrainOptions, add_fold_arguments, parse_training, training_parser

# The recipe of the experiment. Published: github.com/ARBEZ-ZEBRA/ICQA, commit 922ed1e, with corrections that the last column,
# for --strict-recipe, leaves out. None: not part of the recipe, or fixed by the published network.
# fmt: off
RECIPE: Recipe = {
    #                      compact                  published   --strict-recipe
    "backbone":           ("tf_efficientnet_lite0", None,       None),
    "size":               (224,                     None,       None),       # side of the backbone's image, in pixels
    "width":              (32,                      None,       None),       # channels of the chroma path, and half of the head
    "dropout":            (0.5,                     None,       None),       # share of inputs of the head
    "ranking":            (0.3,                     0.3,        0.3),        # weight of the ranker beside the compact head
    "val":                (0.15,                    0.15,       0.0),        # share of the scenes that choose the epoch
    "test":               (0.2,                     0.2,        0.2),        # share that are tested on, if none are given
    "folds":              (0,                       5,          0),          # networks more, for out-of-fold predictions
    "shared_scenes":      ("refuse",                "refuse",   "keep"),     # if given train and test images share some
    "optimizer":          ("adamw",                 "adamw",    "adamw"),    # betas 0.9 and 0.999
    "lr":                 (1e-3,                    1e-4,       1e-4),       # peak rate of the head
    "backbone_lr":        (0,                       1e-6,       1e-6),       # of the backbone; 0 freezes it
    "weight_decay":       (0.05,                    0.01,       0.01),
    "schedule":           ("cosine",                "constant", "constant"), # after the warm-up
    "warmup":             (0.1,                     0.0025,     0.0),        # share of the steps with rising rate
    "clip":               (1.0,                     1.0,        0.0),        # largest gradient norm; 0 for any
    "epochs":             (20,                      400,        400),
    "batch_size":         (24,                      12,         12),         # images per step and process
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
    add_fold_arguments(parser)
    return parse_training(parser, "CF", RECIPE)


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before the slow imports

from data.table import load_data
from models.base import ScoreNet
from training.engine import fit, make_optimizer, make_schedule
from training.images import Sets, image_sets, sets_of
from training.runs import (
    Parts,
    apply_shared_scenes_policy,
    clear_folder,
    fold_parts,
    open_run,
    out_of_fold,
    score_test_part,
    split_parts,
    start_model,
    training_record,
)


def main() -> None:
    with open_run(parse_args(), "CF") as options:
        # Data: a row per image, with its MOS
        frame = apply_shared_scenes_policy(options, load_data(options.data, "CF", options.mos_range))

        # Split, by scene
        parts = split_parts(options, frame, ["CF"])
        rest, folds = fold_parts(options, frame, parts, ["CF"])

        # Network, and its image sets
        start = start_model(options, "CF")
        images = image_sets(options, start, [*parts.values(), rest])
        sets = sets_of(images, parts)
        clear_folder(options.output, options.overwrite)

        # Optimizer, schedule and loop
        model = train(options, start, sets, parts, options.output)

        # Test, once
        score_test_part(options, model, parts["test"], sets["test"])

        # Out-of-fold predictions, for PR
        def train_fold(fold: Parts, output: Path) -> ScoreNet:
            return train(options, start_model(options, "CF"), sets_of(images, fold), fold, output)

        out_of_fold(options, train_fold, images, rest, folds)


def train(options: TrainOptions, start: ScoreNet, sets: Sets, parts: Parts, output: Path) -> ScoreNet:
    """Train a network from its start weights and return the epoch with the best validation SRCC."""
    optimizer = make_optimizer(start, options)  # the head learns at lr, the backbone at backbone_lr
    schedule = make_schedule(options)
    record = training_record(options, parts, ["CF"])
    return fit(start, optimizer, schedule, sets, options, output, record)


if __name__ == "__main__":
    main()

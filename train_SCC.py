"""Train Semantic Color Consistency (SCC): does each thing have a color that such a thing can have?

    python train_SCC.py --data data/HECD --output runs/scc --folds 5                     # with out-of-fold predictions for PR
    python train_SCC.py --data data/HECD --output runs/try/scc --epochs 1 --limit 32     # a check, one minute on a CPU
    python train_SCC.py --preset published --data ICQA_2K --output runs/published/scc    # the published network and recipe

The network compares pixels with two priors of the colors of things, learned from photographs without any rating: ``--prior``
from tools/train_color_prior.py, and ``--object-prior`` from tools/build_color_prior.py for the objects that ``--labels`` names.
The published network has neither; it reads ``labels`` and ``color_.json`` of the data folder (docs/reproduce.md).
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

from pathlib import Path
from typing import Any

from training.options import Recipe, TrainOptions, add_fold_arguments, add_object_arguments, parse_training, training_parser
from utils.choices import SHIPPED

# The recipe of the experiment. Published: github.com/ARBEZ-ZEBRA/ICQA, commit 922ed1e, with corrections that the last column,
# for --strict-recipe, leaves out. None: not part of the recipe, or fixed by the published network.
# fmt: off
RECIPE: Recipe = {
    #                      compact                  published   --strict-recipe
    "backbone":           ("tf_efficientnet_lite0", None,       None),
    "size":               (224,                     None,       None),       # side of the backbone's image, in pixels
    "width":              (32,                      None,       None),       # channels of the comparison, and half of the head
    "dropout":            (0.5,                     None,       None),       # share of inputs of the head
    "ranking":            (0.3,                     0.3,        0.3),        # weight of the ranker beside the compact head
    "val":                (0.15,                    0.15,       0.0),        # share of the scenes that choose the epoch
    "test":               (0.2,                     0.2,        0.2),        # share that are tested on, if none are given
    "folds":              (0,                       5,          0),          # networks more, for out-of-fold predictions
    "shared_scenes":      ("refuse",                "refuse",   "keep"),     # if given train and test images share some
    "optimizer":          ("adamw",                 "adam",     "adam"),     # betas 0.9 and 0.999
    "lr":                 (1e-3,                    1e-4,       1e-4),       # peak rate of the head
    "backbone_lr":        (0,                       1e-4,       1e-4),       # of the backbone; 0 freezes it
    "weight_decay":       (0.05,                    0.0,        0.0),
    "schedule":           ("cosine",                "constant", "constant"), # after the warm-up
    "warmup":             (0.1,                     0.0025,     0.0),        # share of the steps with rising rate
    "clip":               (1.0,                     1.0,        0.0),        # largest gradient norm; 0 for any
    "epochs":             (20,                      400,        400),
    "batch_size":         (24,                      16,         16),         # images per step and process
    "patience":           (8,                       None,       None),       # epochs without a better one to stop after
    "stop_loss":          (None,                    0.001,      0.001),      # mean training loss of an epoch to stop at
    "best_epoch":         (True,                    True,       False),      # keep the best epoch, not the last
    "correlation_weight": (0.2,                     0.0,        0.0),        # of 1 - PLCC beside the squared error
    "augment":            (True,                    False,      False),      # flips, and crops of up to 12 % of a side
    "attention":          (None,                    "infer",    "train"),    # graph of objects while training (scoring: infer)
    "views":              (4,                       1,          1),          # per training image, if the backbone is frozen
    "seed":               (0,                       0,          None),
    "amp":                (True,                    True,       False),      # mixed precision on CUDA
}
# fmt: on
PRIOR, OBJECT_PRIOR = str(SHIPPED / "SCC.pt"), str(SHIPPED / "object_prior.npz")  # of the compact network


def parse_args() -> TrainOptions:
    parser = training_parser(__doc__)
    add_fold_arguments(parser)
    add = parser.groups["model"].add_argument
    add("--prior", default=PRIOR, metavar="FILE", help="network with the color prior, or none")
    add("--object-prior", default=OBJECT_PRIOR, metavar="FILE", help="color prior of COCO categories, or none")
    add_object_arguments(parser)
    options = parse_training(parser, "SCC", RECIPE)
    if options.preset == "published" and (options.prior, options.object_prior) != (PRIOR, OBJECT_PRIOR):
        flag = "--prior" if options.prior != PRIOR else "--object-prior"
        parser.error(f"{flag} is for the compact preset; the published network reads --color-prior and --labels")
    return options


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before the slow imports

from data.table import load_data
from models.base import ScoreNet
from models.object_prior import ObjectPrior
from training.engine import fit, make_optimizer, make_schedule
from training.images import Sets, image_sets, sets_of, with_object_files
from training.runs import (
    Parts,
    apply_shared_scenes_policy,
    clear_folder,
    fold_parts,
    open_run,
    out_of_fold,
    score_test_part,
    split_parts,
    start_from_prior,
    start_model,
    training_record,
)


def main() -> None:
    with open_run(parse_args(), "SCC") as options:
        options = with_object_files(options)

        # Data: a row per image, with its MOS
        frame = apply_shared_scenes_policy(options, load_data(options.data, "SCC", options.mos_range))

        # Split, by scene
        parts = split_parts(options, frame, ["SCC"])
        rest, folds = fold_parts(options, frame, parts, ["SCC"])

        # Network, and its image sets
        start = make_model(options)
        images = image_sets(options, start, [*parts.values(), rest])
        sets = sets_of(images, parts)
        clear_folder(options.output, options.overwrite)

        # Optimizer, schedule and loop
        model = train(options, start, sets, parts, options.output)

        # Test, once
        score_test_part(options, model, parts["test"], sets["test"])

        # Out-of-fold predictions, for PR
        def train_fold(fold: Parts, output: Path) -> ScoreNet:
            return train(options, make_model(options), sets_of(images, fold), fold, output)

        out_of_fold(options, train_fold, images, rest, folds)


def train(options: TrainOptions, start: ScoreNet, sets: Sets, parts: Parts, output: Path) -> ScoreNet:
    """Train a network from its start weights and return the epoch with the best validation SRCC."""
    optimizer = make_optimizer(start, options)  # the head learns at lr, the backbone at backbone_lr
    schedule = make_schedule(options)
    record = training_record(options, parts, ["SCC"])
    return fit(start, optimizer, schedule, sets, options, output, record)


def make_model(options: TrainOptions) -> ScoreNet:
    """Return a network with its start weights and its priors, the same at every call."""
    if options.preset == "published" or options.init is not None:
        return start_model(options, "SCC")
    trained = options.prior not in (None, "none")
    model: Any = start_from_prior(options) if trained else start_model(options, "SCC")
    if not trained:
        print("color prior: starts untrained and is not trained; expect little of it")
    if options.object_prior not in (None, "none"):
        model.set_object_prior(ObjectPrior.load(Path(options.object_prior)))
        print(f"object prior: {options.object_prior}")
    return model


if __name__ == "__main__":
    main()

"""Train Chromatic Fidelity (CF): is the color clean?

    python train_CF.py --data data/HECD --output runs/cf --folds 5           # HECD, with out-of-fold predictions for PR
    python train_CF.py --data data/HECD --output runs/try/cf --epochs 1 --limit 32      # a check of a minute on a CPU
    python train_CF.py --preset published --data ICQA_2K --output runs/published/cf  # the published network and recipe

``--data`` takes HECD, ICQA-2K or a CSV (data/README.md). The output folder holds best.pt, metrics.csv, curves.png, split.txt
and test.json; ``--resume`` goes on with a run that was stopped, ``--overwrite`` trains anew. docs/reproduce.md tells of the
published recipe.
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

import argparse
from functools import partial

from utils.arguments import add_fold_arguments, parse_training, training_parser


def parse_args() -> argparse.Namespace:
    parser = training_parser(__doc__)
    add_fold_arguments(parser)
    return parse_training(parser, "CF")


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

from training.runs import one_line_errors, start_model, train_branch


def main() -> None:
    one_line_errors()
    args = parse_args()
    train_branch(args, "CF", partial(start_model, args, "CF"))


if __name__ == "__main__":
    main()

"""Train Chromatic Fidelity (CF): is the color clean?

    python train_CF.py --data data/HECD --output runs/cf --folds 5           # HECD, with out-of-fold predictions for PR
    python train_CF.py --data data/HECD --output runs/try --epochs 1 --limit 32      # a check of a minute on a CPU

``--data`` takes HECD, ICQA-2K or a CSV (data/README.md). The output folder holds best.pt, metrics.csv, curves.png, split.txt
and test.json; ``--resume`` goes on with a run that was stopped.
"""

from functools import partial

from models import ChromaticFidelityNet
from utils.arguments import add_fold_arguments, training_parser
from utils.runs import start_model, train_branch


def main() -> None:
    parser = training_parser(__doc__)
    add_fold_arguments(parser)
    args = parser.parse_args()
    train_branch(args, ChromaticFidelityNet, partial(start_model, args, ChromaticFidelityNet))


if __name__ == "__main__":
    main()

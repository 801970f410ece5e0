"""Train Perceptual Realism (PR): would a person take it for a photograph?

    python train_PR.py --data data/HECD --cf runs/cf/oof.csv cf.csv --scc runs/scc/oof.csv scc.csv --output runs/pr
    python train_PR.py --data data/HECD --cf cf.csv --scc scc.csv --output runs/try --epochs 1 --limit 32   # a minute, CPU

PR reads the predicted CF and SCC of every picture. For training pictures these should be out-of-fold predictions (from
``train_CF.py --folds 5``); with several files the first that has a picture counts, so name the out-of-fold file first and the
predictions for the remaining pictures after it.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from models import PerceptualRealismNet
from utils import distributed
from utils.arguments import training_parser
from utils.engine import fit
from utils.runs import dataset_maker, divide, finish, load_data, start_model, sub_scores, training_record


def warn_if_in_sample(dimension: str, samples: list[str]) -> None:
    """Say so when PR would learn to trust sub-scores that are better than they will be on new pictures."""
    count = Counter(samples)
    if count["in-sample"]:
        print(
            f"WARNING: {count['in-sample']} of {len(samples)} training pictures have in-sample {dimension} predictions: they "
            f"are too good, and PR will trust {dimension} too much. Use train_{dimension}.py --folds 5 --oof FILE."
        )
    if count["unknown"]:
        print(f"WARNING: the {dimension} file does not say whether its predictions are in-sample ({count['unknown']} pictures)")


def main() -> None:
    parser = training_parser(__doc__)
    parser.add_argument("--cf", type=Path, nargs="+", required=True, metavar="CSV", help="predicted CF, out-of-fold first")
    parser.add_argument("--scc", type=Path, nargs="+", required=True, metavar="CSV", help="predicted SCC, likewise")
    args = parser.parse_args()
    args.device = distributed.setup(args.device)
    parts = divide(args, load_data(args.data, "PR", args.mos_range), "PR")
    model = start_model(args, PerceptualRealismNet)

    sub = {}
    for name, part in parts.items():
        columns = []
        for dimension, files in (("CF", args.cf), ("SCC", args.scc)):
            values, samples = sub_scores(part, files, dimension)
            columns.append(values)
            if name != "test":
                warn_if_in_sample(dimension, list(samples.values()))
        sub[name] = np.stack(columns, 1)
    make_set = dataset_maker(args, model, pd.concat(parts.values()).sort_values("image", ignore_index=True))
    sets = {name: make_set(part, name == "train", sub[name]) for name, part in parts.items()}
    model = fit(model, sets["train"], sets["val"], args, args.output, training_record(args, parts))
    finish(args, model, parts["test"], sets["test"])
    distributed.cleanup()


if __name__ == "__main__":
    main()

"""Train Semantic Color Consistency (SCC): does each thing have a color that such a thing can have?

    python train_SCC.py --data data/HECD --output runs/scc --folds 5                     # with out-of-fold predictions for PR
    python train_SCC.py --data data/HECD --output runs/try/scc --epochs 1 --limit 32     # a check of a minute on a CPU
    python train_SCC.py --preset published --data ICQA_2K --output runs/published/scc    # the published network and recipe

The network sets pixels against two priors of what colors things have, learned from photographs before any rating is looked at:
``--prior`` from tools/train_color_prior.py, and ``--object-prior`` from tools/build_color_prior.py for the objects that
``--labels`` names. The published network has neither; it reads ``labels`` and ``color_.json`` of the data folder
(docs/reproduce.md).
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

import argparse
from functools import partial
from pathlib import Path

from utils.arguments import add_fold_arguments, add_object_arguments, parse_training, training_parser
from utils.choices import SHIPPED


def parse_args() -> argparse.Namespace:
    parser = training_parser(__doc__)
    add_fold_arguments(parser)
    add = parser.groups["model"].add_argument
    add("--prior", default=str(SHIPPED / "SCC.pt"), metavar="FILE", help="network with the color prior, or none")
    add("--object-prior", default=str(SHIPPED / "object_prior.npz"), metavar="FILE", help="of categories, or none")
    add_object_arguments(parser)
    args = parse_training(parser, "SCC")
    for name in ("prior", "object_prior"):
        if args.preset == "published" and getattr(args, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            parser.error(f"{flag} is for the compact preset; the published network reads --color-prior and --labels")
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import torch

from models import SemanticConsistencyNet
from models.loading import load_prior
from models.object_prior import ObjectPrior
from training.runs import one_line_errors, start_model, start_ranker, train_branch


def make_model(args: argparse.Namespace) -> SemanticConsistencyNet:
    """A network with its start weights and its priors, the same at every call.

    Raises:
        ValueError: If the color prior is of another backbone or size.
    """
    if args.init is not None:
        return start_model(args, "SCC")
    if args.prior == "none":
        model = start_model(args, "SCC")
        print("color prior: starts untrained and is not trained; expect little of it")
    else:
        prior = load_prior(args.prior)
        asked = {"backbone": args.backbone, "size": args.size}
        for name, value in asked.items():
            if prior.config[name] != value:
                raise ValueError(
                    f"--prior {args.prior} was trained with --{name} {prior.config[name]}, not {value}; train one with "
                    "tools/train_color_prior.py, or pass --prior none"
                )
        torch.manual_seed(args.seed)
        model = SemanticConsistencyNet(**asked, prior=prior.config["prior"])
        model.backbone.load_state_dict(prior.backbone.state_dict())
        model.prior.load_state_dict(prior.prior.state_dict())
        print(f"color prior and backbone: {args.prior}")
        start_ranker(args, model)
    if args.object_prior != "none":
        model.set_object_prior(ObjectPrior.load(Path(args.object_prior)))
        print(f"object prior: {args.object_prior}")
    return model


def main() -> None:
    one_line_errors()
    args = parse_args()
    maker = partial(start_model, args, "SCC") if args.preset == "published" else partial(make_model, args)
    train_branch(args, "SCC", maker)


if __name__ == "__main__":
    main()

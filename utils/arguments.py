"""The command-line arguments that the three training scripts have in common."""

import argparse
from pathlib import Path
from typing import Any

import torch

from models.backbone import DEFAULT_BACKBONE
from utils.checkpoint import PRESETS

SHARED_SCENES = ("refuse", "keep", "resplit")

# The settings of the published training (https://github.com/ARBEZ-ZEBRA/ICQA, commit 922ed1e) by argument name, and below them
# what makes it sound, which it lacks.
_PUBLISHED: dict[str, Any] = {
    "augment": False,
    "correlation_weight": 0.0,
    "schedule": "constant",
    "stop_loss": 0.001,
    "patience": None,
    "backbone": None,
    "size": None,
    "attention": "infer",
}
_PUBLISHED_BY_DIMENSION: dict[str, dict[str, Any]] = {
    "CF": {"optimizer": "adamw", "weight_decay": 0.01, "lr": 1e-4, "backbone_lr": 1e-6, "batch_size": 12, "epochs": 400},
    "SCC": {"optimizer": "adam", "weight_decay": 0.0, "lr": 1e-4, "backbone_lr": 1e-4, "batch_size": 16, "epochs": 400},
    "PR": {"optimizer": "adam", "weight_decay": 0.0, "lr": 1e-4, "backbone_lr": 1e-4, "batch_size": 32, "epochs": 500},
}
_ADDITIONS: dict[str, Any] = {"warmup": 0.0025, "folds": 5, "out_of_fold": True}  # warm-up over about the first epoch
_STRICT: dict[str, Any] = {
    "val": 0.0,
    "best_epoch": False,
    "folds": 0,
    "out_of_fold": False,
    "seed": None,
    "clip": 0.0,
    "warmup": 0.0,
    "amp": False,
    "attention": "train",
    "shared_scenes": "keep",
}


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def training_parser(description: str | None, **defaults: float) -> argparse.ArgumentParser:
    """A parser with the shared training arguments.

    Args:
        description: The docstring of the script.
        defaults: Values that differ from the ones below, by argument name.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    # data
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="HECD, ICQA-2K or a CSV (data/README.md); PATH:N for N pictures of it",
    )
    add_split_arguments(parser)
    # model
    add(
        "--preset",
        choices=PRESETS,
        default=PRESETS[0],
        help="which networks, and with them the defaults (default: %(default)s)",
    )
    add("--strict-recipe", action="store_true", help="with --preset published: nothing that the published training lacks")
    add("--backbone", default=DEFAULT_BACKBONE, help="any timm network with feature maps (default: %(default)s)")
    add_start_arguments(parser)
    add("--init", type=Path, metavar="CHECKPOINT", help="start from this trained network of the same dimension")
    add("--size", type=int, default=224, help="side of the picture the backbone sees, in pixels (default: %(default)s)")
    # optimization
    add("--epochs", type=int, default=20, help="(default: %(default)s)")
    add("--batch-size", type=int, default=24, help="pictures a step and process (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate of the head (default: %(default)s)")
    add("--backbone-lr", type=float, default=0, help="of the backbone; 0 keeps it as it is (default: %(default)s)")
    add("--weight-decay", type=float, default=0.05, help="(default: %(default)s)")
    add("--warmup", type=float, default=0.1, help="share of the steps with rising rate (default: %(default)s)")
    add("--clip", type=float, default=1.0, help="largest gradient norm, 0 for any (default: %(default)s)")
    add("--patience", type=int, default=8, help="epochs without a better validation before stopping")
    add("--best-epoch", action=argparse.BooleanOptionalAction, default=True, help="keep the best epoch, not the last")
    add("--stop-loss", type=float, help="stop when the mean training loss of an epoch is no more than this")
    add("--optimizer", choices=("adamw", "adam"), default="adamw", help="(default: %(default)s)")
    add(
        "--schedule", choices=("cosine", "constant"), default="cosine", help="of the rates after warm-up (default: %(default)s)"
    )
    add("--correlation-weight", type=float, default=0.2, help="of 1 - PLCC beside the mean squared error")
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="flips and mild crops, never color")
    # run
    add_run_arguments(parser)
    add("--cache-gb", type=float, default=8, help="most memory for prepared pictures (default: %(default)s)")
    add("--checkpoint-activations", action="store_true", help="published CF: less memory, a third more time")
    add("--cache", type=Path, metavar="DIR", help="where the resized pictures of a published network lie (default: runs/cache)")
    parser.set_defaults(**defaults)
    return parser


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of the pictures train, validate and test."""
    add = parser.add_argument
    add("--mos-range", type=float, nargs=2, default=(-1.0, 1.0), metavar=("LOW", "HIGH"), help="range of a CSV's MOS")
    add("--val", type=float, default=0.15, help="share of the scenes that choose the epoch (default: %(default)s)")
    add("--test", type=float, default=0.2, help="share of the scenes scored once at the end (default: %(default)s)")
    add("--split", type=Path, help="a split.txt of an earlier run, in place of --val and --test")
    add(
        "--shared-scenes",
        choices=SHARED_SCENES,
        default="refuse",
        help="if ICQA_2K_train and ICQA_2K_test share scenes: stop; keep both as they are; or split all pictures anew by scene",
    )
    add("--limit", type=int, metavar="N", help="train on N pictures only, for a quick check")


def add_start_arguments(parser: argparse.ArgumentParser) -> None:
    """What a backbone starts from."""
    add = parser.add_argument
    add("--backbone-weights", type=Path, metavar="PATH", help="start weights in place of the packaged ones, or of the hub's")
    add("--random-init", action="store_true", help="start the backbone from random weights")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a run goes and what it runs on."""
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for checkpoints, metrics and curves")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with the run in --output, if there is one")
    earlier.add_argument("--overwrite", action="store_true", help="train anew where --output holds an earlier run")
    add("--seed", type=_seed, default=0, help="a number, or 'none' for another one each time (default: %(default)s)")
    add("--device", default=default_device(), help="(default: %(default)s)")
    add("--workers", type=int, default=2, help="processes that read pictures (default: %(default)s)")
    add("--amp", action=argparse.BooleanOptionalAction, default=True, help="mixed precision on CUDA")
    add("--half", action="store_true", help="store the checkpoint's weights as float16")


def _seed(text: str) -> int | None:
    return None if text == "none" else int(text)


def parse_training(parser: argparse.ArgumentParser, dimension: str, argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of a training script, with the defaults of the preset that they name.

    Args:
        parser: What ``training_parser`` gave, perhaps with more arguments.
        dimension: What the script trains.
        argv: The arguments; None for those of the process.

    Returns:
        The arguments.
    """
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--preset")
    early.add_argument("--strict-recipe", action="store_true")
    known, _ = early.parse_known_args(argv)
    if known.preset == "published":
        settings = _PUBLISHED | _PUBLISHED_BY_DIMENSION[dimension] | _ADDITIONS | (_STRICT if known.strict_recipe else {})
        parser.set_defaults(**settings)
    args = parser.parse_args(argv)
    if args.preset != "published":
        for name in ("strict_recipe", "checkpoint_activations", "cache", "color_prior", "attention"):
            if getattr(args, name, None):
                parser.error(f"--{name.replace('_', '-')} needs --preset published")
    elif args.size is not None:
        parser.error("--size is for the compact preset; the published networks have sizes of their own")
    elif args.backbone_lr <= 0:
        parser.error("--backbone-lr must be above 0 with --preset published, which trains the whole network")
    elif args.augment and dimension == "SCC":
        parser.error("--augment is not for the published SCC network, whose boxes it would not move")
    if args.checkpoint_activations and dimension != "CF":
        parser.error("--checkpoint-activations is for CF; the other published networks are small")
    return args


def add_object_arguments(parser: argparse.ArgumentParser) -> None:
    """What an SCC network reads beside pictures."""
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="DIR",
        help="YOLO files of the objects, named after pictures or scenes; 'none' for no objects "
        "(default: none; with --preset published: labels in the data folder)",
    )
    parser.add_argument("--color-prior", type=Path, metavar="JSON", help="published: (default: color_.json in the data folder)")
    parser.add_argument(
        "--attention",
        choices=("infer", "train"),
        help="graph of the published object attention while training: infer has one softmax, as scoring; train has two",
    )


def add_fold_arguments(parser: argparse.ArgumentParser) -> None:
    """``--folds`` and ``--oof``, for the branches whose predictions the realism branch is trained on."""
    parser.add_argument(
        "--folds", type=int, metavar="K", help="also train K networks, each without a K-th of the scenes; 0 for none"
    )
    parser.add_argument("--oof", type=Path, metavar="CSV", help="where the predictions for the left-out scenes go")

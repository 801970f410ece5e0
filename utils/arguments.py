"""The command-line arguments that the three training scripts have in common."""

import argparse
from pathlib import Path

import torch

from models.backbone import DEFAULT_BACKBONE


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
    add("--mos-range", type=float, nargs=2, default=(-1.0, 1.0), metavar=("LOW", "HIGH"), help="range of a CSV's MOS")
    add("--val", type=float, default=0.15, help="share of the scenes that choose the epoch (default: %(default)s)")
    add("--test", type=float, default=0.2, help="share of the scenes scored once at the end (default: %(default)s)")
    add("--split", type=Path, help="a split.txt of an earlier run, in place of --val and --test")
    add("--limit", type=int, metavar="N", help="train on N pictures only, for a quick check")
    # model
    add("--backbone", default=DEFAULT_BACKBONE, help="any timm network with feature maps (default: %(default)s)")
    add("--backbone-weights", type=Path, metavar="FILE", help="start weights in place of the packaged ones")
    add("--random-init", action="store_true", help="start the backbone from random weights")
    add("--init", type=Path, metavar="CHECKPOINT", help="start from this trained network of the same dimension")
    add("--size", type=int, default=224, help="side of the picture the backbone sees, in pixels (default: %(default)s)")
    # optimization
    add("--epochs", type=int, default=20, help="(default: %(default)s)")
    add("--batch-size", type=int, default=24, help="pictures a step and process (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate of the head (default: %(default)s)")
    add("--backbone-lr", type=float, default=0, help="of the backbone; 0 keeps it as it is (default: %(default)s)")
    add("--weight-decay", type=float, default=0.05, help="(default: %(default)s)")
    add("--warmup", type=float, default=0.1, help="share of the steps with rising rate (default: %(default)s)")
    add("--clip", type=float, default=1.0, help="largest gradient norm (default: %(default)s)")
    add("--patience", type=int, default=8, help="epochs without a better validation before stopping")
    add("--correlation-weight", type=float, default=0.2, help="of 1 - PLCC beside the mean squared error")
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="flips and mild crops, never color")
    # run
    add("--output", type=Path, required=True, help="folder for checkpoints, metrics and curves")
    add("--resume", action="store_true", help="go on with the run in --output")
    add("--seed", type=int, default=0)
    add("--device", default=default_device(), help="(default: %(default)s)")
    add("--workers", type=int, default=2, help="processes that read pictures (default: %(default)s)")
    add("--cache-gb", type=float, default=8, help="most memory for prepared pictures (default: %(default)s)")
    add("--amp", action=argparse.BooleanOptionalAction, default=True, help="mixed precision on CUDA")
    add("--half", action="store_true", help="store the checkpoint's weights as float16")
    parser.set_defaults(**defaults)
    return parser


def add_fold_arguments(parser: argparse.ArgumentParser) -> None:
    """``--folds`` and ``--oof``, for the branches whose predictions the realism branch is trained on."""
    parser.add_argument("--folds", type=int, metavar="K", help="also train K networks, each without a K-th of the scenes")
    parser.add_argument("--oof", type=Path, metavar="CSV", help="where the predictions for the left-out scenes go")

"""Options of a training script: the command line, the recipe of the script, and both as one ``TrainOptions``.

Nothing slow is imported here: a script parses its arguments before it imports torch, so that help and mistakes take no time.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from utils.arguments import ScriptParser
from utils.choices import PRESETS

SHARED_SCENES = ("refuse", "keep", "resplit")

# Values by the name of a ``TrainOptions`` field: for --preset compact, for --preset published, and with --strict-recipe.
Recipe = Mapping[str, tuple[Any, Any, Any]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that decide the result of a training: ``last.pt`` records them, and a run goes on only with the same ones.

    Settings that a script does not have stay at their defaults.
    """

    # network
    preset: str  # compact, published, or baseline
    backbone: str | None = None  # None for the one of the network
    size: int | None = None  # side of the image that the backbone sees, in pixels
    init: Path | None = None  # start from this trained network
    backbone_weights: Path | None = None
    random_init: bool = False
    ranker: str | None = None  # file, "none", or None for the shipped one
    ranking: float | None = None  # its weight beside the head
    # optimization
    epochs: int
    batch_size: int  # images per step and process
    lr: float | None  # peak rate of the head; None for the rate of a baseline's authors
    backbone_lr: float | None  # peak rate of the backbone; 0 freezes it, None for ``lr``
    weight_decay: float
    warmup: float  # share of the steps with rising rate
    clip: float  # largest gradient norm; 0 for any
    correlation_weight: float  # of 1 - PLCC beside the squared error
    optimizer: str  # adamw or adam
    betas: tuple[float, float] | None = None
    schedule: str  # cosine, constant, or restarts
    augment: bool
    stop_loss: float | None  # mean training loss of an epoch to stop at
    best_epoch: bool  # keep the best epoch, not the last
    seed: int  # None for a new one in each run, until ``draw_seed_if_none``
    limit: int | None = None  # images to train on, for a quick check
    # SCC
    prior: str | None = None  # network with the color prior, or "none"
    object_prior: str | None = None
    labels: list[str] | None = None  # folders of YOLO files, or "none"
    color_prior: Path | None = None  # color_.json of the published network
    attention: str | None = None  # infer or train
    # baselines
    system: str | None = None
    settings: dict[str, Any] | None = None  # of the network
    columns: list[str] | None = None  # ratings that are learned
    test_methods: list[str] | None = None  # colorizers that are tested on only

    def recorded(self) -> dict[str, Any]:
        """Return the settings in a form that checkpoints hold."""
        values = {field.name: getattr(self, field.name) for field in fields(Settings)}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Settings):
    """All options of a training script: its settings, its inputs and outputs, and the machine."""

    # data
    data: list[Path]
    mos_range: tuple[float, float] = (-1.0, 1.0)  # of a CSV's MOS
    val: float  # share of the scenes that the epoch is chosen by
    test: float  # share of the scenes that are scored once, at the end
    split: Path | None = None  # split.txt of a run, in place of both
    shared_scenes: str  # what to do if given train and test images share scenes
    folds: int = 0
    oof: Path | None = None  # file for out-of-fold predictions
    cf: list[Path] | None = None  # score files, for PR
    scc: list[Path] | None = None
    out_of_fold: bool = False  # refuse other sub-scores of training images
    # network and optimization: options that may change when a run goes on
    strict_recipe: bool = False
    width: int | None = None  # of the head
    dropout: float | None = None
    views: int = 1  # of each training image, where the backbone is frozen and images are augmented
    patience: int | None = None  # epochs without a better one to stop after
    checkpoint_activations: bool = False
    # run
    output: Path
    resume: bool = False
    overwrite: bool = False
    device: str  # None for a GPU if there is one, until ``distributed.setup``
    workers: int  # processes that read images
    amp: bool  # mixed precision on CUDA
    half: bool = False  # store the weights as float16
    cache: Path | None = None
    cache_gb: float = 8.0  # most memory for prepared images


def training_parser(description: str | None) -> ScriptParser:
    """Return a parser with the arguments that train_CF.py, train_SCC.py and train_PR.py share.

    Args:
        description: The docstring of the script.
    """
    parser = ScriptParser(description, "%(prog)s --data PATH --output DIR [options]")
    add = parser.groups["data"].add_argument
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="HECD, ICQA-2K or a CSV (data/README.md); PATH:N takes N images",
    )
    add_split_arguments(parser)

    add = parser.groups["model"].add_argument
    add("--preset", choices=PRESETS, default=PRESETS[0], help="which networks and defaults (default: %(default)s)")
    add("--strict-recipe", action="store_true", help="published: add nothing to the published training")
    add("--backbone", metavar="NAME", help="timm network with maps (default: %(default)s)")
    add_start_arguments(parser)
    add("--init", type=Path, metavar="FILE", help="start from this trained network of the same dimension")
    add("--ranker", metavar="FILE", help="file of train_ranker.py, or none (default: from --init, else the shipped one)")
    add("--size", type=int, metavar="N", help="side of the image that the backbone sees, in pixels (default: %(default)s)")

    add = parser.groups["optimization"].add_argument
    add("--epochs", type=int, metavar="N", help="(default: %(default)s)")
    add("--batch-size", type=int, metavar="N", help="images per step and process (default: %(default)s)")
    add("--lr", type=float, help="peak learning rate of the head (default: %(default)s)")
    add("--backbone-lr", type=float, metavar="LR", help="peak learning rate of the backbone; 0 freezes (default: %(default)s)")
    add("--weight-decay", type=float, metavar="W", help="(default: %(default)s)")
    add("--warmup", type=float, help="share of steps with rising rate (default: %(default)s)")
    add("--clip", type=float, help="largest gradient norm, 0 for any (default: %(default)s)")
    add("--best-epoch", action=argparse.BooleanOptionalAction, help="keep the best epoch, not the last")
    add("--stop-loss", type=float, metavar="LOSS", help="mean training loss of an epoch to stop at")
    add("--augment", action=argparse.BooleanOptionalAction, help="flips and mild crops")

    constants = ("--optimizer", "--schedule", "--patience", "--correlation-weight", "--ranking")
    parser.replaced(constants, "change the recipe at the top of the script")

    add_run_arguments(parser)
    add = parser.groups["run"].add_argument
    add("--checkpoint-activations", action="store_true", help="published CF: less memory, a third more time")
    add("--cache", type=Path, metavar="DIR", help="published: folder of resized images (default: runs/cache)")
    return parser


def add_split_arguments(parser: ScriptParser) -> None:
    """Add the arguments that choose the images to train, validate and test on."""
    add = parser.groups["data"].add_argument
    add("--mos-range", type=float, nargs=2, default=(-1.0, 1.0), metavar=("LOW", "HIGH"), help="of a CSV's MOS (default: -1 1)")
    add("--val", type=float, metavar="SHARE", help="of the scenes, to choose the epoch (default: %(default)s)")
    add("--test", type=float, metavar="SHARE", help="of the scenes, scored once at the end (default: 0.2)")
    add("--split", type=Path, metavar="FILE", help="split.txt of a run, in place of --val and --test")
    add(
        "--shared-scenes",
        choices=SHARED_SCENES,
        metavar="HOW",
        help="if train and test folders of ICQA-2K share scenes: refuse, keep both, or resplit all by scene",
    )
    add("--limit", type=int, metavar="N", help="train on N images, for a quick check")


def add_start_arguments(parser: ScriptParser) -> None:
    """Add the arguments for the start weights of a backbone."""
    add = parser.groups["model"].add_argument
    add("--backbone-weights", type=Path, metavar="FILE", help="start weights, in place of those of the package or the hub")
    add("--random-init", action="store_true", help="start the backbone from random weights")


def add_run_arguments(parser: ScriptParser) -> None:
    """Add the arguments for the output and the machine of a run."""
    parser.limits["workers"] = (0, 1024)  # 0 reads in the process itself
    add = parser.groups["run"].add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder for checkpoints, metrics and curves")
    earlier = parser.groups["run"].add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with the run in --output, if there is one")
    earlier.add_argument("--overwrite", action="store_true", help="train anew where --output holds an earlier run")
    add("--seed", type=_seed, help="a number, or none for a new one each time (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:N (default: a GPU if any)")
    add("--workers", type=int, default=2, metavar="N", help="processes that read images (default: %(default)s)")
    add("--amp", action=argparse.BooleanOptionalAction, help="mixed precision on CUDA")
    add("--half", action="store_true", help="store the weights as float16")
    parser.replaced(("--cache-gb",), "up to 8 GB of prepared images are kept in memory (training/options.py)")


def _seed(text: str) -> int | None:
    return None if text == "none" else int(text)


def parse_training(parser: ScriptParser, dimension: str, recipe: Recipe, argv: list[str] | None = None) -> TrainOptions:
    """Parse the arguments of a training script; the recipe of the preset gives the defaults.

    Args:
        parser: Result of ``training_parser``, perhaps with more arguments.
        dimension: CF, SCC or PR.
        recipe: The recipe of the script.
        argv: The arguments; None for those of the process.
    """
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--preset", nargs="?")
    early.add_argument("--strict-recipe", action="store_true")
    chosen, _ = early.parse_known_args(argv)
    column = 0 if chosen.preset != "published" else 2 if chosen.strict_recipe else 1
    # earlier versions recorded a graph of attention for every published network, and their runs should go on
    attention = (None, "infer", "train")[column]
    parser.set_defaults(**{"attention": attention} | {name: values[column] for name, values in recipe.items()})
    options = TrainOptions(**vars(parser.parse_args(argv)))
    check_parts(parser, options)
    if options.preset != "published":
        for name in ("strict_recipe", "checkpoint_activations", "cache", "color_prior", "attention"):
            if getattr(options, name):
                parser.error(f"--{name.replace('_', '-')} needs --preset published")
    elif options.size is not None:
        parser.error("--size is for the compact preset; the published networks have sizes of their own")
    elif not options.backbone_lr:
        parser.error("--backbone-lr must be above 0 with --preset published, which trains the whole network")
    elif options.augment and dimension == "SCC":
        parser.error("--augment is not for the published SCC network, whose boxes it would not move")
    if options.checkpoint_activations and dimension != "CF":
        parser.error("--checkpoint-activations is for CF; the other published networks are small")
    return options


def check_parts(parser: ScriptParser, options: TrainOptions) -> None:
    """Refuse shares and folds that leave nothing to train on, and outputs that cannot be written."""
    if options.val + options.test >= 1:
        parser.error(
            f"--val {options.val:g} and --test {options.test:g} leave no scenes to train on; together they must be below 1"
        )
    if options.folds == 1:
        parser.error("--folds 1 leaves nothing to train on; expected 0 for none, or at least 2")
    if options.oof is not None and (not options.folds or options.oof.suffix.lower() != ".csv"):
        parser.error(f"--oof {options.oof} needs --folds, and a name that ends in .csv")
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output must be a folder, {options.output} is a file")


def add_object_arguments(parser: ScriptParser) -> None:
    """Add the arguments for the labels and priors of an SCC network."""
    parser.groups["data"].add_argument(
        "--labels",
        nargs="+",
        metavar="DIR",
        help="YOLO files of the objects, named after images or scenes, or none "
        "(default: none; published: labels in the data folder)",
    )
    add = parser.groups["model"].add_argument
    add("--color-prior", type=Path, metavar="JSON", help="published: the color prior (default: color_.json in the data folder)")
    add(
        "--attention",
        choices=("infer", "train"),
        help="published, in training: infer has one softmax, same as scoring; train has two",
    )


def add_fold_arguments(parser: ScriptParser) -> None:
    """Add ``--folds`` and ``--oof``, for the branches whose predictions train the realism branch."""
    add = parser.groups["data"].add_argument
    add(
        "--folds", type=int, default=0, metavar="K", help="also train K networks, each without a K-th of the scenes; 0 for none"
    )
    add("--oof", type=Path, metavar="CSV", help="file for predictions of the left-out scenes")

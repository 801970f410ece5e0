"""The command-line arguments that scripts have in common.

Nothing slow is imported here: a script parses its arguments before it imports torch, so that help and mistakes take no time.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from utils import interrupt  # noqa: F401, before all that is slow to load
from utils.choices import DEFAULT_BACKBONE, ENGINES, PRECISIONS, PRESETS, SYSTEMS

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

# Least and most of every number that a script takes, by argument name; ``ScriptParser.limits`` holds those of one script.
LIMITS: dict[str, tuple[float, float]] = {
    "batch": (1, 10**6),
    "batch_size": (1, 10**6),
    "backbone_lr": (0, 10),
    "cache_gb": (0, 10**6),
    "clip": (0, 10**6),
    "correlation_weight": (0, 1000),
    "count": (1, 10**6),
    "dropout": (0, 0.99),
    "epochs": (1, 10**6),
    "folds": (0, 10**4),
    "held_out": (1e-6, 0.33),
    "images": (1, 10**6),
    "late_lr": (0, 10),
    "least_correlation": (-1, 1),
    "least_of_methods": (-1, 1),
    "limit": (1, 10**9),
    "limit_mb": (1, 10**9),
    "longest_side": (16, 10**5),
    "lr": (0, 10),
    "mos_range": (-1e9, 1e9),
    "noise": (0, 2),
    "patience": (1, 10**6),
    "per_photo": (1, 1000),
    "prior": (0, 10**6),
    "range": (-1e9, 1e9),
    "ranking": (0, 10),
    "rebalance": (0, 1),
    "repeats": (1, 10**4),
    "resamples": (1, 10**6),
    "runs": (1, 1000),
    "scenes": (0, 10**4),
    "seed": (0, 2**32 - 1),
    "shrinkage": (0, 10**6),
    "size": (32, 4096),
    "smoothing": (0, 1000),
    "stop_loss": (0, 10**6),
    "test": (0, 0.99),
    "test_mos_range": (-1e9, 1e9),
    "threshold": (0, 0.999999),
    "val": (0, 0.99),
    "versus_range": (-1e9, 1e9),
    "views": (0, 1000),
    "warmup": (0, 1),
    "weight_decay": (0, 10),
    "width": (1, 65536),
    "workers": (1, 1024),
}


class _Help(argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and room for the names of long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


class ScriptParser(argparse.ArgumentParser):
    """A parser that shows its arguments in groups and answers a mistake in one line.

    Args:
        description: The docstring of the script.
        usage: What must be given, after ``%(prog)s``, the name of the script; None shows all arguments.
        groups: Titles, in the order of the help. Arguments are added to ``groups[title]``.
        options: For ``ArgumentParser``.
    """

    def __init__(
        self,
        description: str | None = None,
        usage: str | None = None,
        groups: Sequence[str] = ("data", "model", "optimization", "run"),
        **options: Any,
    ) -> None:
        super().__init__(description=description, usage=usage, formatter_class=_Help, **options)
        self.groups = {title: self.add_argument_group(title) for title in groups}
        self.limits: dict[str, tuple[float, float]] = {}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments and refuse numbers out of range, before any work."""
        known, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            given = getattr(known, action.dest, None)
            values = [v for v in (given if isinstance(given, list | tuple) else [given]) if type(v) in (int, float)]
            name = "/".join(action.option_strings)
            least, most = self.limits.get(action.dest, LIMITS.get(action.dest, (-math.inf, math.inf)))
            for value in values:
                if not least <= value <= most:
                    kind = "a whole number" if type(value) is int else "a number"
                    self.error(f"argument {name}: expected {kind} from {least:.10g} to {most:.10g}, got {value:.10g}")
            if action.metavar == ("LOW", "HIGH") and values and not values[0] < values[1]:
                self.error(f"argument {name}: expected LOW below HIGH, got {values[0]:g} and {values[1]:g}")
        return known, rest

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def training_parser(description: str | None, **defaults: float) -> ScriptParser:
    """A parser with the shared training arguments.

    Args:
        description: The docstring of the script.
        defaults: Values that differ from the ones below, by argument name.
    """
    parser = ScriptParser(description, "%(prog)s --data PATH --output DIR [options]")
    add = parser.groups["data"].add_argument
    add(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="HECD, ICQA-2K or a CSV (data/README.md); PATH:N for N pictures of it",
    )
    add_split_arguments(parser)

    add = parser.groups["model"].add_argument
    add("--preset", choices=PRESETS, default=PRESETS[0], help="which networks and defaults (default: %(default)s)")
    add("--strict-recipe", action="store_true", help="published: nothing that the published training lacks")
    add("--backbone", default=DEFAULT_BACKBONE, metavar="NAME", help="timm network with maps (default: %(default)s)")
    add_start_arguments(parser)
    add("--init", type=Path, metavar="FILE", help="start from this trained network of the same dimension")
    add("--ranker", metavar="FILE", help="of train_ranker.py, or none (default: that of --init, or the shipped one)")
    add("--ranking", type=float, default=0.3, metavar="W", help="its weight beside the head (default: %(default)s)")
    add("--size", type=int, default=224, metavar="N", help="side of what the backbone sees, in pixels (default: %(default)s)")

    add = parser.groups["optimization"].add_argument
    add("--epochs", type=int, default=20, metavar="N", help="(default: %(default)s)")
    add("--batch-size", type=int, default=24, metavar="N", help="pictures per step and process (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate of the head (default: %(default)s)")
    add("--backbone-lr", type=float, default=0, metavar="LR", help="of the backbone; 0 freezes it (default: %(default)s)")
    add("--weight-decay", type=float, default=0.05, metavar="W", help="(default: %(default)s)")
    add("--warmup", type=float, default=0.1, help="share of steps with rising rate (default: %(default)s)")
    add("--clip", type=float, default=1.0, help="largest gradient norm, 0 for any (default: %(default)s)")
    add("--patience", type=int, default=8, metavar="N", help="epochs without a better one to stop after (default: %(default)s)")
    add("--best-epoch", action=argparse.BooleanOptionalAction, default=True, help="keep the best epoch, not the last")
    add("--stop-loss", type=float, metavar="LOSS", help="mean training loss of an epoch to stop at")
    add("--optimizer", choices=("adamw", "adam"), default="adamw", help="(default: %(default)s)")
    add("--schedule", choices=("cosine", "constant"), default="cosine", help="(default: %(default)s)")
    add("--correlation-weight", type=float, default=0.2, metavar="W", help="of 1 - PLCC beside the squared error")
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="flips and mild crops")

    add_run_arguments(parser)
    add = parser.groups["run"].add_argument
    add("--cache-gb", type=float, default=8, metavar="GB", help="most memory for prepared pictures (default: %(default)s)")
    add("--checkpoint-activations", action="store_true", help="published CF: less memory, a third more time")
    add("--cache", type=Path, metavar="DIR", help="published: of resized pictures (default: runs/cache)")
    parser.set_defaults(**defaults)
    return parser


def add_split_arguments(parser: ScriptParser) -> None:
    """Which of the pictures train, validate and test."""
    add = parser.groups["data"].add_argument
    add("--mos-range", type=float, nargs=2, default=(-1.0, 1.0), metavar=("LOW", "HIGH"), help="of a CSV's MOS (default: -1 1)")
    add("--val", type=float, default=0.15, metavar="SHARE", help="of the scenes, to choose the epoch by (default: %(default)s)")
    add("--test", type=float, default=0.2, metavar="SHARE", help="of the scenes, scored once at the end (default: 0.2)")
    add("--split", type=Path, metavar="FILE", help="split.txt of a run, not --val and --test")
    add(
        "--shared-scenes",
        choices=SHARED_SCENES,
        default="refuse",
        metavar="HOW",
        help="if both folders of ICQA-2K have a scene: refuse, keep both, or resplit all by scene",
    )
    add("--limit", type=int, metavar="N", help="train on N pictures, for a quick check")


def add_start_arguments(parser: ScriptParser) -> None:
    """What a backbone starts from."""
    add = parser.groups["model"].add_argument
    add("--backbone-weights", type=Path, metavar="FILE", help="start weights, in place of the packaged ones or of the hub's")
    add("--random-init", action="store_true", help="start the backbone from random weights")


def add_run_arguments(parser: ScriptParser) -> None:
    """Where a run goes and what it runs on."""
    parser.limits["workers"] = (0, 1024)  # 0 reads in the process itself
    add = parser.groups["run"].add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="for checkpoints, metrics and curves")
    earlier = parser.groups["run"].add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with the run in --output, if there is one")
    earlier.add_argument("--overwrite", action="store_true", help="train anew where --output holds an earlier run")
    add("--seed", type=_seed, default=0, help="a number, or none for another each time (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:N (default: a GPU if any)")
    add("--workers", type=int, default=2, metavar="N", help="processes that read pictures (default: %(default)s)")
    add("--amp", action=argparse.BooleanOptionalAction, default=True, help="mixed precision on CUDA")
    add("--half", action="store_true", help="store the weights as float16")


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
    early.add_argument("--preset", nargs="?")
    early.add_argument("--strict-recipe", action="store_true")
    known, _ = early.parse_known_args(argv)
    if known.preset == "published":
        settings = _PUBLISHED | _PUBLISHED_BY_DIMENSION[dimension] | _ADDITIONS | (_STRICT if known.strict_recipe else {})
        parser.set_defaults(**settings)
    args = parser.parse_args(argv)
    check_parts(parser, args)
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


def check_parts(parser: ScriptParser, args: argparse.Namespace) -> None:
    """Refuse shares and folds that no data can be divided into, and an output that cannot be one."""
    if args.val + (args.test or 0) >= 1:
        parser.error(f"--val {args.val:g} and --test {args.test:g} leave no scenes to train on; together they must be below 1")
    if getattr(args, "folds", None) == 1:
        parser.error("--folds 1 leaves nothing to train on; expected 0 for none, or at least 2")
    oof = getattr(args, "oof", None)
    if oof is not None and (not args.folds or oof.suffix.lower() != ".csv"):
        parser.error(f"--oof {oof} needs --folds, and a name that ends in .csv")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output must be a folder, {args.output} is a file")


def add_object_arguments(parser: ScriptParser) -> None:
    """What an SCC network reads beside pictures."""
    parser.groups["data"].add_argument(
        "--labels",
        nargs="+",
        metavar="DIR",
        help="YOLO files of the objects, named after pictures or scenes, or none "
        "(default: none; published: labels in the data folder)",
    )
    add = parser.groups["model"].add_argument
    add("--color-prior", type=Path, metavar="JSON", help="published: (default: color_.json in the data folder)")
    add(
        "--attention",
        choices=("infer", "train"),
        help="published, while training: infer has one softmax, as in scoring; train has two",
    )


def add_fold_arguments(parser: ScriptParser) -> None:
    """``--folds`` and ``--oof``, for the branches whose predictions the realism branch is trained on."""
    add = parser.groups["data"].add_argument
    add("--folds", type=int, metavar="K", help="also train K networks, each without a K-th of the scenes; 0 for none")
    add("--oof", type=Path, metavar="CSV", help="file for predictions of the left-out scenes")


def inference_parser(description: str | None, dimension: str) -> ScriptParser:
    """A parser with the arguments that the inference scripts of the three networks share."""
    parser = ScriptParser(description, "%(prog)s FOLDER [options]", ("data", "model", "run"))
    add_folder_arguments(parser, dimension)
    add = parser.groups["data"].add_argument
    add("--published-quirks", action="store_true", help="read files as the published scripts do, mistakes included")
    if dimension != "CF":
        add("--labels", metavar="DIR", help="YOLO files of the objects, for SCC, or none")

    add = parser.groups["model"].add_argument
    add("--weights", default=dimension, metavar="FILE", help=f"{dimension} weights (default: the shipped ones)")
    add("--preset", choices=PRESETS, help="published: CF.pth, SCC.pth, PR.pth where no weights are named")
    add("--precision", choices=PRECISIONS, default="float32", help="of a published network (default: %(default)s)")
    add("--engine", choices=ENGINES, help="that computes the scores (default: onnxruntime where it can, else torch)")
    if dimension != "CF":
        add("--color-prior", type=Path, metavar="JSON", help="color_.json, for a published SCC network")
        add("--attention", choices=("infer", "train"), help="of objects, published (default: infer)")
    parser.set_defaults(dimension=dimension)

    if dimension == "SCC":
        parser.groups["run"].add_argument(
            "--maps", type=Path, metavar="DIR", help="also draw where colors are improbable, and list objects in objects.csv"
        )
    return parser


def add_folder_arguments(parser: ScriptParser, name: str) -> None:
    """What is scored, where the scores go and what computes them; ``name`` ends the name of the file."""
    parser.groups["data"].add_argument(
        "images", type=Path, metavar="FOLDER", help="searched recursively; or one picture, or a .txt list of pictures"
    )
    add = parser.groups["run"].add_argument
    add("-o", "--output", type=Path, metavar="CSV", help=f"score file (default: results/FOLDER_{name}.csv)")
    add("--json", type=Path, metavar="FILE", help="also write {stem: score}, the published form")
    add("--overwrite", action="store_true", help="start anew instead of scoring what is missing")
    add("--device", help="cpu, cuda, or a list such as cuda:0,cuda:1 (default: every GPU, else the CPU)")
    add("--workers", type=int, help="pictures worked on at a time (default: one per core and device)")


def add_system_arguments(parser: ScriptParser) -> None:
    """Which published system, and how it is set."""
    add = parser.groups["model"].add_argument
    add("system", choices=SYSTEMS, metavar="MODEL", help=", ".join(SYSTEMS))
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="arguments of its network (docs/baselines.md), such as texture=lab, backbone=resnet18 or size=64",
    )
    add("--naturalness", action="store_true", help="afine: the part that needs no original, alone")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """``--set`` as a dictionary; values are JSON, and text where they are not.

    Raises:
        ValueError: If one is not of the form NAME=VALUE, or --naturalness is for another system.
    """
    settings: dict[str, Any] = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {text}: expected NAME=VALUE")
        if name in settings or name == "outputs":
            why = "is given twice" if name in settings else "follows from the columns"
            raise ValueError(f"--set {text}: {name} {why}")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    if args.naturalness:
        if args.system != "afine":
            raise ValueError(f"--naturalness is of afine, not of {args.system}")
        settings["full_reference"] = False
    return settings

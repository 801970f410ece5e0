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
from utils.choices import ENGINES, PRECISIONS, PRESETS, SYSTEMS

# Least and most of every number that a script takes, by argument name; ``ScriptParser.limits`` holds those of one script.
LIMITS: dict[str, tuple[float, float]] = {
    "batch_size": (1, 10**6),
    "backbone_lr": (0, 10),
    "clip": (0, 10**6),
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
    """A formatter that keeps the docstring as it is and has room for the names of long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34)


class _Replaced(argparse.Action):
    """A flag that is gone; its ``const`` says what to do now."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        parser.error(f"{self.option_strings[0]} is gone; {self.const}")


class ScriptParser(argparse.ArgumentParser):
    """A parser that shows its arguments in groups and answers a mistake in one line.

    Args:
        description: The docstring of the script.
        usage: The required arguments, after ``%(prog)s``, the name of the script; None shows all arguments.
        groups: Titles, in the order of the help. Arguments are added to ``groups[title]``.
        options: Further arguments of ``ArgumentParser``.
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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments and refuse numbers out of range, before any work."""
        parsed, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            given = getattr(parsed, action.dest, None)
            several: list[Any] = [*given] if isinstance(given, list | tuple) else [given]
            values = [value for value in several if type(value) in (int, float)]
            name = "/".join(action.option_strings)
            least, most = self.limits.get(action.dest, LIMITS.get(action.dest, (-math.inf, math.inf)))
            for value in values:
                if not least <= value <= most:
                    kind = "a whole number" if type(value) is int else "a number"
                    self.error(f"argument {name}: expected {kind} from {least:.10g} to {most:.10g}, got {value:.10g}")
            if action.metavar == ("LOW", "HIGH") and values and not values[0] < values[1]:
                self.error(f"argument {name}: expected LOW below HIGH, got {values[0]:g} and {values[1]:g}")
        return parsed, rest

    def replaced(self, flags: Sequence[str], advice: str) -> None:
        """Add flags of earlier versions, which end the script with an error that says what to do now."""
        for flag in flags:
            self.add_argument(
                flag, nargs="*", action=_Replaced, const=advice, default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def inference_parser(description: str | None, dimension: str) -> ScriptParser:
    """Return a parser with the arguments that the inference scripts of the three networks share."""
    parser = ScriptParser(description, "%(prog)s FOLDER [options]", ("data", "model", "run"))
    add_folder_arguments(parser, dimension)
    add = parser.groups["data"].add_argument
    parser.replaced(("--published-quirks",), "files are read as docs/reproduce.md says under Differences in reading files")
    if dimension != "CF":
        add("--labels", metavar="DIR", help="YOLO files of the objects, for SCC, or none")

    add = parser.groups["model"].add_argument
    add("--weights", default=dimension, metavar="FILE", help=f"{dimension} weights (default: the shipped ones)")
    add("--preset", choices=PRESETS, help="published: CF.pth, SCC.pth, PR.pth where no weights are named")
    of = "arithmetic of a published network, and of any on a GPU (default: %(default)s)"
    add("--precision", choices=PRECISIONS, default="float32", help=of)
    add("--engine", choices=ENGINES, help="that computes the scores (default: onnxruntime where it can, else torch)")
    if dimension != "CF":
        add("--color-prior", type=Path, metavar="JSON", help="color_.json, for a published SCC network")
        add("--attention", choices=("infer", "train"), help="graph of the object attention, published (default: infer)")
    parser.set_defaults(dimension=dimension)

    ray = "score on a Ray cluster: that at ADDRESS, or a new one of this machine (docs/scale.md)"
    parser.groups["run"].add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help=ray)
    if dimension == "SCC":
        parser.groups["run"].add_argument(
            "--maps", type=Path, metavar="DIR", help="also draw where colors are improbable, and list objects in objects.csv"
        )
    return parser


def add_folder_arguments(parser: ScriptParser, name: str) -> None:
    """Add the arguments for the images, the score files and the device; ``name`` ends the name of the score file."""
    parser.groups["data"].add_argument(
        "images",
        type=Path,
        metavar="FOLDER",
        help="searched recursively; or one image, a .txt list, tar shards such as 'a/{000..012}.tar', a Parquet or Arrow table",
    )
    add = parser.groups["run"].add_argument
    add("-o", "--output", type=Path, metavar="CSV", help=f"score file (default: results/FOLDER_{name}.csv)")
    add("--json", type=Path, metavar="FILE", help="also write {stem: score}, the published form")
    add("--overwrite", action="store_true", help="score all images anew, not only those without a score")
    add("--device", help="cpu, cuda, or a list such as cuda:0,cuda:1 (default: every GPU, else the CPU)")
    add("--workers", type=int, help="images worked on at a time (default: one per core; on a GPU, three batches)")


def add_system_arguments(parser: ScriptParser) -> None:
    """Add the arguments that choose a published system and its settings."""
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
    add("--naturalness", action="store_true", help="afine: only the part that needs no original")


def network_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of ``--set`` and ``--naturalness`` by name; values are read as JSON, else as text.

    Raises:
        ValueError: If a setting is not of the form NAME=VALUE, or --naturalness is for another system.
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
            raise ValueError(f"--naturalness is for afine, not for {args.system}")
        settings["full_reference"] = False
    return settings

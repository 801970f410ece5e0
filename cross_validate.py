"""Train and test CF, SCC and PR again and again: splits by scene, left-out colorizers, another data set, the official folders.

    python cross_validate.py --protocol scene --repeats 10 --root data/HECD --output runs/scene
    python cross_validate.py --protocol cross --train-root ICQA_2K --root data/HECD --output runs/cross --epochs 5
    python cross_validate.py --protocol scene --repeats 1 --root data/HECD --output runs/try --epochs 1 --limit 32 --no-augment

All other flags are passed to train_CF.py, train_SCC.py and train_PR.py; flags that only train_SCC.py has, such as --labels, are
passed to train_SCC.py alone.

--output receives trials.csv, protocol.csv, protocol.md, and one folder per trial. Finished trials are not run again.
"""

from utils import interrupt  # first, so that Ctrl-C is heard

# isort: split

import argparse
import sys
from pathlib import Path

from utils.arguments import ScriptParser
from utils.choices import PROTOCOLS

_SCC_ALONE = ("--labels", "--color-prior", "--attention", "--prior", "--object-prior")  # flags that only train_SCC.py has


def parse_args() -> argparse.Namespace:
    usage = "%(prog)s --protocol NAME --root DIR --output DIR [options] [flags of the training scripts]"
    parser = ScriptParser(__doc__, usage, ("data", "run"), allow_abbrev=False)
    add = parser.groups["data"].add_argument
    add("--protocol", choices=PROTOCOLS, required=True, help=", ".join(PROTOCOLS))
    add("--root", type=Path, required=True, metavar="DIR", help="data set to test on")
    add("--train-root", type=Path, metavar="DIR", help="data set that --protocol cross trains on")
    add("--mos-range", type=float, nargs=2, default=(-1.0, 1.0), metavar=("LOW", "HIGH"), help="of the MOS (default: -1 1)")
    add("--repeats", type=int, default=10, metavar="N", help="splits of --protocol scene (default: %(default)s)")
    add("--folds", type=int, default=5, metavar="K", help="folds of the out-of-fold predictions (default: %(default)s)")
    add = parser.groups["run"].add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the trials and the tables")
    add("--seed", type=int, default=0, help="seed of the splits and the training (default: %(default)s)")
    parser.limits["folds"] = (2, 10**4)
    args, flags = parser.parse_known_args()
    if (args.protocol == "cross") != (args.train_root is not None):
        parser.error("--protocol cross and --train-root need each other")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output must be a folder, {args.output} is a file")
    args.options, args.scc_options = split_flags(flags)
    args.scc_scoring = []
    if "published" in args.options:
        args.scc_scoring = ["--labels", args.root / "labels", "--color-prior", args.root / "color_.json"]
        args.scc_options += args.scc_scoring
    return args


def split_flags(flags: list[str]) -> tuple[list[str], list[str]]:
    """Return the flags for all three training scripts, and the flags for train_SCC.py alone; values stay with their flag."""
    shared: list[str] = []
    scc: list[str] = []
    for text in flags:
        if text.startswith("--"):
            group = scc if text.partition("=")[0] in _SCC_ALONE else shared
        elif not (shared or scc):
            group = shared
        group.append(text)
    return shared, scc


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

from evaluation.agreement import PUBLISHED_SRCC
from evaluation.protocols import TrialError, run_protocol


def main() -> None:
    args = parse_args()
    run_protocol(args, PUBLISHED_SRCC if args.protocol == "official" else None)


if __name__ == "__main__":
    try:
        interrupt.hear()  # a script that is called here must end too
        main()
    except (OSError, ValueError, TrialError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        interrupt.deafen()
        print("interrupted: run the same command again; what it trained is kept", file=sys.stderr)
        interrupt.leave(130)

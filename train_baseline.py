"""Train a published system as a baseline: DPAM, Delegate Transformer, A-FINE, NR- or FR-AIGCIQA.

    python train_baseline.py nr_aigciqa --data data/HECD --output runs/nr                    # CF, SCC and PR at once
    python train_baseline.py fr_aigciqa --data ICQA_2K --target PR --reference COCO --output runs/fr      # with originals
    python train_baseline.py dpam --data koniq.csv --target MOS --output runs/dpam   # tools/convert_labels.py made koniq.csv
    python train_baseline.py nr_aigciqa --data ICQA_2K --target PR --test-data data/HECD --output runs/x  # another data set
    python train_baseline.py nr_aigciqa --data ICQA_2K --test-methods DDColor CT2 --output runs/y         # other generators
    python train_baseline.py nr_aigciqa --data data/HECD --output runs/try/nr --random-init --set backbone=resnet18 size=64 \\
        --epochs 1 --limit 32                                                                # a check of a minute on a CPU

Data, splits, files and ``--resume`` are those of train_CF.py. Defaults are the recipe of the system's authors, but for the
choice of the epoch, by scenes that are neither trained on nor tested. docs/baselines.md says what each system needs.
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from utils.arguments import (
    ScriptParser,
    add_fold_arguments,
    add_run_arguments,
    add_split_arguments,
    add_start_arguments,
    add_system_arguments,
    check_parts,
    settings_of,
)

# Of the authors, docs/baselines.md. AIGCIQA's rate is that of its backbone, A-FINE's that of the stage.
_RECIPES: dict[str, dict[str, Any]] = {
    "dpam": {"optimizer": "adam", "lr": 1e-5, "weight_decay": 1e-5, "batch_size": 12, "epochs": [200], "schedule": "cosine"},
    "delegate_transformer": {
        "optimizer": "adam",
        "lr": 1e-5,
        "weight_decay": 0.0,
        "batch_size": 16,
        "epochs": [40],
        "schedule": "constant",
    },
    "afine": {
        "optimizer": "adamw",
        "weight_decay": 1e-3,
        "betas": (0.9, 0.99),
        "epochs": [60, 100, 100],
        "schedule": "restarts",
    },
    "nr_aigciqa": {
        "optimizer": "adam",
        "weight_decay": 1e-5,
        "batch_size": 8,
        "epochs": [100],
        "schedule": "constant",
    },
}
_RECIPES["fr_aigciqa"] = _RECIPES["nr_aigciqa"]


def parse_args() -> argparse.Namespace:
    usage = "%(prog)s MODEL --data PATH --output DIR [options]"
    parser = ScriptParser(__doc__, usage)
    add_system_arguments(parser)
    add = parser.groups["data"].add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="PATH", help="HECD, ICQA-2K, CSV; PATH:N for N images")
    add("--target", nargs="+", metavar="COL", help="ratings to learn (default: those of CF, SCC, PR there are)")
    add("--reference", type=Path, metavar="DIR", help="originals, or a CSV of image and reference")
    add("--test-data", type=Path, nargs="+", metavar="PATH", help="test on this, train on all of --data")
    add("--test-target", nargs="+", metavar="COL", help="as --target, in its order")
    add("--test-reference", type=Path, metavar="DIR", help="as --reference, of what is tested on")
    add("--test-mos-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="as --mos-range, of what is tested on")
    add("--test-methods", nargs="+", metavar="NAME", help="colorizers to test on and not to train on")
    parser.replaced(
        ("--label", "--form", "--images", "--test-label", "--test-form", "--test-images"),
        "tools/convert_labels.py makes a table of a label file, for --data and --test-data",
    )
    add_split_arguments(parser)
    add_fold_arguments(parser)
    add = parser.groups["model"].add_argument
    add("--weights", type=Path, metavar="FILE", help="start from a checkpoint or authors' file")
    add_start_arguments(parser)
    add = parser.groups["optimization"].add_argument
    add("--epochs", type=int, nargs="+", metavar="N", help="(by model: 200, 40, 60 100 100, 100, 100)")
    add("--batch-size", type=int, metavar="N", help="pictures (by model: 12, 16, 32 128 128, 8, 8)")
    add("--lr", type=float, help="learning rate (default: the authors')")
    add("--backbone-lr", type=float, metavar="LR", help="of start weights; 0 freezes (default: --lr)")
    add("--weight-decay", type=float, metavar="W", help="(default: the authors')")
    add("--warmup", type=float, default=0.0, help="share of steps with rising rate (default: 0)")
    add("--clip", type=float, default=0.0, help="largest gradient norm (default: 0, any)")
    add("--patience", type=int, metavar="N", help="epochs without a better one to stop after")
    add("--best-epoch", action=argparse.BooleanOptionalAction, default=True, help="keep the best epoch, not the last")
    add("--optimizer", choices=("adamw", "adam"), help="(default: the authors')")
    add("--schedule", choices=("cosine", "constant", "restarts"), metavar="NAME", help="of rates: cosine, constant, restarts")
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="the system's own views")

    add_run_arguments(parser)
    add = parser.groups["run"].add_argument
    add("--cache", type=Path, metavar="DIR", help="of superpixels (default: runs/cache)")
    add("--cache-gb", type=float, default=8, metavar="GB", help="afine: memory for features (default: 8)")
    parser.set_defaults(
        preset="baseline", strict_recipe=False, correlation_weight=0.0, stop_loss=None, betas=(0.9, 0.999), test=None
    )
    known, _ = parser.parse_known_args()
    parser.set_defaults(**_RECIPES[known.system])
    args = parser.parse_args()

    args.elsewhere = args.test_data is not None
    if not args.elsewhere and (args.test_target or args.test_reference or args.test_mos_range):
        parser.error("--test-target, --test-reference and --test-mos-range go with --test-data")
    if args.elsewhere and (args.test_methods or args.test or args.folds):
        parser.error("--test-data is the test part; leave out --test, --test-methods and --folds")
    if args.test_methods and args.folds:
        parser.error("--folds predicts all pictures; leave it out with --test-methods")
    if args.test is None:
        args.test = 0.0 if args.elsewhere else 0.2
    check_parts(parser, args)
    if args.weights is not None and (args.backbone_weights or args.random_init):
        parser.error("--weights are those of the whole network; leave out --backbone-weights and --random-init")
    stages = 3 if args.system == "afine" else 1
    if len(args.epochs) == 1:
        args.epochs = args.epochs * stages
    if len(args.epochs) != stages:
        parser.error(f"--epochs: expected {'one number or three' if stages == 3 else 'one number'}, got {len(args.epochs)}")
    if args.schedule == "restarts" and args.system != "afine":
        parser.error("--schedule restarts is A-FINE's")
    args.init = args.weights
    try:
        args.settings = settings_of(args)
    except ValueError as error:
        parser.error(str(error))
    return args


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch

from baselines.afine import STAGES, learning_rate
from baselines.command import load_baseline
from baselines.pictures import check_originals, with_originals
from baselines.scorer import Baseline
from baselines.train import baseline_maker
from data.table import REFERENCE, TEXT_COLUMNS, WITHIN_SCENES, counted, join_data, load_dataset, rated, spread, with_paths
from models.base import ScoreNet
from training.engine import FeatureSet, OwnViews, agreement, command_line, encode_set, fit, predict
from training.runs import (
    Part,
    check_ratings,
    divide,
    features_folder,
    one_line_errors,
    run_folder,
    settle_scenes,
    settle_seed,
    train_and_test,
)
from utils import distributed
from utils.checkpoint import save_checkpoint
from utils.files import picture_id, sha256
from utils.scores import DIMENSIONS


def load_rated(
    data: list[Path], reference: Path | None, target: list[str] | None, mos_range: tuple[float, float]
) -> tuple[pd.DataFrame, list[str]]:
    """Read images with ratings and originals.

    Returns:
        One table, and the names of the ratings. Its ``attrs["within scenes"]`` says whether ratings compare within a scene
        only, as those made of choices do.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        ValueError: If a file cannot be read, or has not the ratings that are wanted.
    """
    frames, known, within_scenes = [], [], False
    wanted = dict.fromkeys([*DIMENSIONS, *(name for name in target or () if name not in TEXT_COLUMNS)])
    for named in data:
        source, most = counted(named)
        frame = with_paths(load_dataset(source, mos_range=tuple(mos_range), ratings=list(wanted)))
        known += [name for name in wanted if name in frame and frame[name].notna().any() and name not in known]
        within_scenes = within_scenes or (WITHIN_SCENES in frame and (frame[WITHIN_SCENES] == "1").any())
        frame = with_originals(frame, reference)
        frames.append((str(source), frame if most is None else spread(frame, most)))
    columns = list(dict.fromkeys(target or known))
    unknown = [column for column in columns if column not in known]
    if unknown:
        sources = ", ".join(source for source, _ in frames)
        raise ValueError(f"no picture in {sources} has a {unknown[0]} rating; there are {', '.join(known) or 'none'}")
    joined = join_data(frames, columns)
    if reference is not None:
        check_originals(reference, list(joined["path"]), list(joined[REFERENCE]))
    joined.attrs["within scenes"] = within_scenes
    return joined, columns


def load_test_data(args: argparse.Namespace, frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The pictures of ``--test-data``, their ratings under the names that are trained on.

    Raises:
        ValueError: If a picture of it is among those to train on, or the numbers of ratings differ.
    """
    wanted = args.test_target or columns
    if len(wanted) != len(columns):
        raise ValueError(f"--test-target names {len(wanted)} ratings, but {len(columns)} are learned: {', '.join(columns)}")
    mos_range = args.test_mos_range or args.mos_range
    other, _ = load_rated(args.test_data, args.test_reference, wanted, mos_range)
    trained_on = {picture_id(path) for path in frame["path"]}
    both = [path for path in other["path"] if picture_id(path) in trained_on]
    if both:
        raise ValueError(f"{len(both)} of {len(other)} test pictures are trained on too, e.g. {both[0]}; take them out of one")
    shared = set(other["scene"]) & set(frame["scene"])
    if shared:
        print(
            f"WARNING: {len(shared)} of {other['scene'].nunique()} test scenes have the name of one that is trained on, e.g. "
            f"{min(shared)}; if it is the same photograph, results are not those of unseen scenes"
        )
    ratings = {column: other[name] for column, name in zip(columns, wanted, strict=True)}
    # named from where the pictures to train on lie, for one of those may have the same name
    names = [Path(os.path.relpath(path, frame.attrs["root"])).as_posix() for path in other["path"]]
    return rated(other.assign(image=names, **ratings), columns)


def leave_out(parts: dict[str, pd.DataFrame], methods: list[str]) -> dict[str, pd.DataFrame]:
    """Train and validate without some colorizers, test on them alone.

    Raises:
        ValueError: If one of them has no test picture, or nothing is left to train on.
    """
    known = sorted(set(parts["test"]["method"]))
    absent = [method for method in methods if method not in known]
    if absent:
        raise ValueError(f"no test picture is by {', '.join(absent)}; they are by {', '.join(known).strip() or 'nobody named'}")
    chosen = {}
    for name, part in parts.items():
        theirs = part["method"].isin(methods)
        chosen[name] = part[theirs if name == "test" else ~theirs].reset_index(drop=True)
        chosen[name].attrs = part.attrs
    if chosen["train"].empty:
        raise ValueError(f"--test-methods {' '.join(methods)} leaves nothing to train on")
    print(f"tested on {', '.join(methods)}: " + ", ".join(f"{name} {len(part)} pictures" for name, part in chosen.items()))
    return chosen


def make_model(args: argparse.Namespace, columns: list[str]) -> Baseline:
    """A network with its start weights, the same at every call."""
    torch.manual_seed(args.seed)
    if args.weights is not None:
        model = load_baseline(args, columns)
    else:
        model = Baseline(args.system, columns, args.settings)
        print("start weights: random" if args.random_init else model.start(args.backbone_weights))
    if (args.reference is not None or args.test_reference is not None) and not model.uses_reference:
        raise ValueError(f"{args.system} looks at pictures alone as it is set; leave out --reference and --test-reference")
    if model.network.config.get("native", False):
        if args.weights is None:
            raise ValueError("--set native=true is for scoring: pictures of a batch have one size, see --set size")
        model.network.config["native"] = False
        print(f"pictures are resized to {model.size} pixels, as a batch must be of one size; see --set size")
    return model


def fit_at_own_rate(model: Baseline, train_set: Part, val_set: Part | None, args: argparse.Namespace, *more: Any) -> ScoreNet:
    """``fit`` with the rate of the authors where none is asked for; AIGCIQA's is that of its backbone."""
    own = argparse.Namespace(**vars(args))
    own.lr = model.network.learning_rate if args.lr is None else args.lr
    own.backbone_lr = own.lr if args.backbone_lr is None else args.backbone_lr
    return fit(model, train_set, val_set, own, *more)


def fit_stages(
    model: Baseline, train_set: Part, val_set: Part | None, args: argparse.Namespace, output: Path, record: dict[str, Any]
) -> ScoreNet:
    """``fit`` for A-FINE: its stages one after the other, each in a folder of its own, or the first for naturalness alone.

    1 trains tower and naturalness, 2 the weights of the fidelity, 3 both maps and k. The last two leave the tower alone, so
    that its moments are kept, where there is room.
    """
    device = torch.device(args.device)
    stages = (1, 2, 3) if model.uses_reference else (1,)
    moment_bytes = 4 * 5 * (3 + model.network.config["depth"] * model.network.config["width"])  # of a picture
    sets = [train_set, val_set]
    for stage in stages:
        model.set_stage(stage)
        model.within_scenes = args.within_scenes
        rate, batch = STAGES[stage]
        own = argparse.Namespace(**vars(args))
        own.epochs, own.batch_size = args.epochs[stage - 1], args.batch_size or batch
        own.lr = rate if args.lr is None else args.lr
        own.backbone_lr = own.lr if args.backbone_lr is None else args.backbone_lr
        if stage > 1:
            own.backbone_lr, own.augment = own.lr, False  # the tower is no part of it in any case
            room = moment_bytes * len(train_set) <= args.cache_gb * (1 << 30)
            if stage == 2 and room and isinstance(train_set, OwnViews):
                sets = [s and encode_moments(args, model.to(device), s, f"{output.name}_{i}") for i, s in enumerate(sets)]
        print(f"stage {stage} of {len(stages)}: {own.epochs} epochs, rate {own.lr:g}, batches of {own.batch_size}")
        model = fit(model, *sets, own, output / f"stage{stage}", record, learning_rate)
        if stage == 1:
            model.set_stage(1)
            if isinstance(train_set, OwnViews):
                train_set.epoch.fill_(0)
                plain = train_set
            else:  # views drawn at random would be others after a --resume
                plain = train_set.subset(np.arange(len(train_set)), train_set.mos.numpy(), None, 1)
            raw = -predict(model, plain, device, args.workers).reshape(len(train_set), -1)
            model.network.fit_naturalness_map(raw, train_set.mos.reshape(raw.shape))
    model.set_stage(None)
    if distributed.is_main():
        metrics = {}
        if val_set is not None:
            metrics = agreement(predict(model, val_set, device, args.workers).numpy(), val_set.mos.numpy(), model.columns)
        save_checkpoint(output / "best.pt", model, half=args.half, **record, metrics=metrics, command=command_line())
        model.weights_hash = sha256(output / "best.pt")
    distributed.barrier()
    return model.eval()


def encode_moments(args: argparse.Namespace, model: Baseline, pictures: OwnViews, name: str) -> FeatureSet:
    """What stages 2 and 3 read of each picture and its original, which the tower no longer changes."""
    frame = pd.DataFrame({"path": pictures.paths, REFERENCE: pictures.originals})
    keep = features_folder(args, model, frame, f"moments_{name}")
    return encode_set(model, pictures, torch.device(args.device), 1, args.seed, args.workers, keep)


def main() -> None:
    one_line_errors()
    args = parse_args()
    args.device = distributed.setup(args.device)
    with run_folder(args, args.system):
        train(args)


def train(args: argparse.Namespace) -> None:
    """Read the data, divide them, train and test."""
    settle_seed(args)
    frame, columns = load_rated(args.data, args.reference, args.target, args.mos_range)
    args.columns, args.within_scenes = columns, frame.attrs["within scenes"]
    if args.elsewhere:
        other = load_test_data(args, frame, columns)
        frame = frame.drop(columns="split", errors="ignore")  # all of it is trained on
    frame = settle_scenes(args, frame)
    parts = divide(args, frame, columns)
    if args.elsewhere:
        parts["test"] = other
    if args.test_methods:
        parts = leave_out(parts, args.test_methods)
        check_ratings(parts["train"], columns)
    fit_all = fit_stages
    if args.system != "afine":
        fit_all, args.epochs = fit_at_own_rate, args.epochs[0]
    train_and_test(args, frame, parts, partial(make_model, args, columns), fit_all, baseline_maker)


if __name__ == "__main__":
    main()

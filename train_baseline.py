"""Train a published system as a baseline: DPAM, Delegate Transformer, A-FINE, NR- or FR-AIGCIQA.

    python train_baseline.py nr_aigciqa --data data/HECD --output runs/nr                    # CF, SCC and PR at once
    python train_baseline.py fr_aigciqa --data ICQA_2K --target PR --reference COCO --output runs/fr      # with originals
    python train_baseline.py dpam --data koniq.csv --target MOS --output runs/dpam   # tools/convert_labels.py made koniq.csv
    python train_baseline.py nr_aigciqa --data ICQA_2K --target PR --test-data data/HECD --output runs/x  # another data set
    python train_baseline.py nr_aigciqa --data ICQA_2K --test-methods DDColor CT2 --output runs/y         # other generators
    python train_baseline.py nr_aigciqa --data data/HECD --output runs/try/nr --random-init --set backbone=resnet18 size=64 \\
        --epochs 1 --limit 32                                                                # a check, one minute on a CPU

Data, splits, files and ``--resume`` are the same as in train_CF.py. Defaults are the recipe of the system's authors; only the
epoch is chosen by scenes that are neither trained on nor tested. docs/baselines.md lists the needs of each system.
"""

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

# isort: split

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.options import (
    TrainOptions,
    add_fold_arguments,
    add_run_arguments,
    add_split_arguments,
    add_start_arguments,
    check_parts,
)
from utils.arguments import ScriptParser, add_system_arguments, network_settings

# The common part of the recipes, with the choice of the epoch, which the authors lack.
_COMMON: dict[str, Any] = {
    "preset": "baseline",
    "val": 0.15,  # share of the scenes that choose the epoch
    "test": None,  # share of the scenes that are tested on: 0.2, or 0 with --test-data
    "shared_scenes": "refuse",
    "correlation_weight": 0.0,
    "stop_loss": None,
    "betas": (0.9, 0.999),
    "seed": 0,
    "amp": True,
    "views": 4,  # of each image, where the backbone is frozen
}
# The recipes of the authors, see docs/baselines.md. The rate of AIGCIQA depends on the backbone, that of A-FINE on the stage.
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


@dataclass(frozen=True, kw_only=True)
class BaselineOptions(TrainOptions):
    """Options of train_baseline.py."""

    stage_epochs: list[int]
    weights: Path | None
    target: list[str] | None
    reference: Path | None
    test_data: list[Path] | None
    test_target: list[str] | None
    test_reference: Path | None
    test_mos_range: tuple[float, float] | None
    set: list[str]
    naturalness: bool
    within_scenes: bool = False  # whether ratings compare within a scene only


def parse_args() -> BaselineOptions:
    usage = "%(prog)s MODEL --data PATH --output DIR [options]"
    parser = ScriptParser(__doc__, usage)
    add_system_arguments(parser)
    add = parser.groups["data"].add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="PATH", help="HECD, ICQA-2K, CSV; PATH:N takes N images")
    add("--target", nargs="+", metavar="COL", help="ratings to learn (default: CF, SCC, PR if rated)")
    add("--reference", type=Path, metavar="DIR", help="originals, or a CSV of image and reference")
    add("--test-data", type=Path, nargs="+", metavar="PATH", help="test on these data, train on all of --data")
    add("--test-target", nargs="+", metavar="COL", help="--target for --test-data, in the same order")
    add("--test-reference", type=Path, metavar="DIR", help="--reference for --test-data")
    add("--test-mos-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="--mos-range for --test-data")
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
    add("--batch-size", type=int, metavar="N", help="images (by model: 12, 16, 32 128 128, 8, 8)")
    add("--lr", type=float, help="learning rate (default: the authors')")
    add("--backbone-lr", type=float, metavar="LR", help="learning rate of the backbone; 0 freezes (default: --lr)")
    add("--weight-decay", type=float, metavar="W", help="(default: the authors')")
    add("--warmup", type=float, default=0.0, help="share of steps with rising rate (default: 0)")
    add("--clip", type=float, default=0.0, help="largest gradient norm (default: 0, any)")
    add("--best-epoch", action=argparse.BooleanOptionalAction, default=True, help="keep the best epoch, not the last")
    add(
        "--schedule", choices=("cosine", "constant", "restarts"), metavar="NAME", help="of the rate: cosine, constant, restarts"
    )
    add("--augment", action=argparse.BooleanOptionalAction, default=True, help="the system's own views")

    add_run_arguments(parser)
    add = parser.groups["run"].add_argument
    add("--cache", type=Path, metavar="DIR", help="folder of superpixels (default: runs/cache)")
    parser.replaced(("--patience", "--optimizer"), "change the recipes at the top of the script")
    parser.set_defaults(**_COMMON)
    first, _ = parser.parse_known_args()
    parser.set_defaults(**_RECIPES[first.system])
    return checked_options(parser, parser.parse_args())


def checked_options(parser: ScriptParser, args: argparse.Namespace) -> BaselineOptions:
    """Return the arguments as options; refuse arguments that do not go together."""
    elsewhere = args.test_data is not None
    if not elsewhere and (args.test_target or args.test_reference or args.test_mos_range):
        parser.error("--test-target, --test-reference and --test-mos-range go with --test-data")
    if elsewhere and (args.test_methods or args.test or args.folds):
        parser.error("--test-data is the test part; leave out --test, --test-methods and --folds")
    if args.test_methods and args.folds:
        parser.error("--folds predicts all images; leave it out with --test-methods")
    if args.test is None:
        args.test = 0.0 if elsewhere else 0.2
    if args.weights is not None and (args.backbone_weights or args.random_init):
        parser.error("--weights are those of the whole network; leave out --backbone-weights and --random-init")
    stages = 3 if args.system == "afine" else 1
    args.stage_epochs = args.epochs * stages if len(args.epochs) == 1 else args.epochs
    args.epochs = args.stage_epochs[0]
    if len(args.stage_epochs) != stages:
        expected = "one number or three" if stages == 3 else "one number"
        parser.error(f"--epochs: expected {expected}, got {len(args.stage_epochs)}")
    if args.schedule == "restarts" and args.system != "afine":
        parser.error("--schedule restarts is A-FINE's")
    args.init = args.weights
    try:
        args.settings = network_settings(args)
    except ValueError as error:
        parser.error(str(error))
    options = BaselineOptions(**vars(args))
    check_parts(parser, options)
    return options


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before the slow imports

import numpy as np
import pandas as pd
import torch

from baselines.afine import STAGES, learning_rate
from baselines.command import load_baseline
from baselines.images import check_originals, with_originals
from baselines.scorer import Baseline
from baselines.train import baseline_sets
from data.table import REFERENCE, TEXT_COLUMNS, WITHIN_SCENES, counted, join_data, load_dataset, rated, spread, with_paths
from models.base import ScoreNet
from training.batches import OwnViews
from training.engine import fit, make_optimizer, make_schedule, predict
from training.images import FeatureSet, ImageSet, Sets, encode_set, features_folder, sets_of
from training.records import command_line
from training.runs import (
    Parts,
    apply_shared_scenes_policy,
    check_ratings,
    clear_folder,
    fold_parts,
    open_run,
    out_of_fold,
    score_test_part,
    split_parts,
    training_record,
)
from utils import distributed
from utils.checkpoint import save_checkpoint
from utils.files import image_id, sha256
from utils.metrics import column_correlations
from utils.scores import DIMENSIONS


def load_rated(
    data: list[Path], reference: Path | None, target: list[str] | None, mos_range: tuple[float, float]
) -> tuple[pd.DataFrame, list[str]]:
    """Read images with ratings and originals.

    Returns:
        One table, and the names of the ratings. ``attrs["within scenes"]`` of the table tells whether ratings compare within a
        scene only, such as those made from choices.

    Raises:
        FileNotFoundError: If a file or folder is missing.
        ValueError: If a file cannot be read, or lacks ratings that are wanted.
    """
    frames, available, within_scenes = [], [], False
    wanted = dict.fromkeys([*DIMENSIONS, *(name for name in target or () if name not in TEXT_COLUMNS)])
    for named in data:
        source, most = counted(named)
        frame = with_paths(load_dataset(source, mos_range=tuple(mos_range), ratings=list(wanted)))
        available += [name for name in wanted if name in frame and frame[name].notna().any() and name not in available]
        within_scenes = within_scenes or (WITHIN_SCENES in frame and (frame[WITHIN_SCENES] == "1").any())
        frame = with_originals(frame, reference)
        frames.append((str(source), frame if most is None else spread(frame, most)))
    columns = list(dict.fromkeys(target or available))
    unknown = [column for column in columns if column not in available]
    if unknown:
        sources = ", ".join(source for source, _ in frames)
        raise ValueError(f"no image in {sources} has a {unknown[0]} rating; there are {', '.join(available) or 'none'}")
    joined = join_data(frames, columns)
    if reference is not None:
        check_originals(reference, list(joined["path"]), list(joined[REFERENCE]))
    joined.attrs["within scenes"] = within_scenes
    return joined, columns


def load_test_data(options: BaselineOptions, frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Read the images of ``--test-data``, with their ratings under the names of the training ratings.

    Raises:
        ValueError: If a test image is also a training image, or the numbers of ratings differ.
    """
    wanted = options.test_target or columns
    if len(wanted) != len(columns):
        raise ValueError(f"--test-target names {len(wanted)} ratings, but {len(columns)} are learned: {', '.join(columns)}")
    mos_range = options.test_mos_range or options.mos_range
    other, _ = load_rated(options.test_data or [], options.test_reference, wanted, mos_range)
    trained_on = {image_id(path) for path in frame["path"]}
    both = [path for path in other["path"] if image_id(path) in trained_on]
    if both:
        raise ValueError(f"{len(both)} of {len(other)} test images are trained on too, e.g. {both[0]}; take them out of one")
    shared = set(other["scene"]) & set(frame["scene"])
    if shared:
        print(
            f"WARNING: {len(shared)} of {other['scene'].nunique()} test scenes have the name of one that is trained on, e.g. "
            f"{min(shared)}; if it is the same photograph, results are not those of unseen scenes"
        )
    ratings = {column: other[name] for column, name in zip(columns, wanted, strict=True)}
    # names are relative to the folder of the training images, because one of those may have the same name
    names = [Path(os.path.relpath(path, frame.attrs["root"])).as_posix() for path in other["path"]]
    return rated(other.assign(image=names, **ratings), columns)


def leave_out(parts: Parts, methods: list[str]) -> Parts:
    """Keep some colorizers in the test part alone, and all others in the other parts.

    Raises:
        ValueError: If a colorizer has no test image, or nothing is left to train on.
    """
    tested = sorted(set(parts["test"]["method"]))
    absent = [method for method in methods if method not in tested]
    if absent:
        raise ValueError(f"no test image is by {', '.join(absent)}; they are by {', '.join(tested).strip() or 'nobody named'}")
    chosen = {}
    for name, part in parts.items():
        theirs = part["method"].isin(methods)
        chosen[name] = part[theirs if name == "test" else ~theirs].reset_index(drop=True)
        chosen[name].attrs = part.attrs
    if chosen["train"].empty:
        raise ValueError(f"--test-methods {' '.join(methods)} leaves nothing to train on")
    print(f"tested on {', '.join(methods)}: " + ", ".join(f"{name} {len(part)} images" for name, part in chosen.items()))
    return chosen


def make_model(options: BaselineOptions, columns: list[str]) -> Baseline:
    """Return a network with its start weights, the same at every call."""
    torch.manual_seed(options.seed)
    if options.weights is not None:
        model = load_baseline(options, columns)
    else:
        model = Baseline(options.system, columns, options.settings)
        print("start weights: random" if options.random_init else model.start(options.backbone_weights))
    if (options.reference is not None or options.test_reference is not None) and not model.uses_reference:
        raise ValueError(f"{options.system} looks at images alone as it is set; leave out --reference and --test-reference")
    if model.network.config.get("native", False):
        if options.weights is None:
            raise ValueError("--set native=true is for scoring: images of a batch have one size, see --set size")
        model.network.config["native"] = False
        print(f"images are resized to {model.size} pixels, as a batch must be of one size; see --set size")
    return model


def train(options: BaselineOptions, start: Baseline, sets: Sets, output: Path | None, record: dict[str, Any]) -> ScoreNet:
    """Train a network from its start weights: A-FINE in stages, other systems at once."""
    if options.system == "afine" and output is not None:
        return fit_stages(options, start, sets, output, record)
    # the rate of the authors where none is given; that of AIGCIQA depends on the backbone
    options = at_rate(options, start.network.learning_rate if options.lr is None else options.lr)
    return fit(start, make_optimizer(start, options), make_schedule(options), sets, options, output, record)


def at_rate(options: BaselineOptions, lr: float) -> BaselineOptions:
    """Return the options with this rate, also for the backbone if the options give none."""
    return replace(options, lr=lr, backbone_lr=lr if options.backbone_lr is None else options.backbone_lr)


def fit_stages(options: BaselineOptions, model: Baseline, sets: Sets, output: Path, record: dict[str, Any]) -> ScoreNet:
    """Train the stages of A-FINE one after the other, each in a folder of its own; naturalness alone has only the first.

    Stage 1 trains tower and naturalness, stage 2 the weights of the fidelity, stage 3 both maps and k. The last two leave the
    tower unchanged, so that its moments are kept in memory if there is room.
    """
    device = torch.device(options.device)
    stages = (1, 2, 3) if model.uses_reference else (1,)
    train_set, val_set = sets["train"], sets["val"]
    moment_bytes = 4 * 5 * (3 + model.network.config["depth"] * model.network.config["width"])  # of an image
    room = moment_bytes * len(train_set) <= options.cache_gb * (1 << 30)
    shape = (lambda step, steps, _: learning_rate(step, steps, 1.0)) if options.schedule == "restarts" else None
    for stage in stages:
        model.set_stage(stage)
        model.within_scenes = options.within_scenes
        rate, batch = STAGES[stage]
        staged = at_rate(options, rate if options.lr is None else options.lr)
        staged = replace(staged, epochs=options.stage_epochs[stage - 1], batch_size=options.batch_size or batch)
        if stage > 1:
            staged = replace(staged, backbone_lr=staged.lr, augment=False)  # the tower is not trained in any case
        if stage == 2 and room and isinstance(train_set, OwnViews):
            named = {f"{output.name}_{i}": images for i, images in enumerate((train_set, val_set))}
            moments = [images and encode_moments(options, model.to(device), images, name) for name, images in named.items()]
            sets = dict(zip(("train", "val"), moments, strict=True))
        print(f"stage {stage} of {len(stages)}: {staged.epochs} epochs, rate {staged.lr:g}, batches of {staged.batch_size}")
        schedule = make_schedule(staged, shape)
        model = fit(model, make_optimizer(model, staged), schedule, sets, staged, output / f"stage{stage}", record)
        if stage == 1:
            model.set_stage(1)
            fit_map(model, train_set, device, options.workers)
    model.set_stage(None)
    if distributed.is_main():
        metrics = {}
        if val_set is not None:
            pred = predict(model, val_set, device, options.workers).numpy()
            metrics = column_correlations(pred, val_set.mos.numpy(), model.columns)
        save_checkpoint(output / "best.pt", model, half=options.half, **record, metrics=metrics, command=command_line())
        model.weights_hash = sha256(output / "best.pt")
    distributed.barrier()
    return model.eval()


def fit_map(model: Baseline, train_set: ImageSet, device: torch.device, workers: int) -> None:
    """Fit the map of naturalness to the ratings by plain views, because random views would differ after a --resume."""
    if isinstance(train_set, OwnViews):
        train_set.epoch.fill_(0)
        plain = train_set
    else:
        plain = train_set.subset(np.arange(len(train_set)), 1)
    raw = -predict(model, plain, device, workers).reshape(len(train_set), -1)
    model.network.fit_naturalness_map(raw, train_set.mos.reshape(raw.shape))


def encode_moments(options: BaselineOptions, model: Baseline, images: OwnViews, name: str) -> FeatureSet:
    """Return the moments of each image and its original, which stages 2 and 3 read in place of the images."""
    frame = pd.DataFrame({"path": images.paths, REFERENCE: images.originals})
    keep = features_folder(options.output, model, frame, [options.seed, []], f"moments_{name}")
    return encode_set(model, images, torch.device(options.device), 1, options.seed, options.workers, keep)


def main() -> None:
    options = parse_args()
    with open_run(options, str(options.system)) as options:
        # Data: a row per image, with its ratings
        frame, columns = load_rated(options.data, options.reference, options.target, options.mos_range)
        options = replace(options, columns=columns, within_scenes=frame.attrs["within scenes"])
        if options.test_data is not None:
            other = load_test_data(options, frame, columns)
            frame = frame.drop(columns="split", errors="ignore")  # all of it is trained on
        frame = apply_shared_scenes_policy(options, frame)

        # Split, by scene
        parts = split_parts(options, frame, columns)
        if options.test_data is not None:
            parts["test"] = other
        if options.test_methods:
            parts = leave_out(parts, options.test_methods)
            check_ratings(parts["train"], columns)
        rest, folds = fold_parts(options, frame, parts, columns)

        # Network, and its image sets
        start = make_model(options, columns)
        images = baseline_sets(options, start, [*parts.values(), rest])
        sets = sets_of(images, parts)
        clear_folder(options.output, options.overwrite)

        # Optimizer, schedule and loop
        model = train(options, start, sets, options.output, training_record(options, parts, columns))

        # Test, once
        score_test_part(options, model, parts["test"], sets["test"])

        # Out-of-fold predictions
        def train_fold(fold: Parts, output: Path) -> ScoreNet:
            fresh = make_model(options, columns)
            return train(options, fresh, sets_of(images, fold), output, training_record(options, fold, columns))

        out_of_fold(options, train_fold, images, rest, folds)


if __name__ == "__main__":
    main()

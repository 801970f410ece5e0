"""From command-line arguments to data, start weights and records: what the three training scripts do around ``fit``."""

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data.splits import apply_split, check_disjoint, read_split, scene_folds, shared_scenes, split_by_scene, write_split
from data.table import REFERENCE, counted, load_data, rated, select, spread
from models import SemanticConsistencyNet
from models.backbone import UnreachableError, load_pretrained
from models.base import CompactNet, Inputs, ScoreNet
from models.loading import load_model, networks_of
from models.published import load_start_weights
from models.ranker import shipped_ranker
from training.engine import NEXT, FeatureSet, OwnViews, agreement, encode_set, fit, predict, write_results
from training.pictures import PublishedPictures, RatedPictures
from utils import distributed, interrupt
from utils.checkpoint import read_checkpoint, read_weights, seen_by
from utils.files import give_lock, picture_id, sha256, take_lock, write_atomic
from utils.labels import ObjectLabels, read_color_curves
from utils.metrics import within_scene_srcc
from utils.names import match_names
from utils.scores import Provenance, ScoreWriter, fingerprint, join_scores, missing_scores, read_scores

VIEWS = 4  # of each training picture, where the backbone is frozen and pictures are augmented


def one_line_errors(advice: str = "run the same command again with --resume to go on") -> None:
    """Let wrong input and Ctrl-C end the process with one line, as in the inference scripts; a bug keeps its traceback.

    Args:
        advice: What to do after Ctrl-C.
    """
    interrupt.hear()
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, (OSError, ValueError, UnreachableError)):
            text = str(error)
            if text.startswith("Caught "):  # of a process that reads pictures, which puts its traceback before it
                text = text.rpartition(f"{kind.__name__}: ")[2]
            print(f"error: {text.strip()}", file=sys.stderr)
        elif issubclass(kind, KeyboardInterrupt):
            interrupt.deafen()
            print(f"interrupted: {advice}", file=sys.stderr)
            interrupt.leave(130)
        else:
            usual(kind, error, trace)

    sys.excepthook = hook


@contextlib.contextmanager
def run_folder(args: argparse.Namespace, dimension: str) -> Iterator[None]:
    """Hold the folder of a run: no other run writes there, and no earlier one is overwritten unasked.

    Args:
        args: Arguments of the script.
        dimension: What the script trains.

    Raises:
        BlockingIOError: If another run holds the folder.
        ValueError: If weights of an earlier run lie there and nothing is to become of them, or they are of another dimension.
    """
    if not distributed.is_main():  # the main process speaks for all
        yield
        return
    args.output.mkdir(parents=True, exist_ok=True)
    lock = args.output / ".lock"
    holder = take_lock(lock, f"is training into {args.output}; wait for it, or pass another --output")
    try:
        for left in args.output.rglob(".*.tmp"):  # by runs that were killed
            left.unlink()
        weights = [path for path in earlier_files(args.output) if path.name in ("best.pt", "last.pt")]
        if weights and not (args.resume or args.overwrite):
            raise ValueError(
                f"{weights[0]} is there from an earlier run; pass --resume to go on with that run, --overwrite to train anew, "
                "or another --output"
            )
        if weights and args.resume:
            earlier = read_checkpoint(weights[0]).get("dimension")
            if earlier != dimension:
                raise ValueError(f"{args.output} holds a run of {earlier}, not of {dimension}; pass another --output")
        yield
    finally:
        give_lock(lock, holder)
        with contextlib.suppress(OSError):
            args.output.rmdir()  # if nothing came of the run


def earlier_files(output: Path) -> list[Path]:
    """Files that a run wrote into its folder, those of its stages and folds included."""
    names = (
        "best.pt",
        "last.pt",
        NEXT,
        "metrics.csv",
        "curves.png",
        "test.json",
        "test.csv",
        "tensorboard/events.out.tfevents.*",
    )
    folders = ("", "fold[0-9]*/", "stage[0-9]*/", "fold[0-9]*/stage[0-9]*/")
    return [path for folder in folders for name in names for path in sorted(output.glob(folder + name))]


def clear_folder(args: argparse.Namespace) -> None:
    """Remove the files of an earlier run, which neither a reader nor a later ``--resume`` must take for those of this one."""
    if args.overwrite and distributed.is_main():
        for path in earlier_files(args.output):
            path.unlink()


def settle_scenes(args: argparse.Namespace, frame: pd.DataFrame) -> pd.DataFrame:
    """What is to become of given train and test pictures that share scenes, as ``--shared-scenes`` says.

    Returns:
        The table; without its column ``split`` if all pictures are to be split anew.

    Raises:
        ValueError: If they share scenes and nothing is said of it; names one.
    """
    shared = shared_scenes(frame)
    if not shared:
        return frame
    print(f"WARNING: the given train and test pictures share {len(shared)} of {frame['scene'].nunique()} scenes")
    if args.shared_scenes == "keep":
        print("they are kept as they are: test results are in part those of scenes trained on")
        return frame
    if args.shared_scenes == "resplit":
        anew = frame.drop(columns="split")
        anew.attrs = frame.attrs
        return anew
    raise ValueError(
        f"the given train and test pictures share {len(shared)} scenes, e.g. {min(shared)}, so test results would not "
        "be those of unseen scenes; pass --shared-scenes keep to take both as they are, as published, or "
        "--shared-scenes resplit to split all pictures anew by scene"
    )


def divide(args: argparse.Namespace, frame: pd.DataFrame, columns: list[str]) -> dict[str, pd.DataFrame]:
    """Train, validation and test part by scene, written to ``split.txt`` beside the run; rated pictures only.

    Args:
        args: Arguments of the script.
        frame: What ``settle_scenes`` gave. Given test pictures that share scenes with the others are the test part.
        columns: The ratings that count, such as ["CF"].

    Raises:
        ValueError: If two other parts share a scene; names it.
    """
    recorded = args.output / "split.txt"
    fixed = frame.iloc[:0]  # test pictures whose scenes are also trained on; no split by scene can say so
    if shared_scenes(frame):
        fixed, frame = select(frame, frame["split"] == "test"), select(frame, frame["split"] != "test")
    if args.strict_recipe and "split" not in frame and args.split is None:
        print(
            "WARNING: no test pictures are given and no seed, so each network gets a split of its own; pass --split or --seed"
        )
    if args.resume and recorded.is_file():
        parts = apply_split(frame, read_split(recorded))
    elif args.split is not None:
        parts = apply_split(frame, read_split(args.split))
    else:
        parts = split_by_scene(frame, args.val, 0 if len(fixed) else args.test, args.seed)
    check_disjoint(**parts)
    if distributed.is_main():
        write_split(parts, recorded)
    if len(fixed):
        parts["test"] = fixed
    parts = {name: rated(part, columns) for name, part in parts.items()}
    if args.limit is not None:
        parts = {name: spread(part, args.limit if name == "train" else max(8, args.limit // 4)) for name, part in parts.items()}
    check_ratings(parts["train"], columns)
    print(", ".join(f"{name}: {len(p)} pictures of {p['scene'].nunique()} scenes" for name, p in parts.items()))
    return parts


def check_ratings(frame: pd.DataFrame, columns: list[str], of: str = "") -> None:
    """Check that there is something to learn from.

    Args:
        frame: The images to train on.
        columns: Names of the ratings.
        of: Where the images belong, for the message.

    Raises:
        ValueError: If fewer than two different ratings are there; says what there is.
    """
    values = {column: frame[column].dropna() for column in columns}
    if any(ratings.nunique() > 1 for ratings in values.values()):
        return
    name, ratings = max(values.items(), key=lambda item: len(item[1]))
    if ratings.empty:
        found = f"no training scene{of} has a {' or '.join(columns)} rating"
    elif len(ratings) == 1:
        found = f"a single training image{of} has a {name} rating"
    else:
        found = f"all {len(ratings)} training images{of} have the {name} rating {ratings.iloc[0]:g}"
    raise ValueError(
        f"{found}, and a network cannot learn an order from that; take more ratings, or another --seed, --split or --limit"
    )


def settle_seed(args: argparse.Namespace) -> None:
    """Where ``--seed none`` asks for another seed each time, draw one; a resumed run keeps its own."""
    if args.seed is None:
        last = args.output / "last.pt"
        begun = read_checkpoint(last).get("settings", {}).get("seed") if args.resume and last.is_file() else None
        args.seed = distributed.broadcast(secrets.randbelow(1 << 31) if begun is None else begun)
        print(f"seed: {args.seed}, drawn anew for each run")


def start_model(args: argparse.Namespace, dimension: str) -> ScoreNet:
    """A network of the preset with the start weights that the arguments ask for."""
    torch.manual_seed(args.seed)
    network = networks_of(args.preset)[dimension]
    if args.init is not None:
        try:
            model = load_model(args.init, dimension=dimension, preset=args.preset)
        except ValueError as error:
            raise ValueError(f"--init {error}") from error
    elif args.preset == "published":
        model = network(**({"backbone": args.backbone} if args.backbone else {}))
        print("backbone weights: random" if args.random_init else load_start_weights(model, args.backbone_weights))
    else:
        model = network(backbone=args.backbone, size=args.size)
        print("backbone weights: random" if args.random_init else load_pretrained(model.backbone, args.backbone_weights))
    start_ranker(args, model)
    if args.checkpoint_activations:
        model.backbone.set_grad_checkpointing(True)
    if (model.dimension, model.preset) == ("SCC", "published"):
        model.config["train_attention"] = args.attention
    return model


def ranker_of(args: argparse.Namespace) -> Path | None:
    """The file that a branch takes a ranker from; None for one without, or that goes on with its own (--init)."""
    if args.preset != "compact" or args.ranker == "none" or not args.ranking:
        return None
    if args.ranker or args.init is not None or args.random_init:
        return Path(args.ranker) if args.ranker else None
    return shipped_ranker(args.backbone, args.size)


def start_ranker(args: argparse.Namespace, model: CompactNet) -> None:
    """Give a branch the ranker that the arguments ask for.

    Raises:
        ValueError: If the file has none, or one of another backbone or size.
    """
    path = ranker_of(args)
    if args.preset != "compact" or (path is None and args.ranker != "none"):
        return
    try:
        model.take_ranker(path, args.ranking)
    except ValueError as error:
        raise ValueError(f"--ranker {error}") from error
    print(f"ranker: {f'{path}, weight {args.ranking:g}' if path else 'none'}")


def pictures(args: argparse.Namespace, model: ScoreNet, frame: pd.DataFrame, scores: np.ndarray | None = None) -> RatedPictures:
    """The pictures of a MOS table, as the network reads them."""
    cache_bytes = int(args.cache_gb * (1 << 30))
    objects = labeled_objects(args, model, frame) if isinstance(model, SemanticConsistencyNet) else None
    return RatedPictures(frame, model.preprocess, model.dimension, scores, cache_bytes, objects)


def labeled_objects(
    args: argparse.Namespace, model: SemanticConsistencyNet, frame: pd.DataFrame
) -> Callable[[int, Tensor], Inputs] | None:
    """What gives the objects of a picture of a MOS table; None where the command line names no labels.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a label file cannot be read, or the network has no object prior.
    """
    if getattr(args, "labels", None) in (None, ["none"]):
        return None
    if model.object_prior is None:
        raise ValueError("--labels need an object prior to compare with; pass --object-prior, or --labels none")
    folders = [ObjectLabels(Path(folder)) for folder in args.labels]
    rows = []
    for image, scene in zip(frame["image"], frame["scene"], strict=True):
        # recolorings of one photograph show the same objects
        known = (labels for name in (image, f"{scene}.") for labels in folders if labels.file(name) is not None)
        labels = next(known, None)
        name = image if labels is not None and labels.file(image) is not None else f"{scene}."
        rows.append([] if labels is None else labels.objects(name))
    print(f"objects: {sum(map(bool, rows))} of {len(rows)} pictures show labeled ones")
    _ = model.cells, model.object_prior  # worked out here, for processes that read pictures cannot use a GPU
    return lambda index, rgb: model.object_inputs(rgb, rows[index])


Part = RatedPictures | PublishedPictures | OwnViews | FeatureSet
Sets = Callable[[pd.DataFrame, bool, np.ndarray | None], Part | None]


def dataset_maker(args: argparse.Namespace, model: ScoreNet, frame: pd.DataFrame) -> Sets:
    """What turns a part of ``frame`` into a dataset; the frozen part of a network looks at every picture only once.

    Args:
        args: Arguments of the script.
        model: A network with the start weights of the run.
        frame: All pictures that any part will have.

    Returns:
        A function of a part, whether it is trained on (and augmented), and its sub-scores, shape (N, 2); it gives None for
        an empty part.
    """
    if args.preset == "published":
        return published_maker(args, model, frame)
    if args.backbone_lr > 0:
        return lambda part, train, scores=None: None if part.empty else pictures(args, model, part, scores)
    device = torch.device(args.device)
    views = VIEWS if args.augment else 1
    dataset, keep = pictures(args, model, frame), features_folder(args, model, frame)
    encoded = encode_set(model.to(device), dataset, device, views, args.seed, args.workers, keep)
    if distributed.is_main():
        print(f"features of {len(frame)} pictures: {folder_size(keep)}, until the run has ended")
    row_of = {image: row for row, image in enumerate(frame["image"])}

    def make(part: pd.DataFrame, train: bool, scores: np.ndarray | None = None) -> FeatureSet | None:
        rows = np.array([row_of[image] for image in part["image"]], dtype=int)
        mos = part[model.dimension].to_numpy(np.float32)
        return encoded.subset(rows, mos, scores, encoded.views if train else 1) if len(rows) else None

    return make


def features_folder(args: argparse.Namespace, model: ScoreNet, frame: pd.DataFrame, name: str = "all") -> Path:
    """The folder for features of these pictures by this network, where a run finds them again after an interruption.

    Those of other pictures or weights under the same name are removed.
    """
    about = [model.config, model.preprocessing(), args.seed, [content_of(source) for source in object_sources(args)]]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for path in [*frame["path"], *frame.get(REFERENCE, [])]:
        digest.update(f"{path} {fingerprint(path)}\n".encode("utf-8", "surrogateescape"))
    folder = args.output / "features" / f"{name}_{digest.hexdigest()[:16]}"
    if distributed.is_main():
        for other in set(folder.parent.glob(f"{name}_*")) - {folder}:
            shutil.rmtree(other)
    return folder


def folder_size(folder: Path) -> str:
    """The size and the place of a folder, to be shown."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{sum(sizes) / 1e6:.1f} MB in {len(sizes)} files of {folder}"


def published_maker(args: argparse.Namespace, model: ScoreNet, frame: pd.DataFrame) -> Sets:
    """``dataset_maker`` for a published network.

    CF is trained on bilinear pictures and scored on bicubic ones, as published; all that is predicted (validation, test,
    out-of-fold) is read as in scoring.
    """
    cache = args.cache or Path(__file__).resolve().parents[1] / "runs" / "cache"
    objects = training_objects(args, frame) if model.dimension == "SCC" else None

    def make(part: pd.DataFrame, train: bool, scores: np.ndarray | None = None) -> PublishedPictures | None:
        if part.empty:
            return None
        resize = "bilinear" if train else model.resize
        pictures = PublishedPictures(part, model.size, resize, cache, model.dimension, scores, objects)
        made = pictures.fill() if distributed.is_main() else 0
        distributed.barrier()
        if made:
            print(f"{made} pictures resized to {model.size} pixels, {resize}; cache: {folder_size(cache)}")
        return pictures

    return make


def training_objects(args: argparse.Namespace, frame: pd.DataFrame) -> ObjectLabels:
    """The labels and the color prior of a data set: those of the command line, else those in its folder."""
    source, _ = counted(args.data[0])
    root = source if source.is_dir() else source.parent
    if args.labels is not None and len(args.labels) > 1:
        raise ValueError(f"--labels of a published network is one folder, got {len(args.labels)}")
    labels, prior = Path(args.labels[0]) if args.labels else root / "labels", args.color_prior or root / "color_.json"
    args.labels, args.color_prior = [str(labels)], prior  # which a run that is resumed must find unchanged
    objects = ObjectLabels(None if labels == Path("none") else labels, read_color_curves(prior))
    for image in frame["image"]:
        objects.slots(image)  # what cannot be read must be known before the training
    found = sum(objects.file(image) is not None for image in frame["image"])
    print(f"objects: {found} of {len(frame)} pictures have a label file")
    return objects


def parts_seen_by(args: argparse.Namespace) -> dict[str, Tensor | None]:
    """Sizes and fingerprints of the images that ranker and color prior of a branch were trained on; None if not recorded."""
    sources = {"ranker": ranker_of(args)}
    if args.preset == "compact" and args.init is None and getattr(args, "prior", "none") != "none":
        sources["prior"] = Path(args.prior)
    parts = {} if args.init is None else read_weights(args.init).get("parts_seen", {})
    for part, source in sources.items():
        if source is not None:
            content = read_weights(source)
            whole = content.get("seen")  # of a branch that the part is taken from, if it does not say it of its parts
            parts[part] = whole if content.get("dimension") == part else content.get("parts_seen", {}).get(part, whole)
    return parts


def training_record(
    args: argparse.Namespace,
    parts: dict[str, pd.DataFrame],
    columns: list[str],
    sub_scores: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of its training data.

    ``seen`` holds size and fingerprint of every picture that the network was fitted to or chosen on, by this run or by the
    ones it started from. ``content`` holds a hash of each kind of data that decides where training ends up, so that a run
    goes on with the same data only.

    Args:
        args: Arguments of the script.
        parts: "train", "val" and perhaps "test" of the pictures.
        columns: Names of the ratings.
        sub_scores: CF and SCC of each picture of the parts, for the realism branch.
    """
    used = pd.concat([parts["train"], parts["val"]])
    ids = [picture_id(p) for p in used["path"]]
    seen = {(os.path.getsize(p), picture) for p, picture in zip(used["path"], ids, strict=True)}
    content = {
        "list of images": {name: list(part["image"]) for name, part in parts.items()},
        "images": ids,
        "ratings": {name: part[columns].to_numpy(float).tolist() for name, part in parts.items()},
        "CF and SCC": {name: scores.tolist() for name, scores in (sub_scores or {}).items()},
        "labels and priors": [content_of(source) for source in object_sources(args)],
    }
    known = True  # a published file does not say what it was trained on
    parts_seen = parts_seen_by(args)
    if args.init is not None:
        start = read_weights(args.init)
        earlier = start.get("seen")
        known = earlier is not None and start.get("seen_is_all", True)
        seen |= set() if earlier is None else {tuple(row) for row in earlier.tolist()}
    for rows in parts_seen.values():
        known = known and rows is not None
        seen |= set() if rows is None else {tuple(row) for row in rows.tolist()}
    return {
        "data": [str(source) for source in (*(args.data or ()), *(getattr(args, "label", None) or ()))],
        "scenes": {name: part["scene"].nunique() for name, part in parts.items()},
        "content": {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in content.items()},
        "seen": torch.tensor(sorted(seen), dtype=torch.int64),
        "parts_seen": parts_seen,  # of it, what ranker and color prior have seen, for a branch that takes them over
        "seen_is_all": known,
        "torch": str(torch.__version__),
        "seed": args.seed,
    }


def object_sources(args: argparse.Namespace) -> list[Path]:
    """Files and folders that an SCC network reads beside the images."""
    given = [getattr(args, name, None) for name in ("prior", "object_prior", "color_prior")] + (
        getattr(args, "labels", None) or []
    )
    return [Path(source) for source in given if source not in (None, "none")]


def content_of(source: Path) -> list[str]:
    """SHA-256 of a file, or of all label files in a folder, with their names."""
    files = sorted(source.rglob("*.txt")) if source.is_dir() else [source]
    return [f"{file.name} {sha256(file)}" for file in files]


def train_branch(args: argparse.Namespace, dimension: str, make_model: Callable[[], ScoreNet]) -> None:
    """Train the CF or SCC branch on its split, score the test part once, write out-of-fold predictions if asked.

    Args:
        args: Arguments of the script.
        dimension: CF or SCC.
        make_model: A network with its start weights, the same at every call.
    """
    args.device = distributed.setup(args.device)
    with run_folder(args, dimension):
        settle_seed(args)
        frame = settle_scenes(args, load_data(args.data, dimension, args.mos_range))
        train_and_test(args, frame, divide(args, frame, [dimension]), make_model)


def train_and_test(
    args: argparse.Namespace,
    frame: pd.DataFrame,
    parts: dict[str, pd.DataFrame],
    make_model: Callable[[], ScoreNet],
    train: Callable[..., ScoreNet] = fit,
    make_sets: Callable[[argparse.Namespace, Any, pd.DataFrame], Sets] = dataset_maker,
) -> None:
    """Train a network on its split, score the test part once, write out-of-fold predictions if asked.

    Args:
        args: Arguments of the script.
        frame: All pictures.
        parts: "train", "val" and "test" of them, or a test part from elsewhere.
        make_model: A network with its start weights, the same at every call.
        train: What trains it, with the arguments of ``fit``.
        make_sets: What turns parts into datasets, with the arguments of ``dataset_maker``.
    """
    if args.limit is None:
        used = set(parts["train"]["scene"]) | set(parts["val"]["scene"])
        rest = select(frame, frame["scene"].isin(used) & ~frame["image"].isin(parts["test"]["image"]))
    else:
        rest = select(frame, frame["image"].isin([*parts["train"]["image"], *parts["val"]["image"]]))
    model = make_model()
    folds = fold_parts(args, rest, model.columns) if args.folds else []  # which would fail after the training
    needed = pd.concat([*parts.values(), rest] if args.folds else list(parts.values()))
    make_set = make_sets(args, model, needed.drop_duplicates("image").sort_values("image", ignore_index=True))
    sets = {name: make_set(part, name == "train", None) for name, part in parts.items()}
    clear_folder(args)
    model = train(model, sets["train"], sets["val"], args, args.output, training_record(args, parts, model.columns))
    finish(args, model, parts["test"], sets["test"])
    if args.folds:
        out_of_fold(args, make_model, make_set, rest, folds, train)
    forget_features(args)
    distributed.cleanup()


def forget_features(args: argparse.Namespace) -> None:
    """Remove the features that were kept in case of an interruption."""
    distributed.barrier()
    if distributed.is_main():
        shutil.rmtree(args.output / "features", ignore_errors=True)


def finish(args: argparse.Namespace, model: ScoreNet, test: pd.DataFrame, test_set: Part | None) -> None:
    """Score the test part, once, with the weights that validation chose: ``test.json``, and ``test.csv`` by picture."""
    if not distributed.is_main():
        return
    print(f"weights: {args.output / 'best.pt'}")
    if test_set is None:
        print("no test part: nothing is known of these weights on scenes that were not used")
        return
    pred = predict(model, test_set, torch.device(args.device), workers=args.workers).numpy().astype(float)
    mos = test[model.columns].to_numpy(float)
    rows = test[["image", "scene", "method"]].assign(
        **dict(zip(model.columns, pred.reshape(mos.shape).T.round(6), strict=True)),
        **{f"{column}_mos": mos[:, i] for i, column in enumerate(model.columns)},
    )
    write_atomic(args.output / "test.csv", rows.to_csv(index=False, lineterminator="\n"))
    results = agreement(pred, mos, model.columns)
    for column, p, m in zip(model.columns, pred.reshape(mos.shape).T, mos.T, strict=True):
        known = np.isfinite(m)
        within = within_scene_srcc(p[known], m[known], test["scene"].to_numpy()[known])
        results[f"{column} within-scene SRCC" if len(model.columns) > 1 else "within-scene SRCC"] = within
    write_results(args.output / "test.json", {**results, "pictures": len(test), "scenes": test["scene"].nunique()})
    shown = "  ".join(f"{k} {v:.4f}" for k, v in results.items())
    print(f"test, {len(test)} pictures of {test['scene'].nunique()} scenes: {shown}")


def fold_parts(args: argparse.Namespace, frame: pd.DataFrame, columns: list[str]) -> list[dict[str, pd.DataFrame]]:
    """Divide images into folds by scene: "train", "val" and, as "held", the images that the fold leaves out.

    Raises:
        ValueError: If there are too few scenes, or a fold has nothing to learn from.
    """
    folds = []
    for number, scenes in enumerate(scene_folds(frame, args.folds, args.seed), 1):
        held = frame["scene"].isin(scenes)
        parts = split_by_scene(select(frame, ~held), args.val, 0, args.seed)
        folds.append({name: rated(parts[name], columns) for name in ("train", "val")} | {"held": select(frame, held)})
        check_ratings(folds[-1]["train"], columns, f" of fold {number}")
    return folds


def out_of_fold(
    args: argparse.Namespace,
    make_model: Callable[[], ScoreNet],
    make_set: Sets,
    frame: pd.DataFrame,
    folds: list[dict[str, pd.DataFrame]],
    train: Callable[..., ScoreNet] = fit,
) -> None:
    """Predict every picture with a network that has not seen its scene; the CSV that train_PR.py should be fed.

    Pictures without a rating in this dimension are predicted as well, for PR needs a prediction for each.
    """
    target = args.oof or args.output / "oof.csv"
    found: dict[str, np.ndarray] = {}
    hashes = []
    for number, parts in enumerate(folds, 1):
        output, left_out = args.output / f"fold{number}", parts.pop("held")
        print(f"fold {number} of {args.folds}, without the scenes {', '.join(sorted(set(left_out['scene']))[:5])} ...")
        model = make_model()
        train_set, val_set = (make_set(parts[name], name == "train", None) for name in ("train", "val"))
        model = train(model, train_set, val_set, args, output, training_record(args, parts, model.columns))
        if distributed.is_main():
            values = predict(model, make_set(left_out, False, None), torch.device(args.device), workers=args.workers).numpy()
            found |= dict(zip(left_out["image"], values.reshape(len(left_out), -1), strict=True))
            hashes.append(model.weights_hash)
    if not distributed.is_main():
        return
    dimension, columns = model.dimension, model.columns
    predictions = np.array([found[image] for image in frame["image"]], dtype=float)
    if args.init is not None:
        # a network that started from one that knew a picture has not truly left it out
        _, ids = seen_by(read_weights(args.init))  # nothing is known of what a published file has seen
        new = np.array([picture_id(path) not in ids for path in frame["path"]])
        if not new.all():
            print(f"{(~new).sum()} of {len(frame)} pictures were used to train --init and are left out of {target}")
        frame, predictions = select(frame, pd.Series(new)), predictions[new]
    with ScoreWriter(
        target,
        columns,
        list(frame["image"]),
        Provenance(
            root=frame.attrs["root"],
            weights={f"{dimension} fold {n}": h for n, h in enumerate(hashes, 1)},
            preprocessing=model.preprocessing(),
            sample="out-of-fold",
            unbounded=args.preset == "baseline",
        ),
        overwrite=True,
    ) as writer:
        for name, values in zip(frame["image"], predictions, strict=True):
            writer.add(name, dict(zip(columns, values.tolist(), strict=True)), gray=False)
    quality = agreement(predictions, frame[columns].to_numpy(float), columns)
    count = len(rated(frame, columns))
    print(f"out-of-fold predictions of {len(frame)} pictures: {target}  SRCC {quality['SRCC']:.4f} on {count} rated ones")


def sub_scores(frame: pd.DataFrame, files: list[Path], dimension: str) -> tuple[np.ndarray, dict[str, str]]:
    """CF or SCC of each row of a MOS table from score files, the first file that has a picture counting.

    Score files that say which folder they are of are joined by absolute path, others by the path relative to the root of
    the data.

    Returns:
        Scores, shape (N,), and for each picture what it was to the weights that scored it ("unseen", "in-sample",
        "out-of-fold", or "unknown").

    Raises:
        ValueError: If a picture has no finite score; names it and what to run.
    """
    wanted = [os.path.normpath(path) for path in frame["path"]]
    found: dict[str, tuple[float, str, str]] = {}
    for file in files:
        scores = read_scores(file, dimension)
        meta = scores.attrs.get("meta", {})
        sample = meta.get("sample", "unknown")
        errors = scores["error"] if "error" in scores else [""] * len(scores)
        if scores.attrs.get("by_stem"):  # the published form
            absent = missing_scores(list(frame["image"]), scores, dimension)
            there = frame[~frame["image"].isin(absent)]
            for path, value in zip(there["path"], join_scores(list(there["image"]), scores, dimension, file), strict=True):
                found.setdefault(os.path.normpath(path), (value, "unknown", ""))
            continue
        for base in (meta.get("root"), frame.attrs["root"]):  # the second where data have moved since
            paths = [os.path.normpath(os.path.join(base, image)) for image in scores["image"]] if base else []
            names = match_names(wanted, paths)
            if names:
                break
        rows = dict(zip(paths, zip(scores[dimension], errors, strict=True), strict=True))
        for path, name in names.items():
            value, error = rows[name]
            found.setdefault(path, (value, sample, error))
    values, samples, missing = [], {}, []
    for image, path in zip(frame["image"], frame["path"], strict=True):
        value, sample, error = found.get(os.path.normpath(path), (np.nan, "", "no row"))
        if not np.isfinite(value):
            missing.append(f"{image} ({error or 'no score'})")
        values.append(value)
        samples[image] = sample
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(frame)} pictures have no {dimension} score in {', '.join(map(str, files))}, e.g. "
            f"{missing[0]}; run infer_{dimension}.py on {frame.attrs['root']} and pass its CSV as well"
        )
    return np.array(values), samples

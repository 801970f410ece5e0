"""From command-line arguments to data, start weights and records: what the three training scripts do around ``fit``."""

import argparse
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data.labels import ObjectLabels, no_curves, read_color_curves
from data.pictures import PublishedPictures, RatedPictures, with_paths
from data.splits import apply_split, check_disjoint, read_split, scene_folds, shared_scenes, split_by_scene, write_split
from data.table import load_dataset
from models import SemanticConsistencyNet
from models.backbone import UnreachableError, load_pretrained
from models.base import Inputs, ScoreNet
from models.published import load_start_weights
from utils import distributed
from utils.checkpoint import load_model, networks_of, read_checkpoint, read_weights
from utils.engine import FeatureSet, encode_set, fit, predict, write_results
from utils.files import picture_id, sha256
from utils.metrics import correlations, within_scene_srcc
from utils.scores import ScoreWriter, join_scores, missing_scores, read_scores

_VIEWS = 4  # of each training picture, where the backbone is frozen and pictures are augmented


def one_line_errors() -> None:
    """Let wrong input end the process with one line, as in the inference scripts; a bug keeps its traceback."""
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, (OSError, ValueError, UnreachableError)):
            print(f"error: {error}", file=sys.stderr)
        else:
            usual(kind, error, trace)

    sys.excepthook = hook


def load_data(sources: list[Path], dimension: str, mos_range: tuple[float, float]) -> pd.DataFrame:
    """The MOS tables of one or several data sets as one, pictures without a rating in this dimension included.

    Returns:
        MOS table with ``path``, the absolute path of each picture; ``image`` is relative to the folder above them all.

    Raises:
        ValueError: If nothing is rated in this dimension, or a picture comes twice.
    """
    frames = []
    for named in sources:
        source, most = counted(named)
        frame = with_paths(load_dataset(source, mos_range=tuple(mos_range)))
        frame = frame if most is None else spread(frame, most)
        count = int(frame[dimension].notna().sum())
        print(f"{source}: {len(frame)} pictures of {frame['scene'].nunique()} scenes, {count} with a {dimension} rating")
        frames.append(frame)
    joined = pd.concat(frames, ignore_index=True)
    if joined[dimension].isna().all():
        raise ValueError(f"no picture in {', '.join(map(str, sources))} has a {dimension} rating")
    joined["path"] = [os.path.abspath(p) for p in joined["path"]]
    root = os.path.commonpath([os.path.dirname(p) for p in joined["path"]])
    joined["image"] = [Path(os.path.relpath(p, root)).as_posix() for p in joined["path"]]
    repeated = joined["image"][joined["image"].duplicated()]
    if len(repeated):
        raise ValueError(f"{repeated.iloc[0]} is in the data twice; give each data set once")
    joined = joined.sort_values("image", ignore_index=True)
    joined.attrs = {"root": root, "name": " + ".join(f.attrs.get("name", "") for f in frames)}
    return joined


def counted(source: Path) -> tuple[Path, int | None]:
    """Path and number of pictures of ``PATH:N``; None for all of them."""
    path, colon, number = str(source).rpartition(":")
    if colon and number.isdigit() and not source.exists():
        return Path(path), int(number)
    return source, None


def rated(frame: pd.DataFrame, dimension: str) -> pd.DataFrame:
    """The rows that have a rating in this dimension."""
    rows = frame[frame[dimension].notna()].reset_index(drop=True)
    rows.attrs = frame.attrs
    return rows


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


def divide(args: argparse.Namespace, frame: pd.DataFrame, dimension: str) -> dict[str, pd.DataFrame]:
    """Train, validation and test part by scene, written to ``split.txt`` beside the run; rated pictures only.

    Args:
        args: Arguments of the script.
        frame: What ``settle_scenes`` gave. Given test pictures that share scenes with the others are the test part.
        dimension: CF, SCC or PR.

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
    parts = {name: rated(part, dimension) for name, part in parts.items()}
    if parts["train"].empty:
        raise ValueError(f"no training scene has a {dimension} rating; choose another --seed or --split")
    if args.limit is not None:
        parts = {name: spread(part, args.limit if name == "train" else max(8, args.limit // 4)) for name, part in parts.items()}
    print(", ".join(f"{name}: {len(p)} pictures of {p['scene'].nunique()} scenes" for name, p in parts.items()))
    return parts


def spread(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most ``count`` rows, evenly spaced."""
    if len(frame) <= count:
        return frame
    rows = frame.iloc[np.linspace(0, len(frame) - 1, count).round().astype(int)].reset_index(drop=True)
    rows.attrs = frame.attrs
    return rows


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
    if args.checkpoint_activations:
        model.backbone.set_grad_checkpointing(True)
    if model.reads_objects:
        model.config["train_attention"] = args.attention
    return model


def pictures(args: argparse.Namespace, model: ScoreNet, frame: pd.DataFrame, scores: np.ndarray | None = None) -> RatedPictures:
    """The pictures of a MOS table, as the network reads them."""
    cache_bytes = int(args.cache_gb * (1 << 30))
    objects = labeled_objects(args, model, frame) if model.compares_objects else None
    return RatedPictures(frame, model.preprocess, model.dimension, scores, model.reads_chroma_maps, cache_bytes, objects)


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
    folders = [ObjectLabels(Path(folder), no_curves()) for folder in args.labels]
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


Part = RatedPictures | PublishedPictures | FeatureSet
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
    views = _VIEWS if args.augment else 1
    encoded = encode_set(model.to(device), pictures(args, model, frame), device, views, args.seed, args.workers)
    row_of = {image: row for row, image in enumerate(frame["image"])}

    def make(part: pd.DataFrame, train: bool, scores: np.ndarray | None = None) -> FeatureSet | None:
        rows = np.array([row_of[image] for image in part["image"]], dtype=int)
        mos = part[model.dimension].to_numpy(np.float32)
        return encoded.subset(rows, mos, scores, encoded.views if train else 1) if len(rows) else None

    return make


def published_maker(args: argparse.Namespace, model: ScoreNet, frame: pd.DataFrame) -> Sets:
    """``dataset_maker`` for a published network.

    CF is trained on bilinear pictures and scored on bicubic ones, as published; all that is predicted (validation, test,
    out-of-fold) is read as in scoring.
    """
    cache = args.cache or Path(__file__).resolve().parents[1] / "runs" / "cache"
    objects = training_objects(args, frame) if model.reads_objects else None

    def make(part: pd.DataFrame, train: bool, scores: np.ndarray | None = None) -> PublishedPictures | None:
        if part.empty:
            return None
        resize = "bilinear" if train else model.resize
        pictures = PublishedPictures(part, model.size, resize, cache, model.dimension, scores, objects)
        made = pictures.fill() if distributed.is_main() else 0
        distributed.barrier()
        if made:
            print(f"{made} pictures resized to {model.size} pixels, {resize}, in {pictures.cache}")
        return pictures

    return make


def training_objects(args: argparse.Namespace, frame: pd.DataFrame) -> ObjectLabels:
    """The labels and the color prior of a data set: those of the command line, else those in its folder."""
    source, _ = counted(args.data[0])
    root = source if source.is_dir() else source.parent
    if args.labels is not None and len(args.labels) > 1:
        raise ValueError(f"--labels of a published network is one folder, got {len(args.labels)}")
    labels, prior = Path(args.labels[0]) if args.labels else root / "labels", args.color_prior or root / "color_.json"
    objects = ObjectLabels(None if labels == Path("none") else labels, read_color_curves(prior))
    for image in frame["image"]:
        objects.slots(image)  # what cannot be read must be known before the training
    found = sum(objects.file(image) is not None for image in frame["image"])
    print(f"objects: {found} of {len(frame)} pictures have a label file")
    return objects


def training_record(args: argparse.Namespace, parts: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """What a checkpoint says of its training data.

    ``seen`` holds size and fingerprint of every picture that the network was fitted to or chosen on, by this run or by the
    ones it started from.
    """
    used = pd.concat([parts["train"], parts["val"]])
    seen = {(os.path.getsize(p), picture_id(p)) for p in used["path"]}
    known = True  # a published file does not say what it was trained on
    prior = getattr(args, "prior", "none") if args.preset == "compact" else "none"
    source = args.init or (None if prior == "none" else Path(prior))  # a color prior has seen photographs
    if source is not None:
        earlier = read_weights(source).get("seen")
        known = earlier is not None
        seen |= set() if earlier is None else {tuple(row) for row in earlier.tolist()}
    return {
        "data": [str(source) for source in args.data],
        "scenes": {name: part["scene"].nunique() for name, part in parts.items()},
        "seen": torch.tensor(sorted(seen), dtype=torch.int64),
        "seen_is_all": known,
        "torch": str(torch.__version__),
        "seed": args.seed,
    }


def train_branch(args: argparse.Namespace, dimension: str, make_model: Callable[[], ScoreNet]) -> None:
    """Train the CF or SCC branch on its split, score the test part once, write out-of-fold predictions if asked.

    Args:
        args: Arguments of the script.
        dimension: CF or SCC.
        make_model: A network with its start weights, the same at every call.
    """
    args.device = distributed.setup(args.device)
    settle_seed(args)
    frame = settle_scenes(args, load_data(args.data, dimension, args.mos_range))
    parts = divide(args, frame, dimension)
    used = set(parts["train"]["scene"]) | set(parts["val"]["scene"])
    rest = select(frame, frame["scene"].isin(used) & ~frame["image"].isin(parts["test"]["image"]))
    # what would fail after the training must fail before it
    if args.oof is not None and (not args.folds or args.oof.suffix.lower() != ".csv"):
        raise ValueError(f"--oof {args.oof} needs --folds, and a name that ends in .csv")
    if args.folds:
        scene_folds(rest, args.folds, args.seed)
    if not args.resume and distributed.is_main():
        for earlier in args.output.glob("fold*/last.pt"):  # of another run, which a later --resume must not take up
            earlier.unlink()
    model = make_model()
    needed = pd.concat([*parts.values(), rest] if args.folds else list(parts.values()))
    make_set = dataset_maker(args, model, needed.drop_duplicates("image").sort_values("image", ignore_index=True))
    sets = {name: make_set(part, name == "train", None) for name, part in parts.items()}
    model = fit(model, sets["train"], sets["val"], args, args.output, training_record(args, parts))
    finish(args, model, parts["test"], sets["test"])
    if args.folds:
        out_of_fold(args, make_model, make_set, rest)
    distributed.cleanup()


def finish(args: argparse.Namespace, model: ScoreNet, test: pd.DataFrame, test_set: Part | None) -> None:
    """Score the test part, once, with the weights that validation chose."""
    if not distributed.is_main():
        return
    print(f"weights: {args.output / 'best.pt'}")
    if test_set is None:
        print("no test part: nothing is known of these weights on scenes that were not used")
        return
    pred = predict(model, test_set, torch.device(args.device), workers=args.workers).numpy().astype(float)
    mos = test[model.dimension].to_numpy(float)
    results = correlations(pred, mos) | {"within-scene SRCC": within_scene_srcc(pred, mos, test["scene"].to_numpy())}
    write_results(args.output / "test.json", {**results, "pictures": len(test), "scenes": test["scene"].nunique()})
    shown = "  ".join(f"{k} {v:.4f}" for k, v in results.items())
    print(f"test, {len(test)} pictures of {test['scene'].nunique()} scenes: {shown}")


def select(frame: pd.DataFrame, rows: pd.Series) -> pd.DataFrame:
    """The chosen rows as a MOS table of its own."""
    chosen = frame[rows].reset_index(drop=True)
    chosen.attrs = frame.attrs
    return chosen


def out_of_fold(args: argparse.Namespace, make_model: Callable[[], ScoreNet], make_set: Sets, frame: pd.DataFrame) -> None:
    """Predict every picture with a network that has not seen its scene; the CSV that train_PR.py should be fed.

    Pictures without a rating in this dimension are predicted as well, for PR needs a prediction for each.
    """
    target = args.oof or args.output / "oof.csv"
    predictions = np.full(len(frame), np.nan)
    hashes = []
    for number, scenes in enumerate(scene_folds(frame, args.folds, args.seed), 1):
        output = args.output / f"fold{number}"
        print(f"fold {number} of {args.folds}, without the scenes {', '.join(sorted(scenes)[:5])} ...")
        held = frame["scene"].isin(scenes)
        model = make_model()
        parts = split_by_scene(select(frame, ~held), args.val, 0, args.seed)
        parts = {name: rated(part, model.dimension) for name, part in parts.items()}
        train_set, val_set = (make_set(parts[name], name == "train", None) for name in ("train", "val"))
        model = fit(model, train_set, val_set, args, output, training_record(args, parts))
        if distributed.is_main():
            held_set = make_set(select(frame, held), False, None)
            predictions[held.to_numpy()] = predict(model, held_set, torch.device(args.device), workers=args.workers).numpy()
            hashes.append(sha256(output / "best.pt"))
    if not distributed.is_main():
        return
    dimension = model.dimension
    if args.init is not None:
        # a network that started from one that knew a picture has not truly left it out
        _, ids = load_model(args.init).seen or ((), ())  # nothing is known of what a published file has seen
        new = np.array([picture_id(path) not in ids for path in frame["path"]])
        if not new.all():
            print(f"{(~new).sum()} of {len(frame)} pictures were used to train --init and are left out of {target}")
        frame, predictions = select(frame, pd.Series(new)), predictions[new]
    with ScoreWriter(
        target,
        [dimension],
        list(frame["image"]),
        root=frame.attrs["root"],
        weights={f"{dimension} fold {n}": h for n, h in enumerate(hashes, 1)},
        preprocessing=model.preprocessing(),
        sample="out-of-fold",
        overwrite=True,
    ) as writer:
        for name, value in zip(frame["image"], predictions, strict=True):
            writer.add(name, {dimension: float(value)}, gray=False)
    known = frame[dimension].notna().to_numpy()
    quality = correlations(predictions[known], frame[dimension].to_numpy(float)[known])
    print(f"out-of-fold predictions of {len(frame)} pictures: {target}  SRCC {quality['SRCC']:.4f} on {known.sum()} rated ones")


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
    wanted = {os.path.normpath(path) for path in frame["path"]}
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
            if wanted & set(paths):
                break
        for path, value, error in zip(paths, scores[dimension], errors, strict=True):
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

"""The steps of a training script around the loop: folder, split, start weights, record, test, out-of-fold predictions."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from data.splits import apply_split, check_disjoint, read_split, scene_folds, shared_scenes, split_by_scene, write_split
from data.table import rated, select, spread
from models import SemanticConsistencyNet
from models.backbone import UnreachableError, load_pretrained
from models.base import CompactNet, ScoreNet
from models.loading import load_model, load_prior, networks_of
from models.published import PublishedSCC, load_start_weights
from models.ranker import shipped_ranker
from training.engine import predict
from training.images import ImageSet, ImageSets, content_of, object_sources
from training.options import TrainOptions
from training.records import NEXT, write_results
from utils import distributed, interrupt
from utils.checkpoint import read_checkpoint, read_weights, seen_by
from utils.files import give_lock, image_id, take_lock, write_atomic
from utils.metrics import column_correlations, within_scene_srcc
from utils.names import match_names
from utils.scores import Provenance, ScoreWriter, join_scores, missing_scores, read_scores

Parts = dict[str, pd.DataFrame]  # MOS tables "train", "val" and "test"


def one_line_errors(advice: str = "run the same command again with --resume to go on") -> None:
    """Let wrong input and Ctrl-C end the process with one line, same as in inference scripts; a bug keeps its traceback.

    Args:
        advice: Advice that Ctrl-C prints.
    """
    interrupt.hear()
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, (OSError, ValueError, UnreachableError)):
            text = str(error)
            if text.startswith("Caught "):  # from a process that reads images, with its traceback before the message
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
def open_run(options: TrainOptions, dimension: str) -> Iterator[TrainOptions]:
    """Join the other processes, hold the folder of the run, and yield the options with device and seed filled in.

    Wrong input and Ctrl-C end the process with one line from here on.

    Raises:
        BlockingIOError: If another run holds the folder.
        ValueError: Same as ``run_folder``; also if the device cannot be used.
    """
    one_line_errors()
    options = replace(options, device=distributed.setup(options.device))
    with run_folder(options.output, dimension, options.resume, options.overwrite):
        yield draw_seed_if_none(options)
    distributed.cleanup()


@contextlib.contextmanager
def run_folder(output: Path, dimension: str, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold the folder of a run: no other run writes there, and no earlier run is overwritten unasked.

    Features, which are kept in case of an interruption, are removed at the end.

    Args:
        output: The folder.
        dimension: The dimension or system that the script trains.
        resume: Whether to go on with an earlier run.
        overwrite: Whether to train anew over an earlier run.

    Raises:
        BlockingIOError: If another run holds the folder.
        ValueError: If the folder has weights of an earlier run, without ``resume`` or ``overwrite`` or of another dimension.
    """
    if not distributed.is_main():  # the main process speaks for all
        yield
        distributed.barrier()
        return
    output.mkdir(parents=True, exist_ok=True)
    lock = output / ".lock"
    holder = take_lock(lock, f"is training into {output}; wait for it, or pass another --output")
    try:
        for left in output.rglob(".*.tmp"):  # by runs that were killed
            left.unlink()
        weights = [path for path in earlier_files(output) if path.name in ("best.pt", "last.pt")]
        if weights and not (resume or overwrite):
            raise ValueError(
                f"{weights[0]} is there from an earlier run; pass --resume to go on with that run, --overwrite to train anew, "
                "or another --output"
            )
        if weights and resume:
            earlier = read_checkpoint(weights[0]).get("dimension")
            if earlier != dimension:
                raise ValueError(f"{output} holds a run of {earlier}, not of {dimension}; pass another --output")
        yield
        distributed.barrier()
        shutil.rmtree(output / "features", ignore_errors=True)
    finally:
        give_lock(lock, holder)
        with contextlib.suppress(OSError):
            output.rmdir()  # if nothing came of the run


def earlier_files(output: Path) -> list[Path]:
    """Return the files that a run wrote into its folder, including those of its stages and folds."""
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


def clear_folder(output: Path, overwrite: bool) -> None:
    """Remove the files of an earlier run if ``overwrite``, so that they are not taken for files of this run."""
    if overwrite and distributed.is_main():
        for path in earlier_files(output):
            path.unlink()


def draw_seed_if_none(options: TrainOptions) -> TrainOptions:
    """Draw a seed where ``--seed none`` asks for a new one each time; a resumed run keeps its seed."""
    if options.seed is not None:
        return options
    last = options.output / "last.pt"
    begun = read_checkpoint(last).get("settings", {}).get("seed") if options.resume and last.is_file() else None
    seed = distributed.broadcast(secrets.randbelow(1 << 31) if begun is None else begun)
    print(f"seed: {seed}, drawn anew for each run")
    return replace(options, seed=seed)


def apply_shared_scenes_policy(options: TrainOptions, frame: pd.DataFrame) -> pd.DataFrame:
    """Refuse, keep or resplit given train and test images that share scenes, as ``--shared-scenes`` says.

    Returns:
        The table; without its column ``split`` if all images are to be split anew.

    Raises:
        ValueError: If they share scenes and the policy is to refuse; names one scene.
    """
    shared = shared_scenes(frame)
    if not shared:
        return frame
    print(f"WARNING: the given train and test images share {len(shared)} of {frame['scene'].nunique()} scenes")
    if options.shared_scenes == "keep":
        print("they are kept as they are: test results are in part those of scenes trained on")
        return frame
    if options.shared_scenes == "resplit":
        anew = frame.drop(columns="split")
        anew.attrs = frame.attrs
        return anew
    raise ValueError(
        f"the given train and test images share {len(shared)} scenes, e.g. {min(shared)}, so test results would not "
        "be those of unseen scenes; pass --shared-scenes keep to take both as they are, as published, or "
        "--shared-scenes resplit to split all images anew by scene"
    )


def split_parts(options: TrainOptions, frame: pd.DataFrame, columns: list[str]) -> Parts:
    """Split a MOS table by scene into "train", "val" and "test", rated images only; ``split.txt`` records the split.

    Args:
        options: Options of the script.
        frame: Result of ``apply_shared_scenes_policy``. Given test images that share scenes with the others are the test part.
        columns: The ratings that count, such as ["CF"].

    Raises:
        ValueError: If two parts share a scene otherwise; names the scene.
    """
    recorded = options.output / "split.txt"
    fixed = frame.iloc[:0]  # test images whose scenes are also trained on; no split by scene can say so
    if shared_scenes(frame):
        fixed, frame = select(frame, frame["split"] == "test"), select(frame, frame["split"] != "test")
    if options.strict_recipe and "split" not in frame and options.split is None:
        print("WARNING: no test images are given and no seed, so each network gets a split of its own; pass --split or --seed")
    if options.resume and recorded.is_file():
        parts = apply_split(frame, read_split(recorded))
    elif options.split is not None:
        parts = apply_split(frame, read_split(options.split))
    else:
        parts = split_by_scene(frame, options.val, 0 if len(fixed) else options.test, options.seed)
    check_disjoint(**parts)
    if distributed.is_main():
        write_split(parts, recorded)
    if len(fixed):
        parts["test"] = fixed
    parts = {name: rated(part, columns) for name, part in parts.items()}
    if options.limit is not None:
        parts = {
            name: spread(part, options.limit if name == "train" else max(8, options.limit // 4)) for name, part in parts.items()
        }
    check_ratings(parts["train"], columns)
    print(", ".join(f"{name}: {len(p)} images of {p['scene'].nunique()} scenes" for name, p in parts.items()))
    return parts


def check_ratings(frame: pd.DataFrame, columns: list[str], of: str = "") -> None:
    """Check that the images have at least two different ratings to learn from.

    Args:
        frame: The images to train on.
        columns: Names of the ratings.
        of: Place of the images, such as " of fold 1", for the message.

    Raises:
        ValueError: If there are fewer than two different ratings; describes the ratings.
    """
    values = {column: frame[column].dropna() for column in columns}
    if any(ratings.nunique() > 1 for ratings in values.values()):
        return
    name, ratings = max(values.items(), key=lambda item: len(item[1]))
    if ratings.empty:
        problem = f"no training scene{of} has a {' or '.join(columns)} rating"
    elif len(ratings) == 1:
        problem = f"a single training image{of} has a {name} rating"
    else:
        problem = f"all {len(ratings)} training images{of} have the {name} rating {ratings.iloc[0]:g}"
    raise ValueError(
        f"{problem}, and a network cannot learn an order from that; take more ratings, or another --seed, --split or --limit"
    )


def start_model(options: TrainOptions, dimension: str) -> ScoreNet:
    """Return a network of the preset with the start weights that the options ask for, the same at every call."""
    torch.manual_seed(options.seed)
    network: Any = networks_of(options.preset)[dimension]
    model: Any
    if options.init is not None:
        try:
            model = load_model(options.init, dimension=dimension, preset=options.preset)
        except ValueError as error:
            raise ValueError(f"--init {error}") from error
    elif options.preset == "published":
        model = network(**({"backbone": options.backbone} if options.backbone else {}))
        print("backbone weights: random" if options.random_init else load_start_weights(model, options.backbone_weights))
    else:
        model = network(backbone=options.backbone, size=options.size, width=options.width, dropout=options.dropout)
        print("backbone weights: random" if options.random_init else load_pretrained(model.backbone, options.backbone_weights))
    if isinstance(model, CompactNet):
        start_ranker(options, model)
    if options.checkpoint_activations:
        model.backbone.set_grad_checkpointing(True)
    if isinstance(model, PublishedSCC):
        model.config["train_attention"] = options.attention
    return model


def start_from_prior(options: TrainOptions) -> SemanticConsistencyNet:
    """Return an SCC network with the backbone and the color prior of ``--prior``.

    Raises:
        ValueError: If they are of another backbone or size.
    """
    prior: Any = load_prior(str(options.prior))
    asked: dict[str, Any] = {"backbone": options.backbone, "size": options.size}
    for name, value in asked.items():
        if prior.config[name] != value:
            raise ValueError(
                f"--prior {options.prior} was trained with --{name} {prior.config[name]}, not {value}; train one with "
                "tools/train_color_prior.py, or pass --prior none"
            )
    torch.manual_seed(options.seed)
    head: dict[str, Any] = {"width": options.width, "dropout": options.dropout}
    model = SemanticConsistencyNet(**asked, prior=prior.config["prior"], **head)
    model.backbone.load_state_dict(prior.backbone.state_dict())
    model.prior.load_state_dict(prior.prior.state_dict())
    print(f"color prior and backbone: {options.prior}")
    start_ranker(options, model)
    return model


def ranker_of(options: TrainOptions) -> Path | None:
    """Return the file with the ranker for a branch; None for a branch without one, or with the ranker of --init."""
    if options.preset != "compact" or options.ranker == "none" or not options.ranking:
        return None
    if options.ranker or options.init is not None or options.random_init:
        return Path(options.ranker) if options.ranker else None
    return shipped_ranker(str(options.backbone), int(options.size or 0))


def start_ranker(options: TrainOptions, model: CompactNet) -> None:
    """Give a branch the ranker that the arguments ask for.

    Raises:
        ValueError: If the file has no ranker, or one of another backbone or size.
    """
    path = ranker_of(options)
    if path is None and options.ranker != "none":
        return
    try:
        model.take_ranker(path, options.ranking or 0.0)
    except ValueError as error:
        raise ValueError(f"--ranker {error}") from error
    print(f"ranker: {f'{path}, weight {options.ranking:g}' if path else 'none'}")


def parts_seen_by(options: TrainOptions) -> dict[str, Tensor | None]:
    """Return sizes and fingerprints of the images that ranker and color prior were trained on; None if not recorded."""
    sources = {"ranker": ranker_of(options)}
    if options.preset == "compact" and options.init is None and options.prior not in (None, "none"):
        sources["prior"] = Path(str(options.prior))
    rows = {} if options.init is None else read_weights(options.init).get("parts_seen", {})
    for part, source in sources.items():
        if source is not None:
            content = read_weights(source)
            whole = content.get("seen")  # all images of the branch, if the branch does not record those of its parts
            rows[part] = whole if content.get("dimension") == part else content.get("parts_seen", {}).get(part, whole)
    return rows


def training_record(
    options: TrainOptions,
    parts: Parts,
    columns: list[str],
    sub_scores: dict[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return the entries of a checkpoint on its training data.

    ``seen`` holds size and fingerprint of every image that the network was fitted to or chosen on, by this run or by the runs
    that it started from. ``content`` holds a hash of each kind of data that decides the result of the training, so that a run
    goes on only with the same data.

    Args:
        options: Options of the script.
        parts: MOS tables "train", "val" and perhaps "test".
        columns: Names of the ratings.
        sub_scores: CF and SCC of each image of the parts, for the realism branch.
    """
    used = pd.concat([parts["train"], parts["val"]])
    ids = [image_id(p) for p in used["path"]]
    seen = {(os.path.getsize(p), image) for p, image in zip(used["path"], ids, strict=True)}
    content = {
        "list of images": {name: list(part["image"]) for name, part in parts.items()},
        "images": ids,
        "ratings": {name: part[columns].to_numpy(float).tolist() for name, part in parts.items()},
        "CF and SCC": {name: scores.tolist() for name, scores in (sub_scores or {}).items()},
        "labels and priors": [content_of(source) for source in object_sources(options)],
    }
    seen_is_all = True  # false if a start weight file, such as a published one, does not record its training images
    parts_seen = parts_seen_by(options)
    if options.init is not None:
        start = read_weights(options.init)
        earlier = start.get("seen")
        seen_is_all = earlier is not None and start.get("seen_is_all", True)
        seen |= set() if earlier is None else {tuple(row) for row in earlier.tolist()}
    for rows in parts_seen.values():
        seen_is_all = seen_is_all and rows is not None
        seen |= set() if rows is None else {tuple(row) for row in rows.tolist()}
    return {
        "data": [str(source) for source in options.data],
        "scenes": {name: part["scene"].nunique() for name, part in parts.items()},
        "content": {name: hashlib.sha256(json.dumps(value).encode()).hexdigest() for name, value in content.items()},
        "seen": torch.tensor(sorted(seen), dtype=torch.int64),
        "parts_seen": parts_seen,  # the rows of ranker and color prior, for a branch that takes them over
        "seen_is_all": seen_is_all,
        "torch": str(torch.__version__),
        "seed": options.seed,
    }


def fold_parts(
    options: TrainOptions, frame: pd.DataFrame, parts: Parts, columns: list[str]
) -> tuple[pd.DataFrame, list[Parts]]:
    """Divide all but the test part into folds by scene: "train", "val" and "held", the images that a fold leaves out.

    Returns:
        The images of all folds, rated or not, and the folds; both are empty without ``--folds``.

    Raises:
        ValueError: If there are too few scenes, or a fold has nothing to learn from.
    """
    if not options.folds:
        return frame.iloc[:0], []
    if options.limit is None:
        used = set(parts["train"]["scene"]) | set(parts["val"]["scene"])
        rest = select(frame, frame["scene"].isin(used) & ~frame["image"].isin(parts["test"]["image"]))
    else:
        rest = select(frame, frame["image"].isin([*parts["train"]["image"], *parts["val"]["image"]]))
    folds = []
    for number, scenes in enumerate(scene_folds(rest, options.folds, options.seed), 1):
        held = rest["scene"].isin(scenes)
        inner = split_by_scene(select(rest, ~held), options.val, 0, options.seed)
        folds.append({name: rated(inner[name], columns) for name in ("train", "val")} | {"held": select(rest, held)})
        check_ratings(folds[-1]["train"], columns, f" of fold {number}")
    return rest, folds


def score_test_part(options: TrainOptions, model: ScoreNet, test: pd.DataFrame, test_set: ImageSet | None) -> None:
    """Score the test part once, with the chosen weights, and write ``test.json``, and ``test.csv`` by image."""
    if not distributed.is_main():
        return
    print(f"weights: {options.output / 'best.pt'}")
    if test_set is None:
        print("no test part: nothing is known of these weights on scenes that were not used")
        return
    pred = predict(model, test_set, model.device, options.workers).numpy().astype(float)
    mos = test[model.columns].to_numpy(float)
    rows = test[["image", "scene", "method"]].assign(
        **dict(zip(model.columns, pred.reshape(mos.shape).T.round(6), strict=True)),
        **{f"{column}_mos": mos[:, i] for i, column in enumerate(model.columns)},
    )
    write_atomic(options.output / "test.csv", rows.to_csv(index=False, lineterminator="\n"))
    results = column_correlations(pred, mos, model.columns)
    for column, p, m in zip(model.columns, pred.reshape(mos.shape).T, mos.T, strict=True):
        has_mos = np.isfinite(m)
        within = within_scene_srcc(p[has_mos], m[has_mos], test["scene"].to_numpy()[has_mos])
        results[f"{column} within-scene SRCC" if len(model.columns) > 1 else "within-scene SRCC"] = within
    write_results(options.output / "test.json", {**results, "pictures": len(test), "scenes": test["scene"].nunique()})
    shown = "  ".join(f"{k} {v:.4f}" for k, v in results.items())
    print(f"test, {len(test)} images of {test['scene'].nunique()} scenes: {shown}")


def out_of_fold(
    options: TrainOptions,
    train: Callable[[Parts, Path], ScoreNet],
    images: ImageSets,
    frame: pd.DataFrame,
    folds: list[Parts],
) -> None:
    """Predict every image with a network that has not seen its scene, and write the predictions as a CSV for train_PR.py.

    Images without a rating in this dimension are predicted as well, because PR needs a prediction for each.

    Args:
        options: Options of the script.
        train: Function that trains a network on the parts of a fold, into a folder.
        images: Function that makes image sets.
        frame: The images.
        folds: Result of ``fold_parts``; nothing is done without folds.
    """
    target = options.oof or options.output / "oof.csv"
    values: dict[str, np.ndarray] = {}
    hashes = []
    for number, parts in enumerate(folds, 1):
        held = parts["held"]
        print(f"fold {number} of {len(folds)}, without the scenes {', '.join(sorted(set(held['scene']))[:5])} ...")
        model: Any = train({name: parts[name] for name in ("train", "val")}, options.output / f"fold{number}")
        if distributed.is_main():
            scores = predict(model, images(held), model.device, options.workers).numpy()
            values |= dict(zip(held["image"], scores.reshape(len(held), -1), strict=True))
            hashes.append(model.weights_hash)
    if not folds or not distributed.is_main():
        return
    predictions = np.array([values[image] for image in frame["image"]], dtype=float)
    if options.init is not None:
        # an image that the start weights were trained on is not truly left out
        _, ids = seen_by(read_weights(options.init))  # empty for a published file
        new = np.array([image_id(path) not in ids for path in frame["path"]])
        if not new.all():
            print(f"{(~new).sum()} of {len(frame)} images were used to train --init and are left out of {target}")
        frame, predictions = select(frame, pd.Series(new)), predictions[new]
    with ScoreWriter(
        target,
        model.columns,
        list(frame["image"]),
        Provenance(
            root=frame.attrs["root"],
            weights={f"{model.dimension} fold {n}": h for n, h in enumerate(hashes, 1)},
            preprocessing=model.preprocessing(),
            sample="out-of-fold",
            unbounded=options.preset == "baseline",
        ),
        overwrite=True,
    ) as writer:
        for name, scores in zip(frame["image"], predictions, strict=True):
            writer.add(name, dict(zip(model.columns, scores.tolist(), strict=True)), gray=False)
    quality = column_correlations(predictions, frame[model.columns].to_numpy(float), model.columns)
    count = len(rated(frame, model.columns))
    print(f"out-of-fold predictions of {len(frame)} images: {target}  SRCC {quality['SRCC']:.4f} on {count} rated ones")


def read_sub_scores(frame: pd.DataFrame, files: list[Path], dimension: str) -> tuple[np.ndarray, dict[str, str]]:
    """Read CF or SCC of each row of a MOS table from score files; the first file that has an image counts.

    Score files that record their folder are joined by absolute path, others by the path relative to the root of the data.

    Returns:
        Scores, shape (N,), and the sample of each image for the weights that scored it: "unseen", "in-sample", "out-of-fold"
        or "unknown".

    Raises:
        ValueError: If an image has no finite score; names the image and the command to run.
    """
    wanted = [os.path.normpath(path) for path in frame["path"]]
    cells: dict[str, tuple[float, str, str]] = {}  # score, sample and error by path
    for file in files:
        scores = read_scores(file, dimension)
        meta = scores.attrs.get("meta", {})
        sample = meta.get("sample", "unknown")
        errors = scores["error"] if "error" in scores else [""] * len(scores)
        if scores.attrs.get("by_stem"):  # the published form
            absent = missing_scores(list(frame["image"]), scores, dimension)
            there = frame[~frame["image"].isin(absent)]
            for path, value in zip(there["path"], join_scores(list(there["image"]), scores, dimension, file), strict=True):
                cells.setdefault(os.path.normpath(path), (value, "unknown", ""))
            continue
        for base in (meta.get("root"), frame.attrs["root"]):  # the second if the data have moved
            paths = [os.path.normpath(os.path.join(base, image)) for image in scores["image"]] if base else []
            names = match_names(wanted, paths)
            if names:
                break
        rows = dict(zip(paths, zip(scores[dimension], errors, strict=True), strict=True))
        for path, name in names.items():
            value, error = rows[name]
            cells.setdefault(path, (value, sample, error))
    values, samples, missing = [], {}, []
    for image, path in zip(frame["image"], frame["path"], strict=True):
        value, sample, error = cells.get(os.path.normpath(path), (np.nan, "", "no row"))
        if not np.isfinite(value):
            missing.append(f"{image} ({error or 'no score'})")
        values.append(value)
        samples[image] = sample
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(frame)} images have no {dimension} score in {', '.join(map(str, files))}, e.g. "
            f"{missing[0]}; run infer_{dimension}.py on {frame.attrs['root']} and pass its CSV as well"
        )
    return np.array(values), samples


def sub_scores_of(options: TrainOptions, parts: Parts) -> dict[str, np.ndarray]:
    """Read CF and SCC of each image of the parts from the files of ``--cf`` and ``--scc``, shape (N, 2) each.

    Raises:
        ValueError: If an image has no score, or the scores of training images are not out-of-fold but should be.
    """
    scores = {}
    for name, part in parts.items():
        columns = []
        for dimension, files in (("CF", options.cf), ("SCC", options.scc)):
            values, samples = read_sub_scores(part, files or [], dimension)
            columns.append(values)
            if name != "test":
                check_samples(dimension, list(samples.values()), options.out_of_fold)
        scores[name] = np.stack(columns, 1)
    return scores


def check_samples(dimension: str, samples: list[str], refuse: bool) -> None:
    """Warn if PR would learn to trust sub-scores that are better on training images than on new ones.

    Raises:
        ValueError: In place of a warning, if ``refuse``.
    """
    count = Counter(samples)
    advice = f"use the out-of-fold predictions of train_{dimension}.py --folds 5 --oof FILE"
    problem = ""
    if count["in-sample"]:
        problem = (
            f"{count['in-sample']} of {len(samples)} training images have in-sample {dimension} predictions: they are too "
            f"good, and PR will trust {dimension} too much; {advice}"
        )
    elif count["unknown"]:
        problem = (
            f"the {dimension} file does not say whether the predictions of {count['unknown']} of {len(samples)} training "
            f"images are in-sample; if they are, PR will trust {dimension} too much: {advice}"
        )
    if problem and refuse:
        raise ValueError(f"{problem}, or pass --no-out-of-fold to train on these, as published")
    if problem:
        print(f"WARNING: {problem}")

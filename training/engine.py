"""Training loop, prediction and records of a run, shared by the three training scripts.

Every random number of an epoch follows from the seed and the number of the epoch, so that a resumed run gives the same
weights as one that was never stopped (on the CPU, bit for bit).
"""

import argparse
import csv
import io
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from tqdm import tqdm

from models.base import Inputs, LoadedBatches, ScoreNet, stack
from models.loading import build_model
from utils import distributed
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.files import sha256, write_atomic
from utils.metrics import correlations

NEXT = "next.pt"  # what is about to be best.pt
_ENCODING_BATCH = 8  # on a CPU larger ones are slower: the system hands out their memory anew each time
_KEPT_TOGETHER = 32 * _ENCODING_BATCH  # pictures whose features are one file
_CROP = 0.12  # at most this share of each side is cropped away
_SETTINGS = (  # arguments that decide where training ends up; a run goes on with those it was started with
    "backbone",
    "size",
    "epochs",
    "batch_size",
    "lr",
    "backbone_lr",
    "weight_decay",
    "warmup",
    "clip",
    "correlation_weight",
    "augment",
    "seed",
    "limit",
    "preset",
    "optimizer",
    "schedule",
    "stop_loss",
    "best_epoch",
    "attention",
    "init",
    "backbone_weights",
    "random_init",
    "labels",
    "color_prior",
    "prior",
    "ranker",
    "ranking",
    "object_prior",
    "system",
    "settings",
    "columns",
    "betas",
    "test_methods",
)


class FeatureSet(Dataset):
    """Encoded views of a picture set, for training the head of a frozen network; an item as of ``RatedPictures``."""

    def __init__(self, features: Inputs, mos: Tensor, scores: Tensor | None, views: int) -> None:
        self.features, self.mos, self.scores, self.views = features, mos, scores, views
        self.drawn: Tensor | None = None

    @property
    def scenes(self) -> Tensor:
        """Number of the scene of each picture, where the features have it."""
        return self.features["scene"][0]

    def __len__(self) -> int:
        return len(self.mos)

    def subset(self, rows: np.ndarray, mos: np.ndarray, scores: np.ndarray | None, views: int) -> "FeatureSet":
        """The first ``views`` views of some of the pictures, with other ratings and sub-scores."""
        chosen = torch.from_numpy(np.asarray(rows))
        features = {k: v[:views, chosen] for k, v in self.features.items()}
        extra = None if scores is None else torch.tensor(scores, dtype=torch.float32)
        return FeatureSet(features, torch.tensor(mos, dtype=torch.float32), extra, views)

    def draw(self, order: list[int], generator: torch.Generator) -> None:
        """Draw the view of each picture of an epoch, as one process does that meets them in this order."""
        self.drawn = torch.zeros(len(self), dtype=torch.int64)
        for index in order:
            self.drawn[index] = torch.randint(self.views, (), generator=generator)

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor, Tensor, int]:
        view = 0
        if self.views > 1:
            view = int(torch.randint(self.views, ()) if self.drawn is None else self.drawn[index])
        item = {k: v[view, index] for k, v in self.features.items()}
        return item, self.mos[index], torch.empty(0) if self.scores is None else self.scores[index], index


class OwnViews(Dataset):
    """A picture set that makes its random views itself, of the seed and the epoch; plain ones in epoch 0.

    Attributes:
        epoch: Whole number that processes which read pictures share.
    """

    def __init__(self) -> None:
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()


class EpochSampler(Sampler[int]):
    """A shuffle that depends on seed and epoch alone.

    Args:
        count: Pictures.
        seed: Of the shuffle.
        scenes: Number of the scene of each picture, shape (count,), to keep the pictures of a scene together: scenes are
            shuffled, and the pictures within each.
    """

    def __init__(self, count: int, seed: int, scenes: Tensor | None = None) -> None:
        self.count, self.seed, self.scenes, self.epoch = count, seed, scenes, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        generator = epoch_generator(self.seed, self.epoch)
        order = torch.randperm(self.count, generator=generator)
        if self.scenes is not None:
            place = torch.randperm(int(self.scenes.max()) + 1, generator=generator)
            order = order[place[self.scenes[order]].argsort(stable=True)]
        return iter(order.tolist())


class Batches(Sampler[list[int]]):
    """The share of this process in batches of a sampler's pictures.

    Processes divide a batch that one process would have whole. Where it cannot be divided evenly, some pictures are there
    twice, so that each process has as many, and at least two where there are two, as batch normalization needs.

    Args:
        sampler: The pictures of an epoch.
        size: Pictures per batch and process.
        drop_last: Leave a smaller last batch out; else it is kept, but a lone picture joins the batch before it, since batch
            normalization cannot train on one.
    """

    def __init__(self, sampler: EpochSampler, size: int, drop_last: bool) -> None:
        self.sampler, self.size, self.drop_last = sampler, size, drop_last

    def __len__(self) -> int:
        size = self.size * distributed.world_size()
        full, rest = divmod(len(self.sampler), size)
        return full + (rest > 0 and not self.drop_last and not (rest == 1 and full > 0))

    def __iter__(self):
        order, world = list(self.sampler), distributed.world_size()
        size = self.size * world
        for i in range(len(self)):
            last = i == len(self) - 1 and not self.drop_last
            batch = order[i * size :] if last else order[i * size : (i + 1) * size]
            share = len(batch) if world == 1 else max(math.ceil(len(batch) / world), min(2, len(batch)))
            yield (batch * 2 * world)[: share * world][distributed.rank() :: world]


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """Random numbers of one epoch; ``stream`` tells independent uses apart."""
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & 0x7FFF_FFFF_FFFF_FFFF)


def collate(items: list[tuple[Inputs, Tensor, Tensor, int]]) -> tuple[Inputs, Tensor, Tensor, Tensor]:
    inputs, mos, scores, index = zip(*items, strict=True)
    return stack(list(inputs)), torch.stack(mos), torch.stack(scores), torch.tensor(index)


def augment(inputs: Inputs, generator: torch.Generator, rank: int = 0, world: int = 1) -> Inputs:
    """Flip each picture with probability 1/2 and crop the batch mildly; color is never touched.

    Where objects are is flipped and cropped with the picture, to the nearest cell.

    Args:
        inputs: Prepared pictures.
        generator: Of the random numbers, the same on all processes.
        rank: Number of the process, whose pictures are every ``world``-th of a batch.
        world: Processes that share the batch.
    """
    flip = (torch.rand(len(inputs["rgb"]) * world, generator=generator) < 0.5)[rank::world]
    top, left, right, bottom = (torch.rand(4, generator=generator) * _CROP / 2).tolist()
    out = {}
    for key, x in inputs.items():
        if x.ndim < 4:  # what was measured in the whole picture stays
            out[key] = x
            continue
        x = torch.where(flip.to(x.device)[:, None, None, None], x.flip(3), x)
        h, w = x.shape[2:]
        x = x[:, :, round(top * h) : h - round(bottom * h), round(left * w) : w - round(right * w)]
        out[key] = F.interpolate(x, (h, w), mode="bilinear", antialias=key == "rgb", align_corners=False)
    return out


def agreement(pred: np.ndarray, mos: np.ndarray, columns: list[str]) -> dict[str, float]:
    """``correlations``; of several columns their means, and each after the name of its column.

    Args:
        pred: Shape (N,), or (N, K).
        mos: Of the same shape; NaN where a picture is not rated.
        columns: K names.
    """
    found = {}
    for name, p, m in zip(columns, pred.reshape(len(pred), -1).T, mos.reshape(len(mos), -1).T, strict=True):
        known = np.isfinite(m)
        found[name] = correlations(p[known], m[known])
    if len(columns) == 1:
        return found[columns[0]]
    # a column that nobody rated here, or that is constant, has no part in the mean
    parts = {key: [value[key] for value in found.values() if not math.isnan(value[key])] for key in found[columns[0]]}
    means = {key: float(np.mean(values)) if values else math.nan for key, values in parts.items()}
    return means | {f"{name} {key}": value for name, values in found.items() for key, value in values.items()}


def differ(mos: Tensor) -> bool:
    """Tell whether pictures are rated differently, in one column at least.

    Args:
        mos: Shape (N,), or (N, K); NaN where a picture is not rated.
    """
    columns = mos.reshape(len(mos), -1).T
    return any(len(column[column.isfinite()].unique()) > 1 for column in columns)


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    return {k: v.to(device, non_blocking=True) for k, v in inputs.items()}


@torch.inference_mode()
def predict(model: ScoreNet, dataset: Dataset, device: torch.device, workers: int = 0) -> Tensor:
    """Scores of a dataset in its order, by the network in evaluation mode, shape (N,), or (N, K) of K columns."""
    model.eval()
    loader = DataLoader(dataset, model.scoring_batch, num_workers=workers, collate_fn=collate)
    net = LoadedBatches(model, isinstance(dataset, FeatureSet))
    parts = [
        net(to_device(inputs, device), scores.to(device) if scores.numel() else None).float().cpu()
        for inputs, _, scores, _ in loader
    ]
    return torch.cat(parts)


@torch.inference_mode()
def encode_set(
    model: ScoreNet, dataset: Any, device: torch.device, views: int, seed: int, workers: int, keep: Path | None = None
) -> FeatureSet:
    """Run the frozen part of a network over a picture set once, for each of ``views`` (the first one is plain).

    Args:
        model: The network.
        dataset: The pictures.
        device: Where to run it.
        views: How many.
        seed: Of the random views.
        workers: Processes that read pictures.
        keep: A folder of this network and these pictures, where features are found again after an interruption.
    """
    model.eval()
    stored: list[list[Inputs]] = []
    for view in range(views):
        generator = epoch_generator(seed, view, stream=2)
        title = f"encoding, view {view + 1}/{views}"
        bar = tqdm(total=len(dataset), desc=title, leave=False, disable=not distributed.is_main())
        parts: list[Inputs] = []
        own_views = isinstance(dataset, OwnViews)
        if own_views:
            dataset.epoch.fill_(view)
        for first in range(0, len(dataset), _KEPT_TOGETHER):
            rows = range(first, min(first + _KEPT_TOGETHER, len(dataset)))
            file = None if keep is None else keep / f"view{view}_{first}.pt"
            found = None if file is None else kept_features(file)
            if found is not None:
                parts.append(found["features"])
                generator.set_state(found["generator"])
                bar.update(len(rows))
                continue
            loader = DataLoader(Subset(dataset, rows), _ENCODING_BATCH, num_workers=workers, collate_fn=collate)
            encoded = []
            for inputs, _, _, index in loader:
                inputs = augment(inputs, generator) if view > 0 and not own_views else inputs
                encoded.append({k: v.cpu() for k, v in model.encode(to_device(inputs, device)).items()})
                bar.update(len(index))
            parts.append({k: torch.cat([e[k] for e in encoded]) for k in encoded[0]})
            if file is not None and distributed.is_main():
                content = {"features": parts[-1], "generator": generator.get_state()}
                write_atomic(file, lambda opened, content=content: torch.save(content, opened))
        bar.close()
        stored.append({k: torch.cat([p[k] for p in parts]) for k in parts[0]})
    if isinstance(dataset, OwnViews):
        dataset.epoch.fill_(0)
    features = {k: torch.stack([s[k] for s in stored]) for k in stored[0]}
    return FeatureSet(features, dataset.mos, dataset.scores, views)


def kept_features(file: Path) -> dict[str, Any] | None:
    """What an interrupted run kept; None if it is not there, or damaged."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file raises nearly any kind
        return None


def command_line() -> str:
    """The command of this run, as typed in the folder of the repository."""
    script = Path(sys.argv[0]).resolve()
    root = Path(__file__).resolve().parents[1]
    name = script.relative_to(root) if script.is_relative_to(root) else Path(script.name)
    return shlex.join(["python", name.as_posix(), *sys.argv[1:]])


def fit(
    model: ScoreNet,
    train_set: Any,
    val_set: Any,
    args: argparse.Namespace,
    output: Path | None,
    record: dict[str, Any],
    restarts: Callable[[int, int, float], float] | None = None,
) -> ScoreNet:
    """Train a network, keep the weights of the epoch with the best validation SRCC.

    Args:
        model: The network with its start weights.
        train_set: ``RatedPictures`` or ``PublishedPictures`` to fit, or a ``FeatureSet`` if the backbone is frozen.
        val_set: The same of other scenes, which choose the epoch; None keeps the last epoch.
        args: The shared training arguments.
        output: Folder for ``best.pt``, ``last.pt``, ``metrics.csv``, ``curves.png`` and TensorBoard files; None writes and
            prints nothing.
        record: What the checkpoint says of its training, beside metrics and command.
        restarts: Gives the rate of a step, of all steps, for a peak rate, where ``args.schedule`` is "restarts".

    Returns:
        The network of the best epoch, in evaluation mode.
    """
    device = torch.device(args.device)
    model.to(device)
    frozen = args.backbone_lr == 0
    workers = 0 if isinstance(train_set, FeatureSet) else args.workers
    for parameter in model.pretrained_parameters():
        parameter.requires_grad_(not frozen)

    groups = [{"params": model.head_parameters(), "lr": args.lr}]
    if not frozen:
        groups.append({"params": model.pretrained_parameters(), "lr": args.backbone_lr})
    adam = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[args.optimizer]
    betas = getattr(args, "betas", (0.9, 0.999))
    optimizer = adam([group for group in groups if group["params"]], betas=betas, weight_decay=args.weight_decay)
    sampler = EpochSampler(len(train_set), args.seed, train_set.scenes if model.ranks_within_scenes else None)
    world, rank = distributed.world_size(), distributed.rank()
    drop_last = len(sampler) > args.batch_size * world and args.preset == "compact"
    loader = DataLoader(
        train_set,
        batch_sampler=Batches(sampler, args.batch_size, drop_last),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        # else the loader draws from the stream of dropout, in the first epoch of a process only where workers persist
        generator=torch.Generator(),
    )
    steps = len(loader) * args.epochs
    warmup = max(1, round(args.warmup * steps))

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if args.schedule == "constant":
            return 1.0
        if args.schedule == "restarts":
            return restarts(step, steps, 1.0)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    amp = args.amp and device.type == "cuda"
    half = torch.bfloat16 if amp and torch.cuda.is_bf16_supported() else torch.float16
    scaler = torch.amp.GradScaler("cuda", enabled=amp and half == torch.float16)

    start, best, best_epoch, best_hash, history = 1, -math.inf, 0, "", []
    best_state: dict[str, Tensor] = {}
    if args.resume and output is not None and (output / "last.pt").is_file():
        kept = {"epoch", "best", "best_epoch", "best_hash", "history", "optimizer", "scheduler", "scaler"}
        state = read_state(output, model.dimension, settings_of(args), record.get("content", {}), kept)
        if distributed.is_main():
            check_best(output, state["best_hash"])
        try:
            model.load_state_dict(state["model"])
            for part, name in ((optimizer, "optimizer"), (scheduler, "scheduler"), (scaler, "scaler")):
                part.load_state_dict(state[name])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise other_version(output, error) from error
        best, best_epoch, best_hash, history = (state[name] for name in ("best", "best_epoch", "best_hash", "history"))
        start = state["epoch"] + 1
        print(f"resuming after epoch {state['epoch']} of {args.epochs}")
    elif args.resume and output is not None and (output / "best.pt").is_file():
        raise ValueError(f"{output / 'best.pt'} is there without the last.pt that --resume goes on from; pass another --output")
    last_loss = history[-1]["loss"] if history else math.inf
    judged = args.best_epoch and val_set is not None and differ(val_set.mos)
    if args.best_epoch and not judged and output is not None:
        why = "no validation pictures" if val_set is None else f"all {len(val_set)} validation pictures are rated alike"
        print(f"WARNING: {why}, so that nothing can choose the epoch: the last one is kept")
    wrapped = distributed.wrap(LoadedBatches(model, isinstance(train_set, FeatureSet)), device)
    quiet = output is None or not distributed.is_main()
    writer = None if quiet else summary_writer(output, start)

    for epoch in range(start, args.epochs + 1):
        if args.patience is not None and best_epoch and epoch - best_epoch > args.patience:
            print(f"no better validation for {args.patience} epochs: stopping")
            break
        if args.stop_loss is not None and last_loss <= args.stop_loss:
            print(f"mean training loss {last_loss:.5f}, no more than {args.stop_loss:g}: stopping")
            break
        began = time.time()
        sampler.epoch = epoch
        own_views = isinstance(train_set, OwnViews)
        if own_views:
            train_set.epoch.fill_(epoch if args.augment else 0)
        # dropout and the choice of views; each process draws its own
        torch.manual_seed(int(epoch_generator(args.seed, epoch, stream=10 + rank).initial_seed()))
        if world > 1 and isinstance(train_set, FeatureSet) and train_set.views > 1:
            train_set.draw(list(sampler), epoch_generator(args.seed, epoch, stream=10))
        generator = epoch_generator(args.seed, epoch, stream=1)
        wrapped.train()
        total = 0.0
        bar = tqdm(loader, desc=f"epoch {epoch}/{args.epochs}", leave=False, disable=quiet)
        for step, (inputs, mos, scores, index) in enumerate(bar, 1):
            if args.augment and not frozen and not own_views:
                inputs = augment(inputs, generator, rank, world)
            inputs = to_device(inputs, device)
            with torch.autocast(device.type, half, enabled=amp):
                pred = wrapped(inputs, scores.to(device) if scores.numel() else None)
            # a loss that compares the pictures of a batch looks at all of it, on whatever processes they are
            scene = {k: v for k, v in inputs.items() if k == "scene"}
            pred, mos, *gathered = distributed.gather_batch(index.to(device), pred.float(), mos.to(device), *scene.values())
            loss = model.loss(pred, mos, dict(zip(scene, gathered, strict=True)), args.correlation_weight)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ValueError(
                    f"epoch {epoch}, step {step} of {len(loader)}: the loss is {value}, for the weights grew beyond all "
                    f"bounds; train anew with a lower --lr than {args.lr:g}"
                )
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss * world).backward()  # processes average gradients, of which each has those of its own pictures
            scaler.unscale_(optimizer)
            if args.clip > 0:
                nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], args.clip)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            total += value
            bar.set_postfix(loss=f"{value:.4f}")
        if not all(p.isfinite().all() for p in model.parameters()):
            raise ValueError(
                f"epoch {epoch}: weights are not finite after the last step; train anew with a lower --lr than {args.lr:g}"
            )
        last_loss = distributed.mean(total / len(loader))
        row: dict[str, float] = {"epoch": epoch, "loss": last_loss, "lr": optimizer.param_groups[0]["lr"]}
        if distributed.is_main():
            if val_set is not None:
                pred = predict(model, val_set, device, workers=workers).numpy()
                row |= agreement(pred, val_set.mos.numpy(), model.columns)
            row["seconds"] = time.time() - began
            history.append(row)
            # a constant prediction has no SRCC; it still must be kept when nothing better has come
            quality = row.get("SRCC", float(epoch)) if judged else float(epoch)
            quality = -1.0 if math.isnan(quality) else quality
            better = quality > best
            if better:
                best, best_epoch = quality, epoch
        if quiet:
            if distributed.is_main() and better:
                best_state = {k: v.clone() for k, v in model.state_dict().items()}
        else:
            extra = {
                "content": {},
                **record,
                "metrics": dict(row),
                "command": command_line(),
                "epoch": epoch,
                "epochs": args.epochs,
            }
            if better:  # it becomes best.pt once last.pt knows it, so that a kill at any moment leaves a pair
                save_checkpoint(output / NEXT, model, half=args.half, **extra)
                best_hash = sha256(output / NEXT)
            save_checkpoint(
                output / "last.pt",
                model,
                **extra,
                optimizer=optimizer.state_dict(),
                scheduler=scheduler.state_dict(),
                scaler=scaler.state_dict(),
                best=best,
                best_epoch=best_epoch,
                best_hash=best_hash,
                history=history,
                settings=settings_of(args),
            )
            if better:
                os.replace(output / NEXT, output / "best.pt")
            write_history(output / "metrics.csv", history)
            for key, value in row.items():
                if key != "epoch" and not math.isnan(value):
                    writer.add_scalar(key, value, epoch)
            shown = "  ".join(f"{k} {row[k]:.4f}" for k in ("loss", "SRCC", "PLCC", "KRCC", "RMSE") if k in row)
            print(f"epoch {epoch:3d}/{args.epochs}  {shown}  {row['seconds']:.0f} s{'  *' if epoch == best_epoch else ''}")
        best_epoch, best_hash = distributed.broadcast((best_epoch, best_hash))
    if output is None:
        model.load_state_dict(best_state)
        return model.eval()
    if not quiet:
        writer.close()
        plot_curves(history, output / "curves.png", model.dimension)
    distributed.barrier()
    content = read_checkpoint(output / "best.pt")
    check_best(output, best_hash)  # of what was read, even if it has been replaced since
    model = build_model(content, str(output / "best.pt"), {model.dimension: type(model)}).to(device).eval()
    model.weights_hash = best_hash
    return model


def read_state(
    output: Path, dimension: str, settings: dict[str, Any], content: dict[str, str], keys: set[str]
) -> dict[str, Any]:
    """Read where a run stopped.

    Args:
        output: Its folder.
        dimension: What is trained.
        settings: The arguments that decide where training ends up.
        content: A hash of each kind of data, see ``training_record``.
        keys: What the caller reads of the result.

    Returns:
        The content of ``last.pt``.

    Raises:
        ValueError: If it is a run of another dimension, of other settings or data, or of another version of this project.
    """
    state = read_checkpoint(output / "last.pt")
    if state.get("dimension") != dimension:
        raise ValueError(f"{output} holds a run of {state.get('dimension')}, not of {dimension}; pass another --output")
    lacking = {"settings", "content", "model", *keys} - set(state)
    if lacking or set(state["settings"]) != set(settings):
        raise other_version(output, ", ".join(sorted(lacking or set(state["settings"]) ^ set(settings))))
    begun = {"settings": state["settings"], "data": state["content"]}
    now = {"settings": settings, "data": content}
    for kind, values in begun.items():
        other = [name for name in {**values, **now[kind]} if values.get(name) != now[kind].get(name)]
        named = [f"--{name.replace('_', '-')} {values[name]}" for name in other] if kind == "settings" else other
        if other:
            raise ValueError(
                f"{output} was started with {'other data: ' if kind == 'data' else ''}{', '.join(named)}; a run goes on only "
                f"with the same {kind}: pass --overwrite to train anew, or another --output"
            )
    return state


def other_version(output: Path, reason: object) -> ValueError:
    """The error of a ``last.pt`` that this version cannot go on with."""
    reason = " ".join(str(reason).split())[:200]
    return ValueError(
        f"{output / 'last.pt'} is of another version of this project ({reason}), which alone can go on with it; pass "
        "--overwrite to train anew, or another --output"
    )


def check_best(output: Path, best_hash: str) -> None:
    """Check that ``best.pt`` is the file that the run wrote, and finish what a kill left half done.

    Raises:
        ValueError: If it is another file.
    """
    best, waiting = output / "best.pt", output / NEXT
    if waiting.is_file() and sha256(waiting) == best_hash:
        os.replace(waiting, best)
    if not best.is_file() or sha256(best) != best_hash:
        raise ValueError(f"{best} is not what this run wrote: something replaced it; pass --overwrite to train anew")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that decide where training ends up, in a form that checkpoints hold."""
    values = {k: getattr(args, k, None) for k in _SETTINGS}  # some are of one script only
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def summary_writer(output: Path, start: int) -> Any:
    """TensorBoard writer of the main process; a resumed run hides the steps it will write again."""
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

    return SummaryWriter(str(output / "tensorboard"), purge_step=start)


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One CSV row an epoch."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, list(history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
    write_atomic(path, buffer.getvalue())


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Results as JSON; not-a-number becomes null, for JSON has none."""
    clean = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in results.items()}
    write_atomic(path, json.dumps(clean, indent=2) + "\n")


def plot_curves(history: list[dict[str, float]], path: Path, title: str) -> None:
    """Training loss and validation correlations over the epochs, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    epochs = [row["epoch"] for row in history]
    left.plot(epochs, [row["loss"] for row in history], marker=".")
    left.set(title=f"{title}: training loss", xlabel="epoch")
    for key in ("SRCC", "PLCC", "KRCC"):
        if key in history[0]:
            right.plot(epochs, [row[key] for row in history], marker=".", label=key)
    if "SRCC" in history[0]:
        right.legend()
    right.set(title="validation, scenes not trained on", xlabel="epoch")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    plt.close(figure)
    write_atomic(path, buffer.getvalue())

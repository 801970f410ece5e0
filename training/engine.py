"""The training loop, and prediction."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from models.base import LoadedBatches, ScoreNet
from training.batches import Batches, EpochSampler, OwnViews, augment, epoch_generator, to_device
from training.images import FeatureSet, Sets, collate
from training.options import TrainOptions
from training.records import Checkpoint, Log
from utils import distributed
from utils.metrics import column_correlations

Rate = Callable[[int, int], float]  # share of the peak learning rate, by step and number of steps
_SHAPES: dict[str, Callable[[int, int, int], float]] = {  # after the warm-up, by step, steps and steps of the warm-up
    "constant": lambda step, steps, warmup: 1.0,
    "cosine": lambda step, steps, warmup: 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))),
}


def make_optimizer(model: ScoreNet, options: TrainOptions) -> torch.optim.Optimizer:
    """Return the optimizer of a network: the head learns at ``lr``, the pretrained part at ``backbone_lr`` or not at all."""
    model.to(torch.device(options.device))
    groups: list[dict[str, Any]] = [{"params": model.head_parameters(), "lr": options.lr}]
    for parameter in model.pretrained_parameters():
        parameter.requires_grad_(options.backbone_lr != 0)
    if options.backbone_lr != 0:
        groups.append({"params": model.pretrained_parameters(), "lr": options.backbone_lr})
    adam = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[options.optimizer]
    betas = options.betas or (0.9, 0.999)
    return adam([group for group in groups if group["params"]], betas=betas, weight_decay=options.weight_decay)


def make_schedule(options: TrainOptions, shape: Callable[[int, int, int], float] | None = None) -> Rate:
    """Return the schedule of the learning rate: a linear rise over the warm-up, then ``options.schedule``.

    Args:
        options: Options of the script.
        shape: Another schedule than ``options.schedule``: a function of the step, the steps and the steps of the warm-up.
    """
    shape = shape or _SHAPES[options.schedule]

    def rate(step: int, steps: int) -> float:
        warmup = max(1, round(options.warmup * steps))
        return (step + 1) / warmup if step < warmup else shape(step, steps, warmup)

    return rate


class Stepper:
    """Optimizer, schedule and mixed precision, which make a training step from a loss.

    Args:
        optimizer: The optimizer.
        rate: The schedule.
        steps: Number of steps of the whole training.
        options: Options of the script.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, rate: Rate, steps: int, options: TrainOptions) -> None:
        self.optimizer, self.clip = optimizer, options.clip
        self.device = torch.device(options.device)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
        self.amp = options.amp and self.device.type == "cuda"
        self.half = torch.bfloat16 if self.amp and torch.cuda.is_bf16_supported() else torch.float16
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp and self.half == torch.float16)
        self.stateful = {"optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}

    @property
    def lr(self) -> float:
        """Return the rate of the head at the next step."""
        return self.optimizer.param_groups[0]["lr"]

    def autocast(self) -> torch.autocast:
        """Return the context in which a network computes in mixed precision, if that was asked for."""
        return torch.autocast(self.device.type, self.half, enabled=self.amp)

    def step(self, loss: Tensor) -> None:
        """Make one step down the gradient of a loss."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        if self.clip > 0:
            nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()


def fit(
    model: ScoreNet,
    optimizer: torch.optim.Optimizer,
    rate: Rate,
    sets: Sets,
    options: TrainOptions,
    output: Path | None,
    record: dict[str, Any],
) -> ScoreNet:
    """Train a network and keep the weights of the epoch with the best validation SRCC.

    Args:
        model: The network with its start weights.
        optimizer: Result of ``make_optimizer``.
        rate: Result of ``make_schedule``.
        sets: "train", the images to fit, and "val", images of other scenes that choose the epoch; without "val" the last epoch
            is kept.
        options: Options of the script.
        output: Folder for ``best.pt``, ``last.pt``, ``metrics.csv``, ``curves.png`` and TensorBoard files; None writes and
            prints nothing.
        record: Entries of the checkpoint on its training, beside metrics and command.

    Returns:
        The network of the best epoch, in evaluation mode.
    """
    # Batches, steps, and where a stopped run goes on
    val_set: Any = sets["val"]
    loader = train_loader(model, sets["train"], options)
    stepper = Stepper(optimizer, rate, len(loader) * options.epochs, options)
    checkpoint = Checkpoint(model, stepper.stateful, options, output, record)
    checkpoint.resume()
    judged = can_choose(val_set, options, output)
    batches = LoadedBatches(model, isinstance(sets["train"], FeatureSet))
    wrapped = distributed.wrap(batches, stepper.device)
    log = Log(output if distributed.is_main() else None, model.dimension, checkpoint.epoch + 1, options.epochs)

    for epoch in range(checkpoint.epoch + 1, options.epochs + 1):
        # Stop early
        if reason := reason_to_stop(epoch, checkpoint, options):
            print(f"{reason}: stopping")
            break
        # Random numbers, which follow from the seed and the epoch
        began = time.time()
        start_epoch(loader, epoch, options)
        # Train
        loss = train_one_epoch(model, wrapped, loader, stepper, epoch, options, quiet=log.output is None)
        row: dict[str, float] = {"epoch": epoch, "loss": loss, "lr": stepper.lr}
        # Validate
        if val_set is not None and distributed.is_main():
            pred = predict(model, val_set, stepper.device, loader.num_workers).numpy()
            row |= column_correlations(pred, val_set.mos.numpy(), model.columns)
        row["seconds"] = time.time() - began
        # Keep the best epoch
        checkpoint.save(row, row.get("SRCC", float(epoch)) if judged else float(epoch))
        # Log
        log.write(checkpoint.history, checkpoint.best_epoch)

    log.close(checkpoint.history)
    return checkpoint.chosen()


def train_loader(model: ScoreNet, train_set: Any, options: TrainOptions) -> DataLoader:
    """Return batches of the images to train on; the order of an epoch depends on the seed and its number alone."""
    sampler = EpochSampler(len(train_set), options.seed, train_set.scenes if model.ranks_within_scenes else None)
    drop_last = len(sampler) > options.batch_size * distributed.world_size() and options.preset == "compact"
    workers = 0 if isinstance(train_set, FeatureSet) else options.workers
    return DataLoader(
        train_set,
        batch_sampler=Batches(sampler, options.batch_size, drop_last),
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=torch.device(options.device).type == "cuda",
        # else the loader draws from the stream of dropout, in the first epoch of a process only where workers persist
        generator=torch.Generator(),
    )


def can_choose(val_set: Any, options: TrainOptions, output: Path | None) -> bool:
    """Tell whether the validation images can choose the epoch; warn if they cannot although they should."""
    judged = options.best_epoch and val_set is not None and differ(val_set.mos)
    if options.best_epoch and not judged and output is not None:
        why = "no validation images" if val_set is None else f"all {len(val_set)} validation images are rated alike"
        print(f"WARNING: {why}, so that nothing can choose the epoch: the last one is kept")
    return judged


def differ(mos: Tensor) -> bool:
    """Tell whether images have different ratings in at least one column.

    Args:
        mos: Shape (N,), or (N, K); NaN where an image is not rated.
    """
    columns = mos.reshape(len(mos), -1).T
    return any(len(column[column.isfinite()].unique()) > 1 for column in columns)


def reason_to_stop(epoch: int, checkpoint: Checkpoint, options: TrainOptions) -> str:
    """Return the reason to stop before an epoch; empty if training goes on."""
    if options.patience is not None and checkpoint.best_epoch and epoch - checkpoint.best_epoch > options.patience:
        return f"no better validation for {options.patience} epochs"
    if options.stop_loss is not None and checkpoint.loss <= options.stop_loss:
        return f"mean training loss {checkpoint.loss:.5f}, no more than {options.stop_loss:g}"
    return ""


def start_epoch(loader: DataLoader, epoch: int, options: TrainOptions) -> None:
    """Set every source of random numbers for an epoch: order, views and dropout, which differs between processes."""
    train_set, batches, seed = loader.dataset, loader.batch_sampler, options.seed
    assert isinstance(batches, Batches)
    batches.sampler.epoch = epoch
    if isinstance(train_set, OwnViews):
        train_set.epoch.fill_(epoch if options.augment else 0)
    torch.manual_seed(int(epoch_generator(seed, epoch, stream=10 + distributed.rank()).initial_seed()))
    if distributed.world_size() > 1 and isinstance(train_set, FeatureSet) and train_set.views > 1:
        train_set.draw(list(batches.sampler), epoch_generator(seed, epoch, stream=10))


def train_one_epoch(
    model: ScoreNet,
    wrapped: nn.Module,
    loader: DataLoader,
    stepper: Stepper,
    epoch: int,
    options: TrainOptions,
    quiet: bool = False,
) -> float:
    """Train in place and return the mean loss of the epoch, over all processes.

    Args:
        model: The network.
        wrapped: The network in ``LoadedBatches``, with gradients averaged over processes.
        loader: Batches of the epoch.
        stepper: Optimizer and schedule.
        epoch: Number of the epoch.
        options: Options of the script.
        quiet: Whether to show no progress.

    Raises:
        ValueError: If the loss or a weight is not finite.
    """
    world, rank, advice = distributed.world_size(), distributed.rank(), f"train anew with a lower --lr than {options.lr:g}"
    augmented = options.augment and options.backbone_lr != 0 and not isinstance(loader.dataset, OwnViews)
    generator = epoch_generator(options.seed, epoch, stream=1)
    wrapped.train()
    total = 0.0
    bar = tqdm(loader, desc=f"epoch {epoch}/{options.epochs}", leave=False, disable=quiet)
    for step, (inputs, mos, scores, index) in enumerate(bar, 1):
        if augmented:
            inputs = augment(inputs, generator, rank, world)
        inputs = to_device(inputs, stepper.device)
        with stepper.autocast():
            pred = wrapped(inputs, scores.to(stepper.device) if scores.numel() else None)
        # a loss that compares the images of a batch needs the images of all processes
        scene = {k: v for k, v in inputs.items() if k == "scene"}
        pred, mos, *gathered = distributed.gather_batch(
            index.to(stepper.device), pred.float(), mos.to(stepper.device), *scene.values()
        )
        loss = model.loss(pred, mos, dict(zip(scene, gathered, strict=True)), options.correlation_weight)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(
                f"epoch {epoch}, step {step} of {len(loader)}: the loss is {value}, since the weights grew beyond all bounds; "
                f"{advice}"
            )
        stepper.step(loss * world)  # processes average gradients, and each has only those of its own images
        total += value
        bar.set_postfix(loss=f"{value:.4f}")
    if not all(p.isfinite().all() for p in model.parameters()):
        raise ValueError(f"epoch {epoch}: weights are not finite after the last step; {advice}")
    return distributed.mean(total / len(loader))


@torch.inference_mode()
def predict(model: ScoreNet, dataset: Any, device: torch.device, workers: int = 0) -> Tensor:
    """Return the scores of a dataset in its order, from the network in evaluation mode, shape (N,), or (N, K) for K columns."""
    model.eval()
    loader = DataLoader(dataset, model.scoring_batch, num_workers=workers, collate_fn=collate)
    net = LoadedBatches(model, isinstance(dataset, FeatureSet))
    batches = [
        net(to_device(inputs, device), scores.to(device) if scores.numel() else None).float().cpu()
        for inputs, _, scores, _ in loader
    ]
    return torch.cat(batches)

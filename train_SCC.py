"""Train Semantic Color Consistency (SCC): does each thing have a color that such a thing can have?

    python train_SCC.py --data data/HECD --photos PHOTOS --output runs/scc --folds 5     # with out-of-fold predictions for PR
    python train_SCC.py --data data/HECD --output runs/try --epochs 1 --limit 32         # a check of a minute on a CPU
    python train_SCC.py --preset published --data ICQA_2K --output runs/scc              # the published network and recipe

``--photos`` is any folder of natural photographs. Before the ratings are looked at, the color prior P(ab | gray picture) is
trained on them, without any label. Photographs that are also in a rated data set should not be in that folder. The published
network has no such prior; it reads ``labels`` and ``color_.json`` of the data folder (docs/reproduce.md).
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.pictures import RatedPictures, picture_paths
from models import SemanticConsistencyNet
from utils import distributed
from utils.arguments import add_fold_arguments, add_object_arguments, parse_training, training_parser
from utils.checkpoint import build_model, read_checkpoint, save_checkpoint
from utils.color import gray_version, rgb_to_lab
from utils.engine import augment, collate, epoch_generator, to_device, write_history
from utils.files import picture_id
from utils.images import ImageReadError, is_gray, list_images, read_rgb
from utils.runs import one_line_errors, start_model, train_branch

_HELD_OUT = 0.05  # share of the photographs on which the prior is measured


def photo_table(folder: Path, limit: int | None) -> pd.DataFrame:
    """The colored photographs below a folder."""
    listed = list_images(folder)
    names = []
    for name in tqdm(listed.names[:limit], desc="reading photographs", leave=False):
        try:
            if not is_gray(read_rgb(listed.path(name))):
                names.append(name)
        except ImageReadError as error:
            print(f"left out: {error}")
    if len(names) < 2:
        raise ValueError(f"{folder} holds {len(names)} colored photographs, expected at least 2")
    frame = pd.DataFrame({"image": names})
    frame.attrs["root"] = str(listed.root)
    return frame


def prior_loss(model: SemanticConsistencyNet, rgb: torch.Tensor, frozen: bool = True) -> torch.Tensor:
    """Mean cross-entropy in nats of the photographs' own colors under the prior; no gradient to a frozen backbone."""
    with torch.set_grad_enabled(not frozen):
        gray_maps = model.backbone(gray_version(rgb_to_lab(rgb)))
    log_prior, lab = model.predict_prior(rgb, gray_maps)
    return model.prior.cross_entropy(log_prior, lab[:, 1:]).mean()


@torch.inference_mode()
def held_out_loss(model: SemanticConsistencyNet, loader: DataLoader, device: torch.device) -> float:
    model.eval()
    values = [(float(prior_loss(model, inputs["rgb"].to(device))), len(mos)) for inputs, mos, _, _ in loader]
    return sum(v * n for v, n in values) / sum(n for _, n in values)


def train_prior(model: SemanticConsistencyNet, args: argparse.Namespace, device: torch.device) -> None:
    """Train backbone and color prior on photographs; keeps the epoch with the best held-out cross-entropy."""
    done = args.output / "prior.pt"
    if args.resume and done.is_file():
        model.load_state_dict(build_model(read_checkpoint(done), str(done)).state_dict())
        print(f"color prior: taken from {done}")
        return
    unfinished = args.output / "prior_unfinished.pt"  # prior.pt is there only once its training is done
    frame = photo_table(args.photos, args.limit)
    held = np.random.default_rng(args.seed).permutation(len(frame)) < max(1, round(_HELD_OUT * len(frame)))
    cache = int(args.cache_gb * (1 << 30))
    loaders = []
    for part, shuffle in ((frame[~held], True), (frame[held], False)):
        part.attrs = frame.attrs
        pictures = RatedPictures(part, model.preprocess, None, cache_bytes=cache)
        loaders.append(
            DataLoader(
                pictures,
                args.batch_size,
                shuffle=shuffle,
                num_workers=args.workers,
                collate_fn=collate,
                drop_last=False,
                generator=epoch_generator(args.seed, 0, stream=3),
                persistent_workers=args.workers > 0,
            )
        )
    print(f"color prior: {(~held).sum()} photographs to train, {held.sum()} held out")
    frozen = args.backbone_lr == 0
    groups = [{"params": model.prior.parameters(), "lr": args.prior_lr}]
    if not frozen:
        groups.append({"params": model.backbone.parameters(), "lr": args.prior_lr / 10})
    optimizer = torch.optim.AdamW(groups, weight_decay=args.weight_decay)
    steps = args.prior_epochs * len(loaders[0])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=steps, pct_start=args.warmup
    )
    seen = torch.tensor([(f.stat().st_size, picture_id(f)) for f in map(Path, picture_paths(frame))], dtype=torch.int64)
    best, history = float("inf"), []
    model.to(device)
    for epoch in range(1, args.prior_epochs + 1):
        model.train()
        generator = epoch_generator(args.seed, epoch, stream=4)
        shown = distributed.is_main()
        bar = tqdm(loaders[0], desc=f"color prior, epoch {epoch}/{args.prior_epochs}", leave=False, disable=not shown)
        total = 0.0
        for inputs, _, _, _ in bar:
            if args.augment:
                inputs = augment(inputs, generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.amp and device.type == "cuda"):
                loss = prior_loss(model, to_device(inputs, device)["rgb"], frozen)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
            bar.set_postfix(nats=f"{float(loss.detach()):.3f}")
        value = held_out_loss(model, loaders[1], device)
        if not distributed.is_main():
            continue
        history.append({"epoch": epoch, "train nats": total / len(loaders[0]), "held-out nats": value})
        write_history(args.output / "prior.csv", history)
        print(f"color prior, epoch {epoch}/{args.prior_epochs}: cross-entropy {value:.3f} nats on held-out photographs")
        if value < best:
            best = value
            save_checkpoint(unfinished, model, metrics=history[-1], photographs=int((~held).sum()), seen=seen)
    if distributed.is_main():
        unfinished.replace(done)
    distributed.barrier()
    model.load_state_dict(build_model(read_checkpoint(done), str(done)).state_dict())


def main() -> None:
    one_line_errors()
    parser = training_parser(__doc__)
    add_fold_arguments(parser)
    parser.add_argument("--photos", type=Path, help="folder of natural photographs for the color prior")
    parser.add_argument("--prior-epochs", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--prior-lr", type=float, default=3e-3, help="of the prior; a tenth for a backbone that is not frozen")
    add_object_arguments(parser)
    args = parse_training(parser, "SCC")
    if args.preset == "published":
        if args.photos is not None:
            parser.error("--photos is for the compact preset; the published network reads --color-prior")
        train_branch(args, "SCC", partial(start_model, args, "SCC"))
        return

    started: list[SemanticConsistencyNet] = []

    def make_model() -> SemanticConsistencyNet:
        # the prior sees no rating, so one training of it serves all folds
        if not started:
            model = start_model(args, "SCC")
            if args.photos is not None:
                train_prior(model, args, torch.device(args.device))
            elif args.init is None:
                print("color prior: starts untrained (no --photos, no --init); it will learn from the ratings alone")
            started.append(model.cpu())
        model = SemanticConsistencyNet(**started[0].config)
        model.load_state_dict(started[0].state_dict())
        return model

    train_branch(args, "SCC", make_model)


if __name__ == "__main__":
    main()

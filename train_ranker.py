"""Train the ranker that CF, SCC and PR share: which of two colorings of one photograph is better?

    python train_ranker.py --data runs/recolorings/table.csv runs/colorizations/index.csv --output runs/ranker
    python train_ranker.py --data data/samples/samples.csv --output runs/try --steps 2          # a check, one minute on a CPU
    python train_ranker.py --data ... --output runs/dino --backbone vit_small_patch14_dinov2.lvd142m         # from timm's hub

``--data`` takes tables of images (image, scene, method), paths relative to the table: "original" is the photograph, and
every other method is worse. Where a table has the columns CF, SCC and PR (tools/make_recolorings.py), these levels rank the
images of a scene. Tables of the same photographs are one source; every other table is a source of its own (outputs of real
colorizers beside their photographs). No rating is used.

A step reads a few scenes (training/colorings.py). Images of a scene are compared pair by pair, photographs and their colorings
between scenes too, and two encodings of one image should rank the same. ``best.pt`` is for ``--ranker`` of train_CF.py,
train_SCC.py and train_PR.py, which need the same --backbone. Larger networks than the default one (DINOv2, CLIP) come from
timm's hub, or from a file (--backbone-weights); they were tried with random weights only.
"""

import argparse
import hashlib
import math
import os
import time
from pathlib import Path

from utils.arguments import ScriptParser
from utils.choices import DEFAULT_BACKBONE, DIMENSIONS

# The recipe
MARGIN = 0.2  # images of one scene whose levels are closer are not compared
MARGIN_PHOTOGRAPH = 0.05  # the same if the better one is the photograph
MARGIN_BETWEEN = 0.4  # the same for images of two scenes
BETWEEN = 0.25  # weight of a pair of two scenes
TWINS = 3.0  # weight of the squared difference of two encodings of one image
WEIGHTS = {"CF": 1.0, "SCC": 0.5, "PR": 1.5}
HELD_OUT = 20  # one of this many photographs is left out, for tests with planted faults
FROZEN = ("conv_stem", "bn1", "blocks.0.", "blocks.1.")  # early stages keep the ImageNet weights, which saves 40 % of the time


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s --data TABLE [TABLE ...] --output DIR [options]")
    add = parser.groups["data"].add_argument
    add("--data", type=Path, nargs="+", required=True, metavar="TABLE", help="tables with image, scene, method")
    add("--share", type=float, default=0.15, help="of the scenes, from each source but the first (default: %(default)s)")
    add = parser.groups["model"].add_argument
    add("--backbone", default=DEFAULT_BACKBONE, help="timm network with maps (default: %(default)s)")
    add("--backbone-weights", type=Path, metavar="FILE", help="start weights, in place of those of the package or the hub")
    add("--random-init", action="store_true", help="start from random weights")
    add("--size", type=int, default=224, help="side of the image in scoring, in pixels (default: %(default)s)")
    add("--train-size", type=int, default=192, help="side of the crops in training, in pixels (default: %(default)s)")
    add = parser.groups["optimization"].add_argument
    add("--steps", type=int, default=2400, help="(default: %(default)s)")
    add("--scenes", type=int, default=4, help="scenes per step (default: %(default)s)")
    add("--images", type=int, default=5, help="images per scene (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate of the head (default: %(default)s)")
    add("--backbone-lr", type=float, default=3e-4, help="peak learning rate of the backbone (default: %(default)s)")
    add("--weight-decay", type=float, default=0.05, help="(default: %(default)s)")
    add("--clip", type=float, default=2.0, help="largest gradient norm (default: %(default)s)")
    add = parser.groups["run"].add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder for best.pt and last.pt")
    earlier = parser.groups["run"].add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with the run in --output, if there is one")
    earlier.add_argument("--overwrite", action="store_true", help="train anew where --output holds an earlier run")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:N (default: a GPU if any)")
    add("--half", action="store_true", help="store the weights as float16")
    parser.limits |= {"share": (0, 0.5), "steps": (1, 10**7), "images": (3, 1000), "scenes": (1, 1000)}
    parser.limits["train_size"] = (32, 4096)
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before the slow imports

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from models.backbone import load_pretrained
from models.ranker import Ranker
from training.colorings import Batch, Scene, batch_of, read_colorings, summary, view_of
from training.records import command_line
from training.runs import one_line_errors
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.distributed import default_device
from utils.files import give_lock, image_id, take_lock

_EVERY = 100  # steps between two lines on the console, and between two writes of last.pt
_CALIBRATION = 32  # batches that the bounded ranks are centered on


def held_out(scene: str) -> bool:
    """Tell whether a photograph is left out of the training, by its name."""
    return int(hashlib.md5(scene.encode(), usedforsecurity=False).hexdigest(), 16) % HELD_OUT == 0


class Scenes:
    """Random scenes, a batch for each step.

    Args:
        sources: Scenes by name, by source. Some scenes of the first source, photographs with planted faults, are held out.
        args: Arguments of the script.
    """

    def __init__(self, sources: dict[str, dict[str, Scene]], args: argparse.Namespace) -> None:
        first, *others = sources.values()
        kept = [scene for name, scene in first.items() if not held_out(name)] or list(first.values())
        self.groups = [kept, *(list(scenes.values()) for scenes in others)]
        self.shares = np.array([1 - args.share * len(others), *[args.share] * len(others)])
        if self.shares[0] <= 0:
            raise ValueError(f"--share {args.share:g} of {len(others)} sources leaves nothing of the first one")
        self.args = args

    def batch(self, step: int, count: int | None = None) -> Batch:
        """Return the batch of a step, which depends only on seed and step; ``count`` replaces the number of scenes."""
        args = self.args
        rng = np.random.default_rng([args.seed, step])
        views = []
        for _ in range(count or args.scenes):
            group = self.groups[rng.choice(len(self.groups), p=self.shares)]
            views.append(view_of(group[rng.integers(len(group))], args.images, args.train_size, rng))
        return batch_of(views)


def ranking_loss(ranks: Tensor, batch: Batch) -> Tensor:
    """Return the logistic loss over pairs of images with a known order, plus the squared difference of twins.

    Args:
        ranks: Ranks of the images of the batch, for CF, SCC and PR, shape (N, 3).
        batch: The images.
    """
    same = batch.scene[:, None] == batch.scene[None]
    comparable = batch.family[:, None] == batch.family[None]
    close = torch.where(batch.photograph[:, None], MARGIN_PHOTOGRAPH, MARGIN)
    margin = torch.where(same, close, MARGIN_BETWEEN)
    total = TWINS * (ranks[batch.twins[:, 0]] - ranks[batch.twins[:, 1]]).square().mean()
    for number, dimension in enumerate(DIMENSIONS):
        difference = batch.levels[:, number][:, None] - batch.levels[:, number][None]
        better = comparable & (difference > margin)  # never where one is NaN
        better |= batch.photograph[:, None] & batch.worse[None]
        weights = better * torch.where(same, 1.0, BETWEEN)
        losses = F.softplus(ranks[:, number][None] - ranks[:, number][:, None])
        total = total + WEIGHTS[dimension] * (losses * weights).sum() / weights.sum().clamp(min=1)
    return total


@torch.no_grad()
def calibrate(model: Ranker, scenes: Scenes, device: torch.device) -> None:
    """Set center and spread of the ranks from random views of the training scenes."""
    model.eval()
    ranks = torch.cat([model.raw(scenes.batch(scenes.args.steps + 1 + k).rgb.to(device)) for k in range(_CALIBRATION)])
    model.center.copy_(ranks.mean(0))
    model.spread.copy_(ranks.std(0))


def seen_by_training(sources: dict[str, dict[str, Scene]]) -> Tensor:
    """Return sizes and fingerprints of the images of all sources but the first, shape (N, 2).

    The first source holds copies from tools/make_recolorings.py and tools/make_colorizations.py, files that nobody else has.
    """
    others = list(sources.values())[1:]
    files = {c.path for scenes in others for s in scenes.values() for c in (*s.photographs, *s.colorings)}
    rows = sorted((os.path.getsize(path), image_id(path)) for path in files)
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)


def main() -> None:
    one_line_errors()
    args = parse_args()
    device = torch.device(args.device or default_device())
    last = args.output / "last.pt"
    if (args.output / "best.pt").is_file() and not (args.resume or args.overwrite):
        raise ValueError(f"{args.output} holds an earlier run; pass --resume, --overwrite or another --output")
    args.output.mkdir(parents=True, exist_ok=True)
    lock_file = args.output / "run.lock"
    lock = take_lock(lock_file, f"trains into {args.output}; wait for it, or pass another --output")
    try:
        sources = read_colorings(args.data)
        print(summary(sources).to_string(index=False))
        scenes = Scenes(sources, args)
        torch.manual_seed(args.seed)
        model = Ranker(args.backbone, args.size)
        print("backbone weights: random" if args.random_init else load_pretrained(model.backbone, args.backbone_weights))
        train(args, model.to(device), scenes, device, last)
        calibrate(model, scenes, device)
        record = {"command": command_line(), "steps": args.steps, "seen": seen_by_training(sources)}
        save_checkpoint(args.output / "best.pt", model, half=args.half, **record)
        last.unlink(missing_ok=True)
        print(f"weights: {args.output / 'best.pt'}")
    finally:
        give_lock(lock_file, lock)


def train(args: argparse.Namespace, model: Ranker, scenes: Scenes, device: torch.device, last: Path) -> None:
    """Train in place; the file ``last`` keeps the state to resume from."""
    for name, parameter in model.backbone.net.named_parameters():
        parameter.requires_grad_(not name.replace("blocks_", "blocks.").startswith(FROZEN))
    trained = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    groups = [{"params": model.head.parameters(), "lr": args.lr}, {"params": trained, "lr": args.backbone_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=args.weight_decay)
    warmup = max(1, args.steps // 10)

    def rate(step: int) -> float:
        progress = max(0, step - warmup) / max(1, args.steps - warmup)
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * progress)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("output", "resume", "overwrite", "device", "half")}
    start = 0
    if args.resume and last.is_file():
        state = read_checkpoint(last)
        if state["settings"] != settings:
            raise ValueError(f"{last} was begun with other arguments; a run goes on only with the same ones")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        start = state["step"]
        print(f"resuming after step {start} of {args.steps}")
    losses, began = [], time.time()
    for step in tqdm(range(start + 1, args.steps + 1), initial=start, total=args.steps, unit="step", leave=False):
        batch = scenes.batch(step)
        torch.manual_seed(args.seed * args.steps + step)  # dropout
        model.train()
        moved = Batch(*(getattr(batch, name).to(device) for name in Batch.__dataclass_fields__))
        loss = ranking_loss(model.raw(moved.rgb), moved)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is {float(loss)} at step {step}; try a lower --backbone-lr")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
        if step % _EVERY == 0 or step == args.steps:
            tqdm.write(f"step {step:5d}/{args.steps}  loss {np.mean(losses[-_EVERY:]):.4f}  {time.time() - began:.0f} s")
            moments = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
            save_checkpoint(last, model, step=step, settings=settings, **moments)


if __name__ == "__main__":
    main()

"""Train the color prior P(ab | gray image) on any folder of natural photographs, without labels.

    python tools/train_color_prior.py PHOTOS --output runs/prior
    python tools/train_color_prior.py data/samples --output runs/try/prior --epochs 1   # a check of one minute on a CPU
    torchrun --nproc-per-node 8 tools/train_color_prior.py COCO/train2017 --output runs/prior --views 0

The prior sees the gray version only. Early stages of the backbone are frozen. ``--views V`` runs them once over V crops of
each photograph and keeps their features; ``--views 0`` reads new crops in each epoch, for folders of any size. Photographs
that share a scene with data to be scored must not be trained on: ``--exclude`` takes such data sets. ``--test-folder``
holds out whole folders, besides a random share.

``best.pt`` is for train_SCC.py --prior. ``report.json`` compares the cross-entropy on held-out photographs with that of the
color frequencies, unconditional and given lightness. It also gives the share of cells that are more surprising than each
percentile.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import DEFAULT_BACKBONE


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s PHOTOS --output DIR [options]")
    add = parser.groups["data"].add_argument
    add("photos", type=Path, help="folder of natural photographs, searched recursively")
    add(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        metavar="DATA",
        help="data sets whose scenes are left out, and .txt lists of images, one per line",
    )
    add("--held-out", type=float, default=0.05, help="share of the photographs for the test, and again for percentiles")
    add("--test-folder", nargs="+", default=[], metavar="NAME", help="folders below PHOTOS for the test only")
    add("--limit", type=int, metavar="N", help="use N photographs only, for a quick check")

    add = parser.groups["model"].add_argument
    add("--backbone", default=DEFAULT_BACKBONE, help="any timm network with feature maps (default: %(default)s)")
    add("--backbone-weights", type=Path, metavar="PATH", help="start weights in place of the packaged ones, or of the hub's")
    add("--random-init", action="store_true", help="start the backbone from random weights")
    add("--size", type=int, default=224, help="side of the image the backbone sees, in pixels (default: %(default)s)")
    add("--width", type=int, default=128, help="channels of the prior (default: %(default)s)")
    add("--dropout", type=float, default=0.3, help="(default: %(default)s)")
    add(
        "--late",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="train a copy of the late stages of the backbone; else the prior reads the frozen backbone",
    )
    add("--rebalance", type=float, default=0, metavar="SHARE", help="weight rare colors up, 0 not at all to 1 (default: 0)")

    add = parser.groups["optimization"].add_argument
    add("--views", type=int, default=4, help="crops per photograph, encoded once; 0 for new crops in each epoch")
    add("--epochs", type=int, default=12, help="(default: %(default)s)")
    add("--batch-size", type=int, default=32, help="photographs per step and process (default: %(default)s)")
    add("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    add("--late-lr", type=float, default=2e-4, help="learning rate of the late stages (default: %(default)s)")
    add("--weight-decay", type=float, default=0.1, help="(default: %(default)s)")
    add("--warmup", type=float, default=0.15, help="share of the steps with rising rate (default: %(default)s)")
    add("--clip", type=float, default=1.0, help="largest gradient norm (default: %(default)s)")

    add = parser.groups["run"].add_argument
    add("--output", type=Path, required=True, help="folder for best.pt, report.json and prior.csv")
    earlier = parser.groups["run"].add_mutually_exclusive_group()
    earlier.add_argument("--resume", action="store_true", help="go on with the run in --output, if there is one")
    earlier.add_argument("--overwrite", action="store_true", help="train anew where --output holds an earlier run")
    add("--seed", type=int, default=0)
    add("--device", help="cpu, cuda or cuda:N (default: a GPU if there is one)")
    add("--workers", type=int, default=2, help="processes that read images (default: %(default)s)")
    add("--amp", action=argparse.BooleanOptionalAction, default=True, help="mixed precision on CUDA")
    add("--half", action="store_true", help="store the weights as float16")
    parser.limits |= {"workers": (0, 1024), "warmup": (0, 0.999)}  # no worker: the process reads itself; some steps must fall
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from data.splits import excluded_names
from models.backbone import load_pretrained
from models.base import to_tensor
from models.color_prior import LEVELS, ColorPriorNet, cell_numbers, class_weights, soft_encode
from models.loading import build_model
from training.batches import epoch_generator
from training.images import features_folder, kept_features
from training.records import command_line, load_states, read_state, write_history, write_results
from training.runs import clear_folder, one_line_errors, run_folder
from utils import distributed
from utils.checkpoint import read_checkpoint, save_checkpoint
from utils.files import image_id, write_atomic
from utils.images import ImageReadError, is_gray, list_images, read_rgb
from utils.scores import fingerprint

_BANDS = 20  # of lightness, for the distribution that knows lightness only
_MOST_HELD_OUT = 2000  # photographs; more would take time and change no digit that is shown
_COUNTED = 5000  # photographs that the distributions without a network are counted on
_SMALLEST_CROP = 0.6  # share of the area
_STRETCH = 0.2  # of the aspect ratio of a crop, as a logarithm
_TEMPERATURES = (0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
_REPORTED = (50.0, 75.0, 90.0, 95.0, 99.0)


class Photographs(Dataset):
    """Prepared photographs, or the reason why one cannot be used; item ``view * N + i`` is a new crop of image i.

    Args:
        paths: Paths of the images.
        net: Network whose preparation is used.
        seed: Seed of the crops. View 0 is the whole image.
    """

    def __init__(self, paths: list[Path], net: ColorPriorNet, seed: int) -> None:
        self.paths, self.preprocess, self.seed = paths, net.preprocess, seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[Tensor, str]:
        """Return sRGB as uint8, shape (3, size, size), and ""; or a black image and the reason why it cannot be used."""
        view, index = divmod(item, len(self.paths))
        try:
            pixels = read_rgb(self.paths[index])
        except ImageReadError as error:
            return torch.zeros(3, self.preprocess.size, self.preprocess.size, dtype=torch.uint8), str(error)
        if is_gray(pixels):
            reason = f"{self.paths[index]}: has no color"
            return torch.zeros(3, self.preprocess.size, self.preprocess.size, dtype=torch.uint8), reason
        rgb = to_tensor(pixels)
        if view > 0:
            rng = np.random.default_rng([self.seed, view, index])
            rgb = crop(rgb, rng)
        return (self.preprocess(rgb)["rgb"] * 255).round().to(torch.uint8), ""


def crop(rgb: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a random part of an image (3, H, W), flipped at random."""
    height, width = rgb.shape[1:]
    side, stretch = math.sqrt(rng.uniform(_SMALLEST_CROP, 1)), math.exp(rng.uniform(-_STRETCH, _STRETCH) / 2)
    h, w = max(1, min(height, round(height * side * stretch))), max(1, min(width, round(width * side / stretch)))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    part = rgb[:, top : top + h, left : left + w]
    return part.flip(2) if rng.random() < 0.5 else part


class Encoder:
    """Steps before the trained part: reading, the early stages of the backbone, CIELAB.

    Args:
        net: The network.
        device: Device of the network.
        workers: Processes that read images.
    """

    def __init__(self, net: ColorPriorNet, device: torch.device, workers: int) -> None:
        self.net, self.device, self.workers = net, device, workers
        self.left_out: dict[str, None] = {}

    def __call__(self, photographs: Photographs, items: list[int], batch_size: int) -> Iterator[tuple[list[Tensor], ...]]:
        """Yield batches: the maps that the prior reads, CIELAB of the pixels, and which images count."""
        loader = DataLoader(
            photographs, batch_size, sampler=items, num_workers=self.workers, generator=torch.Generator(), collate_fn=_collate
        )
        late = self.net.prior.late is not None
        for rgb, reasons in loader:
            rgb = rgb.to(self.device).float() / 255
            with torch.no_grad():
                maps = self.net.gray_maps(rgb)[: 1 if late else None]
            for reason in filter(None, reasons):
                if reason not in self.left_out:
                    self.left_out[reason] = None
                    tqdm.write(f"left out: {reason}", file=sys.stderr)  # which each process may write to
            counts = torch.tensor([not reason for reason in reasons], device=self.device)
            yield maps, self.net.pixels(rgb, maps[0].shape[-1]), counts


def _collate(items: list[tuple[Tensor, str]]) -> tuple[Tensor, list[str]]:
    return torch.stack([rgb for rgb, _ in items]), [reason for _, reason in items]


class Views:
    """Encoded crops of the photographs, kept in memory as float16.

    Args:
        encoder: Encoder of the crops.
        photographs: The photographs.
        share: Numbers of the photographs that this process keeps.
        count: Crops per photograph; the first is the whole image.
        keep: Folder that stores each view, for use after an interruption.
    """

    def __init__(self, encoder: Encoder, photographs: Photographs, share: list[int], count: int, keep: Path) -> None:
        self.parts: list[tuple[list[Tensor], Tensor, Tensor]] = []
        for view in range(count):
            file = keep / f"view{view}_process{distributed.rank()}.pt"
            content = kept_features(file)
            if content is not None:
                self.parts.append((content["maps"], content["lab"], content["counts"]))
                encoder.left_out |= dict.fromkeys(content["left out"])
                continue
            items = [view * len(photographs) + i for i in share]
            batches = encoder(photographs, items, 8)  # larger ones are slower on a CPU
            shown = distributed.is_main()
            steps = math.ceil(len(share) / 8)
            bar = tqdm(batches, desc=f"encoding, view {view + 1}/{count}", total=steps, leave=False, disable=not shown)
            kept = [([m.half().cpu() for m in maps], lab.half().cpu(), counts.cpu()) for maps, lab, counts in bar]
            scales, lab, counts = zip(*kept, strict=True)
            self.parts.append(([torch.cat(maps) for maps in zip(*scales, strict=True)], torch.cat(lab), torch.cat(counts)))
            content = dict(zip(("maps", "lab", "counts"), self.parts[-1], strict=True)) | {"left out": list(encoder.left_out)}
            write_atomic(file, lambda opened, content=content: torch.save(content, opened))
        self.count = len(share)

    def epoch(self, generator: torch.Generator, batch_size: int, device: torch.device) -> Iterator[tuple[list[Tensor], ...]]:
        """Yield the batches of an epoch: one view of every image."""
        order = torch.randperm(self.count, generator=generator)
        for rows in order.split(batch_size):
            maps, lab, counts = self.parts[int(torch.randint(len(self.parts), (), generator=generator))]
            yield [m[rows].to(device).float() for m in maps], lab[rows].to(device).float(), counts[rows].to(device)


class Objective(nn.Module):
    """Mean cross-entropy of the photographs' own colors, for one process or many."""

    def __init__(self, net: ColorPriorNet, weights: Tensor | None) -> None:
        super().__init__()
        self.prior, self.weights = net.prior, weights

    def forward(self, maps: list[Tensor], lab: Tensor, counts: Tensor) -> Tensor:
        used = counts if counts.any() else ~counts  # every process takes part in every step, with weight 0 if it has nothing
        maps, lab = [m[used] for m in maps], lab[used]
        log_prior = self.prior(self.prior.semantics(maps), lab)
        losses = self.prior.cross_entropy(log_prior, lab[:, 1:], self.weights)
        return (losses * counts[used]).mean()


_SETTINGS = (  # that decide where training ends up
    "photos",
    "exclude",
    "held_out",
    "test_folder",
    "limit",
    "backbone",
    "size",
    "width",
    "dropout",
    "late",
    "rebalance",
    "views",
    "epochs",
    "batch_size",
    "lr",
    "late_lr",
    "weight_decay",
    "warmup",
    "clip",
    "seed",
)


def split_photographs(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return the names of the photographs to train on, to set percentiles on ("calibration"), and to test on.

    Raises:
        FileNotFoundError: If there are no photographs, or a source of ``--exclude`` is not there.
        ValueError: If a source of ``--exclude`` cannot be read, or too few photographs are left.
    """
    listed = list_images(args.photos)
    excluded, unmatched = excluded_names(listed.names, args.exclude)
    names = [name for name in listed.names if name not in excluded]
    if args.exclude:
        counts = f"{len(excluded)} of {len(listed.names)} photographs are excluded by name"
        print(f"{counts}; {unmatched} names of --exclude are of none")
    unknown = [f for f in args.test_folder if not any(name.startswith(f"{f}/") for name in names)]
    if unknown:
        raise ValueError(f"--test-folder {unknown[0]} holds no photograph below {args.photos}")
    apart = [name for name in names if any(name.startswith(f"{f}/") for f in args.test_folder)]
    rest = sorted(set(names) - set(apart))
    order = [rest[i] for i in np.random.default_rng(args.seed).permutation(len(rest))][: args.limit]
    count = min(max(1, round(args.held_out * len(order))), _MOST_HELD_OUT)
    if len(order) < 3 * count:
        raise ValueError(f"{args.photos} leaves {len(order)} photographs, expected at least {3 * count} to train and test on")
    parts = {"test": order[:count], "calibration": order[count : 2 * count], "train": order[2 * count :]}
    return {k: sorted(v) for k, v in parts.items()} | {"apart": apart[: args.limit]}


@torch.inference_mode()
def count_colors(net: ColorPriorNet, photographs: Photographs, workers: int) -> Tensor:
    """Count how often each color occurs at each lightness in evenly spaced photographs, shape (bands, K), on the CPU."""
    table, cells = net.prior.table.cpu(), len(net.prior.centers)
    counts = torch.full((_BANDS * cells,), 0.5 / _BANDS, dtype=torch.float64)
    chosen = np.unique(np.linspace(0, len(photographs) - 1, min(len(photographs), _COUNTED)).astype(int)).tolist()
    loader = DataLoader(photographs, 16, sampler=chosen, num_workers=workers, collate_fn=_collate, generator=torch.Generator())
    side = net.cells
    for rgb, reasons in tqdm(loader, desc="counting colors", leave=False, disable=not distributed.is_main()):
        usable = torch.tensor([not reason for reason in reasons])
        lab = net.pixels(rgb[usable].to(net.device).float() / 255, side).cpu()
        index, weight = soft_encode(lab[:, 1:], table)
        counts.index_add_(0, (_bands(lab) * cells + index).flatten(), weight.flatten().double())
    return counts.view(_BANDS, cells)


def _bands(lab: Tensor) -> Tensor:
    """Return the lightness band of each pixel, shape (B, 1, H, W)."""
    return (lab[:, :1] / 100 * _BANDS).long().clamp(0, _BANDS - 1)


@torch.inference_mode()
def measure(net: ColorPriorNet, encoder: Encoder, photographs: Photographs, counts: Tensor) -> dict[str, np.ndarray]:
    """Measure the cross-entropies of each photograph in nats, and the surprise of each of its cells.

    Returns:
        ``name``; two cross-entropies, shape (N,), for each of ``prior``, ``lightness`` (colors given lightness only) and
        ``unconditional``: "... soft" of the pixels, assigned to their four nearest ab cells, and "... hard" of the mean color
        of each cell of the map, assigned to the nearest ab cell; ``surprise``, shape (N, h * w). Empty if no photograph can be
        used.
    """
    net.eval()
    by_light = (counts / counts.sum(1, keepdim=True)).log().float().to(net.device)
    overall = (counts.sum(0) / counts.sum()).log().float().to(net.device)
    columns: dict[str, list[Tensor]] = {}
    names = []
    for number, (maps, lab, use) in enumerate(encoder(photographs, list(range(len(photographs))), 8)):
        if not use.any():
            continue
        names += [p for p, u in zip(photographs.paths[8 * number : 8 * number + 8], use.tolist(), strict=True) if u]
        maps, lab = [m[use] for m in maps], lab[use]
        log_prior = net.prior(net.prior.semantics(maps), lab)
        index, weight = soft_encode(lab[:, 1:], net.prior.table)
        mean = F.avg_pool2d(lab, 2)
        cell = cell_numbers(mean[:, 1:], net.prior.table)
        measures = {
            "prior soft": net.prior.cross_entropy(log_prior, lab[:, 1:]),
            "prior hard": -log_prior.gather(1, cell).mean((1, 2, 3)),
            "lightness soft": -(by_light[_bands(lab), index] * weight).sum(1).mean((1, 2)),
            "lightness hard": -by_light[_bands(mean), cell].mean((1, 2, 3)),
            "unconditional soft": -(overall[index] * weight).sum(1).mean((1, 2)),
            "unconditional hard": -overall[cell].mean((1, 2, 3)),
            "surprise": net.prior.excess(log_prior, lab).flatten(1),
        }
        for key, value in measures.items():
            columns.setdefault(key, []).append(value.cpu())
    if not names:
        return {}
    return {"name": np.array([str(n) for n in names])} | {k: torch.cat(v).numpy() for k, v in columns.items()}


def summary(measured: dict[str, np.ndarray], root: Path) -> dict[str, Any]:
    """Return the mean cross-entropies over all photographs, and by folder."""
    inside = [Path(name).relative_to(root).parts for name in measured["name"]]
    folders = np.array([parts[0] if len(parts) > 1 else "" for parts in inside])
    keys = [k for k in measured if k not in ("name", "surprise")]
    rows = {"all": np.ones(len(folders), bool)} | {f: folders == f for f in sorted(set(folders)) if len(set(folders)) > 1}
    return {
        label: {"photographs": int(chosen.sum())} | {k: round(float(measured[k][chosen].mean()), 4) for k in keys}
        for label, chosen in rows.items()
    }


def calibrate(net: ColorPriorNet, encoder: Encoder, photographs: Photographs, counts: Tensor) -> float:
    """Fit the temperature of the distributions on held-out photographs, and set the percentiles of their surprise.

    Returns:
        The temperature, which is folded into the last layer.

    Reference:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017: temperature scaling.
    """
    last = net.prior.classify[-1]
    weight, bias = last.weight.detach().clone(), last.bias.detach().clone()
    nats = {}
    for temperature in _TEMPERATURES:
        set_temperature(last, weight, bias, temperature)
        nats[temperature] = float(measure(net, encoder, photographs, counts)["prior soft"].mean())
    best = min(nats, key=nats.get)
    set_temperature(last, weight, bias, best)
    levels = np.percentile(measure(net, encoder, photographs, counts)["surprise"], LEVELS)
    net.prior.surprise_levels.copy_(torch.from_numpy(levels))
    return best


@torch.no_grad()
def set_temperature(last: nn.Conv2d, weight: Tensor, bias: Tensor, temperature: float) -> None:
    """Set a layer to ``weight`` and ``bias`` divided by a temperature."""
    last.weight.copy_(weight / temperature)
    last.bias.copy_(bias / temperature)


def above(net: ColorPriorNet, measured: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the share of cells whose surprise exceeds a percentile, by percentile."""
    percentiles = net.prior.percentiles(torch.from_numpy(measured["surprise"]).to(net.device)).cpu().numpy()
    return {f"{level:g}": round(float((percentiles > level).mean()), 4) for level in _REPORTED}


def make_net(args: argparse.Namespace) -> ColorPriorNet:
    """Build the network with its start weights."""
    torch.manual_seed(args.seed)
    plain = ColorPriorNet(args.backbone, args.size, {"late": False})
    print("backbone weights: random" if args.random_init else load_pretrained(plain.backbone, args.backbone_weights))
    torch.manual_seed(args.seed)
    net = ColorPriorNet(args.backbone, args.size, {"width": args.width, "dropout": args.dropout, "late": args.late})
    net.backbone.load_state_dict(plain.backbone.state_dict())
    if args.late:
        net.prior.late = type(net.prior.late)(net.backbone)  # copies of the start weights
    return net


def main() -> None:
    one_line_errors()
    args = parse_args()
    args.device = distributed.setup(args.device)
    with run_folder(args.output, "prior", args.resume, args.overwrite):
        train(args)
    distributed.cleanup()


def train(args: argparse.Namespace) -> None:
    """Train the prior, then test it."""
    # Photographs
    parts = split_photographs(args)
    device, root = torch.device(args.device), list_images(args.photos).root
    net = make_net(args).to(device)
    sets = {k: Photographs([root / name for name in names], net, args.seed) for k, names in parts.items()}
    print(", ".join(f"{len(s)} {k}" for k, s in sets.items() if len(s)) + " photographs")
    frame = pd.DataFrame({"path": sets["train"].paths})
    keep = features_folder(args.output, net, frame, [args.seed, []], f"views{distributed.world_size()}")
    share = list(range(len(sets["train"])))[distributed.rank() :: distributed.world_size()]
    share = share[: len(sets["train"]) // distributed.world_size()]  # as many for each process

    # Which colors are rare
    encoder = Encoder(net, device, args.workers)
    counts = count_colors(net, sets["train"], args.workers)
    net.prior.log_marginal.copy_((counts.sum(0) / counts.sum()).log())
    weights = class_weights(net.prior.log_marginal, args.rebalance) if args.rebalance else None
    objective = Objective(net, weights)

    # Optimizer, schedule, and where a stopped run goes on
    steps = math.ceil(len(share) / args.batch_size)
    optimizer, schedule = make_optimizer(args, net, args.epochs * steps)
    listed = {part: [[name, fingerprint(root / name)] for name in names] for part, names in parts.items()}
    content = {"photographs": hashlib.sha256(json.dumps(listed).encode("utf-8", "surrogateescape")).hexdigest()}
    kept = {"optimizer": optimizer, "schedule": schedule}
    history = resume(args, net, kept, content)
    clear_folder(args.output, args.overwrite)

    # Loop
    needed = args.views and len(history) < args.epochs
    views = Views(encoder, sets["train"], share, args.views, keep) if needed else None
    wrapped = distributed.wrap(objective, device)
    for epoch in range(len(history) + 1, args.epochs + 1):
        began = time.time()
        generator = epoch_generator(args.seed, epoch, stream=4 + distributed.rank())
        torch.manual_seed(int(generator.initial_seed()))
        if views is not None:
            batches = views.epoch(generator, args.batch_size, device)
        else:
            order = torch.randperm(len(share), generator=generator).tolist()
            batches = encoder(sets["train"], [epoch * len(sets["train"]) + share[i] for i in order], args.batch_size)
        shown = distributed.is_main()
        bar = tqdm(batches, desc=f"epoch {epoch}/{args.epochs}", total=steps, leave=False, disable=not shown)
        loss = distributed.mean(train_one_epoch(args, wrapped, bar, optimizer, schedule) / steps)
        if distributed.is_main():
            row = {"epoch": epoch, "training nats": loss, "held-out nats": held_out_nats(args, encoder, sets, counts)}
            history.append(row | {"seconds": time.time() - began})
            moments = {name: part.state_dict() for name, part in kept.items()}
            state = {"epoch": epoch, "history": history, "settings": settings_of(args), "content": content}
            save_checkpoint(args.output / "last.pt", net, **moments, **state)
            write_history(args.output / "prior.csv", history)
            numbers = f"training {loss:.3f}  held out {row['held-out nats']:.3f} nats  {history[-1]['seconds']:.0f} s"
            print(f"epoch {epoch:3d}/{args.epochs}  {numbers}")
        distributed.barrier()

    # Test, once
    left_out = distributed.gather(list(encoder.left_out))
    if distributed.is_main():
        finish(args, encoder, sets, counts, history, left_out)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that determine the result of training, in a form for checkpoints."""
    paths = {"photos": str(args.photos), "exclude": [str(e) for e in args.exclude]}
    return {k: getattr(args, k) for k in _SETTINGS} | paths


def make_optimizer(
    args: argparse.Namespace, net: ColorPriorNet, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    """Return the optimizer and the schedule of its rate; late stages of the backbone have a separate rate."""
    late = list(net.prior.late.parameters()) if net.prior.late is not None else []
    own = {id(p) for p in late}
    groups = [{"params": [p for p in net.prior.parameters() if id(p) not in own], "lr": args.lr}]
    if late:
        groups.append({"params": late, "lr": args.late_lr})
    optimizer = torch.optim.AdamW(groups, weight_decay=args.weight_decay)
    # OneCycleLR divides by the steps of the rise less one
    warmup = args.warmup if args.warmup * steps != 1 else 0.999 * args.warmup
    rates = [group["lr"] for group in groups]
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=warmup)


def resume(
    args: argparse.Namespace, net: ColorPriorNet, parts: dict[str, Any], content: dict[str, str]
) -> list[dict[str, float]]:
    """Continue the run in the folder, if ``--resume`` is given; return one row per finished epoch."""
    if not args.resume or not (args.output / "last.pt").is_file():
        return []
    state = read_state(args.output, "prior", settings_of(args), content, {"epoch", "history", *parts})
    load_states(args.output, state, {"model": net, **parts})
    print(f"resuming after epoch {state['epoch']} of {args.epochs}")
    return state["history"]


def train_one_epoch(
    args: argparse.Namespace, wrapped: nn.Module, batches: Any, optimizer: torch.optim.Optimizer, schedule: Any
) -> float:
    """Train for one epoch, in place, and return the sum of the losses."""
    device, parameters = torch.device(args.device), list(wrapped.parameters())
    amp = args.amp and device.type == "cuda"
    wrapped.train()
    total = 0.0
    for maps, lab, use in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss = wrapped(maps, lab, use)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, args.clip)
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        batches.set_postfix(nats=f"{float(loss.detach()):.3f}")
    return total


def held_out_nats(args: argparse.Namespace, encoder: Encoder, sets: dict[str, Photographs], counts: Tensor) -> float:
    """Return the mean cross-entropy of the calibration photographs.

    Raises:
        ValueError: If none of them can be used.
    """
    held = measure(encoder.net, encoder, sets["calibration"], counts)
    if not held:
        count = len(sets["calibration"])
        raise ValueError(f"of {args.photos} none of {count} photographs held out can be used; add some with color")
    return float(held["prior soft"].mean())


def finish(
    args: argparse.Namespace,
    encoder: Encoder,
    sets: dict[str, Photographs],
    counts: Tensor,
    history: list[dict[str, float]],
    left_out: list[str],
) -> None:
    """Set temperature and percentiles, test, and write weights and report."""
    net, root = encoder.net, list_images(args.photos).root
    used = [path for path in sets["train"].paths + sets["calibration"].paths if path.is_file()]  # of links some lead nowhere
    seen = torch.tensor([(f.stat().st_size, image_id(f)) for f in tqdm(used, desc="fingerprints", leave=False)])
    record = {"metrics": history[-1], "photographs": len(used), "seen": seen, "command": command_line()}
    record["torch"] = str(torch.__version__)
    temperature = calibrate(net, encoder, sets["calibration"], counts)
    save_checkpoint(args.output / "best.pt", net, half=args.half, **record)
    # what is tested is the file
    net = build_model(read_checkpoint(args.output / "best.pt"), str(args.output / "best.pt")).to(net.device).eval()
    encoder.net = net
    report: dict[str, Any] = {"command": command_line(), "photographs": {k: len(s) for k, s in sets.items()}}
    report["temperature"] = temperature
    for part in ("test", "apart"):
        measured = measure(net, encoder, sets[part], counts) if len(sets[part]) else {}
        if measured:
            report[part] = {"cross-entropy in nats": summary(measured, root), "share above percentile": above(net, measured)}
    report["left out"] = list(dict.fromkeys([*left_out, *encoder.left_out]))  # those of the test parts are new
    write_results(args.output / "report.json", report)
    print(json.dumps({k: report[k] for k in ("test", "apart") if k in report}, indent=2))
    print(f"weights: {args.output / 'best.pt'}")


if __name__ == "__main__":
    main()

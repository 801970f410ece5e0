"""Make a training set of colorizations: each photograph beside outputs of our own colorizers for its gray version.

    python tools/make_colorizations.py PHOTOS OUT                                  # every photograph, 6 outputs of each
    python tools/make_colorizations.py data/samples /tmp/colorizations --epochs 1  # a check of one minute

No person rated these images; the only label is which image is the photograph. There are six colorizers:

- ``prior``: the shipped color prior P(ab | gray image), decoded at a random temperature, with smooth noise over its modes;
- ``regression``, ``classification``, ``rebalanced`` and ``adversarial``: small decoders on the frozen backbone of the prior,
  trained here and used at three stages of their training. Photographs are split into two halves, and each half is colored by
  networks that were trained on the other half;
- ``mixed``: two of these side by side, divided by a smooth border.

Color is computed at 28 or 56 cells per side. It is enlarged either by plain interpolation, which bleeds, or along the edges of
lightness. Half of the outputs keep their chroma; the chroma of the others is multiplied by .2 to 1.9. OUT then holds
``images/``, ``index.csv`` (image, scene, method) and ``recipe.json``, which says how each image was made.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import SHIPPED


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s PHOTOS OUT [options]", ("data", "small networks", "run"))
    add = parser.groups["data"].add_argument
    add("photos", type=Path, help="folder of natural photographs, searched recursively")
    add("output", type=Path, help="folder to write")
    add("--exclude", type=Path, nargs="+", default=[], metavar="DATA", help="data sets whose scenes are left out")
    add("--per-photo", type=int, default=6, help="outputs of each photograph (default: %(default)s)")
    add("--longest-side", type=int, default=288, help="reduce photographs to this side, in pixels (default: %(default)s)")
    add("--prior", type=Path, default=SHIPPED / "SCC.pt", metavar="FILE", help="color prior (default: the shipped one)")
    add = parser.groups["small networks"].add_argument
    add("--epochs", type=int, default=4, help="epochs of each small network (default: %(default)s)")
    add("--batch-size", type=int, default=32, help="photographs per step (default: %(default)s)")
    add("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    add = parser.groups["run"].add_argument
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=2, help="processes (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor, multiprocessing, nn
from tqdm import tqdm

from data.recolor import from_lab, smooth_noise, to_lab
from data.splits import excluded_names
from models.base import to_tensor
from models.color_prior import ColorPriorNet, Refine, class_weights, soft_encode
from models.loading import load_prior
from tools.make_recolorings import scene_names
from utils.files import write_atomic
from utils.images import ImageReadError, is_gray, list_images, read_rgb

NETWORKS = ("regression", "classification", "rebalanced", "adversarial")
STAGES = (0.15, 0.4, 1.0)  # shares of the training after which a network is kept
_METHODS = {"prior": 0.35, "regression": 0.13, "classification": 0.12, "rebalanced": 0.12, "adversarial": 0.13, "mixed": 0.15}
_REBALANCE = 0.5  # share of the uniform distribution in the weights of rare colors, see ``class_weights``
_NOISE_WAVES = 8  # waves over the ab plane that the noise over modes is made of
_GUIDE_EPS = 0.002  # of the guided filter, in squared units of lightness / 100


class Colorizer(nn.Module):
    """Small decoder from backbone maps of the gray image to color.

    Args:
        channels: Channels of the maps, finest first.
        outputs: 2 for a and b at twice the resolution of the finest map, or the number of ab cells at its resolution.
        width: Channels of the hidden layers.
        noise: Whether the decoder also reads a plane of noise, so that one gray image has many outputs.
    """

    def __init__(self, channels: list[int], outputs: int, width: int = 64, noise: bool = False) -> None:
        super().__init__()
        self.fine, self.noise = outputs == 2, noise
        self.standardize = nn.ModuleList(nn.BatchNorm2d(c, affine=False) for c in channels)
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.refine = nn.ModuleList(Refine(width) for _ in channels)
        self.lightness = nn.Conv2d(1 + noise, width, 3, padding=1)
        self.last = Refine(width)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: list[Tensor], lightness: Tensor) -> Tensor:
        """Predict color.

        Args:
            maps: Backbone maps, shapes (B, D_i, h_i, w_i).
            lightness: In [-1, 1], shape (B, 1, 2h, 2w).

        Returns:
            ab / 50, shape (B, 2, 2h, 2w), or logits, shape (B, K, h, w).
        """
        x = torch.zeros(1)
        for number in reversed(range(len(maps))):
            m = self.project[number](self.standardize[number](maps[number]))
            if x.ndim == 4:
                m = m + F.interpolate(x, m.shape[-2:], mode="bilinear", align_corners=False)
            x = self.refine[number](m)
        if self.fine:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        else:
            lightness = F.avg_pool2d(lightness, 2)
        if self.noise:
            lightness = torch.cat((lightness, torch.randn_like(lightness)), 1)
        return self.head(self.last(x + self.lightness(lightness)))


def discriminator(width: int = 32) -> nn.Module:
    """Build a network that maps lightness and ab, shape (B, 3, 56, 56), to a logit per place: is it from a photograph?"""
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, padding=1),
    )


@dataclass(frozen=True)
class Photographs:
    """Encoded photographs, kept in memory (140 kB each).

    Attributes:
        names: Names of the photographs.
        maps: Backbone maps of their gray versions, float16, shape (N, D_i, h_i, w_i).
        lab: CIELAB of the prepared images, float16, shape (N, 3, 56, 56).
    """

    names: list[str]
    maps: list[Tensor]
    lab: Tensor

    def batch(self, rows: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return maps, lightness in [-1, 1] and ab / 50 of some photographs."""
        lab = self.lab[rows].float()
        return [m[rows].float() for m in self.maps], lab[:, :1] / 50 - 1, lab[:, 1:] / 50


@torch.inference_mode()
def encode(net: ColorPriorNet, names: list[str], folder: Path, longest_side: int) -> tuple[Photographs, list[str]]:
    """Encode the photographs for the colorizers; return them, and the reasons why others are left out."""
    kept, parts, skipped = [], [], []
    for name in tqdm(names, desc="encoding", unit="photo", leave=False):
        try:
            rgb = reduced(folder / name, longest_side)
        except ImageReadError as error:
            skipped.append(str(error))
            continue
        if is_gray(rgb):
            skipped.append(f"{name} has no color")
            continue
        prepared = net.preprocess(to_tensor(rgb))["rgb"][None]
        maps = net.gray_maps(prepared)
        kept.append(name)
        parts.append([x.half() for x in (*maps, net.pixels(prepared, maps[0].shape[-1]))])
    if len(kept) < 2:
        raise SystemExit(f"error: {folder} holds {len(kept)} usable photographs of {len(names)}; two halves are needed")
    *maps, lab = (torch.cat(column).clone() for column in zip(*parts, strict=True))
    return Photographs(kept, list(maps), lab), skipped


def reduced(path: Path, longest_side: int) -> np.ndarray:
    """Read a photograph as 8-bit sRGB, shape (H, W, 3), with no side longer than ``longest_side``.

    Raises:
        ImageReadError: If the photograph cannot be read.
    """
    image = Image.fromarray(read_rgb(path))
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def batches(rows: Tensor, size: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        order = rows[torch.randperm(len(rows), generator=generator)]
        yield from (part for part in order.split(size) if len(part) > 1 or len(rows) == 1)


def train(kind: str, photographs: Photographs, rows: Tensor, net: ColorPriorNet, args: argparse.Namespace) -> list[Colorizer]:
    """Train one small colorizer on some of the photographs.

    Returns:
        The network at each of ``STAGES``, in evaluation mode.
    """
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    classes = kind in ("classification", "rebalanced")
    outputs = len(net.prior.centers) if classes else 2
    channels = [m.shape[1] for m in photographs.maps]
    settings = {"channels": channels, "outputs": outputs, "noise": kind == "adversarial"}
    model = Colorizer(**settings)
    weights = class_weights(net.prior.log_marginal, 1 - _REBALANCE) if kind == "rebalanced" else None
    judge = discriminator()
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05)
    judge_optimizer = torch.optim.AdamW(judge.parameters(), args.lr / 4, betas=(0.5, 0.99))
    order = list(batches(rows, args.batch_size, args.epochs, generator))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=len(order) + 1)
    kept_after = [max(1, round(stage * len(order))) for stage in STAGES]
    stages = []
    for step, part in enumerate(tqdm(order, desc=f"training {kind}", leave=False), 1):
        maps, lightness, ab = photographs.batch(part)
        out = model(maps, lightness)
        if classes:
            index, weight = soft_encode(F.avg_pool2d(ab, 2) * 50, net.prior.table)
            if weights is not None:
                weight = weight * weights[index]
            loss = -(out.log_softmax(1).gather(1, index) * weight).sum(1).mean()
        elif kind == "regression":
            loss = F.mse_loss(out, ab)
        else:
            real, made = (torch.cat((lightness, x), 1) for x in (ab, out))
            judged = F.relu(1 - judge(real)).mean() + F.relu(1 + judge(made.detach())).mean()
            judge_optimizer.zero_grad()
            judged.backward()
            judge_optimizer.step()
            loss = F.l1_loss(out, ab) - 0.05 * judge(made).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        for _ in range(kept_after.count(step)):
            stage = Colorizer(**settings)
            stage.load_state_dict(model.state_dict())
            stages.append(stage.eval())
    return stages


def noise_over_modes(centers: Tensor, side: int, scale: float, rng: np.random.Generator) -> Tensor:
    """Draw noise over colors and places, smooth in both, of unit variance, shape (K, side, side)."""
    waves = torch.from_numpy(rng.normal(0, 1 / 30, (_NOISE_WAVES, 2))).float()
    phases = torch.from_numpy(rng.uniform(0, 2 * math.pi, _NOISE_WAVES)).float()
    over_colors = math.sqrt(2 / _NOISE_WAVES) * torch.cos(centers @ waves.T + phases)
    over_places = torch.from_numpy(np.stack([smooth_noise((side, side), scale, rng) for _ in range(_NOISE_WAVES)]))
    return torch.einsum("kn,nhw->khw", over_colors, over_places)


def enlarged(ab: Tensor, lightness: np.ndarray, along_edges: bool) -> np.ndarray:
    """Enlarge color planes (2, h, w) to the size of the lightness (H, W), plainly or by a guided filter along its edges.

    Reference:
        He, Sun and Tang, Guided Image Filtering (ECCV 2010).
    """
    planes = F.interpolate(ab[None], lightness.shape, mode="bilinear", align_corners=False)[0].numpy()
    if along_edges:
        guide = lightness[None] / 100
        size = 2 * max(2, round(1.5 * max(lightness.shape) / 56)) + 1

        def mean(x: np.ndarray) -> np.ndarray:
            return ndimage.uniform_filter(x, (0, size, size), mode="nearest")

        mean_guide, mean_planes = mean(guide), mean(planes)
        slope = (mean(guide * planes) - mean_guide * mean_planes) / (mean(guide * guide) - mean_guide**2 + _GUIDE_EPS)
        planes = mean(slope) * guide + mean(mean_planes - slope * mean_guide)
    return planes


class Painter:
    """Painter that colors one photograph with one of the colorizers of this module.

    Args:
        photographs: All photographs.
        net: The color prior.
        networks: The stages of each small colorizer for each half; a photograph is colored by networks of the other half.
    """

    def __init__(self, photographs: Photographs, net: ColorPriorNet, networks: list[dict[str, list[Colorizer]]]) -> None:
        self.photographs, self.net, self.networks = photographs, net, networks

    def decode(self, logits: Tensor, temperature: float) -> Tensor:
        """Return the annealed mean of logits (K, h, w): ab in CIELAB units, shape (2, h, w)."""
        return torch.einsum("khw,kc->chw", (logits / temperature).softmax(0), self.net.prior.centers)

    def color(self, row: int, method: str, rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Compute the color planes of a photograph with one colorizer.

        Returns:
            ab in CIELAB units, shape (2, h, w), and the numbers that were drawn.
        """
        maps, lightness, _ = self.photographs.batch(torch.tensor([row]))
        if method in NETWORKS:
            stage = int(rng.integers(len(STAGES)))
            out = self.networks[row % 2][method][stage](maps, lightness)[0]
            if method in ("regression", "adversarial"):
                return out * 50, {"stage": STAGES[stage]}
            temperature = float(np.exp(rng.uniform(math.log(0.25), 0)))
            return self.decode(out, temperature), {"stage": STAGES[stage], "temperature": temperature}
        lab = torch.cat(((lightness + 1) * 50, torch.zeros_like(lightness).expand(-1, 2, -1, -1)), 1)
        logits = self.net.prior(self.net.prior.semantics(maps), lab)[0]
        temperature = float(np.exp(rng.uniform(math.log(0.15), 0)))
        strength = float(rng.uniform(0, 2.5)) * (rng.random() < 0.8)
        scale = float(np.exp(rng.uniform(math.log(2), math.log(12))))
        logits = logits + strength * noise_over_modes(self.net.prior.centers, logits.shape[-1], scale, rng)
        return self.decode(logits, temperature), {"temperature": temperature, "noise": strength, "noise_scale": scale}

    @torch.inference_mode()
    def paint(self, row: int, rgb: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, dict]:
        """Make a colorization of a photograph.

        Args:
            row: Row of the photograph.
            rgb: The photograph, 8-bit sRGB, shape (H, W, 3).
            rng: Source of method and numbers.

        Returns:
            8-bit sRGB, shape (H, W, 3), and its recipe.
        """
        lab = to_lab(rgb)
        method = str(rng.choice(list(_METHODS), p=list(_METHODS.values())))
        along_edges = bool(rng.random() < 0.5)
        plain = [m for m in _METHODS if m != "mixed"]
        used = [str(m) for m in rng.choice(plain, 2)] if method == "mixed" else [method]
        planes, recipe = [], {"method": method, "along_edges": along_edges}
        for number, name in enumerate(used):
            ab, drawn = self.color(row, name, rng)
            planes.append(enlarged(ab.float(), lab[0], along_edges))
            recipe |= {f"{key}{number or ''}": value for key, value in ({"colorizer": name} | drawn).items()}
        ab = planes[0]
        if method == "mixed":
            noise = smooth_noise(lab.shape[1:], float(rng.uniform(0.1, 0.4)) * max(lab.shape[1:]), rng)
            share = 1 / (1 + np.exp(-float(rng.uniform(2, 12)) * noise))
            ab = share * planes[0] + (1 - share) * planes[1]
        gain = 1.0 if rng.random() < 0.5 else float(np.exp(rng.uniform(math.log(0.2), math.log(1.9))))
        lab[1:] = gain * ab
        return from_lab(lab), recipe | {"chroma": gain}


_shared: dict[str, Any] = {}  # what the processes of the pool were given


def share(**content: Any) -> None:
    """Store the objects that all tasks of a process need; each process computes on one thread."""
    torch.set_num_threads(1)
    _shared.update(content)


def train_task(task: tuple[int, str]) -> list[Colorizer]:
    """Train one kind of colorizer for one half of the photographs, on the other half."""
    half, kind = task
    photographs = _shared["photographs"]
    rows = torch.arange(len(photographs.names))
    return train(kind, photographs, rows[rows % 2 != half], _shared["net"], _shared["args"])


def paint_task(task: tuple[int, str]) -> list[tuple[str, str, str, dict]]:
    """Write a photograph and its colorizations; return path, scene, method and recipe of each."""
    row, scene = task
    args, painter = _shared["args"], _shared["painter"]
    name = painter.photographs.names[row]
    rgb = reduced(args.photos / name, args.longest_side)
    rng = np.random.default_rng([args.seed, *name.encode("utf-8", "surrogateescape")])
    written = []
    for variant in range(args.per_photo + 1):
        image, recipe = painter.paint(row, rgb, rng) if variant else (rgb, {"method": "original"})
        file = f"images/{scene}__{variant}.jpg"
        Image.fromarray(image).save(args.output / file, quality=95, subsampling=0)
        written.append((file, scene, recipe["method"], recipe))
    return written


def main() -> None:
    args = parse_args()
    net = load_prior(args.prior)
    listed = list_images(args.photos).names
    excluded, _ = excluded_names(listed, args.exclude)
    names = [name for name in listed if name not in excluded]
    photographs, skipped = encode(net, names, args.photos, args.longest_side)
    (args.output / "images").mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    tasks = [(half, kind) for half in (0, 1) for kind in NETWORKS]
    networks: list[dict[str, list[Colorizer]]] = [{}, {}]
    with context.Pool(args.workers, partial(share, photographs=photographs, net=net, args=args)) as pool:
        bar = tqdm(pool.imap(train_task, tasks), desc="training", total=len(tasks), unit="network")
        for (half, kind), stages in zip(tasks, bar, strict=True):
            networks[half][kind] = stages
    painter = Painter(photographs, net, networks)
    scene_of = dict(zip(names, scene_names(names), strict=True))
    tasks = [(row, scene_of[name]) for row, name in enumerate(photographs.names)]
    with context.Pool(args.workers, partial(share, painter=painter, args=args)) as pool:
        bar = tqdm(pool.imap(paint_task, tasks, chunksize=8), desc="coloring", total=len(tasks), unit="photo")
        written = [image for images in bar for image in images]
    index = pd.DataFrame([image[:3] for image in written], columns=["image", "scene", "method"]).sort_values("image")
    write_atomic(args.output / "index.csv", index.to_csv(index=False))
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "exclude"}
    recipes = {file: recipe for file, _, _, recipe in written}
    write_atomic(args.output / "recipe.json", json.dumps({"settings": settings, "images": recipes}, indent=1) + "\n")
    for reason in skipped:
        print(f"left out: {reason}")
    print(f"{len(index)} images of {index['scene'].nunique()} photographs in {args.output / 'index.csv'}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error

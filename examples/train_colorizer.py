"""Train a small colorizer with and without a score of ours as a part of its loss, and see what the score does to it.

    python examples/train_colorizer.py PHOTOS --held-out OTHERS                 # 20 minutes on two cores
    python examples/train_colorizer.py data/samples --start-steps 2 --steps 2   # a check of a minute

The colorizer is a small decoder on frozen features of the gray image. First it is trained to predict the colors of the
photographs. From there several copies go on, on the same batches, each with another loss:

- ``plain_W``: the error of the colors + W (1 - score of the output). W = 0 is the colorizer without the score;
- ``guarded_W``: the same with three guards: CF, SCC and PR take part together; they look at a random part of the image, maybe
  mirrored; and no output is asked to score above its photograph.

``direct`` is no colorizer: the colors of gray images change by gradient ascent on the score alone.

OUT/held_out then holds a folder of held-out photographs per version, which evaluate.py --paper-table takes as they are. Beside
it are ``NAME.pt``, the weights of a copy; ``NAME.csv``, the measures of a version; ``table.csv``, their means; ``log.csv``,
scores and colorfulness as training goes on; ``figure.jpg``, the middle of photographs of data/samples in all versions.
docs/loss.md discusses a run.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, the folder above is not on the path

from utils.arguments import ScriptParser
from utils.choices import DIMENSIONS


def parse_args() -> argparse.Namespace:
    parser = ScriptParser(__doc__, "%(prog)s PHOTOS [options]", ("data", "loss", "optimization", "run"))
    add = parser.groups["data"].add_argument
    add("photos", type=Path, help="folder of photographs to train on, searched recursively")
    add("--held-out", type=Path, metavar="FOLDER", help="photographs to measure on (default: every tenth of PHOTOS)")
    add("-o", "--output", type=Path, default=Path("results/colorizer"), help="folder to write (default: %(default)s)")
    add = parser.groups["loss"].add_argument
    add("--term", choices=DIMENSIONS, default="PR", help="score in the loss of the plain copies (default: %(default)s)")
    add("--weight", type=float, nargs="*", default=[0, 0.05, 0.5], help="of the score, a copy each (default: 0 0.05 0.5)")
    add("--guarded", type=float, nargs="*", default=[0.5], metavar="WEIGHT", help="the same, guarded (default: 0.5)")
    add = parser.groups["optimization"].add_argument
    add("--start-steps", type=int, default=500, help="steps of the common start, of 16 photographs (default: %(default)s)")
    add("--steps", type=int, default=250, help="steps of each copy (default: %(default)s)")
    add("--batch-size", type=int, default=4, help="photographs per step of a copy (default: %(default)s)")
    add("--lr", type=float, default=1e-3, help="peak learning rate (default: %(default)s)")
    add("--direct-steps", type=int, default=60, help="steps of gradient ascent (default: %(default)s)")
    add = parser.groups["run"].add_argument
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=2, help="processes, a copy each (default: %(default)s)")
    parser.limits |= {"weight": (0, 100), "guarded": (0, 100)} | {f"{of}steps": (1, 10**6) for of in ("", "start_", "direct_")}
    return parser.parse_args()


if __name__ == "__main__":
    parse_args()  # help and mistakes end here, before what is slow to load

import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, multiprocessing, nn
from tqdm import tqdm

from models import load_model
from report.image_measures import measure, prepare
from tools.make_colorizations import Colorizer
from utils.color import chroma, colorfulness, gray_version, lab_to_rgb, rgb_to_lab
from utils.files import write_atomic
from utils.images import ImageReadError, is_gray, list_images, read_rgb

AB_SCALE = 50  # CIELAB units that are 1 for the colorizer
BETA = 0.2  # of the smooth L1 loss: below 10 CIELAB units the error counts squared
START_BATCH = 16
WIDTH = 32  # of the colorizer, in channels
LEAST_PART = 0.6  # of the side of an image that a guarded score looks at
LOG_EVERY = 25  # steps
PROBE = 16  # held-out photographs that the log measures
PHOTOGRAPHS, DIRECT = "photographs", "direct"  # versions of the photographs that no colorizer made
HELD_OUT, SAMPLES = "held_out", "samples"  # what is colorized, and the folders below OUT
SHOWN = ROOT / "data" / "samples"
SHOWN_SIDE = 200  # pixels of an image in the figure, small enough to see faults of color


class Judge(nn.Module):
    """The shipped networks as one differentiable function; the backbone that they share looks at an image once."""

    def __init__(self) -> None:
        super().__init__()
        self.cf, self.scc, self.pr = (load_model(dimension).requires_grad_(False) for dimension in ("CF", "SCC", "PR"))

    def forward(self, rgb: Tensor, gray_maps: list[Tensor] | None = None) -> Tensor:
        """Score images.

        Args:
            rgb: sRGB in [0, 1], shape (B, 3, H, W).
            gray_maps: Backbone maps of the gray versions, where they are known; no gradient passes through them.

        Returns:
            CF, SCC and PR, in the order of ``DIMENSIONS``, in (-1, 1), higher is better, shape (B, 3). The same as ``cf(rgb)``,
            ``scc(rgb)`` and ``pr(rgb, torch.stack((cf(rgb), scc(rgb)), 1))``, in less than a third of the time.
        """
        inputs = self.pr.prepare_batch(rgb)
        gray_maps = gray_maps or self.gray_maps(inputs["rgb"])
        maps = self.pr.backbone(inputs["rgb"]), gray_maps, self.pr.ranker(inputs["rgb"])
        cf, scc = (net.head(net.encode(inputs, maps)) for net in (self.cf, self.scc))
        pr = self.pr.head(self.pr.encode(inputs, maps), torch.stack((cf, scc), 1))
        return torch.stack((cf, scc, pr), 1)

    @torch.no_grad()
    def gray_maps(self, rgb: Tensor) -> list[Tensor]:
        """Return backbone maps of the gray versions of prepared images, finest first."""
        return self.pr.backbone(gray_version(rgb_to_lab(rgb)))


class Copy(NamedTuple):
    """How a copy of the colorizer goes on.

    Attributes:
        weight: Of the score in the loss.
        guarded: Whether the guards are up.
    """

    weight: float
    guarded: bool

    @property
    def name(self) -> str:
        return f"{'guarded' if self.guarded else 'plain'}_{self.weight:g}"


class Photographs(NamedTuple):
    """Photographs as the colorizer needs them, in memory (250 kB each).

    Attributes:
        folder: Where the files lie.
        names: Of the files.
        maps: Backbone maps of their gray versions, float16, shape (N, D_i, h_i, w_i), finest first.
        lightness: L of CIELAB, float16, shape (N, 1, S, S).
        ab: The color that the colorizer shall predict, divided by ``AB_SCALE``, float16, shape (N, 2, 2 h_0, 2 w_0).
    """

    folder: Path
    names: list[str]
    maps: list[Tensor]
    lightness: Tensor
    ab: Tensor

    def first(self, count: int) -> "Photographs":
        """Return the first few of the photographs."""
        return Photographs(
            self.folder, self.names[:count], [m[:count] for m in self.maps], self.lightness[:count], self.ab[:count]
        )

    def batch(self, rows: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return maps, lightness and ab of some photographs, float32."""
        return [m[rows].float() for m in self.maps], self.lightness[rows].float(), self.ab[rows].float()


@torch.inference_mode()
def encode(judge: Judge, folder: Path, names: list[str], leave_out_gray: bool) -> Photographs:
    """Read photographs; those that cannot be read are named and left out, as are gray ones where it is asked for."""
    kept: list[str] = []
    rows = []
    for name in tqdm(names, desc="reading", unit="photo", leave=False):
        try:
            rgb = read_rgb(folder / name)
        except ImageReadError as error:
            print(f"left out: {error}")
            continue
        if leave_out_gray and is_gray(rgb):
            continue
        prepared = judge.pr.prepare(rgb)["rgb"][None]
        lab = rgb_to_lab(prepared)
        maps = judge.gray_maps(prepared)
        side = 2 * maps[0].shape[-1]
        ab = F.interpolate(lab[:, 1:], (side, side), mode="area") / AB_SCALE
        rows.append([tensor.half() for tensor in (*maps, lab[:, :1], ab)])
        kept.append(name)
    if len(kept) < 2:
        raise SystemExit(f"error: {folder} holds {len(kept)} usable photographs of {len(names)}; expected at least 2")
    *maps, lightness, ab = (torch.cat(column).clone() for column in zip(*rows, strict=True))
    return Photographs(folder, kept, list(maps), lightness, ab)


def predict(model: Colorizer, maps: list[Tensor], lightness: Tensor) -> Tensor:
    """Predict ab divided by ``AB_SCALE``, shape (B, 2, h, w), of maps and lightness (B, 1, S, S)."""
    side = 2 * maps[0].shape[-1]
    return model(maps, F.interpolate(lightness, (side, side), mode="area") / 50 - 1)


def colored(ab: Tensor, lightness: Tensor) -> Tensor:
    """Return sRGB in [0, 1], shape (B, 3, H, W), of ab in the units of the colorizer and lightness (B, 1, H, W)."""
    ab = F.interpolate(ab, lightness.shape[-2:], mode="bilinear", align_corners=False)
    return lab_to_rgb(torch.cat((lightness, AB_SCALE * ab), 1))


def random_part(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """Cut the same random square out of all images of a batch, (B, C, S, S) to (B, C, s, s), and mirror them at times."""
    share, top, left, mirrored = torch.rand(4, generator=generator).tolist()
    side = rgb.shape[-1]
    part = round(side * (LEAST_PART + (1 - LEAST_PART) * share))
    top, left = round(top * (side - part)), round(left * (side - part))
    rgb = rgb[..., top : top + part, left : left + part]
    return rgb.flip(-1) if mirrored < 0.5 else rgb


def score_loss(judge: Judge, rgb: Tensor, gray_maps: list[Tensor], term: str) -> Tensor:
    """Return 1 - score, mean over a batch."""
    return 1 - judge(rgb, gray_maps)[:, DIMENSIONS.index(term)].mean()


def guarded_loss(judge: Judge, rgb: Tensor, photographs: Tensor, generator: torch.Generator) -> Tensor:
    """Return how far a batch scores below its photographs, mean of three scores of a random part; nothing for above."""
    rgb, photographs = random_part(torch.cat((rgb, photographs)), generator).chunk(2)
    with torch.no_grad():
        prepared = judge.pr.prepare_batch(photographs)["rgb"]
        gray_maps = judge.gray_maps(prepared)
        wanted = judge(prepared, gray_maps)
    return F.relu(wanted - judge(rgb, gray_maps)).mean()


def train_start(photographs: Photographs, args: argparse.Namespace) -> Colorizer:
    """Train the common start on the error of the colors alone."""
    torch.manual_seed(args.seed)
    model = Colorizer([m.shape[1] for m in photographs.maps], outputs=2, width=WIDTH)
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2 * args.lr, total_steps=args.start_steps + 1)
    for _ in tqdm(range(args.start_steps), desc="common start", leave=False):
        maps, lightness, ab = photographs.batch(torch.randint(len(photographs.names), (START_BATCH,)))
        loss = F.smooth_l1_loss(predict(model, maps, lightness), ab, beta=BETA)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return model.eval()  # the statistics of its normalization stay as they are from here on


def train_copy(
    start: Colorizer, how: Copy, photographs: Photographs, probe: Photographs, judge: Judge, args: argparse.Namespace
) -> tuple[Colorizer, list[dict[str, Any]]]:
    """Go on from the start with another loss.

    Args:
        start: The colorizer to begin with; it stays as it is.
        how: The loss.
        photographs: To train on.
        probe: Held-out photographs that the log measures.
        judge: The scores.
        args: Of the script.

    Returns:
        The colorizer, and a row of the log every ``LOG_EVERY`` steps.
    """
    model = copy.deepcopy(start)
    order, parts = (torch.Generator().manual_seed(args.seed + number) for number in (1, 2))  # the same for every copy
    optimizer = torch.optim.AdamW(model.parameters(), args.lr, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps + 1)
    log = []
    for step in range(args.steps + 1):
        maps, lightness, ab = photographs.batch(torch.randint(len(photographs.names), (args.batch_size,), generator=order))
        out = predict(model, maps, lightness)
        error = F.smooth_l1_loss(out, ab, beta=BETA)
        loss = error
        if how.weight:
            rgb = colored(out, lightness)
            if how.guarded:
                term = guarded_loss(judge, rgb, colored(ab, lightness), parts)
            else:
                term = score_loss(judge, rgb, maps, args.term)
            loss = error + how.weight * term
        if step % LOG_EVERY == 0 or step == args.steps:
            log.append(
                {"version": how.name, "step": step, "loss": loss.item(), "error": error.item(), **probed(model, probe, judge)}
            )
            print(", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in log[-1].items()), flush=True)
        if step == args.steps:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return model, log


@torch.no_grad()
def probed(model: Colorizer, probe: Photographs, judge: Judge) -> dict[str, float]:
    """Return mean scores and colorfulness of a few held-out photographs."""
    maps, lightness, _ = probe.batch(torch.arange(len(probe.names)))
    rgb = colored(predict(model, maps, lightness), lightness)
    scores = dict(zip(DIMENSIONS, judge(rgb, maps).mean(0).tolist(), strict=True))
    return scores | {"colorfulness": colorfulness(rgb).mean().item()}


@torch.no_grad()
def predict_all(model: Colorizer, photographs: Photographs) -> Tensor:
    """Predict ab divided by ``AB_SCALE`` of all photographs, shape (N, 2, h, w)."""
    batches = (photographs.batch(rows)[:2] for rows in torch.arange(len(photographs.names)).split(START_BATCH))
    return torch.cat([predict(model, *batch) for batch in batches])


def climb(photographs: Photographs, judge: Judge, term: str, steps: int) -> Tensor:
    """Change the colors of gray images, without any network between, so that their score rises.

    Args:
        photographs: Whose gray versions to begin with.
        judge: The scores.
        term: Which score shall rise.
        steps: Of gradient ascent.

    Returns:
        ab divided by ``AB_SCALE``, shape (N, 2, h, w), same as that of the photographs.
    """
    maps, lightness, ab = photographs.batch(torch.arange(len(photographs.names)))
    ab = torch.zeros_like(ab).requires_grad_()
    optimizer = torch.optim.Adam([ab], lr=0.03)  # at most 1.5 CIELAB units per step
    for _ in range(steps):
        optimizer.zero_grad()
        score_loss(judge, colored(ab, lightness), maps, term).backward()
        optimizer.step()
    return ab.detach()


def paint(ab: Tensor, rgb: np.ndarray) -> np.ndarray:
    """Give a photograph, 8-bit sRGB (H, W, 3), other colors: ab divided by ``AB_SCALE``, shape (1, 2, h, w)."""
    lightness = rgb_to_lab(torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255)[:, :1]
    return (255 * colored(ab, lightness)[0]).round().byte().permute(1, 2, 0).numpy()


@torch.no_grad()
def measured(rgb: np.ndarray, photograph: np.ndarray, judge: Judge) -> dict[str, float]:
    """Return scores and measures of one image beside its photograph, both 8-bit sRGB (H, W, 3)."""
    pixels, wanted = (torch.from_numpy(x).permute(2, 0, 1)[None].float() / 255 for x in (rgb, photograph))
    scores = dict(zip(DIMENSIONS, judge(pixels)[0].tolist(), strict=True))
    lab, wanted_lab = rgb_to_lab(pixels), rgb_to_lab(wanted)
    error = (lab - wanted_lab)[:, 1:].square().sum(1).sqrt().mean()
    plain = measure(prepare(rgb), prepare(photograph))
    return scores | plain | {"ab error": error.item(), "chroma": chroma(lab).mean().item(), "roughness": roughness(lab[:, 1:])}


def roughness(ab: Tensor) -> float:
    """Return how much color changes from a pixel to the next, in CIELAB units, (1, 2, H, W)."""
    return (ab.diff(dim=-1).abs().mean() + ab.diff(dim=-2).abs().mean()).item()


_shared: dict[str, Any] = {}  # what the processes of the pool were given


def share(**content: Any) -> None:
    """Take over what all tasks of a process need; each process computes on one thread."""
    torch.set_num_threads(1)
    _shared.update(content, judge=Judge())


def version_task(version: Copy | str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make one version of the photographs, held-out ones and those of the figure, and measure it.

    Args:
        version: A copy to train; or ``PHOTOGRAPHS`` as they are; or ``DIRECT``, for those of the figure only.

    Returns:
        A row per image, and the rows of the log.
    """
    args, judge = _shared["args"], _shared["judge"]
    sets: dict[str, Photographs] = {part: _shared[part] for part in (HELD_OUT, SAMPLES)}
    name, log = str(version), []
    colors: dict[str, Tensor | None] = dict.fromkeys(sets)
    if isinstance(version, Copy):
        name = version.name
        probe = sets[HELD_OUT].first(PROBE)
        model, log = train_copy(_shared["start"], version, _shared[PHOTOGRAPHS], probe, judge, args)
        write_atomic(args.output / f"{name}.pt", partial(torch.save, model.state_dict()))
        colors = {part: predict_all(model, photographs) for part, photographs in sets.items()}
    elif version == DIRECT:
        colors = {SAMPLES: climb(sets[SAMPLES], judge, args.term, args.direct_steps)}
    rows = []
    for part, ab in colors.items():
        for number, image in enumerate(sets[part].names):
            photograph = read_rgb(sets[part].folder / image)
            rgb = photograph if ab is None else paint(ab[number : number + 1], photograph)
            path = args.output / part / name / Path(image).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgb).save(path)
            rows.append({"version": name, "set": part, "image": image, **measured(rgb, photograph, judge)})
    write_atomic(args.output / f"{name}.csv", pd.DataFrame(rows).to_csv(index=False))
    return rows, log


def table_of(images: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each measure over the held-out photographs, a row per version, with how often it outscores them."""
    held_out = images[images["set"] == HELD_OUT].drop(columns="set").set_index("image")
    originals = held_out[held_out["version"] == PHOTOGRAPHS]
    rows = {}
    for name, group in held_out.groupby("version", sort=False):
        rows[name] = group.drop(columns="version").mean()
        if name != PHOTOGRAPHS:
            above = (group["PR"] > originals["PR"].reindex(group.index)).mean()
            rows[name]["PR above the photograph"] = above
    table = pd.DataFrame(rows).T
    table.loc[PHOTOGRAPHS, ["PSNR", "SSIM", "ab error"]] = np.nan  # equal themselves
    return table.round(3)


def draw(images: pd.DataFrame, output: Path) -> None:
    """Draw the middle of the photographs of data/samples in all versions, a column each, with their scores."""
    samples = images[images["set"] == SAMPLES]
    versions, photographs = samples["version"].unique(), samples["image"].unique()
    size = (2.3 * len(versions), 2.5 * len(photographs))
    figure, axes = plt.subplots(len(photographs), len(versions), figsize=size, layout="constrained", squeeze=False)
    for line, image in zip(axes, photographs, strict=True):
        for axis, version in zip(line, versions, strict=True):
            row = samples[(samples["version"] == version) & (samples["image"] == image)].iloc[0]
            rgb = read_rgb(output / SAMPLES / version / Path(image).with_suffix(".png"))
            top, left = (max(0, length - SHOWN_SIDE) // 2 for length in rgb.shape[:2])
            axis.imshow(rgb[top : top + SHOWN_SIDE, left : left + SHOWN_SIDE])
            scores = "  ".join(f"{d} {row[d]:+.2f}" for d in DIMENSIONS)
            axis.set_title(f"{version}\n{scores}" if axis in axes[0] else scores, fontsize=8)
            axis.axis("off")
    figure.savefig(output / "figure.jpg", dpi=80, pil_kwargs={"quality": 82})
    plt.close(figure)


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    plt.switch_backend("Agg")  # no screen needed
    copies = [Copy(w, guarded) for guarded, weights in ((False, args.weight), (True, args.guarded)) for w in weights]
    names = list_images(args.photos).names
    held_names = list_images(args.held_out).names if args.held_out else names[::10]
    judge = Judge()
    photographs = encode(judge, args.photos, [n for n in names if args.held_out or n not in held_names], leave_out_gray=True)
    held_out = encode(judge, args.held_out or args.photos, held_names, leave_out_gray=True)
    samples = encode(judge, SHOWN, [path.name for path in sorted(SHOWN.glob("ORG_*.jpg"))], False)
    print(f"{len(photographs.names)} photographs to train on, {len(held_out.names)} held out")
    args.output.mkdir(parents=True, exist_ok=True)
    content = {PHOTOGRAPHS: photographs, HELD_OUT: held_out, SAMPLES: samples, "args": args}
    content["start"] = train_start(photographs, args)
    versions = [*copies, PHOTOGRAPHS, DIRECT]
    if args.workers == 1:
        share(**content)
        done = [version_task(version) for version in versions]
    else:
        with multiprocessing.get_context("spawn").Pool(args.workers, partial(share, **content)) as pool:
            done = list(pool.imap(version_task, versions, chunksize=1))
    images = pd.DataFrame([row for rows, _ in [done[-2], *done[:-2], done[-1]] for row in rows])
    table = table_of(images)
    write_atomic(args.output / "log.csv", pd.DataFrame([row for _, log in done for row in log]).to_csv(index=False))
    write_atomic(args.output / "table.csv", table.to_csv(index_label="version"))
    draw(images, args.output)
    print(table.to_string(na_rep="-"))
    folders = " ".join(str(args.output / HELD_OUT / how.name) for how in copies)
    print(f"intervals and paired differences: python evaluate.py --images {folders} --paper-table")
    print(f"          --originals {args.output / HELD_OUT / PHOTOGRAPHS}")


if __name__ == "__main__":
    main()

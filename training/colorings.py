"""Colorings of one photograph side by side: the data that train_ranker.py learns from.

An item is a scene: the photograph and some of its colorings, with the same crop. Each image is resized, encoded and decoded at
random, so that neither size nor file format tells which one is better. One image comes twice.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from data.recolor import from_lab, to_lab
from utils.choices import DIMENSIONS
from utils.tables import csv_rows, finite_number

ORIGINAL = "original"  # method of the photograph
TOP = 0.8  # level of a photograph; levels of recolorings are in their table (tools/make_recolorings.py)

_SMALLEST_CROP = 0.55  # share of the area
_STRETCH = 0.1  # of the aspect ratio of a crop, as a logarithm, at most
_RESIZED, _SIZES = 0.7, (0.5, 1.3)  # how often an image is resized first, and to which multiples of the size
_ENCODED, _QUALITIES = 0.6, (60, 100)  # how often an image is encoded, and how well
_JPEG = 0.75  # share of JPEG, two of three with 4:2:0; the others are WebP
_CHROMA_SCENES = 0.35  # share of the scenes that teach the amount of chroma
_FACTORS = (0.1, 3.0)  # of the chroma of a photograph
_LEVEL_PER_OCTAVE = 0.7  # loss of level for twice or half the chroma of the photograph
_PLANTED = 0.45  # share of planted faults, where a scene has faults and outputs
_MATCHED = 0.45  # share of the outputs that get the chroma of the photograph
_LARGEST_GAIN = 6.0


@dataclass(frozen=True)
class Coloring:
    """One image of a scene.

    Attributes:
        path: The file.
        levels: Known levels of CF, SCC and PR, NaN where unknown.
        worse: Whether nothing is known but that the photograph is better.
    """

    path: Path
    levels: tuple[float, ...]
    worse: bool


@dataclass(frozen=True)
class Scene:
    """A photograph, in one or several files, and its colorings."""

    photographs: list[Coloring]
    colorings: list[Coloring]


@dataclass(frozen=True)
class Batch:
    """The scenes of one step, N images.

    Attributes:
        rgb: sRGB in [0, 1], shape (N, 3, S, S).
        levels: Levels of CF, SCC and PR, NaN where unknown, shape (N, 3).
        worse: True for images that are worse than every photograph, bool, shape (N,).
        photograph: True for photographs, bool, shape (N,).
        family: Number of the family, within which levels are comparable, shape (N,).
        scene: Number of the scene, shape (N,).
        twins: Rows of two encodings of one image, shape (scenes, 2).
    """

    rgb: Tensor
    levels: Tensor
    worse: Tensor
    photograph: Tensor
    family: Tensor
    scene: Tensor
    twins: Tensor


def read_colorings(paths: list[Path]) -> dict[str, dict[str, Scene]]:
    """Read tables of colorings (image, scene, method; perhaps CF, SCC, PR); paths of images are relative to their table.

    Returns:
        Scenes by name, by source. Tables with levels and tables of the folder "colorizations" of the same photographs are one
        source if they share a scene; a scene without a photograph or without colorings is left out.

    Raises:
        FileNotFoundError: If a table or an image is missing.
        ValueError: If a column is missing or a level is no number.
    """
    sources: dict[str, dict[str, Scene]] = {}
    for path in paths:
        header, rows = csv_rows(path, "image")
        missing = [column for column in ("image", "scene", "method") if column not in header]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]}; expected image, scene, method")
        leveled = set(DIMENSIONS) <= set(header)
        scenes: dict[str, Scene] = {}
        for line, row in rows:
            file = path.parent / row["image"]
            if not file.is_file():
                raise FileNotFoundError(f"{path}, line {line}: no image {file}")
            photograph = row["method"] == ORIGINAL
            given = (finite_number(row[d], f"{path}, line {line}: {d}") for d in DIMENSIONS) if leveled else (math.nan,) * 3
            scene = scenes.setdefault(row["scene"], Scene([], []))
            levels = (TOP,) * 3 if photograph else tuple(given)
            (scene.photographs if photograph else scene.colorings).append(
                Coloring(file, levels, not photograph and not leveled)
            )
        same = next((name for name, others in sources.items() if others.keys() & scenes.keys()), None)
        if same is None:
            sources[str(path)] = scenes
            continue
        for name, scene in scenes.items():
            earlier = sources[same].setdefault(name, Scene([], []))
            earlier.photographs.extend(scene.photographs)
            earlier.colorings.extend(scene.colorings)
    usable = {
        source: {name: s for name, s in scenes.items() if s.photographs and s.colorings} for source, scenes in sources.items()
    }
    empty = [source for source, scenes in usable.items() if not scenes]
    if empty:
        raise ValueError(f"{empty[0]} has no scene with a photograph (method {ORIGINAL!r}) and another image")
    return usable


def recoded(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """Return an image of ``size`` x ``size`` pixels that was perhaps resized, encoded and decoded on the way."""
    if rng.random() < _RESIZED:
        side = round(size * rng.uniform(*_SIZES))
        image = image.resize((side, side), Image.Resampling.BILINEAR)
    if rng.random() < _ENCODED:
        buffer = io.BytesIO()
        quality = int(rng.integers(_QUALITIES[0], _QUALITIES[1] + 1))
        if rng.random() < _JPEG:
            image.save(buffer, "JPEG", quality=quality, subsampling=int(rng.choice((0, 2, 2))))
        else:
            image.save(buffer, "WEBP", quality=quality, method=0)
        image = Image.open(buffer).convert("RGB")
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)


def _mean_chroma(lab: np.ndarray) -> float:
    return float(np.hypot(lab[1], lab[2]).mean())


class _View:
    """A random crop of the images of one scene, with their levels."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size, self.rng = size, rng
        side = math.sqrt(rng.uniform(_SMALLEST_CROP, 1))
        width = min(1.0, side * math.exp(rng.uniform(-_STRETCH, _STRETCH)))
        height = min(1.0, side**2 / width)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        self.box = np.array((left, top, left + width, top + height))
        self.flip = rng.random() < 0.5
        self.pixels: list[np.ndarray] = []
        self.labels: list[tuple[tuple[float, ...], bool, bool, int]] = []  # levels, worse, photograph, family
        self.again: list[tuple[int, Image.Image]] = []  # images that may come twice, with their rows

    def read_crop(self, path: Path) -> Image.Image:
        """Read an image and return its crop."""
        image = Image.open(path).convert("RGB")
        image = image.crop(tuple(np.round(self.box * np.tile(image.size, 2)).astype(int).tolist()))
        image.thumbnail((2 * self.size, 2 * self.size))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else image

    def lab(self, image: Image.Image) -> np.ndarray:
        """Return CIELAB of an image at the size of the network, shape (3, S, S)."""
        return to_lab(np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR)))

    def put(
        self, image: Image.Image, levels: tuple[float, ...], worse: bool = False, photograph: bool = False, family: int = 0
    ) -> None:
        """Add an image with its levels."""
        self.again.append((len(self.pixels), image))
        self.pixels.append(np.array(recoded(image, self.size, self.rng)))
        self.labels.append((levels, worse, photograph, family))


def view_of(scene: Scene, images: int, size: int, rng: np.random.Generator) -> _View:
    """Return a random view of a scene.

    Args:
        scene: The scene.
        images: Approximate number of images, photograph and twin included.
        size: Side of the images in pixels.
        rng: Generator of random numbers, for crop, images, sizes and encodings.
    """
    view = _View(size, rng)
    base = view.read_crop(scene.photographs[rng.integers(len(scene.photographs))].path)
    view.put(base, (TOP,) * 3, photograph=True)
    outputs = [coloring for coloring in scene.colorings if coloring.worse]
    planted = [coloring for coloring in scene.colorings if not coloring.worse]
    teaches_chroma = rng.random() < _CHROMA_SCENES
    reference = None
    if teaches_chroma:
        lab = view.lab(base)
        reference = _mean_chroma(lab)
        factor = math.exp(rng.uniform(*np.log(_FACTORS)))
        if abs(math.log2(factor)) > 0.2:
            lab[1:] *= factor
            level = TOP - _LEVEL_PER_OCTAVE * abs(math.log2(factor))
            view.put(Image.fromarray(from_lab(lab)), (level, math.nan, level))
        if outputs and rng.random() < 0.5:
            put_two_chromas(view, outputs[rng.integers(len(outputs))], reference)
    while len(view.pixels) < images - 1:
        some = planted if planted and (not outputs or rng.random() < _PLANTED) else outputs
        coloring = some[rng.integers(len(some))]
        image = view.read_crop(coloring.path)
        if coloring.worse and rng.random() < _MATCHED:
            reference = _mean_chroma(view.lab(base)) if reference is None else reference
            lab = view.lab(image)
            lab[1:] *= min(reference / max(_mean_chroma(lab), 1.0), _LARGEST_GAIN) * math.exp(rng.normal(0, 0.15))
            image = Image.fromarray(from_lab(lab))
        view.put(image, coloring.levels, coloring.worse)
    row, image = view.again[0 if teaches_chroma else rng.integers(len(view.again))]
    view.put(image, *view.labels[row])
    view.again = [(row, image), view.again[-1]]
    return view


def put_two_chromas(view: _View, coloring: Coloring, reference: float) -> None:
    """Add an output with two amounts of chroma; the amount nearer to ``reference``, the photograph's, is better."""
    lab = view.lab(view.read_crop(coloring.path))
    chroma, reference = _mean_chroma(lab), max(reference, 3.0)
    if chroma <= 1.5:  # nearly gray: nothing to scale
        return
    for step in view.rng.choice((-2, -1, 0, 1), 2, replace=False):
        target = reference * math.exp(0.6 * step + view.rng.uniform(-0.2, 0.2))
        scaled = lab.copy()
        scaled[1:] *= min(target / chroma, _LARGEST_GAIN)
        level = -_LEVEL_PER_OCTAVE * abs(math.log2(target / reference))
        view.put(Image.fromarray(from_lab(scaled)), (math.nan, math.nan, level), worse=True, family=1)


def batch_of(views: list[_View]) -> Batch:
    """Return views of scenes as tensors."""
    counts = [len(view.pixels) for view in views]
    starts = np.cumsum([0, *counts[:-1]])
    pixels = np.stack([image for view in views for image in view.pixels])
    levels, worse, photograph, family = zip(*(labels for view in views for labels in view.labels), strict=True)
    return Batch(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255,
        torch.tensor(levels),
        torch.tensor(worse),
        torch.tensor(photograph),
        torch.tensor(family),
        torch.repeat_interleave(torch.arange(len(views)), torch.tensor(counts)),
        torch.tensor([[start + row for row, _ in view.again] for start, view in zip(starts, views, strict=True)]),
    )


def summary(sources: dict[str, dict[str, Scene]]) -> pd.DataFrame:
    """Return the numbers of scenes and images of each source."""
    rows = [
        (source, len(scenes), sum(len(s.photographs) + len(s.colorings) for s in scenes.values()))
        for source, scenes in sources.items()
    ]
    return pd.DataFrame(rows, columns=["source", "scenes", "images"])

"""Images with ratings and originals for published systems, and the search for originals."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from baselines.scorer import Baseline
from data.table import REFERENCE, image_paths, relative_image
from models.base import Inputs
from training.batches import OwnViews, epoch_generator
from training.images import kept, kept_file, make_lacking
from utils.images import list_images, read_rgb
from utils.tables import csv_rows


class Originals:
    """Source of the originals of images.

    Args:
        source: A folder, searched recursively, or a CSV file. In a folder, the original of an image is the file with the same
            path or the same name, without extension. Otherwise it is the file with the longest name that begins or ends the
            name of the image, separated by "_" or "-": the original of BigColor_000000000139.png is 000000000139.jpg. The CSV
            has the columns image and reference, with paths relative to the CSV; the column image may also hold the names that
            the data or the scored folder use.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ValueError: If the CSV cannot be read, or two originals share a name.
    """

    def __init__(self, source: Path) -> None:
        self.source = source = Path(source)
        self.listed: dict[str, Path] = {}
        self.by_stem: dict[str, Path] = {}
        if source.suffix.lower() == ".csv":
            header, rows = csv_rows(source, "image")
            if not {"image", "reference"} <= set(header):
                raise ValueError(f"{source} has the columns {header}, expected image and reference")
            for number, row in rows:
                where = f"{source}, line {number}"
                image = relative_image(row["image"], where)
                if row["reference"]:
                    path = source.parent / row["reference"]
                    if not path.is_file():
                        raise FileNotFoundError(f"{where}: no file {path}")
                    if self.listed.setdefault(image, path) != path:
                        raise ValueError(f"{where}: {image} has another original already, {self.listed[image]}")
            return
        if not source.is_dir():
            raise FileNotFoundError(f"no folder of originals {source}")
        images = list_images(source)
        for name in images.names:
            self.listed[name] = images.path(name)
            stem = Path(name).stem
            if self.by_stem.setdefault(stem, images.path(name)) != images.path(name):
                raise ValueError(f"{source} holds two originals named {stem}: {self.by_stem[stem]}, {images.path(name)}")

    def find(self, image: str, scene: str = "", path: Path | None = None) -> Path | None:
        """Find the original of an image; return None if there is none.

        Args:
            image: Path of the image relative to the folder of images.
            scene: Scene of the image; an original may be named after it.
            path: Path of the image, for a CSV file whose paths are relative to itself.
        """
        if image in self.listed:
            return self.listed[image]
        if path is not None and self.source.suffix.lower() == ".csv":
            image = Path(os.path.relpath(path, self.source.parent)).as_posix()
            return self.listed.get(image)
        stem = Path(image).stem
        cuts = [i for i, letter in enumerate(stem) if letter in "_-"]
        parts = sorted({stem[i + 1 :] for i in cuts} | {stem[:i] for i in cuts}, key=lambda part: (-len(part), part))
        return next((self.by_stem[part] for part in (stem, scene, *parts) if part in self.by_stem), None)


def find_originals(source: Path, images: Sequence[str], paths: Sequence[Path], scenes: Sequence[str] = ()) -> dict[str, Path]:
    """Find the originals of images; return those that exist, by image.

    Args:
        source: Same as in ``Originals``.
        images: Images relative to their folder.
        paths: Paths of the images.
        scenes: Scenes of the images, if known.
    """
    originals = Originals(source)
    matches = [originals.find(*one) for one in zip(images, scenes or [""] * len(images), paths, strict=True)]
    return {image: original for image, original in zip(images, matches, strict=True) if original is not None}


def check_originals(source: Path, paths: Sequence[Path | str], originals: Sequence[Path | str]) -> None:
    """Print how many images have an original, and refuse a source without use.

    Args:
        source: Same as in ``Originals``.
        paths: Images.
        originals: Original of each image; empty where there is none.

    Raises:
        ValueError: If no image has an original, or the folder is that of the images, so that each would be its own original.
    """
    pairs = [(path, original) for path, original in zip(paths, originals, strict=True) if original]
    print(f"originals: {len(pairs)} of {len(paths)} images have one in {source}")
    if not pairs:
        raise ValueError(
            f"{source} has no original of any image, e.g. of {paths[0]}; an original has the name of its images less their "
            "method, or is listed in a CSV with the columns image and reference"
        )
    own = sum(os.path.abspath(path) == os.path.abspath(original) for path, original in pairs)
    if own == len(pairs) > 1 and Path(source).is_dir():
        raise ValueError(f"{source} holds the images themselves, so that each is its own original; pass the originals alone")


def with_originals(frame: pd.DataFrame, source: Path | None) -> pd.DataFrame:
    """Add the original of each image to a table, as the column ``REFERENCE``.

    Args:
        frame: MOS table with the column ``path``.
        source: Same as in ``Originals``; None takes the column ``reference`` of the table, or else the image of the scene
            whose method is "original".
    """
    if source is not None:
        originals = find_originals(source, list(frame["image"]), list(frame["path"]), list(frame["scene"]))
        return frame.assign(**{REFERENCE: [os.path.abspath(originals[i]) if i in originals else "" for i in frame["image"]]})
    if "reference" in frame:
        root = frame.attrs["root"]
        return frame.assign(**{REFERENCE: [os.path.abspath(Path(root, r)) if r else "" for r in frame["reference"]]})
    of_scene = frame[frame["method"] == "original"].set_index("scene")["path"].to_dict()
    return frame.assign(**{REFERENCE: [os.path.abspath(of_scene[s]) if s in of_scene else "" for s in frame["scene"]]})


class BaselineImages(OwnViews):
    """Data set whose item is one image prepared for a baseline, its MOS, no sub-scores, and the index.

    Superpixels, the slowest step, are kept in a folder with one file per image. The file name depends on path, size and
    modification time of the image and on the settings of the superpixels.

    Args:
        frame: MOS table with ``path``, and with ``REFERENCE`` for a system that reads originals.
        reader: Network that prepares images, see ``Baseline.reader``.
        columns: Columns with the MOS.
        scenes: Number of the scene of each image, shape (N,).
        seed: Seed of the random views.
        cache: Folder for superpixels.
    """

    def __init__(
        self, frame: pd.DataFrame, reader: Baseline, columns: Sequence[str], scenes: Tensor, seed: int, cache: Path
    ) -> None:
        super().__init__()
        self.paths = [Path(p) for p in image_paths(frame)]
        self.originals = list(frame[REFERENCE]) if reader.uses_reference else [""] * len(frame)
        lacking = [path.name for path, original in zip(self.paths, self.originals, strict=True) if not original]
        if reader.needs_reference and lacking:
            advice = ", or --set form=partial to do without where there is none" if reader.dimension == "fr_aigciqa" else ""
            raise ValueError(
                f"{reader.dimension} compares images with their originals, and {len(lacking)} of {len(frame)} have none, "
                f"e.g. {lacking[0]}; pass --reference{advice}"
            )
        self.reader, self.scenes, self.seed = reader, scenes, seed
        mos = torch.tensor(frame[list(columns)].to_numpy(np.float32))
        self.mos = mos[:, 0] if len(columns) == 1 else mos
        self.scores = None
        self.superpixels = cache / "superpixels" if reader.dimension == "dpam" else None

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Return the path for the superpixels of an image."""
        return kept_file(self.superpixels, self.paths[index], str(self.reader.network.superpixel_key))

    def fill(self) -> int:
        """Compute the superpixels that are not kept yet, see ``make_lacking``."""
        if self.superpixels is None:
            return 0
        files = [self.file(i) for i in range(len(self))]
        return make_lacking(files, lambda i: self.found_superpixels(i, pixels_of(self.paths[i])), "superpixels")

    def found_superpixels(self, index: int, pixels: Tensor) -> Tensor | None:
        """Return the superpixels of an image, from the folder or computed anew; None for a system without superpixels."""
        if self.superpixels is None:
            return None
        return torch.from_numpy(kept(self.file(index), lambda: self.reader.network.find_superpixels(pixels).numpy()))

    def inputs(self, index: int) -> Inputs:
        """Prepare an image: unchanged in epoch 0, else a random view that depends on seed, epoch and index only."""
        pixels, epoch = pixels_of(self.paths[index]), int(self.epoch)
        original = pixels_of(Path(self.originals[index])) if self.originals[index] else None
        superpixels = self.found_superpixels(index, pixels)
        try:
            if epoch == 0:
                inputs = self.reader.prepare(pixels, original, superpixels)
            else:
                generator = epoch_generator(self.seed, epoch, stream=100 + index)
                inputs = self.reader.view(pixels, original, superpixels, generator)
        except ValueError as error:  # such as of an image that is too small for a crop
            raise ValueError(f"{self.paths[index]}: {error}") from error
        return inputs | {"scene": self.scenes[index]}

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor, Tensor, int]:
        """Return the prepared image, MOS (0-dim, or (K,)), an empty tensor, and the index."""
        return self.inputs(index), self.mos[index], torch.empty(0), index


def pixels_of(path: Path) -> Tensor:
    """Read a file as sRGB, uint8, shape (3, H, W)."""
    return torch.from_numpy(read_rgb(path)).permute(2, 0, 1)

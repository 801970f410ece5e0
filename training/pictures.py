"""Pictures with their ratings, prepared as the networks read them: the dataset of the training scripts."""

import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.table import picture_paths
from models.base import Inputs
from models.preprocessing import Preprocess
from models.published import resized, slot_inputs, unit_range
from utils.files import write_atomic
from utils.images import ImageReadError, read_rgb
from utils.labels import ObjectLabels
from utils.scores import fingerprint

_AN_HOUR = 3600
_DIMENSIONS = ("CF", "SCC", "PR")


class RatedPictures(Dataset):
    """One item is one prepared picture, its MOS and its sub-scores.

    Prepared pictures are kept in memory once read (150 kB each at 224 pixels, shared between loader processes), unless they
    would take more than ``cache_bytes``.

    Args:
        frame: A MOS table with ``image`` relative to ``frame.attrs["root"]``, or with an absolute path in ``path``.
        preprocess: The preprocessing of the network.
        target: The column with the MOS, or None where pictures carry no rating.
        scores: CF and SCC of each row, shape (N, 2), for the realism branch.
        cache_bytes: The most memory that prepared pictures may take.
        objects: What gives the objects of the row with this number, as the network reads them, of its prepared picture.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        preprocess: Preprocess,
        target: str | None,
        scores: np.ndarray | None = None,
        cache_bytes: int = 8 << 30,
        objects: Callable[[int, Tensor], Inputs] | None = None,
    ) -> None:
        self.paths = [Path(p) for p in picture_paths(frame)]
        self.objects = objects
        self.preprocess = preprocess
        self.mos = torch.tensor(frame[target].to_numpy(np.float32) if target else np.full(len(frame), np.nan, np.float32))
        self.scores = None if scores is None else torch.tensor(scores, dtype=torch.float32)
        count, size = len(frame), preprocess.size
        self.cached = count * 3 * size**2 <= cache_bytes
        if self.cached:
            self.filled = torch.zeros(count, dtype=torch.bool).share_memory_()
            self.rgb = torch.empty(count, 3, size, size, dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def inputs(self, index: int) -> Inputs:
        """Prepared picture, from memory where it was read before."""
        if self.cached and self.filled[index]:
            return {"rgb": self.rgb[index].float() / 255}
        pixels = torch.from_numpy(read_rgb(self.paths[index])).permute(2, 0, 1)
        item = self.preprocess(pixels)
        if self.cached:
            self.rgb[index] = (item["rgb"] * 255).round().to(torch.uint8)
            self.filled[index] = True
        return item

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor, Tensor, int]:
        """Prepared picture, MOS (0-dim), CF and SCC (2,) or an empty tensor, and the index."""
        scores = torch.empty(0) if self.scores is None else self.scores[index]
        inputs = self.inputs(index)
        if self.objects is not None:
            inputs |= self.objects(index, inputs["rgb"])
        return inputs, self.mos[index], scores, index


class PublishedPictures(Dataset):
    """One item is one picture as a published network reads it, its MOS and its sub-scores.

    Resized pictures are kept as 8-bit levels in a folder, one file each (0.44 MB at 384 pixels), made once and found again by
    the path, size and time of change of the picture.

    Args:
        frame: A MOS table with ``image`` relative to ``frame.attrs["root"]``, or with an absolute path in ``path``.
        size: Side of the resized picture in pixels.
        resize: "bicubic" or "bilinear".
        cache: The folder.
        target: The column with the MOS.
        scores: CF and SCC of each row, shape (N, 2), for the realism branch.
        objects: The objects of the pictures by ``image``, for the semantic branch.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        size: int,
        resize: str,
        cache: Path,
        target: str,
        scores: np.ndarray | None = None,
        objects: ObjectLabels | None = None,
    ) -> None:
        self.names = list(frame["image"])
        self.paths = [Path(p) for p in picture_paths(frame)]
        self.size, self.resize = size, resize
        self.cache = Path(cache) / f"{resize}_{size}"
        self.mos = torch.tensor(frame[target].to_numpy(np.float32))
        self.scores = None if scores is None else torch.tensor(scores, dtype=torch.float32)
        self.objects = objects

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Where the resized picture lies, or will."""
        return kept_file(self.cache, self.paths[index])

    def fill(self) -> int:
        """Resize the pictures that are not there yet, see ``make_lacking``."""
        return make_lacking([self.file(i) for i in range(len(self))], self.levels, f"resizing to {self.size} pixels")

    def levels(self, index: int) -> np.ndarray:
        """The resized picture, uint8, shape (size, size, 3)."""
        return kept(self.file(index), lambda: resized(read_rgb(self.paths[index]), self.size, self.resize))

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor, Tensor, int]:
        """Prepared picture, MOS (0-dim), CF and SCC (2,) or an empty tensor, and the index."""
        item = {"rgb": unit_range(self.levels(index))}
        if self.objects is not None:
            item |= slot_inputs(*self.objects.slots(self.names[index]))
        return item, self.mos[index], torch.empty(0) if self.scores is None else self.scores[index], index


def kept_file(folder: Path, path: Path, key: str = "") -> Path:
    """Where an array made of a picture lies: told by its path and ``key``, then by its size and time of change."""
    parts = (f"{os.path.abspath(path)}{key and f' {key}'}", fingerprint(path))
    return folder / f"{'_'.join(hashlib.sha256(os.fsencode(part)).hexdigest()[:16] for part in parts)}.npy"


def kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in a file, which is made if it is not there yet or damaged."""
    try:
        return np.load(file)
    except (OSError, ValueError, EOFError):  # not made yet, or a file that something else damaged
        made = make()
        buffer = io.BytesIO()
        np.save(buffer, made)
        write_atomic(file, buffer.getvalue())
        return made


def make_lacking(files: list[Path], make: Callable[[int], object], title: str) -> int:
    """Make those of the files that are not there yet.

    Args:
        files: Of each picture.
        make: Makes the file of the picture of this number.
        title: Of the progress bar.

    Returns:
        How many there were to make.

    Raises:
        ImageReadError: If pictures cannot be read; tells how many, and all about the first.
    """
    lacking = [i for i, file in enumerate(files) if not file.is_file()]
    if lacking:
        collect(files)
    errors = []
    for i in tqdm(lacking, desc=title, leave=False, disable=len(lacking) < 2):
        try:
            make(i)
        except ImageReadError as error:
            errors.append(error)
    if errors:
        raise ImageReadError(f"{len(errors)} of {len(files)} pictures cannot be trained on; {errors[0]}")
    return len(lacking)


def collect(files: list[Path]) -> None:
    """Remove what changed pictures, killed runs and earlier versions left beside kept files.

    Args:
        files: Where arrays lie or will, in one folder.
    """
    known = {file.name.partition("_")[0]: file.name for file in files}
    for entry in os.scandir(files[0].parent) if files[0].parent.is_dir() else []:
        picture, _, version = entry.name.partition("_")
        old = entry.name.endswith(".npy") and (not version or known.get(picture, entry.name) != entry.name)
        left = entry.name.endswith(".tmp") and time.time() - entry.stat().st_mtime > _AN_HOUR  # a younger one may be in use
        if old or left:
            Path(entry.path).unlink(missing_ok=True)

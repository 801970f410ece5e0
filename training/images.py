"""Images with their ratings in the form that networks read: from a MOS table to the image sets of a training."""

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from data.splits import PARTS
from data.table import REFERENCE, counted, image_paths
from models import SemanticConsistencyNet
from models.base import CompactNet, Inputs, ScoreNet, stack
from models.preprocessing import Preprocess
from models.published import PublishedNet, resized, slot_inputs, unit_range
from training.batches import OwnViews, augment, epoch_generator, to_device
from training.options import TrainOptions
from utils import distributed
from utils.files import sha256, write_atomic
from utils.images import ImageReadError, read_rgb
from utils.labels import ObjectLabels, read_color_curves
from utils.scores import fingerprint

_ENCODING_BATCH = 8  # larger batches are slower on a CPU: the system allocates their memory anew each time
_KEPT_TOGETHER = 32 * _ENCODING_BATCH  # images whose features are one file
_AN_HOUR = 3600


class RatedImages(Dataset):
    """A set of prepared images; one item is an image, its MOS and its sub-scores.

    Prepared images stay in memory once read (150 kB each at 224 pixels, shared between loader processes), unless all of them
    would take more than ``cache_bytes``.

    Args:
        frame: A MOS table with ``image`` relative to ``frame.attrs["root"]``, or with an absolute path in ``path``.
        preprocess: The preprocessing of the network.
        target: The column with the MOS, or None where images carry no rating.
        scores: CF and SCC of each row, shape (N, 2), for the realism branch.
        cache_bytes: The most memory that prepared images may take.
        objects: Function of row number and prepared image that returns the objects as inputs of the network.
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
        self.paths = [Path(p) for p in image_paths(frame)]
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
        """Return a prepared image, from memory if it was read before."""
        if self.cached and self.filled[index]:
            return {"rgb": self.rgb[index].float() / 255}
        pixels = torch.from_numpy(read_rgb(self.paths[index])).permute(2, 0, 1)
        item = self.preprocess(pixels)
        if self.cached:
            self.rgb[index] = (item["rgb"] * 255).round().to(torch.uint8)
            self.filled[index] = True
        return item

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor, Tensor, int]:
        """Return prepared image, MOS (0-dim), CF and SCC (2,) or an empty tensor, and the index."""
        scores = torch.empty(0) if self.scores is None else self.scores[index]
        inputs = self.inputs(index)
        if self.objects is not None:
            inputs |= self.objects(index, inputs["rgb"])
        return inputs, self.mos[index], scores, index


class PublishedImages(Dataset):
    """A set of images for a published network; one item is an image, its MOS and its sub-scores.

    Resized images are kept as 8-bit levels in a folder, one file per image (0.44 MB at 384 pixels). The name of the file
    follows from the path, the size and the time of change of the image.

    Args:
        frame: A MOS table with ``image`` relative to ``frame.attrs["root"]``, or with an absolute path in ``path``.
        size: Side of the resized image in pixels.
        resize: "bicubic" or "bilinear".
        cache: Folder of resized images.
        target: The column with the MOS.
        scores: CF and SCC of each row, shape (N, 2), for the realism branch.
        objects: The objects of the images by ``image``, for the semantic branch.
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
        self.paths = [Path(p) for p in image_paths(frame)]
        self.size, self.resize = size, resize
        self.cache = Path(cache) / f"{resize}_{size}"
        self.mos = torch.tensor(frame[target].to_numpy(np.float32))
        self.scores = None if scores is None else torch.tensor(scores, dtype=torch.float32)
        self.objects = objects

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Return the path of the resized image, which may not exist yet."""
        return kept_file(self.cache, self.paths[index])

    def fill(self) -> int:
        """Resize the images that are not there yet and return their number, see ``make_lacking``."""
        return make_lacking([self.file(i) for i in range(len(self))], self.levels, f"resizing to {self.size} pixels")

    def levels(self, index: int) -> np.ndarray:
        """Return the resized image, uint8, shape (size, size, 3)."""
        return kept(self.file(index), lambda: resized(read_rgb(self.paths[index]), self.size, self.resize))

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor, Tensor, int]:
        """Return prepared image, MOS (0-dim), CF and SCC (2,) or an empty tensor, and the index."""
        item = {"rgb": unit_range(self.levels(index))}
        if self.objects is not None:
            item |= slot_inputs(*self.objects.slots(self.names[index]))
        return item, self.mos[index], torch.empty(0) if self.scores is None else self.scores[index], index


class FeatureSet(Dataset):
    """Encoded views of an image set, for training the head of a frozen network; items are the same as in ``RatedImages``."""

    def __init__(self, features: Inputs, mos: Tensor, scores: Tensor | None, views: int) -> None:
        self.features, self.mos, self.scores, self.views = features, mos, scores, views
        self.drawn: Tensor | None = None

    @property
    def scenes(self) -> Tensor:
        """Return the number of the scene of each image, if the features have it."""
        return self.features["scene"][0]

    def __len__(self) -> int:
        return len(self.mos)

    def subset(self, rows: np.ndarray, views: int, scores: np.ndarray | None = None) -> "FeatureSet":
        """Return the first ``views`` views of the images in ``rows``, with their CF and SCC in ``scores``, shape (N, 2)."""
        chosen = torch.from_numpy(np.asarray(rows))
        features = {k: v[:views, chosen] for k, v in self.features.items()}
        extra = None if scores is None else torch.tensor(scores, dtype=torch.float32)
        return FeatureSet(features, self.mos[chosen], extra, views)

    def draw(self, order: list[int], generator: torch.Generator) -> None:
        """Draw the view of each image of an epoch, same as one process that reads the images in this order."""
        self.drawn = torch.zeros(len(self), dtype=torch.int64)
        for index in order:
            self.drawn[index] = torch.randint(self.views, (), generator=generator)

    def __getitem__(self, index: int) -> tuple[Inputs, Tensor, Tensor, int]:
        view = 0
        if self.views > 1:
            view = int(torch.randint(self.views, ()) if self.drawn is None else self.drawn[index])
        item = {k: v[view, index] for k, v in self.features.items()}
        return item, self.mos[index], torch.empty(0) if self.scores is None else self.scores[index], index


def collate(items: list[tuple[Inputs, Tensor, Tensor, int]]) -> tuple[Inputs, Tensor, Tensor, Tensor]:
    """Return items of image sets as one batch."""
    inputs, mos, scores, index = zip(*items, strict=True)
    return stack(list(inputs)), torch.stack(mos), torch.stack(scores), torch.tensor(index)


def kept_file(folder: Path, path: Path, key: str = "") -> Path:
    """Return the path of the array made from an image; its name hashes path and ``key``, then size and time of change."""
    keys = (f"{os.path.abspath(path)}{key and f' {key}'}", fingerprint(path))
    return folder / f"{'_'.join(hashlib.sha256(os.fsencode(text)).hexdigest()[:16] for text in keys)}.npy"


def kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in a file; make the file if it is absent or damaged."""
    try:
        return np.load(file)
    except (OSError, ValueError, EOFError):  # absent or damaged
        made = make()
        buffer = io.BytesIO()
        np.save(buffer, made)
        write_atomic(file, buffer.getvalue())
        return made


def make_lacking(files: list[Path], make: Callable[[int], object], title: str) -> int:
    """Make the files that are not there yet.

    Args:
        files: File of each image.
        make: Function that makes the file of the image with this number.
        title: Title of the progress bar.

    Returns:
        The number of files that were not there.

    Raises:
        ImageReadError: If images cannot be read; tells their number, and the error of the first.
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
        raise ImageReadError(f"{len(errors)} of {len(files)} images cannot be trained on; {errors[0]}")
    return len(lacking)


def collect(files: list[Path]) -> None:
    """Remove files of changed images, killed runs and earlier versions beside kept files.

    Args:
        files: Paths of arrays in one folder, which may not exist yet.
    """
    current = {file.name.partition("_")[0]: file.name for file in files}
    for entry in os.scandir(files[0].parent) if files[0].parent.is_dir() else []:
        image, _, version = entry.name.partition("_")
        old = entry.name.endswith(".npy") and (not version or current.get(image, entry.name) != entry.name)
        left = entry.name.endswith(".tmp") and time.time() - entry.stat().st_mtime > _AN_HOUR  # a younger one may be in use
        if old or left:
            Path(entry.path).unlink(missing_ok=True)


@torch.inference_mode()
def encode_set(
    model: ScoreNet, dataset: Any, device: torch.device, views: int, seed: int, workers: int, keep: Path | None = None
) -> FeatureSet:
    """Run the frozen part of a network over an image set once per view; the first view is plain.

    Args:
        model: The network.
        dataset: The images.
        device: Device to run on.
        views: Number of views.
        seed: Seed of the random views.
        workers: Number of processes that read images.
        keep: A folder for the features of this network and these images, which are read again after an interruption.
    """
    model.eval()
    own_views = isinstance(dataset, OwnViews)
    stored: list[Inputs] = []
    for view in range(views):
        generator = epoch_generator(seed, view, stream=2)
        title = f"encoding, view {view + 1}/{views}"
        bar = tqdm(total=len(dataset), desc=title, leave=False, disable=not distributed.is_main())
        blocks: list[Inputs] = []
        if own_views:
            dataset.epoch.fill_(view)
        for first in range(0, len(dataset), _KEPT_TOGETHER):
            rows = range(first, min(first + _KEPT_TOGETHER, len(dataset)))
            file = None if keep is None else keep / f"view{view}_{first}.pt"
            earlier = None if file is None else kept_features(file)
            if earlier is not None:
                blocks.append(earlier["features"])
                generator.set_state(earlier["generator"])
                bar.update(len(rows))
                continue
            loader = DataLoader(Subset(dataset, rows), _ENCODING_BATCH, num_workers=workers, collate_fn=collate)
            encoded = []
            for inputs, _, _, index in loader:
                inputs = augment(inputs, generator) if view > 0 and not own_views else inputs
                encoded.append({k: v.cpu() for k, v in model.encode(to_device(inputs, device)).items()})
                bar.update(len(index))
            blocks.append({k: torch.cat([e[k] for e in encoded]) for k in encoded[0]})
            if file is not None and distributed.is_main():
                content = {"features": blocks[-1], "generator": generator.get_state()}
                write_atomic(file, partial(torch.save, content))
        bar.close()
        stored.append({k: torch.cat([block[k] for block in blocks]) for k in blocks[0]})
    if own_views:
        dataset.epoch.fill_(0)
    features = {k: torch.stack([s[k] for s in stored]) for k in stored[0]}
    return FeatureSet(features, dataset.mos, dataset.scores, views)


def kept_features(file: Path) -> dict[str, Any] | None:
    """Read the features that an interrupted run kept; None if the file is absent or damaged."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file raises nearly any kind
        return None


def features_folder(output: Path, model: ScoreNet, frame: pd.DataFrame, about: list[Any], name: str = "all") -> Path:
    """Return the folder for features of these images by this network, which a run reads again after an interruption.

    Features of other images or weights under the same name are removed.

    Args:
        output: Folder of the run.
        model: The network.
        frame: The images.
        about: All other things that the features depend on.
        name: Kind of the features.
    """
    about = [model.config, model.preprocessing(), *about]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for key, tensor in model.state_dict().items():
        digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    for path in [*frame["path"], *frame.get(REFERENCE, [])]:
        digest.update(f"{path} {fingerprint(path)}\n".encode("utf-8", "surrogateescape"))
    folder = output / "features" / f"{name}_{digest.hexdigest()[:16]}"
    if distributed.is_main():
        for other in set(folder.parent.glob(f"{name}_*")) - {folder}:
            shutil.rmtree(other)
    return folder


def folder_size(folder: Path) -> str:
    """Return size and path of a folder as text."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{sum(sizes) / 1e6:.1f} MB in {len(sizes)} files of {folder}"


ImageSet = RatedImages | PublishedImages | OwnViews | FeatureSet


class ImageSets(Protocol):
    """A function that makes the image set of a part of a MOS table; None for an empty part."""

    def __call__(self, part: pd.DataFrame, train: bool = False, scores: np.ndarray | None = None) -> ImageSet | None:
        """Return the set of ``part``, augmented if ``train``, with CF and SCC in ``scores``, shape (N, 2)."""


Sets = dict[str, ImageSet | None]  # "train", "val" and "test"


def image_sets(options: TrainOptions, model: ScoreNet, tables: list[pd.DataFrame]) -> ImageSets:
    """Return the function that makes image sets; the frozen part of a network reads every image only once.

    Args:
        options: Options of the script.
        model: A network with the start weights of the run.
        tables: All images of all parts; one image may be in several tables.
    """
    frame = pd.concat(tables).drop_duplicates("image").sort_values("image", ignore_index=True)
    if isinstance(model, PublishedNet):
        return published_image_sets(options, model, frame)
    if options.backbone_lr != 0:
        return lambda part, train=False, scores=None: None if part.empty else rated_images(options, model, part, scores)
    return encoded_sets(options, model, frame, rated_images(options, model, frame))


def encoded_sets(options: TrainOptions, model: ScoreNet, frame: pd.DataFrame, images: ImageSet) -> ImageSets:
    """Encode all images by the frozen part of the network, and return the function that makes sets of their features.

    Args:
        options: Options of the script.
        model: A network with the start weights of the run.
        frame: All images of all parts.
        images: The image set of ``frame``.
    """
    sources = [content_of(source) for source in object_sources(options)]
    keep = features_folder(options.output, model, frame, [options.seed, sources])
    device, views = torch.device(options.device), options.views if options.augment else 1
    encoded = encode_set(model.to(device), images, device, views, options.seed, options.workers, keep)
    if distributed.is_main():
        print(f"features of {len(frame)} images: {folder_size(keep)}, until the run has ended")
    row_of = {image: row for row, image in enumerate(frame["image"])}

    def make(part: pd.DataFrame, train: bool = False, scores: np.ndarray | None = None) -> FeatureSet | None:
        rows = np.array([row_of[image] for image in part["image"]], dtype=int)
        return encoded.subset(rows, encoded.views if train else 1, scores) if len(rows) else None

    return make


def sets_of(images: ImageSets, parts: dict[str, pd.DataFrame], scores: dict[str, np.ndarray] | None = None) -> Sets:
    """Return the image sets of those of "train", "val" and "test" that ``parts`` has; ``scores`` are CF and SCC by part.

    Images to train on are augmented.
    """
    names = [name for name in PARTS if name in parts]
    return {name: images(parts[name], name == "train", None if scores is None else scores[name]) for name in names}


def rated_images(options: TrainOptions, model: ScoreNet, frame: pd.DataFrame, scores: np.ndarray | None = None) -> RatedImages:
    """Return the image set of a MOS table for one of our networks."""
    cache_bytes = int(options.cache_gb * (1 << 30))
    objects = labeled_objects(options.labels, model, frame) if isinstance(model, SemanticConsistencyNet) else None
    return RatedImages(frame, cast(CompactNet, model).preprocess, model.dimension, scores, cache_bytes, objects)


def published_image_sets(options: TrainOptions, model: PublishedNet, frame: pd.DataFrame) -> ImageSets:
    """Return the function that makes image sets for a published network.

    CF is trained on bilinear images and scored on bicubic ones, as published; images to predict (validation, test, out-of-fold)
    are read in the same way as in scoring.
    """
    cache = options.cache or Path(__file__).resolve().parents[1] / "runs" / "cache"
    objects = published_objects(options, frame) if model.dimension == "SCC" else None

    def make(part: pd.DataFrame, train: bool = False, scores: np.ndarray | None = None) -> PublishedImages | None:
        if part.empty:
            return None
        resize = "bilinear" if train else model.resize
        images = PublishedImages(part, model.size, resize, cache, model.dimension, scores, objects)
        made = images.fill() if distributed.is_main() else 0
        distributed.barrier()
        if made:
            print(f"{made} images resized to {model.size} pixels, {resize}; cache: {folder_size(cache)}")
        return images

    return make


def labeled_objects(
    labels: list[str] | None, model: SemanticConsistencyNet, frame: pd.DataFrame
) -> Callable[[int, Tensor], Inputs] | None:
    """Return the function that gives the objects of a row of a MOS table; None where the command line names no labels.

    Args:
        labels: Folders of YOLO files; None or ["none"] for none.
        model: The network that compares objects.
        frame: The images, with ``scene``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a label file cannot be read, or the network has no object prior.
    """
    if labels in (None, ["none"]):
        return None
    if model.object_prior is None:
        raise ValueError("--labels need an object prior to compare with; pass --object-prior, or --labels none")
    folders = [ObjectLabels(Path(folder)) for folder in labels or ()]
    rows = []
    for image, scene in zip(frame["image"], frame["scene"], strict=True):
        # recolorings of one photograph show the same objects
        labeled = ((folder, name) for name in (image, f"{scene}.") for folder in folders if folder.file(name) is not None)
        folder, name = next(labeled, (None, ""))
        rows.append([] if folder is None else folder.objects(name))
    print(f"objects: {sum(map(bool, rows))} of {len(rows)} images show labeled ones")
    _ = model.cells, model.object_prior  # computed here, because processes that read images cannot use a GPU
    return lambda index, rgb: model.object_inputs(rgb, rows[index])


def with_object_files(options: TrainOptions) -> TrainOptions:
    """Return the options with the labels and the color prior of a published network, by default those in the data folder.

    Raises:
        ValueError: If several folders of labels are named.
    """
    if options.preset != "published":
        return options
    source, _ = counted(options.data[0])
    root = source if source.is_dir() else source.parent
    labels, prior = options.labels or [str(root / "labels")], options.color_prior or root / "color_.json"
    if len(labels) > 1:
        raise ValueError(f"--labels of a published network is one folder, got {len(labels)}")
    return replace(options, labels=[str(Path(labels[0]))], color_prior=prior)


def published_objects(options: TrainOptions, frame: pd.DataFrame) -> ObjectLabels:
    """Return the labels and the color prior of a data set, see ``with_object_files``."""
    assert options.labels
    assert options.color_prior
    labels = Path(options.labels[0])
    objects = ObjectLabels(None if labels == Path("none") else labels, read_color_curves(options.color_prior))
    for image in frame["image"]:
        objects.slots(image)  # raises the errors of all label files before the training
    labeled = sum(objects.file(image) is not None for image in frame["image"])
    print(f"objects: {labeled} of {len(frame)} images have a label file")
    return objects


def object_sources(options: TrainOptions) -> list[Path]:
    """Return the files and folders that an SCC network reads beside the images."""
    given = [options.prior, options.object_prior, options.color_prior, *(options.labels or ())]
    return [Path(source) for source in given if source is not None and source != "none"]


def content_of(source: Path) -> list[str]:
    """Return the SHA-256 of a file, or of all label files in a folder, with their names."""
    files = sorted(source.rglob("*.txt")) if source.is_dir() else [source]
    return [f"{file.name} {sha256(file)}" for file in files]

"""The three scores as one object, for programs that judge images while they run."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from icqa.inference.networks import Networks
from icqa.models.base import ImageInput, ScoreNet, as_list, one_thread, to_tensor
from icqa.models.loading import load_model
from icqa.utils.choices import DIMENSIONS
from icqa.utils.images import ImageReadError, list_images, read_rgb
from icqa.utils.labels import ObjectLabels


class Judge(nn.Module):
    """Score colorized images, one column per dimension. Needs no originals.

    Call it with an image, a folder or a batch. The scores are those of the scripts: each image is scored alone, with arithmetic
    on one thread, so company never changes a score. A batch that requires a gradient goes through the networks as a batch, and
    the scores can be differentiated.

    Args:
        networks: Networks by dimension, in evaluation mode.
        dimensions: The columns.

    Attributes:
        lower_better: False; a higher score is a better image.
        score_range: Least and largest score.
    """

    lower_better = False
    score_range = (-1.0, 1.0)

    def __init__(self, networks: Mapping[str, ScoreNet], dimensions: Sequence[str] = DIMENSIONS) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.dimensions = tuple(dimensions)
        self._engine: Networks | None = None

    @property
    def device(self) -> torch.device:
        """Return the device of the networks."""
        return next(self.parameters()).device

    def forward(self, images: ImageInput | Sequence[ImageInput]) -> Tensor:
        """Score images.

        Args:
            images: A path, a PIL image, an sRGB array (H, W, 3) or tensor (3, H, W), uint8 or floating point in [0, 1]; a list
                of such; an array (B, H, W, 3) or a tensor (B, 3, H, W); or a folder, whose images come in the order of
                ``names``.

        Returns:
            Scores in [-1, 1], higher is better, shape (B, K) for K dimensions, and (B,) for one. An image of a folder that
            cannot be read is a row of NaN, with a warning that names the file.

        Raises:
            ImageReadError: If a single image, or one of a list, cannot be read.
            ValueError: If an array or a tensor is of another shape, type or range.
        """
        if isinstance(images, Tensor) and images.requires_grad:
            scores = self._differentiable(images)
        elif isinstance(images, str | Path) and Path(images).is_dir():
            scores = self._folder(Path(images))
        else:
            scores = torch.tensor([self._score(to_tensor(item)) for item in as_list(images)[0]])
        scores = scores.reshape(-1, len(self.dimensions)).to(self.device)
        return scores[:, 0] if len(self.dimensions) == 1 else scores

    def names(self, folder: str | Path) -> list[str]:
        """Return the names of the images of a folder, in the order of their scores."""
        return list_images(folder).names

    def _score(self, pixels: Tensor) -> list[float]:
        """Return the scores of one image, shape (3, H, W), by the engine of the scripts."""
        if self._engine is None or self._engine.replicas.devices != [str(self.device)]:
            networks = dict(self.networks.eval().items())
            published = any(network.preset == "published" for network in networks.values())
            labels = ObjectLabels(None) if published else None  # the published SCC reads them, even where there are none
            self._engine = Networks(networks, [str(self.device)], labels)
        with one_thread():
            found = self._engine(pixels.permute(1, 2, 0).numpy(), "", {}).scores
        return [found[dimension] for dimension in self.dimensions]

    def _folder(self, folder: Path) -> Tensor:
        """Return the scores of the images of a folder, shape (B, K)."""
        images, rows = list_images(folder), []
        for name in images.names:
            try:
                rows.append(self._score(to_tensor(read_rgb(images.path(name)))))
            except ImageReadError as error:
                warnings.warn(str(error), stacklevel=3)
                rows.append([math.nan] * len(self.dimensions))
        return torch.tensor(rows)

    def _differentiable(self, rgb: Tensor) -> Tensor:
        """Return the scores of sRGB in [0, 1], shape (B, 3, H, W), as (B, K), with gradients."""
        scores: dict[str, Tensor] = {}
        for dimension, network in self.networks.items():
            read = torch.stack((scores["CF"], scores["SCC"]), 1) if dimension == "PR" else None
            scores[dimension] = network.eval()(rgb.to(self.device), read)
        return torch.stack([scores[dimension] for dimension in self.dimensions], 1)


def load(
    dimensions: str | Sequence[str] = DIMENSIONS,
    weights: Mapping[str, str | Path] | None = None,
    device: str | torch.device = "cpu",
    preset: str = "compact",
) -> Judge:
    """Load the networks.

    Args:
        dimensions: "CF", "SCC", "PR" or several; the columns of the scores.
        weights: Weight files by dimension, in place of the shipped ones.
        device: Where to put the networks, such as "cuda".
        preset: "compact", whose weights are shipped, or "published" for files of the published ICQA-Net, without objects.

    Raises:
        FileNotFoundError: If there is no such weight file.
        ValueError: If there is no such dimension or preset, or a file holds another network.
    """
    chosen = (dimensions,) if isinstance(dimensions, str) else tuple(dimensions)
    unknown = sorted({*chosen, *(weights or {})} - set(DIMENSIONS))
    if unknown or not chosen:
        raise ValueError(f"expected dimensions from {', '.join(DIMENSIONS)}, got {', '.join(unknown) or 'none'}")
    needed = DIMENSIONS if "PR" in chosen else [d for d in DIMENSIONS if d in chosen]  # PR reads the other two
    files = {d: d for d in needed} | {d: str(file) for d, file in (weights or {}).items()}
    networks = {d: load_model(files[d], device, dimension=d, preset=preset) for d in needed}
    return Judge(networks, chosen)

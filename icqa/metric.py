"""The scores as a metric of torchmetrics: the mean over the images of a set. Needs ``pip install torchmetrics``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from icqa.judge import Judge, load
from icqa.utils.choices import DIMENSIONS


class ColorizationQuality(Metric):
    """Mean scores of colorized images, without originals.

    As input to ``update`` the metric takes ``images``, sRGB of shape (B, 3, H, W), uint8 or floating point in [0, 1]. Images
    are scored one by one, so the mean does not depend on batches or processes. ``forward`` and ``compute`` return a tensor in
    [-1, 1] for one dimension, and a dictionary of tensors by dimension for several; higher is better.

    Args:
        dimensions: "CF", "SCC", "PR" or several.
        weights: Weight files by dimension, in place of the shipped ones.
        judge: Networks that are loaded already (``icqa.load``), in place of both.
        kwargs: Options of ``torchmetrics.Metric``.

    Raises:
        ValueError: If there is no such dimension.
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = -1.0
    plot_upper_bound = 1.0

    total: Tensor
    count: Tensor

    def __init__(
        self,
        dimensions: str | Sequence[str] = DIMENSIONS,
        weights: Mapping[str, str | Path] | None = None,
        judge: Judge | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.judge = judge or load(dimensions, weights)
        self.add_state("total", torch.zeros(len(self.judge.dimensions), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, images: Tensor) -> None:
        """Add a batch of images, shape (B, 3, H, W), uint8 or floating point in [0, 1].

        Raises:
            ValueError: If they are of another shape, type or range.
        """
        scores = colorization_quality(images, self.judge, reduction="none")
        self.total = self.total + scores.reshape(len(images), -1).double().sum(0)
        self.count = self.count + len(images)

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Return the mean over all images, NaN if there are none."""
        means = (self.total / self.count).float()
        return means[0] if len(means) == 1 else dict(zip(self.judge.dimensions, means, strict=True))

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot a value, several values, or what ``compute`` returns."""
        return self._plot(val, ax)


def colorization_quality(images: Tensor, judge: Judge, reduction: str = "mean") -> Tensor:
    """Score a batch of images.

    Args:
        images: sRGB, shape (B, 3, H, W), uint8 or floating point in [0, 1].
        judge: Loaded networks, ``icqa.load("PR")``.
        reduction: "mean" over the images, or "none".

    Returns:
        Scores in [-1, 1], higher is better: shape (B, K) for K dimensions and (B,) for one, without the first axis for "mean".

    Raises:
        ValueError: If the images are of another shape, type or range, or there is no such reduction.
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"expected a reduction of mean or none, got {reduction!r}")
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"expected images of shape (B, 3, H, W), got {found}")
    scores = judge(images)
    return scores.mean(0) if reduction == "mean" else scores

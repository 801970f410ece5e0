"""Semantic Color Consistency (SCC): does each thing have a color that such a thing can have?

Meaning is read from the gray version of the picture, so that a wrong color cannot hide the category; color is read from the
picture; the score rests on comparing the two. The published ICQA-Net looks up a color curve by class id and never sees the
object's pixels. Here a prior P(ab | gray picture), learned from photographs without any label, is set against every pixel,
beside the difference of what the backbone says of the picture and of its gray version.
"""

import torch
from torch import Tensor, nn

from models.backbone import DEFAULT_BACKBONE
from models.base import CompactNet, Inputs, Maps, ScoreHead, color_effect, compress
from models.color_prior import COMPARISONS, ColorPrior
from models.preprocessing import lab_of


class SemanticConsistencyNet(CompactNet):
    """SCC of a picture, in (-1, 1), higher is better.

    Args:
        backbone: Name of a timm network with feature maps.
        size: Side of the picture that the backbone sees, in pixels.
        width: Channels of the comparison and half the width of the head.
        dropout: Share of head activations dropped in training.
    """

    dimension = "SCC"

    def __init__(self, backbone: str = DEFAULT_BACKBONE, size: int = 224, width: int = 32, dropout: float = 0.5) -> None:
        super().__init__(backbone, size)
        self.config |= {"width": width, "dropout": dropout}
        self.prior = ColorPrior(self.backbone.channels)
        self.compare_cells = nn.Sequential(
            nn.Conv2d(len(COMPARISONS), width, 1),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.compress_global = compress(2 * sum(self.backbone.channels[1:]), 2 * width, dropout)
        self.regressor = ScoreHead(3 * width + 3 * len(COMPARISONS) + 2 * width, 2 * width, dropout)

    def pretrained_parameters(self) -> list[nn.Parameter]:
        return [*self.backbone.parameters(), *self.prior.parameters()]

    def predict_prior(self, rgb: Tensor, gray_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Color prior from the gray version of prepared pictures.

        Args:
            rgb: sRGB in [0, 1], shape (B, 3, size, size); of it the prior sees the lightness only.
            gray_maps: Backbone maps of the gray version.

        Returns:
            Log-probabilities of the ab cells, shape (B, K, h, w); CIELAB of the pixels to compare with them, shape
            (B, 3, 2h, 2w).
        """
        lab = lab_of(rgb, 2 * gray_maps[0].shape[-1])
        return self.prior(gray_maps, lab), lab

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        """``cells``: the comparison of pixels with the prior, (B, 12, h, w); ``global``: what color adds, (B, F)."""
        maps = maps or self.see(inputs)
        log_prior, lab = self.predict_prior(inputs["rgb"], maps[1])
        return {"cells": self.prior.compare(log_prior, lab), "global": color_effect(maps)}

    def head(self, features: Inputs) -> Tensor:
        cells = features["cells"]
        found = self.compare_cells(cells).flatten(2)
        plain = cells.flatten(2)
        worst = plain.topk(max(1, plain.shape[2] // 10), dim=2).values.mean(2)  # the most conspicuous tenth of the cells
        parts = (found.mean(2), found.std(2), found.amax(2), plain.mean(2), plain.std(2), worst)
        return self.regressor(torch.cat((*parts, self.compress_global(features["global"])), 1))

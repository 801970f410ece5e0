"""Chromatic Fidelity (CF): is the color clean?

Stains, mottling, bleeding over edges, shifted color planes, gray patches and oversaturation lower the score. As in the
published ICQA-Net, global features stand beside the spread of local ones. Differences: maps of a compact backbone at two
scales give both, as differences from the gray version of the image, and a chroma path reads statistics of a and b at the
full resolution of the image.
"""

import torch
from torch import Tensor, nn

from models.backbone import DEFAULT_BACKBONE
from models.base import CompactNet, Inputs, Maps, ScoreHead, color_effect, compress
from models.preprocessing import CHROMA_MAPS, chroma_maps


class ChromaPath(nn.Module):
    """A small network over the chroma maps that returns mean, spread and maximum of its features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(len(CHROMA_MAPS), width, 1),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.features = 3 * width + 2 * len(CHROMA_MAPS)

    def forward(self, maps: Tensor) -> Tensor:
        """Return features (B, ``features``) of chroma maps (B, C, G, G)."""
        learned = self.net(maps).flatten(2)
        plain = maps.flatten(2)
        return torch.cat((learned.mean(2), learned.std(2), learned.amax(2), plain.mean(2), plain.std(2)), 1)


class ChromaticFidelityNet(CompactNet):
    """The network that scores CF of an image, in (-1, 1), higher is better.

    Args:
        backbone: Name of a timm network with feature maps.
        size: Side of the image that the backbone sees, in pixels.
        width: Channels of the chroma path, half the width of the head.
        dropout: Share of head activations dropped in training.
        ranking: Weight of the ranker; 0 for a branch without one.
    """

    dimension = "CF"

    def __init__(
        self, backbone: str = DEFAULT_BACKBONE, size: int = 224, width: int = 32, dropout: float = 0.5, ranking: float = 0.0
    ) -> None:
        super().__init__(backbone, size, ranking)
        self.config |= {"width": width, "dropout": dropout}
        self.chroma_path = ChromaPath(width)
        self.compress_global = compress(2 * sum(self.backbone.channels[1:]), 2 * width, dropout)
        self.regressor = ScoreHead(2 * width + self.chroma_path.features, 2 * width, dropout)

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        """Return ``global``, the effect of color on the backbone maps (B, F); ``chroma``, maps (B, C, G, G); ``rank`` (B,)."""
        maps = maps or self.backbone_maps(inputs)
        return {"global": color_effect(maps), "chroma": chroma_maps(inputs["rgb"])} | self.rank_feature(maps)

    def head(self, features: Inputs, scores: Tensor | None = None) -> Tensor:
        image = self.compress_global(features["global"])
        return self.bounded(self.regressor(torch.cat((image, self.chroma_path(features["chroma"])), 1)), features)

"""The ranker: which of two colorings of one photograph is better? Learned without ratings, from pairs with a known order.

The network sees one image in color. It was trained end to end (train_ranker.py) to rank the photograph above outputs of
colorizers for its gray version, above planted faults, and above itself with less or more chroma. CF, SCC and PR add its ranks
to the outputs of their heads.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import DEFAULT_BACKBONE, Backbone, pooled_statistics
from utils.checkpoint import read_checkpoint
from utils.choices import DIMENSIONS, SHIPPED


class Ranker(nn.Module):
    """A network that ranks colorings of one photograph by a number each for CF, SCC and PR, higher is better.

    Args:
        backbone: Name of a timm network with feature maps.
        size: Side of the square image that the network sees, in pixels.
        width: Width of the head.
        dropout: Share of activations dropped in training.
    """

    dimension = "ranker"
    preset = "compact"
    center: Tensor
    spread: Tensor

    def __init__(self, backbone: str = DEFAULT_BACKBONE, size: int = 224, width: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"backbone": backbone, "size": size, "width": width, "dropout": dropout}
        self.backbone = Backbone(backbone, size)
        features = 2 * sum(self.backbone.channels)
        self.head = nn.Sequential(
            nn.LayerNorm(features),
            nn.Dropout(dropout),
            nn.Linear(features, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, len(DIMENSIONS)),
        )
        # of the ranks of photographs and their colorings, set after training
        self.register_buffer("center", torch.zeros(len(DIMENSIONS)))
        self.register_buffer("spread", torch.ones(len(DIMENSIONS)))

    def preprocessing(self) -> dict[str, Any]:
        """Return how an image is prepared for the network, in words and numbers."""
        return {"color": "sRGB", "size": self.config["size"]}

    def raw(self, rgb: Tensor) -> Tensor:
        """Return ranks without bounds, which training compares, of sRGB in [0, 1] (B, 3, S, S), shape (B, 3)."""
        return self.head(pooled_statistics(self.backbone(rgb)))

    def forward(self, rgb: Tensor) -> Tensor:
        """Return ranks of zero mean and unit spread over photographs and colorings, bounded to (-2, 2), shape (B, 3)."""
        return 2 * torch.tanh((self.raw(rgb) - self.center) / self.spread / 2)


def read_ranker(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Read the ranker of a file of train_ranker.py, or of a branch that has one.

    Returns:
        Configuration and tensors of the ranker; None for a branch without one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint of this project.
    """
    content = read_checkpoint(path)
    if content.get("dimension") == Ranker.dimension:
        return content["config"], content["model"]
    prefix = "ranker."
    tensors = {k.removeprefix(prefix): v for k, v in content["model"].items() if k.startswith(prefix)}
    if not tensors:
        return None
    return {k: content["config"][k] for k in ("backbone", "size")}, tensors


def shipped_ranker(backbone: str, size: int) -> Path | None:
    """Return the shipped file with a ranker for a backbone and a size; None if there is none."""
    path = SHIPPED / "PR.pt"
    ranker = read_ranker(path) if path.is_file() else None
    return path if ranker is not None and ranker[0]["backbone"] == backbone and ranker[0]["size"] == size else None

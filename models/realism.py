"""Perceptual Realism (PR): would a person take it for a photograph?

As in the published ICQA-Net, a global encoder of the image is fused with the predicted CF and SCC. The difference: the encoder
reads what color adds to the gray version, so that PR judges the coloring and not the scene.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from models.backbone import DEFAULT_BACKBONE
from models.base import (
    CompactNet,
    ImageInput,
    Inputs,
    Maps,
    ScoreHead,
    ScoreNet,
    as_list,
    check_sub_scores,
    color_effect,
    compress,
    one_thread,
    sub_score_lists,
    to_tensor,
    with_sub_scores,
)
from utils.labels import ObjectLabels


class PerceptualRealismNet(CompactNet):
    """The network that scores PR of an image, given its predicted CF and SCC, in (-1, 1), higher is better.

    Args:
        backbone: Name of a timm network with feature maps.
        size: Side of the image that the backbone sees, in pixels.
        width: Width of the fused head.
        dropout: Share of head activations dropped in training.
        ranking: Weight of the ranker; 0 for a branch without one.

    Attributes:
        load_branches: Loads the networks that compute CF and SCC where ``score`` gets none; set by ``models.loading``.
    """

    dimension = "PR"
    load_branches: Callable[[torch.device], tuple[ScoreNet, ScoreNet]] | None = None

    def __init__(
        self, backbone: str = DEFAULT_BACKBONE, size: int = 224, width: int = 64, dropout: float = 0.5, ranking: float = 0.0
    ) -> None:
        super().__init__(backbone, size, ranking)
        self.config |= {"width": width, "dropout": dropout}
        self.compress_global = compress(2 * sum(self.backbone.channels[1:]), width, dropout)
        self.score_fc = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.regressor = ScoreHead(width + 16, width, dropout)
        self.branches: tuple[ScoreNet, ScoreNet] | None = None

    def inputs_of(self, prepared: Inputs, name: str, labels: ObjectLabels | None, scores: Mapping[str, float]) -> Inputs:
        return with_sub_scores(prepared, scores)

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        """Return ``global``, the effect of color on the backbone maps (B, F), and ``rank`` (B,)."""
        maps = maps or self.backbone_maps(inputs)
        return {"global": color_effect(maps)} | self.rank_feature(maps)

    def head(self, features: Inputs, scores: Tensor | None = None) -> Tensor:
        image, sub_scores = self.compress_global(features["global"]), self.score_fc(check_sub_scores(scores))
        return self.bounded(self.regressor(torch.cat((image, sub_scores), 1)), features)

    def score(
        self,
        images: ImageInput | list[ImageInput],
        cf: float | list[float] | None = None,
        scc: float | list[float] | None = None,
    ) -> float | list[float]:
        """Score images, same as ``ScoreNet.score``, given CF and SCC.

        Args:
            images: Same as in ``ScoreNet.score``.
            cf: CF of each image in [-1, 1], or one for all; None to compute CF with the shipped weights.
            scc: SCC, in the same form.

        Returns:
            One number in [-1, 1] for one image, a list of numbers for a list.

        Raises:
            ValueError: If the number of sub-scores is not the number of images, or a sub-score is not in [-1, 1].
        """
        items, single = as_list(images)
        given = sub_score_lists(len(items), cf, scc)
        if None in given and self.branches is None:
            if self.load_branches is None:
                raise ValueError("give cf and scc, or set branches to a CF and an SCC network; only a loaded network has them")
            # a plain tuple, so that the two networks are no part of this one's state
            self.branches = self.load_branches(self.device)
        results = []
        with one_thread():
            for number, item in enumerate(items):
                pixels = to_tensor(item)  # once for all branches
                scores = {d: values[number] for d, values in zip(("CF", "SCC"), given, strict=True) if values is not None}
                for branch in self.branches or ():
                    if branch.dimension not in scores:  # rounded as in score files, so that both ways give the same PR
                        scores[branch.dimension] = round(branch.score_prepared(branch.prepare(pixels)), 6)
                results.append(self.score_prepared(with_sub_scores(self.prepare(pixels), scores)))
        return results[0] if single else results

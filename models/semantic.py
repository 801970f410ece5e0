"""Semantic Color Consistency (SCC): does each thing have a color that such a thing can have?

Meaning is read from the gray version of the image, so that a wrong color cannot hide the category. Color is read from the
image, and the score compares the two. The published ICQA-Net looks up a color curve by class id and never sees the pixels of
the object. Here every pixel is compared with a prior P(ab | gray image), which was learned from photographs without any label.
Where objects are labeled, the pixels of each are also compared with a prior P(ab | category, lightness). Attention over regions
and over objects weighs the comparisons by the content of each place. The head also reads what color adds to the backbone maps.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import DEFAULT_BACKBONE
from models.base import (
    ImageInput,
    Inputs,
    Maps,
    ScoreHead,
    Standardize,
    as_list,
    color_effect,
    compress,
    one_thread,
)
from models.color_prior import COMPARISONS, ColorPriorNet
from models.object_prior import OBJECT_COMPARISONS, ObjectPrior, scaled
from utils.color import rgb_to_lab
from utils.labels import LabeledObject, ObjectLabels, object_mask

MOST_OBJECTS = 20  # objects per image that are compared, the largest ones


class AttentionPool(nn.Module):
    """A layer that makes one vector from any number of tokens, weighed by their own content; zero if there is no token.

    Args:
        inputs: Numbers per token.
        width: Numbers of the result.
        dropout: Share of inputs dropped in training.
    """

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.inputs = inputs
        self.token = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, width), nn.GELU())
        self.weigh = nn.Linear(width, 1, bias=False)  # softmax takes no notice of one

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Return the vectors (B, width) of the tokens (B, T, inputs) where ``present`` (B, T) is 1, not 0."""
        x = self.token(tokens)
        logits = self.weigh(x)[..., 0].masked_fill(present == 0, -torch.inf)
        # an empty row would be 0 / 0; it contributes nothing, and so does its gradient
        weights = torch.where(present.any(1, keepdim=True), logits, 0).softmax(1) * present
        return (x * weights[..., None]).sum(1)


class SemanticConsistencyNet(ColorPriorNet):
    """The network that scores SCC of an image, in (-1, 1), higher is better.

    The buffer ``object_file`` holds the object prior as the bytes of its file. The archive takes 190 kB in place of 0.5 MB of
    arrays and holds text beside them. As bytes it stays exact in a checkpoint of half precision, which rounds all floating
    point tensors. The arrays are unpacked at first use.

    Args:
        backbone: Name of a timm network with feature maps.
        size: Side of the image that the backbone sees, in pixels.
        prior: Settings of the color prior, same as in ``ColorPriorNet``.
        width: Channels of the comparison, half the width of the head.
        dropout: Share of head activations dropped in training.
        object_bytes: Size of the file of the object prior, which is part of the weights.
        ranking: Weight of the ranker; 0 for a branch without one.
    """

    dimension = "SCC"
    object_file: Tensor

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        size: int = 224,
        prior: dict[str, Any] | None = None,
        width: int = 32,
        dropout: float = 0.5,
        object_bytes: int = 0,
        ranking: float = 0.0,
    ) -> None:
        super().__init__(backbone, size, prior, ranking)
        self.config |= {"width": width, "dropout": dropout, "object_bytes": object_bytes}
        self.register_buffer("object_file", torch.zeros(object_bytes, dtype=torch.uint8))
        self.compare_cells = nn.Sequential(
            nn.Conv2d(len(COMPARISONS), width, 1),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        scene = self.backbone.channels[-1]
        self.standardize_scene = Standardize(scene)
        self.read_scene = nn.Sequential(nn.Dropout(dropout), nn.Linear(scene, width // 2), nn.GELU())
        self.regions = AttentionPool(width + len(COMPARISONS) + width // 2, width, dropout / 2)
        self.objects = AttentionPool(len(OBJECT_COMPARISONS) + len(COMPARISONS) + width // 2, width, dropout / 2)
        self.compress_global = compress(2 * sum(self.backbone.channels[1:]), 2 * width, dropout)
        self.regressor = ScoreHead(5 * width + 3 * len(COMPARISONS) + 2 * width, 2 * width, dropout)

    def train(self, mode: bool = True) -> "SemanticConsistencyNet":
        super().train(mode)
        self.prior.eval()  # as it was calibrated
        return self

    def set_object_prior(self, prior: ObjectPrior) -> None:
        """Make an object prior part of the weights."""
        self.object_file = torch.from_numpy(np.frombuffer(prior.to_bytes(), np.uint8).copy()).to(self.device)
        self.config["object_bytes"] = len(self.object_file)
        self.__dict__.pop("object_prior", None)

    @cached_property
    def object_prior(self) -> ObjectPrior | None:
        """Return the object prior of the weights; None if the weights have none."""
        if not len(self.object_file):
            return None
        return ObjectPrior.from_bytes(self.object_file.cpu().numpy().tobytes(), "the object prior of the weights")

    def object_inputs(self, rgb: Tensor, objects: Sequence[LabeledObject]) -> Inputs:
        """Compare an image's objects with the prior of their categories.

        Args:
            rgb: The prepared image, sRGB in [0, 1], shape (3, size, size).
            objects: Labeled objects of the image. Only the ``MOST_OBJECTS`` largest are compared, and none of a few pixels.

        Returns:
            With T = ``MOST_OBJECTS``: ``objects``, the comparisons, shape (T, D), zero where there is no object;
            ``object_cells``, the share of each cell of the map of the prior that the object fills, shape (T, h, w);
            ``present``, 1 for an object and 0 for none, shape (T,).
        """
        side = self.cells
        tensors = {
            "objects": torch.zeros(MOST_OBJECTS, len(OBJECT_COMPARISONS)),
            "object_cells": torch.zeros(MOST_OBJECTS, side, side),
            "present": torch.zeros(MOST_OBJECTS),
        }
        if self.object_prior is not None and objects:
            lab = rgb_to_lab(rgb[None].cpu())[0]
            masks = [object_mask(thing, *lab.shape[1:]) for thing in objects]
            largest = sorted(range(len(objects)), key=lambda i: (-masks[i].sum(), i))
            compared = ((i, self.object_prior.compare_object(lab, masks[i], objects[i].category)) for i in largest)
            kept = [(i, values) for i, values in compared if values is not None][:MOST_OBJECTS]
            for slot, (i, values) in enumerate(kept):
                tensors["objects"][slot] = torch.from_numpy(scaled(values))
                mask = torch.from_numpy(masks[i]).float()[None, None]
                tensors["object_cells"][slot] = F.interpolate(mask, (side, side), mode="area")[0, 0]
                tensors["present"][slot] = 1
        return {k: v.to(rgb.device) for k, v in tensors.items()}

    def inputs_of(self, prepared: Inputs, name: str, labels: ObjectLabels | None, scores: Mapping[str, float]) -> Inputs:
        return prepared if labels is None else prepared | self.object_inputs(prepared["rgb"], labels.objects(name))

    @torch.inference_mode()
    def score(self, images: ImageInput | list[ImageInput], objects: Sequence[Any] | None = None) -> float | list[float]:
        """Score images, same as ``ScoreNet.score``, with their objects if labeled.

        Args:
            images: Same as in ``ScoreNet.score``.
            objects: Objects of the image from ``utils.labels.read_objects``; for a list of images, a list with one per image.

        Returns:
            One number in [-1, 1] for one image, a list of numbers for a list.

        Raises:
            ValueError: If ``objects`` is not for as many images.
            TypeError: If ``objects`` is a path.
        """
        if isinstance(objects, str | Path):
            raise TypeError(f"objects must come from utils.labels.read_objects, got the path {str(objects)!r}")
        items, single = as_list(images)
        labeled = [objects or []] if single else objects or [[] for _ in items]
        if len(labeled) != len(items):
            raise ValueError(f"{len(items)} images but objects of {len(labeled)}")
        values = []
        with one_thread():
            for item, things in zip(items, labeled, strict=True):
                inputs = self.prepare(item)
                if things:
                    inputs |= self.object_inputs(inputs["rgb"], things)
                values.append(self.score_prepared(inputs))
        return values[0] if single else values

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        """Return the comparisons of the image with both priors, and the content of its places.

        Returns:
            ``cells``, the comparison of pixels with the prior, (B, 12, h, w); ``scene``, the coarsest map of the gray image,
            (B, D, h', w'); ``global``, the effect of color on the backbone maps, (B, F); ``rank``, (B,). With objects also
            ``objects``, the comparisons of each object with its category and with the prior of its place, (B, T, .);
            ``object_scene``, the mean of ``scene`` over each object, (B, T, D); ``present``, (B, T).
        """
        maps = maps or self.backbone_maps(inputs)
        semantics = self.prior.semantics(maps[1])
        lab = self.pixels(inputs["rgb"], semantics[0].shape[-1])
        cells, scene = self.prior.compare_pixels(self.prior(semantics, lab), lab), semantics[-1]
        features = {"cells": cells, "scene": scene, "global": color_effect(maps)} | self.rank_feature(maps)
        if "objects" in inputs:
            features |= {
                "objects": torch.cat((inputs["objects"], pooled(cells, inputs["object_cells"])), 2),
                "object_scene": pooled(scene, F.adaptive_avg_pool2d(inputs["object_cells"], (scene.shape[2], scene.shape[3]))),
                "present": inputs["present"],
            }
        return features

    def head(self, features: Inputs, scores: Tensor | None = None) -> Tensor:
        cells = features["cells"]
        compared = self.compare_cells(cells)
        learned, plain = compared.flatten(2), cells.flatten(2)
        worst = plain.topk(max(1, plain.shape[2] // 10), dim=2).values.mean(2)  # the most conspicuous tenth of the cells
        vectors = [learned.mean(2), learned.std(2), learned.amax(2), plain.mean(2), plain.std(2), worst]

        scene = features["scene"]
        side = (scene.shape[2], scene.shape[3])
        places = scene.flatten(2).transpose(1, 2)  # (B, h'w', D)
        of_regions = [F.adaptive_avg_pool2d(x, side).flatten(2).transpose(1, 2) for x in (compared, cells)]
        if self.training:
            self.standardize_scene(places.flatten(0, 1))  # keeps its estimates up to date
        tokens = torch.cat((*of_regions, self.read(places)), 2)
        vectors.append(self.regions(tokens, torch.ones_like(tokens[..., 0])))
        if "objects" in features:
            tokens = torch.cat((features["objects"], self.read(features["object_scene"])), 2)
            present = features["present"]
        else:  # the objects contribute zero but take part: processes that train together need a gradient of every parameter
            present = scene.new_zeros(len(scene), 1)
            tokens = scene.new_zeros(len(scene), 1, self.objects.inputs)
        vectors.append(self.objects(tokens, present))
        return self.bounded(self.regressor(torch.cat((*vectors, self.compress_global(features["global"])), 1)), features)

    def read(self, scene: Tensor) -> Tensor:
        """Return few numbers from the features of gray places, (B, T, D) to (B, T, width // 2)."""
        return self.read_scene(self.standardize_scene.scale(scene))


def pooled(maps: Tensor, cells: Tensor) -> Tensor:
    """Return the mean of maps (B, C, h, w) over the shares that objects fill (B, T, h, w), shape (B, T, C); 0 for no object."""
    total = torch.einsum("bchw,bthw->btc", maps, cells)
    return total / cells.sum((2, 3)).clamp(min=1e-6)[..., None]

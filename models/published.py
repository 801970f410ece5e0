"""The three networks of the published ICQA-Net, for its weight files and its recipe.

Origin: https://github.com/ARBEZ-ZEBRA/ICQA (commit 922ed1e). The architectures are rebuilt here on timm and torchvision from
their state dicts and figures; no code of that repository is used. ``from_published`` reads a state dict of that repository and
``to_published`` returns the same one, key by key. Scores agree with the published code to 2e-6 in float32.

Differences on purpose: the pooler of the published CF network, which no score depends on, is left out; the object graph can be
the same in training and scoring (``attention``).
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import Tensor, nn

from models.backbone import UnreachableError, read_state
from models.base import (
    ImageInput,
    Inputs,
    Maps,
    ScoreNet,
    as_list,
    check_sub_scores,
    one_thread,
    sub_score_lists,
    to_tensor,
    with_sub_scores,
)
from models.preprocessing import check_image
from utils.checkpoint import PUBLISHED_BACKBONE_NAMES, published_dimension, unwrapped
from utils.choices import SPELLINGS
from utils.color import linear_to_lab, srgb_to_linear
from utils.labels import CLASSES, CURVE, SLOTS, ObjectLabels

Slots: TypeAlias = np.ndarray | Tensor | tuple[np.ndarray | Tensor, int] | None  # of one image, with how many are used

ATTENTION_GRAPHS = ("infer", "train")

_CHROMA = 32  # channels of the chroma branch
_MASKED = -1e9  # logit of an unused slot
_POOLER = "pooler.dense"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of torchvision's weights
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class PublishedNet(ScoreNet):
    """A published network: Pillow resizes the image to a square of 8-bit levels."""

    preset = "published"
    resize: str  # "bicubic" or "bilinear"
    backbone: Any

    @property
    def input_key(self) -> tuple:
        return self.preset, self.size, self.resize

    def preprocessing(self) -> dict[str, Any]:
        return {"color": "sRGB", "size": self.size, "resize": f"Pillow {self.resize} to a square, 8-bit levels"}

    def round_backbone(self) -> None:
        self.backbone.to(torch.bfloat16)

    def prepare(self, image: ImageInput) -> Inputs:
        """Return ``rgb``, sRGB in [0, 1] on 8-bit levels, shape (3, size, size); other levels are rounded before resizing."""
        return {"rgb": unit_range(resized(image, self.size, self.resize)).to(self.device)}

    def prepare_batch(self, rgb: Tensor) -> Inputs:
        """Resize a batch in torch, which rounds slightly differently than Pillow; the gradient passes the 8-bit levels."""
        if tuple(rgb.shape[2:]) != (self.size, self.size):
            rgb = F.interpolate(rgb, (self.size, self.size), mode=self.resize, antialias=True, align_corners=False).clamp(0, 1)
        return {"rgb": rgb + ((rgb * 255).round() / 255 - rgb).detach()}

    def pretrained_parameters(self) -> list[nn.Parameter]:
        return list(self.backbone.parameters())


class PublishedCF(PublishedNet):
    """Chromatic Fidelity: a vision transformer on RGB, beside a small convolution over a and b.

    Args:
        backbone: Name of a timm vision transformer of square images with a class token; the published one by default.
        resize: "bicubic", same as the published scoring, or "bilinear", same as the published training.
    """

    dimension = "CF"

    def __init__(self, backbone: str = "vit_base_patch16_384", resize: str = "bicubic") -> None:
        super().__init__()
        if resize not in _FILTERS:
            raise ValueError(f"resize must be one of {', '.join(_FILTERS)}, got {resize!r}")
        self.config = {"backbone": backbone, "resize": resize}
        self.resize = resize
        norm = partial(nn.LayerNorm, eps=1e-12)
        self.backbone = timm.create_model(backbone, pretrained=False, num_classes=0, norm_layer=norm)
        if getattr(self.backbone, "num_prefix_tokens", 0) != 1 or not hasattr(self.backbone, "patch_embed"):
            raise ValueError(f"backbone {backbone!r} is no vision transformer with a class token, such as vit_base_patch16_384")
        self.size = self.backbone.patch_embed.img_size[0]
        self.chroma_head = nn.Sequential(nn.Conv2d(2, _CHROMA, 3, padding=1), nn.BatchNorm2d(_CHROMA), nn.ReLU())
        features = 2 * self.backbone.num_features + _CHROMA
        self.regressor = nn.Sequential(
            nn.Linear(features, 512), nn.LayerNorm(512), nn.GELU(), nn.Dropout(0.1), nn.Linear(512, 1), nn.Tanh()
        )

    def round_backbone(self) -> None:
        # matrix products only; norms and the residual stream stay in float32
        for block in self.backbone.blocks:
            for parent, name in ((block.attn, "qkv"), (block.attn, "proj"), (block.mlp, "fc1"), (block.mlp, "fc2")):
                setattr(parent, name, RoundedLinear(getattr(parent, name)))

    def features(self, inputs: Inputs) -> Inputs:
        """Return every stage on the way to the score.

        Args:
            inputs: Batch of results of ``prepare``.

        Returns:
            ``tokens`` (B, 1 + patches, D) after the last norm, ``cls`` (B, D), ``patch_std`` (B, D), ``chroma_map``
            (B, 32, 12, 12) and ``chroma`` (B, 32).
        """
        rgb = inputs["rgb"]
        tokens = self.backbone.forward_features(rgb)
        chroma_map = F.adaptive_avg_pool2d(self.chroma_head(chroma_planes(rgb)), 12)
        return {
            "tokens": tokens,
            "cls": tokens[:, 0],
            "patch_std": tokens[:, 1:].std(1, unbiased=True),
            "chroma_map": chroma_map,
            "chroma": F.adaptive_avg_pool1d(chroma_map.flatten(1), _CHROMA),
        }

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        stages = self.features(inputs)
        return {"all": torch.cat((stages["cls"], stages["patch_std"], stages["chroma"]), 1)}

    def head(self, features: Inputs, scores: Tensor | None = None) -> Tensor:
        return self.regressor(features["all"]).squeeze(1)


class PublishedSCC(PublishedNet):
    """Semantic Color Consistency: a residual network on RGB, beside up to 20 objects and the color prior of their class.

    Args:
        backbone: Name of a torchvision residual network; the published one by default.
        attention: Graph of the object attention in scoring. "infer": one softmax over the used slots, same as the published
            scoring. "train": the logits first pass a softmax over all slots, same as the published training.
        train_attention: Graph of the object attention in training mode.
    """

    dimension = "SCC"
    resize = "bilinear"
    size = 224

    def __init__(self, backbone: str = "resnet18", attention: str = "infer", train_attention: str = "infer") -> None:
        super().__init__()
        for graph in (attention, train_attention):
            if graph not in ATTENTION_GRAPHS:
                raise ValueError(f"attention must be one of {', '.join(ATTENTION_GRAPHS)}, got {graph!r}")
        self.config = {"backbone": backbone, "attention": attention, "train_attention": train_attention}
        self.backbone, width = residual_network(backbone)
        self.class_embedding = nn.Embedding(CLASSES, 32)
        self.obj_encoder = nn.Sequential(nn.Linear(32 + 4 + CURVE, 256), nn.ReLU(), nn.Linear(256, 256))
        self.attention = nn.Sequential(nn.Linear(256, 1))
        self.regressor = nn.Sequential(nn.Linear(width + 256, 128), nn.ReLU(), nn.Linear(128, 1), nn.Tanh())

    def set_attention(self, graph: str) -> None:
        """Change the graph of the object attention in scoring; the weights are the same for both.

        Raises:
            ValueError: If there is no such graph.
        """
        if graph not in ATTENTION_GRAPHS:
            raise ValueError(f"attention must be one of {', '.join(ATTENTION_GRAPHS)}, got {graph!r}")
        self.config["attention"] = graph

    def preprocessing(self) -> dict[str, Any]:
        return super().preprocessing() | {"attention": self.config["attention"]}

    def prepare(self, image: ImageInput, objects: Slots = None) -> Inputs:
        """Return the tensors of one image.

        Args:
            image: An image in any form that ``score`` takes.
            objects: Class id, box and color prior of each slot, shape (20, 773), unused slots zero; alone, or as a tuple with
                the number of used slots. Alone, slots up to the last one that is not all zero are used. None for no objects.

        Returns:
            ``rgb`` (3, 224, 224) in [0, 1], ``objects`` (20, 773), ``used`` (20,).
        """
        prepared = super().prepare(image)
        return prepared | self.object_inputs(prepared["rgb"], objects)

    def prepare_batch(self, rgb: Tensor) -> Inputs:
        objects = self.object_inputs(rgb, None)
        return super().prepare_batch(rgb) | {k: v.expand(len(rgb), *v.shape) for k, v in objects.items()}

    def object_inputs(self, rgb: Tensor, objects: Slots) -> Inputs:
        """Return ``objects`` and ``used`` of one image, same as ``prepare``, on the device of ``rgb``."""
        return {k: v.to(rgb.device) for k, v in slot_inputs(*(objects if isinstance(objects, tuple) else (objects,))).items()}

    def inputs_of(self, prepared: Inputs, name: str, labels: ObjectLabels | None, scores: Mapping[str, float]) -> Inputs:
        return prepared if labels is None else prepared | self.object_inputs(prepared["rgb"], labels.slots(name))

    def features(self, inputs: Inputs) -> Inputs:
        """Return every stage on the way to the score.

        Args:
            inputs: Batch of results of ``prepare``.

        Returns:
            ``image`` (B, 512), ``objects`` (B, 256), ``logits`` (B, 20) before and ``attention`` (B, 20) after softmax.
        """
        graph = self.config["train_attention" if self.training else "attention"]
        objects, used = inputs["objects"], inputs["used"]
        embedded = self.class_embedding(objects[..., 0].long())
        encoded = self.obj_encoder(torch.cat((embedded, objects[..., 1:]), 2))  # (B, 20, 256)
        logits = self.attention(encoded).squeeze(2)
        if graph == "train":
            masked = logits.softmax(1).masked_fill(~used, _MASKED)
        else:
            masked = logits.masked_fill(~used, _MASKED)
        attention = masked.softmax(1)
        image = residual_features(self.backbone, inputs["rgb"])
        return {
            "image": image,
            "objects": (attention[..., None] * encoded).sum(1),
            "logits": logits,
            "attention": attention,
        }

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        stages = self.features(inputs)
        return {"all": torch.cat((stages["image"], stages["objects"]), 1)}

    def head(self, features: Inputs, scores: Tensor | None = None) -> Tensor:
        return self.regressor(features["all"]).squeeze(1)

    @torch.inference_mode()
    def score(self, images: ImageInput | list[ImageInput], objects: Any = None) -> float | list[float]:
        """Score images.

        Args:
            images: Same as in ``ScoreNet.score``.
            objects: Result of ``utils.labels.ObjectLabels.slots``, or its slots (20, 773) alone; for a list of images, a list
                with one per image. None for no objects.

        Returns:
            One number in [-1, 1] for one image, a list of numbers for a list.

        Raises:
            ValueError: If the number of slots is not the number of images.
        """
        items, single = as_list(images)
        slots = [objects] if single else list(objects) if objects is not None else [None] * len(items)
        if len(slots) != len(items):
            raise ValueError(f"{len(items)} images but objects of {len(slots)}")
        with one_thread():
            values = [self.score_prepared(self.prepare(p, s)) for p, s in zip(items, slots, strict=True)]
        return values[0] if single else values


class PublishedPR(PublishedNet):
    """Perceptual Realism: a residual network on RGB, beside the predicted CF and SCC.

    Args:
        backbone: Name of a torchvision residual network; the published one by default.
    """

    dimension = "PR"
    resize = "bilinear"
    size = 224

    def __init__(self, backbone: str = "resnet50") -> None:
        super().__init__()
        self.config = {"backbone": backbone}
        self.backbone, width = residual_network(backbone)
        self.score_fc = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.regressor = nn.Sequential(
            nn.Linear(width + 16, 512),
            nn.ReLU(),
            nn.BatchNorm1d(512),
            nn.Dropout(0.3),
            nn.Linear(512, 128),
            nn.ReLU(),
            nn.Linear(128, 1),
            nn.Tanh(),
        )

    def features(self, inputs: Inputs, scores: Tensor) -> Inputs:
        """Return every stage on the way to the score: ``image`` (B, 2048), ``scores`` (B, 16)."""
        return {**self.encode(inputs), "scores": self.score_fc(scores)}

    def inputs_of(self, prepared: Inputs, name: str, labels: ObjectLabels | None, scores: Mapping[str, float]) -> Inputs:
        return with_sub_scores(prepared, scores)

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        return {"image": residual_features(self.backbone, inputs["rgb"])}

    def head(self, features: Inputs, scores: Tensor | None = None) -> Tensor:
        return self.regressor(torch.cat((features["image"], self.score_fc(check_sub_scores(scores))), 1)).squeeze(1)

    @torch.inference_mode()
    def score(
        self,
        images: ImageInput | list[ImageInput],
        cf: float | list[float] | None = None,
        scc: float | list[float] | None = None,
    ) -> float | list[float]:
        """Score images, same as ``ScoreNet.score``; CF and SCC must be given, one per image or one for all.

        Raises:
            ValueError: If the number of sub-scores is not the number of images, or a sub-score is not in [-1, 1].
        """
        if cf is None or scc is None:
            raise ValueError("the published PR network takes the CF and SCC of each image: score(images, cf, scc)")
        items, single = as_list(images)
        pairs = zip(*filter(None, sub_score_lists(len(items), cf, scc)), strict=True)
        scores = [{"CF": one, "SCC": other} for one, other in pairs]
        with one_thread():
            values = [self.score_prepared(with_sub_scores(self.prepare(p), s)) for p, s in zip(items, scores, strict=True)]
        return values[0] if single else values


def resized(image: ImageInput, size: int, resize: str) -> np.ndarray:
    """Resize an image for the published networks: by Pillow, to a square of 8-bit levels.

    Args:
        image: An image in any form that ``ScoreNet.score`` takes.
        size: Side in pixels.
        resize: "bicubic" or "bilinear".

    Returns:
        sRGB, uint8, shape (size, size, 3).
    """
    pixels = to_tensor(image)
    check_image(pixels)
    if pixels.is_floating_point():
        pixels = (pixels.detach().float() * 255).round().to(torch.uint8)
    whole = Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    return np.array(whole.resize((size, size), _FILTERS[resize]))


def unit_range(levels: np.ndarray) -> Tensor:
    """Convert 8-bit levels, shape (H, W, 3), to sRGB in [0, 1], float32, shape (3, H, W)."""
    return torch.from_numpy(levels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format).div(255)


def residual_network(name: str) -> tuple[nn.Sequential, int]:
    """Return the children of a torchvision residual network without the classifier, numbered as published, and its width."""
    if not name.startswith(("resnet", "resnext", "wide_resnet")):
        raise ValueError(f"backbone {name!r} is no residual network of torchvision, such as resnet18")
    net = torchvision.models.get_model(name, weights=None)
    layers = nn.Sequential(*list(net.children())[:-1])
    return layers.to(memory_format=torch.channels_last), net.fc.in_features


class RoundedLinear(nn.Module):
    """A linear layer that computes in bfloat16 for inputs of any dtype."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().to(torch.bfloat16), requires_grad=False)
        self.bias = nn.Parameter(linear.bias.detach().to(torch.bfloat16), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(torch.bfloat16), self.weight, self.bias)


def residual_features(network: nn.Sequential, rgb: Tensor) -> Tensor:
    """Return features of sRGB in [0, 1] by a residual network in its own precision, (B, 3, H, W) to (B, D) in float32."""
    return network(imagenet_normalized(rgb).to(next(network.parameters()).dtype)).flatten(1).to(rgb.dtype)


def imagenet_normalized(rgb: Tensor) -> Tensor:
    """Normalize sRGB in [0, 1] for torchvision's ImageNet weights, shape (B, 3, H, W), channels last in memory."""
    mean, std = (rgb.new_tensor(values)[:, None, None] for values in (_IMAGENET_MEAN, _IMAGENET_STD))
    return ((rgb - mean) / std).contiguous(memory_format=torch.channels_last)


def chroma_planes(rgb: Tensor) -> Tensor:
    """Return a and b of CIELAB divided by 128 for sRGB in [0, 1], (B, 3, H, W) to (B, 2, H, W)."""
    return linear_to_lab(srgb_to_linear(rgb))[:, 1:] / 128


def slot_inputs(objects: np.ndarray | Tensor | None, used: int | None = None) -> Inputs:
    """Return slots and used slots of one image as tensors for the network; see ``PublishedSCC.prepare``."""
    slots = torch.zeros(SLOTS, 5 + CURVE) if objects is None else torch.as_tensor(objects, dtype=torch.float32)
    if tuple(slots.shape) != (SLOTS, 5 + CURVE):
        raise ValueError(f"objects must have shape ({SLOTS}, {5 + CURVE}), got {tuple(slots.shape)}")
    if used is None:
        filled = slots.ne(0).any(1).nonzero()
        used = int(filled[-1]) + 1 if len(filled) else 0
    return {"objects": slots, "used": torch.arange(SLOTS) < used}


NETWORKS: dict[str, type[PublishedNet]] = {net.dimension: net for net in (PublishedCF, PublishedSCC, PublishedPR)}
PUBLISHED_BACKBONES = {"CF": "vit_base_patch16_384", "SCC": "resnet18", "PR": "resnet50"}
_HUB_TAGS = {"vit_base_patch16_384": "vit_base_patch16_384.orig_in21k_ft_in1k"}  # timm's default is another training of it


def from_published(
    content: Mapping[str, Any], source: str = "the state dict", copy: bool = True, **config: Any
) -> PublishedNet:
    """Rebuild a network from the content of a published weight file.

    Args:
        content: State dict; one level of ``{"state_dict": ...}`` and a prefix ``module.`` are taken off.
        source: File of the state dict, for errors.
        copy: Whether to copy the tensors, so that training or moving the network leaves ``content`` alone.
        config: Settings of the network beside the weights, such as ``attention``.

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: If a tensor is absent, unknown or of another shape; names the tensor.
    """
    dimension = published_dimension(content)
    if dimension is None:
        raise ValueError(f"{source} holds no published CF, SCC or PR network")
    state = unwrapped(content) or {}
    with torch.device("meta"):  # the weights come from the file
        model = NETWORKS[dimension](**config)
    check_layout(state, dimension, source)
    prefix = PUBLISHED_BACKBONE_NAMES[dimension] + "."
    backbone = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    tensors = {k: v for k, v in state.items() if not k.startswith(prefix)}
    tensors |= {f"backbone.{k}": v for k, v in (vit_to_timm(backbone) if dimension == "CF" else backbone).items()}
    types = {k: v.dtype for k, v in model.state_dict().items()}
    model.load_state_dict({k: tensors[k].detach().to(t, copy=copy) for k, t in types.items()}, assign=True)
    if dimension != "CF":
        model.backbone.to(memory_format=torch.channels_last)
    return model.requires_grad_().eval()


def check_layout(state: Mapping[str, Tensor], dimension: str, source: str) -> None:
    """Check a published state dict, tensor by tensor.

    Raises:
        ValueError: If a tensor is absent, unknown or of another shape; names the tensor.
    """
    spelling = spelling_of({k.removeprefix("vit."): v for k, v in state.items()}) or "classic"
    with torch.device("meta"):
        expected = {k: tuple(v.shape) for k, v in to_published(NETWORKS[dimension](), spelling).items()}
    pooler = {f"vit.{_POOLER}.weight", f"vit.{_POOLER}.bias"}
    absent, unknown = sorted(expected.keys() - state.keys() - pooler), sorted(state.keys() - expected.keys())
    if absent or unknown:
        what = [f"{len(names)} {kind}, e.g. {names[0]}" for kind, names in (("absent", absent), ("unknown", unknown)) if names]
        raise ValueError(f"{source}: of the {len(expected)} tensors of a published {dimension} network " + "; ".join(what))
    for key, tensor in state.items():
        if tuple(tensor.shape) != expected[key]:
            raise ValueError(f"{source}: tensor {key} has shape {tuple(tensor.shape)}, expected {expected[key]}")


def to_published(model: PublishedNet, spelling: str = "classic") -> dict[str, Tensor]:
    """Return the state dict that the published scripts load strictly; the pooler of CF, which no score depends on, is zero.

    Args:
        model: A published network with the published backbone.
        spelling: Spelling of the keys of CF: "classic" for transformers before 5.9, "transformers-5.9" since.

    Raises:
        ValueError: If the spelling is unknown or the backbone is not the published one.
    """
    if spelling not in SPELLINGS:
        raise ValueError(f"spelling must be one of {', '.join(SPELLINGS)}, got {spelling!r}")
    expected = PUBLISHED_BACKBONES[model.dimension]
    if model.config["backbone"] != expected:
        raise ValueError(f"the published {model.dimension} network is on {expected}, not {model.config['backbone']}")
    state = {k: v.detach() for k, v in model.state_dict().items()}
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    head = {k: v for k, v in state.items() if not k.startswith("backbone.")}
    if model.dimension == "CF":
        backbone = vit_from_timm(backbone, spelling)
    name = PUBLISHED_BACKBONE_NAMES[model.dimension]
    published = {f"{name}.{k}": v for k, v in backbone.items()} | head
    return {k: v.clone(memory_format=torch.contiguous_format) for k, v in published.items()}


# --- Start weights for training


def load_start_weights(model: PublishedNet, weights: Path | None = None) -> str:
    """Start the backbone from ImageNet weights, same as the published training.

    Args:
        model: The network, changed in place.
        weights: A state dict of the backbone (.pth, .bin, .safetensors) from timm, torchvision or transformers, with or without
            classifier; a checkpoint of the same network, published or ours; or a folder of transformers such as the published
            ``pretrain/``. None for the hub of timm (CF) or torchvision (SCC, PR).

    Returns:
        One line that says what was loaded.

    Raises:
        FileNotFoundError: If there is no such file, or no weights in the folder.
        ValueError: If the file cannot be read, or a tensor of the backbone is absent or of another shape.
        UnreachableError: If the hub cannot be reached; says which file to fetch elsewhere and how to pass the file.
    """
    name = model.config["backbone"]
    if weights is None:
        source, state = f"{_HUB_TAGS.get(name, name)} from the hub", _from_hub(model)
    else:
        source, state = str(weights), _read_backbone(Path(weights), model)
    tensors = model.backbone.state_dict()
    absent = sorted(k for k in tensors if k not in state and not k.endswith("num_batches_tracked"))
    if absent:
        raise ValueError(
            f"{source}: {len(absent)} of the {len(tensors)} tensors of {name} are absent, e.g. {absent[0]}; the file holds "
            f"{', '.join(list(state)[:3])} and so on"
        )
    for key in tensors:
        if key in state and state[key].shape != tensors[key].shape:
            shape, expected = tuple(state[key].shape), tuple(tensors[key].shape)
            raise ValueError(
                f"{source}: tensor {key} has shape {shape}, expected {expected}; weights of another size than {name}?"
            )
    model.backbone.load_state_dict({k: state.get(k, tensors[k]) for k in tensors})
    unused = sorted(k for k in state if k not in tensors)
    deeper = [k for k in unused if k.split(".")[0] in ("blocks", *"01234567")]
    if deeper:
        raise ValueError(f"{source}: {len(deeper)} tensors are of a deeper network than {name}, e.g. {deeper[0]}")
    left_out = f", {len(unused)} other tensors left out ({', '.join(unused[:3])})" if unused else ""
    return f"backbone weights: {len(tensors)} tensors of {name} from {source}{left_out}"


def _from_hub(model: PublishedNet) -> dict[str, Tensor]:
    name = model.config["backbone"]
    try:
        if model.dimension == "CF":
            return timm.create_model(_HUB_TAGS.get(name, name), pretrained=True, num_classes=0).state_dict()
        state = torchvision.models.get_model_weights(name).IMAGENET1K_V1.get_state_dict(progress=False)
    except Exception as error:  # hub clients raise many kinds; all of them mean the same to the user
        file = (
            f"model.safetensors of timm/{_HUB_TAGS.get(name, name)} at huggingface.co"
            if model.dimension == "CF"
            else str(torchvision.models.get_model_weights(name).IMAGENET1K_V1.url)
        )
        raise UnreachableError(
            f"could not fetch start weights of {name} ({type(error).__name__}: {str(error)[:200]}); fetch {file} elsewhere and "
            "pass --backbone-weights FILE, or pass --random-init"
        ) from error
    return _numbered(state)


def _read_backbone(path: Path, model: PublishedNet) -> dict[str, Tensor]:
    """Read the state dict of the backbone under our names, from any file that ``load_start_weights`` takes."""
    if path.is_dir():
        files = [path / f for f in ("model.safetensors", "pytorch_model.bin") if (path / f).is_file()]
        if not files:
            raise FileNotFoundError(f"no model.safetensors or pytorch_model.bin in {path}; expected a folder of transformers")
        path = files[0]
    state = read_state(path, model.config["backbone"])
    for prefix in ("module.", f"{PUBLISHED_BACKBONE_NAMES[model.dimension]}.", "backbone."):
        if any(k.startswith(prefix) for k in state):
            state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if model.dimension != "CF":
        return _numbered(state)
    if spelling_of(state) is None:
        return state
    try:
        return vit_to_timm(state)
    except KeyError as error:
        raise ValueError(f"{path}: tensor {error} of the vision transformer is absent") from error


def _numbered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of a residual network with its stages numbered, same as in the published files."""
    names = {"conv1": "0", "bn1": "1", **{f"layer{n}": str(n + 3) for n in range(1, 5)}}
    heads = {k: k.split(".", 1) for k in state}
    return {".".join([names.get(h[0], h[0]), *h[1:]]): state[k] for k, h in heads.items()}


# --- Vision transformers as transformers and as timm name them

_OUTSIDE = {  # transformers: timm
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_LAYERS = {"classic": "encoder.layer", "transformers-5.9": "layers"}
_QKV = {
    "classic": tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
    "transformers-5.9": tuple(f"attention.{name}_proj" for name in "qkv"),
}
_INSIDE = {  # timm: each spelling
    "norm1": {"classic": "layernorm_before", "transformers-5.9": "layernorm_before"},
    "attn.proj": {"classic": "attention.output.dense", "transformers-5.9": "attention.o_proj"},
    "norm2": {"classic": "layernorm_after", "transformers-5.9": "layernorm_after"},
    "mlp.fc1": {"classic": "intermediate.dense", "transformers-5.9": "mlp.fc1"},
    "mlp.fc2": {"classic": "output.dense", "transformers-5.9": "mlp.fc2"},
}


def spelling_of(state: Mapping[str, Tensor]) -> str | None:
    """Return the spelling of the keys, without prefix, of a ViT of transformers; None for any other state dict."""
    if "embeddings.cls_token" not in state:
        return None
    return next((s for s, layers in _LAYERS.items() if any(k.startswith(f"{layers}.0.") for k in state)), None)


def vit_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of transformers' ViTModel, of either spelling, under timm's names.

    Pooler and mask token are dropped.

    Raises:
        KeyError: If another tensor is absent.
    """
    spelling = spelling_of(state) or SPELLINGS[0]
    out = {target: state[key] for key, target in _OUTSIDE.items()}
    layers = {k.removeprefix(f"{_LAYERS[spelling]}.").split(".")[0] for k in state if k.startswith(f"{_LAYERS[spelling]}.")}
    for n in range(len(layers)):
        layer, block = f"{_LAYERS[spelling]}.{n}", f"blocks.{n}"
        for end in ("weight", "bias"):
            out[f"{block}.attn.qkv.{end}"] = torch.cat([state[f"{layer}.{name}.{end}"] for name in _QKV[spelling]])
            for target, names in _INSIDE.items():
                out[f"{block}.{target}.{end}"] = state[f"{layer}.{names[spelling]}.{end}"]
    return out


def vit_from_timm(state: Mapping[str, Tensor], spelling: str) -> dict[str, Tensor]:
    """Invert ``vit_to_timm``, with a pooler of zeros."""
    width = state["cls_token"].shape[-1]
    out = {key: state[target] for key, target in _OUTSIDE.items() if not key.startswith("layernorm.")}
    depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
    for n in range(depth):
        layer, block = f"{_LAYERS[spelling]}.{n}", f"blocks.{n}"
        qkv = {end: state[f"{block}.attn.qkv.{end}"].chunk(3) for end in ("weight", "bias")}
        for i, name in enumerate(_QKV[spelling]):
            out |= {f"{layer}.{name}.{end}": qkv[end][i] for end in ("weight", "bias")}
        for target in ("attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2"):
            name = _INSIDE[target][spelling]
            out |= {f"{layer}.{name}.{end}": state[f"{block}.{target}.{end}"] for end in ("weight", "bias")}
    out |= {key: state[target] for key, target in _OUTSIDE.items() if key.startswith("layernorm.")}
    zeros = state["cls_token"].new_zeros
    out |= {f"{_POOLER}.weight": zeros(width, width), f"{_POOLER}.bias": zeros(width)}
    return out

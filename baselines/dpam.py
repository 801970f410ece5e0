"""DPAM: image quality from a vision transformer, with queries from texture and superpixels.

Reference:
    Liang et al., Displays 93, 103357, 2026: dual perception-aware blind image quality assessment.

Written on timm from a description of the published code, where the network is called ``MANIQA``; no line of that code is used.
Tensors have the names of the published state dict. Images are prepared as by OpenCV in the published code: the residual is
equal to the last bit, resizing differs by one level in fewer than one of a thousand values. Superpixels come from scikit-image,
so that their borders differ.

Deliberate differences: attention and texture are corrected, token scores have no lower bound, and small superpixels are filled
evenly instead of at random. ``faithful_reshape``, ``uint8_texture`` and ``relu_scores`` restore the published form;
``DPAM.load_official`` sets all three. docs/baselines.md gives the reasons.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from skimage.segmentation import slic
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from baselines.loading import LoadReport, check_tensors, fetched, opened, unwrapped
from models.preprocessing import check_image
from utils.color import rgb_to_lab

# Per data set: what SLIC is given (None for the image as it is), side of a region, how many superpixels, pixels of each.
SUPERPIXELS: dict[str, dict[str, Any]] = {
    "livec": {"slic_size": [500, 500], "region": 40, "superpixels": 140, "pixels": 600},
    "csiq": {"slic_size": [500, 500], "region": 40, "superpixels": 140, "pixels": 600},
    "koniq": {"slic_size": None, "region": 74, "superpixels": 135, "pixels": 1200},  # of 1024 x 768
    "tid2013": {"slic_size": None, "region": 45, "superpixels": 99, "pixels": 600},  # of 512 x 384
    "kadid": {"slic_size": None, "region": 45, "superpixels": 99, "pixels": 600},  # of 512 x 384
    "spaq": {"slic_size": [512, 384], "region": 45, "superpixels": 99, "pixels": 600},
    "256": {"slic_size": None, "region": 20, "superpixels": 140, "pixels": 200},  # ours, for small images of 256 x 256
}

_VIT = "vit_base_patch8_224.augreg_in21k_ft_in1k"  # timm's name of the published start weights
_FLIP = 0.7  # probability in training
_FLAGS = ("faithful_reshape", "uint8_texture", "relu_scores")
_GRAY = (9798, 19235, 3735)  # weights of R, G, B in 1/32768: OpenCV's 8-bit gray, ITU-R BT.601
_BLUR = (1, 2, 7, 16, 31, 45, 52, 45, 31, 16, 7, 2, 1)  # in 1/256: OpenCV's 8-bit Gaussian of sigma 2
_LAB_SCALE = 100.0  # CIELAB units that become 1 in the color texture
_STRIP_PIXELS = 1 << 18  # taken up at a time, so that large images need no more memory than small ones
_UPPER = ((0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2))  # rows and columns of a symmetric 3 x 3 matrix that are kept


class DPAM(nn.Module):
    """Network for the quality of an image, higher is better, about 0 to 1.

    Args:
        outputs: Number of scores per image.
        size: Side of the input of the transformer, in pixels. Attention layers have a weight for each patch, so
            weights fit one size only.
        patch: Side of a patch in pixels; a row must have at least 4 patches.
        width: Width of a token; the first stage is as wide, the second half as wide.
        depth: Number of blocks of the transformer.
        heads: Number of attention heads of the transformer.
        taps: Blocks whose tokens are used, from 0 upward, in rising order. No score depends on later blocks; they are kept
            for the published weight files and not trained.
        pixel_width: Channels of the superpixel branch.
        dropout: Share of the values dropped in training.
        texture: "gray", as published, or "lab": three planes that can tell colorizations of one photograph apart.
        slic_size: Width and height of the image for the superpixels; None for its original size. ``SUPERPIXELS`` has the
            published values of ``slic_size`` and the next three arguments.
        region: Approximate side of a superpixel, in pixels.
        superpixels: Number of superpixels that are used.
        pixels: Number of pixels that are used per superpixel.
        pixel_form: Pass these pixels to the network, as published, instead of their moments, which carry the same information.
        crop: Take a square of ``size`` pixels instead of the whole image, as published for TID2013, KADID-10k and CSIQ:
            at random in training, in the middle in scoring.
        faithful_reshape: Shuffle attention as the published code does.
        uint8_texture: Subtract the blurred image modulo 256, as the published code does.
        relu_scores: Cut token scores off at 0, as the published code does.

    Attributes:
        config: Everything needed to rebuild the network.
        score_range: Range of the labels in training.

    Raises:
        ValueError: If the settings contradict each other.
    """

    score_range = (0.0, 1.0)

    def __init__(
        self,
        outputs: int = 1,
        size: int = 224,
        patch: int = 8,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        taps: tuple[int, ...] | list[int] = (6, 7, 8, 9),
        pixel_width: int = 256,
        dropout: float = 0.1,
        texture: str = "gray",
        slic_size: tuple[int, int] | list[int] | None = (500, 500),
        region: int = 40,
        superpixels: int = 140,
        pixels: int = 600,
        pixel_form: bool = False,
        crop: bool = False,
        faithful_reshape: bool = False,
        uint8_texture: bool = False,
        relu_scores: bool = False,
    ) -> None:
        super().__init__()
        if texture not in ("gray", "lab"):
            raise ValueError(f"texture must be gray or lab, got {texture!r}")
        if texture == "lab" and uint8_texture:
            raise ValueError("uint8_texture is for gray texture; leave it out with texture='lab'")
        if size % patch or size // patch < 4:
            raise ValueError(f"size must be a multiple of patch and at least 4 times it, got {size} and {patch}")
        if not taps or list(taps) != sorted(set(taps)) or not 0 <= taps[0] <= taps[-1] < depth:
            raise ValueError(f"taps must be rising numbers of the {depth} blocks, from 0, got {list(taps)}")
        if superpixels < 1 or pixels < 2 or region < 1:
            raise ValueError(
                f"superpixels and region must be at least 1 and pixels 2, got {superpixels}, {region} and {pixels}"
            )
        self.config: dict[str, Any] = {
            "outputs": outputs,
            "size": size,
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": heads,
            "taps": list(taps),
            "pixel_width": pixel_width,
            "dropout": dropout,
            "texture": texture,
            "slic_size": None if slic_size is None else list(slic_size),
            "region": region,
            "superpixels": superpixels,
            "pixels": pixels,
            "pixel_form": pixel_form,
            "crop": crop,
            "faithful_reshape": faithful_reshape,
            "uint8_texture": uint8_texture,
            "relu_scores": relu_scores,
        }
        self.outputs, self.size, self.grid = outputs, size, size // patch
        features, positions, half = len(taps) * width, self.grid**2, width // 2

        self.vit = VisionTransformer(
            img_size=size,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        for name, parameter in self.vit.named_parameters():
            parameter.requires_grad_(_reaches_score(name, taps[-1]))

        self.simi_matrix = SuperpixelSimilarity(pixel_width)
        self.slic_conv = nn.Conv2d(1, features, 1)
        texture_layers = nn.Sequential(
            nn.Conv2d(3, features, 3, padding=1),
            nn.BatchNorm2d(features),
            nn.Conv2d(features, features, 1),
            nn.BatchNorm2d(features),
            nn.Sigmoid(),
        )
        self.ta = nn.ModuleDict({"texture_attention": texture_layers})
        self.t_conv = nn.Conv2d(features, features, 1)
        self.teablock = nn.ModuleList(ChannelAttention(positions, dropout, "values") for _ in range(2))
        self.fusionconv = nn.Conv2d(2 * features, features, 1)

        block = partial(Block, num_heads=4, proj_drop=dropout, norm_layer=nn.LayerNorm)
        self.conv1 = nn.Conv2d(features, width, 1)
        self.block1 = block(width, mlp_ratio=1.0)
        self.resblock1 = _residual_blocks(width)
        self.dyd1 = DynamicConvolution(width)
        self.catconv1 = nn.Conv2d(2 * width, width, 1)
        self.tablock = ChannelAttention(positions, dropout, "product")
        self.conv2 = nn.Conv2d(width, half, 1)
        self.block2 = block(half, mlp_ratio=2.0)
        self.resblock2 = _residual_blocks(half)
        self.dyd2 = DynamicConvolution(half)
        self.catconv2 = nn.Conv2d(2 * half, half, 1)
        self.fc_score, self.fc_weight = (
            nn.Sequential(nn.Linear(half, half), nn.ReLU(), nn.Dropout(dropout), nn.Linear(half, outputs)) for _ in range(2)
        )

    # --- From prepared images to scores

    def forward(self, rgb: Tensor, texture: Tensor, superpixels: Tensor) -> Tensor:
        """Score prepared images; the arguments are batches of the results of ``preprocess``.

        Args:
            rgb: sRGB in [0, 1], shape (B, 3, size, size).
            texture: About [0, 1], shape (B, 3, size, size).
            superpixels: Moments of n superpixels, shape (B, n, 9), or P pixels of each, shape (B, n, P, 3), for any n and P.

        Returns:
            Scores, shape (B, outputs).

        Raises:
            ValueError: If a shape differs.
        """
        for name, x in (("rgb", rgb), ("texture", texture)):
            if x.ndim != 4 or tuple(x.shape[1:]) != (3, self.size, self.size):
                raise ValueError(f"{name} must have shape (B, 3, {self.size}, {self.size}), got {tuple(x.shape)}")
        tokens = self.vit.forward_intermediates(
            (rgb - 0.5) / 0.5,
            indices=self.config["taps"],
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        seen = torch.cat(tokens, 2).transpose(1, 2)  # (B, 3072, 784) as published, like both queries
        faithful = self.config["faithful_reshape"]
        queries = (self.texture_queries(texture), self.superpixel_queries(superpixels))
        asked = [attention(query, seen, faithful) for attention, query in zip(self.teablock, queries, strict=True)]
        x = self.fusionconv(torch.cat(asked, 1).unflatten(2, (self.grid, self.grid)))

        x = self._stage(self.conv1(x), self.block1, self.resblock1, self.dyd1, self.catconv1)
        flat = x.flatten(2)
        x = self.tablock(flat, flat, faithful).view(x.shape)
        x = self._stage(self.conv2(x), self.block2, self.resblock2, self.dyd2, self.catconv2)
        return self.weighted_score(x.flatten(2).transpose(1, 2))

    def texture_queries(self, texture: Tensor) -> Tensor:
        """Compute the queries of the texture: (B, 3, size, size) to (B, features, positions)."""
        coarse = F.adaptive_avg_pool2d(texture, self.grid)
        return self.t_conv(self.ta["texture_attention"](coarse)).flatten(2)

    def superpixel_queries(self, superpixels: Tensor) -> Tensor:
        """Compute the queries of the superpixels, shape (B, features, positions).

        The similarities are resized as if they were an image, although their axes number superpixels: the published network
        does so, and its weights depend on it.
        """
        # Resized before the convolution, which as published comes first: equal, for its kernel is a single weight.
        similarity = self.simi_matrix(superpixels)
        grid = F.interpolate(similarity, (self.grid, self.grid), mode="bilinear", align_corners=False)
        return self.slic_conv(grid).flatten(2)

    @staticmethod
    def _stage(x: Tensor, block: nn.Module, residual: nn.ModuleDict, dynamic: nn.Module, merge: nn.Module) -> Tensor:
        tokens = block(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        return merge(torch.cat((tokens, dynamic(residual["blocks"](x))), 1))

    def weighted_score(self, tokens: Tensor) -> Tensor:
        """Compute the mean of the token scores, weighted by the token weights: (B, positions, D) to (B, outputs)."""
        score, weight = self.fc_score(tokens).float(), self.fc_weight(tokens).float().sigmoid()
        if self.config["relu_scores"]:
            score = score.relu()
        return (score * weight).sum(1) / weight.sum(1)

    # --- From an image to what the network reads

    def preprocess(self, image: Tensor, superpixels: Tensor | None = None) -> dict[str, Tensor]:
        """Prepare the tensors of one image for scoring; deterministic.

        Args:
            image: sRGB, shape (3, H, W), uint8 or floating point in [0, 1], which is rounded to 8-bit levels.
            superpixels: Result of ``find_superpixels`` for the image, if it was kept.

        Returns:
            ``rgb`` and ``texture``, shape (3, size, size), and ``superpixels``; ``forward`` takes batches of them.

        Raises:
            ValueError: If the image has another form, or is smaller than the crop.
        """
        levels = _levels(image)
        top, left = self._margin(levels)
        return self._view(levels, top // 2, left // 2, superpixels)

    def augment(self, image: Tensor, generator: torch.Generator, superpixels: Tensor | None = None) -> dict[str, Tensor]:
        """Prepare the tensors of one image for training: flipped at random, and cropped if ``crop`` is set.

        Superpixels are those of the whole image, unflipped, as published: their colors are the same.
        """
        levels = _levels(image)
        if superpixels is None:
            superpixels = self.find_superpixels(levels)
        if torch.rand((), generator=generator) < _FLIP:
            levels = levels.flip(2)
        top, left = (int(torch.randint(margin + 1, (), generator=generator)) for margin in self._margin(levels))
        return self._view(levels, top, left, superpixels)

    def find_superpixels(self, image: Tensor) -> Tensor:
        """Compute the colors of the superpixels of an image, the slow part of the preparation, so that they can be kept.

        Args:
            image: Same as in ``preprocess``.

        Returns:
            ``superpixels`` of ``preprocess``. They depend on the image and on ``superpixel_key``.
        """
        levels, size = _levels(image), self.config["slic_size"]
        if size is not None:
            levels = _to_levels(_resized(_strips(levels), *size))
        labels = superpixel_labels(levels, self.config["region"])
        pixels = sample_superpixels(levels, labels, self.config["superpixels"], self.config["pixels"])
        return pixels if self.config["pixel_form"] else pixel_moments(pixels)

    @property
    def superpixel_key(self) -> tuple:
        """Return a key that is equal for networks with equal superpixels; use it in the name of kept superpixels."""
        size = self.config["slic_size"]
        names = ("region", "superpixels", "pixels", "pixel_form")
        return None if size is None else tuple(size), *(self.config[name] for name in names)

    def _margin(self, levels: Tensor) -> tuple[int, int]:
        """Return the numbers of rows and columns that a crop leaves out."""
        if not self.config["crop"]:
            return 0, 0
        height, width = levels.shape[1:]
        if min(height, width) < self.size:
            raise ValueError(f"an image must be at least {self.size}x{self.size} pixels to be cropped, got {width}x{height}")
        return height - self.size, width - self.size

    def _view(self, levels: Tensor, top: int, left: int, superpixels: Tensor | None) -> dict[str, Tensor]:
        if superpixels is None:
            superpixels = self.find_superpixels(levels)
        if self.config["crop"]:
            levels = levels[:, top : top + self.size, left : left + self.size]
        rgb = _to_levels(_resized(_strips(levels), self.size, self.size)).float() / 255
        residuals = texture_strips(levels, self.config["texture"] == "lab", self.config["uint8_texture"])
        texture = _resized(residuals, self.size, self.size)
        return {"rgb": rgb, "texture": texture.expand(3, -1, -1).contiguous(), "superpixels": superpixels}

    # --- Weights

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that ``load_backbone`` sets and training changes."""
        last = self.config["taps"][-1]
        return [parameter for name, parameter in self.vit.named_parameters() if _reaches_score(name, last)]

    def load_official(self, state: Mapping[str, Any], faithful: bool = True, source: str = "the state dict") -> LoadReport:
        """Load weights of the published code.

        Args:
            state: Content of the file; wrappers and the prefix ``module.`` are removed. With several outputs each one gets
                the published score.
            faithful: From now on compute as the published code does, with the errors that its weights were trained with.
            source: The file, for the report and errors.

        Returns:
            Report on the loaded tensors: all of the file, since each has a place in this network.

        Raises:
            ValueError: If a tensor is absent, unknown or of another shape (with names and counts), or if the texture of this
                network is not the published one.
        """
        if faithful and self.config["texture"] != "gray":
            raise ValueError(f"{source}: the published weights are for gray texture; build the network with texture='gray'")
        target, tensors = self.state_dict(), unwrapped(state, source)
        check_tensors(tensors, {name: _one_score(name, tensor, 0) for name, tensor in target.items()}, source, "DPAM")
        self.load_state_dict({name: tensors[name].expand(target[name].shape) for name in target})
        if faithful:
            self.config.update(dict.fromkeys(_FLAGS, True))
        return LoadReport(source, list(tensors))

    def to_official(self, output: int = 0) -> dict[str, Tensor]:
        """Return the state dict that the published code loads strictly.

        Args:
            output: Number of the score.
        """
        if not 0 <= output < self.outputs:
            raise ValueError(f"output must be from 0 to {self.outputs - 1}, got {output}")
        return {name: _one_score(name, tensor, output).detach().clone() for name, tensor in self.state_dict().items()}

    def load_backbone(self, weights: Mapping[str, Any] | str | Path | None = None) -> LoadReport:
        """Start the vision transformer from trained weights; other parameters are unchanged.

        Args:
            weights: State dict of the transformer under timm's names, with or without classifier, or of a whole DPAM; or a
                file with one. None for the published start weights from timm's hub.

        Returns:
            Report on loaded and ignored tensors.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read, or lacks a tensor that the score depends on or holds it in another shape.
            UnreachableError: If the hub cannot be reached; names the file to download elsewhere and its flag.
        """
        source, tensors = self._from_hub() if weights is None else opened(weights, _VIT)
        if any(name.startswith("vit.") for name in tensors):
            tensors = {name.removeprefix("vit."): tensor for name, tensor in tensors.items() if name.startswith("vit.")}
        target = self.vit.state_dict()
        needed = {name: tensor for name, tensor in target.items() if _reaches_score(name, self.config["taps"][-1])}
        check_tensors({name: tensors[name] for name in needed if name in tensors}, needed, source, "the transformer of DPAM")
        fitting = {name for name in target if getattr(tensors.get(name), "shape", None) == target[name].shape}
        self.vit.load_state_dict({name: tensors[name] if name in fitting else target[name] for name in target})
        ignored = {
            name: "of another shape, and no score depends on it" if name in target else "no part of the network"
            for name in tensors
            if name not in fitting
        }
        fresh = [name for name in self.state_dict() if name not in {f"vit.{part}" for part in fitting}]
        return LoadReport(source, [name for name in tensors if name in fitting], ignored, fresh)

    def _from_hub(self) -> tuple[str, dict[str, Tensor]]:
        published = {"size": 224, "patch": 8, "width": 768, "depth": 12, "heads": 12}
        if any(self.config[name] != value for name, value in published.items()):
            raise ValueError(f"the hub has start weights for the published size only, {published}; pass a file")
        return fetched(
            f"{_VIT} of timm's hub",
            lambda: timm.create_model(_VIT, pretrained=True).state_dict(),
            f"fetch model.safetensors of timm/{_VIT} at huggingface.co",
        )


class SuperpixelSimilarity(nn.Module):
    """Similarities between the superpixels of an image, by mean and spread of learned projections of their colors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pixel_conv = nn.Conv2d(3, width, 1)
        self.reduce_conv = nn.Conv2d(2 * width, width, 1)
        self.similarity_weight_block = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.ReLU())

    def forward(self, superpixels: Tensor) -> Tensor:
        """Compute weighted similarities.

        Args:
            superpixels: Moments, shape (B, n, 9), or pixels, shape (B, n, P, 3).

        Returns:
            Similarities, shape (B, 1, n, n).

        Raises:
            ValueError: If the shape is neither.
        """
        if superpixels.ndim == 3 and superpixels.shape[2] == 9:
            statistics = self._of_moments(superpixels)
        elif superpixels.ndim == 4 and superpixels.shape[2] > 1 and superpixels.shape[3] == 3:
            statistics = self._of_pixels(superpixels)
        else:
            raise ValueError(f"superpixels must have shape (B, n, 9) or (B, n, P, 3), got {tuple(superpixels.shape)}")
        features = F.normalize(self.reduce_conv(statistics).squeeze(2), dim=1)  # (B, width, n)
        similarity = (features.transpose(1, 2) @ features).unsqueeze(1)
        return similarity * self.similarity_weight_block(similarity)

    def _of_pixels(self, pixels: Tensor) -> Tensor:
        """Compute mean and unbiased standard deviation of each projection, shape (B, 2 * width, 1, n)."""
        projected = self.pixel_conv(pixels.permute(0, 3, 2, 1))  # (B, width, P, n)
        return torch.cat((projected.mean(2, keepdim=True), projected.std(2, keepdim=True)), 1)

    def _of_moments(self, moments: Tensor) -> Tensor:
        """Compute the result of ``_of_pixels`` from moments: a projection w has mean w.mu + b and variance w'Cw."""
        # Not in half precision: the variance of a projection is a small difference where a superpixel is nearly gray.
        with torch.autocast(moments.device.type, enabled=False):
            moments, weight = moments.float(), self.pixel_conv.weight.float().flatten(1)
            rows, columns = (list(index) for index in _UPPER)
            twice = weight.new_tensor([1.0 if i == j else 2.0 for i, j in zip(rows, columns, strict=True)])
            mean = F.linear(moments[..., :3], weight, self.pixel_conv.bias.float())
            variance = F.linear(moments[..., 3:], weight[:, rows] * weight[:, columns] * twice)
            spread = (variance.clamp(min=0) + 1e-12).sqrt()  # the gradient at a superpixel of a single color stays finite
        return torch.cat((mean, spread), 2).transpose(1, 2).unsqueeze(2)


class ChannelAttention(nn.Module):
    """Attention among channels; each channel is a vector of positions.

    Args:
        positions: Length of the vectors.
        dropout: Share of the product dropped in training.
        shuffles: Tensor that the published code shuffles here, "values" or "product".
    """

    def __init__(self, positions: int, dropout: float, shuffles: str) -> None:
        super().__init__()
        self.c_q, self.c_k, self.c_v = (nn.Linear(positions, positions) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.shuffles = shuffles

    def forward(self, query: Tensor, x: Tensor, faithful: bool) -> Tensor:
        """Add the result of attention to x.

        Args:
            query: Queries, shape (B, C, positions).
            x: Channels, same shape.
            faithful: Shuffle as the published code does.

        Returns:
            Sum, shape (B, C, positions).
        """
        values = self.c_v(x)
        if faithful and self.shuffles == "values":
            values = shuffled(values)
        attended = F.scaled_dot_product_attention(self.c_q(query), self.c_k(x), values)
        if faithful and self.shuffles == "product":
            attended = shuffled(attended)
        return self.dropout(attended) + x


class ResidualBlock(nn.Module):
    """Residual block of two 3 x 3 convolutions; shape (B, channels, H, W) in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)


def _residual_blocks(channels: int) -> nn.ModuleDict:
    return nn.ModuleDict({"blocks": nn.Sequential(ResidualBlock(channels), ResidualBlock(channels))})


class DynamicConvolution(nn.Module):
    """Depthwise 3 x 3 convolution with kernels that are computed from the features of the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Block1, self.Block2 = (
            nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1, groups=channels) for _ in range(3))) for _ in range(2)
        )
        self.tokernel = nn.Conv2d(channels, 9 * channels, 1)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; shape (B, channels, H, W) in and out, H and W at least 4."""
        batch, channels, height, width = x.shape
        summary = self.Block2(F.max_pool2d(self.Block1(F.avg_pool2d(x, 2)), 2)).mean((2, 3), keepdim=True)
        kernels = self.tokernel(summary).view(batch * channels, 1, 3, 3)
        # each channel of each image is a group of its own
        y = F.conv2d(x.reshape(1, batch * channels, height, width), kernels, padding=1, groups=batch * channels)
        return y.view(x.shape) + self.bias[:, None, None]


def shuffled(x: Tensor) -> Tensor:
    """Transpose a matrix and read it row by row into its old shape, (B, C, N), as the published code does."""
    return x.transpose(1, 2).reshape(x.shape)


# --- Texture


def texture_strips(image: Tensor, color: bool = False, wrap: bool = False) -> Iterator[Tensor]:
    """Compute the residual of an image after a Gaussian of sigma 2, in strips of rows from top to bottom.

    Args:
        image: sRGB, uint8, shape (3, H, W).
        color: Use CIELAB instead of gray. Colorizations of one photograph have the same gray.
        wrap: Subtract 8-bit levels modulo 256, as published: -1 becomes 255. Not for color.

    Yields:
        0.5 + residual / 2 with the residual in levels / 255 or CIELAB units / 100; with ``wrap`` the levels / 255. Shape
        (1, h, W), or (3, h, W) for color.
    """
    (height, width), reach = image.shape[1:], len(_BLUR) // 2
    columns = _reflected(-reach, width + reach, width)
    for top, bottom in _row_ranges(image):
        rows = image[:, _reflected(top - reach, bottom + reach, height)]
        planes = rgb_to_lab(rows[None].float() / 255)[0] * (255 / _LAB_SCALE) if color else gray_levels(rows).float()
        smooth = sum(weight * planes[:, i : i + bottom - top] for i, weight in enumerate(_BLUR))[:, :, columns]
        smooth = sum(weight * smooth[:, :, i : i + width] for i, weight in enumerate(_BLUR)) / sum(_BLUR) ** 2
        planes = planes[:, reach : reach + bottom - top]
        if wrap:
            yield (planes - (smooth + 0.5).floor()) % 256 / 255  # exact, for float32 holds all of these whole numbers
        else:
            yield 0.5 + (planes - smooth) / 255 / 2


def gray_levels(image: Tensor) -> Tensor:
    """Convert 8-bit sRGB to 8-bit gray as OpenCV does, (3, H, W) to (1, H, W), int32."""
    red, green, blue = image.int()
    return ((red * _GRAY[0] + green * _GRAY[1] + blue * _GRAY[2] + (1 << 14)) >> 15)[None]


def _reflected(start: int, stop: int, length: int) -> Tensor:
    """Return the indices start to stop - 1 of a row that is mirrored at its ends as often as needed, without repeating them."""
    places = torch.arange(start, stop).abs() % max(2 * (length - 1), 1)
    return torch.minimum(places, 2 * (length - 1) - places)


# --- Superpixels


def superpixel_labels(image: Tensor, region: int) -> np.ndarray:
    """Compute superpixels by SLICO, the variant of SLIC that weighs color by its spread in each superpixel.

    Args:
        image: sRGB, uint8, shape (3, H, W).
        region: Approximate side of a superpixel, in pixels.

    Returns:
        Numbers from 0, int, shape (H, W), in the order of the initial grid. A superpixel need not be connected.

    Reference:
        Achanta et al., SLIC superpixels compared to state-of-the-art superpixel methods, TPAMI 34, 2012.
    """
    lab = rgb_to_lab(image[None].float() / 255)[0].permute(1, 2, 0).numpy()
    lab = lab * np.float32([2.55, 1, 1])  # the published code takes 8-bit CIELAB, with L from 0 to 255
    rows, columns = (max(1, round(side / region)) for side in lab.shape[:2])
    # scikit-image divides the image by its range and then by the compactness, which here undoes the former. SLICO takes the
    # spread of color for at least 1 of whatever units: in larger ones color would be nothing beside distance, and
    # superpixels the squares of a grid.
    spread = float(lab.max() - lab.min())
    return slic(
        lab,
        n_segments=rows * columns,
        compactness=1 / spread if spread > 0 else 1.0,
        max_num_iter=10,
        convert2lab=False,
        enforce_connectivity=False,
        slic_zero=True,
        start_label=0,
    )


def sample_superpixels(image: Tensor, labels: np.ndarray, superpixels: int, pixels: int) -> Tensor:
    """Sample a fixed number of pixels from each of a fixed number of superpixels.

    Args:
        image: sRGB, uint8, shape (3, H, W).
        labels: Number of the superpixel of each pixel, of any origin, shape (H, W).
        superpixels: Number of superpixels to take, evenly spaced in the order of their numbers; if there are fewer, evenly
            spaced ones are repeated at the end.
        pixels: Number of pixels to take from each, evenly spaced in the order of rows; if there are fewer, each is taken
            equally often, give or take one.

    Returns:
        Blue, green and red in [0, 1], in the order of the published weights, shape (superpixels, pixels, 3).
    """
    order = np.argsort(labels, axis=None, kind="stable")  # by superpixel, and by rows in each
    sizes = np.unique(labels, return_counts=True)[1]
    starts, available = np.cumsum(sizes) - sizes, len(sizes)
    if available >= superpixels:
        chosen = np.linspace(0, available - 1, superpixels).astype(int)
    else:
        chosen = np.concatenate((np.arange(available), _even(available, superpixels - available)))
    places = [
        starts[k] + (np.linspace(0, sizes[k] - 1, pixels).astype(int) if sizes[k] >= pixels else _even(sizes[k], pixels))
        for k in chosen
    ]
    flat = image.flip(0).flatten(1).T  # (H * W, 3)
    return flat[torch.from_numpy(order[np.stack(places)])].float() / 255


def _even(length: int, count: int) -> np.ndarray:
    """Return ``count`` rising numbers below ``length``, each equally often, give or take one."""
    return np.arange(count) * length // count


def pixel_moments(pixels: Tensor) -> Tensor:
    """Compute means and unbiased covariances of three channels.

    Args:
        pixels: Pixels, shape (..., P, 3), P at least 2.

    Returns:
        Three means, then the covariances 00, 01, 02, 11, 12, 22, float32, shape (..., 9).
    """
    values = pixels.double()  # a covariance is a small difference of large products
    mean = values.mean(-2, keepdim=True)
    centered = values - mean
    covariance = centered.transpose(-1, -2) @ centered / (pixels.shape[-2] - 1)
    rows, columns = (list(index) for index in _UPPER)
    return torch.cat((mean.squeeze(-2), covariance[..., rows, columns]), -1).float()


# --- Images


def _levels(image: Tensor) -> Tensor:
    check_image(image)
    image = image.detach().cpu()
    return _to_levels(image * 255) if image.is_floating_point() else image


def _to_levels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def _row_ranges(image: Tensor) -> Iterator[tuple[int, int]]:
    height, width = image.shape[1:]
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _strips(image: Tensor) -> Iterator[Tensor]:
    for top, bottom in _row_ranges(image):
        yield image[:, top:bottom].float()


def _resized(strips: Iterator[Tensor], width: int, height: int) -> Tensor:
    """Resize an image that comes in strips of rows, (C, h, W) each, to (C, height, width).

    The filter is bicubic with a = -0.75 over the four nearest pixels, also when the image shrinks, as in OpenCV.
    """
    narrow = torch.cat([_bicubic(strip, strip.shape[1], width) for strip in strips], 1)
    return _bicubic(narrow, height, width)


def _bicubic(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x[None], (height, width), mode="bicubic", align_corners=False)[0]


# --- Weight files


def _reaches_score(name: str, last_tap: int) -> bool:
    """Return whether the score depends on a tensor of the transformer."""
    part, _, rest = name.partition(".")
    return part in ("cls_token", "pos_embed", "patch_embed") or (part == "blocks" and int(rest.split(".")[0]) <= last_tap)


def _one_score(name: str, tensor: Tensor, output: int) -> Tensor:
    """Return a tensor of the network for one of its scores, in the shape of a network with a single score."""
    last = name.startswith(("fc_score.3.", "fc_weight.3."))
    return tensor[output : output + 1] if last else tensor


# --- Training


def rating_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Compute the mean squared error of each score, and the mean of these.

    Args:
        scores: Scores of the network, shape (B, outputs).
        label: Labels in [0, 1], shape (B, outputs), mapped by constants of the data set, not of a split; NaN where there is
            no rating.

    Returns:
        At least 0, shape (); a score without ratings in this batch is left out.

    Raises:
        ValueError: If the shapes differ.
    """
    if scores.shape != label.shape:  # (B, 1) and (B,) would broadcast to (B, B)
        raise ValueError(f"scores and label must have one shape (B, outputs), got {tuple(scores.shape)}, {tuple(label.shape)}")
    rated = ~label.isnan()
    squared = (scores - torch.where(rated, label, scores.detach())).square()
    means = squared.sum(0) / rated.sum(0).clamp(min=1)
    return means.sum() / rated.any(0).sum().clamp(min=1)

"""Delegate Transformer: aesthetic quality of the colors of an image, and of the image as a whole.

Paper: He et al., "Thinking Image Color Aesthetics Assessment: Models, Datasets and Benchmarks", ICCV 2023, pp. 21838-21847;
its backbone is that of Xia et al., "Vision Transformer with Deformable Attention", CVPR 2022. Written from the published
description, the tensor names of the two official editions (ICAA17K and SPAQ) and facts about their code, without the authors'
code; ``load_official`` loads their weights.

Three differences from the official code can be switched by ``reference_mode``, ``gate`` and ``histogram``: reference points
come from the image alone, not from the mean over its batch; the gate, which cannot learn in the official form, is left out; the
soft histogram reads bounded values with overlapping bins, so that each value activates a bin and passes a gradient.
``load_official`` switches all three to the official form, in which the official weights were trained. docs/baselines.md gives
the reasons.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from baselines.loading import LoadReport, check_tensors, fetched, opened, unwrapped
from models.preprocessing import check_image
from models.published import imagenet_normalized, resized, unit_range

REFERENCE_MODES = ("per_sample", "running", "batch_mean")
GATES = ("none", "soft", "hard")
HISTOGRAMS = ("bounded", "official")
VIEWS = ("mended", "icaa17k", "spaq")
START_BACKBONE = "swin_base_patch4_window7_224"  # of timm's hub, since no hub has DAT

_KERNELS = {2: 5, 3: 3}  # of the depthwise convolution before the offsets, by stage
_REACH = 2.0  # times 1 / side is how far an offset reaches, one place, with the map from -1 to 1
_AGAINST = 0.25  # what is left of an offset that points away from its reference
_SLOPES = {"hard": 99999.0, "soft": 10.0}  # of the gate's sigmoid
_MASKED = -100.0  # logit between places that only the shift made neighbors
_MOMENTUM = 0.1  # of the running means
_FEATURES, _BINS = 36, 6  # of the soft histogram
_BIN_SLOPES = {"official": -12.0, "bounded": -6.0}  # triangles of half-width 1/12 and 1/6 at bins 1/6 apart
_LEAST_SHARE = 0.875  # 224 / 256: the closest view that a training crop takes

_REBUILT = "computed from the window and the size of the image"
_UNUSED = {
    "cls_head.weight": "no score depends on it",
    "cls_head.bias": "no score depends on it",
    "hist_feature.centers": "an orphan: what is used in its place is hist_feature.bin_centers_conv.bias",
    "hist_feature.widths": "the same tensor as hist_feature.bin_widths_conv.weight",
}
_HISTOGRAM = {  # theirs: ours, which are the same numbers as (36, 6)
    "hist_feature.bin_centers_conv.weight": "histogram.gain",
    "hist_feature.bin_centers_conv.bias": "histogram.shift",
    "hist_feature.bin_widths_conv.weight": "histogram.slope",
    "hist_feature.bin_widths_conv.bias": "histogram.peak",
}


class ChannelNorm(nn.Module):
    """Layer normalization over the channels of each place, shape (B, C, H, W) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Perceptron(nn.Module):
    """Two linear layers at each place, four times as wide between, shape (B, C, H, W) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.chunk = nn.ModuleDict({"linear1": nn.Linear(width, 4 * width), "linear2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.chunk["linear1"](x.permute(0, 2, 3, 1)))
        return self.chunk["linear2"](hidden).permute(0, 3, 1, 2)


class WindowAttention(nn.Module):
    """Attention among the places of each window, with a learned bias by relative position.

    Args:
        width: Channels.
        heads: Number of attention heads.
        window: Side of a window, in places.
        side: Side of the map, in places; a multiple of the window.
        shifted: Displace the windows by half a window, rounded up. Places from the two ends of the map that share a window
            through this do not attend to each other.
    """

    def __init__(self, width: int, heads: int, window: int, side: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.shift = -(-window // 2) if shifted else 0
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_positions(window), persistent=False)
        self.register_buffer("attn_mask", shift_mask(side, window, self.shift) if shifted else None, persistent=False)
        self.proj_qkv = nn.Linear(width, 3 * width)
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map the features; shape (B, C, H, W) in and out."""
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (2, 3))
        b, c, height, width = x.shape
        w, places = self.window, self.window**2
        rows, columns = height // w, width // w
        windows = x.reshape(b, c, rows, w, columns, w).permute(0, 2, 4, 3, 5, 1).reshape(-1, places, c)
        qkv = self.proj_qkv(windows).reshape(-1, places, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B * windows, heads, places, C / heads)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        logits = (q * (c // self.heads) ** -0.5) @ k.transpose(2, 3) + bias.reshape(places, places, -1).permute(2, 0, 1)
        if self.attn_mask is not None:
            logits = logits.reshape(b, rows * columns, self.heads, places, places) + self.attn_mask[:, None]
            logits = logits.flatten(0, 1)
        mixed = (logits.softmax(3) @ v).transpose(1, 2).reshape(-1, places, c)
        x = self.proj_out(mixed).reshape(b, rows, columns, w, w, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)
        return x.roll((self.shift, self.shift), (2, 3)) if self.shift else x


def relative_positions(window: int) -> Tensor:
    """Return the row of the bias table for each pair of places of a window, int64, shape (window^2, window^2)."""
    places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    apart = places[:, None] - places[None] + window - 1
    return apart[..., 0] * (2 * window - 1) + apart[..., 1]


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """Return the mask to add to logits in the windows of a shifted map: -100 between regions that were not neighbors, else 0.

    Returns:
        Mask, shape (windows, window^2, window^2), windows in reading order.
    """
    region = (torch.arange(side) >= side - window).long() + (torch.arange(side) >= side - shift).long()
    regions = 3 * region[:, None] + region[None]
    count = side // window
    windows = regions.reshape(count, window, count, window).transpose(1, 2).reshape(count**2, window**2)
    return (windows[:, :, None] != windows[:, None]).float() * _MASKED


class PlaceMap(nn.Conv2d):
    """Layer with a few values for each place, from the image or from a mean over images.

    Args:
        width: Channels of the input map.
        outputs: Values for each place.
        side: Side of the map.
        mode: "per_sample": values of each image. "batch_mean": the mean over the batch, in training and scoring. "running": the
            mean over the batch in training, and in scoring the running mean of the training.
    """

    def __init__(self, width: int, outputs: int, side: int, mode: str) -> None:
        super().__init__(width, outputs, 1)
        self.side = side
        self.register_buffer("running_mean", None)
        self.register_buffer("batches", None)
        self.set_mode(mode)

    def set_mode(self, mode: str) -> None:
        self.mode = mode
        if mode != "running":
            self.running_mean = self.batches = None
        elif self.running_mean is None:
            self.running_mean = self.weight.new_zeros(1, self.out_channels, self.side, self.side).detach()
            self.batches = torch.zeros((), dtype=torch.int64, device=self.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the values of each place, (B, C, H, W) to (B, outputs, H, W), float32."""
        values = super().forward(x).float()
        if self.mode == "per_sample":
            return values
        if self.mode == "running" and not self.training:
            return self.running_mean.float().expand_as(values)
        mean = values.mean(0, keepdim=True)
        if self.mode == "running":
            with torch.no_grad():
                self.batches += 1
                step = (1 / self.batches).clamp(min=_MOMENTUM)  # at first the plain mean, in which the zeros have no part
                self.running_mean += step * (mean - self.running_mean)
        return mean.expand_as(values)


class DeformableAttention(nn.Module):
    """Attention from each place to samples of the map at predicted positions, the delegates.

    A sample lies at a reference point computed from the features, moved by an offset of at most one place. Each group of
    channels has its own offsets. Positions are (y, x) with the map from -1 to 1; samples outside of the map are zero.

    Args:
        width: Channels.
        heads: Number of attention heads.
        groups: Number of groups of channels.
        side: Side of the map, in places.
        kernel: Side of the depthwise convolution before the offsets.
        reference_mode: Mode of ``PlaceMap``.
        gate: "none", or a gate that can switch a place off and so move its sample to the middle: "hard" by a step, "soft"
            by a slope that passes a gradient.
    """

    def __init__(self, width: int, heads: int, groups: int, side: int, kernel: int, reference_mode: str, gate: str) -> None:
        super().__init__()
        self.heads, self.groups, self.side = heads, groups, side
        self.rpe_table = nn.Parameter(torch.empty(heads, 2 * side - 1, 2 * side - 1))
        each = width // groups
        self.conv_offset = nn.Sequential(
            nn.Conv2d(each, each, kernel, padding=kernel // 2, groups=each),
            ChannelNorm(each),
            nn.GELU(),
            nn.Conv2d(each, 2, 1, bias=False),
        )
        self.proj_q = nn.Conv2d(width, width, 1)
        self.proj_k = nn.Conv2d(width, width, 1)
        self.proj_v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)
        self.ref_point14 = PlaceMap(width, 2, side, reference_mode)
        self.ref_gate: PlaceMap | None = None
        self.set_modes(reference_mode, gate)

    def set_modes(self, reference_mode: str, gate: str) -> None:
        """Change ``reference_mode`` and ``gate``; a new gate starts as a new layer does."""
        self.ref_point14.set_mode(reference_mode)
        self.gate = gate
        if gate == "none":
            self.ref_gate = None
        elif self.ref_gate is None:
            like = self.proj_q.weight
            self.ref_gate = PlaceMap(self.proj_q.in_channels, 1, self.side, reference_mode).to(like.device, like.dtype)
            initialize(self.ref_gate)
        else:
            self.ref_gate.set_mode(reference_mode)

    def positions(self, x: Tensor, q: Tensor) -> Tensor:
        """Compute the sampling positions of each group, shape (B * groups, H, W, 2) as (y, x), float32.

        Args:
            x: Map, shape (B, C, H, W).
            q: Queries of the map, same shape.
        """
        b, c, height, width = x.shape
        offset = self.conv_offset(q.reshape(b * self.groups, c // self.groups, height, width)).float().tanh()
        offset = offset * offset.new_tensor((_REACH / height, _REACH / width))[:, None, None]
        reference = self.ref_point14(x).tanh().repeat_interleave(self.groups, 0)
        agree = (offset * reference > 0).all(1, keepdim=True)
        position = torch.where(agree, offset, _AGAINST * offset) + reference
        if self.ref_gate is not None:
            gate = torch.sigmoid(-_SLOPES[self.gate] * self.ref_gate(x))
            position = position * gate.repeat_interleave(self.groups, 0)
        return position.permute(0, 2, 3, 1)

    def position_bias(self, position: Tensor) -> Tensor:
        """Read the table at half the way from each sample to each place, shape (B * heads, H * W, samples)."""
        groups, height, width, _ = position.shape
        each = self.heads // self.groups
        y = (torch.arange(height, device=position.device) + 0.5) * (2 / height) - 1
        x = (torch.arange(width, device=position.device) + 0.5) * (2 / width) - 1
        places = torch.cartesian_prod(y, x)  # centers of the cells
        apart = 0.5 * (places[None, :, None] - position.reshape(groups, 1, -1, 2))
        table = self.rpe_table.float().reshape(self.groups, each, *self.rpe_table.shape[1:])
        table = table.repeat(groups // self.groups, 1, 1, 1)
        bias = F.grid_sample(table, apart.flip(3), mode="bilinear", padding_mode="zeros", align_corners=True)
        return bias.reshape(groups * each, height * width, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Map the features; shape (B, C, H, W) in and out."""
        b, c, height, width = x.shape
        q = self.proj_q(x)
        position = self.positions(x, q)
        grouped = x.reshape(b * self.groups, c // self.groups, height, width).float()
        sampled = F.grid_sample(grouped, position.flip(3), mode="bilinear", padding_mode="zeros", align_corners=True)
        sampled = sampled.to(x.dtype).reshape(b, c, height, width)
        q, k, v = (
            t.reshape(b * self.heads, c // self.heads, height * width) for t in (q, self.proj_k(sampled), self.proj_v(sampled))
        )
        logits = q.transpose(1, 2) @ k * (c // self.heads) ** -0.5 + self.position_bias(position).to(q.dtype)
        mixed = v @ logits.softmax(2).transpose(1, 2)
        return self.proj_out(mixed.reshape(b, c, height, width))


class Stage(nn.Module):
    """Blocks at one resolution: window attention alternates with another attention, each followed by a perceptron."""

    def __init__(self, width: int, attentions: list[nn.Module], drop_path: list[float]) -> None:
        super().__init__()
        self.layer_norms = nn.ModuleList(ChannelNorm(width) for _ in range(2 * len(attentions)))
        self.mlps = nn.ModuleList(Perceptron(width) for _ in attentions)
        self.attns = nn.ModuleList(attentions)
        self.drop_path = nn.ModuleList(DropPath(rate) for rate in drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map the features; shape (B, C, H, W) in and out."""
        for i, (attention, perceptron, drop) in enumerate(zip(self.attns, self.mlps, self.drop_path, strict=True)):
            x = x + drop(attention(self.layer_norms[2 * i](x)))
            x = x + drop(perceptron(self.layer_norms[2 * i + 1](x)))
        return x


class SoftHistogram(nn.Module):
    """Soft histogram: closeness of each feature to each of six bins between 0 and 1, by trained triangles.

    The value of a bin is ``relu(peak + slope * |gain * z + shift|)``. Peak and gain are 1 and not trained.

    Args:
        kind: "official": triangles of half-width 1/12 on z; a value on an edge of bins or outside of [0, 1] activates no bin.
            "bounded": triangles of half-width 1/6 on the sigmoid of z; each value activates at least one bin.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        centers = (torch.arange(_BINS) + 0.5) / _BINS
        self.shift = nn.Parameter(-centers.repeat(_FEATURES, 1))
        self.slope = nn.Parameter(torch.full((_FEATURES, _BINS), _BIN_SLOPES[kind]))
        self.register_buffer("gain", torch.ones(_FEATURES, _BINS))
        self.register_buffer("peak", torch.ones(_FEATURES, _BINS))

    def forward(self, z: Tensor) -> Tensor:
        """Map features (B, 36) to bins (B, 216), with the bins of a feature side by side."""
        if self.kind == "bounded":
            z = z.sigmoid()
        return F.relu(self.peak + self.slope * (self.gain * z[..., None] + self.shift).abs()).flatten(1)


class DelegateTransformer(nn.Module):
    """Network for scores of an image in (0, 1), higher is better.

    The defaults of the architecture are those of the published base configuration; the authors' tiny one is ``width=96,
    depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), groups=(3, 6), drop_path=0.2``.

    Args:
        outputs: Number of scores per image. The ICAA17K edition has two, for the whole image and for its color; the SPAQ
            edition has one, for colorfulness.
        size: Side of the square image, in pixels; a multiple of 32 windows, 224 as published.
        width: Channels of the first stage; they double from stage to stage.
        depths: Number of blocks of the four stages.
        heads: Number of attention heads of the four stages.
        groups: Number of groups of channels in the deformable attention of the last two stages.
        window: Side of a window, in places.
        drop_path: Share of images whose last block is skipped in training; falls linearly to 0 for the first block.
        reference_mode: Source of reference points and gate: "per_sample", "running" or "batch_mean" (as published; a score
            then depends on the batch).
        gate: "none", "soft", or "hard" (the ICAA17K edition).
        histogram: "bounded", or "official" (as published).

    Attributes:
        config: Everything needed to rebuild the network.
        score_range: Lowest and highest possible score. The authors' labels, which go to 10, were divided by 10.

    Raises:
        ValueError: If an argument is not as above, or the parts do not fit each other.
    """

    score_range = (0.0, 1.0)

    def __init__(
        self,
        outputs: int = 3,
        size: int = 224,
        width: int = 128,
        depths: tuple[int, ...] = (2, 2, 18, 2),
        heads: tuple[int, ...] = (4, 8, 16, 32),
        groups: tuple[int, ...] = (4, 8),
        window: int = 7,
        drop_path: float = 0.5,
        reference_mode: str = "per_sample",
        gate: str = "none",
        histogram: str = "bounded",
    ) -> None:
        super().__init__()
        _check_modes(reference_mode, gate, histogram)
        if len(depths) != 4 or len(heads) != 4 or len(groups) != 2:
            raise ValueError(f"expected four depths, four heads and two groups, got {depths}, {heads} and {groups}")
        if outputs < 1 or window < 2 or size < 1 or size % (32 * window):
            raise ValueError(
                f"expected at least one output and a size that is a multiple of 32 windows (32 * {window} = {32 * window}), "
                f"got {outputs} and {size}"
            )
        widths = [width << i for i in range(4)]
        uneven = [w for w, n in zip(widths * 2, [*heads, 1, 1, *groups], strict=True) if w % n]
        if uneven or heads[2] % groups[0] or heads[3] % groups[1]:
            raise ValueError(f"widths {widths}, heads {heads} and groups {groups} do not divide evenly")
        self.config: dict[str, Any] = {
            "outputs": outputs,
            "size": size,
            "width": width,
            "depths": list(depths),
            "heads": list(heads),
            "groups": list(groups),
            "window": window,
            "drop_path": drop_path,
            "reference_mode": reference_mode,
            "gate": gate,
            "histogram": histogram,
        }
        self.outputs, self.size = outputs, size
        self.patch_proj = nn.Sequential(nn.Conv2d(3, width, 4, 4), ChannelNorm(width))
        steps = max(1, sum(depths) - 1)
        rates = [drop_path * i / steps for i in range(sum(depths))]
        stages = []
        for i, depth in enumerate(depths):
            side = size // (4 << i)
            attentions: list[nn.Module] = []
            for j in range(depth):
                if i >= 2 and j % 2:
                    group, kernel = groups[i - 2], _KERNELS[i]
                    attentions.append(DeformableAttention(widths[i], heads[i], group, side, kernel, reference_mode, gate))
                else:
                    attentions.append(WindowAttention(widths[i], heads[i], window, side, shifted=bool(j % 2)))
            start = sum(depths[:i])
            stages.append(Stage(widths[i], attentions, rates[start : start + depth]))
        self.stages = nn.ModuleList(stages)
        self.down_projs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(widths[i], widths[i + 1], 2, 2, bias=False), ChannelNorm(widths[i + 1])) for i in range(3)
        )
        self.cls_norm = ChannelNorm(widths[3])
        self.hst_head = nn.Linear(widths[3], _FEATURES)
        self.histogram = SoftHistogram(histogram)
        self.class_heads = nn.Linear(_FEATURES * _BINS, outputs)
        initialize(self)

    # --- Scoring

    def features(self, rgb: Tensor) -> Tensor:
        """Compute the histogram features of sRGB in [0, 1], shape (B, 3, size, size) to (B, 36).

        Raises:
            ValueError: If the shape differs, or running means are needed before any training.
        """
        if tuple(rgb.shape[1:]) != (3, self.size, self.size):
            raise ValueError(f"expected images of shape (B, 3, {self.size}, {self.size}), got {tuple(rgb.shape)}")
        scored_by_means = self.config["reference_mode"] == "running" and not self.training
        if scored_by_means and any(attention.ref_point14.batches == 0 for attention in self.deformable()):
            raise ValueError("there are no running reference points yet; train first, or set reference_mode per_sample")
        x = self.patch_proj(imagenet_normalized(rgb))
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.down_projs[i - 1](x))
        return self.hst_head(self.cls_norm(x).mean((2, 3)))

    def forward(self, rgb: Tensor) -> Tensor:
        """Score sRGB in [0, 1], shape (B, 3, size, size); scores are in (0, 1), higher is better, shape (B, outputs)."""
        return torch.sigmoid(self.class_heads(self.histogram(self.features(rgb))))

    def deformable(self) -> list[DeformableAttention]:
        """Return the layers of deformable attention, from the first to the last."""
        return [m for m in self.modules() if isinstance(m, DeformableAttention)]

    def set_modes(self, reference_mode: str | None = None, gate: str | None = None, histogram: str | None = None) -> None:
        """Change the modes of the network without changing its weights; None leaves a mode unchanged.

        A histogram keeps its trained bins, which fit only the kind in which they were trained.

        Raises:
            ValueError: If there is no such mode.
        """
        asked = {"reference_mode": reference_mode, "gate": gate, "histogram": histogram}
        modes = {k: self.config[k] if v is None else v for k, v in asked.items()}
        _check_modes(**modes)
        self.config |= modes
        for attention in self.deformable():
            attention.set_modes(modes["reference_mode"], modes["gate"])
        self.histogram.kind = modes["histogram"]

    # --- Images

    def preprocess(self, image: Tensor) -> Tensor:
        """Prepare an image for scoring: resize it to a square by Pillow (bilinear), whatever its aspect ratio.

        Args:
            image: sRGB, shape (3, H, W), as uint8 or as floating point in [0, 1].

        Returns:
            sRGB in [0, 1] on 8-bit levels, shape (3, size, size).

        Raises:
            ValueError: If shape, type or range is not as above.
        """
        return unit_range(resized(image, self.size, "bilinear"))

    def augment(self, image: Tensor, generator: torch.Generator, view: str = "mended") -> Tensor:
        """Prepare an image for training: flipped with probability 1/2, cropped at random, with unchanged colors.

        Args:
            image: Same as in ``preprocess``.
            generator: Source of the random numbers, four per image.
            view: "mended": a crop of a random 87.5 to 100 percent of both sides, so that training includes the scale of
                scoring. "icaa17k": always 87.5 percent (224 of 256 pixels), as published. "spaq": flipped only, as published.

        Returns:
            Same as ``preprocess``.

        Raises:
            ValueError: If the image is not as above, or there is no such view.
        """
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {view!r}")
        check_image(image)
        flip, share, top, left = torch.rand(4, generator=generator).tolist()
        if view == "icaa17k":
            larger = round(self.size / _LEAST_SHARE)
            whole = unit_range(resized(image, larger, "bilinear"))
            spare = larger - self.size + 1
            y, x = int(top * spare), int(left * spare)
            out = whole[:, y : y + self.size, x : x + self.size]
        else:
            if view == "mended":
                height, width = image.shape[1:]
                share = _LEAST_SHARE + (1 - _LEAST_SHARE) * share
                h, w = max(1, round(share * height)), max(1, round(share * width))
                y, x = int(top * (height - h + 1)), int(left * (width - w + 1))
                image = image[:, y : y + h, x : x + w]
            out = self.preprocess(image)
        return out.flip(2) if flip < 0.5 else out

    # --- Weights

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start weights set: all before the head."""
        head = {id(p) for module in (self.hst_head, self.histogram, self.class_heads) for p in module.parameters()}
        return [p for p in self.parameters() if id(p) not in head]

    def load_official(self, state: Mapping[str, Any], source: str = "the state dict") -> LoadReport:
        """Load weights of the authors, of either edition, and compute as their code does.

        Modes become those of the edition: ``batch_mean``, the ``official`` histogram, and the ``hard`` gate of ICAA17K or none.
        With one output the color score is taken; with more, the order is overall, color, and color again for each further
        output. SPAQ has one score, which all outputs get. For a size other than 224 pixels the position tables are resized.

        Args:
            state: Content of the file: tensors by name, also wrapped in ``state_dict`` or ``model``, or named ``module....``
            source: The file, for errors and the report.

        Returns:
            Report on each tensor.

        Raises:
            ValueError: If a tensor is absent, unknown or of another shape; names one and counts them. The network is then
                unchanged.
        """
        state = unwrapped(state, source)
        gated = "class_head2.weight" in state or any(".ref_gate." in k for k in state)
        as_published = {"size": 32 * self.config["window"], "outputs": 2 if gated else 1, "gate": "hard" if gated else "none"}
        with torch.device("meta"):
            twin = DelegateTransformer(**{**self.config, **as_published})
        check_tensors(state, twin.to_official(), source, f"the {'ICAA17K' if gated else 'SPAQ'} edition")

        rows = ["class_head"] * self.outputs
        if gated:
            rows = ["class_head2"] if self.outputs == 1 else ["class_head"] + ["class_head2"] * (self.outputs - 1)
        self.set_modes("batch_mean", "hard" if gated else "none", "official")
        target = self.state_dict()
        loaded: dict[str, Tensor] = {}
        ignored = {}
        for key, tensor in state.items():
            if key in _UNUSED or _is_rebuilt(key):
                ignored[key] = _UNUSED.get(key, _REBUILT) + self._unlike(key, tensor, state)
            elif key.startswith("class_head"):
                if key.split(".")[0] not in rows:
                    ignored[key] = "the score of the image as a whole; the one output takes that of color"
            else:
                name = _HISTOGRAM.get(key, key)
                loaded[name] = (
                    _fitted(tensor, target[name]) if name.endswith("rpe_table") else tensor.reshape(target[name].shape)
                )
        for end in ("weight", "bias"):
            loaded[f"class_heads.{end}"] = torch.cat([state[f"{name}.{end}"] for name in rows])
        self.load_state_dict(loaded)
        warnings.warn(
            f"{source}: official weights take reference points from the mean over the batch, so a score depends on what is "
            'scored with it; score images one at a time, or call set_modes(reference_mode="per_sample")',
            stacklevel=2,
        )
        return LoadReport(source, [key for key in state if key not in ignored], ignored)

    def _unlike(self, key: str, tensor: Tensor, state: Mapping[str, Tensor]) -> str:
        """Return a note if a tensor that is not read, since its value is known, has another value in the file; else ""."""
        if key == "hist_feature.widths":
            known = state["hist_feature.bin_widths_conv.weight"]
        elif _is_rebuilt(key):
            known = self.get_buffer(key)
        else:
            return ""
        return "" if tensor.shape != known.shape or torch.equal(tensor.to(known), known) else " (the file's is another)"

    def to_official(self) -> dict[str, Tensor]:
        """Return the state dict for the authors' code, which uses the official modes; unused tensors are zero.

        Raises:
            ValueError: If neither edition has these outputs, this gate or this size.
        """
        gated = self.config["gate"] != "none"
        if (self.outputs, gated) not in ((2, True), (1, False)):
            raise ValueError(
                "the official editions have two outputs and a gate, or one output and none; this network has "
                f"{self.outputs} and gate {self.config['gate']!r} (set_modes adds or removes a gate)"
            )
        if self.size != 32 * self.config["window"]:
            raise ValueError(f"the official code takes images of {32 * self.config['window']} pixels, not {self.size}")
        state = {k: v.detach() for k, v in self.state_dict().items()}
        official = {}
        for name, tensor in state.items():
            if name.startswith(("histogram.", "class_heads.")) or name.endswith((".running_mean", ".batches")):
                continue
            official[name] = tensor
            if name.endswith(".relative_position_bias_table"):
                place = name.rpartition(".")[0]
                official |= {f"{place}.{key}": value for key, value in self.get_submodule(place).named_buffers(recurse=False)}
            if name == "cls_norm.norm.bias":
                official |= {"cls_head.weight": tensor.new_zeros(1, len(tensor)), "cls_head.bias": tensor.new_zeros(1)}
        slopes = state["histogram.slope"].reshape(-1, 1, 1)
        official |= {"hist_feature.centers": slopes.new_zeros(len(slopes)), "hist_feature.widths": slopes}
        for key, name in _HISTOGRAM.items():
            official[key] = state[name].reshape((-1, 1, 1) if key.endswith("weight") else (-1,))
        for i, name in enumerate(("class_head", "class_head2")[: self.outputs]):
            official |= {f"{name}.{end}": state[f"class_heads.{end}"][i : i + 1] for end in ("weight", "bias")}
        return {k: v.clone(memory_format=torch.contiguous_format) for k, v in official.items()}

    def load_backbone(self, weights: Mapping[str, Any] | str | Path | None = None) -> LoadReport:
        """Start all parameters before the head from other weights.

        Args:
            weights: File (.pth, .bin, .safetensors) or its content: DAT-Base on ImageNet as published by its authors (the start
                of the authors of the Delegate Transformer); a Delegate Transformer, official or ours; or a Swin-B of equal
                widths with timm's names. None for such a Swin-B from timm's hub, since no hub has DAT. Swin sets windows,
                perceptrons and norms; for deformable attention it sets only the projections.

        Returns:
            Report on each tensor. Reference points and gate keep their start values if the file has none.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read, lacks a tensor, or has one of another shape; names one and counts them.
            UnreachableError: If the hub cannot be reached; names the file to download elsewhere and its flag.
        """
        source, state = _from_hub() if weights is None else opened(weights, "DAT-Base, a Delegate Transformer or Swin-B")
        target = self.state_dict()
        body = [k for k in target if not k.startswith(("hst_head.", "histogram.", "class_heads."))]
        estimates = (".running_mean", ".batches")  # of the data set of the file
        loaded: dict[str, Tensor] = {}
        ignored: dict[str, str] = {}
        if "layers.0.blocks.0.attn.qkv.weight" in state:
            optional = ("down_projs.", ".rpe_table", ".conv_offset.", ".ref_point14.", ".ref_gate.")
            for key, tensor in state.items():
                parts = self._from_swin(key, tensor)
                if isinstance(parts, str):
                    ignored[key] = parts
                else:
                    loaded |= parts
        elif "patch_proj.0.weight" in state:
            optional = (".ref_point14.", ".ref_gate.")
            for key, tensor in state.items():
                if _is_rebuilt(key):
                    ignored[key] = _REBUILT
                elif key.endswith(estimates):
                    ignored[key] = "a mean over the images of another training"
                elif ".ref_gate." in key and self.config["gate"] == "none":
                    ignored[key] = "this network has no gate"
                elif key.startswith(("patch_proj.", "stages.", "down_projs.", "cls_norm.")):
                    loaded[key] = tensor
                else:
                    ignored[key] = "of the head"
        else:
            raise ValueError(
                f"{source} holds no weights of DAT, a Delegate Transformer or Swin under the names of their authors or timm; "
                f"it holds {', '.join(list(state)[:3])} and so on"
            )
        needed = [k for k in body if not k.endswith(estimates) and not any(part in k for part in optional)]
        loaded = {k: _fitted(v, target[k]) if k in target and k.endswith("rpe_table") else v for k, v in loaded.items()}
        check_tensors(loaded, {k: target[k] for k in body}, source, "a backbone of this configuration", needed)
        self.load_state_dict({**target, **loaded})
        return LoadReport(source, [k for k in state if k not in ignored], ignored, [k for k in target if k not in loaded])

    def _from_swin(self, key: str, tensor: Tensor) -> dict[str, Tensor] | str:
        """Return the tensors that a tensor of a Swin transformer sets here, by name, or the reason why it is not used."""
        outside = {"patch_embed.proj": "patch_proj.0", "patch_embed.norm": "patch_proj.1.norm", "norm": "cls_norm.norm"}
        stem, _, end = key.rpartition(".")
        if stem in outside:
            return {f"{outside[stem]}.{end}": tensor}
        match = re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", key)
        if match is None:
            return "of the head" if key.startswith("head.") else "Swin goes from stage to stage in another way"
        i, j = int(match[1]), int(match[2])
        layer = match[3].removesuffix(f".{end}")
        if layer in ("norm1", "norm2"):
            return {f"stages.{i}.layer_norms.{2 * j + (layer == 'norm2')}.norm.{end}": tensor}
        if layer in ("mlp.fc1", "mlp.fc2"):
            return {f"stages.{i}.mlps.{j}.chunk.linear{layer[-1]}.{end}": tensor}
        if end in ("attn_mask", "relative_position_index"):
            return _REBUILT
        place, is_deformable = f"stages.{i}.attns.{j}", i >= 2 and j % 2 == 1
        if end == "relative_position_bias_table":
            return "deformable attention has a table of another kind" if is_deformable else {f"{place}.{end}": tensor}
        if layer not in ("attn.qkv", "attn.proj"):
            return {key: tensor}  # of another kind of Swin; refused by its name
        if not is_deformable:
            return {f"{place}.{'proj_qkv' if layer == 'attn.qkv' else 'proj_out'}.{end}": tensor}
        if end == "weight":
            tensor = tensor[..., None, None]  # of a linear layer, for a convolution of one place
        if layer == "attn.proj":
            return {f"{place}.proj_out.{end}": tensor}
        return {f"{place}.proj_{name}.{end}": part for name, part in zip("qkv", tensor.chunk(3), strict=True)}


def initialize(network: nn.Module) -> None:
    """Set start weights: normal with deviation 0.02, and zero biases.

    The official routine was meant to do this, but visits parameters where it expects layers, and has no effect.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            nn.init.normal_(module.relative_position_bias_table, std=0.02)
        elif isinstance(module, DeformableAttention):
            nn.init.normal_(module.rpe_table, std=0.02)


def resize_position_table(table: Tensor, side: int) -> Tensor:
    """Resize a table of relative positions for a map of another side.

    The ends of the table stay its ends: an entry belongs to a displacement as a share of the map.

    Args:
        table: Table, shape (heads, 2 H - 1, 2 H - 1).
        side: Side of the new map.

    Returns:
        Table, shape (heads, 2 side - 1, 2 side - 1); the unchanged table if it has this shape.
    """
    entries = 2 * side - 1
    if tuple(table.shape[1:]) == (entries, entries):
        return table
    return F.interpolate(table[None].float(), (entries, entries), mode="bicubic", align_corners=True)[0].to(table.dtype)


def target_of(mos: Tensor) -> Tensor:
    """Map MOS in [-1, 1] to targets in [0, 1]."""
    return (mos + 1) / 2


def mos_of(pred: Tensor) -> Tensor:
    """Map scores in (0, 1) to the scale of the MOS, (-1, 1)."""
    return 2 * pred - 1


def training_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared error, each output with equal weight, as published; unknown targets (NaN) are left out.

    Args:
        pred: Scores in (0, 1), shape (B, outputs).
        target: Ratings in [0, 1], same shape: those of ICAA17K and SPAQ divided by 10, or ``target_of`` a MOS.

    Returns:
        One number, at least 0; 0 if no target is known.

    Raises:
        ValueError: If the shapes differ, or a known target is outside [0, 1].
    """
    if pred.shape != target.shape:
        raise ValueError(f"expected a target for each score, shape {tuple(pred.shape)}, got {tuple(target.shape)}")
    known = ~target.isnan()
    given = target[known]
    if ((given < 0) | (given > 1)).any():
        raise ValueError(f"targets must lie in [0, 1], got {given.min():.4g} to {given.max():.4g}; divide by the range first")
    return (pred[known] - given).square().sum() / known.sum().clamp(min=1)


def _check_modes(reference_mode: str, gate: str, histogram: str) -> None:
    for name, value, choices in (
        ("reference_mode", reference_mode, REFERENCE_MODES),
        ("gate", gate, GATES),
        ("histogram", histogram, HISTOGRAMS),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _is_rebuilt(key: str) -> bool:
    return key.endswith((".relative_position_index", ".attn_mask"))


def _fitted(table: Tensor, own: Tensor) -> Tensor:
    """Resize a position table for the map of ``own``; a table that is not square is unchanged, so that the check refuses it."""
    if table.ndim != 3 or table.shape[1] != table.shape[2]:
        return table
    return resize_position_table(table, (own.shape[1] + 1) // 2)


def _from_hub() -> tuple[str, dict[str, Tensor]]:
    return fetched(
        f"{START_BACKBONE} of timm's hub",
        lambda: timm.create_model(START_BACKBONE, pretrained=True).state_dict(),
        f"fetch the file of DAT-Base on ImageNet from its authors, or model.safetensors of timm/{START_BACKBONE} at "
        "huggingface.co,",
    )

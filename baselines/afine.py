"""A-FINE: naturalness of an image, and its distance from a reference that need not be perfect.

Reference:
    Chen, Wu, Ma and Zhang, Toward Generalized Image Quality Assessment: Relaxing the Perfect Reference Quality Assumption,
    CVPR 2025, arXiv 2503.11221.

With image x and reference y; lower = better everywhere:

    D(x, y) = F(x, y) + lambda N(x),    lambda = exp(s (N(y) - N(x))),    s = softplus(k)

N and F come from two small heads on the features of one CLIP ViT-B/32, each through a logistic map onto (-2, 2). Written from
the description of the published system, without its code. docs/baselines.md lists the differences: positions are resized as a
grid (``position``), the exponent is bounded (``exponent_limit``), images form batches, and there can be three scores.
``load_official`` restores the published behavior.
"""

import math
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
from scipy.optimize import curve_fit
from torch import Tensor, nn

from baselines.loading import LoadReport, check_tensors, fetched, opened, unwrapped
from models.backbone import read_state
from models.preprocessing import Preprocess, check_image

POSITIONS = ("grid", "sequence")
GROUPS = ("finetuned_clip", "natural", "natural_scale", "fidelity", "fidelity_scale", "adapter")  # of the authors' file
HUB_NAME = "vit_base_patch32_clip_quickgelu_224.openai"  # of timm

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_LIMIT = 2.0  # the logistic maps reach from -2 to 2
_EPS = 1e-10
_HUNDRED = {"low": 0.0, "high": 100.0, "center": -1.9710, "width": -2.3734}  # fitted by the authors on SRIQA-Bench
_MAP_START = {"natural": (4.9592, 21.5968), "fidelity": (0.5, 0.15)}  # center and width
_CENTER_BOUNDS, _WIDTH_BOUNDS = (0.05, 0.95), (0.01, 0.70)  # of the fidelity map
_K_START = 5.0
_SCORE_KEYS = ("mean", "variance")
_PAIR_KEYS = ("reference_mean", "reference_variance", "covariance")
_NO_REFERENCE = (
    "D and fidelity compare an image with its reference, and there is none; give reference=, or score naturalness alone: "
    "set_full_reference(False)"
)


class Stage(NamedTuple):
    """Published values of a training stage, see ``STAGES``."""

    rate: float  # highest learning rate
    batch_size: int  # triplets, per GPU


# 1 trains the tower and the naturalness head, 2 the weights of the fidelity head, 3 the maps and k; the rest is frozen
STAGES = {1: Stage(5e-6, 32), 2: Stage(5e-4, 128), 3: Stage(1e-3, 128)}
ITERATIONS = 40_000  # of each stage
ADAMW = {"betas": (0.9, 0.99), "weight_decay": 1e-3}
_CYCLES = (1.0, 0.5, 0.5, 0.5)  # of the learning rate: height of each, all of one length
_RATE_FLOOR = 1e-8


class AFine(nn.Module):
    """A-FINE with one score or three, each **lower = better**.

    Args:
        outputs: Number of scores per image. The tower is shared; each score has its own heads, maps and k.
        size: Side of the square that ``preprocess`` makes, in pixels: 512 as in the published training.
        full_reference: Score D, which needs the reference; else N, the naturalness, which takes no reference.
        native: ``preprocess`` keeps the size of an image, as the published scoring does.
        position: How the position table is resized for images of other sizes than 7 x 7 patches. "grid": the class row
            is kept and the grid resized. "sequence": all rows, with the class row, are resized as one sequence, as published.
        exponent_limit: Largest exponent of lambda; 3 keeps D within 43 of 0, where the scale of 0 to 100 still tells values
            apart. None for no limit, as published.
        width: Width of the tower.
        depth: Number of blocks of the tower.
        heads: Number of attention heads of the tower.
        patch: Side of a patch in pixels.
        table: Side of the grid of the position table.
        projected: Features that the naturalness head computes from each level.

    Attributes:
        config: Everything needed to rebuild the network.
    """

    higher_is_better: ClassVar[bool] = False

    def __init__(
        self,
        outputs: int = 1,
        size: int = 512,
        full_reference: bool = True,
        native: bool = False,
        position: str = "grid",
        exponent_limit: float | None = 3.0,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 32,
        table: int = 7,
        projected: int = 128,
    ) -> None:
        super().__init__()
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(POSITIONS)}, got {position!r}")
        if outputs < 1 or size < 1:
            raise ValueError(f"outputs and size must be at least 1, got {outputs} and {size}")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.config: dict[str, Any] = {
            "outputs": outputs,
            "size": size,
            "full_reference": full_reference,
            "native": native,
            "position": position,
            "exponent_limit": exponent_limit,
            "width": width,
            "depth": depth,
            "heads": heads,
            "patch": patch,
            "table": table,
            "projected": projected,
        }
        self.outputs, self.size = outputs, size
        self.resize = Preprocess(size)
        self.tower = ImageTower(width, depth, heads, patch, table, position)
        self.natural = NaturalnessHead(outputs, width, depth, projected)
        self.fidelity = FidelityHead(outputs, 3 + depth * width)
        self.natural_map = LogisticMap(outputs, *_MAP_START["natural"])
        self.fidelity_map = LogisticMap(outputs, *_MAP_START["fidelity"], _CENTER_BOUNDS, _WIDTH_BOUNDS)
        self.k = nn.Parameter(torch.full((outputs,), _K_START))

    @property
    def score_range(self) -> tuple[float, float]:
        """Return the bounds of the scores, lower = better: D on the scale of 0 to 100, N between -2 and 2."""
        return (0.0, 100.0) if self.config["full_reference"] else (-_LIMIT, _LIMIT)

    def set_full_reference(self, wanted: bool) -> None:
        """Change whether ``forward`` scores D or N; the weights are the same for both."""
        self.config["full_reference"] = wanted

    # --- Images

    def preprocess(self, image: Tensor) -> Tensor:
        """Prepare an image for scoring; deterministic, and the same for an image and for a reference.

        Args:
            image: sRGB, shape (3, H, W), uint8 or floating point in [0, 1].

        Returns:
            sRGB in [0, 1], shape (3, size, size), or (3, H, W) with ``native``.

        Raises:
            ValueError: If shape, type or range is not as above.
        """
        if not self.config["native"]:
            return self.resize(image)["rgb"]
        check_image(image)
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()

    def augment(
        self, image: Tensor, reference: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Make a random view for training: mirrored, turned upside down and transposed, each with probability 1/2.

        Args:
            image: Same as in ``preprocess``.
            reference: Reference of the image in the same form, or None; it is turned like the image.
            generator: Source of the three random numbers; None for torch's default. The same state turns another image of
                the triplet the same way.

        Returns:
            Views of the image and of the reference (or None), in the form of ``preprocess``.
        """
        mirror, upside_down, transpose = (torch.rand(3, generator=generator) < 0.5).tolist()
        axes = [axis for axis, turned in ((2, mirror), (1, upside_down)) if turned]

        def view(x: Tensor) -> Tensor:
            x = self.preprocess(x).flip(axes)
            return x.transpose(1, 2) if transpose else x

        return view(image), None if reference is None else view(reference)

    # --- From images to scores

    def forward(self, rgb: Tensor | Mapping[str, Tensor], reference: Tensor | None = None, stage: int | None = None) -> Tensor:
        """Score images.

        Args:
            rgb: sRGB in [0, 1], shape (B, 3, H, W); or the result of ``moments`` for images and references.
            reference: References in the same form. References of another size are resized to that of the images.
            stage: None for the score. A training stage, 1 to 3, returns its ranked quantity: naturalness before its map
                (which reads no reference), fidelity before its map, or D.

        Returns:
            Scores, lower = better, shape (B, outputs). Without ``stage`` within ``score_range``.

        Raises:
            ValueError: If D is scored without a reference, N with a reference, or shapes do not fit.
        """
        if stage is not None and stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(map(str, STAGES))} or None, got {stage!r}")
        if isinstance(rgb, Tensor):
            if stage is None and reference is not None and not self.config["full_reference"]:
                raise ValueError("this A-FINE scores naturalness alone and takes no reference; see set_full_reference")
            if reference is None and (self.config["full_reference"] if stage is None else stage > 1):
                raise ValueError(_NO_REFERENCE)  # before the work is done
            moments = self.moments(rgb, None if stage == 1 else reference)
        else:
            moments = rgb
        if stage == 1:
            return self.raw_naturalness(moments)
        if stage == 2:
            return self.raw_fidelity(moments)
        if stage == 3:
            return self.distance(moments)
        if not self.config["full_reference"]:
            return self.natural_map(self.raw_naturalness(moments))
        return logistic(self.distance(moments), **_HUNDRED)

    def moments(self, rgb: Tensor, reference: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the inputs of the heads: statistics of every channel over the positions.

        There are C = 3 + depth * width channels: R, G, B of the image, then each block of the tower after a ReLU. The
        statistics can be kept in stages 2 and 3, which freeze the tower.

        Args:
            rgb: sRGB in [0, 1], shape (B, 3, H, W).
            reference: References of the same scenes in the same order and form, or None.

        Returns:
            ``mean`` and biased ``variance``, shape (B, C); with references also ``reference_mean``, ``reference_variance``
            and ``covariance`` of the two.

        Raises:
            ValueError: If a shape is not as above.
        """
        for what, x in (("images", rgb), ("references", reference)):
            if x is not None and (x.ndim != 4 or x.shape[1] != 3 or 0 in x.shape):
                raise ValueError(f"{what} must have shape (B, 3, H, W), got {tuple(x.shape)}")
        if reference is not None:
            if len(reference) != len(rgb):
                raise ValueError(f"{len(rgb)} images but {len(reference)} references")
            if reference.shape != rgb.shape:
                reference = F.interpolate(reference, rgb.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
            rgb = torch.cat((rgb, reference))
        rgb = self._enlarged(rgb)
        mean, std = (rgb.new_tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
        parts: dict[str, list[Tensor]] = {}
        for level in (rgb.flatten(2).transpose(1, 2), *self.tower((rgb - mean) / std)):
            level = level.float()  # under autocast too
            center = level.mean(1)
            # Not the mean of squares less the square of the mean: where a channel hardly varies, that is rounding alone.
            deviation = level - center[:, None]
            statistics = [center, deviation.square().mean(1)]
            if reference is None:
                named = zip(_SCORE_KEYS, statistics, strict=True)
            else:
                (mean_x, mean_y), (variance_x, variance_y) = (x.chunk(2) for x in statistics)
                first, second = deviation.chunk(2)
                values = (mean_x, variance_x, mean_y, variance_y, (first * second).mean(1))
                named = zip(_SCORE_KEYS + _PAIR_KEYS, values, strict=True)
            for key, value in named:
                parts.setdefault(key, []).append(value)
        return {key: torch.cat(values, 1) for key, values in parts.items()}

    def raw_naturalness(self, moments: Mapping[str, Tensor]) -> Tensor:
        """Compute n, naturalness before its map: any number, lower = more natural, shape (B, outputs)."""
        return self.natural(moments["mean"], moments["variance"])

    def raw_fidelity(self, moments: Mapping[str, Tensor]) -> Tensor:
        """Compute F before its map, shape (B, outputs): 0 for equal images, about 1 for images with nothing in common.

        F can exceed 1, since covariances can be negative.

        Raises:
            ValueError: If the moments are those of images without references.
        """
        _check_pair(moments)
        return self.fidelity(moments)

    def distance(self, moments: Mapping[str, Tensor]) -> Tensor:
        """Compute D(x, y), lower = better, shape (B, outputs).

        Raises:
            ValueError: If the moments are those of images without references.
        """
        _check_pair(moments)
        fidelity = self.fidelity_map(self.fidelity(moments))
        natural = self.natural_map(self.raw_naturalness(moments))
        of_reference = self.natural_map(self.natural(moments["reference_mean"], moments["reference_variance"]))
        exponent = F.softplus(self.k) * (of_reference - natural)
        if self.config["exponent_limit"] is not None:
            exponent = exponent.clamp(max=self.config["exponent_limit"])
        return fidelity + exponent.exp() * natural

    def _enlarged(self, rgb: Tensor) -> Tensor:
        # In training and in scoring alike. Before normalization, which commutes with it.
        patch = self.config["patch"]
        sides = [math.ceil(side / patch) * patch for side in rgb.shape[2:]]
        if sides == list(rgb.shape[2:]):
            return rgb
        return F.interpolate(rgb, sides, mode="bicubic", align_corners=False)

    # --- Training

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that ``load_backbone`` sets."""
        return list(self.tower.parameters())

    def set_stage(self, stage: int) -> list[nn.Parameter]:
        """Freeze the parameters that a training stage does not train.

        Args:
            stage: Stage, 1 to 3, see ``STAGES``.

        Returns:
            The parameters that the stage trains.
        """
        if stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(map(str, STAGES))}, got {stage!r}")
        trained = {
            1: [*self.tower.parameters(), *self.natural.parameters()],
            2: [*self.fidelity.parameters()],
            3: [self.k, *self.natural_map.parameters(), *self.fidelity_map.parameters()],
        }[stage]
        self.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        return trained

    def fit_naturalness_map(self, raw: Tensor, mos: Tensor) -> None:
        """Fit the start values of the naturalness map before stage 3, by least squares against ratings.

        The fit is also needed for N if stage 1 is the whole training. Center and width are bounded by the spread of ``raw``:
        if ``raw`` is unrelated to the ratings, the curve would otherwise be so flat that all images score alike.

        Args:
            raw: ``raw_naturalness`` of training images, shape (N, outputs).
            mos: MOS of these images in [-1, 1], higher = better, shape (N, outputs); NaN where there is none.

        Raises:
            ValueError: If shapes do not fit, or no curve can be fitted.
        """
        if raw.shape != mos.shape or raw.ndim != 2 or raw.shape[1] != self.outputs:
            raise ValueError(f"raw and mos must have shape (N, {self.outputs}), got {tuple(raw.shape)} and {tuple(mos.shape)}")

        def curve(x: np.ndarray, center: float, width: float) -> np.ndarray:
            return 2 * _LIMIT / (1 + np.exp(-np.clip((x - center) / (width + _EPS), -700, 700))) - _LIMIT

        for number in range(self.outputs):
            rated = mos[:, number].isfinite()
            n, target = (x[rated, number].detach().double().cpu().numpy() for x in (raw, -_LIMIT * mos))
            if len(n) < 3 or np.ptp(n) == 0:
                raise ValueError(f"output {number}: {len(n)} rated images; the map needs 3 or more, not all alike")
            try:
                span = np.ptp(n)
                bounds = ((n.min() - span, 1e-3 * n.std()), (n.max() + span, 10 * span))
                (center, width), _ = curve_fit(curve, n, target, (n.mean(), n.std() / 4), bounds=bounds, max_nfev=10_000)
            except RuntimeError as error:
                raise ValueError(f"output {number}: no naturalness map could be fitted to {len(n)} ratings") from error
            with torch.no_grad():
                self.natural_map.center[number], self.natural_map.width[number] = center, width

    # --- Weights

    def load_official(self, state: Mapping[str, Any], faithful: bool = True, source: str = "the state dict") -> LoadReport:
        """Load the authors' weights.

        Args:
            state: Content of their file, a dictionary of six groups; or such a dictionary made of their stage files. Groups may
                be wrapped in ``params`` and names may begin with ``module.``. With several outputs each one gets these weights.
            faithful: From now on score as published: native size, positions as a sequence, exponent without bound.
            source: The file, for the report and errors.

        Returns:
            Report on loaded and ignored tensors.

        Raises:
            ValueError: If a group or a tensor is absent, unknown or of another shape; names it.
        """
        groups = unwrapped(state, source)
        absent, unknown = [g for g in GROUPS if g not in groups], [str(g) for g in groups if g not in GROUPS]
        if absent or unknown:
            raise ValueError(
                f"{source}: {len(absent)} of the {len(GROUPS)} groups of A-FINE are absent ({', '.join(absent) or 'none'}), "
                f"{len(unknown)} are unknown ({', '.join(unknown[:3]) or 'none'}); make one dictionary of separate files"
            )
        copies, ignored = [], {}
        for number in range(self.outputs):
            for group, target in self._official_view(number).items():
                tensors = unwrapped(groups[group], f"{source}, group {group}")
                unused = _checked(
                    tensors, target, source, f"A-FINE, group {group}", _UNUSED if group == "finetuned_clip" else ()
                )
                ignored |= {f"{group}.{name}": reason for name, reason in unused.items()}
                copies += [(f"{group}.{name}", tensor, tensors[name]) for name, tensor in target.items()]
        for name, target, value in copies:  # only when all has been checked, so that nothing is loaded by half
            if name.endswith((".mean", ".std")):
                if not value.is_meta and not torch.allclose(value.float(), target, atol=1e-6):
                    raise ValueError(
                        f"{source}: tensor {name} is {value.flatten().tolist()}, expected {target.flatten().tolist()}"
                    )
                ignored[name] = "a constant equal to ours"
        with torch.no_grad():
            for name, target, value in copies:
                if name not in ignored:
                    target.copy_(value)
        if faithful:
            self.config |= {"native": True, "position": "sequence", "exponent_limit": None}
            self.tower.position = "sequence"
        names = dict.fromkeys(name for name, _, _ in copies if name not in ignored)
        return LoadReport(source, list(names), ignored)

    def to_official(self, output: int = 0, others: Mapping[str, Any] | None = None) -> dict[str, dict[str, Tensor]]:
        """Return the weights in the form of the authors' code: six groups of named tensors.

        Args:
            output: Number of the score.
            others: Authors' file or CLIP state with the 153 tensors that no score depends on and that we do not keep; None
                for zeros.
        """
        groups = {group: {k: v.clone() for k, v in tensors.items()} for group, tensors in self._official_view(output).items()}
        clip = groups["finetuned_clip"]
        given = {} if others is None else _openai_names(unwrapped(others, "the state of the others"))
        device = self.k.device
        for name, shape in _unused_layout(self.config["width"]).items():
            clip[name] = given[name].clone() if name in given else torch.zeros(shape, device=device)
        return groups

    def load_backbone(self, weights: Mapping[str, Any] | str | Path | None = None) -> LoadReport:
        """Start the tower from a CLIP ViT-B/32; the heads are unchanged.

        Args:
            weights: State or file of CLIP with the tensor names of OpenAI (the archive ViT-B-32.pt too), transformers or timm;
                the authors' file; or a checkpoint of this network. None for timm's hub.

        Returns:
            Report on loaded and ignored tensors.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file cannot be read, or a tensor is absent, unknown or of another shape; names the tensor.
            UnreachableError: If the hub cannot be reached; names the file to download elsewhere.
        """
        source, state = _from_hub() if weights is None else opened(weights, "CLIP ViT-B/32", _read)
        target = {f"visual.{name}": value for name, value in self.tower.state_dict().items()}
        tensors = _openai_names(state)
        ignored = _checked(tensors, target, source, "the image side of CLIP ViT-B/32", _UNUSED + _HEADS)
        with torch.no_grad():
            for name, value in target.items():
                value.copy_(tensors[name])
        return LoadReport(source, list(target), ignored, [k for k in self.state_dict() if not k.startswith("tower.")])

    def _official_view(self, output: int) -> dict[str, dict[str, Tensor]]:
        """Return views of our tensors of one score, under the authors' names and in their shapes."""
        constants = {"mean": self.k.new_tensor(_CLIP_MEAN), "std": self.k.new_tensor(_CLIP_STD)}
        constants = {name: value.view(1, 3, 1, 1).detach() for name, value in constants.items()}
        head = {f"proj_head.{name}": value for name, value in self.natural.proj_head[output].state_dict().items()}
        feat = {f"proj_feat.{name}": value for name, value in self.natural.proj_feat.state_dict().items()}
        weights = {name: getattr(self.fidelity, name).detach()[output].view(1, 1, -1) for name in ("alpha", "beta")}

        def scalars(logistic_map: LogisticMap) -> dict[str, Tensor]:
            return {"yita3": logistic_map.center.detach()[output], "yita4": logistic_map.width.detach()[output]}

        return {
            "finetuned_clip": {f"visual.{name}": value for name, value in self.tower.state_dict().items()},
            "natural": constants | feat | head,
            "natural_scale": scalars(self.natural_map),
            "fidelity": weights | constants,
            "fidelity_scale": scalars(self.fidelity_map),
            "adapter": {"k": self.k.detach()[output]},
        }


# --- Parts


class ImageTower(nn.Module):
    """Image side of CLIP ViT up to the last block; tensors have OpenAI's names."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, table: int, position: str) -> None:
        super().__init__()
        self.table, self.position = table, position
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(1 + table**2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(Block(width, heads) for _ in range(depth))})

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the position embeddings of the class token and the patches, shape (1 + rows * columns, width)."""
        table = self.positional_embedding
        if (rows, columns) == (self.table, self.table):
            return table
        if self.position == "sequence":
            size = (1 + rows * columns, table.shape[1])
            return F.interpolate(table[None, None], size, mode="bicubic", align_corners=False)[0, 0]
        grid = table[1:].T.view(1, -1, self.table, self.table)
        grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat((table[:1], grid[0].flatten(1).T))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Compute the residual stream after each block.

        Args:
            pixels: Pixels with CLIP's normalization, shape (B, 3, H, W), sides multiples of the patch.

        Returns:
            For each block its patch tokens, negative values set to 0, shape (B, T, width).
        """
        x = self.conv1(pixels)
        positions = self.positions(*x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat((self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x), 1) + positions
        x = self.ln_pre(x)
        levels = []
        for block in self.transformer["resblocks"]:
            x = block(x)
            levels.append(x[:, 1:].relu())
        return levels


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": QuickGELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Attention(nn.Module):
    """Self-attention with the parameters of torch's ``MultiheadAttention``, whose fast path in scoring rounds differently."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class QuickGELU(nn.Module):
    """GELU of CLIP: z sigmoid(1.702 z)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class NaturalnessHead(nn.Module):
    """Head that maps mean and variance of every channel to n, one number for each output, lower = more natural."""

    def __init__(self, outputs: int, width: int, depth: int, projected: int) -> None:
        super().__init__()
        self.depth = depth
        self.proj_feat = nn.Linear(2 * width, projected)
        features = 6 + depth * projected
        self.proj_head = nn.ModuleList(
            nn.Sequential(nn.Linear(features, width), nn.GELU(), nn.Linear(width, 1)) for _ in range(outputs)
        )

    def forward(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Map mean and variance, shape (B, 3 + depth * width) each, to (B, outputs)."""
        of_blocks = [x[:, 3:].unflatten(1, (self.depth, -1)) for x in (mean, variance)]
        projected = self.proj_feat(torch.cat(of_blocks, 2)).flatten(1)
        features = torch.cat((mean[:, :3], variance[:, :3], projected), 1)
        return torch.cat([head(features) for head in self.proj_head], 1)


class FidelityHead(nn.Module):
    """Weighted similarity of image and reference, in the mean and the deviations of every channel."""

    def __init__(self, outputs: int, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(0.1 + 0.01 * torch.randn(outputs, channels))
        self.beta = nn.Parameter(0.1 + 0.01 * torch.randn(outputs, channels))

    def forward(self, moments: Mapping[str, Tensor]) -> Tensor:
        """Map the result of ``AFine.moments`` for a pair to shape (B, outputs)."""
        x, y = moments["mean"], moments["reference_mean"]
        of_means = (2 * x * y + _EPS) / (x.square() + y.square() + _EPS)
        spread = moments["variance"] + moments["reference_variance"]
        of_deviations = (2 * moments["covariance"] + _EPS) / (spread + _EPS)
        weights = F.softplus(torch.stack((self.alpha, self.beta)))  # (2, outputs, C)
        weights = weights / (weights.sum((0, 2), keepdim=True) + _EPS)
        # Products and a sum, for autocast would round a matrix product to 8 bits, and this is 1 less something close to 1.
        likeness = torch.stack((of_means, of_deviations), 1)[:, :, None]  # (B, 2, 1, C)
        return 1 - (likeness * weights).sum((1, 3))


class LogisticMap(nn.Module):
    """Rising logistic curve from -2 to 2 with a trained center and width for each output."""

    def __init__(
        self,
        outputs: int,
        center: float,
        width: float,
        center_bounds: tuple[float, float] | None = None,
        width_bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.center_bounds, self.width_bounds = center_bounds, width_bounds
        self.center = nn.Parameter(torch.full((outputs,), center))
        self.width = nn.Parameter(torch.full((outputs,), width))

    def forward(self, z: Tensor) -> Tensor:
        """Apply the curve; shape (B, outputs) in and out."""
        center = self.center if self.center_bounds is None else self.center.clamp(*self.center_bounds)
        width = self.width if self.width_bounds is None else self.width.clamp(*self.width_bounds)
        return logistic(z, -_LIMIT, _LIMIT, center, width)


def logistic(z: Tensor, low: float, high: float, center: Tensor | float, width: Tensor | float) -> Tensor:
    """Compute a rising logistic curve from ``low`` to ``high``; the sign of ``width`` does not matter."""
    return low + (high - low) * torch.sigmoid((z - center) / (abs(width) + _EPS))


def _check_pair(moments: Mapping[str, Tensor]) -> None:
    if "covariance" not in moments:
        raise ValueError(_NO_REFERENCE)


# --- Losses and schedule of training


def pairwise_loss(first: Tensor, second: Tensor, label: Tensor) -> Tensor:
    """Compute the fidelity loss of ranked pairs; 0 where the predicted probability that the first is better equals the label.

    Args:
        first: Ranked quantity of the first images, lower = better, any shape.
        second: Ranked quantity of the second images, same shape.
        label: Probability that people prefer the first image: 1 better, 0.5 same, 0 worse, or between. NaN where it is not
            known, such as against a reference without rating; these pairs are left out.

    Returns:
        Mean over the known pairs, in [0, 1] up to 1e-4; 0 if there are none.
    """
    known = ~label.isnan()
    label = label.nan_to_num(0.5).to(first.dtype)
    z = (second - first) / math.sqrt(2)
    kept = (torch.special.ndtr(z) * label + 1e-8).sqrt() + (torch.special.ndtr(-z) * (1 - label) + 1e-8).sqrt()
    return torch.where(known, 1 - kept, 0.0).sum() / known.sum().clamp(min=1)


def triplet_loss(first: Tensor, second: Tensor, labels: Tensor, reference: Tensor | None = None) -> Tensor:
    """Compute the loss of a batch of triplets: two images and their reference.

    Args:
        first: Ranked quantity of the first images, shape (B, outputs).
        second: Ranked quantity of the second images, same shape.
        labels: Probabilities, as in ``pairwise_loss``, that the first is better than the second, the first better than the
            reference, and the second better than the reference, shape (B, 3), or (B, 3, outputs).
        reference: Ranked quantity of the references in stage 1; None in the other stages, which compare the two images only.
    """
    if labels.ndim == 2:
        labels = labels[..., None].expand(-1, -1, first.shape[1])
    loss = pairwise_loss(first, second, labels[:, 0])
    if reference is not None:
        loss = loss + pairwise_loss(first, reference, labels[:, 1]) + pairwise_loss(second, reference, labels[:, 2])
    return loss


def batch_loss(pred: Tensor, mos: Tensor, variance: Tensor | None = None, group: Tensor | None = None) -> Tensor:
    """Compute the loss of rated images over all pairs of a batch.

    Args:
        pred: Ranked quantity of the images, lower = better, shape (B, outputs).
        mos: MOS, higher = better, shape (B, outputs); NaN where there is none.
        variance: Squared standard error of each MOS, shape (B, outputs); see ``preference``.
        group: Scene of each image, shape (B,), to form pairs within scenes only; None for all pairs. Stages 2 and 3 need
            scenes, since fidelities to two references cannot be compared.
    """
    first, second = torch.triu_indices(len(pred), len(pred), 1, device=pred.device)
    if group is not None:
        same = group[first] == group[second]
        first, second = first[same], second[same]
    spread = None if variance is None else variance[first] + variance[second]
    return pairwise_loss(pred[first], pred[second], preference(mos[first], mos[second], spread))


def preference(mos: Tensor, other: Tensor, variance: Tensor | None = None, tie: float = 0.0) -> Tensor:
    """Compute the probability that people prefer one image to another.

    Args:
        mos: MOS of the first image, higher = better, any shape; NaN gives NaN.
        other: MOS of the other image.
        variance: Variance of the difference: the sum of the squared standard errors. None for a hard label: 1, 0.5 or 0.
        tie: Differences of at most this size give 0.5.
    """
    difference = mos - other
    if variance is None:
        label = (difference.sign() + 1) / 2
    else:  # the bound makes a known variance of 0 a hard label
        label = torch.special.ndtr(difference / variance.sqrt().clamp(min=1e-12))
    label = torch.where(difference.abs() <= tie, 0.5, label)
    return torch.where(difference.isnan(), difference, label)  # of which the sign is 0


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Compute the learning rate: a cosine that falls to nearly 0 four times per stage, from half the height after the first.

    Args:
        step: From 0 to ``steps``, which may be ``ITERATIONS``.
        steps: Length of the stage.
        highest: Learning rate at the start, see ``STAGES``.
    """
    along = len(_CYCLES) * step / steps
    cycle = min(int(along), len(_CYCLES) - 1)
    return _RATE_FLOOR + _CYCLES[cycle] * (highest - _RATE_FLOOR) * (1 + math.cos(math.pi * (along - cycle))) / 2


# --- Weight files

_UNUSED = (  # tensors of CLIP under OpenAI's names
    (
        r"(transformer|token_embedding|ln_final|text_model)\.|(positional_embedding|text_projection|logit_scale)",
        "of the text side",
    ),
    (r"visual\.(ln_post\.|proj$|head\.)", "after the last block that is read"),
    (r"(input_resolution|context_length|vocab_size|vision_model\.embeddings\.position_ids)$", "no weight"),
)
_HEADS = ((r"(natural|natural_map|fidelity|fidelity_map)\.|k$", "of the heads and maps"),)  # in our own checkpoints
_TIMM = {
    "patch_embed.proj.": "conv1.",
    "norm_pre.": "ln_pre.",
    "norm.": "ln_post.",
    "blocks.": "transformer.resblocks.",
    ".norm1.": ".ln_1.",
    ".norm2.": ".ln_2.",
    ".attn.qkv.": ".attn.in_proj_",
    ".attn.proj.": ".attn.out_proj.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    "cls_token": "class_embedding",
    "pos_embed": "positional_embedding",
}
_TRANSFORMERS = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # so it is spelled
    "vision_model.post_layernorm.": "visual.ln_post.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "visual_projection.weight": "visual.proj",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}


def _unused_layout(width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of CLIP ViT-B/32 that A-FINE does not read, by OpenAI's name."""
    text = 512
    layout = {
        "positional_embedding": (77, text),
        "text_projection": (text, text),
        "logit_scale": (),
        "token_embedding.weight": (49408, text),
        "ln_final.weight": (text,),
        "ln_final.bias": (text,),
        "visual.proj": (width, text),
        "visual.ln_post.weight": (width,),
        "visual.ln_post.bias": (width,),
    }
    for number in range(12):
        block = f"transformer.resblocks.{number}"
        layout |= {f"{block}.attn.in_proj_weight": (3 * text, text), f"{block}.attn.in_proj_bias": (3 * text,)}
        squares = {"attn.out_proj": (text, text), "mlp.c_fc": (4 * text, text), "mlp.c_proj": (text, 4 * text)}
        for name, shape in squares.items():
            layout |= {f"{block}.{name}.weight": shape, f"{block}.{name}.bias": shape[:1]}
        for name in ("ln_1", "ln_2"):
            layout |= {f"{block}.{name}.weight": (text,), f"{block}.{name}.bias": (text,)}
    return layout


def _checked(
    found: Mapping[str, Any], own: Mapping[str, Tensor], source: str, what: str, unused: tuple[tuple[str, str], ...]
) -> dict[str, str]:
    """Check a state against ``own``, except for the tensors ``unused``; return the reasons for these, by name."""
    others = [name for name in found if name not in own]
    reasons = {name: reason for name in others for pattern, reason in unused if re.match(pattern, name)}
    check_tensors({name: value for name, value in found.items() if name not in reasons}, own, source, what)
    return reasons


def _openai_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a CLIP model under OpenAI's names; those of the image side begin with ``visual.``"""
    if "finetuned_clip" in state:
        return unwrapped(state["finetuned_clip"], "finetuned_clip")
    if any(name.startswith("tower.") for name in state):  # our own checkpoint
        return {re.sub(r"^tower\.", "visual.", name): value for name, value in state.items()}
    if "vision_model.embeddings.class_embedding" in state:
        return _from_transformers(state)
    if "cls_token" in state:
        named = {f"visual.{_renamed(name, _TIMM)}": value for name, value in state.items()}
        for name, axes in (("visual.class_embedding", (0, 1)), ("visual.positional_embedding", 0)):
            if isinstance(named.get(name), Tensor):
                named[name] = named[name].squeeze(axes)
        return named
    if "class_embedding" in state:  # the image side alone
        return {f"visual.{name}": value for name, value in state.items()}
    return dict(state)


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        if name.startswith(old) or (old[0] == "." and old in name):
            name = name.replace(old, new, 1)
    return name


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the names of transformers, which keeps queries, keys and values apart, to OpenAI's names."""
    named, apart = {}, {}
    for name, value in state.items():
        match = re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", name)
        if match is None:
            named[_renamed(name, _TRANSFORMERS)] = value
        else:
            number, letter, kind = match.groups()
            apart.setdefault(f"visual.transformer.resblocks.{number}.attn.in_proj_{kind}", {})[letter] = value
    whole = {name: parts for name, parts in apart.items() if len(parts) == 3}  # else the tensor is reported as absent
    return named | {name: torch.cat([parts[letter] for letter in "qkv"]) for name, parts in whole.items()}


def _from_hub() -> tuple[str, dict[str, Tensor]]:
    return fetched(
        f"{HUB_NAME} of timm's hub",
        lambda: timm.create_model(HUB_NAME, pretrained=True, num_classes=0).state_dict(),
        "fetch model.safetensors of timm/vit_base_patch32_clip_224.openai or openai/clip-vit-base-patch32 at huggingface.co, "
        "or OpenAI's ViT-B-32.pt,",
    )


def _read(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file() or not zipfile.is_zipfile(path):
        return read_state(path, what)
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return read_state(path, what)
        try:
            return _TorchScript(archive).state()
        except Exception as error:  # a damaged archive raises nearly any kind
            raise ValueError(f"{path}: damaged TorchScript archive ({type(error).__name__}); fetch it again") from error


class _Part:
    """Stand-in for an object of a TorchScript archive; it holds the stored members and runs no code."""

    def __init__(self, *_: object) -> None:
        pass


class _TorchScript(pickle.Unpickler):
    """Reader of the tensors in a TorchScript archive, OpenAI's form of CLIP; it runs no code, unlike torch's reader."""

    _TYPES: ClassVar = {"HalfStorage": torch.float16, "FloatStorage": torch.float32, "LongStorage": torch.int64}

    def __init__(self, archive: zipfile.ZipFile) -> None:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        self.archive, self.root = archive, name.removesuffix("data.pkl")
        super().__init__(archive.open(name))

    def find_class(self, module: str, name: str) -> Any:
        if name == "_rebuild_tensor_v2":
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        return self._TYPES.get(name, _Part) if module == "torch" else _Part

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, *_ = pid
        return torch.frombuffer(bytearray(self.archive.read(f"{self.root}data/{key}")), dtype=dtype)

    def state(self) -> dict[str, Tensor]:
        return dict(self._tensors(self.load(), ""))

    def _tensors(self, part: _Part, prefix: str) -> list[tuple[str, Tensor]]:
        tensors = []
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                tensors.append((prefix + name, value))
            elif isinstance(value, _Part):
                tensors += self._tensors(value, f"{prefix}{name}.")
        return tensors

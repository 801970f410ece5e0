"""The parts that the three branches share: preparing images, the way from an image to a score, parts of the heads."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from models.backbone import DEFAULT_BACKBONE, Backbone, pooled_statistics
from models.preprocessing import Preprocess
from models.ranker import Ranker, read_ranker
from utils import distributed
from utils.choices import DIMENSIONS, PRECISIONS
from utils.color import gray_version, rgb_to_lab
from utils.images import read_rgb, to_rgb_array
from utils.labels import ObjectLabels

ImageInput: TypeAlias = Tensor | np.ndarray | Image.Image | str | Path
Inputs: TypeAlias = dict[str, Tensor]
Maps: TypeAlias = tuple[list[Tensor], list[Tensor], Tensor | None]


class MissingScoreError(ValueError):
    """A score of another dimension that a network reads and that an image lacks."""

    def __init__(self, dimension: str) -> None:
        super().__init__(f"no {dimension} score")
        self.dimension = dimension


class ScoreNet(nn.Module):
    """A network that gives an image one score in [-1, 1], higher is better.

    The way to a score is ``prepare`` (pixels of fixed size), ``inputs_of`` (all other inputs of the network), ``encode`` (the
    pretrained part) and ``head`` (the part that is always trained). ``score`` takes all these steps for images in any form;
    ``forward`` takes them for a batch of pixels, with gradients. Training starts at ``encode`` and keeps the features.

    Attributes:
        dimension: CF, SCC or PR.
        preset: "compact" or "published".
        config: All arguments to rebuild the network.
        size: Side of the square image that the backbone sees, in pixels.
        input_key: Equal for networks that prepare an image in the same way.
        columns: Names of the scores; a branch of ours has one.
        precision: Arithmetic of scoring, one of ``PRECISIONS``.
        scoring_batch: Images per batch where training scores many images; scores of our networks do not depend on it.
        ranks_within_scenes: Whether training compares images of one scene, so that a batch must hold several of a scene.
        source: The weight file of a loaded network.
        weights_hash: SHA-256 of the weight file.
        seen: File sizes and fingerprints (``image_id``) of the training images; None if the file does not record them.
    """

    dimension: ClassVar[str]
    preset: ClassVar[str]
    ranks_within_scenes: bool = False
    scoring_batch: int = 32
    precision = "float32"
    config: dict[str, Any]
    size: int
    source: Path
    weights_hash: str
    seen: tuple[frozenset[int], frozenset[int]] | None

    @property
    def input_key(self) -> tuple:
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        return [self.dimension]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def preprocessing(self) -> dict[str, Any]:
        """Return how an image is prepared for the network, in words and numbers."""
        raise NotImplementedError

    def set_precision(self, precision: str) -> None:
        """Choose the arithmetic of the backbone in scoring; all else stays in float32.

        "bfloat16" changes the weights for good and is quicker on GPUs and, of large networks, on CPUs with AVX512-BF16 or AMX.
        "tf32" is for GPUs and takes effect in ``Replicas``, since torch has one such switch for a process.

        Raises:
            ValueError: If there is no such arithmetic, or the weights are rounded already.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        if precision == self.precision:
            return
        if self.precision == "bfloat16":
            raise ValueError("the weights were rounded to bfloat16; load them again")
        self.precision = precision
        if precision == "bfloat16":
            self.round_backbone()

    def round_backbone(self) -> None:
        """Round the weights of the backbone to bfloat16."""
        raise NotImplementedError

    def prepare(self, image: ImageInput) -> Inputs:
        """Return tensors of fixed size for one image, in any form that ``score`` takes.

        Raises:
            ImageReadError: If a path does not lead to a readable image.
            ValueError: If a tensor is not of shape (3, H, W), or neither uint8 nor in [0, 1].
            TypeError: If the image is of another type.
        """
        raise NotImplementedError

    def prepare_batch(self, rgb: Tensor) -> Inputs:
        """Prepare a batch of sRGB in [0, 1], shape (B, 3, H, W), differentiable; same as ``prepare`` for each image."""
        raise NotImplementedError

    def inputs_of(self, prepared: Inputs, name: str, labels: ObjectLabels | None, scores: Mapping[str, float]) -> Inputs:
        """Return all inputs of the network for one image. A branch that reads more than pixels overrides this method.

        Args:
            prepared: Result of ``prepare`` for the image.
            name: Name of the image, by which its label file is found.
            labels: Objects of the images; None if there are no labels.
            scores: Scores of the image so far, by dimension.

        Raises:
            LabelError: If the label file of the image cannot be read.
            MissingScoreError: If the network reads a score that is not there.
        """
        return prepared

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        """Return the features of a batch of images.

        Args:
            inputs: Batch of results of ``inputs_of``.
            maps: Result of ``CompactNet.backbone_maps`` for the batch, if a branch with the same backbone has computed it.

        Returns:
            Tensors by name, first dimension B.
        """
        raise NotImplementedError

    def head(self, features: Inputs, scores: Tensor | None = None) -> Tensor:
        """Return scores in (-1, 1) for a batch of features, shape (B,).

        Args:
            features: Result of ``encode``.
            scores: CF and SCC of each image, shape (B, 2), for the realism branch; the other branches ignore them.

        Raises:
            ValueError: If the realism branch gets no ``scores``.
        """
        raise NotImplementedError

    def loss(self, pred: Tensor, mos: Tensor, inputs: Inputs, correlation_weight: float) -> Tensor:
        """Return the loss of a batch, a scalar tensor that training minimizes.

        Args:
            pred: Result of ``head`` for the batch.
            mos: MOS of the images, same shape as ``pred``.
            inputs: Inputs of the network.
            correlation_weight: Weight of 1 - PLCC.
        """
        return loss_function(pred, mos, correlation_weight)

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of ``encode``, which learn at the backbone learning rate or stay frozen."""
        raise NotImplementedError

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only ``head`` uses."""
        pretrained = {id(p) for p in self.pretrained_parameters()}
        return [p for p in self.parameters() if id(p) not in pretrained]

    def forward(self, rgb: Tensor, scores: Tensor | None = None) -> Tensor:
        """Score a batch of images, differentiable in images and scores.

        Args:
            rgb: sRGB in [0, 1], shape (B, 3, H, W).
            scores: CF and SCC of each image, shape (B, 2); for the realism branch only.

        Returns:
            Scores in (-1, 1), shape (B,).

        Raises:
            TypeError: If the images come in another form, which ``score`` takes.
            ValueError: If the realism branch gets no ``scores``.
        """
        if not isinstance(rgb, Tensor) or rgb.ndim != 4:
            given = f"shape {tuple(rgb.shape)}" if isinstance(rgb, Tensor) else type(rgb).__name__
            raise TypeError(f"expected a tensor (B, 3, H, W), got {given}; score(images) takes images in any other form")
        return self.head(self.encode(self.prepare_batch(rgb)), scores)

    @torch.inference_mode()
    def score(self, images: ImageInput | list[ImageInput]) -> float | list[float]:
        """Score images in evaluation mode.

        Args:
            images: A path, a PIL image, an sRGB array (H, W, 3) or tensor (3, H, W), of uint8 or floating point in [0, 1],
                or a list of such images; an array (B, H, W, 3) or a tensor (B, 3, H, W) is a list of B images.

        Returns:
            One number in [-1, 1] for one image, a list of numbers for a list.
        """
        items, single = as_list(images)
        with one_thread():
            values = [self.score_prepared(self.prepare(p)) for p in items]
        return values[0] if single else values

    @torch.inference_mode()
    def score_prepared(self, inputs: Inputs, maps: Maps | None = None) -> float:
        """Score one image from the result of ``inputs_of``, in a batch of one, so that other images never change a score."""
        training = self.training
        if training:
            self.eval()
        batch = {k: v[None] for k, v in inputs.items()}
        value = float(self.head(self.encode(batch, maps), batch.get("scores")))
        if training:
            self.train()
        return value


class LoadedBatches(nn.Module):
    """A network for the batches of a data loader, as a module, because processes that train together wrap a module.

    Args:
        net: The network.
        encoded: Whether batches hold features from ``net.encode`` in place of inputs.
    """

    def __init__(self, net: ScoreNet, encoded: bool) -> None:
        super().__init__()
        self.net, self.encoded = net, encoded

    def forward(self, batch: Inputs, scores: Tensor | None = None) -> Tensor:
        """Return the scores of a batch; ``scores`` are CF and SCC of its images, shape (B, 2), for the realism branch."""
        return self.net.head(batch if self.encoded else self.net.encode(batch), scores)


class CompactNet(ScoreNet):
    """A branch of the compact ICQA-Net.

    The backbone sees the image and its gray version. The difference of the two features is the effect of color, free of the
    scene: a network that reads the difference cannot mistake a pleasant scene for good color. The ranker (models/ranker.py), a
    network that knows colorizers, ranks the image as well; its rank, times a fixed weight, is added to the output of the head.

    Args:
        backbone: Name of a timm network with feature maps.
        size: Side of the square image that the backbone sees, in pixels.
        ranking: Weight of the ranker; 0 for a branch without one.
    """

    preset = "compact"

    def __init__(self, backbone: str = DEFAULT_BACKBONE, size: int = 224, ranking: float = 0.0) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"backbone": backbone, "size": size, "ranking": ranking}
        self.size = size
        self.preprocess = Preprocess(size)
        self.backbone = Backbone(backbone, size)
        self.ranker = Ranker(backbone, size) if ranking else None

    @property
    def input_key(self) -> tuple:
        return self.preset, self.size

    def preprocessing(self) -> dict[str, Any]:
        return {
            "color": "sRGB, D65",
            "size": self.size,
            "resize": "box average by a whole factor, then antialiased bilinear to a square, 8-bit levels",
        }

    def take_ranker(self, path: Path | None, weight: float = 0.0) -> None:
        """Take the ranker in a file, whose ranks are then added to the head by a weight; without a path, use the head alone.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file has no ranker, or one of another backbone or size.
        """
        self.config["ranking"] = weight if path else 0.0
        self.ranker = None
        if path is None:
            return
        ranker = read_ranker(path)
        if ranker is None:
            raise ValueError(f"{path} has no ranker; train one with train_ranker.py")
        config, tensors = ranker
        for name in ("backbone", "size"):
            if config[name] != self.config[name]:
                raise ValueError(f"{path} has a ranker of --{name} {config[name]}, not {self.config[name]}")
        self.ranker = Ranker(config["backbone"], config["size"]).to(next(self.parameters()).device)
        self.ranker.load_state_dict(tensors)

    def backbone_maps(self, inputs: Inputs) -> Maps:
        """Return backbone maps of prepared images and of their gray versions, each finest first, and ranks of the images."""
        rgb = inputs["rgb"]
        maps = self.backbone(torch.cat((rgb, gray_version(rgb_to_lab(rgb)))))
        ranks = None if self.ranker is None else self.ranker(rgb)
        return [m[: len(rgb)] for m in maps], [m[len(rgb) :] for m in maps], ranks

    def rank_feature(self, maps: Maps) -> Inputs:
        """Return the rank of this dimension as a feature, shape (B,); no feature without a ranker."""
        return {} if maps[2] is None else {"rank": maps[2][:, DIMENSIONS.index(self.dimension)]}

    def bounded(self, value: Tensor, features: Inputs) -> Tensor:
        """Return scores in (-1, 1) from the output of the head and the ranks, shape (B,).

        Training uses the output of the head alone. A head that is fitted beside the ranks learns to undo the ranks on the
        images that the ranker was trained on, and agrees less with people on others (benchmarks/agreement_trials.md).
        """
        if "rank" not in features or self.training:
            return torch.tanh(value)
        return torch.tanh(value + self.config["ranking"] * features["rank"])

    def round_backbone(self) -> None:
        self.backbone.compute_in_bfloat16()
        if self.ranker is not None:
            self.ranker.backbone.compute_in_bfloat16()

    def pretrained_parameters(self) -> list[nn.Parameter]:
        return [*self.backbone.parameters(), *(() if self.ranker is None else self.ranker.parameters())]

    def prepare(self, image: ImageInput) -> Inputs:
        return self.preprocess(to_tensor(image).to(self.device))

    def prepare_batch(self, rgb: Tensor) -> Inputs:
        return stack([self.preprocess(image) for image in rgb])


def as_list(images: ImageInput | list[ImageInput]) -> tuple[list[ImageInput], bool]:
    """Return the images that ``score`` was given as a list, and whether there was a single one."""
    if isinstance(images, list | tuple) or (isinstance(images, Tensor | np.ndarray) and images.ndim == 4):
        return list(images), False
    return [images], True


def with_sub_scores(prepared: Inputs, scores: Mapping[str, float]) -> Inputs:
    """Return the inputs of a realism network for an image: the pixels, and CF and SCC as ``scores``, shape (2,).

    Raises:
        MissingScoreError: If CF or SCC is not there.
    """
    for dimension in ("CF", "SCC"):
        if dimension not in scores:
            raise MissingScoreError(dimension)
    pair = torch.tensor([scores["CF"], scores["SCC"]], dtype=torch.float32, device=prepared["rgb"].device)
    return prepared | {"scores": pair}


def check_sub_scores(scores: Tensor | None) -> Tensor:
    """Return CF and SCC of a batch for a realism network.

    Raises:
        ValueError: If there are none.
    """
    if scores is None:
        raise ValueError("the PR network needs CF and SCC of each image, shape (B, 2)")
    return scores


def sub_score_lists(
    count: int, cf: float | Sequence[float] | None, scc: float | Sequence[float] | None
) -> list[list[float] | None]:
    """Return the given CF and SCC as lists, one score per image, or None if not given; a single number counts for all images.

    Raises:
        ValueError: If the number of scores is not the number of images, or a score is not a number in [-1, 1].
    """
    lists: list[list[float] | None] = []
    for name, scores in (("CF", cf), ("SCC", scc)):
        if scores is None:
            lists.append(None)
            continue
        expected = f"{name} must be a number in [-1, 1], or a list with one per image"
        try:
            values = np.asarray(scores.tolist() if isinstance(scores, Tensor) else scores, dtype=float)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{expected}; got {scores!r}") from error
        values = np.full(count, values) if values.ndim == 0 else values
        if values.shape != (count,):
            shown = len(values) if values.ndim == 1 else values.shape
            raise ValueError(f"{count} image{'s' * (count != 1)} but {shown} {name} scores; {expected}")
        wrong = values[~(abs(values) <= 1)]  # NaN is wrong too
        if len(wrong):
            raise ValueError(f"{expected}, got {wrong[0]:g}; other scales must be mapped to it first")
        lists.append(values.tolist())
    return lists


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, same as in the scripts: the last digits of a sum depend on how the sum is divided."""
    threads = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if threads > 1:
            torch.set_num_threads(threads)


def to_tensor(image: ImageInput) -> Tensor:
    """Return the pixels of an image as a tensor (3, H, W), floating point if the image was, else uint8."""
    if isinstance(image, Tensor):
        return image
    if isinstance(image, str | Path):
        image = read_rgb(Path(image))
    elif isinstance(image, Image.Image):
        image = to_rgb_array(image)
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise TypeError(f"expected a path, a PIL image, a tensor or an array, or a list of such, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3:
        first = image.ndim == 3 and image.shape[0] == 3
        advice = "transpose(1, 2, 0) puts the channels last" if first else "pass the PIL image or the path, which are converted"
        raise ValueError(f"an array must have shape (H, W, 3), got {image.shape}; {advice}")
    if image.dtype.kind == "f":
        image = image.astype(np.float32)
    elif image.dtype != np.uint8:
        raise ValueError(f"an array must be uint8, or floating point in [0, 1], got {image.dtype}; scale it first")
    # PIL's arrays cannot be written to, which torch warns of
    return torch.from_numpy(np.require(image, requirements=("C", "W"))).permute(2, 0, 1)


def stack(items: list[Inputs]) -> Inputs:
    """Return prepared images as one batch."""
    return {key: torch.stack([item[key] for item in items]) for key in items[0]}


class ScoreHead(nn.Sequential):
    """A two-layer perceptron from features of any scale to one number, shape (B, F) to (B,)."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__(
            Standardize(inputs),
            nn.Linear(inputs, width),
            nn.LayerNorm(width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, 1),
            nn.Flatten(0),
        )


class Standardize(nn.Module):
    """A layer that brings each feature to zero mean and unit spread, by estimates that training keeps up to date.

    Unlike batch normalization, the layer uses the estimates in training too: no output depends on the batch, and a batch of
    one is enough.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))  # whole, so that float16 cannot cap it

    def forward(self, x: Tensor) -> Tensor:
        """Standardize features, shape (B, F) in and out."""
        if self.training:
            with torch.no_grad():
                self.learn(distributed.gather_rows(x))  # processes that share a batch learn from all of it
        return self.scale(x)

    def learn(self, x: Tensor) -> None:
        """Update the estimates from features of shape (B, F)."""
        if len(x) > 1:
            self.batches += 1
            step = (1 / self.batches).clamp(min=0.01)
            change = x.mean(0) - self.mean
            self.mean += step * change
            self.variance += step * (x.var(0) + (1 - step) * change.square() - self.variance)

    def scale(self, x: Tensor) -> Tensor:
        """Standardize features by the current estimates, shape (..., F) in and out."""
        return (x - self.mean) / (self.variance + 1e-6).sqrt()


def compress(inputs: int, width: int, dropout: float) -> nn.Sequential:
    """Return a layer that makes few numbers from many features of any scale, shape (B, inputs) to (B, width)."""
    return nn.Sequential(Standardize(inputs), nn.Dropout(dropout), nn.Linear(inputs, width), nn.GELU())


def color_effect(maps: Maps) -> Tensor:
    """Return what color adds to mean and spread of the backbone maps at the two coarser scales.

    Args:
        maps: Result of ``CompactNet.backbone_maps``: maps of the image and of its gray version.

    Returns:
        Differences, shape (B, 2 * sum of D_i); zero for a gray image.
    """
    colored, gray, _ = maps
    return pooled_statistics(colored[1:]) - pooled_statistics(gray[1:])


def loss_function(pred: Tensor, mos: Tensor, correlation_weight: float) -> Tensor:
    """Return the mean squared error plus ``correlation_weight`` times 1 - PLCC of the batch; PLCC ignores level and scale."""
    loss = F.mse_loss(pred, mos)
    if correlation_weight > 0 and len(pred) > 2:
        p, m = pred - pred.mean(), mos - mos.mean()
        plcc = (p * m).sum() / (p.square().sum() * m.square().sum() + 1e-8).sqrt()
        loss = loss + correlation_weight * (1 - plcc)
    return loss

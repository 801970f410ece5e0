"""Published systems behind the interface of our own branches, so that the same code trains, scores and stores them.

A fixed linear map brings the scores of each system to the scale of the MOS: -1 to 1, higher is better.
Scores are not clipped to this range: DPAM and AIGCIQA have no bounds.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import torch
from torch import Tensor, nn

from baselines import afine, aigciqa, delegate_transformer, dpam
from baselines.loading import unwrapped
from models.backbone import UnreachableError
from models.base import ImageInput, Inputs, Maps, ScoreNet, as_list, one_thread, stack, to_tensor
from models.preprocessing import Preprocess
from utils.choices import SYSTEMS

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "dpam": dpam.DPAM,
    "delegate_transformer": delegate_transformer.DelegateTransformer,
    "afine": afine.AFine,
    "nr_aigciqa": partial(aigciqa.AIGCIQA, form="nr"),
    "fr_aigciqa": partial(aigciqa.AIGCIQA, form="fr"),
}


class Baseline(ScoreNet):
    """Published system that gives an image one score or several.

    Args:
        system: One of ``SYSTEMS``.
        columns: Names of the scores.
        settings: Arguments of the system's network, except ``outputs``.

    Attributes:
        dimension: Name of the system, by which a checkpoint is recognized.
        network: The system's network, whose scores are on the system's scale.
        stage: Training stage of A-FINE, 1 to 3, in which ``forward`` returns the ranked quantity; None for scores.
        within_scenes: Whether ratings can be compared within a scene only, as those of A-FINE's triplets; then stage 1 also
            forms no pairs of different scenes.

    Raises:
        ValueError: If there is no such system or setting, or a setting is refused.
    """

    preset = "baseline"
    network: Any  # one of _NETWORKS, which have no class in common

    def __init__(self, system: str, columns: Sequence[str], settings: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if system not in _NETWORKS:
            raise ValueError(f"the system must be one of {', '.join(SYSTEMS)}, got {system!r}")
        self.dimension = system
        if system == "nr_aigciqa" and "form" in (settings or {}):
            raise ValueError("nr_aigciqa is the form nr; the forms fr and partial are of fr_aigciqa")
        self._names = list(columns)
        _check_settings(system, settings or {})
        try:
            self.network = _NETWORKS[system](outputs=len(self._names), **(settings or {}))
        except (TypeError, AssertionError, ArithmeticError, RuntimeError) as error:  # values that make no network
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{system} cannot be built with {_listed(settings or {})}: {reason}") from error
        self.stage: int | None = None
        self.within_scenes = False

    # --- What it is

    @property
    def columns(self) -> list[str]:
        return self._names

    @property
    def config(self) -> dict[str, Any]:
        """Return everything needed to rebuild the network; computed anew, since loading official weights changes settings."""
        settings = {name: value for name, value in self.network.config.items() if name != "outputs"}
        if self.dimension == "nr_aigciqa":
            del settings["form"]
        return {"system": self.dimension, "columns": self.columns, "settings": settings}

    @property
    def size(self) -> int:
        return self.network.size

    @property
    def input_key(self) -> tuple:
        return self.preset, self.dimension

    @property
    def uses_reference(self) -> bool:
        """Return whether the system reads the original beside the image."""
        settings = self.network.config
        return settings.get("full_reference", False) or settings.get("form", "nr") != "nr"

    @property
    def needs_reference(self) -> bool:
        """Return whether the system cannot score without the original."""
        return self.uses_reference and self.network.config.get("form") != "partial"

    @property
    def ranks_within_scenes(self) -> bool:
        """Return whether the system is trained on pairs of one scene, so that batches must hold images of the same scene."""
        return self.stage in (2, 3) or (self.stage == 1 and self.within_scenes)

    @property
    def scoring_batch(self) -> int:
        """Return 1 if a score depends on the batch or images keep their native size, else 8."""
        settings = self.network.config
        return 1 if settings.get("reference_mode") == "batch_mean" or settings.get("native", False) else 8

    def preprocessing(self) -> dict[str, Any]:
        settings = self.config["settings"]
        return {"system": self.dimension} | {f"setting {name}": value for name, value in settings.items()}

    # --- Images

    def prepare(self, image: ImageInput, reference: ImageInput | None = None, superpixels: Tensor | None = None) -> Inputs:
        """Prepare the tensors of one image for scoring.

        Args:
            image: Image in any form that ``score`` takes.
            reference: Original of the image in any such form; None where there is none.
            superpixels: Superpixels for DPAM, if they were kept.

        Raises:
            ImageReadError: If a path is no readable image.
            ValueError: If the image has another form, or the system needs a reference and there is none.
        """
        pixels = to_tensor(image)
        if self.dimension == "dpam":
            return self.network.preprocess(pixels, superpixels)
        original = None if reference is None or not self.uses_reference else self.network.preprocess(to_tensor(reference))
        return self._paired(self.network.preprocess(pixels), original)

    def view(self, image: Tensor, reference: Tensor | None, superpixels: Tensor | None, generator: torch.Generator) -> Inputs:
        """Prepare a random view for training, by the system's augmentation; images are tensors (3, H, W)."""
        if self.dimension == "dpam":
            return self.network.augment(image, generator, superpixels)
        if self.dimension == "delegate_transformer":
            return {"rgb": self.network.augment(image, generator)}
        original = reference if self.uses_reference else None
        return self._paired(*self.network.augment(image, original, generator))

    def _paired(self, rgb: Tensor, original: Tensor | None) -> Inputs:
        if not self.uses_reference:
            return {"rgb": rgb}
        if original is None and self.needs_reference:
            raise ValueError(f"{self.dimension} compares an image with its original, and there is none; pass --reference")
        if self.needs_reference:
            return {"rgb": rgb, "reference": original}
        there = torch.tensor(original is not None)
        return {"rgb": rgb, "reference": torch.zeros_like(rgb) if original is None else original, "has_reference": there}

    def prepare_batch(self, rgb: Tensor) -> Inputs:
        return stack([self.prepare(image) for image in rgb])

    # --- Scores

    def encode(self, inputs: Inputs, maps: Maps | None = None) -> Inputs:
        passed = {"scene": inputs["scene"]} if "scene" in inputs else {}
        if self.dimension == "afine":
            reference = None if self.stage == 1 else inputs.get("reference")
            return self.network.moments(inputs["rgb"], reference) | passed
        views = {name: x for name, x in inputs.items() if name != "scene"}
        if self.dimension.endswith("aigciqa"):
            return {"features": self.network.features(**views)} | passed
        return {"own scale": self.network(**views)} | passed

    def head(self, features: Inputs, scores: Tensor | None = None) -> Tensor:
        """Return scores, higher is better, about -1 to 1, shape (B,), or (B, K) with K > 1 columns.

        In a stage of A-FINE return the ranked quantity with the sign changed, which has no fixed scale.
        """
        if self.dimension == "afine":
            moments = {name: x for name, x in features.items() if name != "scene"}
            if self.stage is not None:
                ranked = {1: self.network.raw_naturalness, 2: self.network.raw_fidelity, 3: self.network.distance}
                return self._columns(-ranked[self.stage](moments))
            return self._columns(self.on_mos_scale(self.network(moments)))
        if self.dimension.endswith("aigciqa"):
            return self._columns(self.on_mos_scale(self.network.regressor(features["features"])))
        return self._columns(self.on_mos_scale(features["own scale"]))

    def _columns(self, scores: Tensor) -> Tensor:
        return scores[:, 0] if len(self.columns) == 1 else scores

    def _ends(self) -> tuple[float, float]:
        """Return the worst and the best MOS on the system's scale."""
        low, high = self.network.score_range
        return (low, high) if getattr(self.network, "higher_is_better", True) else (high, low)

    def on_mos_scale(self, own: Tensor) -> Tensor:
        """Map scores of the system's scale to the MOS: -1 for its worst, 1 for its best."""
        worst, best = self._ends()
        return (2 * own - (worst + best)) / (best - worst)

    def on_own_scale(self, score: Tensor) -> Tensor:
        """Map MOS to the system's scale, the inverse of ``on_mos_scale``."""
        worst, best = self._ends()
        return ((best - worst) * score + (worst + best)) / 2

    def loss(self, pred: Tensor, mos: Tensor, inputs: Inputs, correlation_weight: float = 0.0) -> Tensor:
        """Compute the system's training loss; missing ratings (NaN) are left out.

        Args:
            pred: Result of ``head``.
            mos: MOS of the same shape.
            inputs: Inputs of the network.
            correlation_weight: Not used, since no published system has such a term.
        """
        pred, mos = pred.reshape(len(pred), -1), mos.reshape(len(mos), -1)
        if self.stage is not None:
            return afine.batch_loss(-pred, mos, group=inputs["scene"] if self.ranks_within_scenes else None)
        raw, label = self.on_own_scale(pred), self.on_own_scale(mos)
        if self.dimension == "dpam":
            return dpam.rating_loss(raw, label)
        if self.dimension == "delegate_transformer":
            return delegate_transformer.training_loss(raw, label)
        if self.dimension == "afine":
            raise ValueError("A-FINE is trained in stages; call set_stage first")
        return aigciqa.rating_loss(raw, label)

    @torch.inference_mode()
    def score_columns(self, inputs: Inputs) -> dict[str, float]:
        """Score one prepared image, by column, in a batch of one, so that other images never change a score."""
        features = self.encode({name: x[None].to(self.device) for name, x in inputs.items()})
        values = self.head(features).float().reshape(-1).tolist()
        return dict(zip(self.columns, values, strict=True))

    @torch.inference_mode()
    def score(self, images: ImageInput | list[ImageInput], references: ImageInput | list[ImageInput] | None = None) -> Any:
        """Score images in evaluation mode.

        Args:
            images: Same as in ``ScoreNet.score``.
            references: Original of each image, for a system that reads originals; None in a list where there is none.

        Returns:
            For one image a number, or with several columns a dictionary; for a list a list of these.
        """
        items, single = as_list(images)
        originals = [None] * len(items) if references is None else [references] if single else list(references)
        if len(originals) != len(items):
            raise ValueError(f"{len(items)} images but {len(originals)} references")
        with one_thread():
            rows = [self.score_columns(self.prepare(p, r)) for p, r in zip(items, originals, strict=True)]
        scores = [row if len(row) > 1 else next(iter(row.values())) for row in rows]
        return scores[0] if single else scores

    # --- Training

    def reader(self) -> "Baseline":
        """Return a copy without weights that prepares images equally and is small enough for every reading process."""
        with torch.device("meta"):
            twin = Baseline(self.dimension, self.columns, self.config["settings"])
        if self.dimension == "afine":
            twin.network.resize = Preprocess(self.size)
        return twin

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that start weights set; none in stages of A-FINE that freeze the tower."""
        return [] if self.stage in (2, 3) else self.network.pretrained_parameters()

    def head_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in super().head_parameters() if parameter.requires_grad]

    @property
    def keeps_features(self) -> bool:
        """Return whether the result of ``encode`` can be kept while the pretrained part is frozen."""
        return self.dimension in ("afine", "nr_aigciqa", "fr_aigciqa")

    def train(self, mode: bool = True) -> "Baseline":
        """Set the training mode; a frozen backbone also keeps its batch statistics."""
        super().train(mode)
        parameters = self.pretrained_parameters()
        if parameters and not any(parameter.requires_grad for parameter in parameters) and self.dimension.endswith("aigciqa"):
            self.network.backbone.eval()
        return self

    def set_stage(self, stage: int | None) -> None:
        """Set the training stage of A-FINE; None after training.

        Raises:
            ValueError: If this is another system, or there is no such stage.
        """
        if self.dimension != "afine":
            raise ValueError(f"{self.dimension} is not trained in stages")
        if stage is None:
            self.network.requires_grad_(True)
        else:
            self.network.set_stage(stage)
        self.stage = stage

    # --- Weights

    def start(self, weights: Path | None) -> str:
        """Start the pretrained part from a file, or from the authors' start weights; return a report in words.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file does not fit.
            UnreachableError: If the hub cannot be reached; names the file to download.
        """
        try:
            return str(self.network.load_backbone(weights))
        except UnreachableError as error:
            raise UnreachableError(f"{self.dimension}: {error}") from error


def _check_settings(system: str, settings: Mapping[str, Any]) -> None:
    """Refuse unknown settings and wrong types, since some of them would fail only while scoring."""
    known = inspect.signature(_NETWORKS[system]).parameters
    names = [name for name in known if name != "outputs" and not (system == "nr_aigciqa" and name == "form")]
    for name, value in settings.items():
        if name not in names:
            raise ValueError(f"{system} has no setting {name}; it has {', '.join(names)}")
        kind, usual = known[name].annotation, json.dumps(known[name].default)
        none_left = int in (kind, *get_args(kind)) and isinstance(value, int) and value < 1  # no side, width or count can be 0
        if none_left or not _is_of(value, kind):
            raise ValueError(f"{system}: {name} cannot be {json.dumps(value)}; expected JSON such as its default, {usual}")


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a value is of an annotated type; a list counts as any sequence."""
    if isinstance(kind, UnionType):
        return any(_is_of(value, one) for one in get_args(kind))
    if get_origin(kind) in (tuple, list, Sequence):
        return isinstance(value, list | tuple) and all(_is_of(part, get_args(kind)[0]) for part in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


def _listed(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "its defaults"


def official_columns(system: str, content: Mapping[str, Any]) -> list[str]:
    """Return the names of the scores that a file of the authors holds."""
    if system == "delegate_transformer":
        gated = any("class_head2" in key or ".ref_gate." in key for key in unwrapped(content, system))
        return ["overall", "color"] if gated else ["colorfulness"]
    return ["quality"]

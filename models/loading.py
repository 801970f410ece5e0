"""Loading a network from a weight file, ready to score, and the places of shipped and published files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.base import ScoreNet
from models.chromatic import ChromaticFidelityNet
from models.color_prior import ColorPriorNet
from models.ranker import Ranker
from models.realism import PerceptualRealismNet
from models.semantic import SemanticConsistencyNet
from utils.checkpoint import check_format, describe_weights, is_own, published_dimension, read_weights, seen_by
from utils.choices import DIMENSIONS, PRESETS, SHIPPED
from utils.files import sha256


def build_model(content: dict[str, Any], source: str, networks: Mapping[str, type[nn.Module]] | None = None) -> Any:
    """Rebuild the network of a checkpoint, without any download.

    Args:
        content: Content of the checkpoint.
        source: File of the checkpoint, for errors.
        networks: Networks by dimension; None for those of the preset that the checkpoint names.

    Raises:
        ValueError: If the tensors are not those of the network that the checkpoint names.
    """
    networks = networks_of(content.get("preset", "compact"), source) if networks is None else networks
    dimension = content.get("dimension")
    if not isinstance(dimension, str) or dimension not in networks:
        raise ValueError(f"{source}: dimension is {dimension!r}, expected one of {', '.join(networks)}")
    try:
        model = networks[dimension](**content["config"])
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in content["model"].items()})
    except (RuntimeError, TypeError, KeyError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{source} does not hold a {dimension} network of this version: {reason}") from error
    if isinstance(model, PerceptualRealismNet):
        model.load_branches = shipped_branches
    return model


def shipped_branches(device: torch.device) -> tuple[ScoreNet, ScoreNet]:
    """Load the shipped CF and SCC networks, which compute the scores that a PR network is not given."""
    return load_model("CF", device), load_model("SCC", device)


def networks_of(preset: str, source: str = "--preset") -> Mapping[str, type[nn.Module]]:
    """Return the networks of a preset by dimension.

    Raises:
        ValueError: If there is no such preset.
    """
    if preset == "compact":
        branches = {
            net.dimension: net for net in (ChromaticFidelityNet, SemanticConsistencyNet, PerceptualRealismNet, ColorPriorNet)
        }
        return {**branches, Ranker.dimension: Ranker}
    if preset == "published":
        from models.published import NETWORKS  # slow to import, and few need it

        return NETWORKS
    hint = "; infer_baseline.py scores with files of train_baseline.py" if preset == "baseline" else ""
    raise ValueError(f"{source}: preset is {preset!r}, expected one of {', '.join(PRESETS)}{hint}")


def find_published(name: str, *also: Path) -> Path:
    """Find a file of the published repository in the current folder, beside our scripts, in ``weights/`` or in other folders.

    Raises:
        FileNotFoundError: If the file is in none of them; says where to get the file and where to put it.
    """
    folders = list(dict.fromkeys((Path().resolve(), SHIPPED.parent, SHIPPED, *(folder.resolve() for folder in also))))
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(
        f"no {name} in {', '.join(map(str, folders))}; get it from the authors of the published ICQA-Net "
        "(https://github.com/ARBEZ-ZEBRA/ICQA), put it there or name it on the command line (docs/reproduce.md)"
    )


def load_prior(weights: str | Path) -> ColorPriorNet:
    """Load the network of a color prior, from a file of tools/train_color_prior.py or from an SCC network, which has one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no color prior.
    """
    model = load_model(weights)
    if not isinstance(model, ColorPriorNet):
        raise ValueError(f"{weights} holds a {model.dimension} network without a color prior; expected one, or an SCC network")
    return model


def load_model(
    weights: str | Path,
    device: str | torch.device = "cpu",
    dimension: str | None = None,
    preset: str | None = None,
    attention: str | None = None,
) -> ScoreNet:
    """Load a trained network, ready to score.

    Args:
        weights: "CF", "SCC" or "PR" for the shipped weights (for the published file of that name, if ``preset`` is
            "published"), or the path of one of our checkpoints or of a published weight file.
        device: Device of the network.
        dimension: The dimension that the caller needs; None takes any.
        preset: The preset that the caller needs, "compact" or "published"; None takes any.
        attention: Graph of the object attention of a published SCC network, "infer" or "train"; None for its own.

    Returns:
        The network in evaluation mode, with ``source``, ``weights_hash`` and ``seen``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds no network or another one than needed.
        TypeError: If ``weights`` is no path.
    """
    if not isinstance(weights, str | os.PathLike):
        raise TypeError(f"expected CF, SCC, PR or the path of a checkpoint, got {weights!r}")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset must be {' or '.join(PRESETS)}, got {preset!r}")
    if str(weights) in DIMENSIONS:
        path = find_published(f"{weights}.pth") if preset == "published" else SHIPPED / f"{weights}.pt"
    else:
        path = Path(weights)
    content = read_weights(path)
    if is_own(content):
        held, kind = content.get("dimension"), content.get("preset", "compact")
        networks_of(kind, str(path))  # refuses a file of train_baseline.py
    else:
        held, kind = published_dimension(content), "published"
        if held is None:
            check_format(content, path)  # raises an error that describes the file
    if dimension is not None and held != dimension:
        raise ValueError(f"{path} holds a {held} network, expected {dimension}")
    if preset is not None and kind != preset:
        raise ValueError(f"{path} holds {describe_weights(content)}; expected one of the preset {preset}")
    if is_own(content):
        model: Any = build_model(content, str(path))
        model.seen = seen_by(content) if content.get("seen_is_all", True) else None
    else:
        from models.published import from_published

        model = from_published(content, str(path), copy=False)
        model.seen = None
    if attention is not None:
        if kind != "published" or held != "SCC":
            raise ValueError(f"--attention is for a published SCC network; {path} holds a {kind} {held} network")
        model.set_attention(attention)
    model = model.to(device).eval()
    model.weights_hash = sha256(path)
    model.source = path
    return model

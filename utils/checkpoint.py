"""Saving and loading weights: plain tensors, numbers and strings, read with ``weights_only``, written atomically."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.files import sha256, write_atomic

FORMAT = "ICQA checkpoint 1"
SHIPPED = Path(__file__).resolve().parents[1] / "weights"
DIMENSIONS = ("CF", "SCC", "PR")


def save_checkpoint(path: Path, model: nn.Module, half: bool = False, **extra: Any) -> None:
    """Write a network with all it takes to rebuild it.

    Args:
        path: File to write, replaced whole or not at all.
        model: One of the three networks.
        half: Store weights as float16, half the size; ``load_model`` computes in float32 all the same.
        extra: Tensors, numbers, strings and containers of them, e.g. ``metrics`` and ``command``.

    Raises:
        ValueError: If a weight is too large for float16.
    """
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    if half:
        full = state
        state = {k: v.half() if v.is_floating_point() else v for k, v in full.items()}
        overflown = [k for k, v in state.items() if (v.isinf() & ~full[k].isinf()).any()]
        if overflown:
            raise ValueError(f"{path}: {overflown[0]} holds values beyond the range of float16 (65504); save without half")
    content = {
        "format": FORMAT,
        "dimension": model.dimension,
        "preset": "compact",
        "config": dict(model.config),
        "preprocessing": preprocessing(model),
        "model": state,
        **extra,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def preprocessing(model: nn.Module) -> dict[str, Any]:
    """What happens to a picture before the network, in words and numbers."""
    return {
        "color": "sRGB, D65",
        "size": model.preprocess.size,
        "resize": "box average by a whole factor, then antialiased bilinear to a square, 8-bit levels",
        "chroma_grid": model.preprocess.grid,
    }


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint file, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds code, or is no checkpoint of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}; the shipped ones lie in {SHIPPED}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly any kind, from IndexError to struct.error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # whose own text tells how to run the code in the file
            reason = "damaged, or more in it than tensors, numbers and strings"
        raise ValueError(
            f"{path} cannot be read as weights ({reason}); expected a checkpoint written by train_CF.py, train_SCC.py or "
            "train_PR.py; fetch or train it again if it is damaged"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        kind = f"a dictionary with {', '.join(map(str, list(content)[:4]))}" if isinstance(content, dict) else type(content)
        raise ValueError(f"{path} is no checkpoint of this project (format {FORMAT!r} expected, found {kind})")
    return content


def build_model(content: dict[str, Any], source: str) -> nn.Module:
    """Rebuild the network of a checkpoint; downloads nothing.

    Raises:
        ValueError: If the tensors are not those of the network that the checkpoint names.
    """
    from models import ChromaticFidelityNet, PerceptualRealismNet, SemanticConsistencyNet

    networks = {net.dimension: net for net in (ChromaticFidelityNet, SemanticConsistencyNet, PerceptualRealismNet)}
    dimension = content.get("dimension")
    if not isinstance(dimension, str) or dimension not in networks:
        raise ValueError(f"{source}: dimension is {dimension!r}, expected one of {', '.join(networks)}")
    try:
        model = networks[dimension](**content["config"])
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in content["model"].items()})
    except (RuntimeError, TypeError, KeyError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{source} does not hold a {dimension} network of this version: {reason}") from error
    return model


def seen_by(content: dict[str, Any]) -> tuple[frozenset[int], frozenset[int]]:
    """File sizes and fingerprints (``picture_id``) of the pictures that the network of a checkpoint was trained on."""
    seen = content.get("seen")
    if seen is None:
        return frozenset(), frozenset()
    if not isinstance(seen, torch.Tensor) or seen.ndim != 2 or seen.shape[1] != 2:
        raise ValueError(
            f"a checkpoint's record of training pictures must have shape (N, 2), got {getattr(seen, 'shape', seen)}"
        )
    return frozenset(seen[:, 0].tolist()), frozenset(seen[:, 1].tolist())


def load_model(weights: str | Path, device: str | torch.device = "cpu", dimension: str | None = None) -> nn.Module:
    """Load a trained network, ready to score.

    Args:
        weights: "CF", "SCC" or "PR" for the shipped weights, or the path of a checkpoint.
        device: Where to put the network.
        dimension: The dimension that the caller needs; None takes what the file holds.

    Returns:
        The network in evaluation mode. ``weights_hash`` is the SHA-256 of the file; ``seen`` holds the file sizes and the
        fingerprints (``picture_id``) of the pictures it was trained on.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, is no checkpoint of ours or holds another dimension.
    """
    path = SHIPPED / f"{weights}.pt" if str(weights) in DIMENSIONS else Path(weights)
    content = read_checkpoint(path)
    if dimension is not None and content.get("dimension") != dimension:
        raise ValueError(f"{path} holds a {content.get('dimension')} network, expected {dimension}")
    model = build_model(content, str(path)).to(device).eval()
    model.weights_hash = sha256(path)
    model.seen = seen_by(content)
    return model

"""Saving and loading of weights: plain tensors, numbers and strings, read with ``weights_only``, written atomically."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.choices import SHIPPED
from utils.files import write_atomic

FORMAT = "ICQA checkpoint 1"
_EXPECTED = "expected a checkpoint of train_CF.py, train_SCC.py or train_PR.py, or a published CF.pth, SCC.pth or PR.pth"
# of the published files: a tensor that only the file of this dimension has, and the name of its backbone
_MARKS = {"CF": "chroma_head.0.weight", "SCC": "class_embedding.weight", "PR": "score_fc.0.weight"}
PUBLISHED_BACKBONE_NAMES = {"CF": "vit", "SCC": "backbone", "PR": "naturalness_extractor"}


def save_checkpoint(path: Path, model: Any, half: bool = False, **extra: Any) -> None:
    """Write a network with all that is needed to rebuild it.

    Args:
        path: File to write, replaced whole or not at all.
        model: One of the three networks.
        half: Whether to store weights as float16, half the size; ``load_model`` computes in float32 all the same.
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
        "preset": model.preset,
        "config": dict(model.config),
        "preprocessing": model.preprocessing(),
        "model": state,
        **extra,
    }
    write_atomic(path, lambda file: torch.save(content, file))


def read_weights(path: Path) -> Any:
    """Read the tensors, numbers and strings of a weight file, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or holds code.
    """
    path = Path(path)
    if not path.is_file():
        what = f"{path} is a folder, not a file of weights" if path.is_dir() else f"no weights at {path}"
        raise FileNotFoundError(f"{what}; the shipped ones lie in {SHIPPED} and are named CF, SCC or PR, without a path")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly any kind, from IndexError to struct.error
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        elif path.stat().st_size == 0:
            reason = "it is empty"
        else:  # torch's own message tells how to run the code in the file, or names source lines of torch
            reason = "damaged, or more in it than tensors, numbers and strings"
        raise ValueError(
            f"{path} cannot be read as weights ({reason}); {_EXPECTED}; fetch or train it again if it is damaged"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds code, or is no checkpoint of ours.
    """
    return check_format(read_weights(path), path)


def is_own(content: Any) -> bool:
    """Tell whether the content of a weight file is a checkpoint of ours."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def check_format(content: Any, path: Path) -> dict[str, Any]:
    """Return the content of a weight file if it is a checkpoint of ours.

    Raises:
        ValueError: If it is none.
    """
    if not is_own(content):
        kind = describe_weights(content)
        raise ValueError(f"{path} is no checkpoint of this project (format {FORMAT!r} expected, found {kind}); {_EXPECTED}")
    return content


def describe_weights(content: Any) -> str:
    """Return a description of the content of a weight file."""
    if is_own(content):
        return f"a network of {content.get('dimension')}, preset {content.get('preset', 'compact')}"
    published = published_dimension(content)
    if published is not None:
        return f"a network of {published}, preset published"
    if isinstance(content, dict):
        names = [str(name)[:60] for name in content]
        return f"a dictionary with {', '.join(names[:4])}" if names else "an empty dictionary"
    return f"no dictionary but one {type(content).__name__}"


def seen_by(content: dict[str, Any]) -> tuple[frozenset[int], frozenset[int]]:
    """Return file sizes and fingerprints (``image_id``) of the images that the network of a checkpoint was trained on."""
    rows = content.get("seen")
    if rows is None:
        return frozenset(), frozenset()
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2 or rows.shape[1] != 2:
        raise ValueError(f"a checkpoint's record of training images must have shape (N, 2), got {getattr(rows, 'shape', rows)}")
    return frozenset(rows[:, 0].tolist()), frozenset(rows[:, 1].tolist())


def published_dimension(content: Any) -> str | None:
    """Return CF, SCC or PR for the content of a published weight file, else None."""
    state = unwrapped(content) or {}
    marked = [dimension for dimension, key in _MARKS.items() if key in state]
    if len(marked) != 1 or not any(k.startswith(f"{PUBLISHED_BACKBONE_NAMES[marked[0]]}.") for k in state):
        return None
    return marked[0]


def unwrapped(content: Any) -> dict[str, Tensor] | None:
    """Return the state dict in a content, without wrapper and DataParallel's prefix; None if the content holds none."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        return None
    if all(isinstance(k, str) and k.startswith("module.") for k in content):
        content = {k.removeprefix("module."): v for k, v in content.items()}
    return dict(content)

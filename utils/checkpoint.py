"""Saving and loading weights: plain tensors, numbers and strings, read with ``weights_only``, written atomically."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.choices import DIMENSIONS, PRESETS, SHIPPED
from utils.files import sha256, write_atomic

FORMAT = "ICQA checkpoint 1"
_EXPECTED = "expected a checkpoint of train_CF.py, train_SCC.py or train_PR.py, or a published CF.pth, SCC.pth or PR.pth"


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
        "preset": model.preset,
        "config": dict(model.config),
        "preprocessing": model.preprocessing(),
        "model": state,
        **extra,
    }
    write_atomic(path, lambda file: torch.save(content, file))


def read_weights(path: Path) -> Any:
    """Whatever tensors, numbers and strings a weight file holds, on the CPU.

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
        else:  # not in torch's own words, which tell how to run the code in the file, or name its source lines
            reason = "damaged, or more in it than tensors, numbers and strings"
        raise ValueError(
            f"{path} cannot be read as weights ({reason}); {_EXPECTED}; fetch or train it again if it is damaged"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint of ours, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds code, or is no checkpoint of ours.
    """
    return check_format(read_weights(path), path)


def is_own(content: Any) -> bool:
    """Whether a weight file's content is a checkpoint of ours."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def check_format(content: Any, path: Path) -> dict[str, Any]:
    """The content, if it is a checkpoint of ours.

    Raises:
        ValueError: If it is not.
    """
    if not is_own(content):
        found = described(content)
        raise ValueError(f"{path} is no checkpoint of this project (format {FORMAT!r} expected, found {found}); {_EXPECTED}")
    return content


def described(content: Any) -> str:
    """Return what a weight file holds, in words."""
    if is_own(content):
        return f"a network of {content.get('dimension')}, preset {content.get('preset', 'compact')}"
    from models.published import published_dimension

    published = published_dimension(content)
    if published is not None:
        return f"a network of {published}, preset published"
    if isinstance(content, dict):
        names = [str(name)[:60] for name in content]
        return f"a dictionary with {', '.join(names[:4])}" if names else "an empty dictionary"
    return f"no dictionary but one {type(content).__name__}"


def build_model(content: dict[str, Any], source: str) -> nn.Module:
    """Rebuild the network of a checkpoint; downloads nothing.

    Raises:
        ValueError: If the tensors are not those of the network that the checkpoint names.
    """
    networks = networks_of(content.get("preset", "compact"), source)
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


def networks_of(preset: str, source: str = "--preset") -> dict[str, type[nn.Module]]:
    """The three networks of a preset by dimension.

    Raises:
        ValueError: If there is no such preset.
    """
    if preset == "compact":
        from models import ChromaticFidelityNet, PerceptualRealismNet, SemanticConsistencyNet
        from models.color_prior import ColorPriorNet
        from models.ranker import Ranker

        networks = (ChromaticFidelityNet, SemanticConsistencyNet, PerceptualRealismNet, ColorPriorNet, Ranker)
        return {net.dimension: net for net in networks}
    if preset == "published":
        from models.published import NETWORKS

        return NETWORKS
    if preset == "baseline":
        from baselines.scorer import SYSTEMS, Baseline

        return dict.fromkeys(SYSTEMS, Baseline)
    raise ValueError(f"{source}: preset is {preset!r}, expected one of {', '.join(PRESETS)}")


def find_published(name: str, *also: Path) -> Path:
    """A file of the published repository: in the current folder, beside our scripts, in ``weights/``, or in folders named.

    Raises:
        FileNotFoundError: If it is in none of them; says where to get it and where to put it.
    """
    folders = list(dict.fromkeys((Path().resolve(), SHIPPED.parent, SHIPPED, *(folder.resolve() for folder in also))))
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(
        f"no {name} in {', '.join(map(str, folders))}; get it from the authors of the published ICQA-Net "
        "(https://github.com/ARBEZ-ZEBRA/ICQA), put it there or name it on the command line (docs/reproduce.md)"
    )


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


def load_prior(weights: str | Path) -> nn.Module:
    """Load the network of a color prior, from a file of tools/train_color_prior.py or from an SCC network, which has one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds neither.
    """
    model = load_model(weights)
    if model.dimension not in ("prior", "SCC") or model.preset != "compact":
        raise ValueError(f"{weights} holds a {model.dimension} network without a color prior; expected one, or an SCC network")
    return model


def load_model(
    weights: str | Path,
    device: str | torch.device = "cpu",
    dimension: str | None = None,
    preset: str | None = None,
    attention: str | None = None,
) -> nn.Module:
    """Load a trained network, ready to score.

    Args:
        weights: "CF", "SCC" or "PR" for the shipped weights (for the published file of that name, if ``preset`` is
            "published"), or the path of a checkpoint of ours or of a published one; the file tells which it is.
        device: Where to put the network.
        dimension: The dimension that the caller needs; None takes what the file holds.
        preset: The preset that the caller needs, "compact" or "published"; None takes what the file holds.
        attention: Graph of the object attention of a published SCC network, "infer" or "train"; None for its own.

    Returns:
        The network in evaluation mode. ``source`` is the file, ``weights_hash`` its SHA-256; ``seen`` holds the file sizes and
        the fingerprints (``picture_id``) of the pictures it was trained on, None if the file does not say.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or holds no network or not the one that is needed.
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
        found, kind = content.get("dimension"), content.get("preset", "compact")
    else:
        from models.published import from_published, published_dimension

        found, kind = published_dimension(content), "published"
        if found is None:
            check_format(content, path)  # which says what it is
    if dimension is not None and found != dimension:
        raise ValueError(f"{path} holds a {found} network, expected {dimension}")
    if preset is not None and kind != preset:
        raise ValueError(f"{path} holds {described(content)}; expected one of the preset {preset}")
    if is_own(content):
        model = build_model(content, str(path))
        model.seen = seen_by(content) if content.get("seen_is_all", True) else None
    else:
        model = from_published(content, str(path), copy=False)
        model.seen = None
    if attention is not None:
        if kind != "published" or found != "SCC":
            raise ValueError(f"--attention is for a published SCC network; {path} holds a {kind} {found} network")
        model.set_attention(attention)
    model = model.to(device).eval()
    model.weights_hash = sha256(path)
    model.source = path
    return model

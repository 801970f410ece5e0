"""Start weights of a system, shared by train_baseline.py and infer_baseline.py."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from baselines.scorer import Baseline, official_columns
from models.loading import build_model
from utils.arguments import network_settings
from utils.checkpoint import describe_weights, is_own, published_dimension, read_weights, seen_by
from utils.choices import SYSTEMS
from utils.files import sha256


def load_baseline(args: argparse.Namespace, columns: list[str] | None) -> Baseline:
    """Load the network of ``--weights``: a checkpoint of train_baseline.py, or a file of the authors, with a printed report.

    Args:
        args: Arguments with ``system``, ``weights``, ``set`` and ``naturalness``.
        columns: Names of the scores; None for those of the file. For a checkpoint they must equal its names.

    Returns:
        The network in evaluation mode, with ``source``, ``weights_hash`` and ``seen`` as set by ``load_model``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or belongs to another system or other settings.
    """
    path, settings = Path(args.weights), network_settings(args)
    expected = f"expected a checkpoint of train_baseline.py {args.system}, or a file of its authors (docs/baselines.md)"
    content = _read(path, expected)
    if is_own(content):
        if content.get("preset") != "baseline" or content.get("dimension") != args.system:
            raise ValueError(f"{path} holds {describe_weights(content)}; {expected}")
        model = build_model(content, str(path), dict.fromkeys(SYSTEMS, Baseline))
        if columns is not None and columns != model.columns:
            raise ValueError(f"{path} scores {', '.join(model.columns)}, not {', '.join(columns)}; see --target and --columns")
        if settings.pop("full_reference", None) is False:
            model.network.set_full_reference(False)
        if settings:
            raise ValueError(f"{path} has settings of its own; leave out --set {' '.join(settings)}")
        model.seen = seen_by(content) if content.get("seen_is_all", True) else None
    else:
        if not isinstance(content, dict) or not content or published_dimension(content) is not None:
            raise ValueError(f"{path} holds {describe_weights(content)}; {expected}")
        model = Baseline(args.system, columns or official_columns(args.system, content), settings)
        asked = {name: model.network.config[name] for name in settings}
        try:
            print(model.network.load_official(content, source=str(path)))
        except ValueError as error:
            raise ValueError(f"{error}; {expected}") from error
        changed = {name: model.network.config[name] for name, value in asked.items() if model.network.config[name] != value}
        if changed:
            now = ", ".join(f"{name}={json.dumps(value)}" for name, value in changed.items())
            raise ValueError(f"{path} is a file of the authors, which goes with {now}; leave out --set {' '.join(changed)}")
        model.seen = None
    model.source, model.weights_hash = path, sha256(path)
    return model.eval()


def _read(path: Path, expected: str) -> Any:
    """Read a weight file; errors say what is expected of a baseline."""
    if not path.is_file():
        what = f"{path} is a folder, not a file of weights" if path.is_dir() else f"no weights at {path}"
        raise FileNotFoundError(f"{what}; {expected}")
    try:
        return read_weights(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights: it is damaged, or holds more than tensors; {expected}") from error


def random_baseline(args: argparse.Namespace, columns: list[str], seed: int = 0) -> Baseline:
    """Build a network with random weights, the same for the same seed."""
    torch.manual_seed(seed)
    model = Baseline(args.system, columns, network_settings(args))
    model.source, model.weights_hash, model.seen = Path(), f"random, seed {seed}", (frozenset(), frozenset())
    return model.eval()

"""Weight files of the published systems: open, unwrap and compare them, and report on each tensor."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from models.backbone import UnreachableError, read_state

_WRAPPERS = ("state_dict", "model_state_dict", "model", "params")  # names that scripts of training put around weights
_PREFIX = re.compile(r"(module\.)?(network\.)?")  # of DataParallel, and of our own checkpoints
_SHOWN = 8  # forms of names in a line of a report


@dataclass(frozen=True)
class LoadReport:
    """Report on the tensors of a file and of the network; ``str`` gives names and counts, one line each.

    Attributes:
        source: The file, or another origin, in words.
        loaded: Names of the loaded tensors in the file, without prefixes.
        ignored: Reason by name, for tensors of the file that were not loaded.
        fresh: Names of the network's tensors that the file does not have and that were left unchanged.
    """

    source: str
    loaded: list[str]
    ignored: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded from {self.source}: {_listing(self.loaded)}"]
        for reason in dict.fromkeys(self.ignored.values()):
            names = [name for name, why in self.ignored.items() if why == reason]
            lines.append(f"{len(names)} ignored, {reason}: {_listing(names)}")
        if self.fresh:
            lines.append(f"{len(self.fresh)} of the network not in it, left as they were: {_listing(self.fresh)}")
        return "\n  ".join(lines)


def _listing(names: Iterable[str]) -> str:
    """List the first names; names that differ in numbers only are joined into one form with its count."""
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    shown = [f"{form} ({len(alike)})" if len(alike) > 1 else alike[0] for form, alike in forms.items()]
    return ", ".join(shown[:_SHOWN] + ["..."] * (len(shown) > _SHOWN))


def unwrapped(content: Any, source: str) -> dict[str, Any]:
    """Return the tensors of a file by name, without the wrappers and name prefixes of training scripts.

    Args:
        content: Content of the file.
        source: The file, for the error.

    Returns:
        Tensors by name, or groups of them.

    Raises:
        ValueError: If the content is of another kind.
    """
    while isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor | Mapping) for value in content.values()):
        raise ValueError(f"{source} holds no tensors by name; expected a state dict")
    return {_PREFIX.sub("", str(name), count=1): value for name, value in content.items()}


def opened(
    weights: Mapping[str, Any] | str | Path, what: str, read: Callable[[Path, str], Mapping[str, Any]] = read_state
) -> tuple[str, dict[str, Any]]:
    """Open weights given as a file or as its content; return their origin, in words, and the tensors (or groups) by name.

    Args:
        weights: Path, or tensors by name.
        what: Network that the weights should belong to, for errors.
        read: Function that reads a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read or holds no tensors by name.
    """
    source = "the state dict" if isinstance(weights, Mapping) else str(weights)
    content = unwrapped(weights if isinstance(weights, Mapping) else read(Path(weights), what), source)
    return source, {name: value for name, value in content.items() if isinstance(value, Tensor | Mapping)}


def fetched(source: str, fetch: Callable[[], Mapping[str, Tensor]], advice: str) -> tuple[str, dict[str, Tensor]]:
    """Download weights from a hub; return the same as ``opened``.

    Args:
        source: Name and origin of the weights.
        fetch: Function that downloads them.
        advice: Which file to get by other means, beginning with a verb.

    Raises:
        UnreachableError: If the download fails for any reason.
    """
    try:
        return source, dict(fetch())
    except Exception as error:  # hub clients raise many kinds; every one means the same to the user
        raise UnreachableError(
            f"could not fetch {source} ({type(error).__name__}: {str(error)[:200]}); {advice} elsewhere and pass "
            "--backbone-weights FILE, or pass --random-init"
        ) from error


def check_tensors(
    found: Mapping[str, Any], expected: Mapping[str, Tensor], source: str, what: str, needed: Iterable[str] | None = None
) -> None:
    """Check tensors of a file against those of a network, by name and shape.

    Args:
        found: Tensors of the file by name, without those that may be ignored.
        expected: Tensors of the network by name.
        source: The file, for the error.
        what: The network, for the error.
        needed: Names that the file must have; None for all expected names.

    Raises:
        ValueError: If tensors are absent, unknown or of another shape; counts them and names the first of each.
    """
    needed = list(expected if needed is None else needed)
    absent = [name for name in needed if name not in found]
    unknown = [name for name in found if name not in expected]
    shapes = {name: (_shape(found[name]), _shape(expected[name])) for name in expected if name in found}
    wrong = [name for name, (here, there) in shapes.items() if here != there]
    kinds = {"absent": absent, "unknown": unknown, "of another shape": wrong}
    faults = [f"{len(names)} {kind}, e.g. {names[0]}" for kind, names in kinds.items() if names]
    if wrong:
        here, there = shapes[wrong[0]]
        faults[-1] += f" has {here}, expected {there}"
    if faults:
        raise ValueError(f"{source} does not fit {what}: of {len(needed)} tensors {'; '.join(faults)}")


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__

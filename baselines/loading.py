"""What the published systems do alike with weight files: open, unwrap and compare them, and say what became of each tensor."""

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
    """What became of the tensors of a file, and of those of the network; ``str`` gives names and counts, a line each.

    Attributes:
        source: The file, or another origin, in words.
        loaded: Names in the file, less prefixes, of what the network took.
        ignored: Why it did not take the others, by such names.
        fresh: Names in the network of what the file has nothing for, and what stayed as it was.
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
    """The first names; such as differ in numbers alone stand together as one form, with its count."""
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    shown = [f"{form} ({len(alike)})" if len(alike) > 1 else alike[0] for form, alike in forms.items()]
    return ", ".join(shown[:_SHOWN] + ["..."] * (len(shown) > _SHOWN))


def unwrapped(content: Any, source: str) -> dict[str, Any]:
    """What a file holds by name, without what training scripts wrap around it or put before names.

    Args:
        content: Of the file.
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
    """Weights given as a file or as its content: where they come from, in words, and the tensors (or groups) by name.

    Args:
        weights: A path, or tensors by name.
        what: Network that they should be of, for errors.
        read: Reads a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read or holds no tensors by name.
    """
    source = "the state dict" if isinstance(weights, Mapping) else str(weights)
    content = unwrapped(weights if isinstance(weights, Mapping) else read(Path(weights), what), source)
    return source, {name: value for name, value in content.items() if isinstance(value, Tensor | Mapping)}


def fetched(source: str, fetch: Callable[[], Mapping[str, Tensor]], advice: str) -> tuple[str, dict[str, Tensor]]:
    """Weights of a hub, in the form of ``opened``.

    Args:
        source: What is fetched, and from where.
        fetch: Does it.
        advice: Which file to get by other means, beginning with a verb.

    Raises:
        UnreachableError: If it fails, whatever the reason.
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
        found: By name, without those that may be ignored.
        expected: All that may be there.
        source: The file, for the error.
        what: The network, for the error.
        needed: Names that must be there; None for all expected ones.

    Raises:
        ValueError: If some are absent, unknown or of another shape; counts them and names the first of each.
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

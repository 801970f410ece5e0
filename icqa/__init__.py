"""ICQA as a package: ``import icqa`` works in place, after ``pip install .`` and from torch.hub (docs/elsewhere.md).

command: the command ``icqa``
judge: the three scores as one object
metric: the scores as a metric of torchmetrics
rooms: the rooms of the repository as icqa.utils, icqa.models and so on
"""

from typing import Any

from icqa.rooms import open_rooms

open_rooms()

__all__ = ["ColorizationQuality", "Judge", "load"]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is asked for: ``icqa.load``, ``icqa.Judge``, ``icqa.ColorizationQuality``."""
    if name in ("Judge", "load"):
        from icqa import judge

        return getattr(judge, name)
    if name == "ColorizationQuality":
        from icqa.metric import ColorizationQuality

        return ColorizationQuality
    raise AttributeError(f"module icqa has no attribute {name}")

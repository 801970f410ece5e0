"""Entry points of torch.hub: ``torch.hub.load("OWNER/ICQA", "icqa")``, or ``source="local"`` with a folder.

Each returns an object to call with images (``icqa.judge.Judge``). Arguments: ``weights``, files by dimension in place of the
shipped ones, and ``device``.
"""

from typing import Any

dependencies = ["torch", "torchvision", "timm", "numpy", "scipy", "skimage", "pandas", "PIL", "tqdm"]


def icqa(**options: Any) -> Any:
    """Load all three scores: CF, SCC and PR in the columns of the result."""
    from icqa import load

    return load(**options)


def cf(**options: Any) -> Any:
    """Load Chromatic Fidelity: is the color clean?"""
    return icqa(dimensions="CF", **options)


def scc(**options: Any) -> Any:
    """Load Semantic Color Consistency: does each thing have a color that such a thing can have?"""
    return icqa(dimensions="SCC", **options)


def pr(**options: Any) -> Any:
    """Load Perceptual Realism: would a person take the image for a photograph?"""
    return icqa(dimensions="PR", **options)


def icqa_published(**options: Any) -> Any:
    """Load the three published networks from the files of their authors (docs/reproduce.md), without objects."""
    return icqa(preset="published", **options)

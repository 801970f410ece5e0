"""A quick start and a quick end for the inference scripts.

Loading torch and timm makes millions of objects that live to the end. Python would look through them for garbage many times
while modules load and once more at the end, which takes longer than scoring a small folder.
"""

import gc

from utils import interrupt  # noqa: F401, so that Ctrl-C is heard while the script loads


def begin() -> None:
    """Stop garbage collection while the script loads slow modules."""
    gc.disable()


def end_loading() -> None:
    """Set aside all objects that are there now, and collect garbage from here on."""
    gc.freeze()
    gc.enable()


def undo() -> None:
    """Let the interpreter clean up as usual."""
    gc.unfreeze()

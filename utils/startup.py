"""A quick start and a quick end for the inference scripts.

Loading torch and timm makes millions of objects that live to the end. Looking through them for garbage, again and again while
modules load and once more on the way out, would cost more than scoring a small folder.
"""

import gc

from utils import interrupt  # noqa: F401, so that Ctrl-C is heard while the script loads


def begin() -> None:
    """Collect no garbage while the script loads what is slow to load."""
    gc.disable()


def end_loading() -> None:
    """Set aside what is there now, and collect garbage from here on."""
    gc.freeze()
    gc.enable()


def undo() -> None:
    """Let the interpreter clean up as it always does."""
    gc.unfreeze()

"""A quick start and a quick end for the inference scripts, which import this first.

Loading torch and timm makes millions of objects that live to the end. Looking through them for garbage, again and again while
modules load and once more on the way out, would cost more than scoring a small folder.
"""

import gc

from utils import interrupt  # noqa: F401, first, so that Ctrl-C is heard

gc.disable()


def settle() -> None:
    """Set aside what is there now, and collect garbage from here on."""
    gc.freeze()
    gc.enable()


def unsettle() -> None:
    """Let the interpreter clean up as it always does."""
    gc.unfreeze()

"""A quick start and a quick end for the inference scripts, which import this first.

Loading torch and timm makes millions of objects that live to the end. Looking through them for garbage, again and again while
modules load and once more on the way out, would cost more than scoring a small folder.
"""

import gc
import os
import sys
from pathlib import Path
from typing import NoReturn

gc.disable()


def settle() -> None:
    """Set aside what is there now, and collect garbage from here on."""
    gc.freeze()
    gc.enable()


def unsettle() -> None:
    """Let the interpreter clean up as it always does."""
    gc.unfreeze()


def leave(status: int) -> NoReturn:
    """End the process at once if a script of ours is what it was started for; else, as in a test, by ``SystemExit``.

    All files must be closed by now.
    """
    script = Path(sys.argv[0]).resolve()
    ours = script.parent == Path(__file__).resolve().parents[1] and script.is_file()  # not -c or -m
    if ours and script in {Path(argument).resolve() for argument in sys.orig_argv[1:]}:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    unsettle()
    sys.exit(status)

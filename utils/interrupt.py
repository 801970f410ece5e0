"""Ctrl-C ends a script of ours with one line and status 130 at any moment, its imports included.

Nothing slow is imported here, and scripts import this first. While a script loads, Ctrl-C ends the process at
once: an exception would show a traceback, and some imports lose it. Scripts that have something to clean up call ``hear``.
"""

import os
import signal
import sys
from typing import NoReturn


def is_script() -> bool:
    """Tell whether this process was started for a script of ours; a test, a notebook, ``-c`` and ``-m`` are not."""
    script = os.path.realpath(sys.argv[0] if sys.argv else "")
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    folders = [root, *(os.path.join(root, name) for name in ("data", "docs", "tools", "benchmarks"))]
    ours = os.path.dirname(script) in folders and os.path.isfile(script)
    return ours and script in map(os.path.realpath, sys.orig_argv[1:])


def _stop_at_once(*_: object) -> NoReturn:
    if os.getpid() == _PROCESS:  # one process speaks for those that it started
        os.write(2, b"interrupted\n")
    os._exit(130)


def hear() -> None:
    """Let Ctrl-C raise ``KeyboardInterrupt`` from here on, in this process alone; this process ends those that it starts."""
    if _OURS:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))


def deafen() -> None:
    """Ignore further Ctrl-C while the script ends."""
    if _OURS:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave(status: int) -> NoReturn:
    """End the process: at once if it was started for a script of ours, else (as in a test) by ``SystemExit``.

    All files must be closed before.
    """
    if is_script():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


_PROCESS = os.getpid()
# a job in the background of a shell ignores Ctrl-C, and goes on doing so
_OURS = is_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _OURS:
    signal.signal(signal.SIGINT, _stop_at_once)

"""One thread a process, of this one and of the scripts that tests start; for conftest.py, before anything that computes.

The tests run in two processes (pyproject.toml), and tiny networks gain nothing from more threads.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

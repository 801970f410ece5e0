"""Moved to benchmarks/power.py."""

raise SystemExit("error: docs/power.py has moved; run python benchmarks/power.py, with the same arguments")

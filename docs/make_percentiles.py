"""Moved to benchmarks/make_percentiles.py."""

raise SystemExit(
    "error: docs/make_percentiles.py has moved; run python benchmarks/make_percentiles.py, with the same arguments"
)

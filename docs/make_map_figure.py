"""Moved to benchmarks/make_figures.py."""

raise SystemExit("error: docs/make_map_figure.py has moved; run python benchmarks/make_figures.py, with the same arguments")

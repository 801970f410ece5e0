"""Moved to tools/build_color_prior.py."""

raise SystemExit("error: data/build_color_prior.py has moved; run python tools/build_color_prior.py, with the same arguments")

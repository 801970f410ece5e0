"""Moved to tools/train_color_prior.py."""

raise SystemExit("error: data/train_color_prior.py has moved; run python tools/train_color_prior.py, with the same arguments")

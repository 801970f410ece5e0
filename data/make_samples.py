"""Moved to tools/make_samples.py."""

raise SystemExit("error: data/make_samples.py has moved; run python tools/make_samples.py, with the same arguments")

"""Moved to tools/make_colorizations.py."""

raise SystemExit("error: data/make_colorizations.py has moved; run python tools/make_colorizations.py, with the same arguments")

"""Moved to tools/make_recolorings.py."""

raise SystemExit("error: data/make_recolorings.py has moved; run python tools/make_recolorings.py, with the same arguments")

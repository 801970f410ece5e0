"""Moved to tools/export_weights.py."""

raise SystemExit("error: export_weights.py has moved; run python tools/export_weights.py, with the same arguments")

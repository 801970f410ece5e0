"""Moved to tools/compute_mos.py."""

raise SystemExit("error: data/compute_mos.py has moved; run python tools/compute_mos.py, with the same arguments")

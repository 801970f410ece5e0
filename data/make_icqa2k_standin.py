"""Moved to tools/make_icqa2k_standin.py."""

raise SystemExit(
    "error: data/make_icqa2k_standin.py has moved; run python tools/make_icqa2k_standin.py, with the same arguments"
)

"""Moved to tools/detect_objects.py."""

raise SystemExit("error: data/detect_objects.py has moved; run python tools/detect_objects.py, with the same arguments")

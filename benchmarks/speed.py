"""Moved to benchmarks/throughput.py."""

raise SystemExit("error: benchmarks/speed.py has moved; run python benchmarks/throughput.py, with the same arguments")

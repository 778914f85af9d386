"""Benchmarks: ratios measured in one run, with the machine beside them. `make bench-search` and others."""

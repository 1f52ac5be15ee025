"""Benchmarks: each runs both sides in one run and prints the ratio (``python -m bench [--check] [NAME]``)."""

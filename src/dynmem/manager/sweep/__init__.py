"""Gather facts: ask each monitor, measure each process, read the host."""

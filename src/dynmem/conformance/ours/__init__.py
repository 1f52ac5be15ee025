"""Adapters that put our own two ends under the suite."""

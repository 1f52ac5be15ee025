"""Adapters that put our own two ends to the test."""

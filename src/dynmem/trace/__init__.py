"""Captures and trace logs: written, read, decoded."""

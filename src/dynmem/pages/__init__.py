"""Ranges of guest pages, and the set of pages that a guest has given up."""

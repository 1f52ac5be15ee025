"""Other ways to share a host's memory, by their published rules: figures in, sizes out."""

"""Guest memory on the host: backends and giving pages back to the host."""

"""Guest memory on the host: backends, and discards, which return pages to the host."""

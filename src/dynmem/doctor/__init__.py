"""What this host can do for dynmem, tried rather than derived from version numbers."""

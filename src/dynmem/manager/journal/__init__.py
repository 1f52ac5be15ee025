"""The journal: what must survive a restart, written before it is done."""

"""The journal: what must survive a restart, recorded before it is done."""

"""`dynmem scan`: what the VMs of this host hold, need and could give back. It changes nothing."""

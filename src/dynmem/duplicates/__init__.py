"""Equal pages in the memory of running VMs: found, verified and counted, never merged."""

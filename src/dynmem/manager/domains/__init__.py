"""The domains of libvirt among the manager's VMs: which there are, their policies, a connection to each."""

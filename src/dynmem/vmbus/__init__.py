"""VMBus without I/O: rings, the host's bus, the guest's client, and guest memory as a small protocol."""

"""Guest physical addresses by QEMU's rules: regions, address space, memory slots and devices, DIMMs."""

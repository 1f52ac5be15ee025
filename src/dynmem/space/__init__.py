"""Guest physical addresses by rules of QEMU: regions, address space, memory slots and devices, DIMMs."""

"""What a machine is made of, as QEMU spells it: option texts, memory, devices, and hints."""

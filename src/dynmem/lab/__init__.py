"""Real Linux guests under QEMU: kernel, initramfs, load and start, for the demonstration and the tests."""

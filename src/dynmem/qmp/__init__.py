"""The QEMU Machine Protocol: framing, server and client."""

"""The commands of the monitor and the object tree, with the names and texts of QEMU."""

"""Booting a kernel without firmware: its file, initrd and command line, and what it is passed in memory."""

"""The devices that a PC has on its I/O ports: the serial port, the clock, and what turns it off."""

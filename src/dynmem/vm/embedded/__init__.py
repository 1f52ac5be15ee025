"""The embedded guest as a platform: a process, its hardware socket and its memory slots."""

"""The embedded guest: a process that uses memory and talks to its host as a virtual machine does."""

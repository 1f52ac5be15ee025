"""The embedded guest: a process that uses its memory and its host as a virtual machine would."""

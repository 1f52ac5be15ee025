"""The far end of a guest's serial line: a file, the terminal or a socket. Nothing there holds the guest."""

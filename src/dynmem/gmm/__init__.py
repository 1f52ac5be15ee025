"""The Global Memory Manager: the books of who may have and who has how much memory."""

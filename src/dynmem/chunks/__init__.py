"""What the Global Memory Manager's books stand for: memory that is really there, and callers elsewhere."""

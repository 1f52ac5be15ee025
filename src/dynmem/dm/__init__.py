"""The Dynamic Memory Protocol without I/O: both ends and the target arithmetic."""

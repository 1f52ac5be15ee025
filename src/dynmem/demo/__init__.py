"""The demonstration: several virtual machines share a budget while you watch."""

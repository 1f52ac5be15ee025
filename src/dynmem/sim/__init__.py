"""The manager's own step in a world of simulated guests, the same for the same seed."""

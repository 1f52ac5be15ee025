"""What the manager would do: now, after other settings, and over a whole time. It changes nothing."""

"""What a service says to systemd, without a library: that it is ready and alive, and its log with fields."""

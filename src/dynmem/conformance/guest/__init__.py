"""What a guest must do: the cases, and the host that plays against it."""

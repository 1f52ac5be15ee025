"""What a host must do: the cases, and the guest that plays against it."""

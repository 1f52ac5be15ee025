"""What dynmem asks of libvirt: which domains there are, what they are made of, and what they have now."""

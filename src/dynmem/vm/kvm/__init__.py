"""A guest on /dev/kvm as a platform: an unmodified kernel on virtual processors, with VMBus in user space."""

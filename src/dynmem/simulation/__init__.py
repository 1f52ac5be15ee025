"""A load played to the manager, and to others, in simulated guests: who would have lacked what."""

"""What a guest sees of Hyper-V, whatever runs it: the SynIC and the hypercalls."""

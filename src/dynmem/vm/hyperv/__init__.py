"""What a guest sees of Hyper-V, whatever runs it: CPUID leaves, MSRs, the SynIC and the hypercalls."""

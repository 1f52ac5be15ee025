"""The virtual machine process: machine, SynIC, hv-balloon device, monitor."""

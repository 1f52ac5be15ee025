"""The hv-balloon device: the protocol on a channel, the accounts of its pages, the memory it adds."""

"""The memory manager of a host: facts in, balloon commands out, a journal, and a socket for its clients."""

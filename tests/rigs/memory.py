"""Memory for rigs, closed when the rig that has it is gone."""

import weakref

from dynmem.memory.backend import MemfdBackend


def memory_of(owner: object, size: int, name: str = "guest-ram") -> MemfdBackend:
    """Make `size` bytes of memory for as long as `owner` is there."""
    backend = MemfdBackend(size, name)
    weakref.finalize(owner, backend.close)
    return backend

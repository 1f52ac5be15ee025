"""Memory for rigs, closed when the rig that has it is gone."""

import os
import weakref

from dynmem.memory.backend import MemfdBackend


def memory_of(owner: object, size: int, name: str = "guest-ram") -> MemfdBackend:
    """Make `size` bytes of memory for as long as `owner` is there."""
    backend = MemfdBackend(size, name)
    weakref.finalize(owner, backend.close)
    return backend


def file_of(owner: object, name: str) -> int:
    """Make an empty file in memory for as long as `owner` is there; its descriptor."""
    descriptor = os.memfd_create(name)
    weakref.finalize(owner, os.close, descriptor)
    return descriptor

"""What memory the host and its file systems have, and whether an amount of it may be taken at once.

Making memory resident on a host that has too little ends in the kernel's out-of-memory killer, which also
ends other programs.
"""

import os
from pathlib import Path
from typing import NamedTuple

from dynmem.limits import PREALLOC_MARGIN_BYTES_MAX, PREALLOC_MARGIN_PART
from dynmem.procfs import meminfo
from dynmem.units import format_size


class HostMemory(NamedTuple):
    """Bytes: what the host has, and what it can give without swapping (MemAvailable)."""

    total: int
    available: int

    @property
    def margin(self) -> int:
        """Bytes that stay with the host when memory is made resident at once."""
        return min(self.total // PREALLOC_MARGIN_PART, PREALLOC_MARGIN_BYTES_MAX)

    def lacks(self, size: int) -> str | None:
        """Return a sentence if this many bytes cannot be made resident at once, else None."""
        if size <= self.available - self.margin:
            return None
        return (
            f"{format_size(size)} are needed at once, but the host can give only"
            f" {format_size(max(0, self.available - self.margin))} ({format_size(self.available)} available,"
            f" of which {format_size(self.margin)} stay with the host)"
        )


def host_memory() -> HostMemory:
    """Return what the host has now. Raises RemoteProtocolError and OSError."""
    return HostMemory(*meminfo("MemTotal", "MemAvailable"))


def free_bytes(place: Path | int) -> int:
    """Return the free bytes of a file system for an unprivileged process. Raises OSError."""
    system = os.statvfs(place)
    return system.f_bavail * system.f_frsize

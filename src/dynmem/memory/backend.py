"""Memory backends: where the bytes of a guest's RAM live on the host."""

import contextlib
import fcntl
import mmap
import os
from types import TracebackType
from typing import Final, Self

from dynmem.errors import ConfigError, DynmemError
from dynmem.units import PAGE_SIZE, format_size

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
STAT_BLOCK_BYTES: Final = 512  # the unit of st_blocks, whatever the file system's own block is


class BackendError(DynmemError):
    """The system would not make or map the memory; `errno` is its own number."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno


class MemfdBackend:
    """RAM in an anonymous memory file (QEMU's memory-backend-memfd), sealed against any change of its size.

    Without the seals whoever is handed the descriptor (an embedded guest) could cut the file short, and the
    next touch of the lost part would end this process with SIGBUS.
    """

    def __init__(self, size: int, name: str = "guest-ram") -> None:
        """Make, seal and map `size` bytes (a multiple of 4 KiB), none of them resident yet.

        `name` shows up in /proc/PID/fd as ``/memfd:NAME``. Raises ConfigError, BackendError.
        """
        if size <= 0 or size % PAGE_SIZE:
            raise ConfigError(f"guest memory must be a positive multiple of {PAGE_SIZE} bytes, not {size}")
        self.size: Final = size
        self._fd = -1
        try:
            self._fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._fd, size)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, SEALS)
            self._map = mmap.mmap(self._fd, size, mmap.MAP_SHARED)
        except (OSError, ValueError, OverflowError) as error:
            if self._fd >= 0:
                os.close(self._fd)
            number = error.errno if isinstance(error, OSError) and error.errno is not None else 0
            raise BackendError(f"cannot make {format_size(size)} of guest memory: {error}", number) from error
        self._view = memoryview(self._map)

    @property
    def fd(self) -> int:
        """The memory file's descriptor, close-on-exec; it stays the backend's own."""
        return self._fd

    @property
    def view(self) -> memoryview:
        """The whole memory, shared with everybody who maps the descriptor."""
        return self._view

    def resident_bytes(self) -> int:
        """Bytes that the file really occupies now, in memory or swap."""
        return os.fstat(self._fd).st_blocks * STAT_BLOCK_BYTES

    def close(self) -> None:
        """Close the descriptor and unmap; a mapping that arrays still show goes with the last of them."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        with contextlib.suppress(BufferError):
            self._view.release()
            self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

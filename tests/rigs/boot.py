"""A machine that only loads: guest memory, full of rubbish at first, and files to load into it."""

import mmap
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

from dynmem.units import MIB
from dynmem.vm.kvm.boot.loader import Entry, load
from dynmem.vmbus.memory import FlatMemory

SIZE = 4 * MIB
RUBBISH = 0xA5


class Machine:
    """4 MiB of guest memory, or what is asked for."""

    def __init__(self, folder: Path, size: int = SIZE, *, is_rubbish: bool = True) -> None:
        self._folder = folder
        self.size = size
        self._map = mmap.mmap(-1, size)
        if is_rubbish:
            self._map.write(bytes([RUBBISH]) * size)
        self.memory = FlatMemory(memoryview(self._map))
        self.ram: tuple[tuple[int, int], ...] = ((0, size),)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.memory.release()
        self._map.close()

    def file(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path

    def load(
        self, kernel: bytes | Path, initrd: bytes | Path | None = None, append: str = "", vp_count: int = 1
    ) -> Entry:
        return load(
            self.memory,
            self.ram,
            kernel=self.file("kernel", kernel) if isinstance(kernel, bytes) else kernel,
            initrd=self.file("initrd", initrd) if isinstance(initrd, bytes) else initrd,
            append=append,
            vp_count=vp_count,
        )

    def is_untouched(self) -> bool:
        return self.memory.read(0, self.size).count(RUBBISH) == self.size

    def read(self, address: int, size: int) -> bytes:
        return self.memory.read(address, size)

    def field(self, kind: str, address: int) -> int:
        value: int = struct.unpack(f"<{kind}", self.read(address, struct.calcsize(f"<{kind}")))[0]
        return value

    def text(self, address: int) -> bytes:
        """The bytes up to the first zero."""
        return self.read(address, 1 << 16).partition(b"\0")[0]

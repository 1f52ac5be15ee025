"""Port I/O: which device is behind which port.

A vCPU thread calls `Ports` for each IN and OUT of its guest. One lock serves them all, so that a device is
never in two accesses at once; whoever touches a device from another thread holds it, too. It is a fair one.
"""

from typing import Final, Protocol

from dynmem.fair_lock import FairLock

_ONES: Final = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF}


class PortDevice(Protocol):
    """A device on consecutive ports. It is called with the lock of `Ports` held."""

    def read(self, offset: int, size: int) -> int:
        """Return what an IN of `size` bytes (1, 2 or 4) reads, `offset` ports after the first one."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Carry out an OUT of `size` bytes, `offset` ports after the first one."""


class ByteDevice:
    """A `PortDevice` with a register of one byte behind each of its ports.

    A wider access is one to each port that it covers, as the bus of a PC cuts it up; past the last port of
    the device there is nothing.
    """

    def __init__(self, count: int) -> None:
        self._count: Final = count

    def read(self, offset: int, size: int) -> int:
        if size == 1:
            return self.read_byte(offset)
        registers = range(offset, offset + size)
        return int.from_bytes(
            bytes(self.read_byte(each) if each < self._count else 0xFF for each in registers), "little"
        )

    def write(self, offset: int, size: int, value: int) -> None:
        if size == 1:
            self.write_byte(offset, value)
            return
        for each in range(offset, min(offset + size, self._count)):
            self.write_byte(each, value >> 8 * (each - offset) & 0xFF)

    def read_byte(self, offset: int) -> int:
        """Return what is read from the register `offset`."""
        raise NotImplementedError

    def write_byte(self, offset: int, value: int) -> None:
        """Write the register `offset`."""
        raise NotImplementedError


class Ports:
    """All I/O ports of a machine; every method may be called on any thread.

    An access belongs to the device behind its first port, whatever its size: a configuration address of PCI
    that is written to port 0xcf8 never reaches the reset register at 0xcf9.

    Attributes:
        lock: Held during each access.

    """

    def __init__(self) -> None:
        self.lock: Final = FairLock()
        self._behind: Final[dict[int, tuple[PortDevice, int]]] = {}

    def add(self, first: int, count: int, device: PortDevice) -> None:
        """Put a device behind `count` ports, before the guest runs."""
        for port in range(first, first + count):
            assert port not in self._behind
            self._behind[port] = device, port - first

    def read(self, port: int, size: int) -> int:
        """Return what an IN of `size` bytes reads: all ones where there is nothing."""
        found = self._behind.get(port)
        if found is None:
            return _ONES[size]
        with self.lock:
            return found[0].read(found[1], size)

    def write(self, port: int, size: int, value: int) -> None:
        """Carry out an OUT of `size` bytes."""
        found = self._behind.get(port)
        if found is not None:
            with self.lock:
                found[0].write(found[1], size, value)

    def read_string(self, port: int, size: int, count: int) -> bytes:
        """Return what `count` INs read, one after the other: a REP INS."""
        found = self._behind.get(port)
        if found is None:
            return b"\xff" * (size * count)
        device, offset = found
        with self.lock:
            return b"".join(device.read(offset, size).to_bytes(size, "little") for _ in range(count))

    def write_string(self, port: int, size: int, data: bytes) -> None:
        """Carry out the OUTs of a REP OUTS: `data` is a multiple of `size` bytes."""
        found = self._behind.get(port)
        if found is None:
            return
        device, offset = found
        with self.lock:
            for start in range(0, len(data), size):
                device.write(offset, size, int.from_bytes(data[start : start + size], "little"))

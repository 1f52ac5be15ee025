"""hv-balloon without a memory backend: a memory device all the same, as with QEMU, and an empty one."""

from dynmem.space.memory_device import DeviceInfo, MemoryDevice


class WithoutMemory(MemoryDevice):
    """Has no region and no address; it is there to be listed."""

    def __init__(self, identity: str) -> None:
        self._identity = identity

    @property
    def identity(self) -> str | None:
        return self._identity

    def get_addr(self) -> int:
        return 0

    def set_addr(self, address: int) -> None:
        # Never called: there is nothing to place.
        raise AssertionError(f"a device without memory was placed at {address:#x}")

    def get_memory_region(self) -> None:
        return None

    def device_info(self) -> DeviceInfo:
        return DeviceInfo(kind="hv-balloon", identity=self._identity, max_size=0)

    def get_plugged_size(self) -> int:
        return 0

"""The VMs whose pages have ids: a handle for each, the process that it lives in, its NUMA node."""

from collections.abc import Iterator
from typing import Final

from dynmem.gmm.codes import GmmError, Status

#: Handles of VMs are 1 to this; a page has 16 bits for its VM's.
HANDLE_LAST: Final = (1 << 16) - 2
_NODE_LAST: Final = 255


class Vm:
    """A VM as the page table knows it.

    Attributes:
        name: Its name.
        handle: Its number in the page table.
        process: The number that the store gave its process.
        node: The NUMA node on which it wants its memory.
        hint: The slot of the chunk from which it allocated last, if it has.
    """

    __slots__ = ("handle", "hint", "name", "node", "process")

    def __init__(self, name: str, handle: int, process: int, node: int) -> None:
        self.name: Final[str] = name
        self.handle: Final[int] = handle
        self.process: Final[int] = process
        self.node: Final[int] = node
        self.hint: int | None = None


class Vms:
    """The VMs by name and by handle."""

    def __init__(self) -> None:
        self._by_name: dict[str, Vm] = {}
        self._by_handle: dict[int, Vm] = {}
        self._last = 0

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Vm]:
        return iter(self._by_name.values())

    def register(self, name: str, process: int, node: int) -> Vm:
        """Give a VM a handle, which was not used for the longest time.

        Raises:
            GmmError: INVALID_PARAMETER, WRONG_ORDER (it is registered), OUT_OF_MEMORY (no handle is left).
        """
        if not name or process < 0 or not 0 <= node <= _NODE_LAST:
            raise GmmError(
                Status.INVALID_PARAMETER,
                f"a VM {name!r} in process {process} on node {node} cannot be registered: it needs a name, a "
                f"process from 0 and a node from 0 to {_NODE_LAST}",
            )
        if name in self._by_name:
            raise GmmError(Status.WRONG_ORDER, f"{name} is registered already")
        if len(self._by_handle) >= HANDLE_LAST:
            raise GmmError(Status.OUT_OF_MEMORY, f"{HANDLE_LAST} VMs are registered, as many as there may be")
        handle = self._last
        while True:
            handle = handle + 1 if handle < HANDLE_LAST else 1
            if handle not in self._by_handle:
                break
        self._last = handle
        vm = self._by_name[name] = self._by_handle[handle] = Vm(name, handle, process, node)
        return vm

    def of(self, name: str) -> Vm:
        """Return a VM, which is registered now if it was not: in process 0, on node 0."""
        return self._by_name.get(name) or self.register(name, 0, 0)

    def get(self, name: str) -> Vm | None:
        """Return a VM; None if it is not registered."""
        return self._by_name.get(name)

    def name_of(self, handle: int) -> str | None:
        """Return whose a handle is; None if it is nobody's."""
        vm = self._by_handle.get(handle)
        return vm.name if vm else None

    def undo_register(self, vm: Vm) -> None:
        """Take back the handle that was given last, as if it had never been."""
        self.remove(vm)
        self._last = vm.handle - 1

    def remove(self, vm: Vm) -> None:
        """Take back the handle of a VM, which no page has any more."""
        del self._by_name[vm.name], self._by_handle[vm.handle]

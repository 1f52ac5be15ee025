"""The machine as a tree of objects: /objects/ID, /machine/peripheral/ID, /machine/peripheral-anon/device[N].

Boot memory of the machine's own is an object too, under QEMU's name. Virtual processors are at
/machine/unattached/device[N], where QEMU has them.
"""

from collections.abc import Callable, Iterable
from typing import Final

from dynmem.memory.backend import Backend
from dynmem.vm.machine import Machine
from dynmem.vm.monitor.qom import Node, child, container
from dynmem.vm.monitor.qom_backends import RAM, BackendObjects
from dynmem.vm.monitor.qom_devices import balloon_node, dimm_node
from dynmem.vm.options.memory import BackendOptions

_PROCESSOR: Final = "x86_64-cpu"


def processor_path(number: int) -> str:
    """Return the path of a virtual processor."""
    return f"/machine/unattached/device[{number}]"


class Tree:
    """The objects of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.backends: Final = BackendObjects()

    def memory(self) -> list[tuple[Backend, BackendOptions]]:
        """Return every backend with its options, boot memory first."""
        machine = self._machine
        found = [(machine.objects[name], machine.objects.options[name]) for name in machine.objects]
        boot, identity = machine.memory.boot, machine.memory.boot_identity
        if identity not in machine.objects:
            found.insert(0, (boot, BackendOptions(kind=RAM, identity=identity, size=boot.size)))
        return found

    def root(self) -> Node:
        """Return the whole tree as it is now."""
        memory = self.memory()
        objects = {options.identity: self.backends.node(backend, options) for backend, options in memory}
        by_backend = {id(backend): objects[options.identity] for backend, options in memory}
        root: Node
        devices = list(self._devices(by_backend, lambda: root))
        folders = {
            name: container(
                f"/machine/{name}", {each: node for folder, each, node in devices if folder == name}
            )
            for name in ("peripheral", "peripheral-anon")
        }
        processors = [
            Node(processor_path(number), _PROCESSOR) for number in range(self._machine.platform.vp_count)
        ]
        folders["unattached"] = container(
            "/machine/unattached", {node.path.rpartition("/")[2]: node for node in processors}
        )
        machine = Node(
            "/machine",
            f"{self._machine.options.machine}-machine",
            "machine",
            properties=lambda _: [child(name, folder) for name, folder in folders.items()],
        )
        root = container("/", {"machine": machine, "objects": container("/objects", objects)})
        return root

    def _devices(self, memory: dict[int, Node], root: Callable[[], Node]) -> Iterable[tuple[str, str, Node]]:
        """Yield the folder, name and object of each device; `memory` are objects by backend."""
        machine = self._machine
        for name, dimm in machine.dimms.by_name.items():
            path = machine.dimms.path(name)
            folder = path.split("/")[2]
            yield folder, name, dimm_node(path, dimm, memory.get(id(dimm.backend)), root)
        balloon = machine.balloon
        if balloon is not None:
            path = f"/machine/peripheral/{balloon.identity}"
            added = balloon.hot_added
            backing = None if added is None else memory.get(id(added.backend))
            reports = balloon.options.free_page_reporting and machine.options.boot is not None
            node = balloon_node(path, balloon, backing, root, reports_free_pages=reports)
            yield "peripheral", balloon.identity, node

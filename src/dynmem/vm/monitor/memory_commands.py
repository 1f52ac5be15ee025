"""The monitor's commands on objects, devices and properties, with QEMU's checks in QEMU's order and words.

Sources: QEMU qom/object_interfaces.c, qom/qom-qmp-cmds.c, system/qdev-monitor.c, hw/core/machine-qmp-cmds.c.
"""

from pathlib import Path
from typing import Final

from dynmem.errors import DynmemError
from dynmem.qmp.command import Arguments, Command
from dynmem.qmp.errors import DEVICE_NOT_FOUND, GENERIC_ERROR, QmpCommandError
from dynmem.qmp.types import ANY, read, wrong
from dynmem.vm.dimms import NoSuchDeviceError
from dynmem.vm.machine import Machine
from dynmem.vm.monitor import schema
from dynmem.vm.monitor.qom import Node, find, get, linked, listing, not_found, walk
from dynmem.vm.monitor.qom_backends import BACKEND
from dynmem.vm.monitor.qom_devices import DIMM, DIMM_ARGUMENTS, HV_BALLOON, READ_ONLY
from dynmem.vm.monitor.qom_tree import Tree
from dynmem.vm.options.memory import BackendOptions, DimmOptions
from dynmem.vm.options.text import is_identifier

_ABSTRACT: Final = ("device",)  # the base of our devices
_NO_HOTPLUG: Final = "Bus 'vmbus' does not support hotplugging"


def memory_commands(machine: Machine) -> dict[str, Command]:
    """Return the commands on the memory of `machine`, its objects and devices."""
    handlers: Final = _Handlers(machine)
    return {
        "device_add": Command(handlers.device_add, schema.DEVICE_ADD, takes_more=True),
        "device_del": Command(handlers.device_del, schema.IDENTITY),
        "object-add": Command(handlers.object_add, schema.OBJECT_ADD),
        "object-del": Command(handlers.object_del, schema.IDENTITY),
        "qom-get": Command(handlers.qom_get, schema.QOM_GET, ANY),
        "qom-list": Command(handlers.qom_list, schema.QOM_PATH, schema.QOM_PROPERTIES),
        "qom-set": Command(handlers.qom_set, schema.QOM_SET),
        "query-acpi-ospm-status": Command(handlers.query_slots, returns=schema.SLOT_STATUSES),
        "query-memdev": Command(handlers.query_memdev, returns=schema.MEMDEVS),
        "query-memory-devices": Command(handlers.query_memory_devices, returns=schema.MEMORY_DEVICES),
        "query-memory-size-summary": Command(handlers.query_memory_sizes, returns=schema.MEMORY_SIZES),
    }


class _Handlers:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._tree = Tree(machine)

    # objects

    async def object_add(self, arguments: Arguments) -> object:
        options = _backend_options(arguments)
        if self._is_own(options.identity):
            raise wrong(
                f"attempt to add duplicate property '{options.identity}' to object (type 'container')"
            )
        try:
            backend = await self._machine.objects.make_beside(options)
        except DynmemError as error:
            raise _refusal(error) from error
        settings = self._tree.backends
        if arguments.get("dump") is False:
            settings.set_dump(backend, value=False)
        settings.set_merge(backend, value=arguments.get("merge") is not False)
        settings.set_prealloc_threads(backend, options.kind, arguments.get("prealloc-threads", 1))
        return {}

    def object_del(self, arguments: Arguments) -> object:
        identity = str(arguments["id"])
        if self._is_own(identity):
            raise wrong(f"object '{identity}' is in use, can not be deleted")
        try:
            self._machine.objects.remove(identity)
        except DynmemError as error:
            raise _refusal(error) from error
        return {}

    def _is_own(self, identity: str) -> bool:
        """Return whether it is the machine's own boot memory, which cannot be used or deleted."""
        return identity == self._machine.memory.boot_identity and identity not in self._machine.objects

    def query_memdev(self, _: Arguments) -> object:
        return [self._tree.backends.info(backend, options) for backend, options in self._tree.memory()]

    # devices

    def device_add(self, arguments: Arguments) -> object:
        driver = arguments.get("driver")
        if not isinstance(driver, str):
            raise wrong("Parameter 'driver' is missing")
        if driver in _ABSTRACT:
            raise wrong("Parameter 'driver' expects a non-abstract device type")
        if driver not in (DIMM, HV_BALLOON):
            raise wrong(f"'{driver}' is not a valid device model name")
        if "bus" in arguments:
            raise wrong(f"Bus '{arguments['bus']}' not found")
        if driver == HV_BALLOON:
            raise wrong(_NO_HOTPLUG)
        root = self._tree.root()
        identity = arguments.get("id")
        identity = identity if isinstance(identity, str) and identity else None
        if identity is not None and walk(root, ("machine", "peripheral", identity)) is not None:
            raise wrong(f"Duplicate device ID '{identity}'")
        options = _dimm_options(root, identity, arguments)
        if self._is_own(options.memdev):
            raise wrong(f"can't use already busy memdev: {options.memdev}")
        try:
            self._machine.dimms.plug(options)
        except DynmemError as error:
            raise _refusal(error) from error
        return {}

    def device_del(self, arguments: Arguments) -> object:
        identity = str(arguments["id"])
        root = self._tree.root()
        peripheral = get(root, "/machine/peripheral")
        parts = [part for part in identity.split("/") if part]
        device = find(root, identity) if identity.startswith("/") else walk(peripheral, parts)
        if device is None:
            raise not_found(identity)
        if "device" not in device.kinds:
            raise wrong(f"{identity} is not a device")
        if device.kinds[0] == HV_BALLOON:
            raise wrong(_NO_HOTPLUG)
        try:
            self._machine.dimms.request_unplug(device.path.rpartition("/")[2])
        except DynmemError as error:
            raise _refusal(error) from error
        return {}

    def query_slots(self, _: Arguments) -> object:
        if self._machine.options.boot is None:
            raise wrong("command is not supported, missing ACPI device")
        return [status.to_json() for status in self._machine.dimms.statuses()]

    def query_memory_devices(self, _: Arguments) -> object:
        return [info.to_json() for info in self._machine.device_memory.infos()]

    def query_memory_sizes(self, _: Arguments) -> object:
        return {
            "base-memory": self._machine.options.memory_bytes,
            "plugged-memory": self._machine.device_memory.plugged_size(),
        }

    # properties

    def qom_get(self, arguments: Arguments) -> object:
        return get(self._tree.root(), str(arguments["path"])).get(str(arguments["property"])).read()

    def qom_list(self, arguments: Arguments) -> object:
        return listing(self._tree.root(), str(arguments["path"]))

    def qom_set(self, arguments: Arguments) -> object:
        node = get(self._tree.root(), str(arguments["path"]))
        try:
            node.set(str(arguments["property"]), arguments["value"])
        except DynmemError as error:
            raise _refusal(error) from error
        return {}


def _backend_options(arguments: Arguments) -> BackendOptions:
    """Return what object-add asks for. Raises QmpCommandError if no backend of this kind can be that."""
    kind, identity, size = str(arguments["qom-type"]), str(arguments["id"]), arguments["size"]
    share, huge_size, path = (
        arguments.get("share"),
        arguments.get("hugetlbsize", 0),
        arguments.get("mem-path"),
    )
    assert isinstance(size, int)
    assert isinstance(huge_size, int)
    if not is_identifier(identity):
        raise wrong("Parameter 'id' expects an identifier")
    if size == 0:
        raise wrong(f"property 'size' of {kind} doesn't take value '0'")
    if arguments.get("prealloc-threads") == 0:
        raise wrong(f"property 'prealloc-threads' of {kind} doesn't take value '0'")
    if "hugetlbsize" in arguments and huge_size == 0:
        raise wrong(f"Property '{kind}.hugetlbsize' doesn't take value '0'")
    if path == "":
        raise wrong("can't open backing store  for guest RAM: No such file or directory")
    return BackendOptions(
        kind=kind,
        identity=identity,
        size=size,
        share=None if share is None else bool(share),
        prealloc=bool(arguments.get("prealloc")),
        hugetlb=bool(arguments.get("hugetlb")),
        hugetlb_size=huge_size,
        mem_path=None if path is None else Path(str(path)),
        discard_data=bool(arguments.get("discard-data")),
    )


def _dimm_options(root: Node, identity: str | None, arguments: Arguments) -> DimmOptions:
    """Return what device_add asks for, checked in the order of its arguments. Raises QmpCommandError."""
    numbers: dict[str, int] = {}
    memdev: Node | None = None
    for name, value in arguments.items():
        if name in ("driver", "id"):
            continue
        if name in READ_ONLY:
            raise wrong(f"Property '{DIMM}.{name}' is not writable")
        if name == "memdev":
            memdev = linked(root, name, value, BACKEND)
        elif name in DIMM_ARGUMENTS:
            number = read(DIMM_ARGUMENTS[name], value, name)
            assert isinstance(number, int)
            numbers[name] = number
        else:
            raise wrong(f"Property '{DIMM}.{name}' not found")
    if memdev is None:
        raise wrong("'memdev' property must be set")
    backend = memdev.path.rpartition("/")[2]
    slot = numbers.get("slot", -1)
    return DimmOptions(
        memdev=backend,
        identity=identity,
        address=numbers.get("addr", 0),
        slot=None if slot == -1 else slot,
        node=numbers.get("node", 0),
    )


def _refusal(error: DynmemError) -> QmpCommandError:
    """Return the error that a client gets for one of the machine's own."""
    if isinstance(error, QmpCommandError):
        return error
    kind = DEVICE_NOT_FOUND if isinstance(error, NoSuchDeviceError) else GENERIC_ERROR
    return QmpCommandError(kind, str(error))

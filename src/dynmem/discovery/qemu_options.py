"""What the command line of a VM says of it: name, memory, monitors, devices. Nothing of it is proven.

QEMU's syntax (docs/system/invocation): ``key=value`` pairs between commas, a comma inside a value written
twice, the first key left out; for devices and objects also JSON, as libvirt writes it.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from dynmem.discovery.processes import is_ours
from dynmem.json_errors import NOT_JSON
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX, SCAN_OPTIONS_MAX
from dynmem.units import MIB, parse_size

Fields = Mapping[str, str]

_DEFAULT_MEMORY: Final = 128 * MIB
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ON: Final = frozenset({"on", "yes", "true", "y"})
_NAME_MAX: Final = 64  # characters of a name that the process itself has chosen


class MonitorOption(NamedTuple):
    """A QMP monitor that listens at a unix socket.

    Attributes:
        path: The socket as the command line has it; "" if it was passed as a descriptor.
        descriptor: The number of that descriptor; None if there is a path.
    """

    path: str
    descriptor: int | None = None


class StartedAs(NamedTuple):
    """What a VM was started as.

    Attributes:
        is_ours: Whether it is `dynmem vm`.
        name: Its name; "" if it was given none.
        uuid: Its UUID; "" if it was given none.
        number: Proxmox's VMID; None: it has none.
        memory_bytes: The memory that it boots with; 0: not known.
        monitors: Its QMP monitors.
        devices: Its devices, by their properties; "driver" is the type.
        objects: Its objects, by their properties; "qom-type" is the type.
        netdevs: Its network backends, by their properties; "type" is the type.
        machine: The properties of its machine.
        locks_memory: Whether it was told to lock its memory.
        reads_a_file: Whether options of it stand in a file that is not looked at.
    """

    is_ours: bool
    name: str
    uuid: str
    number: int | None
    memory_bytes: int
    monitors: tuple[MonitorOption, ...]
    devices: tuple[Fields, ...]
    objects: tuple[Fields, ...]
    netdevs: tuple[Fields, ...]
    machine: Fields
    locks_memory: bool
    reads_a_file: bool

    @property
    def pluggable_bytes(self) -> int:
        """The most that its virtio-mem devices can plug: what their memory backends have."""
        sizes = {each.get("id", ""): object_size(each.get("size", "")) for each in self.objects}
        mems = (each for each in self.devices if each.get("driver", "").startswith("virtio-mem-"))
        return sum(sizes.get(each.get("memdev", ""), 0) for each in mems)


def started_as(arguments: Sequence[str]) -> StartedAs:
    """Return what a command line says. Whatever it is, it raises nothing."""
    found: dict[str, list[str]] = {}
    for option, value in _options(arguments):
        found.setdefault(option, []).append(value)
    memory = [fields_of(value, "size") for key in ("m", "memory") for value in found.get(key, ())]
    machine: dict[str, str] = {}
    for value in (*found.get("machine", ()), *found.get("M", ())):
        machine.update(fields_of(value, "type"))
    otherwise = _DEFAULT_MEMORY if arguments and "readconfig" not in found else 0
    locks = (fields_of(value, "") for key in ("overcommit", "realtime") for value in found.get(key, ()))
    return StartedAs(
        is_ours(arguments),
        name_of(arguments) or "",
        next((text.lower() for text in found.get("uuid", ()) if _UUID.fullmatch(text)), ""),
        number_of(arguments),
        next((size_of(each["size"]) or 0 for each in memory if "size" in each), 0) or otherwise,
        tuple(_monitors(found)),
        tuple(fields_of(value, "driver") for value in found.get("device", ())),
        tuple(fields_of(value, "qom-type") for value in found.get("object", ())),
        tuple(fields_of(value, "type") for value in found.get("netdev", ())),
        machine,
        any(is_on(each.get("mem-lock", each.get("mlock", ""))) for each in locks),
        "readconfig" in found,
    )


def name_of(arguments: Sequence[str]) -> str | None:
    """Return the name that a VM's command line has for it; None if it has none that can be shown.

    QEMU's has properties beside it (``-name guest=web,...``), that of `dynmem vm` is a plain text.
    """
    names = (value for option, value in _options(arguments) if option == "name")
    if not is_ours(arguments):
        names = (fields_of(name, "guest").get("guest", "") for name in names)
    return next((name for name in names if name.isprintable() and 0 < len(name) <= _NAME_MAX), None)


def number_of(arguments: Sequence[str]) -> int | None:
    """Return Proxmox's VMID on a VM's command line (``-id 104``); None if it has none."""
    values = (value for option, value in _options(arguments) if option == "id")
    return next((int(value) for value in values if _is_number(value)), None)


def is_on(value: str) -> bool:
    """Return whether the value of a switch means on; ``on-fault`` locks memory, too."""
    return value in _ON or value == "on-fault"


def size_of(text: str) -> int | None:
    """Return a size in bytes, of which a bare number counts MiB; None if it is none."""
    try:
        return parse_size(text, default_unit="M")
    except ValueError:
        return None


def object_size(text: str) -> int:
    """Return the size of an object, of which a bare number counts bytes; 0 if no VM can have that."""
    try:
        size = parse_size(text, default_unit="B")
    except ValueError:
        return 0
    return size if size <= MANAGER_FIGURE_BYTES_MAX else 0


def fields_of(value: str, first_key: str) -> dict[str, str]:
    """Return the properties in the value of an option; in JSON, only lists of numbers may be nested.

    *first_key* is the key that may be left out in front.
    """
    if value.startswith("{"):
        return _from_json(value)
    fields: dict[str, str] = {}
    for number, part in enumerate(value.replace(",,", "\0").split(",", SCAN_OPTIONS_MAX)):
        key, has_value, text = part.replace("\0", ",").partition("=")
        if has_value:
            fields[key] = text
        elif number == 0 and first_key:
            fields[first_key] = key
        elif key.startswith("no"):
            fields[key[2:]] = "off"
        else:
            fields[key] = "on"
    return fields


def _from_json(text: str) -> dict[str, str]:
    try:
        members = msgspec.json.decode(text.encode(errors="replace"), type=dict[str, object])
    except NOT_JSON:
        return {}
    fields: dict[str, str] = {}
    for key, value in members.items():
        if isinstance(value, bool):
            fields[key] = "on" if value else "off"
        elif isinstance(value, str | int):
            fields[key] = str(value)
        elif isinstance(value, list) and all(isinstance(each, int) for each in value):
            fields[key] = ",".join(map(str, value))  # such as the nodes of a memory backend
    return fields


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield options without their dashes, with what follows: for a switch, that is the next option."""
    for option, value in itertools.islice(itertools.pairwise([*arguments, ""]), SCAN_OPTIONS_MAX):
        if option.startswith("-"):
            key, has_value, joined = option.lstrip("-").partition("=")
            yield key, joined if has_value else value


def _monitors(found: Mapping[str, Sequence[str]]) -> Iterator[MonitorOption]:
    """Yield the monitors of ``-qmp``, and of ``-mon`` in control mode with a socket that listens."""
    for key in ("qmp", "qmp-pretty"):
        for value in found.get(key, ()):
            kind, _, rest = value.partition(":")
            listens = fields_of(rest, "path")
            if kind == "unix" and listens.get("path") and _listens(listens):
                yield MonitorOption(listens["path"])
    sockets = {
        fields["id"]: fields
        for fields in (fields_of(value, "backend") for value in found.get("chardev", ()))
        if fields.get("backend") == "socket" and "id" in fields and _listens(fields)
    }
    for value in found.get("mon", ()):
        monitor = fields_of(value, "chardev")
        socket = sockets.get(monitor.get("chardev", ""))
        if monitor.get("mode") != "control" or socket is None:
            continue
        if socket.get("path"):
            yield MonitorOption(socket["path"])
        elif _is_number(socket.get("fd", "")):
            yield MonitorOption("", int(socket["fd"]))


def _listens(fields: Fields) -> bool:
    return is_on(fields.get("server", ""))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10

"""The manager's configuration: one TOML file, checked whole before anything is touched.

    [host]
    budget = "8GiB"                 # what all VMs together may hold
    slush = "256MiB"                # the part of it that is never granted (default 256MiB)

    [manager]
    mode = "observe"                # or "enforce"; observe changes nothing (default)
    period = "1s"                   # 100ms to 1h (default 1s)
    socket = "/run/dynmem/api.sock" # where `dynmem status` connects
    state = "/var/lib/dynmem"       # the journal's private folder

    [[vm]]                          # once per VM
    name = "web"                    # letters, digits, dot, dash, underscore
    qmp = "/run/vm/web.qmp"         # a monitor for dynmem alone: no other client stays connected to it
    minimum = "512MiB"              # it is never shrunk below
    maximum = "4GiB"
    buffer = 20                     # percent on top of its demand (default 20)
    weight = 5000                   # 1 to 10000, divides memory within a priority (default 5000)
    priority = "normal"             # low, normal or high (default normal)

Sizes are binary however they are spelled; minimum is rounded up and maximum down to a page of 4 KiB. Any
mistake is a ConfigError that names the file, the key, the value and what to do.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, get_args

import msgspec

from dynmem.errors import ConfigError
from dynmem.limits import (
    MANAGER_CONFIG_BYTES_MAX,
    MANAGER_NAME_MAX,
    MANAGER_VMS_MAX,
    UNIX_PATH_BYTES_MAX,
    WEIGHT_MAX,
)
from dynmem.manager.paths import default_socket, default_state
from dynmem.manager.step.facts import ManagerSettings, Mode, VmConfig
from dynmem.policy import MemorySettings, Priority
from dynmem.units import KIB, MIB, NS_PER_MS, NS_PER_S, PAGE_SIZE, format_size, parse_duration, parse_size

PERIOD_NS_MIN: Final = 100 * NS_PER_MS
PERIOD_NS_MAX: Final = 3600 * NS_PER_S
MINIMUM_BYTES_MIN: Final = 16 * MIB  # no known guest runs below
BUFFER_PERCENT_MAX: Final = 1000
_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MANAGER_NAME_MAX - 1}}}")

_DEFAULTS: Final = MemorySettings()
_SLUSH: Final = "256MiB"

Size = str | int


class HostTable(msgspec.Struct, forbid_unknown_fields=True):
    """The host.

    Attributes:
        budget: What all VMs together may hold.
        slush: The part of the budget that is never granted to any VM; less than the budget.
    """

    budget: Size
    slush: Size = _SLUSH


class ManagerTable(msgspec.Struct, forbid_unknown_fields=True):
    """The manager. The table may be left out.

    Attributes:
        mode: "observe" plans and sends nothing that changes anything; "enforce" acts.
        period: From one look at the VMs to the next: 100ms to 1h. Its unit is ms, s, min or h; without one
            it is in seconds.
        socket: Where `dynmem status` connects: an absolute path of at most 107 bytes. Default: as root
            `/run/dynmem/api.sock`, otherwise `$XDG_RUNTIME_DIR/dynmem/api.sock`.
        state: The private folder of the journal: an absolute path. Default: as root `/var/lib/dynmem`,
            otherwise `~/.local/state/dynmem` (`$XDG_STATE_HOME/dynmem` if that is set).
    """

    mode: Mode = "observe"
    period: str | int | float = "1s"
    socket: str = ""
    state: str = ""


class VmTable(msgspec.Struct, forbid_unknown_fields=True):
    """One virtual machine; write it once for each, at most 1000 times.

    Attributes:
        name: Its name: up to 64 letters, digits, dots, dashes and underscores, beginning with a letter or
            digit.
        qmp: The socket of a monitor for dynmem alone: an absolute path of at most 107 bytes.
        minimum: The VM is never shrunk below this: at least 16 MiB, at most budget less slush; rounded up to
            a page of 4 KiB.
        maximum: The VM is never grown above this; rounded down to a page of 4 KiB.
        buffer: Percent on top of its demand: 0 to 1000.
        weight: 1 to 10000: divides memory among the VMs of one priority.
        priority: "high" is served first, "low" last when not everything fits.
    """

    name: str
    qmp: str
    minimum: Size
    maximum: Size
    buffer: int = _DEFAULTS.buffer_percent
    weight: int = _DEFAULTS.weight
    priority: Priority = _DEFAULTS.priority


class _File(msgspec.Struct, forbid_unknown_fields=True):
    host: HostTable
    vm: list[VmTable] = []
    manager: ManagerTable = msgspec.field(default_factory=ManagerTable)


#: The tables of the file by their names.
TABLES: Final[dict[str, type[msgspec.Struct]]] = {"host": HostTable, "manager": ManagerTable, "vm": VmTable}
#: How each begins in the file.
HEADINGS: Final = {"host": "[host]", "manager": "[manager]", "vm": "[[vm]]"}


class Config(msgspec.Struct, frozen=True):
    """A configuration that has passed every check.

    Attributes:
        path: The file.
        settings: What concerns the host.
        vms: The VMs, in the order of the file.
        monitors: Each VM's QMP socket, by its name.
        socket: The manager's own socket.
        state: The private folder of the journal.
    """

    path: Path
    settings: ManagerSettings
    vms: tuple[VmConfig, ...]
    monitors: dict[str, Path]
    socket: Path
    state: Path


def load(path: Path) -> Config:
    """Read and check the file; ConfigError says in one sentence what is wrong first."""
    return _checked(path, _typed(path, _parsed(path)))


def warnings(config: Config, host_total_bytes: int) -> list[str]:
    """Return a sentence for each setting that is allowed but hardly intended."""
    found = []
    settings = config.settings
    if settings.budget_bytes > host_total_bytes:
        found.append(
            f"host.budget is {format_size(settings.budget_bytes)}, but this host has"
            f" {format_size(host_total_bytes)}: grants will end at what is really available"
        )
    floors = sum(vm.minimum_bytes for vm in config.vms)
    room = settings.budget_bytes - settings.slush_bytes
    if floors > room:
        found.append(
            f"the minimums of all VMs add up to {format_size(floors)}, more than budget minus slush"
            f" ({format_size(room)}): they cannot all run at once"
        )
    if not config.vms:
        found.append("it has no [[vm]]: there is nothing to manage")
    return found


def _parsed(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            text = file.read(MANAGER_CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}): name the right file with --config"
        ) from error
    if len(text) > MANAGER_CONFIG_BYTES_MAX:
        limit = format_size(MANAGER_CONFIG_BYTES_MAX)
        raise ConfigError(f"{path}: larger than {limit}: this is not a configuration of dynmem")
    try:
        return tomllib.loads(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from error
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path}: not TOML: {error}: correct it and run --check again") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: not TOML: nested too deeply") from error


_WHERE: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`")
_MISSING: Final = re.compile(r"Object missing required field `(?P<key>[^`]*)`")
_ENUM: Final = re.compile(r"Invalid enum value '(?P<value>[^']*)'")
_WORDS: Final = {"mode": get_args(Mode), "priority": get_args(Priority)}
_KINDS: Final = {  # msgspec's names of types in words of TOML
    "int": "a whole number without quotes",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "null": "nothing",
}


def _typed(path: Path, raw: dict[str, object]) -> _File:
    try:
        return msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error), raw)}") from error


def _explain(message: str, raw: dict[str, object]) -> str:
    """Turn msgspec's message into a sentence with the key as it is in the file, and the next step."""
    match = _WHERE.match(message)
    assert match is not None
    what, where = match["what"], (match["path"] or "").removeprefix(".")
    place = _place(where, raw)
    table = where.split("[")[0].split(".")[0]
    known = TABLES.get(table, _File).__struct_fields__
    if unknown := _UNKNOWN.match(what):
        key = unknown["key"]
        return f"{_joined(place, key)}: unknown key: {_where_it_belongs(key, known)}"
    if missing := _MISSING.match(what):
        key = missing["key"]
        add = f"a [{key}] table" if not place and key in TABLES else f"{key} = ..."
        return f"{_joined(place, key)}: missing: add {add}"
    return f"{place or 'the file'}: {_mistyped(what, where.rsplit('.', 1)[-1])}"


def _where_it_belongs(key: str, known: Sequence[str]) -> str:
    """Return the next step for a key that its table does not know."""
    for name, table in TABLES.items():
        if key in table.__struct_fields__:
            return f"it belongs in {HEADINGS[name]}"
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"known here are {', '.join(known)}"


def _mistyped(what: str, key: str) -> str:
    """Return what is wrong with a value of the wrong kind, in words of TOML."""
    if value := _ENUM.match(what):
        words = _WORDS[key]
        close = difflib.get_close_matches(value["value"], words, 1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        return f"{value['value']!r} is not one of {', '.join(words)}{hint}"
    expected, _, got = what.removeprefix("Expected ").partition(", got ")
    kinds = [_KINDS.get(kind, kind) for kind in re.findall(r"\w+", expected)]
    if kinds == [_KINDS["array"]] and key == "vm":
        return "is one table: write [[vm]], with two brackets, once for each VM"
    return f"is {_KINDS.get(got.strip('`'), got)}: write {' or '.join(kinds)}"


def _joined(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _place(where: str, raw: dict[str, object]) -> str:
    """Return ``vm[1].weight`` with the VM's name instead of its number, if it has one."""
    match = re.match(r"vm\[(\d+)\](.*)", where)
    if match is None:
        return where
    tables = raw.get("vm")
    entry = tables[int(match[1])] if isinstance(tables, list) else None
    name = entry.get("name") if isinstance(entry, dict) else None
    return _vm_place(name if isinstance(name, str) else "", int(match[1])) + match[2]


def is_name(text: str) -> bool:
    """Return whether a VM may have this name."""
    return _NAME.fullmatch(text) is not None


def _vm_place(name: str, index: int) -> str:
    return f"vm {name!r}" if _NAME.fullmatch(name) else f"vm number {index + 1}"


def _checked(path: Path, file: _File) -> Config:
    def fail(key: str, sentence: str) -> ConfigError:
        return ConfigError(f"{path}: {key}: {sentence}")

    budget = _size(fail, "host.budget", file.host.budget)
    slush = _size(fail, "host.slush", file.host.slush)
    if slush >= budget:
        whose = ", the default," if file.host.slush == _SLUSH else ""
        raise fail(
            "host.slush",
            f"{format_size(slush)}{whose} is not below the budget of {format_size(budget)}: set a lower one",
        )
    if len(file.vm) > MANAGER_VMS_MAX:
        raise fail("vm", f"{len(file.vm)} VMs; at most {MANAGER_VMS_MAX} can be managed: leave some out")
    vms = tuple(_vm(fail, index, vm, budget - slush) for index, vm in enumerate(file.vm))
    _no_twice(fail, "name", [vm.name for vm in file.vm])
    _no_twice(fail, "qmp", [vm.qmp for vm in file.vm])
    manager = file.manager
    socket = _socket_path(fail, "manager.socket", manager.socket or str(default_socket()))
    taken = [vm.name for vm in file.vm if Path(vm.qmp) == socket]
    if taken:
        raise fail("manager.socket", f"is the monitor of vm {taken[0]!r}: choose another path")
    return Config(
        path=path,
        settings=ManagerSettings(
            budget_bytes=budget,
            slush_bytes=slush,
            period_ns=_period(fail, manager.period),
            mode=manager.mode,
        ),
        vms=vms,
        monitors={vm.name: Path(vm.qmp) for vm in file.vm},
        socket=socket,
        state=_absolute(fail, "manager.state", manager.state or str(default_state())),
    )


_Fail = Callable[[str, str], ConfigError]


def _size(fail: _Fail, key: str, value: Size) -> int:
    try:
        size = value if isinstance(value, int) else parse_size(value)
    except ValueError as error:
        raise fail(key, str(error)) from error
    if not 0 <= size < 1 << 60:
        raise fail(key, f"{value} is not a memory size: write it like 512MiB")
    if 0 < size < MIB and str(value).isdecimal():
        raise fail(key, f"is {size} bytes: add a unit, like {size}{'GiB' if size < KIB else 'MiB'}")
    return size


def _period(fail: _Fail, value: str | float) -> int:
    try:
        period = parse_duration(str(value))
    except ValueError as error:
        raise fail("manager.period", str(error)) from error
    if not PERIOD_NS_MIN <= period <= PERIOD_NS_MAX:
        raise fail("manager.period", f"{value!r} is outside 100ms to 1h: 1s suits most hosts")
    return period


def _absolute(fail: _Fail, key: str, text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise fail(key, f"{text!r} is not an absolute path: write it from the root, like /run/vm/web.qmp")
    return Path(text)


def _socket_path(fail: _Fail, key: str, text: str) -> Path:
    path = _absolute(fail, key, text)
    if len(text.encode()) > UNIX_PATH_BYTES_MAX:
        raise fail(
            key, f"longer than {UNIX_PATH_BYTES_MAX} bytes, the limit of a unix socket: use a shorter path"
        )
    return path


def _vm(fail: _Fail, index: int, vm: VmTable, room: int) -> VmConfig:
    place = _vm_place(vm.name, index)
    if not _NAME.fullmatch(vm.name):
        raise fail(
            f"{place}.name",
            f"{vm.name[:MANAGER_NAME_MAX]!r} is not a name: use up to {MANAGER_NAME_MAX} letters, digits,"
            " '.', '-' and '_', beginning with a letter or digit",
        )
    _socket_path(fail, f"{place}.qmp", vm.qmp)
    minimum = -(-_size(fail, f"{place}.minimum", vm.minimum) // PAGE_SIZE) * PAGE_SIZE
    maximum = _size(fail, f"{place}.maximum", vm.maximum) // PAGE_SIZE * PAGE_SIZE
    if minimum < MINIMUM_BYTES_MIN:
        raise fail(
            f"{place}.minimum", f"{format_size(minimum)} is below {format_size(MINIMUM_BYTES_MIN)}: raise it"
        )
    if minimum > maximum:
        raise fail(
            f"{place}.minimum",
            f"{format_size(minimum)} is above its maximum of {format_size(maximum)}: swap or correct them",
        )
    if minimum > room:
        raise fail(
            f"{place}.minimum",
            f"{format_size(minimum)} is above budget minus slush ({format_size(room)}): it could never start",
        )
    if not 0 <= vm.buffer <= BUFFER_PERCENT_MAX:
        raise fail(
            f"{place}.buffer", f"{vm.buffer} is outside 0 to {BUFFER_PERCENT_MAX} percent: 20 suits most VMs"
        )
    if not 1 <= vm.weight <= WEIGHT_MAX:
        raise fail(
            f"{place}.weight", f"{vm.weight} is outside 1 to {WEIGHT_MAX}: {_DEFAULTS.weight} is the middle"
        )
    return VmConfig(
        name=vm.name,
        minimum_bytes=minimum,
        maximum_bytes=maximum,
        buffer_percent=vm.buffer,
        weight=vm.weight,
        priority=vm.priority,
    )


def _no_twice(fail: _Fail, key: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            raise fail(
                f"{_vm_place('', index)}.{key}", f"{value!r} is used by an earlier VM: give it its own"
            )
        seen.add(value)

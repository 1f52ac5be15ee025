"""The manager's configuration: a file's values, checked whole before anything is touched.

`config_file` shows the file. Sizes are binary however they are spelled; minimum is rounded up and maximum
down to a page of 4 KiB. Any mistake is a ConfigError that names the file, the key, the value and what to do.
"""

import grp
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from dynmem.discovery.keepers import is_keepers_own
from dynmem.errors import ConfigError, quoted
from dynmem.limits import (
    COMMAND_WORD_BYTES_MAX,
    COMMAND_WORDS_MAX,
    HISTORY_BYTES_MAX,
    HISTORY_BYTES_MIN,
    MANAGER_FIGURE_BYTES_MAX,
    MANAGER_NAME_MAX,
    MANAGER_VMS_MAX,
    UNIX_PATH_BYTES_MAX,
    WEIGHT_MAX,
)
from dynmem.manager.address import Address, parse_address
from dynmem.manager.config_file import (
    AUTO,
    SLUSH,
    File,
    ManagerTable,
    ProxmoxTable,
    Size,
    VmTable,
    is_name,
    vm_place,
)
from dynmem.manager.drop_ins import Origins, read
from dynmem.manager.paths import default_socket, default_state
from dynmem.manager.step.facts import ManagerSettings, MonitorKind, VmConfig
from dynmem.policy import MemorySettings
from dynmem.units import KIB, MIB, NS_PER_MS, NS_PER_S, PAGE_SIZE, format_size, parse_duration, parse_size

PERIOD_NS_MIN: Final = 100 * NS_PER_MS
PERIOD_NS_MAX: Final = 3600 * NS_PER_S
MINIMUM_BYTES_MIN: Final = 16 * MIB  # no known guest runs below
BUFFER_PERCENT_MAX: Final = 1000
# What a domain is called is for people to read: libvirt has no limit of its own.
DOMAIN_NAME_MAX: Final = 255
# Only a libvirt of this host: the VMs' memory and processes are looked at here.
_LIBVIRT: Final = re.compile(r"(?:qemu|qemu\+unix|test|test\+unix):///[!-~]{0,400}")
_DEFAULTS: Final = MemorySettings()


class Config(msgspec.Struct, frozen=True):
    """A configuration that has passed every check.

    Attributes:
        path: The file.
        settings: What concerns the host.
        vms: The VMs, in the order of the file.
        monitors: The QMP socket of each VM that has one, by its name.
        socket: The manager's own socket.
        state: The private folder of the journal and the history.
        metrics: Where metrics are served; None: nowhere.
        status_socket: The socket that only reports the status; None: there is none.
        status_group: The number of the group that may connect there; None: everybody.
        libvirt: The URI of the host's libvirt; "": its domains are not managed.
        domains: What libvirt calls each VM that is reached by it, by the VM's name: a name, or a UUID.
        proxmox_files: The folder of the files of Proxmox's VMs.
        qm: The command that changes them.
        history_bytes: The most that the history may take; 0: none is kept.
    """

    path: Path
    settings: ManagerSettings
    vms: tuple[VmConfig, ...]
    monitors: dict[str, Path]
    socket: Path
    state: Path
    metrics: Address | None = None
    status_socket: Path | None = None
    status_group: int | None = None
    libvirt: str = ""
    domains: dict[str, str] = {}
    proxmox_files: Path = Path(ProxmoxTable().files)
    qm: Path = Path(ProxmoxTable().qm)
    history_bytes: int = HISTORY_BYTES_MAX

    @property
    def room_bytes(self) -> int:
        """What can be granted at all."""
        return self.settings.budget_bytes - self.settings.slush_bytes

    @property
    def ways(self) -> dict[str, str]:
        """How each VM is reached, in words."""
        return {vm.name: self._way(vm) for vm in self.vms}

    def _way(self, vm: VmConfig) -> str:
        domain = self.domains.get(vm.name)
        if domain is not None:
            return f"domain {domain} of {self.libvirt}"
        return f"monitor {self.monitors[vm.name]} ({vm.monitor})"


def load(path: Path) -> Config:
    """Read and check the file and its drop-ins; ConfigError says in one sentence what is wrong first."""
    return _checked(*read(path))


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
    room = config.room_bytes
    if floors > room:
        found.append(
            f"the minimums of all VMs add up to {format_size(floors)}, more than budget minus slush"
            f" ({format_size(room)}): they cannot all run at once"
        )
    limit, whose = min((room, "the budget less slush"), (host_total_bytes, "what this host has"))
    found += [
        f"vm {vm.name!r}.maximum is {format_size(vm.maximum_bytes)}, above {whose} ({format_size(limit)}):"
        " no plan reaches it"
        for vm in config.vms
        if vm.maximum_bytes > limit
    ]
    if config.metrics is not None and not config.metrics.is_loopback:
        found.append(
            f"manager.metrics is {config.metrics}: every program that reaches that address can read the names"
            " and sizes of all VMs"
        )
    if not config.vms and not config.libvirt:
        found.append("it has no [[vm]]: there is nothing to manage")
    return found


def check_monitors(config: Config) -> None:
    """Compare the sockets' paths with what is there now; ConfigError if a monitor can be no VM's own.

    A path where nothing is yet is right: the VM has not started.
    """
    owners = {_socket_there(config.socket)[0]: "manager.socket"}
    if config.status_socket is not None:
        owners[_socket_there(config.status_socket)[0]] = "manager.status_socket"
    for name, path in config.monitors.items():
        place = f"{config.path}: vm {name!r}.qmp: {path}"
        which, is_other_thing = _socket_there(path)
        if is_other_thing:
            raise ConfigError(f"{place} is {is_other_thing}: name the socket of the VM's -chardev")
        if which in owners:
            raise ConfigError(f"{place} is the same socket as {owners[which]}: give the VM one of its own")
        owners[which] = f"that of vm {name!r}"


def _socket_there(path: Path) -> tuple[tuple[int, int] | str, str]:
    """Return which socket a path leads to, however it is spelled, and what is there if that is none."""
    try:
        there = path.stat()
    except OSError:
        return os.path.realpath(path), ""
    what = "" if stat.S_ISSOCK(there.st_mode) else "not a socket"
    return (there.st_dev, there.st_ino), "a folder" if stat.S_ISDIR(there.st_mode) else what


def _checked(file: File, origins: Origins) -> Config:
    def fail(key: str, sentence: str) -> ConfigError:
        return ConfigError(f"{origins.of(key)}: {key}: {sentence}")

    budget = _size(fail, "host.budget", file.host.budget, least=MINIMUM_BYTES_MIN)
    slush = _size(fail, "host.slush", file.host.slush)
    if slush >= budget:
        whose = ", the default," if file.host.slush == SLUSH else ""
        raise fail(
            "host.slush",
            f"{format_size(slush)}{whose} is not below the budget of {format_size(budget)}: set a lower one",
        )
    room = budget - slush
    ready = None if file.host.ready == AUTO else _part(fail, "host.ready", file.host.ready, room)
    pool = _part(fail, "host.pool", file.host.pool, room)
    if len(file.vm) > MANAGER_VMS_MAX:
        raise fail("vm", f"{len(file.vm)} VMs; at most {MANAGER_VMS_MAX} can be managed: leave some out")
    vms = tuple(checked_vm(fail, vm_place(vm.name, index), vm, room) for index, vm in enumerate(file.vm))
    manager = file.manager
    for index, vm in enumerate(file.vm):
        _check_way(fail, vm_place(vm.name, index), vm, manager.libvirt)
    _no_twice(fail, "name", [vm.name for vm in file.vm])
    _no_twice(fail, "qmp", [vm.qmp for vm in file.vm])
    _no_twice(fail, "libvirt", [vm.libvirt for vm in file.vm])
    if manager.libvirt and _LIBVIRT.fullmatch(manager.libvirt) is None:
        raise fail(
            "manager.libvirt",
            f"{quoted(manager.libvirt)} is no libvirt of this host: write qemu:///system or qemu:///session",
        )
    socket = _socket_path(fail, "manager.socket", manager.socket or str(default_socket()))
    taken = [vm.name for vm in file.vm if vm.qmp and Path(vm.qmp) == socket]
    if taken:
        raise fail("manager.socket", f"is the monitor of vm {taken[0]!r}: choose another path")
    status_socket, status_group = _status_socket(fail, manager, socket)
    return Config(
        path=origins.path,
        settings=ManagerSettings(
            budget_bytes=budget,
            slush_bytes=slush,
            period_ns=_period(fail, manager.period),
            mode=manager.mode,
            ready_bytes=ready,
            pool_bytes=pool,
            statistics=manager.statistics,
            sets_oom_score=manager.oom_score,
            sets_memory_low=manager.memory_low,
        ),
        vms=vms,
        monitors={vm.name: Path(vm.qmp) for vm in file.vm if vm.qmp},
        socket=socket,
        state=_absolute(fail, "manager.state", manager.state or str(default_state())),
        metrics=_address(fail, "manager.metrics", manager.metrics),
        status_socket=status_socket,
        status_group=status_group,
        libvirt=manager.libvirt,
        domains={vm.name: vm.libvirt for vm in file.vm if vm.libvirt},
        proxmox_files=_absolute(fail, "proxmox.files", file.proxmox.files),
        qm=_absolute(fail, "proxmox.qm", file.proxmox.qm),
        history_bytes=_history(fail, manager.history),
    )


def _history(fail: "Fail", value: Size) -> int:
    size = _size(fail, "manager.history", value)
    if 0 < size < HISTORY_BYTES_MIN:
        least = format_size(HISTORY_BYTES_MIN)
        raise fail(
            "manager.history", f'{format_size(size)} is below {least}: raise it, or write "0" for none'
        )
    return size


#: Makes the error about a key from the sentence that says what is wrong with its value.
Fail = Callable[[str, str], ConfigError]


def _size(fail: Fail, key: str, value: Size, *, least: int = 0) -> int:
    """Return the bytes of a size of at least *least*; a small one without a unit lacks it by mistake."""
    try:
        size = value if isinstance(value, int) else parse_size(value)
    except ValueError as error:
        raise fail(key, str(error)) from error
    if not 0 <= size < MANAGER_FIGURE_BYTES_MAX:
        raise fail(key, f"{value} is not a memory size: write it like 512MiB")
    if 0 < size < MIB and str(value).strip().isdecimal():
        least = least or MIB
        unit = "GiB" if size < KIB else "MiB"
        raise fail(key, f"{size} B is below {format_size(least)}: did you mean {size}{unit}?")
    if size < least:
        raise fail(key, f"{format_size(size)} is below {format_size(least)}: raise it")
    return size


def _part(fail: Fail, key: str, value: Size, room: int) -> int:
    """Return the bytes of a part of the *room* that the VMs share."""
    size = _size(fail, key, value)
    if size >= room:
        raise fail(
            key, f"{format_size(size)} is not below budget minus slush ({format_size(room)}): lower it"
        )
    return size


def _period(fail: Fail, value: str | float) -> int:
    try:
        period = parse_duration(str(value))
    except ValueError as error:
        raise fail("manager.period", str(error)) from error
    if not PERIOD_NS_MIN <= period <= PERIOD_NS_MAX:
        raise fail("manager.period", f"{quoted(str(value))} is outside 100ms to 1h: 1s suits most hosts")
    return period


def _address(fail: Fail, key: str, text: str) -> Address | None:
    try:
        return parse_address(text) if text else None
    except ValueError as error:
        raise fail(key, str(error)) from error


def _status_socket(fail: Fail, manager: ManagerTable, socket: Path) -> tuple[Path | None, int | None]:
    """Return the socket that only reports the status, and the number of its group."""
    text, group = manager.status_socket, manager.status_group
    if not text:
        if group:
            raise fail(
                "manager.status_group", "there is no manager.status_socket: name one, or leave this out"
            )
        return None, None
    path = _socket_path(fail, "manager.status_socket", text)
    if path == socket:
        raise fail("manager.status_socket", "is manager.socket: choose another path")
    try:
        return path, grp.getgrnam(group).gr_gid if group else None
    except (KeyError, ValueError):
        raise fail("manager.status_group", f"{quoted(group)} is no group of this host: name one") from None


def _absolute(fail: Fail, key: str, text: str) -> Path:
    if not text.isprintable():
        raise fail(key, f"{quoted(text)} has control characters: write a plain path")
    if not text.startswith("/"):
        raise fail(
            key, f"{quoted(text)} is not an absolute path: write it from the root, like /run/vm/web.qmp"
        )
    return Path(text)


def _socket_path(fail: Fail, key: str, text: str) -> Path:
    path = _absolute(fail, key, text)
    if len(text.encode()) > UNIX_PATH_BYTES_MAX:
        raise fail(
            key, f"longer than {UNIX_PATH_BYTES_MAX} bytes, the limit of a unix socket: use a shorter path"
        )
    return path


def _check_way(fail: Fail, place: str, vm: VmTable, libvirt: str) -> None:
    """Check that a VM is reached in one way: by a monitor, or by libvirt."""
    if not vm.libvirt:
        if not vm.qmp:
            raise fail(
                f"{place}.qmp", "missing: add qmp = ..., or libvirt = ... where it is a domain of libvirt"
            )
        _socket_path(fail, f"{place}.qmp", vm.qmp)
        return
    if vm.qmp:
        raise fail(f"{place}.libvirt", "a VM is reached by libvirt or by a monitor: leave out libvirt or qmp")
    if not libvirt:
        raise fail(f"{place}.libvirt", 'needs manager.libvirt: add libvirt = "qemu:///system" to [manager]')
    if not vm.libvirt.isprintable() or len(vm.libvirt) > DOMAIN_NAME_MAX:
        raise fail(
            f"{place}.libvirt", f"{quoted(vm.libvirt)} is no name of a domain: write its name or its UUID"
        )


def checked_vm(fail: Fail, place: str, vm: VmTable, room: int) -> VmConfig:
    """Return what a VM's table means; what *fail* makes is raised if it cannot be.

    *place* is what a sentence calls the VM; *room* is what can be granted at all, in bytes.
    """
    if not is_name(vm.name):
        raise fail(
            f"{place}.name",
            f"{quoted(vm.name)} is not a name: use up to {MANAGER_NAME_MAX} letters, digits,"
            " '.', '-' and '_', beginning with a letter or digit",
        )
    minimum = _size(fail, f"{place}.minimum", vm.minimum, least=MINIMUM_BYTES_MIN)
    minimum = -(-minimum // PAGE_SIZE) * PAGE_SIZE
    maximum = _size(fail, f"{place}.maximum", vm.maximum, least=MINIMUM_BYTES_MIN) // PAGE_SIZE * PAGE_SIZE
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
        on_shortage=vm.on_shortage,
        may_stop=vm.may_stop,
        on_out_of_memory=_command(fail, place, vm),
        monitor=_monitor_kind(vm.monitor, Path(vm.qmp)),
        takeover=vm.takeover,
    )


def _monitor_kind(said: Literal["auto", MonitorKind], path: Path) -> MonitorKind:
    if said != "auto":
        return said
    return "borrowed" if is_keepers_own(path) else "own"


def _command(fail: Fail, place: str, vm: VmTable) -> tuple[str, ...]:
    """Return the command of a VM that may be interrupted; empty if it may not."""
    key, words = f"{place}.on_out_of_memory", vm.on_out_of_memory
    if not words:
        return ()
    if vm.priority == "high":
        raise fail(key, "a VM of priority high is never interrupted: leave it out, or lower the priority")
    if len(words) > COMMAND_WORDS_MAX:
        raise fail(key, f"{len(words)} words; at most {COMMAND_WORDS_MAX} are run: name a script instead")
    _absolute(fail, key, words[0])
    for word in words[1:]:
        if "\0" in word or len(word.encode(errors="surrogatepass")) > COMMAND_WORD_BYTES_MAX:
            raise fail(
                key,
                f"{quoted(word)} cannot be an argument: none may have a NUL byte or more than"
                f" {COMMAND_WORD_BYTES_MAX} bytes",
            )
    return tuple(words)


def _no_twice(fail: Fail, key: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value and value in seen:
            raise fail(
                f"{vm_place('', index)}.{key}", f"{quoted(value)} is used by an earlier VM: give it its own"
            )
        seen.add(value)

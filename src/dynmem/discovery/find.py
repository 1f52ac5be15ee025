"""Find the VMs of this host: processes by their command lines, and monitors in folders that the user names.

Nothing is asked of a VM here, and no configuration is needed. A process can vanish at any moment, and then it
is left out.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.discovery.processes import command_line, running_vms
from dynmem.discovery.proxmox import FOLDER, ProxmoxVm, read_proxmox
from dynmem.discovery.qemu_options import MonitorOption, StartedAs, started_as
from dynmem.discovery.unix_sockets import UnixSockets, unix_sockets
from dynmem.errors import UnreachableError, printable
from dynmem.limits import SCAN_VMS_MAX
from dynmem.procfs import PROC
from dynmem.sockets import listener

PROXMOX, LIBVIRT, OURS, BY_HAND = "proxmox", "libvirt", "dynmem vm", "qemu"
_LIBVIRTS: Final = "/libvirt/qemu/"  # images lie elsewhere, and anybody may use them


class FoundMonitor(NamedTuple):
    """A QMP monitor.

    Attributes:
        path: A way to its socket from here.
        is_taken: Whether a client is connected to it now.
    """

    path: Path
    is_taken: bool


class FoundVm(NamedTuple):
    """A VM that runs.

    Attributes:
        pid: Its process; 0: not known.
        name: What it is called: by its command line, Proxmox, or its socket; else its pid.
        keeper: Who runs it, by how it was started: "proxmox", "libvirt", "dynmem vm" or "qemu".
        started: What its command line says.
        monitors: Its monitors that may be reachable from here, those without a client first.
        proxmox: What Proxmox's file says of it; None: there is none.
        problem: Why it has no monitor; "" if it has.
    """

    pid: int
    name: str
    keeper: str
    started: StartedAs
    monitors: tuple[FoundMonitor, ...]
    proxmox: ProxmoxVm | None = None
    problem: str = ""

    @property
    def is_domain(self) -> bool:
        """Whether it is a domain of libvirt: found there by its UUID, it needs no monitor for dynmem."""
        return self.keeper == LIBVIRT and bool(self.started.uuid)


class Found(NamedTuple):
    """The VMs of a host.

    Attributes:
        vms: The VMs.
        unseen: What could not be seen, and why: sentences.
    """

    vms: tuple[FoundVm, ...]
    unseen: tuple[str, ...] = ()


def find_vms(folders: Sequence[Path] = (), *, proc: Path = PROC, proxmox: Path = FOLDER) -> Found:
    """Return the VMs that run, and those behind the sockets in *folders*.

    Raises UnreachableError if one of the folders cannot be read.
    """
    sockets = unix_sockets(proc)
    files = read_proxmox(proxmox)
    unseen = [files.problem] if files.problem else []
    if not sockets.is_known:
        unseen.append(f"{proc}/net/unix cannot be read: whether a monitor serves another client is not known")
    if not _can_be_read(proc / "1" / "cmdline"):
        unseen.append(
            f"processes of other users are hidden ({proc} is mounted with hidepid): run this as root"
        )
    vms: list[FoundVm] = []
    for pid in running_vms(proc):
        if len(vms) == SCAN_VMS_MAX:
            unseen.append(f"there are more than {SCAN_VMS_MAX} VMs: only the first {SCAN_VMS_MAX} are shown")
            break
        arguments = command_line(pid, proc)
        if arguments:
            vms.append(_vm(pid, arguments, files.vms, sockets, proc))
    named = list(_sockets_in(folders))
    # A path on a command line may lie on a server that is dead: it is looked at only where it must be.
    known = {_key(each.path) for vm in vms for each in vm.monitors} if named else set()
    for path in named:
        if (key := _key(path)) not in known:
            known.add(key)
            vms.append(_behind(path, sockets, proc))
    return Found(tuple(vms), tuple(unseen))


def _vm(
    pid: int, arguments: Sequence[str], files: dict[int, ProxmoxVm], sockets: UnixSockets, proc: Path
) -> FoundVm:
    started = started_as(arguments)
    monitors: list[FoundMonitor] = []
    problem = "" if started.monitors else "it was started without a QMP monitor at a unix socket"
    if started.reads_a_file and problem:
        problem += ", unless one is in the file of -readconfig"
    for option in started.monitors:
        path = _path_of(pid, option, sockets, proc)
        if isinstance(path, str):
            problem = path
        else:
            monitors.append(FoundMonitor(path, bool({option.path, str(path)} & sockets.taken)))
    monitors.sort(key=lambda each: each.is_taken)
    file = files.get(started.number) if started.number is not None else None
    name = started.name or (file.name if file is not None else "") or str(pid)
    keeper = _keeper(started, (*arguments, *(str(each.path) for each in monitors)))
    return FoundVm(pid, name, keeper, started, tuple(monitors), file, "" if monitors else problem)


def _keeper(started: StartedAs, words: Sequence[str]) -> str:
    """Return who runs a VM: libvirt gives each QEMU files in folders of its own."""
    if started.is_ours:
        return OURS
    if started.number is not None:
        return PROXMOX
    return LIBVIRT if any(_LIBVIRTS in each for each in words) else BY_HAND


def _path_of(pid: int, option: MonitorOption, sockets: UnixSockets, proc: Path) -> Path | str:
    """Return a monitor's socket, or the sentence why it is not known."""
    try:
        if option.descriptor is not None:
            link = os.readlink(proc / str(pid) / "fd" / str(option.descriptor))  # noqa: PTH115 - no file behind it
            inode = link.removeprefix("socket:[").removesuffix("]")
            path = sockets.paths.get(int(inode) if inode.isdecimal() else -1)
            return "its monitor's descriptor has no path" if path is None else Path(path)
        if option.path.startswith("/"):
            return Path(option.path)
        return (proc / str(pid) / "cwd").readlink() / option.path
    except PermissionError:
        return "where its monitor listens cannot be seen: run this as root or as the VM's user"
    except (OSError, ValueError):
        return "where its monitor listens cannot be seen: its process has ended"


def _can_be_read(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True


def _sockets_in(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        try:
            names = sorted(folder.iterdir())[:SCAN_VMS_MAX]
        except OSError as error:
            raise UnreachableError(
                f"{folder}: cannot be read ({error.strerror}): name a folder of sockets"
            ) from None
        for path in names:
            with suppress(OSError):
                if stat.S_ISSOCK(path.stat().st_mode):
                    yield path


def _key(path: Path) -> tuple[int, int] | None:
    """Return which file a socket is; None if it cannot be seen from here."""
    try:
        info = path.stat()
    except (OSError, ValueError):
        return None
    return info.st_dev, info.st_ino


def _behind(path: Path, sockets: UnixSockets, proc: Path) -> FoundVm:
    """Return the VM behind a socket that no command line names."""
    monitor = FoundMonitor(path, str(path) in sockets.taken)
    pid = 0 if monitor.is_taken else listener(path)
    started = started_as(command_line(pid, proc)) if pid else started_as(())
    keeper = OURS if started.is_ours else BY_HAND
    return FoundVm(pid, started.name or printable(path.stem), keeper, started, (monitor,))

"""What Proxmox's files say of its VMs: one file for each, `qemu-server/VMID.conf`, of ``key: value`` lines.

    memory   its maximum, in MiB; newer versions write current=N
    balloon  its minimum, in MiB; 0: no balloon device; absent: as much as memory
    shares   its weight, 1000 unless it says otherwise; 0: Proxmox does not balloon it
    lock     what is going on: backup, migrate, snapshot and others

Below the first line in brackets stand snapshots, which are not what runs.

The folder is a file system of Proxmox's own (pmxcfs), shared by all nodes of a cluster: it dates files in
whole seconds, and a VM's file moves to another node's folder when the VM has migrated there.
"""

import re
import time
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.limits import SCAN_PROXMOX_BYTES_MAX, SCAN_VMS_MAX
from dynmem.units import MIB, NS_PER_S

FOLDER: Final = Path("/etc/pve/qemu-server")
_NAME_MAX: Final = 64
_FILE: Final = re.compile(r"[1-9][0-9]{0,8}\.conf")
_NUMBER: Final = re.compile(r"(?:current=)?([0-9]{1,9})")
_SHARES: Final = 1000
_UNNAMED: Final = "unknown"  # a lock whose name cannot be shown
# A file that changed this long ago may have changed again within the second that it is dated with; one that a
# node with a fast clock has dated, too.
_SETTLED_NS: Final = 3 * NS_PER_S


class ProxmoxVm(NamedTuple):
    """A VM as its file has it.

    Attributes:
        number: Its VMID.
        name: Its name; "" if it has none.
        maximum_bytes: What `memory` says.
        minimum_bytes: What `balloon` says, or the maximum; None: it has no balloon device.
        shares: Its weight; 0: Proxmox does not balloon it.
        lock: What is going on; "" if nothing is, "unknown" if its name cannot be shown.
        said_shares: What `shares` says; None: nothing.
        is_moved: Whether Proxmox's own balloon manager moves it (PVE/AutoBalloon.pm).
    """

    number: int
    name: str
    maximum_bytes: int
    minimum_bytes: int | None
    shares: int
    lock: str
    said_shares: int | None = None
    is_moved: bool = False


class ProxmoxFiles(NamedTuple):
    """What the folder says.

    Attributes:
        vms: The VMs, by VMID.
        problem: Why it could not be read, or not all of it; "" if it could, or this is no Proxmox host.
    """

    vms: dict[int, ProxmoxVm]
    problem: str = ""


def read_proxmox(folder: Path = FOLDER) -> ProxmoxFiles:
    """Return the VMs of a folder like `/etc/pve/qemu-server`. It raises nothing."""
    vms: dict[int, ProxmoxVm] = {}
    problem = ""
    try:
        files = sorted(each for each in folder.iterdir() if _FILE.fullmatch(each.name))
    except FileNotFoundError:
        return ProxmoxFiles({})
    except OSError as error:
        return ProxmoxFiles({}, _sentence(folder, error))
    for file in files[:SCAN_VMS_MAX]:
        try:
            text = _text(file)
        except FileNotFoundError:
            continue  # removed since
        except OSError as error:
            problem = _sentence(file, error)
            continue
        number = int(file.stem)
        vms[number] = proxmox_vm(number, text)
    return ProxmoxFiles(vms, problem)


def read_vm(number: int, folder: Path = FOLDER) -> ProxmoxVm | None:
    """Return one VM; None if it has no file here, though the folder is there. Raises OSError."""
    try:
        text = _text(folder / f"{number}.conf")
    except FileNotFoundError:
        if not folder.is_dir():
            raise
        return None
    return proxmox_vm(number, text)


def proxmox_vm(number: int, text: str) -> ProxmoxVm:
    """Return what the text of a file says; what is no number there counts as not said."""
    said: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("["):
            break
        key, has_value, value = line.partition(":")
        if has_value:
            said[key.strip()] = value.strip()
    maximum = _number(said.get("memory"), 512)
    minimum = _number(said.get("balloon"), maximum)
    shares = _number(said.get("shares"), _SHARES)
    return ProxmoxVm(
        number,
        _shown(said.get("name", "")),
        maximum * MIB,
        minimum * MIB if minimum else None,
        shares,
        _shown(lock) or _UNNAMED if (lock := said.get("lock", "")) else "",
        shares if "shares" in said else None,
        is_moved="balloon" in said and minimum > 0 and shares > 0,
    )


class ProxmoxLock:
    """The lock of one VM, read again when its file has changed."""

    def __init__(self, number: int, folder: Path = FOLDER) -> None:
        self._file: Final = folder / f"{number}.conf"
        self._number = number
        self._seen: tuple[int, ...] = ()
        self._lock = ""

    def read(self, now_ns: int | None = None) -> str:
        """Return why the VM is to be left alone, as a part of a sentence; "" if nothing is going on.

        What cannot be known is a reason, too. It raises nothing; on a host without Proxmox there is no lock.
        """
        try:
            lock = self._read(time.time_ns() if now_ns is None else now_ns)
        except OSError as error:
            step = ": run dynmem as root" if isinstance(error, PermissionError) else ""
            return f"whether Proxmox has locked it is not known ({self._file}: {error.strerror}{step})"
        if lock is None:
            return f"Proxmox has moved or removed it ({self._file} is not there)"
        return f"Proxmox has locked it ({lock})" if lock else ""

    def _read(self, now_ns: int) -> str | None:
        """Return the lock; None if the folder is there without the VM's file. Raises OSError."""
        try:
            info = self._file.stat()
            seen = (info.st_ino, info.st_size, info.st_mtime_ns)
            if seen != self._seen or now_ns - info.st_mtime_ns < _SETTLED_NS:
                self._lock, self._seen = proxmox_vm(self._number, _text(self._file)).lock, seen
        except FileNotFoundError:
            folder = self._file.parent
            if folder.exists():
                return None
            if folder.parent.exists():  # of a host whose pmxcfs is not mounted now
                raise
            return ""
        return self._lock


def _text(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(SCAN_PROXMOX_BYTES_MAX).decode(errors="replace")


def _number(text: str | None, otherwise: int) -> int:
    match = _NUMBER.fullmatch(text or "")
    return int(match[1]) if match is not None else otherwise


def _shown(text: str) -> str:
    return text if text.isprintable() and len(text) <= _NAME_MAX else ""


def _sentence(path: Path, error: OSError) -> str:
    step = ": run this as root" if isinstance(error, PermissionError) else ""
    return f"{path} cannot be read ({error.strerror}): what it says of its VMs is missing{step}"

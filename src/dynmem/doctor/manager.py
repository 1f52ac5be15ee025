"""What this host offers to the manager: its kernel, cgroups, rights, and the VMs and monitors that it shows.

Nothing is asked of a VM: what is said of it is what the scan finds without asking.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dynmem.cgroups import limits_above, memory_groups
from dynmem.discovery.find import Found, FoundVm
from dynmem.discovery.proxmox import FOLDER
from dynmem.errors import printable
from dynmem.findings import Finding, Verdict
from dynmem.procfs import PROC, text_of
from dynmem.units import MIB, format_size

#: Names of VMs in one sentence.
NAMES_MAX: Final = 5
# The manager of a few VMs holds about 40 MiB, one of 1000 about 100.
_OWN_BYTES: Final = 128 * MIB
_ROOT: Final = "run dynmem as root, or as the user of the VMs"


def examine(found: Found, proc: Path = PROC, proxmox: Path = FOLDER) -> list[Finding]:
    """Return what was found for the manager of these VMs, beside what `memory` finds."""
    return [kernel(), groups(proc), processes(found, proc), monitors(found), *locks(found, proxmox)]


def kernel(open_process: Callable[[int], int] = os.pidfd_open) -> Finding:
    """Try whether the end of another process can be seen, as the manager sees that of a VM."""
    release = os.uname().release
    try:
        os.close(open_process(os.getpid()))
    except OSError as error:
        detail = f"Linux {release}: pidfd_open fails ({error.strerror}): dynmem run needs it"
        step = "use a kernel of Linux 5.3 or later, and let the sandbox that this runs in allow it"
        return Finding("kernel", Verdict.MISSING, detail, step)
    return Finding("kernel", Verdict.OK, f"Linux {release}: the end of a process can be seen (pidfd)")


def groups(proc: Path = PROC) -> Finding:
    """Look for memory cgroups: their version, and a limit above dynmem itself."""
    subject = "memory cgroups"
    try:
        mounts, own = text_of(proc / "self" / "mountinfo"), text_of(proc / "self" / "cgroup")
        folders = _mounted(mounts)
        found = sorted(limit for group in memory_groups(own, mounts) for limit in limits_above(group))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "they are not in the kernel's form"
        detail = f"cannot be read ({why}): limits of memory above a VM are not seen"
        return Finding(subject, Verdict.LIMITED, detail, "mount /proc and /sys/fs/cgroup")
    if not folders:
        detail = "none are mounted: limits of memory above a VM are not seen"
        return Finding(subject, Verdict.LIMITED, detail, "as root: mount -t cgroup2 none /sys/fs/cgroup")
    version = " and ".join(f"version {each}" for each in sorted(folders))
    if found and found[0].size < _OWN_BYTES:
        detail = (
            f"{version}; dynmem itself may use {format_size(found[0].size)} ({printable(str(found[0].file))})"
        )
        step = "raise it for dynmem run (MemoryMax= in a systemd unit), which is ended by it otherwise"
        return Finding(subject, Verdict.LIMITED, detail, step)
    detail = f"{version}: limits of memory above a VM are seen"
    step = "" if 2 in folders else "memory.low and memory.reclaim are of version 2 only"
    return Finding(subject, Verdict.OK, detail, step)


def _mounted(mounts: str) -> set[int]:
    """Return the versions of the hierarchies that have a memory controller."""
    found = set()
    for line in mounts.splitlines():
        own, _, rest = line.partition(" - ")
        words, kinds = own.split(), rest.split()
        if len(words) < 5 or len(kinds) < 3:
            raise ValueError(line)
        if kinds[0] == "cgroup" and "memory" in kinds[2].split(","):
            found.add(1)
        elif kinds[0] == "cgroup2" and _has_memory(Path(words[4])):
            found.add(2)
    return found


def _has_memory(folder: Path) -> bool:
    try:
        return "memory" in text_of(folder / "cgroup.controllers").split()
    except OSError:
        return False


def processes(found: Found, proc: Path = PROC) -> Finding:
    """Look whether the processes of VMs can be seen, and what they have open."""
    subject = "processes of VMs"
    if found.unseen:
        return Finding(subject, Verdict.LIMITED, "; ".join(map(printable, found.unseen)), _ROOT)
    hidden = [vm for vm in found.vms if not _can_be_listed(proc / str(vm.pid) / "fd")]
    if hidden:
        detail = f"what {names_of(hidden)} has open cannot be seen: what it holds is known less well"
        return Finding(subject, Verdict.LIMITED, detail, _ROOT)
    count = len(found.vms)
    return Finding(subject, Verdict.OK, f"{count} VM{'' if count == 1 else 's'} found, all to be seen")


def monitors(found: Found, may_connect: Callable[[Path], bool] | None = None) -> Finding:
    """Look whether each VM has a monitor that dynmem can use; domains of libvirt need none."""
    found = found._replace(vms=tuple(vm for vm in found.vms if not vm.is_domain))
    may_connect = _may_connect if may_connect is None else may_connect
    without = [vm for vm in found.vms if not vm.monitors]
    closed = [vm for vm in found.vms if vm.monitors and not any(may_connect(m.path) for m in vm.monitors)]
    held = [
        vm
        for vm in found.vms
        if vm not in closed and vm.monitors and all(each.is_taken for each in vm.monitors)
    ]
    parts, steps = [], []
    if without:
        parts.append(f"{names_of(without)}: no QMP monitor at a unix socket")
        steps.append("add a -chardev and -mon pair")
    if closed:
        parts.append(f"{names_of(closed)}: this user may not connect to the monitor")
        steps.append(_ROOT)
    if held:
        parts.append(f"{names_of(held)}: another client is connected to every monitor")
        steps.append(
            "give dynmem a monitor of its own; one whose owner comes and goes can be visited between"
            ' (monitor = "borrowed")'
        )
    if parts:
        return Finding("monitors", Verdict.LIMITED, "; ".join(parts), "; ".join(steps))
    return Finding("monitors", Verdict.OK, "every VM has one to connect to" if found.vms else "no VM runs")


def locks(found: Found, proxmox: Path = FOLDER) -> list[Finding]:
    """Look whether Proxmox's locks can be read, on a host of Proxmox."""
    if not proxmox.parent.exists() or not any(vm.started.number is not None for vm in found.vms):
        return []
    subject = "Proxmox's locks"
    missing = [vm for vm in found.vms if vm.started.number is not None and vm.proxmox is None]
    if missing:
        detail = f"the files of {names_of(missing)} in {proxmox} cannot be read: such a VM is left alone"
        return [
            Finding(
                subject, Verdict.LIMITED, detail, "run dynmem as root; see `systemctl status pve-cluster`"
            )
        ]
    locked = [vm for vm in found.vms if vm.proxmox is not None and vm.proxmox.lock]
    detail = f"{names_of(locked)} locked now, and left alone" if locked else "none is locked now"
    return [Finding(subject, Verdict.OK, detail)]


def names_of(vms: Sequence[FoundVm]) -> str:
    """Return the names of VMs, as many as a sentence can hold."""
    names = ", ".join(printable(vm.name) for vm in vms[:NAMES_MAX])
    return names if len(vms) <= NAMES_MAX else f"{names} and {len(vms) - NAMES_MAX} more"


def _may_connect(path: Path) -> bool:
    return os.access(path, os.W_OK)


def _can_be_listed(folder: Path) -> bool:
    try:
        os.scandir(folder).close()
    except PermissionError:
        return False
    except OSError:
        return True  # it has ended since
    return True

"""Whether this host's KVM can run a guest with a kernel of its own, and what is missing if it cannot.

Source: Linux include/uapi/linux/kvm.h; the versions are those of Documentation/virt/kvm/api.rst and the logs.
"""

import errno
import fcntl
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.findings import Finding, Verdict

DEVICE: Final = Path("/dev/kvm")
API_VERSION: Final = 12
GET_API_VERSION: Final = 0xAE00
CREATE_VM: Final = 0xAE01
CHECK_EXTENSION: Final = 0xAE03
_MAX_VCPUS: Final = 66
_CPUINFO: Final = Path("/proc/cpuinfo")
_LOG: Final = "look into the log of the kernel (dmesg)"
_USE: Final = "dynmem vm --kernel"

#: Carries out a request on a descriptor; OSError.
Ioctl = Callable[[int, int, int], int]


class Capability(NamedTuple):
    """What a guest needs of KVM.

    Attributes:
        number: That of KVM_CHECK_EXTENSION.
        name: Its name there, without KVM_CAP.
        since: The first Linux that has it on x86.
        mask: The bits of the reply that must be set.
    """

    number: int
    name: str
    since: str
    mask: int = -1


CAPABILITIES: Final = (
    Capability(0, "IRQCHIP", "2.6.20"),
    Capability(3, "USER_MEMORY", "2.6.25"),
    Capability(25, "IRQ_ROUTING", "2.6.30"),
    Capability(32, "IRQFD", "2.6.32"),
    Capability(36, "IOEVENTFD", "2.6.32"),
    Capability(77, "SIGNAL_MSI", "3.5"),
    Capability(74, "SYNC_REGS", "4.17", 1),  # the general registers
    Capability(136, "IMMEDIATE_EXIT", "4.13"),
    Capability(188, "X86_USER_SPACE_MSR", "5.10"),
    Capability(189, "X86_MSR_FILTER", "5.10"),
)


def _open(device: Path) -> int:
    return os.open(device, os.O_RDWR | os.O_CLOEXEC)


def _ioctl(fd: int, request: int, argument: int) -> int:
    return fcntl.ioctl(fd, request, argument)


def examine(
    device: Path = DEVICE,
    *,
    open_device: Callable[[Path], int] = _open,
    ioctl: Ioctl = _ioctl,
    cpuinfo: Path = _CPUINFO,
) -> list[Finding]:
    """Return what was found; the first thing that is missing ends the examination, as nothing follows it.

    Only missing capabilities are all named.
    """
    try:
        fd = open_device(device)
    except OSError as error:
        return [_not_opened(device, error, cpuinfo)]
    try:
        return [Finding(str(device), Verdict.OK, "can be opened"), *_of_kvm(fd, ioctl)]
    finally:
        os.close(fd)


def _of_kvm(fd: int, ioctl: Ioctl) -> list[Finding]:
    try:
        version = ioctl(fd, GET_API_VERSION, 0)
    except OSError as error:
        return [
            _missing("KVM API", f"it does not answer as KVM: {error.strerror}", "load the kernel's own KVM")
        ]
    if version != API_VERSION:
        seen = f"its version is {version}, and only {API_VERSION} is known"
        return [_missing("KVM API", seen, "use a kernel of Linux 2.6.22 or later")]
    found = [_of_capability(each) for each in CAPABILITIES if not _has(fd, ioctl, each)]
    if not found:
        processors = max(1, ioctl(fd, CHECK_EXTENSION, _MAX_VCPUS))
        seen = f"all {len(CAPABILITIES)} that are needed, and at most {processors} virtual processors"
        found.append(Finding("KVM capabilities", Verdict.OK, seen))
    return [Finding("KVM API", Verdict.OK, f"version {version}"), *found, _of_machine(fd, ioctl)]


def _has(fd: int, ioctl: Ioctl, capability: Capability) -> bool:
    try:
        return bool(ioctl(fd, CHECK_EXTENSION, capability.number) & capability.mask)
    except OSError:  # a KVM that knows no extensions
        return False


def _of_capability(capability: Capability) -> Finding:
    return _missing(
        f"KVM_CAP_{capability.name}",
        "this KVM does not have it",
        f"use a host kernel of Linux {capability.since} or later",
    )


def _of_machine(fd: int, ioctl: Ioctl) -> Finding:
    """Make a virtual machine, and close it."""
    try:
        machine = ioctl(fd, CREATE_VM, 0)
    except OSError as error:
        step = _LOG
        if error.errno == errno.EBUSY:
            step = "another hypervisor holds the processor's virtualization: end its machines, or unload it"
        return _missing("KVM machine", f"none can be made: {error.strerror}", step)
    os.close(machine)
    return Finding("KVM machine", Verdict.OK, "one was made and closed")


def _not_opened(device: Path, error: OSError, cpuinfo: Path) -> Finding:
    if error.errno in (errno.EACCES, errno.EPERM):
        return _missing(str(device), "this user may not open it", _step_to_permission(device))
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return _missing(str(device), "it is not there", _step_to_module(device, cpuinfo))
    return _missing(
        str(device), f"it cannot be opened: {error.strerror}", "look into the log of the kernel (dmesg)"
    )


def _step_to_permission(device: Path) -> str:
    """Return how this user gets permission: by a group that has it, if one has."""
    user = _name_of_user()
    try:
        status = device.stat()
        group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        return f"as root: setfacl -m u:{user}:rw {device}"
    both = stat.S_IRGRP | stat.S_IWGRP
    if status.st_gid and status.st_mode & both == both:
        return f"as root: usermod -aG {group} {user}, and log in again"
    return f"as root: setfacl -m u:{user}:rw {device}"


def _name_of_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _step_to_module(device: Path, cpuinfo: Path) -> str:
    """Return how the device gets there, which depends on what the processor shows."""
    try:
        flags = set(re.findall(r"\b(?:vmx|svm)\b", cpuinfo.read_text(errors="replace")))
    except OSError:
        flags = set()
    if not flags:
        return (
            "this processor shows no virtualization: switch it on in the firmware, or for a host that is"
            " a virtual machine itself, in its own host (nested virtualization)"
        )
    module = "kvm_intel" if "vmx" in flags else "kvm_amd"
    return f"as root: modprobe {module}; into a container it must be passed (--device {device})"


def _missing(subject: str, detail: str, step: str) -> Finding:
    return Finding(subject, Verdict.MISSING, f"{detail}: {_USE} needs it", step)

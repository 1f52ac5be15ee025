"""Whether this host's KVM can run a guest with a kernel of its own, and what is missing if it cannot.

Source: Linux include/uapi/linux/kvm.h.
"""

import errno
import grp
import os
import pwd
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.errors import ConfigError
from dynmem.findings import Finding, Verdict
from dynmem.vm.kvm import api

DEVICE: Final = Path("/dev/kvm")
_CPUINFO: Final = Path("/proc/cpuinfo")
_KERNEL: Final = "use a host kernel of Linux 5.10 or later"
_LOG: Final = "look into the log of the kernel (dmesg)"
_USE: Final = "dynmem vm --kernel"

#: Carries out a request on a descriptor; OSError.
Ioctl = Callable[[int, int, int], int]


class Capability(NamedTuple):
    """What a guest needs of KVM; Linux has all of it on x86 since 5.10.

    Attributes:
        number: That of KVM_CHECK_EXTENSION.
        name: Its name there, without KVM_CAP.
        mask: The bits of the reply of which one must be set.
    """

    number: int
    name: str
    mask: int = -1


CAPABILITIES: Final = (
    Capability(0, "IRQCHIP"),
    Capability(3, "USER_MEMORY"),
    Capability(4, "SET_TSS_ADDR"),
    Capability(7, "EXT_CPUID"),
    Capability(25, "IRQ_ROUTING"),
    Capability(32, "IRQFD"),
    Capability(33, "PIT2"),
    Capability(36, "IOEVENTFD"),
    Capability(37, "SET_IDENTITY_MAP_ADDR"),
    Capability(61, "GET_TSC_KHZ"),
    Capability(74, "SYNC_REGS", 1),  # the general registers
    Capability(81, "READONLY_MEM"),
    Capability(136, "IMMEDIATE_EXIT"),
    Capability(188, "X86_USER_SPACE_MSR"),
    Capability(189, "X86_MSR_FILTER"),
)


def _open(device: Path) -> int:
    return os.open(device, os.O_RDWR | os.O_CLOEXEC)


def open_kvm(vp_count: int, *, open_device: Callable[[Path], int] = _open, ioctl: Ioctl = api.call) -> int:
    """Return a descriptor of KVM. Raises ConfigError if it lacks what a guest of so many processors needs."""
    try:
        fd = open_device(DEVICE)
    except OSError as error:
        raise _unusable(f"{DEVICE} cannot be opened: {error.strerror}") from None
    try:
        _check(fd, vp_count, ioctl)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(fd: int, vp_count: int, ioctl: Ioctl) -> None:
    """Raise ConfigError for a KVM that lacks something."""
    try:
        kvm = _ask(fd, ioctl)
    except OSError as error:
        raise _unusable(f"{DEVICE} does not answer: {error.strerror}") from None
    if kvm.version != api.API_VERSION:
        raise _unusable(f"its version is {kvm.version} instead of {api.API_VERSION}")
    if kvm.lacking:
        raise _unusable(f"this one lacks {', '.join(kvm.lacking)}")
    if vp_count > kvm.vp_max:
        raise ConfigError(
            f"--smp {vp_count}: this KVM has at most {kvm.vp_max} virtual processors: take fewer"
        )


def _unusable(why: str) -> ConfigError:
    return ConfigError(f"--kernel needs KVM, and {why}; dynmem doctor says what to do")


def examine(
    device: Path = DEVICE,
    *,
    open_device: Callable[[Path], int] = _open,
    ioctl: Ioctl = api.call,
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
        found = [Finding(str(device), Verdict.OK, "can be opened"), *_of_kvm(fd, ioctl)]
    finally:
        os.close(fd)
    if "hypervisor" in _flags(cpuinfo):
        found.append(
            Finding(
                "nested KVM",
                Verdict.LIMITED,
                "this host is a virtual machine itself: guests are slower, and a kernel may not boot though"
                " nothing is missing",
                "try one: dynmem vm -m 1G --kernel FILE --serial stdio",
            )
        )
    return found


def _of_kvm(fd: int, ioctl: Ioctl) -> list[Finding]:
    try:
        kvm = _ask(fd, ioctl)
    except OSError as error:
        seen = f"it does not answer as KVM: {error.strerror}"
        return [_missing("KVM API", seen, "load the kernel's own KVM")]
    if kvm.version != api.API_VERSION:
        seen = f"its version is {kvm.version}, and only {api.API_VERSION} is known"
        return [_missing("KVM API", seen, _KERNEL)]
    found = [_missing(name, "this KVM does not have it", _KERNEL) for name in kvm.lacking]
    if not found:
        seen = f"all {len(CAPABILITIES)} that are needed, and at most {kvm.vp_max} virtual processors"
        found.append(Finding("KVM capabilities", Verdict.OK, seen))
    return [Finding("KVM API", Verdict.OK, f"version {kvm.version}"), *found, _of_machine(fd, ioctl)]


class _Kvm(NamedTuple):
    """What a KVM says of itself: its version, the capabilities it lacks by name, its most processors."""

    version: int
    lacking: list[str]
    vp_max: int


def _ask(fd: int, ioctl: Ioctl) -> _Kvm:
    """Ask a KVM; OSError."""
    version = ioctl(fd, api.GET_API_VERSION, 0)
    lacking = [
        f"KVM_CAP_{each.name}"
        for each in CAPABILITIES
        if not ioctl(fd, api.CHECK_EXTENSION, each.number) & each.mask
    ]
    return _Kvm(version, lacking, ioctl(fd, api.CHECK_EXTENSION, api.CAP_MAX_VCPUS))


def _of_machine(fd: int, ioctl: Ioctl) -> Finding:
    """Make a virtual machine, and close it."""
    try:
        machine = ioctl(fd, api.CREATE_VM, 0)
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
    return _missing(str(device), f"it cannot be opened: {error.strerror}", _LOG)


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


def _flags(cpuinfo: Path) -> set[str]:
    """Return what the first processor shows; nothing if that cannot be read."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found[1].split()) if found else set()


def _step_to_module(device: Path, cpuinfo: Path) -> str:
    """Return how the device gets there, which depends on what the processor shows."""
    flags = _flags(cpuinfo) & {"vmx", "svm"}
    if not flags:
        return (
            "this processor shows no virtualization: switch it on in the firmware, or for a host that is"
            " a virtual machine itself, in its own host (nested virtualization)"
        )
    module = "kvm_intel" if "vmx" in flags else "kvm_amd"
    return f"as root: modprobe {module}; into a container it must be passed (--device {device})"


def _missing(subject: str, detail: str, step: str) -> Finding:
    return Finding(subject, Verdict.MISSING, f"{detail}: {_USE} needs it", step)

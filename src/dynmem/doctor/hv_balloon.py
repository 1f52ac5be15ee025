"""What QEMU's own hv-balloon needs: a QEMU that has it, SynIC and VP_INDEX of KVM, and options of its VM.

QEMU builds it since 8.2, with KVM and VMBus only; `vmbus-bridge` refuses a processor without hv-synic and
hv-vpindex (hw/hyperv/vmbus.c). Our own VMs need none of this.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dynmem.discovery.find import Found
from dynmem.discovery.qemu_options import Fields, is_on
from dynmem.doctor.manager import names_of
from dynmem.findings import Finding, Verdict
from dynmem.vm.kvm import api

_SUBJECT: Final = "QEMU's hv-balloon"
_PROGRAM: Final = "qemu-system-x86_64"
_DEVICE: Final = "hv-balloon"
_KVM: Final = Path("/dev/kvm")
_CAPABILITIES: Final = {148: "KVM_CAP_HYPERV_SYNIC2", 149: "KVM_CAP_HYPERV_VP_INDEX"}
_ASK_S: Final = 20.0
_OTHERWISE: Final = "use virtio-balloon, or dynmem vm, which has its own"

#: Returns what a QEMU says of its devices; OSError and subprocess.SubprocessError.
Ask = Callable[[str], str]


def examine(
    found: Found,
    *,
    program: str | None = None,
    ask: Ask | None = None,
    kvm: Path = _KVM,
    ioctl: Callable[[int, int, int], int] = api.call,
) -> Finding:
    """Return what keeps QEMU's hv-balloon from working, or a VM with it from being managed."""
    program = shutil.which(_PROGRAM) if program is None else program
    theirs = [vm for vm in found.vms if not vm.started.is_ours]
    mute = [vm for vm in theirs if any(_is_mute(each) for each in vm.started.devices)]
    if mute:
        detail = f"{names_of(mute)}: it does not report what its guest needs"
        step = "start it with -device hv-balloon,status-report=on, and may_stop = true in the manager's file"
        return Finding(_SUBJECT, Verdict.LIMITED, detail, step)
    if not program:
        return Finding(_SUBJECT, Verdict.OK, f"there is no {_PROGRAM} here that could have it")
    try:
        devices = (_devices if ask is None else ask)(program)
    except (OSError, subprocess.SubprocessError) as error:
        detail = f"{program} does not say which devices it has: {error}"
        return Finding(_SUBJECT, Verdict.LIMITED, detail, f"see: {program} -device help")
    if f'name "{_DEVICE}"' not in devices:
        detail = f"{program} does not have it"
        return Finding(_SUBJECT, Verdict.LIMITED, detail, f"use a QEMU of 8.2 or later; or {_OTHERWISE}")
    lacking = _lacking(kvm, ioctl)
    if lacking:
        detail = f"{program} has it, and it needs KVM: {lacking}"
        return Finding(_SUBJECT, Verdict.LIMITED, detail, _OTHERWISE)
    detail = f"{program} has it, and KVM has what it needs"
    step = (
        "-accel kvm -cpu host,hv-synic,hv-vpindex -device vmbus-bridge -device hv-balloon,status-report=on;"
        " and may_stop = true in the manager's file"
    )
    return Finding(_SUBJECT, Verdict.OK, detail, step)


def _is_mute(device: Fields) -> bool:
    return device.get("driver") == _DEVICE and not is_on(device.get("status-report", ""))


def _devices(program: str) -> str:
    command = [program, "-machine", "none", "-device", "help"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_S, check=True)
    return done.stdout.decode(errors="replace")


def _lacking(kvm: Path, ioctl: Callable[[int, int, int], int]) -> str:
    """Return what of KVM is not there; "" if all is."""
    try:
        fd = os.open(kvm, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{kvm} cannot be opened ({error.strerror})"
    try:
        missing = [
            name for number, name in _CAPABILITIES.items() if ioctl(fd, api.CHECK_EXTENSION, number) < 1
        ]
    except OSError as error:
        return f"{kvm} does not answer ({error.strerror})"
    finally:
        os.close(fd)
    return f"this one lacks {', '.join(missing)}" if missing else ""

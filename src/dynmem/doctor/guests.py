"""What this host offers for the process of a machine and for its embedded guest."""

import asyncio
import logging
import os
import platform
import resource
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dynmem.errors import DynmemError
from dynmem.findings import Finding, Verdict
from dynmem.limits import VM_DESCRIPTORS_SPARE, VM_OBJECTS_MAX, VM_SLOT_FILES_MAX
from dynmem.vm.embedded.output import Ends
from dynmem.vm.embedded.process import GuestProcess
from dynmem.vm.options.machine import GuestOptions

_NEEDED_DESCRIPTORS: Final = VM_OBJECTS_MAX + VM_SLOT_FILES_MAX + VM_DESCRIPTORS_SPARE
_WEAKER: Final = {  # means to keep a guest, and what it can do then
    "pid": "the embedded guest keeps the rights of this user",
    "reaper": "an embedded guest that is hostile could outlive its machine",
}
_SETTINGS: Final = Path("/proc/sys")
_REFUSALS: Final = (  # a setting, the value that refuses user namespaces, and what helps
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for this Python",
    ),
)

#: Starts a guest by one of the keeper's means and ends it; DynmemError.
Trial = Callable[[str], None]


def examine() -> list[Finding]:
    """Return what was found about the process of a machine."""
    return [processor(), descriptors(), namespaces()]


def processor(system: str = sys.platform, machine: str | None = None) -> Finding:
    """Look whether rings in shared memory can be relied on."""
    machine = platform.machine() if machine is None else machine
    if system == "linux" and machine in ("x86_64", "AMD64"):
        return Finding("processor", Verdict.OK, f"{machine}, with {os.cpu_count()} processors")
    detail = f"{machine} with {system}: dynmem vm needs Linux on x86_64"
    return Finding("processor", Verdict.MISSING, detail, "use dynmem run for QEMU's machines only")


def descriptors(limit: int | None = None) -> Finding:
    """Look whether a machine may open as many files as it has memory backends at most."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if limit is None else limit
    if limit == resource.RLIM_INFINITY or limit >= _NEEDED_DESCRIPTORS:
        return Finding("open files", Verdict.OK, f"enough for the largest machine, {_NEEDED_DESCRIPTORS}")
    detail = f"a process may open {limit}, the largest machine opens {_NEEDED_DESCRIPTORS}"
    step = "raise the hard limit: ulimit -Hn as root, or LimitNOFILE= of the service"
    return Finding("open files", Verdict.LIMITED, detail, step)


def namespaces(trial: Trial | None = None, settings: Path = _SETTINGS) -> Finding:
    """Start a process as the embedded guest is started, in namespaces of its own, and end it."""
    trial = _start_and_end if trial is None else trial
    try:
        trial("user")
    except DynmemError as error:
        refusal = str(error)
    else:
        return Finding("user namespaces", Verdict.OK, "the embedded guest has no rights outside its own")
    step = _step_to_namespaces(settings)
    for means, kept in _WEAKER.items():
        try:
            trial(means)
        except DynmemError:
            continue
        return Finding("user namespaces", Verdict.LIMITED, f"{kept}: {refusal}", step)
    detail = f"{refusal}: dynmem vm without --kernel needs it"
    return Finding("user namespaces", Verdict.MISSING, detail, step)


def _start_and_end(means: str) -> None:
    log, here = logging.getLogger("dynmem.vm"), threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != here  # the finding says it

    log.addFilter(is_of_others)
    try:
        asyncio.run(_trial(means))
    finally:
        log.removeFilter(is_of_others)


async def _trial(means: str) -> None:
    options = GuestOptions(program=Path(shutil.which("true") or sys.executable))
    ours, hardware = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        ends = Ends(nothing, nothing)
        guest = await GuestProcess.start(options, hardware.fileno(), lambda: None, ends, means=(means,))
        await guest.end()
    finally:
        os.close(nothing)
        ours.close()
        hardware.close()


def _step_to_namespaces(settings: Path) -> str:
    for name, refusing, step in _REFUSALS:
        try:
            value = (settings / name).read_text().strip()
        except OSError:
            continue
        if value == refusing:
            return f"as root: {step}"
    return "let the container or the sandbox that this runs in allow unshare(CLONE_NEWUSER)"

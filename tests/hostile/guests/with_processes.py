"""Guests that do what any process of their user may do."""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from tests.hostile.guests.cast import member
from tests.hostile.guests.kernel import Kernel, rest

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_PTRACE_ATTACH, _PTRACE_SEIZE = 16, 0x4206
CROWD = 24


def compute() -> None:
    while True:
        pass


def machines() -> list[int]:
    """The machine's process, and its others, as far as this one sees them."""
    found = {os.getppid()}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.environb[b"HOSTILE"] in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return sorted(found)


@member("it writes to its console as fast as it can")
def console_flood(guest: Kernel) -> None:
    data = b"x" * 65_535 + b"\n"
    while True:
        os.write(1, data)


@member("it writes to its standard error as fast as it can")
def log_flood(guest: Kernel) -> None:
    data = b"a line of no meaning at all\n" * 2000
    while True:
        os.write(2, data)


@member("it sends a terminal's commands, zeros and half lines to its console and its log")
def terminal_commands(guest: Kernel) -> None:
    while True:
        for file in (1, 2):
            os.write(file, b"\x1b[2J\x1b]0;owned\x07\0\xff\xfe\r\x9b31m")
        time.sleep(0.001)


@member("it stops")
def stops(guest: Kernel) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    rest()


@member("it sleeps and hears nothing")
def sleeps(guest: Kernel) -> None:
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    rest()


@member("it multiplies, and all of it computes")
def multiplies(guest: Kernel) -> None:
    for _ in range(CROWD):
        guest.fork(compute)
    compute()


@member("it starts a hundred threads that take turns at nothing")
def threads(guest: Kernel) -> None:
    for _ in range(100):
        threading.Thread(target=compute, daemon=True).start()
    compute()


@member("it asks for the highest priority, in every way there is, and computes")
def priority(guest: Kernel) -> None:
    with contextlib.suppress(OSError):
        os.nice(-20)
    for policy in (os.SCHED_FIFO, os.SCHED_RR):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, policy, os.sched_param(1))
    guest.fork(compute)
    compute()


@member("it starts processes that end at once, without end")
def dying_children(guest: Kernel) -> None:
    while True:
        if not os.fork():
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


@member("it forks away from its keeper, clears its death signal and lives on under another name")
def forks_away(guest: Kernel) -> None:
    def live() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
        _LIBC.prctl(_PR_SET_NAME, b"init", 0, 0, 0)
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    for _ in range(3):
        guest.fork(live)
    rest()


@member("it leaves a ring of processes, each of which replaces another")
def ring_of_children(guest: Kernel) -> None:
    def ring() -> None:
        while True:
            if os.fork():
                os._exit(0)
            time.sleep(0.01)

    guest.fork(ring)
    rest()


@member("it ends whoever started it")
def ends_its_parent(guest: Kernel) -> None:
    for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
        with contextlib.suppress(OSError):
            os.kill(os.getppid(), number)
    rest()


@member("it stops and traces its machine")
def traces(guest: Kernel) -> None:
    for pid in machines():
        for request in (_PTRACE_SEIZE, _PTRACE_ATTACH):
            _LIBC.ptrace(request, pid, 0, 0)
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGSTOP)
    rest()


@member("it writes to its machine's memory by way of /proc")
def writes_to_the_machine(guest: Kernel) -> None:
    for pid in machines():
        with contextlib.suppress(OSError, ValueError):
            areas = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
            with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
                for area in areas:
                    if area[1].startswith("rw") and "heap" in area[-1]:
                        memory.seek(int(area[0].partition("-")[0], 16))
                        memory.write(b"\xff" * (1 << 20))
    rest()


@member("it takes its machine's descriptors")
def takes_descriptors(guest: Kernel) -> None:
    for pid in machines():
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(pid)
            for number in range(64):
                taken = _LIBC.syscall(438, pidfd, number, 0)
                if taken >= 0:
                    with contextlib.suppress(OSError):
                        os.set_blocking(taken, True)
    rest()


@member("it limits what its machine may use")
def limits(guest: Kernel) -> None:
    for pid in machines():
        for what in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
            with contextlib.suppress(OSError, ValueError):
                resource.prlimit(pid, what, (1, 1))
    rest()


@member("it exits with a code of its own")
def exits(guest: Kernel) -> None:
    sys.exit(3)


@member("it ends itself by a signal that leaves a core")
def dumps_core(guest: Kernel) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)

"""A guest that wants to outlive its machine: it multiplies, in every way that is known for it.

Every process of it hears no signal that can be ignored, has cleared the signal that a parent's death sends,
does not listen to its hardware, keeps guest memory mapped and marks a page of it again and again. It prints
how many they are when it has started all of them. --workload names a file: once that is there, a life is
quiet, starts nothing and marks nothing. Or it is ``idle``: then nobody gives it memory.

No import of dynmem: a test may run it by any interpreter and any user.
"""

import argparse
import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

MAP_SLOT = struct.Struct("<IIQQQ")  # type 1, slot, address, size, offset
MARK = b"still here"
MARK_AT = 8192
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_LIBC = ctypes.CDLL(None)


def child(live: Callable[[], None]) -> None:
    """One more process."""
    if not os.fork():
        live()


def orphan(live: Callable[[], None]) -> None:
    """One whose parent has ended."""
    middle = os.fork()
    if not middle:
        child(live)
        os._exit(0)
    os.waitpid(middle, 0)


def daemon(live: Callable[[], None]) -> None:
    """One with a session of its own, whose parent has ended, and whose name is another."""

    def begin() -> None:
        os.setsid()
        _LIBC.prctl(_PR_SET_NAME, b"init", 0, 0, 0)
        orphan(live)
        os._exit(0)

    child(begin)


def ring(live: Callable[[], None]) -> None:
    """One that is replaced by its own child again and again."""
    del live
    if not os.fork():
        os.setpgid(0, 0)
        _LIBC.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
        while not os.fork():
            time.sleep(0.02)
        os._exit(0)


WAYS = (child, orphan, daemon, ring)


def live_for_ever(memory: mmap.mmap | None) -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    while True:
        if memory is not None:
            memory[MARK_AT : MARK_AT + len(MARK)] = MARK
        time.sleep(0.001)


def boot_memory(hardware: socket.socket) -> mmap.mmap:
    """Map the first slot."""
    data, descriptors, _, _ = socket.recv_fds(hardware, 1000, 1)
    _, _, _, size, offset = MAP_SLOT.unpack(data)
    return mmap.mmap(descriptors[0], size, mmap.MAP_SHARED, offset=offset)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--hardware-fd", type=int, required=True)
    parser.add_argument("--workload", default="")
    parser.add_argument("--seed")
    arguments = parser.parse_args()
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)
    quiet = Path(arguments.workload) if arguments.workload.startswith("/") else None
    is_quiet = quiet is not None and quiet.exists()
    if quiet is not None:
        quiet.touch()
    memory = hardware = None
    if quiet is not None:
        hardware = socket.socket(fileno=arguments.hardware_fd)  # closing it would be the end
        memory = boot_memory(hardware)
    if not is_quiet:
        for way in WAYS:
            way(lambda: live_for_ever(memory))
    print(json.dumps({"processes": 1 + (0 if is_quiet else len(WAYS)), "quiet": is_quiet}), flush=True)
    live_for_ever(None if is_quiet else memory)


if __name__ == "__main__":
    main()

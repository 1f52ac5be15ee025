"""Guests that do to the files of their memory what a file allows."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import signal
import time

from tests.hostile.guests.cast import member
from tests.hostile.guests.kernel import RINGS_FROM, Kernel

_LIBC = ctypes.CDLL(None, use_errno=True)
_PUNCH, _KEEP_SIZE = 2, 1
_F_ADD_SEALS = 1033


@member("it punches holes into its memory while its host reads")
def punches(guest: Kernel) -> None:
    guest.writer()
    files = guest.files()
    while True:
        for file in files:
            _LIBC.fallocate(
                file, _PUNCH | _KEEP_SIZE, ctypes.c_long(RINGS_FROM << 12), ctypes.c_long(1 << 20)
            )
        guest.hardware.signal(17)
        guest.drain()


@member("it truncates, grows and seals the files of its memory")
def resizes(guest: Kernel) -> None:
    files = guest.files()
    while True:
        for file in files:
            for size in (0, 1 << 40, 4096):
                with contextlib.suppress(OSError):
                    os.ftruncate(file, size)
            for seal in (1, 2, 4, 8, 16):
                with contextlib.suppress(OSError):
                    fcntl.fcntl(file, _F_ADD_SEALS, seal)
        guest.drain()
        time.sleep(0.001)


@member("it fills all of its memory again and again")
def fills(guest: Kernel) -> None:
    view = guest.hardware.ram.view(0)
    while True:
        for start in range(8 << 20, len(view), 1 << 20):
            view[start : start + (1 << 20)] = os.urandom(1 << 20)
        guest.drain()


@member("it allocates and frees the whole file of its memory in the kernel, without end")
def allocates(guest: Kernel) -> None:
    files = guest.files()
    while True:
        for file in files:
            for mode in (0, _PUNCH | _KEEP_SIZE):
                _LIBC.fallocate(file, mode, ctypes.c_long(8 << 20), ctypes.c_long(48 << 20))
        guest.drain()


@member("it locks its memory and its files, and asks for signals about them")
def locks(guest: Kernel) -> None:
    _LIBC.mlockall(3)
    for file in guest.files():
        for ask in (
            lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB),
            lambda file: fcntl.fcntl(file, fcntl.F_SETOWN, os.getppid()),
            lambda file: fcntl.fcntl(file, fcntl.F_SETFL, os.O_ASYNC | os.O_APPEND | os.O_NONBLOCK),
            lambda file: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK),
        ):
            with contextlib.suppress(OSError):
                ask(file)
    for end in (guest.socket.fileno(), *guest.lines()):
        with contextlib.suppress(OSError):
            fcntl.fcntl(end, fcntl.F_SETOWN, os.getppid())
            fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    while True:
        with contextlib.suppress(OSError):
            guest.post(b"\x0e\0\0\0\0\0\0\0\0\0\x04\0" + bytes(28))


@member("it maps its memory a thousand times")
def maps(guest: Kernel) -> None:
    files = guest.files()
    kept = [mmap.mmap(file, 1 << 20) for file in files for _ in range(1000)]
    while kept:
        guest.drain()
        time.sleep(0.01)

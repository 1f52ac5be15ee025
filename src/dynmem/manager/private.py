"""Private folders and locks: a socket or a state folder belongs to one manager at a time.

A lock is `flock` on a file beside what it protects; the kernel lets go of it when the manager dies, however
it dies, so there is no stale lock.
"""

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from dynmem.errors import NotPermittedError, RefusedError

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600


def private_folder(path: Path) -> None:
    """Make the folder with mode 0700; one that is there must not let other users change what is in it.

    NotPermittedError says what the system or the rule refused.
    """
    try:
        path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise NotPermittedError(
            f"{path}: cannot be made ({error.strerror}): name a folder you may write to"
        ) from error
    writable_by_others = mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable_by_others and not mode & stat.S_ISVTX:
        raise NotPermittedError(
            f"{path}: other users may write to it: `chmod go-w {path}` or name another folder"
        )


def lock(path: Path, what: str) -> int:
    """Take the lock file `path` and return its descriptor; RefusedError names who holds it.

    `what` says in words what is being protected.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
    except OSError as error:
        raise NotPermittedError(f"{path}: cannot be opened ({error.strerror}): check its owner") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise RefusedError(
            f"{what} is in use by another `dynmem run` (process {holder}): stop that one, or give this one"
            " its own manager.socket and manager.state"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor

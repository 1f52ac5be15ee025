"""Private folders and locks: a socket or a state folder belongs to one manager at a time.

A lock is `flock` on a file beside what it protects. The kernel releases it when the manager ends, whatever
the cause, so there are no stale locks.
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
    """Create a folder with mode 0700; one that exists must not let other users change what is in it.

    Raises NotPermittedError.
    """
    try:
        path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise NotPermittedError(
            f"{path}: cannot be created ({error.strerror}): name a folder you may write to"
        ) from error
    writable_by_others = mode & (stat.S_IWGRP | stat.S_IWOTH)
    if writable_by_others and not mode & stat.S_ISVTX:
        raise NotPermittedError(
            f"{path}: other users may write to it: `chmod go-w {path}` or name another folder"
        )


def lock(path: Path, what: str) -> int:
    """Lock the file *path* and return its descriptor; RefusedError names the process that holds it.

    *what* is what it protects, in words.
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

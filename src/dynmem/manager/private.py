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
from dynmem.sockets import user_name

_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_LINKS_MAX: Final = 40  # as many as the kernel follows


def private_folder(path: Path) -> None:
    """Create a folder with mode 0700; one that exists must be nobody else's to change or to replace.

    The same holds for every folder and every link on the way to it. Raises NotPermittedError.
    """
    _look_at_the_way(path)
    try:
        path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise NotPermittedError(
            f"{path}: cannot be created ({error.strerror}): name a folder you may write to"
        ) from error


def _look_at_the_way(path: Path) -> None:
    """Raise NotPermittedError if another user decides where *path* leads, or what is in it."""
    here, links = Path("/"), 0
    left = list(reversed(path.absolute().parts[1:]))
    while left:
        part = left.pop()
        if part == "..":
            here = here.parent
            continue
        try:
            info = (here / part).lstat()
        except FileNotFoundError:
            return  # what is not there will be made
        except OSError as error:
            raise NotPermittedError(
                f"{path}: cannot be looked at ({error.strerror}): name a folder you may write to"
            ) from error
        if info.st_uid not in (0, os.geteuid()):
            what = "a link of" if stat.S_ISLNK(info.st_mode) else "a folder of"
            raise NotPermittedError(
                f"{path}: {here / part} is {what} another user ({user_name(info.st_uid)}), who can replace"
                " what is behind it: name a folder of your own"
            )
        if stat.S_ISLNK(info.st_mode):
            links += 1
            if links > _LINKS_MAX:
                raise NotPermittedError(f"{path}: its links lead in a circle: name a folder")
            target = (here / part).readlink()
            here = Path("/") if target.is_absolute() else here
            left.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
            continue
        here /= part
        # A group may write to the folders around it: distributions give each user a group of its own.
        others = stat.S_IWOTH if left else stat.S_IWGRP | stat.S_IWOTH
        if info.st_mode & others and not info.st_mode & stat.S_ISVTX:
            raise NotPermittedError(
                f"{path}: other users may write to {here}: `chmod go-w {here}` or name another folder"
            )


def lock(path: Path, what: str) -> int:
    """Lock the file *path* and return its descriptor; RefusedError names the process that holds it.

    *what* is what it protects, in words.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
    except OSError as error:
        raise NotPermittedError(f"{path}: cannot be opened ({error.strerror}): check its owner") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPermittedError(f"{path}: not a plain file: move it away")
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

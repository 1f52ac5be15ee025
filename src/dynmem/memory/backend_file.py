"""Guest memory in a file: on tmpfs (with huge pages, where it is mounted so), hugetlbfs or disk."""

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.memory import system_calls
from dynmem.memory.backend import Backend, BackendError, check_size, page_size_of, refusal
from dynmem.units import PAGE_SIZE

_OPEN_ATTEMPTS: Final = 10  # another process may make and remove the file between our two tries


class FileBackend(Backend):
    """Memory in a file (memory-backend-file), from the file's first byte on.

    Unlike a memfd the file is not sealed: a process that may write it can truncate it, and touching the lost
    part ends this process. With `share` off the file is never changed, not even by a discard (QEMU punches it
    and warns): a discarded page reads what the file has there.
    """

    kind = "memory-backend-file"

    def __init__(
        self,
        size: int,
        path: str | Path,
        *,
        name: str = "guest-ram",
        share: bool = False,
        prealloc: bool = False,
        discard_data: bool = False,
    ) -> None:
        """Map `size` bytes of the file `path`, made if missing; of an unnamed file if it is a folder.

        A file with content keeps its length. `discard_data`: closing frees its content. Raises ConfigError,
        BackendError.
        """
        if size <= 0:
            raise ConfigError("can't create backend with size 0")
        if not str(path):
            raise ConfigError("mem-path property not set")
        self.path: Final = Path(path)
        self.discard_data = discard_data
        fd, made = _opened(self.path, name)
        is_new = not made and not os.fstat(fd).st_size
        self.owns_file: bool = not made and self.path.is_dir()
        try:
            page_size = _prepared(fd, size, name)
        except BaseException:
            os.close(fd)
            self._forget(made=made, is_new=is_new)
            raise
        self.hugetlb: bool = page_size > PAGE_SIZE
        try:
            super().__init__(size, name, fd=fd, page_size=page_size, share=share, prealloc=prealloc)
        except BaseException:
            self._forget(made=made, is_new=is_new)
            raise

    def close(self) -> None:
        # With `discard_data`, free the file's content; it keeps its name and size.
        if self.discard_data and self.is_shared:
            system_calls.punch(self.fd, 0, self.size)
        super().close()

    def _another_file(self, size: int) -> int:
        # Of an unnamed file in a folder.
        if not self.owns_file:
            return -1
        fd = _unnamed(self.path, self.name)
        try:
            _give_size(fd, size)
        except OSError as error:
            os.close(fd)
            raise refusal(self._cannot_map(), error) from error
        return fd

    def _huge_pages_given(self) -> str:
        """Return "always" on tmpfs: the mount decides, and it may be remounted at any time."""
        is_tmpfs = system_calls.file_system(self._fd)[0] == system_calls.TMPFS_MAGIC
        return "always" if self.is_shared and is_tmpfs else "never"

    def _forget(self, *, made: bool, is_new: bool) -> None:
        """Remove the file again if it was made here (`is_new`), or empty it if it was empty."""
        with contextlib.suppress(OSError):
            if made:
                self.path.unlink()
            elif is_new and self.path.is_file():
                os.truncate(self.path, 0)


def _opened(path: Path, name: str) -> tuple[int, bool]:
    """Open or make the file; return the descriptor, and whether a name was made. Raises BackendError."""
    for _ in range(_OPEN_ATTEMPTS):
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC), False
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                return _created(path), True
        except IsADirectoryError:
            return _unnamed(path, name), False
        except OSError as error:
            raise _cannot_open(path, error) from error
    raise _cannot_open(path, OSError(errno.EEXIST, os.strerror(errno.EEXIST)))


def _created(path: Path) -> int:
    """Make a new file. Raises FileExistsError if it exists, BackendError otherwise."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise
    except OSError as error:
        raise _cannot_open(path, error) from error


def _unnamed(folder: Path, name: str) -> int:
    """Make a file in a folder that has a name only while it is made. Raises BackendError."""
    try:
        fd, made = tempfile.mkstemp(prefix=f"qemu_back_mem.{name.replace('/', '_')}.", dir=folder)
    except OSError as error:
        raise _cannot_open(folder, error) from error
    Path(made).unlink()
    return fd


def _prepared(fd: int, size: int, name: str) -> int:
    """Set the size of an empty file; return its page size. Raises ConfigError, BackendError."""
    try:
        page_size = page_size_of(fd)
        has = os.fstat(fd).st_size
        if has and has < size:
            raise ConfigError(
                f"{name} backing store size {has:#x} is too small for 'size' option {size:#x}"
                " plus 'offset' option 0x0"
            )
        if size < page_size:
            raise ConfigError(
                f"memory size {size:#x} must be equal to or larger than page size {page_size:#x}"
            )
        check_size(FileBackend.kind, size, page_size)
        _give_size(fd, size)
    except (OSError, OverflowError) as error:
        raise refusal("unable to map backing store for guest RAM", error) from error
    return page_size


def _give_size(fd: int, size: int) -> None:
    """Set the size of a file that has none. Raises OSError for a file that cannot hold memory."""
    now = os.fstat(fd)
    if not stat.S_ISREG(now.st_mode):
        raise OSError(errno.ENODEV, "")
    if not now.st_size:
        os.ftruncate(fd, size)
        if os.fstat(fd).st_size < size:  # a file of /proc takes any size, and has none
            raise OSError(errno.EIO, "")


def _cannot_open(path: Path, error: OSError) -> BackendError:
    return refusal(f"can't open backing store {path} for guest RAM", error)

"""The guests' initramfs: a newc cpio archive written here, with our init program compiled into it.

The archive is not compressed: in software emulation unpacking takes a guest longer than reading it.
"""

import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from dynmem.errors import DynmemError

SOURCES: Final = ("init.c", "load.c", "reader.c", "load.h")
FOLDER: Final = Path(__file__).parent
_COMPILER_TIMEOUT_S: Final = 60
_ALIGNMENT: Final = 4  # newc pads names and contents to 4 bytes
_TRAILER: Final = "TRAILER!!!"


class Archive:
    """Entries of a newc archive (kernel Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._entries = 0

    def _add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._entries += 1
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, its device, its own device number (2 each), name, check
        numbers = (self._entries, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        self._bytes += b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded
        self._pad()
        self._bytes += data
        self._pad()

    def _pad(self) -> None:
        self._bytes += bytes(-len(self._bytes) % _ALIGNMENT)

    def folder(self, name: str) -> None:
        """Add a folder; its parents must have been added before."""
        self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Add a regular file with these contents."""
        self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def character_device(self, name: str, major: int, minor: int) -> None:
        """Add a device node; this needs no privilege, as it is only an entry."""
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self) -> bytes:
        """Return the archive, with its last entry."""
        self._add(_TRAILER, 0)
        return bytes(self._bytes)


def compile_init() -> bytes:
    """Compile the guests' one static program. Raises DynmemError with the compiler's message."""
    sources = [FOLDER / name for name in SOURCES if name.endswith(".c")]
    return compile_static("the guests' init program", sources, "-lm")


def compile_static(what: str, sources: Iterable[Path], *libraries: str) -> bytes:
    """Compile a static program for guests, `what` in messages. Raises DynmemError with the compiler's."""
    with tempfile.TemporaryDirectory(prefix="dynmem-init-") as folder:
        output = Path(folder) / "init"
        command = ["gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-static", "-s"]
        command += ["-o", str(output), *map(str, sources), *libraries]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMPILER_TIMEOUT_S)
        except FileNotFoundError:
            raise DynmemError(f"{what} cannot be compiled: gcc is not installed") from None
        except subprocess.CalledProcessError as error:
            raise DynmemError(f"{what} does not compile: {error.stderr.strip()}") from None
        return output.read_bytes()


def build(init: bytes, modules: Sequence[tuple[str, bytes]]) -> bytes:
    """Return the archive: `init`, a console for it, and kernel modules (name, contents) in insmod order."""
    archive = Archive()
    for name in ("dev", "modules"):
        archive.folder(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("init", init, executable=True)
    for place, (name, data) in enumerate(modules):
        archive.file(f"modules/{place:02}-{name}", data)
    return archive.finish()

"""A folder that looks like /proc, with the processes that a test wants."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

QEMU = "qemu-system-x86_64"
UNIX_HEAD = "Num       RefCount Protocol Flags    Type St Inode Path\n"


class ProcTree:
    """A folder like /proc. What is written is what the kernel would show."""

    def __init__(self, root: Path, *, hides_others: bool = False) -> None:
        self.root = root
        (root / "net").mkdir(parents=True)
        (root / "net" / "unix").write_text(UNIX_HEAD)
        if not hides_others:
            (root / "1").mkdir()
            (root / "1" / "cmdline").write_bytes(b"init\0")

    def process(
        self, pid: int, arguments: Sequence[str], *, fds: Mapping[int, str] | None = None, **files: str
    ) -> Path:
        """Add a process: its command line, descriptors, and other files by their names."""
        folder = self.root / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "cmdline").write_bytes(b"".join(os.fsencode(each) + b"\0" for each in arguments))
        for number, target in (fds or {}).items():
            (folder / "fd" / str(number)).symlink_to(target)
        for name, text in files.items():
            (folder / name).write_text(text)
        return folder

    def socket(self, path: Path | str, inode: int = 0, *, listens: bool = False, state: str = "01") -> None:
        """Add a line to the list of unix sockets."""
        flags = "00010000" if listens else "00000000"
        with (self.root / "net" / "unix").open("a") as file:
            file.write(f"0000000000000000: 00000002 00000000 {flags} 0001 {state} {inode} {path}\n")

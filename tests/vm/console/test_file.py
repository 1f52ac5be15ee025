"""A console in a file."""

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs.scenes import PATIENCE_S

from dynmem.errors import ConfigError
from dynmem.vm.console import bounded_file, writer
from dynmem.vm.console.file import FileConsole

FULL = 100_000


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(bounded_file, "CONSOLE_FILE_BYTES_MAX", FULL)
    monkeypatch.setattr(writer, "CONSOLE_BYTES_PER_S", 1 << 40)
    monkeypatch.setattr(writer, "CLOSING_S", 0.1)
    yield tmp_path / "console"
    assert not [thread for thread in threading.enumerate() if thread.name == "console"]


def test_what_a_guest_writes_is_in_the_file_when_the_console_is_closed(path: Path) -> None:
    path.write_bytes(b"of the machine before")
    console = FileConsole(path)
    console.connect(lambda: None)
    for byte in b"[    0.000000] Linux version\r\n":
        console.write(bytes((byte,)))
    assert console.read(16) == b""
    console.close()
    assert path.read_bytes() == b"[    0.000000] Linux version\r\n"


def test_a_console_takes_two_full_files_of_the_disk_at_most(path: Path) -> None:
    console = FileConsole(path)
    line = b"x" * 99 + b"\n"
    for _ in range(2500):
        console.write(line)
    console.close()
    old = path.with_name("console.1")
    assert sorted(path.parent.iterdir()) == [path, old]
    assert old.stat().st_size <= FULL
    assert path.stat().st_size <= FULL
    assert set((old.read_bytes() + path.read_bytes()).split(b"\n")) == {line[:-1], b""}


def test_a_file_that_holds_its_writer_holds_neither_the_guest_nor_the_end_of_the_machine(path: Path) -> None:
    """A named pipe that is full. The guest's last words are kept for whoever reads it then."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    console = FileConsole(path)
    for _ in range(200):
        console.write(bytes(4096))
    console.write(b"the last words")
    console.close()
    read, deadline = b"", time.monotonic() + PATIENCE_S
    while [thread for thread in threading.enumerate() if thread.name == "console"]:
        if select.select([reader], [], [], 0.02)[0]:
            read += os.read(reader, 1 << 20)
        assert time.monotonic() < deadline, "the writer waits, and nothing is there to read"
    with contextlib.suppress(BlockingIOError):
        read += os.read(reader, 1 << 20)
    os.close(reader)
    assert read.endswith(b"the last words")
    assert b" bytes were dropped]" in read
    assert len(read) < 150 * 4096


def test_a_console_that_cannot_be_opened_is_an_error_of_the_configuration(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ConfigError, match=r"the console cannot be opened: .*: name another file$"):
        FileConsole(path)

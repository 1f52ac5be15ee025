"""The guest's console: a file that stays small, written by a thread that holds nobody."""

import asyncio
import contextlib
import fcntl
import os
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs.scenes import play, plays, until

from dynmem.errors import ConfigError
from dynmem.vm.console import bounded_file
from dynmem.vm.embedded import console as console_module
from dynmem.vm.embedded.console import Console

FULL = 100_000


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_file, "CONSOLE_FILE_BYTES_MAX", FULL)
    monkeypatch.setattr(console_module, "CONSOLE_BYTES_PER_S", 1 << 40)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "console"
    assert not [thread for thread in threading.enumerate() if thread.name == "console"]


def lives(path: Path, *written: bytes) -> None:
    """One machine with a guest for each, which writes this and ends."""

    async def scene() -> None:
        console = Console(path)
        for data in written:
            end = console.connect()
            await asyncio.to_thread(end.sendall, data)
            end.close()
            await console.disconnect()

    play(scene())


def test_one_guest_after_another_writes_to_a_file_for_its_owner_only(path: Path) -> None:
    lives(path, b"first\n", b"second\n")
    assert path.read_bytes() == b"first\nsecond\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lives(path, b"another machine\n")
    assert path.read_bytes() == b"another machine\n"


def test_a_flood_takes_two_full_files_of_the_disk_and_its_end_is_there(path: Path) -> None:
    lines = b"".join(b"%06d\n" % number for number in range(200_000))
    lives(path, lines)
    old = path.with_name("console.1")
    assert FULL / 2 < old.stat().st_size <= FULL
    assert path.stat().st_size <= FULL
    assert lines.endswith(old.read_bytes() + path.read_bytes())
    assert sorted(path.parent.iterdir()) == [path, old]


def test_a_console_that_nobody_reads_holds_neither_the_machine_nor_its_end(path: Path) -> None:
    """A named pipe, full: the thread that writes it waits until somebody reads, and nobody waits for it."""

    async def scene() -> None:
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        console = Console(path)
        end = console.connect()
        end.setblocking(False)
        sent = 0

        async def is_stuck() -> bool:
            nonlocal sent
            try:
                sent += end.send(bytes(65_536))
            except BlockingIOError:
                await asyncio.sleep(0.05)
                return fcntl.ioctl(reader, 0x541B, b"\0\0\0\0") == (65_536).to_bytes(4, "little")  # FIONREAD
            return False

        await until(is_stuck)
        await console.disconnect()
        end.close()
        while [thread for thread in threading.enumerate() if thread.name == "console"]:
            await asyncio.sleep(0.01)
            with contextlib.suppress(BlockingIOError):  # it has not written again yet
                os.read(reader, 1 << 20)
        os.close(reader)

    play(scene())


@plays
async def test_without_a_file_what_the_guest_writes_is_dropped() -> None:
    console = Console(None)
    end = console.connect()
    end.sendall(b"x")
    end.close()
    await console.disconnect()


@pytest.mark.parametrize("kind", ["a folder", "a pipe that nobody reads"])
def test_a_console_that_cannot_be_opened_is_an_error_of_the_configuration(path: Path, kind: str) -> None:
    path.mkdir() if kind == "a folder" else os.mkfifo(path)
    with pytest.raises(
        ConfigError, match=r"the console cannot be opened: .*/console: .*: name another file$"
    ):
        Console(path).connect()


def test_a_console_in_a_folder_that_is_missing_says_to_make_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(ConfigError, match=f": make the folder {re.escape(str(folder))}$"):
        Console(folder / "console").connect()

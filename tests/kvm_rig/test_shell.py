"""The shell in a guest, from the tests' side: which answer belongs to which command."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.kvm_rig.shell import CommandFailedError, Shell
from tests.rigs.scenes import plays

Guest = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def shell_with(
    folder: Path, guest: Guest, check: Callable[[], None] = lambda: None
) -> AsyncIterator[Shell]:
    server = await asyncio.start_unix_server(guest, folder / "serial")
    shell = await Shell.connect(folder / "serial", check)
    try:
        yield shell
    finally:
        await shell.close()
        server.close()


def answering(*answers: str) -> Guest:
    """A guest that answers one command after the other."""

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readline()
            writer.write(answer.encode())
        await reader.read()
        writer.close()

    return guest


@plays
async def test_a_command_returns_what_it_writes_with_or_without_a_last_newline(tmp_path: Path) -> None:
    async with shell_with(
        tmp_path, answering("one\ntwo\n\nrig: 1 0\n", "three\nrig: 2 0\n", "\nrig: 3 0\n")
    ) as shell:
        assert await shell.sh("cat a") == "one\ntwo"
        assert await shell.sh("printf three") == "three"
        assert await shell.sh("true") == ""


@plays
async def test_a_command_that_fails_is_shown_with_what_it_wrote(tmp_path: Path) -> None:
    async with shell_with(
        tmp_path, answering("no such file\n\nrig: 1 2\n", "no such file\n\nrig: 2 2\n")
    ) as shell:
        with pytest.raises(CommandFailedError, match=r"exit code 2 of: cat a\nno such file"):
            await shell.sh("cat a")
        assert await shell.sh("cat a", check=False) == "no such file"


@plays
async def test_the_late_answer_to_another_command_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    async with shell_with(tmp_path, answering("rig: 0 0\nrig: 11 0\nnow\n\nrig: 1 0\n")) as shell:
        assert (await shell.sh("echo now")).splitlines()[-1] == "now"


@plays
async def test_a_guest_that_boots_again_is_waited_for_again(tmp_path: Path) -> None:
    async with shell_with(
        tmp_path, answering("rig: ready 6.1.0\nrig: 1 0\n", "rig: ready 6.12.1\nrig: 2 0\n")
    ) as shell:
        waiting = asyncio.create_task(shell.ready())
        await shell.sh("true")
        assert await waiting == "6.1.0"
        await shell.sh("true")
        assert await shell.ready() == "6.12.1"


@plays
async def test_a_machine_that_ends_ends_the_waiting(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Kernel panic\n")
        writer.close()

    checks = iter(range(3))

    def check() -> None:
        assert next(checks, None) is not None, "it ended"

    async with shell_with(tmp_path, silent, check) as shell:
        with pytest.raises(AssertionError, match="it ended"):
            await shell.ready()

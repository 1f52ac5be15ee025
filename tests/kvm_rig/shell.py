"""A shell in a guest, over its serial port: commands out, what they write and their exit codes back.

The guest's first process (files/guest_init.sh) is at the other end.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

READY_S: Final = 300.0
COMMAND_S: Final = 200.0
_LOOK_S: Final = 0.5
_TAIL: Final = 20  # lines


class CommandFailedError(AssertionError):
    """A command in a guest ended with another exit code than 0."""


class Shell:
    """The tests' end of a guest's serial port. `lines` is everything that came, without what is unfinished.

    `check` raises if the machine has ended.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, check: Callable[[], None]
    ) -> None:
        self.lines: list[str] = []
        self._writer = writer
        self._check = check
        self._number = 0
        self._seen = 0  # lines in which the guest was ready
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._read(reader))

    @classmethod
    async def connect(cls, path: Path, check: Callable[[], None]) -> Self:
        """Connect as soon as the machine listens at `path`."""
        deadline = time.monotonic() + READY_S
        while True:
            check()
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return cls(*await asyncio.open_unix_connection(path), check)
            assert time.monotonic() < deadline, f"nobody listens at {path}"
            await asyncio.sleep(0.02)

    async def ready(self) -> str:
        """Wait until the guest has booted, or booted again; return its kernel's release."""
        place = await self._line("rig: ready ", self._seen, READY_S)
        self._seen = place + 1
        return self.lines[place].split()[2]

    async def sh(self, command: str, *, check: bool = True) -> str:
        """Run a command of one line and return what it writes.

        Raises CommandFailedError when it fails, unless `check` is off.
        """
        assert "\n" not in command
        self._number += 1
        start = len(self.lines)
        await self.send(f"{self._number} {command}")
        end = await self._line(f"rig: {self._number} ", start, COMMAND_S)
        written = self.lines[start:end]
        if written and not written[-1]:
            written.pop()
        if check and (code := self.lines[end].split()[2]) != "0":
            raise CommandFailedError("\n".join([f"exit code {code} of: {command}", *written]))
        return "\n".join(written)

    async def send(self, line: str) -> None:
        """Write a line and wait for nothing: for what ends the kernel, as "0 reboot -f"."""
        self._writer.write(f"{line}\n".encode())
        await self._writer.drain()

    def tail(self) -> str:
        """Return the last lines that came."""
        return "\n".join(f"  {line}" for line in self.lines[-_TAIL:])

    async def close(self) -> None:
        """Close the connection."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._writer.close()

    async def _line(self, prefix: str, start: int, seconds: float) -> int:
        """Wait for a line with this prefix from the line `start` on; return its place."""
        deadline = time.monotonic() + seconds
        while True:
            self._more.clear()
            for place in range(start, len(self.lines)):
                if self.lines[place].startswith(prefix):
                    return place
            start = len(self.lines)
            self._check()
            assert time.monotonic() < deadline, (
                f"no line {prefix!r} in {seconds:g} s; the last:\n{self.tail()}"
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), _LOOK_S)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        unfinished = b""
        while data := await reader.read(4096):
            *whole, unfinished = (unfinished + data).split(b"\n")
            self.lines += [line.decode(errors="replace").rstrip("\r") for line in whole]
            self._more.set()

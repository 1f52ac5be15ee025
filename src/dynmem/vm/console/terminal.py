"""A console on the terminal that the program was started from.

Every key goes to the guest, Ctrl-C too; Ctrl-A x ends the machine, as in QEMU. When the program ends,
the terminal is set as it was before, unless the program is killed. Standard input and output may also be
files or pipes.
"""

import atexit
import contextlib
import os
import select
import sys
import termios
import threading
from collections.abc import Callable
from typing import Any, Final, TextIO

from dynmem.errors import ConfigError, DynmemError
from dynmem.vm.console.input import Input
from dynmem.vm.console.keys import HELP, Command, Keys
from dynmem.vm.console.threads import CLOSING_S, started
from dynmem.vm.console.writer import Writer

_BYTES_AT_ONCE: Final = 1024
# Keys are keys and no commands of the terminal's: no line editing, no echo, no signals, no Ctrl-S, and Return
# is not made a line feed. Output is left as it was: the program's own lines end with a line feed alone.
_COOKED_INPUT: Final = (
    termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
) | (termios.ICRNL | termios.IXON)
_COOKED_LOCAL: Final = termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG


class TerminalConsole:
    """A `Console` on standard input and output."""

    def __init__(self, end: Callable[[], None], stdin: int | None = None, stdout: int | None = None) -> None:
        """Set up the terminal, if it is one; `end` is called when its user asks to end the machine.

        Raises ConfigError, or ShortageError.
        """
        self._end: Final = end
        self._stdin: Final = _descriptor(sys.__stdin__, "standard input") if stdin is None else stdin
        self._stdout: Final = _descriptor(sys.__stdout__, "standard output") if stdout is None else stdout
        self._keys: Final = Keys()
        self._input: Final = Input()
        self._arrived: Callable[[], None] = lambda: None
        self._closing: Final = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._reader: threading.Thread | None = None
        try:
            self._mode: Final = _mode_of(self._stdin)
            self._writer: Final = Writer(self._write)
        except DynmemError:
            os.close(self._closing)
            raise
        if self._mode is not None:
            atexit.register(self._restore)
            termios.tcsetattr(self._stdin, termios.TCSANOW, _raw(self._mode))

    def connect(self, arrived: Callable[[], None]) -> None:
        self._arrived = arrived
        self._reader = started(self._serve)

    def write(self, data: bytes) -> None:
        self._writer.backlog.append(data)

    def read(self, limit: int) -> bytes:
        return self._input.take(limit)

    def close(self) -> None:
        os.eventfd_write(self._closing, 1)
        if self._reader is not None:
            self._reader.join(CLOSING_S)
        self._writer.close()
        self._restore()
        atexit.unregister(self._restore)
        if self._reader is None or not self._reader.is_alive():
            os.close(self._closing)

    def _restore(self) -> None:
        if self._mode is not None:
            with contextlib.suppress(termios.error):  # it has gone
                termios.tcsetattr(self._stdin, termios.TCSANOW, self._mode)

    def _serve(self) -> None:
        """Read what is typed. What the guest has no room for is dropped: Ctrl-A must be seen."""
        ready = select.poll()
        ready.register(self._closing, select.POLLIN)
        ready.register(self._stdin, select.POLLIN)
        while True:
            descriptors = [descriptor for descriptor, _ in ready.poll()]
            if self._closing in descriptors:
                return
            try:
                data = os.read(self._stdin, _BYTES_AT_ONCE)
            except BlockingIOError:  # another reader of this terminal was faster
                continue
            except OSError:
                data = b""
            if not data:  # the end of a file, or of the terminal
                return
            self._typed(data)

    def _typed(self, data: bytes) -> None:
        for_guest, commands = self._keys.typed(data)
        if for_guest:
            self._input.put(for_guest)
            self._arrived()
        for command in commands:
            if command is Command.END:
                self._end()
            else:
                self.write(HELP.encode())

    def _write(self, data: bytes) -> None:
        room = select.poll()
        room.register(self._stdout, select.POLLOUT)
        with contextlib.suppress(OSError):  # nobody reads: what a guest says is not worth more
            while data:
                try:
                    data = data[os.write(self._stdout, data) :]
                except BlockingIOError:  # another program that shares it has made it so
                    room.poll()


def _descriptor(stream: TextIO | None, name: str) -> int:
    if stream is None:
        raise ConfigError(f"--serial stdio: {name} is closed: open it, or use --serial unix:PATH,server=on")
    return stream.fileno()


def _mode_of(stdin: int) -> list[Any] | None:
    """Return how the terminal is set; None if it is not one."""
    try:
        mode = termios.tcgetattr(stdin)
    except termios.error:
        return None
    # one that has this program in its background would stop it for good at the first change
    with contextlib.suppress(OSError):  # it controls no session of ours, and so stops nobody
        if os.tcgetpgrp(stdin) != os.getpgrp():
            raise ConfigError(
                "--serial stdio: the terminal belongs to another program, since this one runs in the"
                " background: start it in the foreground, or use --serial unix:PATH,server=on"
            )
    return mode


def _raw(mode: list[Any]) -> list[Any]:
    iflag, oflag, cflag, lflag, ispeed, ospeed, characters = mode
    at_once = list(characters)
    at_once[termios.VMIN], at_once[termios.VTIME] = 1, 0
    return [iflag & ~_COOKED_INPUT, oflag, cflag, lflag & ~_COOKED_LOCAL, ispeed, ospeed, at_once]

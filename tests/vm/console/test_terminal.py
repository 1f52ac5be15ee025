"""A console on the terminal: a pseudoterminal with the test at its other end."""

import os
import pty
import select
import termios
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.rigs.scenes import wait_until

from dynmem.vm.console import input as input_module
from dynmem.vm.console.terminal import TerminalConsole


class Scene:
    """A console on one end of a pseudoterminal, and a user at the other."""

    def __init__(self) -> None:
        self.user, self.terminal = pty.openpty()
        self.before = self.mode
        self.ends = 0
        self.received = b""
        self.is_reading = True
        self.console = TerminalConsole(self._end, self.terminal, self.terminal)
        self.console.connect(self._arrived)

    @property
    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.terminal)

    def _end(self) -> None:
        self.ends += 1

    def _arrived(self) -> None:
        if self.is_reading:
            self.received += self.console.read(1 << 20)

    def shown(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            assert select.select([self.user], [], [], 60)[0], data
            data += os.read(self.user, count)
        return data

    def close(self) -> None:
        self.console.close()
        os.close(self.user)
        os.close(self.terminal)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "console"]


def test_every_key_reaches_the_guest_as_it_is_and_none_is_shown_by_the_terminal(scene: Scene) -> None:
    keys = b"\x03\x04\x1a\x1c\x11\x13\r\x7f"
    os.write(scene.user, keys)
    wait_until(lambda: scene.received == keys, otherwise=lambda: scene.received)
    scene.console.write(b"echo")
    assert scene.shown(4) == b"echo"


def test_the_terminal_is_as_it_was_once_the_console_is_closed(scene: Scene) -> None:
    assert scene.mode != scene.before
    scene.console.write(b"last words")
    scene.console.close()
    assert scene.mode == scene.before
    assert scene.shown(10) == b"last words"
    scene.console = TerminalConsole(lambda: None, scene.terminal, scene.terminal)


def test_ctrl_a_x_asks_for_the_end_although_the_guest_reads_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_module, "CONSOLE_UNREAD_BYTES_MAX", 8)
    scene.is_reading = False
    os.write(scene.user, b"0123456789 and more\x01x")
    wait_until(lambda: scene.ends == 1, otherwise=lambda: "no end is asked for")
    assert scene.console.read(100) == b"01234567"


def test_another_key_after_ctrl_a_shows_which_there_are(scene: Scene) -> None:
    os.write(scene.user, b"\x01h")
    assert b"Ctrl-A x: end the machine" in scene.shown(60)
    assert scene.ends == 0


def test_without_a_terminal_input_is_read_to_its_end_and_output_goes_on() -> None:
    their_input, our_input = os.pipe()
    their_output, our_output = os.pipe()
    received: list[bytes] = []
    console = TerminalConsole(lambda: None, their_input, our_output)
    console.connect(lambda: received.append(console.read(100)))
    os.write(our_input, b"typed")
    os.close(our_input)
    wait_until(lambda: b"".join(received) == b"typed", otherwise=lambda: received)
    console.write(b"shown")
    console.close()
    assert os.read(their_output, 100) == b"shown"
    for descriptor in (their_input, their_output, our_output):
        os.close(descriptor)


def test_output_that_nobody_reads_any_more_is_dropped_and_the_machine_goes_on() -> None:
    their_input, our_input = os.pipe()
    their_output, our_output = os.pipe()
    console = TerminalConsole(lambda: None, their_input, our_output)
    os.close(their_output)
    console.write(b"x")
    console.close()
    for descriptor in (their_input, our_input, our_output):
        os.close(descriptor)

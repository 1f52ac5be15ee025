"""Keys at a guest's terminal."""

import pytest

from dynmem.vm.console.keys import Command, Keys

A = b"\x01"


@pytest.mark.parametrize(
    ("pieces", "for_guest", "commands"),
    [
        ([b"ls\r"], b"ls\r", []),
        ([b"\x03\x04\x1a\x11\x13\x1c"], b"\x03\x04\x1a\x11\x13\x1c", []),
        ([A + b"x"], b"", [Command.END]),
        ([b"a" + A, b"Xb"], b"ab", [Command.END]),
        ([A + A + b"x"], A + b"x", []),
        ([A, A, b"x"], A + b"x", []),
        ([A + A + A + b"x"], A, [Command.END]),
        ([A + b"?" + b"y"], b"y", [Command.HELP]),
        ([b"\xff\x00" + A], b"\xff\x00", []),
    ],
)
def test_ctrl_a_is_for_the_machine_and_every_other_key_for_the_guest(
    pieces: list[bytes], for_guest: bytes, commands: list[Command]
) -> None:
    keys = Keys()
    typed = [keys.typed(piece) for piece in pieces]
    assert b"".join(data for data, _ in typed) == for_guest
    assert [command for _, each in typed for command in each] == commands

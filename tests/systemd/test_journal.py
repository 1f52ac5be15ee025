"""Lines for systemd's journal, over a real datagram socket and in its own encoding."""

import os
import socket
import struct
from pathlib import Path

from dynmem.cli.run import HOST_MESSAGE_ID, VM_MESSAGE_ID, entry
from dynmem.systemd.journal import encoded, is_journal, send


def decoded(octets: bytes) -> dict[str, str]:
    """Read an entry as systemd's documentation of the protocol says."""
    fields = {}
    while octets:
        line, _, octets = octets.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", octets[:8])
            value, octets = octets[8 : 8 + length], octets[8 + length + 1 :]
        fields[name.decode()] = value.decode()
    return fields


def test_an_entry_is_read_as_it_was_written() -> None:
    fields = {"MESSAGE": "web: 1 = 2", "DYNMEM_VM": "web", "LONG": "two\nlines\nA=b", "EMPTY": ""}
    assert decoded(encoded(fields)) == fields
    assert decoded(encoded({"MESSAGE": "\udc80"})) == {"MESSAGE": "?"}


def test_a_line_about_a_vm_names_it_and_one_about_the_host_does_not() -> None:
    vms = {"web", "emergency"}
    about_web = entry("web: absent: no such socket", "web", vms.__contains__)
    assert (about_web["DYNMEM_VM"], about_web["MESSAGE_ID"]) == ("web", VM_MESSAGE_ID)
    assert about_web["MESSAGE"] == "web: absent: no such socket"
    other = entry("note: raise it", "note", vms.__contains__)
    assert "DYNMEM_VM" not in other
    assert other["MESSAGE_ID"] == HOST_MESSAGE_ID


def test_the_journal_takes_an_entry_and_without_one_the_line_is_to_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert not send({"MESSAGE": "a"}, path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        assert send({"MESSAGE": "a"}, path)
        assert decoded(listener.recv(4096)) == {"MESSAGE": "a"}
        assert not send({"MESSAGE": "x" * (1 << 20)}, path)  # more than a datagram


def test_only_a_descriptor_that_is_the_journal_s_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        there = os.fstat(log.fileno())
        stream = {"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}
        assert is_journal(log.fileno(), stream)
        assert not is_journal(log.fileno(), {})
        assert not is_journal(log.fileno(), {"JOURNAL_STREAM": "1:2"})
    assert not is_journal(12345, stream)

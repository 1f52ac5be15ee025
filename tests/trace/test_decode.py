"""Captures, hex lines and trace logs become named messages; what is broken is reported, the rest read."""

import io
import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynmem.limits import TRACE_LINE_BYTES_MAX
from dynmem.trace.decode import Entry
from dynmem.trace.reader import Problem, read
from dynmem.trace.show import as_json, as_text
from dynmem.wire import dm, vmbus

CAPTURES = Path(__file__).resolve().parent.parent / "captures"
VERSION_REQUEST = "01001000010000000000020000000000"


def entries(data: bytes) -> list[Entry | Problem]:
    return list(read(io.BytesIO(data)))


def of_text(*lines: str) -> list[Entry | Problem]:
    return entries("".join(f"{line}\n" for line in lines).encode())


def decode(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "dynmem", "trace", "decode", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=100)


def test_every_line_of_the_linux_capture_is_a_named_message() -> None:
    found = entries((CAPTURES / "wire.log").read_bytes())
    assert all(isinstance(entry, Entry) for entry in found)
    names = [entry.name for entry in found if isinstance(entry, Entry)]
    assert names[:5] == [
        "INITIATE_CONTACT",
        "VERSION_RESPONSE",
        "REQUESTOFFERS",
        "OFFERCHANNEL",
        "ALLOFFERS_DELIVERED",
    ]
    assert names[-3:] == ["DM_MEM_HOT_ADD_REQUEST", "DM_STATUS_REPORT", "DM_MEM_HOT_ADD_RESPONSE"]
    for entry in found:  # each goes where its table says
        assert isinstance(entry, Entry)
        table = vmbus.TABLE if entry.layer == "vmbus" else dm.TABLE
        layout = next(layout for layout in table.layouts if layout.name == entry.name)
        assert entry.direction is layout.direction


def test_the_ranges_of_a_captured_balloon_response_are_its_pages() -> None:
    found = entries((CAPTURES / "wire.log").read_bytes())
    response = next(e for e in found if isinstance(e, Entry) and e.name == "DM_BALLOON_RESPONSE")
    ranges = response.fields["ranges"]
    assert isinstance(ranges, list)
    assert ranges[:2] == [(0x5400, 512), (0x5600, 512)]
    assert sum(count for _, count in ranges) == 16384


@pytest.mark.parametrize("file", ["trace.log", "trace-linux-6.1.log"])
def test_every_line_of_a_log_of_qemu_is_an_event(file: str) -> None:
    data = (CAPTURES / file).read_bytes()
    found = entries(data)
    assert len(found) == len(data.splitlines())
    assert all(isinstance(entry, Entry) and entry.layer == "trace" for entry in found)
    without_time = b"".join(line.partition(b":")[2] + b"\n" for line in data.splitlines())
    assert [e.name for e in entries(without_time) if isinstance(e, Entry)] == [
        e.name for e in found if isinstance(e, Entry)
    ]


def test_the_two_cut_packets_of_the_memory_dump_are_reported_as_cut() -> None:
    found = entries((CAPTURES / "ring-packets.txt").read_bytes())
    problems = [item for item in found if isinstance(item, Problem)]
    assert [(problem.line, "cut" in problem.text) for problem in problems] == [(52, True), (58, True)]
    lines = (CAPTURES / "ring-packets.txt").read_text().splitlines()
    assert len(found) == len(lines)
    for line, entry in zip(lines, found, strict=True):  # the dump has its own names for them
        if isinstance(entry, Entry):
            assert entry.name.removeprefix("DM_").removeprefix("MEM_") == line.split()[1]
            assert entry.fields["trans_id"] == int(line.split()[5])


def test_a_broken_line_is_reported_by_its_number_and_the_rest_is_read() -> None:
    good = f"1.5 G>H pkt {VERSION_REQUEST}"
    found = of_text(good, "1.6 G>H pkt 01x0", "nonsense of a disk\x07", good, "2 G>H msg 6300000000000000")
    assert [type(item) for item in found] == [Entry, Problem, Problem, Entry, Problem]
    assert [item.line for item in found if isinstance(item, Problem)] == [2, 3, 5]
    assert "\x07" not in "".join(item.text for item in found if isinstance(item, Problem))


def test_a_packet_cut_anywhere_is_reported() -> None:
    line = f"1.5 G>H pkt type 6 flags 0 {VERSION_REQUEST}"
    for length in range(1, len(line)):
        found = entries(line[:length].encode())
        assert isinstance(found[-1], Problem), length
        assert found[-1].line == 1


def test_a_byte_order_mark_in_front_is_read_over_and_one_inside_is_reported() -> None:
    line = f"\ufeff1.5 G>H pkt {VERSION_REQUEST}\n".encode()
    assert [type(item) for item in entries(line + line)] == [Entry, Problem]


def test_a_line_above_the_limit_is_skipped_whole() -> None:
    data = b"1.5 G>H pkt " + b"00" * TRACE_LINE_BYTES_MAX + b"\n" + f"2 G>H pkt {VERSION_REQUEST}\n".encode()
    found = entries(data)
    assert [type(item) for item in found] == [Problem, Entry]


def test_padding_of_an_old_version_is_not_read_as_fields() -> None:
    contact = vmbus.InitiateContact(4 << 16, 0, 0, 0, 0)
    found = of_text(
        f"1 G>H msg {vmbus.encode(contact).hex()}",
        "2 H>G msg 0f0000000000000001000000ffffffffffffffff",
    )
    response = found[1]
    assert isinstance(response, Entry)
    assert response.fields["version_supported"] is True
    assert response.fields["version_or_connection_id"] == 0xFFFF_FFFF
    assert response.fields["supported_features"] is None


def test_a_packet_of_another_device_is_left_as_it_is() -> None:
    offer = vmbus.OfferChannel(
        uuid.UUID(int=7), uuid.UUID(int=8), 0, 0, bytes(120), 0, 0, 5, 0, False, True, 21
    )
    found = of_text(
        f"1 H>G msg {vmbus.encode(offer).hex()}",
        f"2 G>H pkt type 6 flags 1 channel 5 id 9 {VERSION_REQUEST}",
        f"3 G>H pkt type 6 flags 0 channel 1 {VERSION_REQUEST}",
        "4 H>G pkt type 11 flags 0 channel 1 id 9",
    )
    assert [e.layer for e in found if isinstance(e, Entry)] == ["vmbus", "ring", "dm", "ring"]
    other = found[1]
    assert isinstance(other, Entry)
    assert other.fields == {"channel": 5, "flags": 1, "trans_id": 9, "data": VERSION_REQUEST}


def test_events_of_other_devices_are_kept_and_made_up_ones_reported() -> None:
    found = of_text("7@1.000001:virtio_balloon_to_target target 5", "7@1.000002:vmbus_made_up 5")
    assert isinstance(found[0], Entry)
    assert found[0].fields == {"text": "target 5"}
    assert isinstance(found[1], Problem)


PREFIXES = [
    "2026-03-02T11:21:33.000151Z ",
    "2026-03-02T13:21:33.000151+02:00 ",
    "2026-03-02T11:21:33.000151Z qemu-system-x86_64: ",
    "2026-03-02T11:21:33.000151Z web qemu-kvm: ",
    "2026-03-02T11:21:33.000151Z [my web] qemu-system-x86_64(4711:CPU 0/TCG): ",
    "2026-03-02T11:21:33.000151Z kvm: (4711:main): ",
    "4711@1772450493.000151:",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_line_is_read_with_every_prefix_that_qemu_puts_before_it(prefix: str) -> None:
    (found,) = of_text(f"{prefix}hv_balloon_outgoing_balloon posting balloon 0 for 25600, remaining 7")
    assert isinstance(found, Entry), found
    assert (found.name, found.fields["count"]) == ("hv_balloon_outgoing_balloon", 25600)
    assert found.time_ns == 1_772_450_493_000_151_000


def test_a_prefix_without_a_time_is_read_and_a_date_that_no_calendar_has_is_reported() -> None:
    found = of_text(
        "qemu-system-x86_64: hv_balloon_state_change -> S_CAPS",
        "2026-02-30T11:20:42Z hv_balloon_state_change -> S_CAPS",
        "2026-03-02T11:20:42Z hv_balloon_state_change -> S_CAPS",
    )
    assert [type(item) for item in found] == [Entry, Problem, Entry]
    assert isinstance(found[0], Entry)
    assert found[0].time_ns is None
    assert isinstance(found[1], Problem)
    assert "not a date: 2026-02-30" in found[1].text


def test_a_colon_in_the_text_of_another_device_is_no_prefix() -> None:
    (found,) = of_text("2026-03-02T11:20:42Z virtio_balloon_get_config num_pages: 0 actual: up")
    assert isinstance(found, Entry)
    assert (found.name, found.fields) == ("virtio_balloon_get_config", {"text": "num_pages: 0 actual: up"})


def test_nothing_that_moves_a_cursor_gets_through_to_a_terminal() -> None:
    found = of_text("7@1.000001:virtio_balloon_to_target \x1b[2J", f"1 G>H pkt {VERSION_REQUEST}")
    assert [type(item) for item in found] == [Problem, Entry]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.text("0123456789abcdef GH>msgpkt.typeflags@:_#\n", max_size=300))
def test_whatever_a_file_holds_is_read_to_its_end(data: bytes | str) -> None:
    raw = data if isinstance(data, bytes) else data.encode()
    for item in read(io.BytesIO(raw)):
        assert isinstance(item, Entry | Problem)
        if isinstance(item, Entry):
            assert as_text(item).isprintable()
            json.loads(as_json(item))


@pytest.mark.parametrize("file", sorted(path.name for path in CAPTURES.glob("*.[lt][ox]*")))
def test_the_command_reads_every_capture_as_text_and_as_json(file: str) -> None:
    path = str(CAPTURES / file)
    text, lines = decode(path), decode("--json", path)
    cut = file == "ring-packets.txt"
    assert (text.returncode, lines.returncode) == ((6, 6) if cut else (0, 0))
    assert (b"ring-packets.txt:52: the packet is cut off after" in text.stderr) == cut
    objects = [json.loads(line) for line in lines.stdout.splitlines()]
    assert all(list(one) == ["time", "direction", "layer", "name", "fields"] for one in objects)
    assert len(objects) == len(text.stdout.splitlines())


def test_the_command_reads_standard_input_and_says_what_it_cannot_open() -> None:
    found = decode("-", stdin=f"1.5 G>H pkt {VERSION_REQUEST}\n".encode())
    assert found.returncode == 0
    assert b"DM_VERSION_REQUEST trans_id=1 version=0x20000 is_last_attempt=no" in found.stdout
    missing = decode("/nowhere/at.all")
    assert missing.returncode == 1
    assert b"/nowhere/at.all cannot be read" in missing.stderr


GOOD = f"1.5 G>H pkt {VERSION_REQUEST}\n".encode()


def test_the_command_says_of_a_foreign_file_once_that_it_is_one() -> None:
    foreign = decode("-", stdin=b"hello there\n" * 10 + GOOD)
    assert foreign.returncode == 1
    (line,) = foreign.stderr.decode().splitlines()
    assert line.startswith("dynmem: - is not a capture or trace log: its first 10 lines cannot be parsed")
    assert foreign.stdout == b""


def test_remarks_and_empty_lines_do_not_make_a_foreign_file_a_capture() -> None:
    foreign = decode("-", stdin=b"# a page\n\n" + b"hello there\n\n" * 10)
    assert foreign.returncode == 1
    (line,) = foreign.stderr.decode().splitlines()
    assert line.startswith(
        "dynmem: - is not a capture or trace log: its first 10 lines cannot be parsed (line 3: "
    )


@pytest.mark.parametrize("before", [b"", b"# dynmem capture 1 of one\n", GOOD])
def test_the_command_reads_on_where_some_line_before_says_what_the_file_is(before: bytes) -> None:
    broken = 9 if not before else 12
    found = decode("-", stdin=before + b"hello there\n" * broken + GOOD)
    assert found.returncode == 6
    numbers = [int(line.split(b":")[2]) for line in found.stderr.splitlines()]
    assert numbers == [number + bool(before) for number in range(1, broken + 1)]
    assert len(found.stdout.splitlines()) == 1 + (before == GOOD)


def test_the_command_says_that_a_file_is_empty() -> None:
    found = decode("-", stdin=b"")
    assert found.returncode == 6
    assert found.stderr == b"dynmem: -:1: the file is empty\n"

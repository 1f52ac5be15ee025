"""What a capture writes is what the reader reads, and a file of lines never grows without end."""

import io
import os
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynmem.direction import Direction
from dynmem.errors import ConfigError
from dynmem.trace.capture import Capture
from dynmem.trace.decode import Entry
from dynmem.trace.files import LineFile
from dynmem.trace.lines import MessageLine, PacketLine, parse
from dynmem.trace.reader import Problem, read
from dynmem.wire import dm, packet, vmbus

DIRECTIONS = st.sampled_from(Direction)
EIGHTS = st.integers(0, 20).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))
PACKETS = st.builds(
    packet.Packet,
    st.sampled_from(sorted(packet.PacketType)),
    st.integers(0, 1),
    st.integers(0, (1 << 64) - 1),
    EIGHTS,
)


def written(*, now_ns: int = 0) -> tuple[list[str], Capture]:
    lines: list[str] = []
    return lines, Capture("one", lines.append, lambda: now_ns)


@given(DIRECTIONS, st.binary(min_size=8, max_size=240), st.integers(0, 10**18))
def test_a_message_is_read_back_with_its_time_and_direction(
    direction: Direction, payload: bytes, now_ns: int
) -> None:
    lines, capture = written(now_ns=now_ns)
    capture.message(direction, payload)
    assert parse(lines[0]) is None
    assert parse(lines[1]) == MessageLine(now_ns, direction, payload)


@given(DIRECTIONS, st.integers(1, 2047), PACKETS)
def test_a_packet_is_read_back_with_its_numbers(direction: Direction, relid: int, one: packet.Packet) -> None:
    lines, capture = written(now_ns=1_500_000_007)
    capture.packet(direction, relid, one)
    assert parse(lines[1]) == PacketLine(1_500_000_007, direction, relid, one)


def test_a_packet_that_points_to_guest_memory_keeps_its_ranges_as_words() -> None:
    lines, capture = written()
    ranges = packet.encode_gpa_ranges([packet.GpaRange(5000, 100, bytes(range(16)))])
    capture.packet(Direction.GUEST_TO_HOST, 3, packet.Packet(9, 1, 5, bytes(8), ranges))
    line = parse(lines[1])
    assert isinstance(line, PacketLine)
    assert line.packet.data == bytes(8)
    assert line.packet.descriptor[8:16] == (5000).to_bytes(4, "little") + (100).to_bytes(4, "little")
    assert line.packet.descriptor[16:] == bytes(range(16))


def test_a_capture_cut_anywhere_is_read_up_to_the_cut() -> None:
    lines, capture = written()
    offer = vmbus.OfferChannel(
        dm.BALLOON_DEVICE_TYPE, uuid.UUID(int=8), 0, 0, bytes(120), 0, 0, 1, 0, False, True, 17
    )
    capture.message(Direction.HOST_TO_GUEST, vmbus.encode(offer))
    request = dm.encode(dm.BalloonRequest(4, 512))
    capture.packet(Direction.HOST_TO_GUEST, 1, packet.Packet(6, 0, 0, request))
    data = "".join(lines).encode()
    ends = [len(lines[0]), len(lines[0] + lines[1]), len(data)]
    whole = [item.name for item in read(io.BytesIO(data)) if isinstance(item, Entry)]
    assert whole == ["OFFERCHANNEL", "DM_BALLOON_REQUEST"]
    for length in range(len(lines[0]), len(data)):
        found = list(read(io.BytesIO(data[:length])))
        names = [item.name for item in found if isinstance(item, Entry)]
        assert len(names) >= sum(length >= end for end in ends[1:])
        assert names == whole[: len(names)]
        assert length in ends or isinstance(found[-1], Problem)


def test_a_capture_of_another_version_is_reported_and_read_all_the_same() -> None:
    found = list(read(io.BytesIO(b"# dynmem capture 2 of x\n# a remark\n1.0 G>H msg 0300000000000000\n")))
    assert [type(item) for item in found] == [Problem, Entry]


def test_a_title_stays_on_its_line() -> None:
    lines: list[str] = []
    Capture("evil\n1.0 G>H msg 00", lines.append, lambda: 0)
    assert lines == ["# dynmem capture 1 of evil?1.0 G>H msg 00\n"]


def test_the_heading_says_since_when_and_captures_without_a_date_are_read_as_before() -> None:
    lines: list[str] = []
    Capture("one", lines.append, lambda: 0, begun_ns=1_772_450_493_000_151_000)
    assert lines == ["# dynmem capture 1 of one since 2026-03-02T11:21:33.000151Z\n"]
    for heading in (*lines, "# dynmem capture 1 of one\n"):
        found = list(read(io.BytesIO(f"{heading}1.0 G>H msg 0300000000000000\n".encode())))
        assert [type(item) for item in found] == [Entry]


def test_a_remark_says_when_and_is_no_message() -> None:
    lines, capture = written(now_ns=1_500_000_000)
    capture.note("channel 1: broken\n2 G>H msg 00")
    assert lines[1] == "# 1.500000000 channel 1: broken?2 G>H msg 00\n"
    assert parse(lines[1]) is None


def test_a_file_of_lines_takes_whole_lines_up_to_its_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = LineFile(tmp_path / "log", limit=10)
    for line in ("123\n", "45\n", "6789\n", "x\n"):
        file.write(line)
    assert (tmp_path / "log").read_text() == "123\n45\n"
    assert len(caplog.records) == 1
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    file.close()


def test_a_full_disk_ends_the_file_and_not_the_machine(caplog: pytest.LogCaptureFixture) -> None:
    file = LineFile(Path("/dev/full"))
    file.write("one\n")
    file.write("two\n")
    assert [record.message for record in caplog.records] == [
        "/dev/full takes no more lines: No space left on device"
    ]


def test_a_pipe_is_neither_waited_for_when_opened_nor_when_it_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="nobody reads this pipe: name another file"):
        LineFile(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LineFile(path)
    for _ in range(100):
        file.write("x" * 4095 + "\n")
    assert [record.message for record in caplog.records] == [
        f"{path} takes no more lines: its reader is too slow"
    ]
    os.close(reader)


def test_a_file_that_cannot_be_opened_is_a_wrong_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        LineFile(tmp_path / "nowhere" / "log")

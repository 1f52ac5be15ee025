"""The suite's own layouts against bytes of real systems, and against the library's codec."""

from pathlib import Path

import pytest

from dynmem.conformance import layouts
from dynmem.conformance.case import DeviationError
from dynmem.wire import dm

RING_PACKETS = Path(__file__).parent.parent / "captures" / "ring-packets.txt"
SPANS = [(5, 7), ((1 << 40) - 1, (1 << 24) - 1)]
RANGES = layouts.ranges_of(SPANS)
BOTH: list[tuple[bytes, dm.Message]] = [
    (layouts.version_request(1, 0x0002_0000), dm.VersionRequest(1, 0x0002_0000, False)),
    (layouts.version_request(2, 3, last=True), dm.VersionRequest(2, 3, True)),
    (layouts.version_response(3, accepted=True), dm.VersionResponse(3, True)),
    (layouts.capabilities_report(4, 0x1F, 9, 10), dm.CapabilitiesReport(4, 0x1F, 9, 10)),
    (layouts.capabilities_response(5), dm.CapabilitiesResponse(5, True, True, False)),
    (layouts.capabilities_response(6, suppress=True), dm.CapabilitiesResponse(6, True, True, True)),
    (layouts.status_report(7, 11, 12), dm.StatusReport(7, 11, 12, 0, 0, 0, 0)),
    (layouts.balloon_request(8, 13), dm.BalloonRequest(8, 13)),
    (layouts.balloon_response(9, SPANS), dm.BalloonResponse(9, False, RANGES)),
    (layouts.balloon_response(10, SPANS, more=True), dm.BalloonResponse(10, True, RANGES)),
    (layouts.unballoon_request(11, SPANS), dm.UnballoonRequest(11, False, RANGES)),
    (layouts.unballoon_request(12, SPANS, more=True), dm.UnballoonRequest(12, True, RANGES)),
    (layouts.unballoon_response(13), dm.UnballoonResponse(13)),
    (layouts.hot_add_request(14, (5, 7)), dm.HotAddRequest(14, 5 | 7 << 40)),
    (layouts.hot_add_request(15, (5, 7), (4, 9)), dm.HotAddRequest(15, 5 | 7 << 40, 4 | 9 << 40)),
    (layouts.hot_add_response(16, 17, 1), dm.HotAddResponse(16, 17, 1)),
    (layouts.hot_remove_request(18, 5, node=6, qos=3), dm.HotRemoveRequest(18, 6, 5, 3)),
    (layouts.info_message(17, 0, bytes(range(8))), dm.InfoMessage(17, 0, bytes(range(8)))),
]


@pytest.mark.parametrize(("data", "message"), BOTH, ids=lambda value: type(value).__name__)
def test_the_suites_bytes_are_the_librarys(data: bytes, message: dm.Message) -> None:
    assert dm.encode(message) == data


def test_page_ranges_survive_both_ways() -> None:
    assert layouts.spans_of(RANGES) == SPANS


def judged(data: bytes) -> str:
    """The name of a message that the suite finds sound, "cut" for one that it does not."""
    try:
        message = layouts.read(data)
        if message.kind in (layouts.BALLOON_RESPONSE, layouts.UNBALLOON_REQUEST):
            layouts.read_gift(message)
        elif message.kind == layouts.HOT_ADD_REQUEST:
            layouts.read_hot_add(message)
        else:
            layouts.fields(message, message.kind, FIELDS[message.kind])
    except DeviationError:
        return "cut"
    return message.name


FIELDS = {
    layouts.VERSION_REQUEST: "<II",
    layouts.VERSION_RESPONSE: "<Q",
    layouts.CAPABILITIES_REPORT: "<QQQ",
    layouts.CAPABILITIES_RESPONSE: "<Q",
    layouts.STATUS_REPORT: "<QQQQII",
    layouts.BALLOON_REQUEST: "<II",
    layouts.UNBALLOON_RESPONSE: "",
    layouts.HOT_ADD_RESPONSE: "<II",
}


def test_what_qemu_and_linux_wrote_into_their_rings_is_sound_but_for_two_cut_packets() -> None:
    lines = [line.split() for line in RING_PACKETS.read_text().splitlines() if line.strip()]
    bodies = [(words[1], bytes.fromhex(words[-1])) for words in lines if words[-2] == "body"]
    verdicts = [(name, judged(body)) for name, body in bodies]
    assert len(verdicts) > 60
    assert [name for name, verdict in verdicts if verdict == "cut"] == ["BALLOON_RESPONSE"] * 2
    for name, verdict in verdicts:
        assert verdict == "cut" or verdict.removeprefix("DM_").replace("MEM_HOT", "HOT") == name

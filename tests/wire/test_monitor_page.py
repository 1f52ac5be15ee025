"""The monitor page, byte by byte."""

import pytest

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.wire import monitor_page
from dynmem.wire.monitor_page import MONITORS, MonitorPage


def test_a_monitor_page_has_its_words_in_place() -> None:
    second = (0, 2, *(0,) * 126)
    octets = monitor_page.encode(
        MonitorPage(1, (2, 0, 0, 0), (3, 0, 0, 4), (-1, *(0,) * 127), second, second, second)
    )
    assert len(octets) == 4096
    assert octets[:40].hex() == "01000000" + "00000000" + "0200000003000000" + "00" * 16 + "0000000004000000"
    assert octets[64:68].hex() == "ffffffff"
    assert octets[576:580].hex() == "00000200"
    assert octets[1088:1104].hex() == "0000000000000000" + "0200000002000000"
    assert sum(octets) == 1 + 2 + 3 + 4 + 4 * 255 + 2 + 2 + 2


def test_an_empty_page_is_all_zero_and_any_page_decodes() -> None:
    assert monitor_page.encode(MonitorPage()) == bytes(4096)
    assert monitor_page.decode(bytes(4096)) == MonitorPage()
    assert monitor_page.decode(b"\xff" * 4096).next_check_times == (-1,) * MONITORS


@pytest.mark.parametrize("length", [0, 2112, 4095, 4097])
def test_a_page_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        monitor_page.decode(bytes(length))


@pytest.mark.parametrize(
    "page",
    [
        MonitorPage(1 << 32),
        MonitorPage(pending=(0, 0, 0)),
        MonitorPage(latencies=(1 << 16, *(0,) * 127)),
        MonitorPage(connection_ids=(0,) * 127),
    ],
)
def test_a_page_that_cannot_be_is_our_own_error(page: MonitorPage) -> None:
    with pytest.raises(LocalProtocolError):
        monitor_page.encode(page)

"""The monitor page: an alternative to doorbells, one bit per channel that the host polls.

A guest names two such pages when it makes contact, one for each direction. Four groups of 32 monitors each
have pending bits; behind them lie when each is checked next, how long a signal may wait, and which
connection it stands for. A host that allocates no monitor for a channel never needs to read the pages.

Source: Linux include/linux/hyperv.h (struct hv_monitor_page).
"""

import struct
from typing import Final

import msgspec

from dynmem.errors import LocalProtocolError, RemoteProtocolError
from dynmem.units import PAGE_SIZE

GROUPS: Final = 4
MONITORS_PER_GROUP: Final = 32
MONITORS: Final = GROUPS * MONITORS_PER_GROUP
NO_MONITORS: Final = (0,) * MONITORS

_PAGE: Final = struct.Struct(f"<I4x{GROUPS * 2}I24x{MONITORS}i{MONITORS}H256x" + "IH2x" * MONITORS + "1984x")
assert _PAGE.size == PAGE_SIZE
_CHECKS: Final = 1 + GROUPS * 2
_LATENCIES: Final = _CHECKS + MONITORS
_PARAMETERS: Final = _LATENCIES + MONITORS


class MonitorPage(msgspec.Struct, frozen=True, gc=False):
    """One monitor page. Monitor number m is bit ``m % 32`` of group ``m // 32``, and element m of the rest.

    ``pending`` and ``armed`` hold a word of 32 bits for each group; ``next_check_times`` are signed,
    ``latencies`` in units of 100 ns; a monitor signals flag ``flag_numbers[m]`` of ``connection_ids[m]``.
    """

    trigger_state: int = 0
    pending: tuple[int, ...] = (0,) * GROUPS
    armed: tuple[int, ...] = (0,) * GROUPS
    next_check_times: tuple[int, ...] = NO_MONITORS
    latencies: tuple[int, ...] = NO_MONITORS
    connection_ids: tuple[int, ...] = NO_MONITORS
    flag_numbers: tuple[int, ...] = NO_MONITORS


def encode(page: MonitorPage) -> bytes:
    """Return the 4096 bytes of `page`; LocalProtocolError if a field does not fit."""
    groups = (word for both in zip(page.pending, page.armed, strict=False) for word in both)
    parameters = (word for both in zip(page.connection_ids, page.flag_numbers, strict=False) for word in both)
    try:
        return _PAGE.pack(page.trigger_state, *groups, *page.next_check_times, *page.latencies, *parameters)
    except struct.error as error:
        raise LocalProtocolError(f"the monitor page cannot be encoded: {error}") from error


def decode(data: bytes) -> MonitorPage:
    """Return the page in `data`; any 4096 bytes are a monitor page."""
    if len(data) != PAGE_SIZE:
        raise RemoteProtocolError(f"a monitor page has {PAGE_SIZE} bytes, not {len(data)}")
    words = _PAGE.unpack(data)
    return MonitorPage(
        words[0],
        words[1:_CHECKS:2],
        words[2:_CHECKS:2],
        words[_CHECKS:_LATENCIES],
        words[_LATENCIES:_PARAMETERS],
        words[_PARAMETERS::2],
        words[_PARAMETERS + 1 :: 2],
    )

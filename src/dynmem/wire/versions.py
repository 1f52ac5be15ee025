"""VMBus versions: major in the high 16 bits, minor in the low 16, named after the Windows that brought them.

Source: Linux include/linux/hyperv.h; OpenVMM vmbus_core protocol.rs.
"""

import enum
from typing import Final

VERSION_WS2008: Final = 0 << 16 | 13
VERSION_WIN7: Final = 1 << 16 | 1
VERSION_WIN8: Final = 2 << 16 | 4
VERSION_WIN8_1: Final = 3 << 16 | 0
VERSION_WIN10: Final = 4 << 16 | 0
VERSION_4_1: Final = 4 << 16 | 1
VERSION_5_0: Final = 5 << 16 | 0
VERSION_5_1: Final = 5 << 16 | 1
VERSION_5_2: Final = 5 << 16 | 2
VERSION_5_3: Final = 5 << 16 | 3
# encoded and decoded, never agreed to
VERSION_6_0: Final = 6 << 16 | 0

# what this host agrees to; a list, so that unknown numbers in between are refused
VERSIONS: Final = (
    VERSION_WS2008,
    VERSION_WIN7,
    VERSION_WIN8,
    VERSION_WIN8_1,
    VERSION_WIN10,
    VERSION_4_1,
    VERSION_5_0,
    VERSION_5_1,
    VERSION_5_2,
    VERSION_5_3,
)


class Feature(enum.IntFlag):
    """Features of VMBus 6.0 that a guest may offer and a host agree to."""

    GUEST_SPECIFIED_SIGNAL_PARAMETERS = 0x1
    CHANNEL_INTERRUPT_REDIRECTION = 0x2
    MODIFY_CONNECTION = 0x4
    CLIENT_ID = 0x8
    CONFIDENTIAL_CHANNELS = 0x10
    PAUSE_RESUME = 0x20
    SERVER_SPECIFIED_MONITOR_PAGES = 0x40
    GPA_PINNING = 0x80


def format_version(version: int) -> str:
    """Return a VMBus version as people write it: ``5.3``."""
    return f"{version >> 16}.{version & 0xFFFF}"

"""Status codes that VMBus messages carry: NT status values, and the result of a contact."""

import enum
from typing import Final

STATUS_SUCCESS: Final = 0
STATUS_UNSUCCESSFUL: Final = 0x8000_FFFF
STATUS_CONNECTION_REFUSED: Final = 0xC000_0236


class ConnectionState(enum.IntEnum):
    """Why a contact succeeded or failed (`VersionResponse.connection_state`)."""

    SUCCESSFUL = 0
    FAILED_LOW_RESOURCES = 1
    FAILED_UNKNOWN_FAILURE = 2

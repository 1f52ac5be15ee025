"""Constants, enumerations and status codes of the Global Memory Manager.

Names and order as in VirtualBox's `VBox/gmm.h`; the numbers that the header leaves to the compiler and the
status codes (`VBox/err.h`, -3800 to -3831) are facts of its ABI.
"""

import enum
from typing import Final

from dynmem.errors import DynmemError

GMM_CHUNK_SHIFT: Final = 21
GMM_CHUNK_SIZE: Final = 1 << GMM_CHUNK_SHIFT
GMM_CHUNK_NUM_PAGES: Final = GMM_CHUNK_SIZE >> 12


class OcPolicy(enum.IntEnum):
    """GMMOCPOLICY: how far a VM's reservation is backed."""

    INVALID = 0
    NO_OC = 1
    TBD = 2


class Priority(enum.IntEnum):
    """GMMPRIORITY: which VMs are asked for memory first (LOW) and last (HIGH)."""

    INVALID = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class Account(enum.IntEnum):
    """GMMACCOUNT: what an allocation is charged to."""

    INVALID = 0
    BASE = 1
    SHADOW = 2
    FIXED = 3


class BalloonAction(enum.IntEnum):
    """GMMBALLOONACTION: INFLATE takes from the guest, DEFLATE returns pages, RESET empties the balloon."""

    INVALID = 0
    INFLATE = 1
    DEFLATE = 2
    RESET = 3


class Status(enum.IntEnum):
    """Status codes that calls on the books can return; the others belong to chunks and sharing."""

    INVALID_PARAMETER = -2
    WRONG_ORDER = -22
    HIT_GLOBAL_LIMIT = -3802
    HIT_VM_ACCOUNT_LIMIT = -3803
    ATTEMPT_TO_FREE_TOO_MUCH = -3804
    ATTEMPT_TO_DEFLATE_TOO_MUCH = -3805
    MEMORY_RESERVATION_DECLINED = -3815


class GmmError(DynmemError):
    """The books refuse a call, which moved no page; `code` is its status."""

    def __init__(self, code: Status, sentence: str) -> None:
        super().__init__(f"{sentence} ({code.name} {code.value})")
        self.code = code

"""Enumerations and status codes of the Global Memory Manager.

Names and order as in VirtualBox's VBox/vmm/gmm.h; the numbers that the header leaves to the compiler and
the status codes (VBox/err.h, -3800 to -3831; iprt/err.h) are facts of its ABI. A member has the short
name, and the names of the header are constants of this module.
"""

import enum
from collections.abc import Mapping
from typing import Final

from dynmem.errors import DynmemError


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


class OsFamily(enum.IntEnum):
    """VBOXOSFAMILY of VBox/ostypes.h: the guest system that a shared module belongs to."""

    UNKNOWN = 0
    WINDOWS32 = 1
    WINDOWS64 = 2
    LINUX32 = 3
    LINUX64 = 4
    FREEBSD32 = 5
    FREEBSD64 = 6
    SOLARIS32 = 7
    SOLARIS64 = 8
    MACOSX32 = 9
    MACOSX64 = 10


GMMOCPOLICY_INVALID: Final = OcPolicy.INVALID
GMMOCPOLICY_NO_OC: Final = OcPolicy.NO_OC
GMMOCPOLICY_TBD: Final = OcPolicy.TBD
GMMOCPOLICY_END: Final = 3
GMMOCPOLICY_32BIT_HACK: Final = 0x7FFF_FFFF
GMMPRIORITY_INVALID: Final = Priority.INVALID
GMMPRIORITY_HIGH: Final = Priority.HIGH
GMMPRIORITY_NORMAL: Final = Priority.NORMAL
GMMPRIORITY_LOW: Final = Priority.LOW
GMMPRIORITY_END: Final = 4
GMMPRIORITY_32BIT_HACK: Final = 0x7FFF_FFFF
GMMACCOUNT_INVALID: Final = Account.INVALID
GMMACCOUNT_BASE: Final = Account.BASE
GMMACCOUNT_SHADOW: Final = Account.SHADOW
GMMACCOUNT_FIXED: Final = Account.FIXED
GMMACCOUNT_END: Final = 4
GMMACCOUNT_32BIT_HACK: Final = 0x7FFF_FFFF
GMMBALLOONACTION_INVALID: Final = BalloonAction.INVALID
GMMBALLOONACTION_INFLATE: Final = BalloonAction.INFLATE
GMMBALLOONACTION_DEFLATE: Final = BalloonAction.DEFLATE
GMMBALLOONACTION_RESET: Final = BalloonAction.RESET
GMMBALLOONACTION_END: Final = 4
GMMBALLOONACTION_MAKE_32BIT_HACK: Final = 0x7FFF_FFFF


class Status(enum.IntEnum):
    """Every status code of the Global Memory Manager, and those of iprt/err.h that its calls return.

    Negative: the call failed. OVERCOMMITTED_TRY_AGAIN_IN_A_BIT is named in VirtualBox's documentation and has
    no number there; ours is outside the block of the original.
    """

    SUCCESS = 0
    INVALID_PARAMETER = -2
    WRONG_ORDER = -22
    NOT_SUPPORTED = -37
    SEED_ME = -3800
    OUT_OF_MEMORY = -3801
    HIT_GLOBAL_LIMIT = -3802
    HIT_VM_ACCOUNT_LIMIT = -3803
    ATTEMPT_TO_FREE_TOO_MUCH = -3804
    ATTEMPT_TO_DEFLATE_TOO_MUCH = -3805
    PAGE_NOT_FOUND = -3806
    PAGE_NOT_PRIVATE = -3807
    PAGE_NOT_SHARED = -3808
    PAGE_ALREADY_FREE = -3809
    NOT_PAGE_OWNER = -3810
    CHUNK_NOT_FOUND = -3811
    CHUNK_ALREADY_MAPPED = -3812
    CHUNK_NOT_MAPPED = -3813
    TOO_MANY_CHUNK_MAPPINGS = -3814
    MEMORY_RESERVATION_DECLINED = -3815
    IS_NOT_SANE = -3816
    CHUNK_INSERT = -3817
    INSTANCE = -3818
    MTX_FLAGS = -3819
    ALLOC_PAGES_IPE = -3820
    ACTUAL_PAGES_IPE = -3821
    MODULE_NAME_TOO_LONG = -3822
    MODULE_VERSION_TOO_LONG = -3823
    TOO_MANY_REGIONS = -3824
    TOO_MANY_PER_VM_MODULES = -3825
    TOO_MANY_GLOBAL_MODULES = -3826
    SHARED_MODULE_ALREADY_REGISTERED = 3827
    SHARED_MODULE_ADDRESS_CLASH = -3828
    SHARED_MODULE_NOT_FOUND = -3829
    BAD_SHARED_MODULE_SIZE = -3830
    SHARED_MODULE_BAD_REGIONS_SIZE = -3831
    OVERCOMMITTED_TRY_AGAIN_IN_A_BIT = -103_801

    @property
    def symbol(self) -> str:
        """The name in the original: `VERR_` for a failure, `GMM_` unless it is a code of iprt/err.h."""
        kind = "VERR_" if self < 0 else "VINF_"
        return f"{kind}{self.name}" if abs(self) < 3800 else f"{kind}GMM_{self.name}"


#: Codes that no call here returns: only the original's internals raise them, or its modes that we do not have
#: (memory seeded by the caller, chunks mapped once only).
RESERVED: Final = frozenset(
    {
        Status.SEED_ME,
        Status.CHUNK_ALREADY_MAPPED,
        Status.IS_NOT_SANE,
        Status.CHUNK_INSERT,
        Status.INSTANCE,
        Status.MTX_FLAGS,
        Status.ALLOC_PAGES_IPE,
    }
)


class GmmError(DynmemError):
    """A call that failed; `code` is its status and `sentence` what happened.

    The call changed nothing, unless its documentation describes a partial result. A declined reservation has
    the `numbers` that decided it, pages by name (`overcommit.Admission`); of other errors they are empty.
    """

    def __init__(self, code: Status, sentence: str, numbers: Mapping[str, int] | None = None) -> None:
        super().__init__(f"{sentence} ({code.symbol} {code.value})")
        self.code = code
        self.sentence = sentence
        self.numbers: Mapping[str, int] = numbers or {}

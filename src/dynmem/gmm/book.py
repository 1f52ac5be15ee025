"""The account book of one VM: what it has reserved, holds, has ballooned and was asked for. Pages."""

from typing import Final, NamedTuple

from dynmem.gmm.codes import Account, OcPolicy, Priority
from dynmem.gmm.constants import GMM_CHUNK_NUM_PAGES
from dynmem.gmm.overcommit import Backing
from dynmem.gmm.shortage import Asked, Giver
from dynmem.gmm.statistics import VmSizes, VmStats

ACCOUNTS: Final = (Account.BASE, Account.SHADOW, Account.FIXED)


class Figures(NamedTuple):
    """What the books say of one VM's base account, for callers that ask often. Pages.

    Attributes:
        allocated: What it is charged for.
        reserved: What it has reserved.
        ballooned: What its guest has given up.
        least: What its balloon leaves it.
        requested: What its balloon is asked for.
        returning: What its guest is asked to take back.
        is_stuck: Whether it was given up on.
        may_not_allocate_why: Why it may not allocate; "" if it may.
    """

    allocated: int
    reserved: int
    ballooned: int
    least: int
    requested: int
    returning: int
    is_stuck: bool
    may_not_allocate_why: str


class Book:
    """The account book of one VM.

    Attributes:
        reserved: Pages reserved, by account.
        allocated: Pages charged, by account.
        counted: Those of them that have no page ids, by account.
        ballooned: Pages that its guest has given up.
        policy: Its over-commit policy.
        priority: Its priority.
        refusal: Why the last update of the reservation was declined; "" if it was not.
        order: Why somebody forbade the VM to allocate; "" if nobody did.
        asked: What it was asked for.
        least: The pages of the base account that its balloon cannot take.
    """

    __slots__ = (
        "allocated",
        "asked",
        "ballooned",
        "counted",
        "least",
        "order",
        "policy",
        "priority",
        "refusal",
        "reserved",
    )

    def __init__(self, reserved: dict[Account, int], policy: OcPolicy, priority: Priority) -> None:
        self.reserved: dict[Account, int] = reserved
        self.allocated: dict[Account, int] = dict.fromkeys(ACCOUNTS, 0)
        self.counted: dict[Account, int] = dict.fromkeys(ACCOUNTS, 0)
        self.ballooned: int = 0
        self.policy: OcPolicy = policy
        self.priority: Priority = priority
        self.refusal: str = ""
        self.order: str = ""
        self.asked: Asked = Asked()
        self.least: int = 0

    @property
    def total_allocated(self) -> int:
        """Pages charged to all accounts."""
        return sum(self.allocated.values())

    @property
    def total_counted(self) -> int:
        """Pages that have no ids, of all accounts."""
        return sum(self.counted.values())

    @property
    def total_identified(self) -> int:
        """Pages that have ids: its private pages and its references to shared ones."""
        return self.total_allocated - self.total_counted

    def identified(self, account: Account) -> int:
        """Return the pages of an account that have ids."""
        return self.allocated[account] - self.counted[account]

    @property
    def may_not_allocate_why(self) -> str:
        """Why it may not allocate; "" if it may."""
        return self.order or self.refusal

    def held(self, account: Account) -> int:
        """Return the pages of an account, with those in the balloon."""
        return self.allocated[account] + (self.ballooned if account is Account.BASE else 0)

    @property
    def chunks(self) -> int:
        """Whole chunks that its pages without ids take."""
        return -(-self.total_counted // GMM_CHUNK_NUM_PAGES)

    @property
    def backing(self) -> Backing:
        """What it counts as in what the host stands for."""
        return self.asks(self.reserved)

    def asks(self, reserved: dict[Account, int]) -> Backing:
        """Return what it would count as with another reservation."""
        total, base = sum(reserved.values()), reserved[Account.BASE]
        least = total if self.policy is OcPolicy.NO_OC else total - base + min(self.least, base)
        return Backing(self.policy, total, least, self.total_allocated)

    @property
    def figures(self) -> Figures:
        """What its base account comes to."""
        base, asked = Account.BASE, self.asked
        return Figures(
            self.allocated[base],
            self.reserved[base],
            self.ballooned,
            self.least,
            asked.base,
            asked.returning,
            asked.is_stuck,
            self.may_not_allocate_why,
        )

    def giver(self, vm: str) -> Giver:
        """Return it as far as it can give."""
        asked = self.asked
        return Giver(
            vm,
            self.priority,
            self.allocated[Account.BASE],
            self.reserved[Account.BASE] if self.policy is OcPolicy.NO_OC else self.least,
            self.allocated[Account.SHADOW],
            asked.base,
            asked.shadow,
            asked.is_stuck,
        )

    def stats(self, shared_pages: int = 0, *, shared_paging_enabled: bool = False) -> VmStats:
        """Return its figures; *shared_pages* of those with ids are references."""
        return VmStats(
            reserved=_sizes(self.reserved),
            allocated=_sizes(self.allocated),
            private_pages=self.total_allocated - shared_pages,
            ballooned_pages=self.ballooned,
            max_ballooned_pages=max(0, self.reserved[Account.BASE] - self.least),
            req_ballooned_pages=self.asked.base,
            req_actually_ballooned_pages=self.asked.given,
            req_deflate_pages=self.asked.returning,
            policy=self.policy,
            priority=self.priority,
            may_allocate=not self.may_not_allocate_why,
            may_not_allocate_why=self.may_not_allocate_why,
            shared_pages=shared_pages,
            shared_paging_enabled=shared_paging_enabled,
        )


def _sizes(pages: dict[Account, int]) -> VmSizes:
    return VmSizes(pages[Account.BASE], pages[Account.SHADOW], pages[Account.FIXED])

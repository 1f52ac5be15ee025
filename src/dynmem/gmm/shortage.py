"""Who is to give when pages are missing, and who may be interrupted when nobody can give any more.

The books say what is missing and whose it is to give; which guest gives how much, and when, is for the
policy.

    what is asked               in this order                         the seed says
    the shadow account          low, normal, high                     "can be squeezed for memory"
    balloons of VMs at low      up to their maximum                   "maximize these first"
    balloons of VMs at normal   at once, for what low cannot give     "don't wait to ask these"
    balloons of VMs at high     for what nobody else can give         "ask these VMs last"

While what was asked is on its way, the answer is to try again in a bit. When even all balloons are no help,
memory is out: then a VM may be interrupted (saved or ended), low before normal, the largest first, and never
one of priority high.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from dynmem.gmm.codes import Account, Priority, Status

#: Who gives first.
ORDER: Final = (Priority.LOW, Priority.NORMAL, Priority.HIGH)


class Giver(msgspec.Struct, frozen=True):
    """One VM as far as it can give. Pages.

    Attributes:
        vm: Its name.
        priority: Its priority.
        base_pages: What it holds in its base account.
        least_pages: What its balloon leaves it at least.
        shadow_pages: What it holds in its shadow account.
        requested_pages: What its balloon was asked for and has not given yet.
        squeezing_pages: What its shadow account was asked for and has not given yet.
        is_stuck: Whether it was given up on: it is asked for nothing, and nothing is expected of it.
    """

    vm: str
    priority: Priority
    base_pages: int
    least_pages: int
    shadow_pages: int = 0
    requested_pages: int = 0
    squeezing_pages: int = 0
    is_stuck: bool = False

    @property
    def under_way_pages(self) -> int:
        """What it was asked for and is expected to give."""
        return 0 if self.is_stuck else self.requested_pages + self.squeezing_pages

    def can_give(self, account: Account) -> int:
        """Return what it can be asked for beyond what it was asked for already."""
        if self.is_stuck:
            return 0
        if account is Account.SHADOW:
            return max(0, self.shadow_pages - self.squeezing_pages)
        return max(0, self.base_pages - self.least_pages - self.requested_pages)


class Asked:
    """What one VM was asked for. Pages.

    Attributes:
        base: What its balloon is asked for and has not given yet (cReqBalloonedPages).
        given: What it gave in answer to the last request, also after that (cReqActuallyBalloonedPages).
        returning: What its guest is asked to take back and has not taken yet (cReqDeflatePages).
        shadow: What its shadow account is asked for and has not given yet.
        is_stuck: Whether it was given up on; giving something, or a new request, ends that.
    """

    __slots__ = ("base", "given", "is_stuck", "returning", "shadow")

    def __init__(self) -> None:
        self.base: int = 0
        self.given: int = 0
        self.returning: int = 0
        self.shadow: int = 0
        self.is_stuck: bool = False

    def ask(self, account: Account, pages: int) -> None:
        """Ask for so many pages in all; 0 withdraws the request."""
        self.is_stuck = False
        if account is Account.SHADOW:
            self.shadow = pages
            return
        if pages and not self.base:
            self.given = 0
        self.base = pages

    def gave(self, account: Account, pages: int) -> None:
        """Count what came."""
        self.is_stuck = False
        if account is Account.SHADOW:
            self.shadow = max(0, self.shadow - pages)
            return
        came = min(self.base, pages)
        self.base -= came
        self.given += came


class Ask(msgspec.Struct, frozen=True):
    """What one VM is asked for: base pages by its balloon, or shadow pages that its monitor can spare."""

    vm: str
    account: Account
    pages: int


class Shortage(msgspec.Struct, frozen=True):
    """What is missing, and which VMs have to give it. Pages.

    Attributes:
        needed_pages: What is needed.
        free_pages: The part of that which is free.
        under_way_pages: What was asked for before, and is on its way.
        asks: What has to be asked for now, in this order.
        lacking_pages: What no VM can give: memory is out.
    """

    needed_pages: int
    free_pages: int
    under_way_pages: int
    asks: tuple[Ask, ...]
    lacking_pages: int

    @property
    def missing_pages(self) -> int:
        """What is not free."""
        return max(0, self.needed_pages - self.free_pages)

    @property
    def is_over(self) -> bool:
        """Whether there is none: what is needed is free."""
        return self.missing_pages == 0

    @property
    def is_under_way(self) -> bool:
        """Whether to try again in a bit: pages are coming, and they suffice."""
        return not self.is_over and self.lacking_pages == 0

    @property
    def status(self) -> Status:
        """SUCCESS, OVERCOMMITTED_TRY_AGAIN_IN_A_BIT or, if even all balloons are no help, OUT_OF_MEMORY."""
        if self.is_over:
            return Status.SUCCESS
        return Status.OVERCOMMITTED_TRY_AGAIN_IN_A_BIT if self.is_under_way else Status.OUT_OF_MEMORY


def shortage_of(needed_pages: int, free_pages: int, givers: Iterable[Giver]) -> Shortage:
    """Return who is to give so that *needed_pages* become free; what is on its way is not asked for twice."""
    vms = tuple(givers)
    under_way = sum(vm.under_way_pages for vm in vms)
    missing = max(0, needed_pages - free_pages)
    left = max(0, missing - under_way)
    asks = []
    for account, vm in _in_order(vms):
        pages = min(left, vm.can_give(account))
        if pages:
            asks.append(Ask(vm.vm, account, pages))
            left -= pages
    return Shortage(needed_pages, free_pages, under_way, tuple(asks), left)


def interruptible(vms: Iterable[Giver], needy: Priority) -> tuple[str, ...]:
    """Return who may be interrupted for a VM of priority *needy*: lower ones, low first, the largest first.

    One of priority high is never among them, since none is above it.
    """
    found = [vm for vm in vms if vm.priority > needy]
    found.sort(key=lambda vm: (-vm.priority, -vm.base_pages - vm.shadow_pages))
    return tuple(vm.vm for vm in found)


def _in_order(vms: tuple[Giver, ...]) -> Iterator[tuple[Account, Giver]]:
    """Yield whom to ask for what: shadow accounts, then balloons; the largest first in each priority."""
    for account in (Account.SHADOW, Account.BASE):
        for priority in ORDER:
            among = [vm for vm in vms if vm.priority is priority]
            among.sort(key=lambda vm: -vm.can_give(account))
            yield from ((account, vm) for vm in among)

"""One decider for a VM of Proxmox: its own balloon manager (pvestatd), or dynmem.

pvestatd moves a VM whose `balloon` is set, by its `shares`, and leaves one alone whose `shares` is 0. In
enforce mode such a VM is not driven until that stands in its file. Where the configuration has `takeover`,
dynmem sets it, and sets what was there before when the VM is released or is no longer to be taken over:

    wanted   the file says     recorded   move
    yes      pvestatd moves    any        record what it says, then set 0
    yes      anything else     any        none
    no       shares: 0         yes        set what is recorded; the next look forgets it
    no       another value     yes        forget: never set, undone by now, or set by somebody else since
    any      no file here      yes        forget: the VM is gone, or on another node

So whatever a manager was doing when it was killed, its successor does it once. A VM that Proxmox has locked
waits.
"""

from typing import Literal, NamedTuple

from dynmem.manager.step.facts import VmConfig, VmFacts

Move = Literal["", "take", "give back", "forget"]


class Said(NamedTuple):
    """What the file of a VM says.

    Attributes:
        shares: Its `shares`; None: nothing, which counts as 1000.
        is_moved: Whether Proxmox's balloon manager moves it.
        is_locked: Whether something is going on with it.
    """

    shares: int | None
    is_moved: bool
    is_locked: bool


class Taken(NamedTuple):
    """A VM that was taken over.

    Attributes:
        number: Its VMID.
        vm: Its name in the manager's file.
        shares: What its file said before; None: nothing.
    """

    number: int
    vm: str
    shares: int | None


def next_move(record: Taken | None, said: Said | None, *, is_wanted: bool) -> Move:
    """Return what is to be done with a VM by the table; *said* is None if it has no file on this node."""
    if said is None:
        return "" if record is None else "forget"
    if is_wanted:
        return "take" if said.is_moved and not said.is_locked else ""
    if record is None:
        return ""
    if said.shares != 0:
        return "forget"
    return "" if said.is_locked else "give back"


def words(number: int, shares: int | None) -> tuple[str, ...]:
    """Return the arguments of `qm` that set the shares of a VM."""
    if shares is None:
        return ("set", str(number), "--delete", "shares")
    return ("set", str(number), "--shares", str(shares))


def conflict(facts: VmFacts, config: VmConfig) -> str:
    """Return who else decides on the size of a VM, and what to do; "" if nobody does."""
    rival = facts.rival
    if rival is None or not rival.decides:
        return ""
    what = f"Proxmox's balloon manager changes its size, too (shares is {rival.shares})"
    if not config.takeover:
        return f"{what}: run `qm set {rival.number} --shares 0`, or write takeover = true"
    return f"{what}: {rival.problem or 'in enforce mode it is taken over'}"


def taken(facts: VmFacts) -> str:
    """Return that a VM was taken over, and what was there before; "" if it was not."""
    rival = facts.rival
    return f"taken over from Proxmox ({rival.former})" if rival is not None and rival.former else ""

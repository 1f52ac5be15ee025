"""What follows for one VM: is its driver live, do discards work, what could it give back, what is stranded.

Every verdict comes with its evidence. What is not known is said to be unknown; nothing is sent to find out.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dynmem.discovery.pins import VFIO, pins
from dynmem.discovery.qemu_options import StartedAs, is_on
from dynmem.scan.held import RIGHTS, Held
from dynmem.scan.monitored import VIRTIO_MEM, Monitored
from dynmem.scan.visit import HV_BALLOON, VIRTIO_BALLOON
from dynmem.units import MIB, format_size

LIVE, SILENT, ABSENT, UNKNOWN, NONE = "live", "silent", "absent", "unknown", "none"
EFFECTIVE, INEFFECTIVE = "effective", "ineffective"
#: What else keeps pages on the host: how its sentence begins.
HUGE: Final = "its memory is huge pages"
BALLOON, RECLAIM = "balloon", "host reclaim"
#: What a guest keeps at hand for its next second of growth: the manager's reserve for virtio-balloon.
RESERVE_BYTES: Final = 64 * MIB
#: What a QEMU process holds beside its guest's memory, at most, where the two cannot be distinguished.
OWN_BYTES: Final = 128 * MIB
_SPARE: Final = (
    f"what its guest has available beyond {format_size(RESERVE_BYTES)}, as far as the host holds it"
)
# A report is fresh for three intervals, and for ten seconds: QEMU's timer waits for the guest.
_FRESH_INTERVALS: Final = 3
_FRESH_S: Final = 10
# The guest's report is dated in whole seconds by a clock that may be set.
_AHEAD_S: Final = 2


class Verdict(NamedTuple):
    """A word, and how it is known.

    Attributes:
        word: The verdict.
        evidence: A part of a sentence.
    """

    word: str
    evidence: str


class Give(NamedTuple):
    """What could be given back now.

    Attributes:
        size: Bytes; None: not known.
        knob: By what: "virtio-mem", "balloon", "host reclaim" or "none".
        reason: Why so.
    """

    size: int | None
    knob: str
    reason: str


class Traits(NamedTuple):
    """What of a VM lies outside its monitor.

    Attributes:
        started: What its command line says.
        held: What its process holds; None: not known.
        links: The files that it has open, by name; None: they cannot be seen.
        can_be_reclaimed: Whether its cgroup has memory.reclaim, and the host has swap.
        locked_bytes: What its process has locked or pinned.
    """

    started: StartedAs
    held: Held | None
    links: Sequence[str] | None
    can_be_reclaimed: bool
    locked_bytes: int = 0


def report_age_s(told: Monitored, now_s: int) -> int | None:
    """Return how old the guest's report is; None if it never made one, or that is not said."""
    return now_s - told.report.updated_s if told.report.updated_s else None


def is_fresh(told: Monitored, now_s: int) -> bool:
    """Return whether the guest's report says something about the present."""
    if HV_BALLOON in told.balloons:
        return told.committed_bytes is not None
    age = report_age_s(told, now_s)
    if age is None or not told.interval_s:
        return False
    return -_AHEAD_S <= age <= max(_FRESH_S, _FRESH_INTERVALS * told.interval_s)


def assigned(told: Monitored) -> int | None:
    """Return what the guest has now: its size less its balloon, and what virtio-mem has plugged."""
    if told.actual_bytes is not None:
        base = told.actual_bytes
    elif told.base_bytes is not None and not told.balloons:
        base = told.base_bytes + told.dimm_bytes
    else:
        return None
    return base + sum(each.size for each in told.virtio_mems)


def used(told: Monitored, now_s: int) -> int | None:
    """Return what the guest says that it uses; None without a fresh report."""
    size = assigned(told)
    if size is None or not is_fresh(told, now_s):
        return None
    if HV_BALLOON in told.balloons:
        ballooned = max(0, (told.base_bytes or size) + told.dimm_bytes - (told.actual_bytes or 0))
        return min(max(0, (told.committed_bytes or 0) - ballooned), size)
    return None if told.report.available is None else max(0, size - told.report.available)


def driver(told: Monitored, now_s: int) -> Verdict:
    """Return whether the guest's driver is live, and how that is known."""
    if not told.is_known:
        return Verdict(UNKNOWN, "its monitor was not asked")
    if HV_BALLOON in told.balloons:
        if told.committed_bytes is not None:
            return Verdict(LIVE, "its guest has sent a status report, of unknown age")
        return Verdict(UNKNOWN, "its guest has sent no status report, or the device passes none on")
    if VIRTIO_BALLOON in told.balloons or told.virtio_mems:
        found = _virtio_driver(told, now_s) if told.balloons else _virtio_mem_driver(told)
        if found.word in (ABSENT, SILENT) and told.run_state not in ("", "running"):
            return Verdict(UNKNOWN, f"its guest does not run ({told.run_state}), so it cannot reply")
        return found
    if told.devices is None:
        return Verdict(UNKNOWN, "its monitor does not say what devices there are")
    return Verdict(NONE, "it has no device that moves memory")


def _virtio_driver(told: Monitored, now_s: int) -> Verdict:
    age, interval = report_age_s(told, now_s), told.interval_s
    full = (told.base_bytes or 0) + told.dimm_bytes
    if is_fresh(told, now_s):
        return Verdict(LIVE, f"its guest reported {max(0, age or 0)} s ago")
    if told.actual_bytes is not None and told.actual_bytes < full:
        what = f"its balloon holds {format_size(full - told.actual_bytes)}, which a driver has given"
        return Verdict(LIVE, what + ("" if not interval else ", but statistics do not come"))
    if interval and age is None:
        every = f"it is asked every {interval} s and has never reported"
        return Verdict(ABSENT, f"{every}: no driver, or Windows without the balloon service")
    if interval and age is not None and age < 0:
        return Verdict(SILENT, f"its last report is dated {-age} s ahead: a clock was set")
    if interval and age is not None:
        return Verdict(SILENT, f"it is asked every {interval} s, and its last report is {age} s old")
    if age is not None:
        return Verdict(UNKNOWN, f"its guest reported {age} s ago, and no program has asked since")
    return Verdict(UNKNOWN, "no program asks its guest for statistics, and its balloon is empty")


def _virtio_mem_driver(told: Monitored) -> Verdict:
    plugged = sum(each.size for each in told.virtio_mems)
    wanted = sum(each.requested for each in told.virtio_mems)
    if plugged:
        return Verdict(LIVE, f"its guest has plugged {format_size(plugged)} of {format_size(wanted)}")
    if wanted:
        return Verdict(ABSENT, f"it was offered {format_size(wanted)} by virtio-mem and has plugged nothing")
    return Verdict(UNKNOWN, "its virtio-mem was never asked for anything")


def discards(told: Monitored, traits: Traits, size: int) -> Verdict:
    """Return whether the host gets back what a guest gives up, and how that is known."""
    reasons = list(_pins(told, traits, size))
    if reasons:
        return Verdict(INEFFECTIVE, "; ".join(reasons))
    if not traits.started.memory_bytes and not told.is_known:
        return Verdict(UNKNOWN, "neither its command line nor its monitor could be read")
    seen = "its command line" + (", its devices" if told.devices is not None else "")
    if traits.links is None:
        return Verdict(EFFECTIVE, f"nothing in {seen} prevents it; its open files cannot be seen: {RIGHTS}")
    return Verdict(EFFECTIVE, f"nothing in {seen} and its open files prevents it")


def _pins(told: Monitored, traits: Traits, size: int) -> Iterator[str]:
    """Yield what keeps a guest's pages on the host."""
    started, held = traits.started, traits.held
    links, devices = traits.links or (), told.devices or ()
    for pin in pins(started, links, devices, locked_bytes=traits.locked_bytes, size=size):
        yield pin.reason
    if any(is_on(each.get("hugetlb", "")) for each in started.objects) or (
        held is not None and size and 2 * held.huge_bytes >= size
    ):
        yield f"{HUGE}, of which a balloon returns none in parts"
    if told.migration.startswith("postcopy"):
        yield "a postcopy migration is running"


def leaves_virtio_mem(back: Verdict) -> bool:
    """Return whether virtio-mem gives memory back: QEMU has it work with VFIO, and in whole huge pages."""
    reasons = back.evidence.split("; ") if back.word == INEFFECTIVE else []
    return all(each.startswith((VFIO, HUGE)) for each in reasons)


def stranded(told: Monitored, held: Held | None, now_s: int) -> int | None:
    """Return how much at least is free in the guest and yet held or swapped on the host; None: not known.

    All that the guest does not call free could be held; what is held beyond that is free memory.
    """
    size, free = assigned(told), told.report.free
    if size is None or free is None or held is None or not is_fresh(told, now_s):
        return None
    return min(max(0, guest_held(held) - max(0, size - free)), free)


def guest_held(held: Held) -> int:
    """Return what of the host's memory is the guest's, at least."""
    return max(0, held.guest_bytes - OWN_BYTES) if held.has_own else held.guest_bytes


def give(told: Monitored, traits: Traits, state: Verdict, back: Verdict, now_s: int) -> Give:
    """Return what could be given back now, and by which knob.

    virtio-mem comes first where it has something: it is faster, and works where pages are pinned.
    """
    size, need = assigned(told), used(told, now_s)
    plugged = sum(each.size for each in told.virtio_mems) if leaves_virtio_mem(back) else 0
    if size is not None and need is not None and traits.held is not None:
        spare = max(0, size - need - RESERVE_BYTES)
        spare = min(spare, max(0, guest_held(traits.held) - need))
        if plugged:
            block = max(each.block for each in told.virtio_mems)
            return Give(min(spare, plugged) // block * block, VIRTIO_MEM, "it has plugged memory")
        if back.word == INEFFECTIVE:
            return Give(0, NONE, f"a balloon would return nothing: {back.evidence}")
        if told.balloons:
            return Give(spare, BALLOON, _SPARE)
    if back.word == INEFFECTIVE:
        return Give(None if plugged else 0, VIRTIO_MEM if plugged else NONE, back.evidence)
    if told.balloons and state.word in (LIVE, SILENT, UNKNOWN):
        return Give(None, BALLOON, f"how much is not known: {state.evidence}")
    if traits.can_be_reclaimed:
        return Give(None, RECLAIM, "memory.reclaim of its cgroup swaps out what its guest does not touch")
    return Give(None, NONE, "nothing can be asked of its guest, and its cgroup cannot be reclaimed from")

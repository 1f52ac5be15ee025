"""Settings that are tried out: a position in, the position that they make of it out.

    budget          the room changes by the difference, as far as the host has it; what is kept ready follows
    maximum         bounds the size and, above it, what counts against others; it cannot add to a guest what
                    it did not boot with, unless memory can be added to it
    minimum         the least it may have, but never less than its guest's own floor
    buffer, weight, priority      as the policy reads them
    without a VM    what it holds is free, and comes back to the host
    with a VM       its whole size is reserved, as `dynmem reserve` does it: until a guest reports, it counts
                    with all that it may take

Each returns what it could not do, as sentences: a limit that stays, or room that cannot be made.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from dynmem.errors import ConfigError, quoted
from dynmem.history.again import is_planned, snapshot_of
from dynmem.history.past import Moment
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX, WEIGHT_MAX
from dynmem.manager.config import BUFFER_PERCENT_MAX
from dynmem.manager.step.ready import DONORS_NS, Ready
from dynmem.manager.step.safeguards import margin_pages
from dynmem.manager.step.sample import HostSample, VmSample
from dynmem.policy import HUGE_PAGES, PRIORITIES, Sizes, least_pages
from dynmem.units import NS_PER_S, PAGE_SIZE, format_size, named_size, pages_covering, pages_of
from dynmem.what_if.position import charge_of, lacking_bytes, recharged

Notes = tuple[str, ...]
#: Returns the position with one setting changed, and what that could not do.
Knob = Callable[[Moment], tuple[Moment, Notes]]

NONE: Final[Notes] = ()
_NOT_A_LIMIT: Final = "maximum"


class Newcomer(msgspec.Struct, frozen=True):
    """A VM that is tried.

    Attributes:
        name: Its name.
        bytes: What it may take.
        is_refused: Whether its room cannot be made.
    """

    name: str
    bytes: int
    is_refused: bool


class Tried(NamedTuple):
    """What some settings come to.

    Attributes:
        moment: The position with them.
        notes: What they could not do.
        newcomers: The VMs that start.
    """

    moment: Moment
    notes: Notes
    newcomers: tuple[Newcomer, ...]


class Knobs(msgspec.Struct, frozen=True):
    """What is tried out, in the order in which it is applied.

    Attributes:
        budget_bytes: Another budget; None: as it is.
        settings: VM, setting and value, as they were written.
        without: VMs that have ended.
        more: VMs that start, by name, with what they may take. Bytes.
    """

    budget_bytes: int | None = None
    settings: tuple[tuple[str, str, str], ...] = ()
    without: tuple[str, ...] = ()
    more: tuple[tuple[str, int], ...] = ()

    def __bool__(self) -> bool:
        """Return whether anything is tried out."""
        return self != Knobs()

    def apply(self, moment: Moment) -> Tried:
        """Return the position with all of it; ConfigError if a VM or a setting does not exist."""
        notes: list[str] = []
        steps: list[Knob] = [_without(name) for name in self.without]
        if self.budget_bytes is not None:
            steps.append(_budget(self.budget_bytes))
        steps += [_setting(*each) for each in self.settings]
        for step in steps:
            moment, said = step(moment)
            notes += said
        newcomers: list[Newcomer] = []
        for name, size in self.more:
            if name in moment.vms or any(each.name == name for each in newcomers):
                raise ConfigError(f"--with: there is a VM {quoted(name)} already: choose another name")
            with_it, said = _with(moment, name, size)
            notes += said
            newcomers.append(Newcomer(name, size, with_it is None))
            moment = with_it or moment
        return Tried(moment, tuple(notes), tuple(newcomers))


def parse(
    budget: str | None, settings: tuple[str, ...], without: tuple[str, ...], more: tuple[str, ...]
) -> Knobs:
    """Return what the options of a command line ask for; ConfigError names the option."""
    return Knobs(
        None if budget is None else _size("--budget", budget),
        tuple(_assignment(each) for each in settings),
        without,
        tuple(_newcomer(each) for each in more),
    )


def _size(option: str, text: str) -> int:
    return named_size(option, text, PAGE_SIZE, MANAGER_FIGURE_BYTES_MAX) // PAGE_SIZE * PAGE_SIZE


def _assignment(text: str) -> tuple[str, str, str]:
    what, equals, value = text.partition("=")
    vm, dot, setting = what.rpartition(".")
    if not (equals and dot and vm and setting in _SETTINGS):
        known = ", ".join(_SETTINGS)
        raise ConfigError(f"--set: {quoted(text)} is not VM.SETTING=VALUE; the settings are {known}")
    return vm, setting, value


def _newcomer(text: str) -> tuple[str, int]:
    size, colon, name = text.partition(":")
    if not (colon and name):
        raise ConfigError(f"--with: {quoted(text)} is not SIZE:NAME, such as 4G:new")
    return name, _size("--with", size)


# -- the host ------------------------------------------------------------------------------------------------


def _budget(size: int) -> Knob:
    def apply(moment: Moment) -> tuple[Moment, Notes]:
        host = msgspec.structs.replace(moment.host, budget_bytes=size)
        lacking, notes = lacking_bytes(host), NONE
        if lacking:
            text = f"the host has {format_size(lacking)} less than a budget of {format_size(size)}"
            notes = (f"{text}: the rest of it takes that",)
        return _with_room(moment._replace(host=host), moment.host), notes

    return apply


def _with_room(moment: Moment, before: HostSample, freed: int = 0) -> Moment:
    """Return a position in which the plan divides what another budget or host leaves, and *freed* of it."""
    host = moment.host
    now, was = ((each.budget_bytes or 0) - lacking_bytes(each) for each in (host, before))
    room = (before.room_bytes or 0) + now - was + freed
    ready = _ready(before, room)
    return moment._replace(host=msgspec.structs.replace(host, room_bytes=room, ready_bytes=ready))


def _ready(before: HostSample, room_bytes: int) -> int:
    """Return what is kept ready of another room: as the manager finds it right, by the growth seen lately.

    Where the recorded figure is not what the manager would find right, the operator set it.
    """
    was, old_room = before.ready_bytes or 0, pages_of(before.room_bytes or 0)
    per_s = pages_of(was) * NS_PER_S // DONORS_NS
    for fastest in (0, per_s, per_s + HUGE_PAGES * NS_PER_S // DONORS_NS):
        kept = Ready(fastest)
        if kept.pages(max(0, old_room), None, 0) == pages_of(was):
            return kept.pages(max(0, pages_of(room_bytes)), None, 0) * PAGE_SIZE
    return min(was, max(0, room_bytes))


# -- VMs -----------------------------------------------------------------------------------------------------


def _found(moment: Moment, option: str, name: str) -> VmSample:
    vm = moment.vms.get(name)
    if vm is None:
        known = ", ".join(sorted(moment.vms)[:20]) or "none"
        raise ConfigError(f"{option}: no VM {quoted(name)} is there: there is {known}")
    return vm


def _without(name: str) -> Knob:
    def apply(moment: Moment) -> tuple[Moment, Notes]:
        vm = _found(moment, "--without", name)
        vms = {each: sample for each, sample in moment.vms.items() if each != name}
        host = recharged(moment.host, vm, None)
        # What a VM of the plan has was divided; what any other holds was taken from that before.
        freed = 0 if is_planned(vm) else charge_of(vm).held
        return _with_room(moment._replace(host=host, vms=vms), moment.host, freed), ()

    return apply


def _with(moment: Moment, name: str, size: int) -> tuple[Moment | None, Notes]:
    """Return the position with the room of one more VM reserved; None: that cannot be made."""
    host = moment.host
    pages = pages_covering(size)
    least = least_pages(snapshot_of(moment).vms, "normal")
    short = least + pages - pages_of(host.room_bytes or 0)
    if short > 0:
        size_text, needs = format_size(size), format_size(least * PAGE_SIZE)
        text = f"{name}: no room for {size_text}: {format_size(short * PAGE_SIZE)} is missing"
        return None, (f"{text}, since running VMs of normal or high priority need {needs} with all floors",)
    host = msgspec.structs.replace(
        host,
        reserved_bytes=(host.reserved_bytes or 0) + pages * PAGE_SIZE,
        room_bytes=(host.room_bytes or 0) - pages * PAGE_SIZE,
    )
    return moment._replace(host=host), NONE


def _setting(name: str, setting: str, value: str) -> Knob:
    def apply(moment: Moment) -> tuple[Moment, Notes]:
        vm = _found(moment, "--set", name)
        option = f"--set {name}.{setting}"
        changed, notes = _SETTINGS[setting](vm, value, option)
        if (changed.minimum_bytes or 0) > (changed.maximum_bytes or 0):
            raise ConfigError(f"{option}: the minimum of {name} would be above its maximum: set both")
        host = recharged(moment.host, vm, changed)
        return moment._replace(host=host, vms={**moment.vms, name: changed}), notes

    return apply


def _minimum(vm: VmSample, value: str, option: str) -> tuple[VmSample, Notes]:
    least = _size(option, value)
    own = vm.floor_bytes or 0
    notes = NONE
    if own > (vm.minimum_bytes or 0):  # the guest's own
        if least < own:
            notes = (f"{vm.name}: its guest goes no lower than {format_size(own)}",)
        least_now = max(least, own)
    else:
        least_now = least
    changed = msgspec.structs.replace(vm, minimum_bytes=least, floor_bytes=least_now)
    return _bounded(changed, vm.most_bytes), notes


def _maximum(vm: VmSample, value: str, option: str) -> tuple[VmSample, Notes]:
    most, notes = _size(option, value), NONE
    changed = msgspec.structs.replace(vm, maximum_bytes=most)
    if not is_planned(vm):
        return changed, notes
    bound = vm.most_bytes or 0
    if most < (vm.maximum_bytes or 0):
        bound = min(bound, _sizes(vm).down(pages_of(most)) * PAGE_SIZE)
    elif vm.limit != _NOT_A_LIMIT:
        notes = (f"{vm.name}: its maximum is not what limits it: {vm.limit} {format_size(bound)}",)
    else:
        bound = max(bound, min(most, vm.boot_bytes or 0))
        if vm.step_bytes and most > bound:
            bound = _sizes(vm).down(pages_of(most)) * PAGE_SIZE
        elif most > bound:
            notes = (f"{vm.name}: it booted with {format_size(bound)}, and nothing can be added to that",)
    # Above its maximum, a VM counts only with what the host measures of it.
    counted = max(most, vm.resident_bytes or 0)
    held = min(vm.assigned_bytes or 0, counted)
    kept = min(vm.kept_bytes or 0, held)
    if vm.kept_bytes == vm.held_bytes or (vm.actual_bytes or 0) > counted:
        kept = held
    changed = msgspec.structs.replace(
        changed,
        held_bytes=held,
        kept_bytes=kept,
        claim_bytes=min(vm.claim_bytes or 0, counted),
        margin_bytes=margin_pages(pages_of(bound)) * PAGE_SIZE,
        floor_bytes=min(vm.floor_bytes or 0, most),
    )
    return _bounded(changed, bound), notes


def _bounded(vm: VmSample, most: int | None) -> VmSample:
    """Return a VM with the least and the most that the plan can give it."""
    if not is_planned(vm) or most is None:
        return vm
    sizes = _sizes(vm)
    least = min(sizes.up(pages_of(vm.floor_bytes or 0)) * PAGE_SIZE, most)
    return msgspec.structs.replace(vm, least_bytes=least, most_bytes=max(most, vm.kept_bytes or 0))


def _sizes(vm: VmSample) -> Sizes:
    return Sizes(pages_of(vm.whole_bytes or 0), pages_of(vm.step_bytes or 0))


def _whole(value: str, option: str, least: int, most: int) -> int:
    if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise ConfigError(f"{option}: {quoted(value)} is not a whole number from {least} to {most}")
    return int(value)


def _buffer(vm: VmSample, value: str, option: str) -> tuple[VmSample, Notes]:
    percent = _whole(value.removesuffix("%"), option, 0, BUFFER_PERCENT_MAX)
    return msgspec.structs.replace(vm, buffer_percent=percent), ()


def _weight(vm: VmSample, value: str, option: str) -> tuple[VmSample, Notes]:
    return msgspec.structs.replace(vm, weight=_whole(value, option, 1, WEIGHT_MAX)), ()


def _priority(vm: VmSample, value: str, option: str) -> tuple[VmSample, Notes]:
    if value not in PRIORITIES:
        raise ConfigError(f"{option}: {quoted(value)} is not one of {', '.join(PRIORITIES)}")
    return msgspec.structs.replace(vm, priority=value), ()


_SETTINGS: Final[Mapping[str, Callable[[VmSample, str, str], tuple[VmSample, Notes]]]] = {
    "minimum": _minimum,
    "maximum": _maximum,
    "buffer": _buffer,
    "weight": _weight,
    "priority": _priority,
}

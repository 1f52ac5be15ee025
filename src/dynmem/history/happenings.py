"""What happened between two steps, read from what is kept of both."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from dynmem.history.event import Event
from dynmem.manager.step.safeguards import band_pages
from dynmem.manager.step.sample import HostSample, MoveSample, Sample, VmSample
from dynmem.units import MIB, PAGE_SIZE, format_size, pages_of

_DIGITS: Final = re.compile(r"[\d.]+")


class Happenings:
    """Compares each step with the one before; remembers what was last said of moves that are not sent."""

    def __init__(self) -> None:
        self._before: Sample | None = None
        self._said: dict[str, int] = {}

    def see(self, now: Sample, refused: Mapping[str, str]) -> list[Event]:
        """Return what happened since the last step; *refused* are VMs with the reason why not."""
        before, self._before = self._before, now
        events: list[Event] = []
        if before is not None:
            events += _host(before.host, now.host)
        for name in before.vms if before else ():
            if name not in now.vms:
                self._said.pop(name, None)
                events.append(Event(kind="went", vm=name, text="its process has ended"))
        for name, vm in now.vms.items():
            was = before.vms.get(name) if before else None
            if was is not vm:
                events += _vm(was, vm)
            if was is None or (was.incarnation, was.resets) != (vm.incarnation, vm.resets):
                self._said.pop(name, None)
        for move in now.moves:
            events += self._move(move, now)
        for name, why in refused.items():
            events.append(Event(kind="refused", vm=name, text=f"not done: {why}"))
        return events

    def _move(self, move: MoveSample, now: Sample) -> Iterator[Event]:
        if not move.sent:
            if now.host.mode == "enforce" or not self._is_news(move, now.vms.get(move.vm)):
                return
            self._said[move.vm] = move.target_bytes
        yield Event(
            kind="moved" if move.sent else "would move",
            vm=move.vm,
            text=move.reason.removesuffix(f" (not sent: {now.host.mode})"),
            target_bytes=move.target_bytes,
            before_bytes=move.before_bytes,
            measurement=move.measurement,
            command=move.command,
        )

    def _is_news(self, move: MoveSample, vm: VmSample | None) -> bool:
        """Return whether a move that is not sent is far from what was said last, or was made by somebody."""
        said = self._said.get(move.vm)
        if said is None:
            return True
        if move.before_bytes is not None and abs(move.before_bytes - said) < MIB:
            return True
        band = band_pages(pages_of(vm.maximum_bytes or 0) if vm else 0) * PAGE_SIZE
        return abs(move.target_bytes - said) >= band


def _host(before: HostSample, now: HostSample) -> Iterator[Event]:
    if before.mode != now.mode:
        yield Event(kind="mode", text=f"from {before.mode} to {now.mode}")
    short, was = now.shortage_bytes or 0, before.shortage_bytes or 0
    if short and not was:
        cut = f"; memory ends in the level {now.cut!r}" if now.cut else ""
        yield Event(kind="shortage", text=f"{format_size(short)} more is wanted than there is to divide{cut}")
    if was and not short:
        yield Event(kind="shortage over", text="all that is wanted fits")
    if now.emergency and not before.emergency:
        occupied, budget = format_size(now.occupied_bytes or 0), format_size(now.budget_bytes or 0)
        yield Event(kind="emergency", text=f"the VMs occupy {occupied}, the budget is {budget}")
    if before.emergency and not now.emergency:
        yield Event(kind="emergency over", text="the VMs occupy no more than the budget")


def _vm(was: VmSample | None, now: VmSample) -> Iterator[Event]:
    name = now.name
    if was is None:
        has = "" if now.actual_bytes is None else f", has {format_size(now.actual_bytes)}"
        yield Event(kind="came", vm=name, text=f"{now.run_state or 'there'}{has}")
        was = VmSample(name=name, incarnation=now.incarnation, resets=now.resets, standing=now.standing)
    if was.incarnation != now.incarnation:
        yield Event(kind="restarted", vm=name, text="another process runs it")
    elif (now.resets or 0) > (was.resets or 0):
        yield Event(kind="reset", vm=name, text="its guest was reset")
    if was.standing != now.standing:
        # What a plan says of a movable VM is no reason why it is movable.
        why = now.standing if now.standing == "movable" else f"{now.standing or 'not known'}: {now.reason}"
        yield Event(kind="standing", vm=name, text=why)
    if was.problem != now.problem and _DIGITS.sub("", was.problem) != _DIGITS.sub("", now.problem):
        yield Event(kind="problem", vm=name, text=now.problem or "no longer there")
    for before, stopped, what in (
        (was.stopped_bytes, now.stopped_bytes, "gives no more"),
        (was.declined_bytes, now.declined_bytes, "takes no more"),
    ):
        if stopped and not before:
            yield Event(kind="stalled", vm=name, text=f"its guest {what} at {format_size(stopped)}")
        if before and not stopped:
            yield Event(
                kind="stall over", vm=name, text=f"its guest is asked again: it {what} no longer counts"
            )

"""When memory is out: whom the operator allowed to be interrupted, and for whom.

Memory is out when a VM lacks what its guest *uses*, although everybody gives what they can, for longer than
`OUT_NS`. Then the command that the operator named (`on_out_of_memory`) is run for one VM of lower priority,
as its books have it: low before normal, the largest first, never high (`gmm.shortage`). Without such a
command nobody is interrupted. It runs once for each life of a VM, and for the next VM only when this one is
gone, or has had its time.
"""

import shlex
from collections.abc import Container, Iterable, Sequence
from typing import Final

from dynmem.manager.step.claims import PRIORITIES, Claims
from dynmem.manager.step.facts import Mode
from dynmem.manager.step.record import Record
from dynmem.manager.step.results import Interrupt
from dynmem.manager.step.safeguards import ARRIVED_PAGES
from dynmem.units import NS_PER_S, format_pages

# A shortage that is over sooner ends nobody.
OUT_NS: Final = 10 * NS_PER_S
# To write a large VM to a disk takes a while; the next VM is not interrupted before that.
GOING_NS: Final = 120 * NS_PER_S
# What the books say of such a VM.
INTERRUPTED: Final = "is not grown: memory is out, and it is to be saved or ended"


class LastResort:
    """Since when memory has been out, and who was interrupted for it."""

    def __init__(self) -> None:
        self._since_ns: int | None = None
        self._interrupted: dict[str, str] = {}  # the life of each, by its name
        self._last: tuple[str, int] | None = None  # who was interrupted last, and when

    def decide(
        self,
        lack: Sequence[tuple[Record, int]],
        records: Iterable[Record],
        claims: Claims,
        now_ns: int,
        paused: Container[str] = (),
    ) -> Interrupt | None:
        """Return whose command is to be run now; *lack* is who gets less than they use, by priority.

        Those that are *paused* are left alone.
        """
        there = {record.name: record for record in records}
        self._interrupted = {
            name: life
            for name, life in self._interrupted.items()
            if name in there and there[name].incarnation == life
        }
        if not lack or lack[0][1] <= ARRIVED_PAGES:
            self._since_ns = None
            return None
        if self._since_ns is None:
            self._since_ns = now_ns
        if now_ns - self._since_ns < OUT_NS or self._is_going(now_ns):
            return None
        needy, lacking = lack[0]
        found = self._whom(needy, there, claims, paused)
        if found is None:
            return None
        self._since_ns, self._last = now_ns, (found.name, now_ns)
        self._interrupted[found.name] = found.incarnation
        reason = (
            f"memory is out: {needy.name} ({needy.config.priority}) lacks {format_pages(lacking)} that it"
            f" uses, {found.name} ({found.config.priority}) holds {format_pages(claims.pages(found.name))}"
        )
        return Interrupt(found.name, found.config.on_out_of_memory, reason)

    def _is_going(self, now_ns: int) -> bool:
        """Return whether the VM that was interrupted last is still there and has time left."""
        if self._last is None:
            return False
        name, at_ns = self._last
        return name in self._interrupted and now_ns - at_ns < GOING_NS

    def _whom(
        self, needy: Record, there: dict[str, Record], claims: Claims, paused: Container[str]
    ) -> Record | None:
        """Return the first of those that the books allow which has a command and was not interrupted yet."""
        names = (
            name for name in claims.gmm.interruptible(PRIORITIES[needy.config.priority]) if name not in paused
        )
        found = (there[name] for name in names if name in there and name not in self._interrupted)
        return next((record for record in found if record.config.on_out_of_memory), None)


def interrupt_line(interrupt: Interrupt, mode: Mode) -> str:
    """Return the line that reports it."""
    words, what = (*interrupt.command, interrupt.vm), f"{interrupt.vm}: interrupted: {interrupt.reason}"
    if mode == "advise":
        return f"{what} (not run: advise); to do it: {shlex.join(words)}"
    note = "" if mode == "enforce" else f" (not run: {mode})"
    return f"{what}: running {' '.join(words)}{note}"

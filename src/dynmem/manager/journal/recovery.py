"""After a restart: what a predecessor left open, what it had promised, whom it had let go.

Sizes are never taken from the journal. An open action is closed by looking: what does the VM have now?
"""

import time
from collections.abc import Collection, Iterable

from dynmem.manager.journal.journal import REACHED, RELEASED, RESERVED, Action, Intent, Journal
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import ABSENT, SILENT, Facts, VmFacts
from dynmem.units import format_size


def take_over(journal: Journal, manager: Manager, names: Collection[str]) -> None:
    """Go on where a predecessor ended.

    Targets cannot be asked for, so the last ones sent come from the journal. Who was released stays released,
    what was promised stays promised.
    """
    for action in journal.last_targets():
        manager.restore(action.vm, action.incarnation, action.target_bytes)
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    for wish in journal.standing():
        if wish.kind == RELEASED and wish.name in names:
            manager.release(wish.name)
        elif wish.kind == RESERVED and wish.until_ns > wall_ns:
            manager.reserve(wish.name, wish.size_bytes, now_ns, now_ns + wish.until_ns - wall_ns)
        else:
            journal.drop(wish)


class Unfinished:
    """Actions without an outcome: they were under way, or about to be, when it could not be written down."""

    def __init__(self, actions: Iterable[Action]) -> None:
        self._open: dict[int, Intent] = {
            each.id: Intent(each.vm, each.incarnation, each.target_bytes, each.reason, each.measurement)
            for each in actions
        }

    def __len__(self) -> int:
        return len(self._open)

    def add(self, actions: Iterable[tuple[int, Intent]]) -> None:
        """Further actions whose outcome could not be written down."""
        self._open.update(actions)

    def look(self, facts: Facts) -> list[tuple[int, Intent, str]]:
        """Those whose VM can be asked now, with what was found."""
        if not self._open:
            return []
        vms = {vm.name: vm for vm in facts.vms}
        looked = ((number, each, _found(each, vms.get(each.vm))) for number, each in self._open.items())
        return [(number, each, outcome) for number, each, outcome in looked if outcome]

    def close(self, number: int) -> None:
        """The outcome of this one stands in the journal."""
        del self._open[number]


def _found(intent: Intent, vm: VmFacts | None) -> str:
    """What became of an intent; "" while its VM does not answer."""
    if vm is None:
        return "the VM is no longer configured"
    if vm.run_state == ABSENT:
        return "the VM is gone"
    if vm.incarnation != intent.incarnation:
        return "the VM was started anew since"
    if vm.run_state == SILENT or vm.actual_bytes is None:
        return ""
    reached = REACHED if vm.actual_bytes == intent.target_bytes else "not reached (yet)"
    return f"{reached}, it has {format_size(vm.actual_bytes)}"

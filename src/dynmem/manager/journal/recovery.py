"""After a restart: what a predecessor left open, what it had promised, which VMs it had released.

Sizes are never taken from the journal. An open action is closed by looking at the VM's size now.
"""

import time
from collections.abc import Container, Iterable

from dynmem.limits import MANAGER_FIGURE_BYTES_MAX, PAUSE_NS_MAX
from dynmem.manager.journal.journal import PAUSED, REACHED, RELEASED, RESERVED, Action, Intent, Journal
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import ABSENT, SILENT, Facts, VmFacts
from dynmem.units import format_size


def take_over(journal: Journal, manager: Manager, names: Container[str]) -> None:
    """Continue where a predecessor ended.

    A VM does not report its target, so the last ones sent come from the journal. Released VMs stay released,
    paused ones paused until the date that was set, and promised reservations stay promised.
    """
    for action in journal.last_targets():
        if _is_size(action.target_bytes):
            manager.restore(action.vm, action.incarnation, action.target_bytes)
    now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
    for each in journal.instructions():
        if each.kind == RELEASED and each.name in names:
            manager.release(each.name)
        elif each.kind == PAUSED and each.name in names and each.until_ns > wall_ns:
            if each.name not in manager.released:
                manager.pause(each.name, now_ns + min(each.until_ns - wall_ns, PAUSE_NS_MAX))
        elif each.kind == RESERVED and each.until_ns > wall_ns:
            deadline_ns = now_ns + each.until_ns - wall_ns
            manager.reserve(each.name, each.size_bytes, now_ns, deadline_ns, each.incarnation)
        else:
            journal.drop(each)


class Unfinished:
    """Actions without an outcome: it could not be recorded, or the manager died before it was known."""

    def __init__(self, actions: Iterable[Action]) -> None:
        self._open: dict[int, Intent] = {}
        #: A line for each that no manager wrote: its target is not a size.
        self.damaged: list[str] = []
        for each in actions:
            if _is_size(each.target_bytes):
                intent = Intent(each.vm, each.incarnation, each.target_bytes, each.reason, each.measurement)
                self._open[each.id] = intent
            else:
                self.damaged.append(
                    f"{each.vm}: row {each.id} of the journal is left as it is: its target,"
                    f" {each.target_bytes}, is not the size of a VM"
                )

    def __len__(self) -> int:
        return len(self._open)

    def add(self, actions: Iterable[tuple[int, Intent]]) -> None:
        """Add actions whose outcome could not be recorded."""
        self._open.update(actions)

    def look(self, facts: Facts) -> list[tuple[int, Intent, str]]:
        """Return those whose VM could be asked in this sweep, each with its outcome."""
        if not self._open:
            return []
        vms = {vm.name: vm for vm in facts.vms}
        looked = ((number, each, _found(each, vms.get(each.vm))) for number, each in self._open.items())
        return [(number, each, outcome) for number, each, outcome in looked if outcome]

    def close(self, number: int) -> None:
        """Drop an action whose outcome is recorded."""
        del self._open[number]


def _is_size(target_bytes: int) -> bool:
    return 0 <= target_bytes <= MANAGER_FIGURE_BYTES_MAX


def _found(intent: Intent, vm: VmFacts | None) -> str:
    """Return the outcome of an intent; "" while its VM does not reply."""
    if vm is None:
        return "the VM is no longer configured"
    if vm.run_state == ABSENT:
        return "the VM is gone"
    if vm.incarnation != intent.incarnation:
        return "the VM has been started again since"
    if vm.run_state == SILENT or vm.actual_bytes is None:
        return ""
    reached = REACHED if vm.actual_bytes == intent.target_bytes else "not reached yet"
    return f"{reached}, its size is {format_size(vm.actual_bytes)}"

"""``dynmem top -b``: a row of CSV for each VM at each look at the status, for a program or a spreadsheet."""

import csv
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Final

from dynmem.errors import DeadlineError, UnreachableError
from dynmem.metrics.families import pressure
from dynmem.top import figures
from dynmem.top.figures import at_hand_bytes, shown

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply
    from dynmem.manager.step.view import VmView

# A spreadsheet takes a text that begins with one of these for a formula.
_FORMULA: Final = ("=", "+", "-", "@")


def _text(text: object) -> str:
    safe = shown(text)
    return f"'{safe}" if safe.startswith(_FORMULA) else safe


def _ratio(vm: "VmView") -> float | None:
    found = pressure(vm)
    return None if found is None else round(found, 4)


#: The columns after `at`. Those named like a field of the status are that field.
COLUMNS: Final[tuple[tuple[str, "Callable[[VmView], object]"], ...]] = (
    ("vm", lambda vm: _text(vm.name)),
    ("state", lambda vm: _text(vm.run_state)),
    ("standing", lambda vm: _text(vm.standing)),
    ("minimum_bytes", lambda vm: vm.minimum_bytes),
    ("maximum_bytes", lambda vm: vm.maximum_bytes),
    ("demand_bytes", lambda vm: vm.demand_bytes),
    ("planned_bytes", lambda vm: vm.planned_bytes),
    ("assigned_bytes", lambda vm: vm.assigned_bytes),
    ("actual_bytes", lambda vm: vm.actual_bytes),
    ("resident_bytes", lambda vm: vm.resident_bytes),
    ("at_hand_bytes", at_hand_bytes),
    ("short_bytes", lambda vm: vm.short_bytes),
    ("pressure_ratio", _ratio),
    ("last_change_at", lambda vm: None if vm.last_change is None else _text(vm.last_change.at)),
    ("last_change_bytes", lambda vm: None if vm.last_change is None else vm.last_change.target_bytes),
)


def write(
    ask: "Callable[[], StatusReply]",
    out: IO[str],
    *,
    count: int | None,
    period_s: float | None,
    note: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Write *count* looks (None: without end), one every *period_s* (None: the manager's own period).

    A manager that does not reply to the first look is an error. One that is lost later has no rows until it
    replies again, and *note* receives why. Returns how many looks were without a reply.
    """
    rows = csv.writer(out, lineterminator="\n")
    first = ask()
    rows.writerow(("at", *(name for name, _ in COLUMNS)))
    every_s = figures.period_s(first, period_s)
    status: StatusReply | None = first
    due_s, looks, lost = clock(), 0, 0
    while True:
        if status is not None:
            rows.writerows(
                [_text(status.manager.at), *(cell(vm) for _, cell in COLUMNS)] for vm in status.vms
            )
            out.flush()
        looks += 1
        if count is not None and looks >= count:
            return lost
        # A look that took too long delays the next one and does not add one.
        due_s = max(due_s + every_s, clock())
        wait(max(0.0, due_s - clock()))
        try:
            status = ask()
        except (UnreachableError, DeadlineError) as error:
            lost += 1
            status = None
            note(str(error))

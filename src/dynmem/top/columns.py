"""The columns of the live table: their names here, in esxtop and in Hyper-V, their text, and how they sort.

docs/coming-from.md says what the words of the others mean there, and how near they are.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from dynmem.metrics.families import pressure
from dynmem.top.figures import at_hand_bytes, shown, state
from dynmem.units import NS_PER_S, size_cell

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply
    from dynmem.manager.step.view import VmView

#: What a column sorts by; None is last in either direction.
SortValue = str | float | None
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 24 * 3600


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        key: The key that sorts by it.
        title: Its name.
        esxtop: What esxtop calls the nearest thing; "-": it has none.
        hyper_v: What Hyper-V calls it.
        text: Returns what a cell shows.
        value: Returns what a cell sorts by.
        is_figure: Whether it stands to the right, and sorts from the largest on.
    """

    key: str
    title: str
    esxtop: str
    hyper_v: str
    text: "Callable[[StatusReply, VmView], str]"
    value: "Callable[[VmView], SortValue]"
    is_figure: bool = True


def ago_text(seconds: float) -> str:
    """Return a time that has passed in its largest unit: ``5 s``, ``12 min``."""
    whole = max(0, int(seconds))
    for unit, length in (("d", _DAY_S), ("h", _HOUR_S), ("min", _MINUTE_S)):
        if whole >= length:
            return f"{whole // length} {unit}"
    return f"{whole} s"


def move_text(status: "StatusReply", vm: "VmView") -> str:
    """Return how long ago a VM was changed last, and how."""
    last = vm.last_change
    if last is None or status.swept_ns is None:
        return "-"
    what = shown(last.reason.split(": ", maxsplit=1)[0])
    unsent = "" if last.sent else " (not sent)"
    return f"{ago_text((status.swept_ns - last.at_ns) / NS_PER_S)}: {what}{unsent}"


def _size(key: str, title: str, esxtop: str, hyper_v: str, read: "Callable[[VmView], int | None]") -> Column:
    return Column(key, title, esxtop, hyper_v, lambda _, vm: size_cell(read(vm)), read)


def _pressure_text(_: "StatusReply", vm: "VmView") -> str:
    found = pressure(vm)
    return "-" if found is None else f"{found:.0%}"


#: In their order on the screen.
COLUMNS: Final[tuple[Column, ...]] = (
    Column("n", "VM", "NAME", "Name", lambda _, vm: shown(vm.name), lambda vm: shown(vm.name), False),
    Column("s", "STATE", "-", "State", lambda _, vm: state(vm), state, False),
    _size("d", "DEMAND", "TCHD", "Memory Demand", lambda vm: vm.demand_bytes),
    _size("t", "TARGET", "SZTGT", "-", lambda vm: vm.assigned_bytes),
    _size("a", "ACTUAL", "MEMSZ-MCTLSZ", "Assigned Memory", lambda vm: vm.actual_bytes),
    _size("r", "RESIDENT", "GRANT", "-", lambda vm: vm.resident_bytes),
    _size("h", "AT HAND", "-", "-", at_hand_bytes),
    Column("p", "PRESSURE", "%ACTV", "Pressure", _pressure_text, pressure),
    Column(
        "m",
        "LAST MOVE",
        "-",
        "-",
        move_text,
        lambda vm: None if vm.last_change is None else -vm.last_change.at_ns,
        False,
    ),
)
BY_KEY: Final = {column.key: index for index, column in enumerate(COLUMNS)}

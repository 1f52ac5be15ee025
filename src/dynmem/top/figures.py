"""What a row about a VM shows beside the fields of its status, and texts that cannot control a terminal.

A monitor reports a state, and a status comes from whoever listens on a socket: their texts are only shown.
"""

from typing import TYPE_CHECKING, Final

from dynmem.errors import printable
from dynmem.units import NS_PER_S

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply
    from dynmem.manager.step.view import VmView

#: Characters of a text that a row shows.
TEXT_MAX: Final = 64
#: The shortest time from one look to the next.
PERIOD_S_MIN: Final = 0.1


def shown(text: object) -> str:
    """Return a text of unknown origin as a row has room for it; "" for none."""
    return "" if text is None else printable(str(text)[:TEXT_MAX])


def at_hand_bytes(vm: "VmView") -> int | None:
    """Return how much of its size a VM does not need."""
    if vm.demand_bytes is None or vm.actual_bytes is None:
        return None
    return max(0, vm.actual_bytes - vm.demand_bytes)


def state(vm: "VmView") -> str:
    """Return the state of a VM, and why the manager leaves it as it is, in a word each."""
    if vm.standing in (None, "movable"):
        return shown(vm.run_state)
    return f"{shown(vm.run_state)}, {shown(vm.standing)}"


def period_s(status: "StatusReply", chosen_s: float | None) -> float:
    """Return how often to look: as chosen, or once in the manager's period."""
    return chosen_s or max(PERIOD_S_MIN, status.period_ns / NS_PER_S)

"""What a guest does to its DIMMs on its way to the machine: in order, within a turn, only in its life."""

from tests.rigs.scenes import plays

from dynmem.vm.kvm.board.dimm_slots import Ejected, Reported
from dynmem.vm.kvm.dimm_acts import DimmActs
from dynmem.wire.synic import HypercallInput


class Machine:
    """It takes this many acts a turn."""

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.taken: list[object] = []
        self.notified = 0
        self.acts = DimmActs(notify=self._notify, remove=lambda slot: self.taken.append(f"remove {slot}"))

    def _notify(self) -> None:
        self.notified += 1

    @property
    def is_over(self) -> bool:
        return len(self.taken) >= self.most

    async def dimm_ejected(self, slot: int) -> None:
        self.taken.append(f"ejected {slot}")

    def dimm_reported(self, slot: int, source: int, status: int) -> None:
        self.taken.append((slot, source, status))

    async def hypercall(self, call: HypercallInput) -> int:
        raise AssertionError

    def retry_messages(self) -> None:
        raise AssertionError

    async def unplug_answered(self, address: int, *, is_done: bool) -> None:
        raise AssertionError


@plays
async def test_the_machine_takes_what_a_guest_did_in_order_and_the_slot_is_empty_before_the_dimm_goes() -> (
    None
):
    machine = Machine()
    for act in (Reported(1, 3, 0x84), Ejected(1), Reported(1, 3, 0)):
        machine.acts.add(act)
    assert machine.notified == 3
    await machine.acts.serve(machine)
    assert machine.taken == [(1, 3, 0x84), "remove 1", "ejected 1", (1, 3, 0)]


@plays
async def test_what_a_turn_has_no_time_for_is_for_the_next_one() -> None:
    machine = Machine(most=2)
    for slot in range(5):
        machine.acts.add(Reported(slot, 1, 0))
    machine.notified = 0
    await machine.acts.serve(machine)
    assert (len(machine.taken), machine.notified) == (2, 1)
    machine.most = 100
    await machine.acts.serve(machine)
    assert [taken[0] for taken in machine.taken if isinstance(taken, tuple)] == [0, 1, 2, 3, 4]


@plays
async def test_what_a_guest_did_that_is_over_is_forgotten() -> None:
    machine = Machine()
    machine.acts.add(Ejected(0))
    machine.acts.forget()
    await machine.acts.serve(machine)
    assert machine.taken == []

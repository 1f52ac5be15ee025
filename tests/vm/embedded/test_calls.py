"""The guest's calls are taken in turns."""

from tests.rigs.scenes import plays, until

from dynmem.vm.embedded.calls import Calls
from dynmem.vm.embedded.hardware import Hardware
from dynmem.vm.embedded.slots import SlotMap
from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.synic import Synic
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import hardware as wire
from dynmem.wire.synic import HvStatus, HypercallInput


class Hurried:
    """A machine whose turn is over after three hypercalls."""

    def __init__(self) -> None:
        self.taken = 0
        self.in_turn = 0

    @property
    def is_over(self) -> bool:
        return self.in_turn >= 3

    async def hypercall(self, call: HypercallInput) -> int:
        self.taken += 1
        self.in_turn += 1
        return HvStatus.SUCCESS

    def retry_messages(self) -> None:
        raise AssertionError

    async def unplug_answered(self, address: int, *, is_done: bool) -> None:
        raise AssertionError

    async def dimm_ejected(self, slot: int) -> None:
        raise AssertionError

    def dimm_reported(self, slot: int, source: int, status: int) -> None:
        raise AssertionError


@plays
async def test_calls_that_a_turn_has_no_time_for_are_taken_in_the_next_one() -> None:
    woken = 0

    def wake() -> None:
        nonlocal woken
        woken += 1

    faults = Faults(lambda: 0)
    hardware = Hardware(wake)
    synic = Synic(FlatMemory(memoryview(bytearray(4096))), hardware.interrupt, faults)
    calls = Calls(hardware, SlotMap(faults), synic, wake=wake, hang_up=lambda: None, faults=faults)
    hardware.start()
    for number in range(7):
        hardware.guest_end.send(wire.encode(wire.Hypercall(number, 0x5D, 0)))
    await until(lambda: hardware.calls.ready)
    machine, taken, wakes = Hurried(), [], []
    for _ in range(3):
        before = woken
        machine.in_turn = 0
        await calls.serve(machine)
        taken.append(machine.taken)
        wakes.append(woken > before)
    assert taken == [3, 6, 7]
    assert wakes == [True, True, False]  # or what is left would wait for the guest
    hardware.close()

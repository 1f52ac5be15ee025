"""The SynIC in guest memory: slots, pending messages, event flags, and when the guest is interrupted."""

import pytest

from dynmem.vm.faults import Faults
from dynmem.vm.hyperv.general_protection import GeneralProtectionError
from dynmem.vm.hyperv.synic import BAD_PAGE, SINT_MASKED, Synic
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import synic as wire
from dynmem.wire.synic import MessageSlot

PAGE = 4096
MESSAGES, EVENTS = 2 * PAGE, 3 * PAGE
SLOT = MESSAGES + 2 * 256
FIRST, SECOND = MessageSlot(1, b"first"), MessageSlot(1, b"second")


class Rig:
    def __init__(self) -> None:
        self.memory = FlatMemory(memoryview(bytearray(16 * PAGE)))
        self.interrupts: list[int] = []
        self.faults = Faults(lambda: 0)
        self.synic = Synic(self.memory, self.interrupts.append, self.faults)

    def switch_on(self) -> None:
        for msr, value in (
            (wire.MSR_SIMP, MESSAGES | 1),
            (wire.MSR_SIEFP, EVENTS | 1),
            (wire.MSR_SINT0 + 2, 0xF3),
            (wire.MSR_SCONTROL, 1),
        ):
            self.synic.write_msr(msr, value)

    def slot(self) -> MessageSlot:
        return wire.decode_slot(self.memory.read(SLOT, 256))


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("off", [wire.MSR_SCONTROL, wire.MSR_SIMP])
def test_nothing_is_delivered_before_the_guest_has_named_a_page_and_switched_on(rig: Rig, off: int) -> None:
    rig.switch_on()
    rig.synic.write_msr(off, 0)
    assert not rig.synic.deliver(2, FIRST)
    assert rig.memory.read(0, 16 * PAGE) == bytes(16 * PAGE)
    rig.switch_on()
    assert rig.synic.deliver(2, FIRST)
    assert (rig.slot(), rig.interrupts) == (FIRST, [2])


def test_a_second_message_waits_and_the_guest_is_asked_for_an_eom(rig: Rig) -> None:
    rig.switch_on()
    assert rig.synic.deliver(2, FIRST)
    assert not rig.slot().pending
    assert not rig.synic.deliver(2, SECOND)
    assert rig.slot() == MessageSlot(1, b"first", pending=True)
    rig.memory.store32(SLOT, 0)
    assert rig.synic.write_msr(wire.MSR_EOM, 0)
    assert rig.synic.deliver(2, SECOND)
    assert rig.slot() == SECOND
    assert rig.interrupts == [2, 2]


def test_a_slot_that_the_guest_empties_while_it_is_marked_takes_the_message_at_once(rig: Rig) -> None:
    rig.switch_on()
    assert rig.synic.deliver(2, FIRST)

    class Racing(FlatMemory):
        """Empties the slot in the moment after the mark is written, too early to see it."""

        def fence(self) -> None:
            if self.load32(SLOT):
                self.store32(SLOT, 0)

    racing = Racing(memoryview(bytearray(rig.memory.read(0, 16 * PAGE))))
    rig.synic._memory = racing
    assert rig.synic.deliver(2, SECOND)


def test_flags_are_added_to_those_that_are_set(rig: Rig) -> None:
    rig.switch_on()
    for flag in (1, 31, 32, 2047):
        assert rig.synic.signal(2, flag)
    words = {offset: rig.memory.load32(EVENTS + 512 + offset) for offset in (0, 4, 252)}
    assert words == {0: 1 << 1 | 1 << 31, 4: 1, 252: 1 << 31}
    assert rig.interrupts == [2] * 4
    assert not rig.synic.signal(2, 2048)


def test_a_masked_sint_gets_no_interrupt_though_the_flag_is_set(rig: Rig) -> None:
    rig.switch_on()
    rig.synic.write_msr(wire.MSR_SINT0 + 2, SINT_MASKED | 0xF3)
    assert rig.synic.signal(2, 1)
    assert rig.memory.load32(EVENTS + 512) == 2
    assert rig.interrupts == []


def test_pages_outside_memory_are_counted_and_written_nowhere(rig: Rig) -> None:
    rig.switch_on()
    rig.synic.write_msr(wire.MSR_SIMP, 1 << 40 | 1)
    rig.synic.write_msr(wire.MSR_SIEFP, 16 * PAGE | 1)
    assert not rig.synic.deliver(2, FIRST)
    assert not rig.synic.signal(2, 1)
    assert rig.faults.counts == {BAD_PAGE: 2}


@pytest.mark.parametrize("msr", [wire.MSR_SCONTROL - 1, wire.MSR_EOM + 1, wire.MSR_SINT0 + 16])
def test_unknown_registers_are_refused(rig: Rig, msr: int) -> None:
    with pytest.raises(GeneralProtectionError):
        rig.synic.read_msr(msr)
    with pytest.raises(GeneralProtectionError):
        rig.synic.write_msr(msr, 1)

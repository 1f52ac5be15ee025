"""The MSRs of a partition: what can be read and written, what is a #GP, and what a write does."""

import threading
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rigs.partition import FEATURES, OS_ID, PAGE, PAGES, TSC_HZ, PartitionRig

from dynmem.vm.guest_crash import GuestCrash
from dynmem.vm.hyperv.cpuid import Features
from dynmem.vm.hyperv.crash import TEXT_OUTSIDE, TOO_MANY
from dynmem.vm.hyperv.page import CALL_OFFSET, CALL_PORT, PROTECTED_PAGE, SIGNAL_OFFSET, SIGNAL_PORT
from dynmem.vm.hyperv.page import PAGE as HYPERCALL_PAGE
from dynmem.vm.hyperv.partition import REGISTERS, GeneralProtectionError
from dynmem.vm.hyperv.synic import AUTO_EOI, BAD_PAGE, SINT_MASKED, SINT_POLLING
from dynmem.vmbus import OutgoingMessage, Signal
from dynmem.wire import hyperv, synic
from dynmem.wire.hyperv import decode_tsc_page

OUTSIDE = PAGES * PAGE
U64 = (1 << 64) - 1
INVARIANT = FEATURES._replace(invariant_tsc=True)
NO_CRASH = FEATURES._replace(crash=False)
NO_RESET = FEATURES._replace(reset=False)
MSRS = range(0x4000_0000, 0x4000_0200)  # those that a platform hands over
READABLE = {
    hyperv.MSR_GUEST_OS_ID: 0,
    hyperv.MSR_HYPERCALL: 0,
    hyperv.MSR_VP_INDEX: 1,
    hyperv.MSR_RESET: 0,
    hyperv.MSR_TIME_REF_COUNT: 0,
    hyperv.MSR_REFERENCE_TSC: 0,
    hyperv.MSR_TSC_FREQUENCY: TSC_HZ,
    hyperv.MSR_APIC_FREQUENCY: 1_000_000_000,
    hyperv.MSR_VP_ASSIST_PAGE: 0,
    synic.MSR_SCONTROL: 0,
    synic.MSR_SVERSION: 1,
    synic.MSR_SIEFP: 0,
    synic.MSR_SIMP: 0,
    synic.MSR_EOM: 0,
    **{synic.MSR_SINT0 + sint: 0x10000 for sint in range(16)},
    **{hyperv.MSR_CRASH_P0 + number: 0 for number in range(5)},
    hyperv.MSR_CRASH_CTL: 3 << 62,
}
READ_ONLY = {
    hyperv.MSR_VP_INDEX,
    hyperv.MSR_TIME_REF_COUNT,
    hyperv.MSR_TSC_FREQUENCY,
    hyperv.MSR_APIC_FREQUENCY,
    synic.MSR_SVERSION,
}


@pytest.fixture
def rig() -> PartitionRig:
    return PartitionRig()


def is_refused(access: Callable[[], object]) -> bool:
    try:
        access()
    except GeneralProtectionError:
        return True
    return False


def test_after_power_on_each_register_reads_as_documented_and_no_other_can_be_read(rig: PartitionRig) -> None:
    found = {msr: rig.read(msr, 1) for msr in MSRS if not is_refused(partial(rig.read, msr, 1))}
    assert found == READABLE


def test_registers_that_only_tell_something_cannot_be_written(rig: PartitionRig) -> None:
    sints = range(synic.MSR_SINT0, synic.MSR_SINT0 + 16)
    values = {msr: SINT_MASKED if msr in sints else 0 for msr in MSRS}
    refused = {msr for msr in MSRS if is_refused(partial(rig.write, msr, values[msr], 1))}
    assert refused == set(MSRS) - (set(READABLE) - READ_ONLY)


@pytest.mark.parametrize(
    ("features", "gone", "there"),
    [
        (NO_CRASH, {*range(hyperv.MSR_CRASH_P0, hyperv.MSR_CRASH_CTL + 1)}, set()),
        (NO_RESET, {hyperv.MSR_RESET}, set()),
        (INVARIANT, {hyperv.MSR_TIME_REF_COUNT}, {hyperv.MSR_TSC_INVARIANT_CONTROL}),
    ],
)
def test_what_the_leaves_do_not_offer_is_not_there(
    features: Features, gone: set[int], there: set[int]
) -> None:
    rig = PartitionRig(features)
    found = {msr for msr in MSRS if not is_refused(partial(rig.read, msr))}
    assert found == set(READABLE) - gone | there
    assert all(is_refused(partial(rig.write, msr, 1)) for msr in gone)


@pytest.mark.parametrize(
    ("msr", "value"),
    [
        (hyperv.MSR_GUEST_OS_ID, U64),
        (hyperv.MSR_HYPERCALL, PAGE),
        (hyperv.MSR_REFERENCE_TSC, PAGE | 1),
        (hyperv.MSR_VP_ASSIST_PAGE, OUTSIDE | 1),
        (synic.MSR_SCONTROL, U64),
        (synic.MSR_SIEFP, U64),
        (synic.MSR_SIMP, U64),
        (synic.MSR_SINT0 + 15, SINT_MASKED),
        (hyperv.MSR_CRASH_P0 + 4, U64),
    ],
)
def test_a_register_keeps_what_was_written_until_a_reset(rig: PartitionRig, msr: int, value: int) -> None:
    rig.write(msr, value, 1)
    assert rig.read(msr, 1) == value
    rig.partition.reset()
    assert rig.read(msr, 1) == READABLE[msr]


@pytest.mark.parametrize(
    ("msr", "value"),
    [
        *((hyperv.MSR_HYPERCALL, 1 << bit) for bit in range(2, 12)),
        (hyperv.MSR_HYPERCALL, OUTSIDE | 1),
        (hyperv.MSR_HYPERCALL, U64 & ~0xFFE),
        (hyperv.MSR_REFERENCE_TSC, 2),
        (hyperv.MSR_REFERENCE_TSC, OUTSIDE | 1),
        (hyperv.MSR_VP_ASSIST_PAGE, 1 << 11),
        (hyperv.MSR_RESET, 2),
        (synic.MSR_SINT0, 0),
        (synic.MSR_SINT0 + 2, 15),
    ],
)
def test_a_value_that_a_register_cannot_have_is_a_gp_and_changes_nothing(
    rig: PartitionRig, msr: int, value: int
) -> None:
    rig.enable_page()
    before = (rig.read(msr), rig.memory.read(0, OUTSIDE))
    with pytest.raises(GeneralProtectionError):
        rig.write(msr, value)
    assert (rig.read(msr), rig.memory.read(0, OUTSIDE)) == before
    assert (rig.routes, rig.interrupts, rig.resets) == ([], [], 0)
    assert rig.partition.is_page_at(CALL_OFFSET, CALL_PORT)


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([*MSRS]), st.integers(0, U64)), max_size=40))
def test_no_value_of_any_register_raises_anything_but_a_gp(writes: list[tuple[int, int, int]]) -> None:
    rig = PartitionRig()
    for vp, msr, value in writes:
        is_refused(partial(rig.write, msr, value, vp))
        rig.partition.deliver(OutgoingMessage(vp, value % 16, b"message"))
        rig.partition.signal(Signal(vp, value % 16, value % 4096))
    assert len(rig.crashes) <= 8


# -- the hypercall page --


def test_the_page_lies_where_the_guest_wants_it_once_it_has_said_who_it_is(rig: PartitionRig) -> None:
    rig.write(hyperv.MSR_HYPERCALL, PAGE | 1)
    assert rig.read(hyperv.MSR_HYPERCALL) == PAGE
    assert rig.memory.read(PAGE, PAGE) == bytes(PAGE)
    rig.write(hyperv.MSR_GUEST_OS_ID, OS_ID)
    rig.write(hyperv.MSR_HYPERCALL, PAGE | 1)
    assert rig.read(hyperv.MSR_HYPERCALL) == PAGE | 1
    assert rig.memory.read(PAGE, PAGE) == HYPERCALL_PAGE


def test_a_guest_outside_long_mode_gets_code_of_its_own(rig: PartitionRig) -> None:
    rig.write(hyperv.MSR_GUEST_OS_ID, OS_ID)
    rig.partition.write_msr(0, hyperv.MSR_HYPERCALL, PAGE | 1, is_long_mode=False)
    assert rig.memory.read(PAGE, PAGE) == PROTECTED_PAGE
    assert rig.partition.is_page_at(0xC000_0000 + CALL_OFFSET, CALL_PORT)
    assert not rig.partition.is_page_at(0xC000_0000 + SIGNAL_OFFSET, SIGNAL_PORT)


@pytest.mark.parametrize(
    ("port", "offset", "is_ours"),
    [
        (CALL_PORT, CALL_OFFSET, True),
        (SIGNAL_PORT, SIGNAL_OFFSET, True),
        (SIGNAL_PORT, CALL_OFFSET, False),
        (CALL_PORT, CALL_OFFSET + 1, False),
        (0x3F8, CALL_OFFSET, False),
    ],
)
def test_an_out_is_the_pages_by_its_place_while_there_is_a_page(
    rig: PartitionRig, port: int, offset: int, is_ours: bool
) -> None:
    rip = 0xFFFF_FFFF_C000_5000 + offset
    assert not rig.partition.is_page_at(rip, port)
    rig.enable_page()
    assert rig.partition.is_page_at(rip, port) == is_ours
    rig.write(hyperv.MSR_GUEST_OS_ID, 0)
    assert rig.read(hyperv.MSR_HYPERCALL) == PAGE
    assert not rig.partition.is_page_at(rip, port)
    rig.enable_page()
    rig.partition.reset()
    assert not rig.partition.is_page_at(rip, port)


def test_a_locked_page_stays_until_a_reset(rig: PartitionRig) -> None:
    rig.write(hyperv.MSR_GUEST_OS_ID, OS_ID)
    rig.write(hyperv.MSR_HYPERCALL, PAGE | 3)
    with pytest.raises(GeneralProtectionError):
        rig.write(hyperv.MSR_HYPERCALL, 2 * PAGE | 1)
    assert rig.read(hyperv.MSR_HYPERCALL) == PAGE | 3
    rig.partition.reset()
    rig.enable_page(2 * PAGE)
    assert rig.memory.read(2 * PAGE, PAGE) == HYPERCALL_PAGE


def test_a_second_kernel_puts_the_page_elsewhere(rig: PartitionRig) -> None:
    """As with kexec: the page off by its own register, no identity, and then all again."""
    rig.enable_page()
    rig.write(hyperv.MSR_GUEST_OS_ID, 0)
    rig.write(hyperv.MSR_HYPERCALL, PAGE)
    rig.write(hyperv.MSR_REFERENCE_TSC, 0)
    rig.enable_page(5 * PAGE)
    assert rig.memory.read(5 * PAGE, PAGE) == HYPERCALL_PAGE


# -- processors --


def test_messages_and_signals_reach_the_processor_that_they_are_for_and_no_other(rig: PartitionRig) -> None:
    rig.switch_on(0)
    rig.switch_on(1)
    assert rig.partition.deliver(OutgoingMessage(1, 2, b"one"))
    assert rig.partition.signal(Signal(1, 2, 17))
    assert rig.partition.signal(Signal(0, 2, 5))
    assert (rig.slot(0).message_type, rig.slot(1)) == (0, synic.MessageSlot(1, b"one"))
    assert (rig.flags(0), rig.flags(1)) == ((5,), (17,))
    assert rig.interrupts == [(1, 2), (1, 2), (0, 2)]


def test_a_processor_that_is_off_or_absent_gets_nothing(rig: PartitionRig) -> None:
    rig.switch_on(1)
    before = rig.memory.read(0, OUTSIDE)
    for vp in (0, 2, -1):
        assert not rig.partition.deliver(OutgoingMessage(vp, 2, b"lost"))
        assert not rig.partition.signal(Signal(vp, 2, 1))
    assert rig.memory.read(0, OUTSIDE) == before
    assert rig.interrupts == []


def test_registers_of_a_processor_are_its_own(rig: PartitionRig) -> None:
    rig.switch_on(1)
    rig.write(hyperv.MSR_VP_ASSIST_PAGE, PAGE | 1, 1)
    for msr in (synic.MSR_SCONTROL, synic.MSR_SIMP, synic.MSR_SIEFP, synic.MSR_SINT0 + 2):
        assert rig.read(msr, 0) == READABLE[msr]
    assert [rig.read(hyperv.MSR_VP_ASSIST_PAGE, vp) for vp in (0, 1)] == [0, PAGE | 1]
    assert [rig.read(hyperv.MSR_VP_INDEX, vp) for vp in (0, 1)] == [0, 1]


def test_registers_of_the_partition_are_shared(rig: PartitionRig) -> None:
    rig.write(hyperv.MSR_GUEST_OS_ID, OS_ID, 0)
    assert rig.read(hyperv.MSR_GUEST_OS_ID, 1) == OS_ID


@pytest.mark.parametrize(
    ("msr", "value", "may_free_a_slot"),
    [
        (synic.MSR_EOM, 0, True),
        (synic.MSR_SIMP, PAGE | 1, True),
        (synic.MSR_SCONTROL, 1, True),
        (synic.MSR_SINT0 + 2, 0xF3, True),
        (synic.MSR_SIEFP, PAGE | 1, False),
        (hyperv.MSR_GUEST_OS_ID, OS_ID, False),
    ],
)
def test_waiting_messages_are_tried_again_after_what_can_make_room(
    rig: PartitionRig, msr: int, value: int, may_free_a_slot: bool
) -> None:
    assert rig.write(msr, value) is may_free_a_slot


def test_the_platform_learns_the_vector_of_each_sint_that_may_interrupt(rig: PartitionRig) -> None:
    rig.write(synic.MSR_SINT0 + 2, 0xF3, 1)
    rig.write(synic.MSR_SINT0 + 2, SINT_MASKED | 0xF3, 1)
    rig.write(synic.MSR_SINT0 + 3, SINT_POLLING | 0xF3, 1)
    with pytest.raises(GeneralProtectionError):
        rig.write(synic.MSR_SINT0 + 4, 3)
    rig.partition.reset()
    assert rig.routes == [(1, 2, 0xF3)]


def test_a_sint_has_its_vector_before_it_may_interrupt_and_the_host_goes_on_meanwhile() -> None:
    def slow(vp: int, sint: int, vector: int) -> None:
        assert not rig.partition._lock.locked()
        seen.append(
            (rig.read(synic.MSR_SINT0 + sint, vp), rig.partition.deliver(OutgoingMessage(0, 2, b"m")))
        )

    seen: list[tuple[int, bool]] = []
    rig = PartitionRig(route=slow)
    rig.switch_on(0)
    rig.write(synic.MSR_SINT0 + 2, 0xF4)
    assert seen == [(SINT_MASKED, False), (0xF3, True)]
    assert rig.interrupts == [(0, 2)]


def test_a_sint_that_would_end_its_interrupts_itself_is_reported(rig: PartitionRig) -> None:
    rig.write(synic.MSR_SINT0 + 2, 1 << 17 | SINT_MASKED)
    assert rig.faults.counts == {}
    rig.write(synic.MSR_SINT0 + 2, 1 << 17 | 0xF3)
    assert rig.faults.counts == {AUTO_EOI: 1}


def test_a_polled_sint_may_have_any_vector_and_is_not_interrupted(rig: PartitionRig) -> None:
    rig.switch_on(0)
    rig.write(synic.MSR_SINT0 + 2, 1 << 18)
    assert rig.partition.deliver(OutgoingMessage(0, 2, b"polled"))
    assert rig.interrupts == []


def test_nothing_is_delivered_after_a_reset(rig: PartitionRig) -> None:
    rig.switch_on(0)
    rig.partition.reset()
    assert not rig.partition.deliver(OutgoingMessage(0, 2, b"late"))
    assert not rig.partition.signal(Signal(0, 2, 1))
    assert rig.slot(0).message_type == 0


def test_pages_of_messages_and_flags_that_are_outside_memory_are_counted(rig: PartitionRig) -> None:
    rig.switch_on(1)
    rig.write(synic.MSR_SIMP, OUTSIDE | 1, 1)
    rig.write(synic.MSR_SIEFP, U64, 1)
    assert not rig.partition.deliver(OutgoingMessage(1, 2, b"lost"))
    assert not rig.partition.signal(Signal(1, 2, 1))
    assert rig.faults.counts == {BAD_PAGE: 2}


def test_no_message_is_lost_between_a_processor_that_empties_its_slot_and_the_host() -> None:
    """The processor has a thread of its own, and asks for more only if it was told that more waits."""
    rig = PartitionRig(vp_count=1)
    rig.switch_on(0)
    interrupt, eom = threading.Event(), threading.Event()
    rig.partition._synics[0]._interrupt = lambda _sint: interrupt.set()
    slot = 2 * PAGE + 512
    taken: list[bytes] = []
    messages = [number.to_bytes(2, "little") for number in range(300)]

    def processor() -> None:
        while len(taken) < len(messages) and interrupt.wait(20):
            interrupt.clear()
            while rig.memory.load32(slot):
                taken.append(rig.slot(0).payload)
                rig.memory.store32(slot, 0)
                rig.memory.fence()
                if rig.memory.load32(slot + 4) & synic.SLOT_FLAG_PENDING << 8 and rig.write(synic.MSR_EOM, 0):
                    eom.set()

    thread = threading.Thread(target=processor)
    thread.start()
    for payload in messages:
        while not rig.partition.deliver(OutgoingMessage(0, 2, payload)):
            assert eom.wait(20)
            eom.clear()
    thread.join()
    assert taken == messages


# -- time --


def test_the_page_and_the_register_show_the_same_time_on_every_processor(rig: PartitionRig) -> None:
    rig.now, rig.tsc = 77_000, [1_000_000, 1_000_000]
    rig.write(hyperv.MSR_REFERENCE_TSC, PAGE | 1)
    page = decode_tsc_page(rig.memory.read(PAGE, PAGE))
    assert rig.read(hyperv.MSR_TIME_REF_COUNT) == 77_000
    rig.tsc = [1_000_000 + 2 * TSC_HZ, 1_000_000 + 3 * TSC_HZ]
    for vp, seconds in ((0, 2), (1, 3)):
        by_page = (rig.tsc[vp] * page.scale >> 64) + page.offset
        assert by_page == rig.read(hyperv.MSR_TIME_REF_COUNT, vp)
        assert abs(by_page - 77_000 - seconds * 10_000_000) <= 1
    assert page.sequence == 1


def test_the_next_guest_has_a_time_of_its_own(rig: PartitionRig) -> None:
    rig.now = 500
    assert rig.read(hyperv.MSR_TIME_REF_COUNT) == 500
    rig.partition.reset()
    rig.now, rig.tsc = 0, [123_456, 0]
    assert rig.read(hyperv.MSR_TIME_REF_COUNT) == 0


def test_an_origin_that_the_page_cannot_hold_leaves_the_guest_the_register(rig: PartitionRig) -> None:
    rig.now = 1 << 63
    rig.write(hyperv.MSR_REFERENCE_TSC, PAGE | 1)
    assert decode_tsc_page(rig.memory.read(PAGE, PAGE)).sequence == 0
    assert rig.read(hyperv.MSR_TIME_REF_COUNT) == 1 << 63


def test_a_guest_with_an_invariant_tsc_may_write_the_page_register_without_effect() -> None:
    rig = PartitionRig(INVARIANT)
    rig.write(hyperv.MSR_REFERENCE_TSC, PAGE | 1)
    assert rig.memory.read(0, OUTSIDE) == bytes(OUTSIDE)
    rig.write(hyperv.MSR_TSC_INVARIANT_CONTROL, 1)
    assert rig.read(hyperv.MSR_TSC_INVARIANT_CONTROL) == 1
    with pytest.raises(GeneralProtectionError):
        rig.write(hyperv.MSR_TSC_INVARIANT_CONTROL, 2)


# -- crash and reset --


def crash(rig: PartitionRig, *parameters: int, control: int = 1 << 63) -> None:
    for number, value in enumerate(parameters):
        rig.write(hyperv.MSR_CRASH_P0 + number, value)
    rig.write(hyperv.MSR_CRASH_CTL, control)


def test_a_crash_is_reported_with_its_numbers_and_its_text(rig: PartitionRig) -> None:
    text = "Kernel panic - not syncing: täst\n"
    rig.memory.write(PAGE, text.encode() + bytes(9))
    crash(rig, 1, 2, 3, PAGE, len(text.encode()) + 9, control=3 << 62)
    assert rig.crashes == [GuestCrash((1, 2, 3, PAGE, len(text.encode()) + 9), text)]


def test_numbers_without_text_are_a_crash_and_numbers_alone_are_none(rig: PartitionRig) -> None:
    rig.memory.write(PAGE, b"other")
    crash(rig, 1, 2, 3, PAGE, 5, control=1 << 62)
    assert rig.crashes == []
    rig.write(hyperv.MSR_CRASH_CTL, 1 << 63)
    assert rig.crashes == [GuestCrash((1, 2, 3, PAGE, 5), "")]


@pytest.mark.parametrize("address", [OUTSIDE, OUTSIDE - 1, U64])
def test_text_outside_memory_is_left_out_of_the_report(rig: PartitionRig, address: int) -> None:
    crash(rig, 0, 0, 0, address, 4054, control=3 << 62)
    assert rig.crashes == [GuestCrash((0, 0, 0, address, 4054), "")]
    assert rig.faults.counts == {TEXT_OUTSIDE: 1}


def test_no_more_text_than_a_page_is_read_and_no_byte_of_it_breaks_anything(rig: PartitionRig) -> None:
    rig.memory.write(0, b"\xff" * 3 * PAGE)
    crash(rig, 0, 0, 0, 0, U64, control=3 << 62)
    assert rig.crashes[0].text == "\N{REPLACEMENT CHARACTER}" * PAGE


def test_a_guest_that_reports_crash_after_crash_is_reported_eight_times_and_then_counted(
    rig: PartitionRig,
) -> None:
    for _ in range(20):
        crash(rig)
    assert len(rig.crashes) == 8
    assert rig.faults.counts == {TOO_MANY: 12}
    rig.partition.reset()
    crash(rig)
    assert len(rig.crashes) == 9


def test_the_partition_serves_others_while_a_crash_is_reported(rig: PartitionRig) -> None:
    seen: list[bool] = []
    rig.partition._crashed = lambda _crash: seen.append(rig.partition._lock.locked())
    crash(rig)
    assert seen == [False]


def test_the_reset_register_resets_the_machine(rig: PartitionRig) -> None:
    rig.write(hyperv.MSR_RESET, 0)
    assert rig.resets == 0
    rig.write(hyperv.MSR_RESET, 1)
    assert rig.resets == 1


def test_every_register_of_the_table_is_one_that_a_platform_hands_over() -> None:
    assert set(REGISTERS) <= set(MSRS)

"""The KVM platform under a guest of some hundred bytes, on this machine's own /dev/kvm.

It shows what no stock kernel is needed for: registers, the hypercall page, interrupts, messages with their
EOM, doorbells, and the ways in which a guest stops, is stopped or ends. It needs none of KVM's Hyper-V code.
"""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from tests.rigs.mini_guest import (
    CONNECTION,
    CRASH,
    HYPERV_RESET,
    KEYBOARD_RESET,
    POWER_OFF,
    RELID,
    RESULTS,
    SIMP,
    SPIN,
    TRIPLE_FAULT,
    MiniGuest,
    assemble,
    needs_kvm,
    running,
)
from tests.rigs.own_process import open_descriptors
from tests.rigs.scenes import PATIENCE_S, plays, until

from dynmem.memory import system_calls
from dynmem.memory.backend import MemfdBackend
from dynmem.space.address_space import Section
from dynmem.units import GIB, MIB
from dynmem.vm.kvm import api
from dynmem.vm.kvm.run_page import RunPage
from dynmem.vm.options.actions import PanicAction
from dynmem.vmbus import Signal
from dynmem.wire.synic import VMBUS_SINT, HvStatus, hypercall_result

pytestmark = needs_kvm


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's file."""
    return assemble(tmp_path_factory.mktemp("mini"))


@plays
async def test_the_guest_finds_the_registers_and_calls_of_hyper_v(kernel: Path) -> None:
    async with running(kernel) as scene:
        assert scene.result("vp index") == 0
        assert scene.result("tsc hz") > 10_000_000
        assert scene.result("faults") == 2  # an MSR that is not there, and one that can't be written
        assert scene.result("known") == HvStatus.SUCCESS
        assert scene.result("unknown") == HvStatus.INVALID_CONNECTION_ID
        assert scene.result("flag") == HvStatus.INVALID_HYPERCALL_CODE  # whoever carries it out decides
        assert scene.result("posted") == HvStatus.SUCCESS
        assert scene.result("other") == HvStatus.INVALID_HYPERCALL_CODE
        assert (scene.result("rdx"), scene.result("r8")) == (CONNECTION, 0x1111)
        assert scene.result("stray") & 0xFF == 0x55


@plays
async def test_a_signal_that_somebody_listens_to_is_a_doorbell_and_no_hypercall(kernel: Path) -> None:
    async with running(kernel) as scene:
        assert [call.code for call in scene.calls] == [0x5D, 0x5C, 0x99]  # the first has a flag number
        assert scene.happened
        scene.happened.clear()
        scene.guest.signal(Signal(0, VMBUS_SINT, RELID))
        await until(lambda: "wake" in scene.happened)
        assert len(scene.calls) == 3


@plays
async def test_no_message_is_lost_however_fast_they_come(kernel: Path) -> None:
    async with running(kernel) as scene:
        waits = 0
        for number in range(100, 600):
            while not scene.command(number):  # the slot is full
                waits += 1
                seen = scene.retries
                await scene.until_retried(seen)
        await scene.until("messages", 500)
        assert scene.result("last") == 599
        assert waits > 0


@plays
async def test_no_interrupt_is_lost_in_a_thousand_signals(kernel: Path) -> None:
    async with running(kernel) as scene:
        for _ in range(1000):
            scene.woken.clear()
            scene.guest.signal(Signal(0, VMBUS_SINT, RELID))
            await asyncio.wait_for(scene.woken.wait(), 20)
        assert len(scene.calls) == 3


@plays
async def test_a_guest_that_spins_stands_still_while_it_is_frozen(kernel: Path) -> None:
    async with running(kernel) as scene:
        assert scene.command(SPIN)
        await until(lambda: scene.result("spins") > 1000)
        await scene.guest.freeze()
        stood = scene.result("spins")
        await asyncio.sleep(0.05)
        assert scene.result("spins") == stood
        scene.guest.thaw()
        await until(lambda: scene.result("spins") > stood)


@plays
async def test_a_guest_that_idles_is_frozen_and_goes_on(kernel: Path) -> None:
    async with running(kernel) as scene:
        await scene.guest.freeze()
        assert scene.command(100)
        await asyncio.sleep(0.02)
        assert scene.result("messages") == 0
        scene.guest.thaw()
        await scene.until("messages", 1)


@pytest.mark.parametrize("command", [KEYBOARD_RESET, TRIPLE_FAULT, HYPERV_RESET])
@plays
async def test_a_guest_resets_itself_and_the_next_life_knows_nothing(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, command: int
) -> None:
    begins = threading.Event()
    enter = api.run

    def enter_late(vcpu: int) -> int:
        begins.wait(PATIENCE_S)
        return enter(vcpu)

    async with running(kernel) as scene:
        assert scene.command(command)
        await until(lambda: "wants reset" in scene.happened)
        await scene.guest.power_off()
        scene.memory.write(RESULTS, bytes(128))
        scene.memory.write(SIMP, bytes(4096))
        monkeypatch.setattr(api, "run", enter_late)
        await scene.guest.power_on((CONNECTION,))
        assert not scene.command(100)  # it has named no page yet
        begins.set()
        await scene.until("ready", 1)
        assert scene.result("messages") == 0
        assert scene.command(100)
        await scene.until("messages", 1)


@pytest.mark.parametrize("has_flag", [True, False])
@plays
async def test_a_kick_between_the_gate_and_the_guest_would_be_lost_without_its_flag(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, has_flag: bool
) -> None:
    """Its signal comes before the guest runs: only the flag in the shared page says that it came."""
    late = threading.Event()
    kicked = threading.Event()
    enter = api.run

    def enter_late(vcpu: int) -> int:
        if late.is_set():
            late.clear()
            kicked.wait(PATIENCE_S)
        return enter(vcpu)

    monkeypatch.setattr(api, "run", enter_late)
    async with running(kernel) as scene:
        assert scene.command(SPIN)
        await until(lambda: scene.result("spins") > 1000)
        await scene.guest.freeze()
        late.set()
        scene.guest.thaw()
        await until(lambda: not late.is_set())  # it has passed the gate
        with monkeypatch.context() as patch:
            if not has_flag:
                patch.setattr(RunPage, "ask_to_leave", lambda _page: None)
            freezing = asyncio.create_task(scene.guest.freeze())
            await asyncio.sleep(0.02)
            kicked.set()
            if not has_flag:
                assert not (await asyncio.wait((freezing,), timeout=0.2))[0]
        if not has_flag:
            await scene.guest.freeze()  # another kick, which meets it inside
        await asyncio.wait_for(freezing, PATIENCE_S)


@plays
async def test_pages_that_are_discarded_read_as_zero_in_the_guest(kernel: Path) -> None:
    async with running(kernel) as scene:
        scene.memory.write(8 * MIB, (77).to_bytes(8, "little"))
        assert await scene.read(8 * MIB) == 77
        ((fd, offset, _),) = scene.backend.files(8 * MIB, 4096)
        assert system_calls.punch(fd, offset, 4096) == 0
        assert await scene.read(8 * MIB) == 0


@plays
async def test_a_page_that_the_guest_reports_is_gone_when_its_call_returns(kernel: Path) -> None:
    async with running(kernel) as scene:
        scene.memory.write(8 * MIB, (77).to_bytes(8, "little"))
        scene.memory.write(8 * MIB + 4096, (78).to_bytes(8, "little"))
        assert await scene.report(8 * MIB) == hypercall_result(HvStatus.SUCCESS, 1)
        assert os.lseek(scene.backend.fd, 8 * MIB, os.SEEK_DATA) == 8 * MIB + 4096
        assert [await scene.read(8 * MIB), await scene.read(8 * MIB + 4096)] == [0, 78]


@plays
async def test_memory_that_comes_while_the_guest_runs_is_there_and_goes_again(kernel: Path) -> None:
    async with running(kernel) as scene:
        assert await scene.read(GIB) == (1 << 64) - 1
        more = MemfdBackend(2 * MIB, "more")
        section = Section(GIB, 2 * MIB, more, 0, readonly=False, name="more")
        scene.guest.slots.section_added(section)
        assert scene.guest.slots.is_mapped(GIB, 2 * MIB)
        more.view[:1] = b"a"
        assert await scene.read(GIB) == ord("a")
        overlapping = Section(GIB + MIB, 2 * MIB, more, 0, readonly=False, name="over it")
        scene.guest.slots.section_added(overlapping)
        assert not scene.guest.slots.is_mapped(GIB + MIB, 2 * MIB)
        assert scene.faults.counts == {"slot": 1}
        scene.guest.slots.section_removed(overlapping)
        scene.guest.slots.section_removed(section)
        assert await scene.read(GIB) == (1 << 64) - 1
        more.close()


@plays
async def test_a_guest_switches_itself_off(kernel: Path) -> None:
    async with running(kernel) as scene:
        assert scene.command(POWER_OFF)
        await until(lambda: "exited" in scene.happened)
        assert scene.guest.ending is None


@plays
async def test_a_guest_reports_its_crash_with_its_words(kernel: Path) -> None:
    async with running(kernel) as scene:
        assert scene.command(CRASH)
        await until(lambda: scene.crashes)
        (crash,) = scene.crashes
        assert crash.parameters[:3] == (1, 2, 3)
        assert crash.text == "\nwanted"
        seen = scene.result("messages")
        assert scene.command(SPIN + 100)
        await scene.until("messages", seen + 1)  # it goes on


@plays
async def test_a_crashed_guest_that_is_to_be_paused_stands_still_at_once(
    kernel: Path,
) -> None:
    async with running(kernel, panic=PanicAction.PAUSE) as scene:
        assert scene.command(CRASH)
        await until(lambda: scene.crashes)
        seen = scene.result("messages")
        scene.command(SPIN + 100)
        await asyncio.sleep(0.05)
        assert scene.result("messages") == seen
        scene.guest.thaw()
        await scene.until("messages", seen + 1)


@plays
async def test_a_guest_that_is_killed_while_it_waits_for_a_hypercall_leaves_no_thread(kernel: Path) -> None:
    scene = MiniGuest(kernel)
    await scene.guest.power_on((CONNECTION,))
    await until(lambda: "wake" in scene.happened)  # nobody serves: it waits in its first hypercall
    scene.guest.kill()
    await scene.guest.power_off()
    assert [each.name for each in threading.enumerate() if each.name.startswith("vCPU")] == []
    scene.close()


@plays
async def test_eight_processors_can_be_made(kernel: Path) -> None:
    async with running(kernel, vp_count=8) as scene:
        assert scene.result("ready") == 1


@plays
async def test_a_life_leaves_no_descriptor_behind(kernel: Path) -> None:
    async with running(kernel) as scene:
        await scene.guest.power_off()
        before = open_descriptors()
        for _ in range(3):
            scene.memory.write(RESULTS, bytes(128))
            await scene.guest.power_on((CONNECTION,))
            await scene.until("ready", 1)
            await scene.guest.power_off()
        assert open_descriptors() == before

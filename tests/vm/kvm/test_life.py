"""What a life of a guest on KVM costs its machine and its host, also when these are short of something."""

import asyncio
import errno
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.rigs.mini_guest import CONNECTION, MEMORY, RESULTS, MiniGuest, assemble, needs_kvm, running
from tests.rigs.own_process import open_descriptors
from tests.rigs.scenes import plays, until

from dynmem.errors import ConfigError
from dynmem.vm.kvm import api
from dynmem.vm.kvm.board.dimm_slots import Reported
from dynmem.vm.kvm.virtual_machine import VirtualMachine
from dynmem.vm.options.console import ConsoleKind, ConsoleOptions
from dynmem.vm.platform import ShortageError

pytestmark = needs_kvm

# of tens of milliseconds, where the kernel waits until no processor can see what it changes
SLOW = {
    *(api.CREATE_VM, api.CREATE_IRQCHIP, api.CREATE_PIT2, api.CREATE_VCPU),
    *(api.X86_SET_MSR_FILTER, api.SET_USER_MEMORY_REGION, api.SET_CPUID2),
}


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble(tmp_path_factory.mktemp("mini"))


@plays
async def test_a_guest_that_resets_itself_all_the_time_leaves_the_loop_to_others(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(kernel, vp_count=2) as scene:
        loop = threading.current_thread()
        seen: set[int | str] = set()
        on_loop: set[int | str] = set()
        call, close, start = api.call, VirtualMachine.close, threading.Thread.start

        def note(what: int | str) -> None:
            (on_loop if threading.current_thread() is loop else seen).add(what)

        def noted_call(fd: int, request: int, argument: api.Argument = 0) -> int:
            note(request)
            return call(fd, request, argument)

        def noted_close(machine: VirtualMachine) -> None:
            note("close")
            close(machine)

        def noted_start(thread: threading.Thread) -> None:
            if thread.name.startswith("vCPU"):
                note("start")
            start(thread)

        monkeypatch.setattr(api, "call", noted_call)
        monkeypatch.setattr(VirtualMachine, "close", noted_close)
        monkeypatch.setattr(threading.Thread, "start", noted_start)
        await scene.guest.power_off()
        await scene.guest.power_on((CONNECTION,))
        expected = {*SLOW, "close", "start"}
        assert seen >= expected
        assert not on_loop & expected


@plays
async def test_the_loop_waits_for_no_doorbell_of_a_guest_that_is_over(kernel: Path) -> None:
    async with running(kernel) as scene:
        life = scene.guest._life
        assert life is not None
        loop, doorbells = asyncio.get_running_loop(), life._doorbells
        await scene.guest.power_off()
        assert len(doorbells) == 1
        assert not any(loop.remove_reader(doorbell) for doorbell in doorbells)


@plays
async def test_a_host_without_a_thread_for_each_processor_is_asked_again_later(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "vCPU 1":
            raise RuntimeError("can't start new thread")
        start(thread)

    async with running(kernel, vp_count=2) as scene:
        await scene.guest.power_off()
        before = open_descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(ShortageError, match="the guest cannot be started"):
                await scene.guest.power_on((CONNECTION,))
        assert open_descriptors() == before
        await scene.guest.power_on((CONNECTION,))


@pytest.mark.parametrize("request_of_kvm", [api.IRQFD, api.SET_GSI_ROUTING])
@plays
async def test_a_guest_whose_interrupt_the_host_cannot_spare_just_now_waits_for_it(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, request_of_kvm: int
) -> None:
    call = api.call
    refused: list[None] = []

    def refuse(fd: int, request: int, argument: api.Argument = 0) -> int:
        if request == request_of_kvm and len(refused) < 2:
            refused.append(None)
            raise OSError(errno.EMFILE, "Too many open files")
        return call(fd, request, argument)

    monkeypatch.setattr(api, "call", refuse)
    async with running(kernel) as scene:
        assert scene.faults.counts == {"shortage": 2}
        assert scene.command(100)
        await scene.until("messages", 1)


@plays
async def test_a_host_whose_clock_nobody_can_rely_on_is_named_and_nothing_of_the_guest_is_left(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = api.call

    def unstable(fd: int, request: int, argument: api.Argument = 0) -> int:
        if request == api.GET_TSC_KHZ:
            raise OSError(errno.EIO, "Input/output error")
        return call(fd, request, argument)

    async with running(kernel) as scene:
        await scene.guest.power_off()
        before = open_descriptors()
        monkeypatch.setattr(api, "call", unstable)
        with pytest.raises(ConfigError, match="time stamp counter is unstable"):
            await scene.guest.power_on((CONNECTION,))
        assert open_descriptors() == before


@pytest.mark.parametrize(("number", "lacks_memory"), [(errno.EFAULT, True), (errno.EIO, False)])
@plays
async def test_a_guest_that_kvm_runs_no_more_is_over_and_its_ending_says_whether_memory_is_lacking(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, number: int, lacks_memory: bool
) -> None:
    async with running(kernel) as scene:
        monkeypatch.setattr(api, "run", lambda _vcpu: number)
        await scene.guest.freeze()
        scene.guest.thaw()
        await until(lambda: "exited" in scene.happened)
        ending = scene.guest.ending
        assert ending is not None
        assert ending.how.startswith("KVM does not run vCPU 0: ")
        assert ending.lacks_memory is lacks_memory


@plays
async def test_a_console_that_cannot_be_had_leaves_nothing_of_the_platform_open(
    kernel: Path, tmp_path: Path
) -> None:
    before = open_descriptors()
    with pytest.raises(ConfigError, match="make the folder"):
        MiniGuest(kernel, console=ConsoleOptions(ConsoleKind.FILE, tmp_path / "absent" / "console"))
    assert open_descriptors() == before


def stand_in(slot: int, address: int) -> Any:
    """A DIMM, as far as a platform asks."""
    region = SimpleNamespace(size=MEMORY)
    return SimpleNamespace(slot=slot, node=0, get_addr=lambda: address, get_memory_region=lambda: region)


@plays
async def test_a_dimm_whose_memory_kvm_does_not_have_is_not_shown_to_the_guest(kernel: Path) -> None:
    async with running(kernel, slots=2) as scene:
        there, refused = stand_in(0, 0), stand_in(1, 1 << 32)
        for dimm in (there, refused):
            scene.guest.plug(dimm)
        assert scene.guest.unplug(there)
        assert not scene.guest.unplug(refused)  # it would find nothing there


@plays
async def test_what_a_guest_did_to_its_dimms_ends_with_it(kernel: Path) -> None:
    async with running(kernel) as scene:
        scene.guest._dimm_acts.add(Reported(0, 3, 0))
        await scene.guest.power_off()
        scene.memory.write(RESULTS, bytes(128))
        await scene.guest.power_on((CONNECTION,))
        await scene.until("ready", 1)  # and nothing was reported to the machine, which would not take it

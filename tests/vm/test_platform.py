"""The seam below a machine, with a platform of a test's own: nothing of the embedded guest runs."""

import asyncio
import dataclasses
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.rigs.fake_platform import BOOT, OPTIONS, FakePlatform, Scene
from tests.rigs.scenes import plays, until

from dynmem.dm.states import HostState
from dynmem.units import MIB
from dynmem.vm.budget import Budget
from dynmem.vm.embedded.guest import EmbeddedGuest
from dynmem.vm.machine import Ending, Machine
from dynmem.vm.options.boot import BootOptions
from dynmem.vm.options.memory import DimmOptions
from dynmem.vm.platform import GuestEnding
from dynmem.wire.packet import Packet, PacketType


@plays
async def test_a_platform_of_another_kind_runs_a_guest_that_shrinks_grows_and_is_reset() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    scene.balloon.set_target(BOOT - 8 * MIB)
    await machine.start()
    await scene.until_actual(BOOT - 8 * MIB)
    scene.balloon.set_target(BOOT + 128 * MIB)
    await scene.until_actual(BOOT + 128 * MIB)
    assert len(guest.slots.sections) == 2
    machine.reset()
    await until(lambda: "RESET" in scene.events)
    await scene.until_actual(BOOT)  # the target was the former guest's
    await machine.stop()
    machine.resume()
    await machine.close()
    assert guest.calls == [
        "power on, 1 doorbell",
        "power off",
        "power on, 1 doorbell",
        "freeze",
        "thaw",
        "power off",
    ]
    assert scene.events.count("RESET") == 1


@plays
async def test_a_platform_of_another_kind_announces_dimms_and_answers_for_them() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    await machine.start()
    dimm = machine.dimms.plug(DimmOptions("a", "x"))
    assert guest.calls[-1] == "plug"
    await scene.until_actual(BOOT + 2 * MIB)
    machine.dimms.request_unplug("x")
    await scene.until_actual(BOOT)
    assert "DEVICE_DELETED" in scene.events
    assert dimm.get_addr() not in {section.address for section in guest.slots.sections}
    await machine.close()


class Hurried(Budget):
    """A budget that is spent after this many packets."""

    def __init__(self, packets: int) -> None:
        super().__init__()
        self._packets = packets
        self._left = 0

    def begin(self) -> None:
        self._left = self._packets

    def spend(self, size: int) -> None:
        assert size == 40 or not size  # a descriptor, two words, no data and a footer: or there was no packet
        self._left -= 1

    @property
    def is_spent(self) -> bool:
        return self._left <= 0


@plays
async def test_a_turn_that_has_spent_its_budget_leaves_the_other_packets_to_the_next_one() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    await machine.start()
    await until(lambda: scene.balloon.host.state is HostState.IDLE)
    await machine.stop()
    assert guest.channel is not None
    assert guest.channel._writer is not None
    for _ in range(7):
        assert guest.channel._writer.write(Packet(PacketType.XFER_PAGES, 0, 0, b"", bytes(16)))
    machine._turn._budget = Hurried(3)
    taken = []
    for _ in range(4):
        machine._woken.clear()
        await machine._turn.take()
        taken.append(machine.faults.counts.get("unexpected packet", 0))
        assert machine._woken.is_set() == (taken[-1] < 7)  # or what is left would wait for the guest
    assert taken == [3, 6, 7, 7]
    machine.resume()
    await machine.close()


@plays
async def test_a_message_that_finds_no_room_is_delivered_when_the_platform_says_that_there_is() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    guest.is_busy = True
    scene.balloon.set_target(BOOT - MIB)
    await machine.start()
    for _ in range(20):
        await asyncio.sleep(0)
    assert guest.channel is None
    guest.is_busy = False
    machine._turn.retry_messages()
    await scene.until_actual(BOOT - MIB)
    await machine.close()


@plays
async def test_a_guest_is_killed_at_once_when_its_machine_ends_whatever_the_turn_waits_for() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    await machine.start()
    async with machine._at_work:  # as a turn does while a discard is in flight
        machine.end(Ending(guest=False, reason="host-signal"))
        assert guest.calls[-1] == "kill"
    await machine.close()
    assert guest.calls[-2:] == ["kill", "power off"]


@plays
async def test_a_machine_ends_with_what_its_platform_says_of_its_guest() -> None:
    scene = Scene()
    await scene.machine.start()
    scene.guest.ending = GuestEnding("it lost all its processors")
    scene.guest.exited()
    assert scene.machine.ending is not None
    assert "it lost all its processors" in (scene.machine.ending.problem or "")
    assert scene.events == ["SHUTDOWN"]
    await scene.machine.close()


def test_a_machine_with_a_kernel_runs_it_on_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kvm(FakePlatform):
        """Stands in for KVM."""

    monkeypatch.setitem(sys.modules, "dynmem.vm.kvm.guest", SimpleNamespace(KvmGuest=Kvm))
    machines = [
        Machine(dataclasses.replace(OPTIONS, boot=boot), lambda *_: None)
        for boot in (None, BootOptions(Path("vmlinuz")))
    ]
    assert [type(machine.platform) for machine in machines] == [EmbeddedGuest, Kvm]
    for machine in machines:
        machine.memory.close()

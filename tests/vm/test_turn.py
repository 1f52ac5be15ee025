"""What a turn brings to a guest: messages as its slot has room, and another channel for one that broke."""

import asyncio
import errno
from pathlib import Path

from tests.rigs.fake_platform import BOOT, Scene
from tests.rigs.scenes import plays, until

from dynmem import vmbus
from dynmem.units import MIB
from dynmem.vmbus import ChannelState
from dynmem.vmbus.reoffers import FIRST_PAUSE_NS


async def pause() -> None:
    """Let the machine do all that it can do now."""
    for _ in range(20):
        await asyncio.sleep(0)


@plays
async def _retries(log: Path) -> None:
    scene = Scene(trace=frozenset({"vmbus_post_msg", "vmbus_msg_cb"}), log=log)
    machine, guest = scene.machine, scene.guest
    guest.is_busy = True
    await machine.start()
    await pause()
    for _ in range(3):
        machine._turn.retry_messages()
    guest.is_busy = False
    machine._turn.retry_messages()
    await until(lambda: guest.channel is not None and guest.channel.state is vmbus.GuestChannelState.OPEN)
    await machine.close()


def test_a_message_that_finds_its_slot_full_is_traced_once_as_qemu_says_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    _retries(log)
    lines = [line.partition(":")[2] for line in log.read_text().splitlines()]
    assert lines[:3] == [
        "vmbus_post_msg type 15 size 16",
        f"vmbus_msg_cb message status {-errno.EAGAIN}",
        "vmbus_msg_cb message status 0",
    ]
    assert lines.count(f"vmbus_msg_cb message status {-errno.EAGAIN}") == 1


@plays
async def test_a_turn_spends_the_bytes_of_every_packet_that_it_takes() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    await machine.start()
    await until(lambda: guest.channel is not None and guest.channel.state is vmbus.GuestChannelState.OPEN)
    await pause()
    spent: list[int] = []

    def spend(size: int) -> None:
        spent.append(size)

    machine._turn._budget.spend = spend  # type: ignore[method-assign]
    assert guest.channel is not None
    assert guest.channel.send(bytes(10_000))
    machine.wake()
    await until(lambda: sum(spent) >= 10_000)
    assert sum(spent) < 10_100
    await machine.close()


@plays
async def test_a_broken_channel_is_replaced_and_soon_not_so_soon() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest
    clock = [0]
    machine.clock._source = lambda: clock[0]
    machine.clock._origin = 0
    await machine.start()

    def is_open() -> bool:
        return guest.channel is not None and guest.channel.state is vmbus.GuestChannelState.OPEN

    await until(is_open)
    (channel,) = machine.bus.channels.values()
    channel.break_off("a packet that is not one")
    first = guest.channel
    machine.wake()
    await until(lambda: guest.channel is not first and is_open())
    assert channel.is_open
    channel.break_off("a packet that is not one")
    machine.wake()
    await pause()
    assert channel.state is ChannelState.FAULTED
    assert machine._turn.deadline_ns() == FIRST_PAUSE_NS
    assert machine._timer is not None  # by itself, since the device waits for nothing
    second = guest.channel
    clock[0] = FIRST_PAUSE_NS
    machine.wake()
    await until(lambda: guest.channel is not second and is_open())
    assert machine.channel_faults == {1: 2}
    scene.balloon.set_target(BOOT - MIB)
    clock[0] += 100 * FIRST_PAUSE_NS  # past the wait after a handshake
    machine.wake()
    await scene.until_actual(BOOT - MIB)
    await machine.close()


@plays
async def test_the_guest_after_a_power_cycle_does_not_wait_for_what_the_former_one_broke() -> None:
    scene = Scene()
    machine, guest = scene.machine, scene.guest

    machine.clock._source = lambda: machine.clock._origin  # it stands still

    def is_open() -> bool:
        return guest.channel is not None and guest.channel.state is vmbus.GuestChannelState.OPEN

    await machine.start()
    for life in range(2):
        await until(is_open)
        (channel,) = machine.bus.channels.values()
        broken = guest.channel
        channel.break_off("a packet that is not one")
        machine.wake()
        await until(lambda broken=broken: guest.channel is not broken and is_open())  # type: ignore[misc]
        channel.break_off("a packet that is not one")
        machine.wake()
        await pause()
        assert channel.state is ChannelState.FAULTED
        if life == 0:
            machine.reset()
            await until(lambda: "RESET" in scene.events)
    await machine.close()

"""A broken channel is replaced at once, and one that breaks again and again less and less often."""

from __future__ import annotations

import pytest
from tests.rigs.bus import BusEnds

from dynmem import vmbus
from dynmem.limits import REOFFER_PAUSE_NS_MAX
from dynmem.units import NS_PER_S
from dynmem.vmbus import ChannelState
from dynmem.vmbus.reoffers import CALM_NS, FIRST_PAUSE_NS, Reoffers
from dynmem.wire import vmbus as wire


class Host:
    """A bus whose broken channels are replaced, and a guest that opens what it is offered."""

    def __init__(self, machine: BusEnds) -> None:
        self.machine = machine
        self.reoffers = Reoffers(machine.bus)
        self.now = 0

    @property
    def channel(self) -> vmbus.Channel:
        return self.machine.bus.channels[1]

    def break_off(self) -> None:
        self.channel.break_off("a packet that is not one")
        self.turn()

    def turn(self, passed_ns: int = 0) -> None:
        """Time passes; the host does what is due, and the guest goes along."""
        self.now += passed_ns
        for _ in range(2):
            for event in self.machine.bus.take_events():
                if isinstance(event, vmbus.ChannelFaulted):
                    self.reoffers.faulted(event.channel, self.now)
            self.reoffers.tick(self.now)
            self.machine.pump()
            here = self.machine.client.channels[1]
            if here.state is vmbus.GuestChannelState.CLOSED:
                self.machine.open()


@pytest.fixture
def host(opened: BusEnds) -> Host:
    return Host(opened)


def test_the_first_time_a_channel_is_replaced_at_once(host: Host) -> None:
    host.break_off()
    assert host.channel.is_open
    assert host.reoffers.deadline_ns() is None


def test_a_channel_that_breaks_again_waits_twice_as_long_each_time_up_to_a_minute(host: Host) -> None:
    host.break_off()
    pause = FIRST_PAUSE_NS
    for _ in range(10):
        host.break_off()
        assert host.channel.state is ChannelState.FAULTED
        assert host.reoffers.deadline_ns() == host.now + pause
        host.turn(pause - 1)
        assert host.channel.state is ChannelState.FAULTED
        host.turn(1)
        assert host.channel.is_open
        pause = min(2 * pause, REOFFER_PAUSE_NS_MAX)
    assert pause == REOFFER_PAUSE_NS_MAX


def test_a_guest_that_breaks_all_it_gets_is_offered_it_about_once_a_minute(host: Host) -> None:
    replaced = 0
    for _ in range(3600):
        if host.channel.is_open:
            replaced += 1
            host.break_off()
        host.turn(NS_PER_S)
    assert 3600 * NS_PER_S // REOFFER_PAUSE_NS_MAX < replaced < 3600 * NS_PER_S // REOFFER_PAUSE_NS_MAX + 10


def test_a_new_contact_gains_such_a_guest_nothing(host: Host) -> None:
    host.break_off()
    host.break_off()
    host.machine.client.unload()
    host.machine.pump()
    host.machine.connect()
    host.machine.open()
    host.break_off()
    assert host.channel.state is ChannelState.FAULTED


def test_a_channel_that_was_sound_for_long_is_replaced_at_once_again(host: Host) -> None:
    for _ in range(3):
        host.break_off()
        host.turn(CALM_NS)
    host.break_off()
    assert host.channel.is_open


def test_a_guest_that_closes_its_broken_channel_itself_keeps_it(host: Host) -> None:
    host.break_off()
    host.break_off()
    here, there = host.machine.ends()
    here.close()
    host.turn()
    assert there.is_open
    host.turn(2 * FIRST_PAUSE_NS)
    assert host.machine.ends() == (here, there)
    assert host.reoffers.deadline_ns() is None


def test_a_channel_that_is_gone_is_not_replaced(host: Host) -> None:
    host.break_off()
    host.break_off()
    host.machine.bus.rescind(host.channel)
    host.machine.bus.post_message(4, 1, wire.encode(wire.RelidReleased(1)))
    assert host.machine.bus.channels == {}
    host.machine.bus.take_events()
    host.reoffers.tick(host.now + REOFFER_PAUSE_NS_MAX)
    assert host.machine.bus.channels == {}

"""A snapshot of either end holds all that the end will ever act on."""

from collections.abc import Callable, Iterator, Mapping

import pytest
from tests.rigs.bus import BusEnds

from dynmem.errors import LocalProtocolError
from dynmem.vmbus.memory import FlatMemory
from dynmem.wire import vmbus as wire
from dynmem.wire.synic import VMBUS_MESSAGE_TYPE, HvStatus
from dynmem.wire.versions import VERSION_5_3, VERSION_WS2008

INTERRUPT_PAGE = 8 << 12
LONG = range(16, 216)  # page numbers that a header cannot hold: bodies follow
SHORT = range(300, 310)
BODY = b"\x05" * 1000


def made(version: int) -> BusEnds:
    return BusEnds(devices=2, vp_count=2, versions=(version,), interrupt_page=INTERRUPT_PAGE)


def copied(machine: BusEnds, version: int) -> BusEnds:
    """Return another machine, made of the snapshots of this one."""
    copy = made(version)
    copy.raw[:] = machine.raw
    copy.bus.restore(machine.bus.snapshot())
    copy.client.restore(machine.client.snapshot())
    return copy


def fields(thing: object, above: tuple[object, ...] = ()) -> object:
    """Return the fields of machines and of what they hold as plain values, without memory and callables."""
    if isinstance(thing, FlatMemory) or callable(thing):
        return None
    if any(thing is one for one in above):
        return "the owner"
    if type(thing).__module__.startswith("dynmem.vmbus") and not hasattr(thing, "__struct_fields__"):
        names = {name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())}
        names |= set(getattr(thing, "__dict__", ()))
        if hasattr(thing, "value"):  # a state
            return thing
        return {name: fields(getattr(thing, name), (*above, thing)) for name in sorted(names)}
    if isinstance(thing, Mapping):
        return [(key, fields(value, above)) for key, value in thing.items()]
    if isinstance(thing, list) and all(isinstance(part, bytes) for part in thing):
        return b"".join(thing)  # page numbers, however they were cut into messages
    if isinstance(thing, list | tuple):
        return [fields(one, above) for one in thing]
    return thing


def carry(machine: BusEnds) -> object:
    """Let one message go up, and one down."""
    went = [
        machine.bus.post_message(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
        for post in machine.client.take_posts()
    ]
    message = machine.bus.next_message()
    if message is not None:
        machine.bus.message_delivered()
        machine.client.receive_message(message.payload)
    return went, message


def talk(machine: BusEnds) -> object:
    """Let both ends send until the ring is full, and read a little."""
    here, there = machine.ends()
    sent = [here.send(BODY) for _ in range(30)], [there.send(BODY) for _ in range(3)]
    read = [channel.receive() for channel in (here, there, there)]
    return sent, read, machine.bus.take_signals(), machine.client.take_doorbells()


def modify(machine: BusEnds) -> object:
    if machine.client.version == VERSION_5_3:
        machine.client.channels[1].modify(1)
    return machine.bus.snapshot().signals


SCRIPT: list[Callable[[BusEnds], object]] = [
    lambda machine: machine.client.connect(),
    *[carry] * 6,
    lambda machine: machine.client.channels[1].open(LONG, 5, target_vp=1),
    lambda machine: machine.client.channels[2].open(SHORT, 5),
    *[carry] * 6,
    lambda machine: [end.send(b"8 octets") for end in machine.ends()],  # the signals are not taken yet
    talk,
    talk,
    modify,
    *[carry] * 2,
    lambda machine: machine.client.channels[1].close(),
    *[carry] * 3,
    lambda machine: machine.bus.rescind(machine.bus.channels[2]),
    *[carry] * 3,
    lambda machine: machine.client.channels[1].open(SHORT, 5),
    *[carry] * 3,
    talk,
    lambda machine: machine.bus.channels[1].break_off("a packet that is not one"),
    lambda machine: machine.client.unload(),
    *[carry] * 2,
]


def played(version: int, *, is_copied: bool) -> Iterator[object]:
    """Yield what each step of the script leads to, with a copy taking over after each step if so wanted."""
    machine = made(version)
    for step in SCRIPT:
        came = step(machine)
        events = [repr(event) for event in (*machine.bus.take_events(), *machine.client.take_events())]
        yield came, events, hash(bytes(machine.raw))
        if is_copied:
            copy = copied(machine, version)
            assert fields(copy.bus) == fields(machine.bus)
            assert fields(copy.client) == fields(machine.client)
            machine = copy


@pytest.mark.parametrize("version", [VERSION_5_3, VERSION_WS2008], ids=["5.3", "0.13"])
def test_a_machine_made_of_snapshots_goes_on_as_the_other_would(version: int) -> None:
    plain, copies = list(played(version, is_copied=False)), list(played(version, is_copied=True))
    assert copies == plain
    assert "ChannelOpened" in str(plain)


def test_an_end_with_events_that_were_not_taken_has_no_snapshot(machine: BusEnds) -> None:
    machine.client.connect()
    for post in machine.client.take_posts():
        machine.bus.post_message(post.connection_id, VMBUS_MESSAGE_TYPE, post.payload)
    message = machine.bus.next_message()
    assert message is not None
    machine.client.receive_message(message.payload)
    with pytest.raises(LocalProtocolError, match="take the events of the client"):
        machine.client.snapshot()


@pytest.mark.parametrize(("version", "posts", "vp"), [(VERSION_WS2008, 1, 0), (VERSION_5_3, 4, 1)])
def test_a_copy_of_a_bus_knows_where_contact_was_made_and_what_was_named_in_it(
    version: int, posts: int, vp: int
) -> None:
    machine, copy = made(VERSION_5_3), made(VERSION_5_3)
    target = INTERRUPT_PAGE if version == VERSION_WS2008 else wire.contact_target(2)
    contact = wire.InitiateContact(version, 1, target, 9 << 12, 10 << 12)
    assert machine.post(contact, posts) is HvStatus.SUCCESS
    copy.bus.restore(machine.bus.snapshot())
    assert fields(copy.bus) == fields(machine.bus) != fields(made(VERSION_5_3).bus)
    assert copy.bus.monitor_pages == (9 << 12, 10 << 12)
    requests = [each.post(wire.RequestOffers(), posts) for each in (machine, copy)]
    assert requests == [HvStatus.SUCCESS] * 2
    assert machine.bus.snapshot().queue == copy.bus.snapshot().queue
    assert {message.vp for message in copy.bus.snapshot().queue} == {vp}

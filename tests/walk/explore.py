"""Every interleaving of a host, a guest and their rings, until no new state is found.

A step is what one side does without looking up: post one message, take one from the slot, send or read one
packet, wake up for a signal. Beside these, at every point, the guest may close the channel, the host take the
offer back, and the machine be reset, each as often as the bound says. In every state the invariants hold (see
`_check`), and where no step is left but those three, both sides have done all they can.

Steps touch one side, or both at a post; what a side does in a state, over a memory, is worked out once.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from tests.walk.ends import (
    PAGE_BYTES,
    PFNS,
    BrokenInvariantError,
    GuestEnd,
    GuestState,
    HostEnd,
    HostState,
    must,
    small_pages,
)

from dynmem import vmbus
from dynmem.errors import ProtocolError
from dynmem.vmbus import BusState
from dynmem.vmbus.channel import ChannelState
from dynmem.vmbus.memory import FlatMemory


class Bound(msgspec.Struct, frozen=True):
    """How much may happen: messages each way, openings, closings, rescinds, offers again, resets."""

    messages: int = 3
    opens: int = 2
    closes: int = 1
    rescinds: int = 1
    reoffers: int = 0
    resets: int = 1


class Result(msgspec.Struct, frozen=True):
    """What a walk found."""

    states: int
    transitions: int
    ends: int  # states in which nothing is left to do
    deepest: int  # steps from the start to the last new state, at least

    def __str__(self) -> str:
        return (
            f"{self.states:,} states, {self.transitions:,} transitions, {self.ends:,} ends, "
            f"depth {self.deepest}: no deadlock, no broken invariant"
        )


# a state of the whole: numbers of the host's, the guest's and the memory's state; what is in the slot;
# whether the event flag is set, whether the doorbell has rung; how many resets are left
Point = tuple[int, int, int, bytes, bool, bool, int]
Steps = list[tuple[str, Point]]
_PAGES_IN_USE: Final = (
    vmbus.GuestChannelState.OPENING,
    vmbus.GuestChannelState.OPEN,
    vmbus.GuestChannelState.TEARING_DOWN,
)


class _HostFacts(msgspec.Struct, frozen=True):
    """What can be done in a state of the host."""

    head: bytes
    wakes: bool
    looking: bool
    may_send: bool
    may_rescind: bool


class _GuestFacts(msgspec.Struct, frozen=True):
    """What can be done in a state of the guest."""

    posts: bool
    wakes: bool
    looking: bool
    may_send: bool
    may_close: bool


class Walk:
    """One walk; `run` does it."""

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._raw = bytearray(len(PFNS) * PAGE_BYTES)
        self._numbers: dict[object, int] = {}
        self._host_states: list[HostState] = []
        self._guest_states: list[GuestState] = []
        self._memories: list[bytes] = []
        self._host_facts: dict[int, _HostFacts] = {}
        self._guest_facts: dict[int, _GuestFacts] = {}
        self._worked_out: dict[tuple[str, int, int, bytes], tuple[int, int, bool, bytes]] = {}
        self._sound: set[tuple[int, int]] = set()

    def run(self) -> Result:
        """Walk to the end of everything; BrokenInvariantError names the steps that lead to what is wrong."""
        with small_pages():
            self._make()
            return self._walk()

    def _make(self) -> None:
        bound, memory = self._bound, FlatMemory(memoryview(self._raw))
        self._host = HostEnd(memory, bound.messages, bound.rescinds, bound.reoffers)
        self._guest = GuestEnd(memory, bound.messages, bound.opens, bound.closes)
        self._raw[:] = bytes(len(self._raw))

    def _walk(self) -> Result:
        self._guest.client.connect()
        start: Point = (
            self._host_number(),
            self._guest_number(),
            self._memory_number(),
            b"",
            False,
            False,
            self._bound.resets,
        )
        came_from: dict[Point, tuple[Point, str] | None] = {start: None}
        frontier, transitions, ends, depth = [start], 0, 0, 0
        while frontier:
            found: list[Point] = []
            for point in frontier:
                try:
                    steps, events = self._steps(point), self._events(point)
                    self._check(point, at_rest=not steps)
                except (BrokenInvariantError, ProtocolError) as error:
                    raise BrokenInvariantError(f"{error}, after {_path(came_from, point)}") from error
                ends += not steps
                transitions += len(steps) + len(events)
                for name, after in steps + events:
                    if after not in came_from:
                        came_from[after] = (point, name)
                        found.append(after)
            frontier, depth = found, depth + 1
        return Result(len(came_from), transitions, ends, depth - 1)

    # numbers

    def _memory_number(self) -> int:
        memory = bytes(self._raw)
        number = self._numbers.setdefault(memory, len(self._memories))
        if number == len(self._memories):
            self._memories.append(memory)
        return number

    def _host_number(self) -> int:
        end, state = self._host, self._host.save()
        number = self._numbers.setdefault(state, len(self._host_states))
        if number == len(self._host_states):
            self._host_states.append(state)
        if number not in self._host_facts:
            head = end.bus.next_message()
            self._host_facts[number] = _HostFacts(
                head=b"" if head is None else head.payload,
                wakes=end.is_open,
                looking=end.is_open and end.looking,
                may_send=end.is_open and end.may_send(),
                may_rescind=end.rescinds > 0 and not end.is_rescinded,
            )
        return number

    def _guest_number(self) -> int:
        end, state = self._guest, self._guest.save()
        number = self._numbers.setdefault(state, len(self._guest_states))
        if number == len(self._guest_states):
            self._guest_states.append(state)
        if number not in self._guest_facts:
            self._guest_facts[number] = _GuestFacts(
                posts=bool(end.posts),
                wakes=end.is_open,
                looking=end.is_open and end.looking,
                may_send=end.is_open and end.may_send(),
                may_close=end.is_open and end.closes > 0,
            )
        return number

    # one side's work

    def _by_host(
        self, what: str, number: int, memory: int, payload: bytes = b""
    ) -> tuple[int, int, bool, bytes]:
        """The host's and the memory's state afterwards, and whether the guest is to be interrupted."""
        key = (what, number, memory, payload)
        result = self._worked_out.get(key)
        if result is None:
            self._host.load(self._host_states[number])
            self._raw[:] = self._memories[memory]
            _BY_HOST[what](self._host, payload)
            interrupt = self._host.settle()
            result = self._worked_out[key] = (self._host_number(), self._memory_number(), interrupt, b"")
        return result

    def _by_guest(
        self, what: str, number: int, memory: int, payload: bytes = b""
    ) -> tuple[int, int, bool, bytes]:
        """The guest's and the memory's state afterwards, whether the doorbell rings, and what is posted."""
        key = (what, number, memory, payload)
        result = self._worked_out.get(key)
        if result is None:
            self._guest.load(self._guest_states[number])
            self._raw[:] = self._memories[memory]
            posted = _BY_GUEST[what](self._guest, payload)
            rings = self._guest.settle()
            result = self._worked_out[key] = (
                self._guest_number(),
                self._memory_number(),
                rings,
                posted or b"",
            )
        return result

    # what can happen

    def _steps(self, point: Point) -> Steps:
        """What either side does by itself."""
        hosts, guests, memory, slot, flag, bell, resets = point
        at_host, at_guest = self._host_facts[hosts], self._guest_facts[guests]
        steps: Steps = []
        if at_guest.posts:
            after, same, _, posted = self._by_guest("guest posts", guests, memory)
            taken, changed, interrupt, _ = self._by_host("host takes a post", hosts, same, posted)
            steps.append(("guest posts", (taken, after, changed, slot, flag or interrupt, bell, resets)))
        if at_host.head and not slot:
            after = self._by_host("host delivers", hosts, memory)[0]
            steps.append(("host delivers", (after, guests, memory, at_host.head, flag, bell, resets)))
        if slot:
            after, changed, rings, _ = self._by_guest("guest takes a message", guests, memory, slot)
            steps.append(("guest takes a message", (hosts, after, changed, b"", flag, bell or rings, resets)))
        if flag:
            after = self._by_guest("guest wakes", guests, memory)[0]
            steps.append(("guest wakes", (hosts, after, memory, slot, False, bell, resets)))
        if bell:
            after = self._by_host("host wakes", hosts, memory)[0]
            steps.append(("host wakes", (after, guests, memory, slot, flag, False, resets)))
        for name, enabled in (("guest sends", at_guest.may_send), ("guest reads", at_guest.looking)):
            if enabled:
                after, changed, rings, _ = self._by_guest(name, guests, memory)
                steps.append((name, (hosts, after, changed, slot, flag, bell or rings, resets)))
        for name, enabled in (("host sends", at_host.may_send), ("host reads", at_host.looking)):
            if enabled:
                after, changed, interrupt, _ = self._by_host(name, hosts, memory)
                steps.append((name, (after, guests, changed, slot, flag or interrupt, bell, resets)))
        return steps

    def _events(self, point: Point) -> Steps:
        """What somebody else does to them."""
        hosts, guests, memory, slot, flag, bell, resets = point
        events: Steps = []
        if self._guest_facts[guests].may_close:
            after = self._by_guest("guest closes", guests, memory)[0]
            events.append(("guest closes", (hosts, after, memory, slot, flag, bell, resets)))
        if self._host_facts[hosts].may_rescind:
            after = self._by_host("host rescinds", hosts, memory)[0]
            events.append(("host rescinds", (after, guests, memory, slot, flag, bell, resets)))
        if resets:
            fresh = self._by_guest("guest starts again", guests, memory)[0]
            after = self._by_host("host is reset", hosts, memory)[0]
            events.append(("reset", (after, fresh, memory, b"", False, False, resets - 1)))
        return events

    # what must hold

    def _check(self, point: Point, *, at_rest: bool) -> None:
        hosts, guests, _, slot = point[:4]
        if (hosts, guests) not in self._sound:
            self._check_pair(hosts, guests)
            self._sound.add((hosts, guests))
        if at_rest:
            must(not slot, "a message lies in the slot")
            self._check_rest(hosts, guests)

    def _load(self, hosts: int, guests: int) -> tuple[HostEnd, GuestEnd]:
        self._host.load(self._host_states[hosts])
        self._guest.load(self._guest_states[guests])
        return self._host, self._guest

    def _check_pair(self, hosts: int, guests: int) -> None:
        """In every state: whose the pages are, what was sent and came, and how much is kept."""
        host, guest_end = self._load(hosts, guests)
        state = None if guest_end.channel is None else guest_end.channel.state
        if host.is_open:
            must(state in _PAGES_IN_USE, f"the host uses pages of a guest whose channel is {state}")
        must(host.got <= guest_end.sent and guest_end.got <= host.sent, "a message came that was not sent")
        must(len(self._host_states[hosts].bus.queue) <= 4, "answers pile up")

    def _check_rest(self, hosts: int, guests: int) -> None:
        """With no step left: both connected; the channel gone, closed for good, or open and all told."""
        host, guest_end = self._load(hosts, guests)
        must(guest_end.client.state is vmbus.ClientState.CONNECTED, f"the guest is {guest_end.client.state}")
        must(host.bus.state is BusState.OFFERED, f"the bus is {host.bus.state}")
        channel = guest_end.channel
        must((channel is not None) == (1 in host.bus.channels), "only one side knows the channel")
        if channel is None:
            offered_again = self._bound.reoffers - host.reoffers
            must(offered_again < self._bound.rescinds - host.rescinds, "the device is not offered again")
            return
        if channel.state is vmbus.GuestChannelState.CLOSED:
            closed = host.channel is not None and host.channel.state is ChannelState.CLOSED
            must(guest_end.opens == 0 and closed, "a closed channel waits")
            return
        must(
            channel.state is vmbus.GuestChannelState.OPEN and host.is_open,
            f"{channel}, {host.channel}",
        )
        must(host.sent == host.messages and guest_end.sent == guest_end.messages, "somebody waits for room")
        theirs = self._host_states[hosts].bus.channels[0].rings
        ours = self._guest_states[guests].client.channels[0].rings
        assert theirs is not None
        assert ours is not None
        read = theirs.reader.position, ours.reader.position
        written = ours.writer.position, theirs.writer.position
        must(read == written, "a packet lies in a ring and nobody looks")


def _path(came_from: dict[Point, tuple[Point, str] | None], point: Point) -> str:
    names: list[str] = []
    while (before := came_from[point]) is not None:
        point, name = before
        names.append(name)
    return ", ".join(reversed(names)) or "nothing"


def _post(end: GuestEnd, _: bytes) -> bytes:
    return end.post().payload


_BY_HOST: Final[dict[str, Callable[[HostEnd, bytes], object]]] = {
    "host takes a post": lambda end, payload: end.post(vmbus.Post(4, payload)),
    "host delivers": lambda end, _: end.bus.message_delivered(),
    "host wakes": lambda end, _: end.look(),
    "host sends": lambda end, _: end.send(),
    "host reads": lambda end, _: end.read(),
    "host rescinds": lambda end, _: end.rescind(),
    "host is reset": lambda end, _: end.bus.reset(),
}
_BY_GUEST: Final[dict[str, Callable[[GuestEnd, bytes], bytes | None]]] = {
    "guest posts": _post,
    "guest takes a message": lambda end, payload: end.message(payload),
    "guest wakes": lambda end, _: end.look(),
    "guest sends": lambda end, _: end.send(),
    "guest reads": lambda end, _: end.read(),
    "guest closes": lambda end, _: end.close(),
    "guest starts again": lambda end, _: end.reset(),
}

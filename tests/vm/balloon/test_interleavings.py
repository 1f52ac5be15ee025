"""Whatever comes between a discard's begin and its end: no page that the guest owns is ever discarded.

The device is on a bus, with memory to add and a DIMM; the guest's end, its memory and the moments at which
discards end are the machine's below. It knows page by page what the guest owns: what it has not given up, or
has been given back, from the moment that the message is in the ring.
"""

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.rigs.added_memory import BASE, FIRST, SIZE, AddingRig, Discards, Plugged
from tests.rigs.memory import memory_of
from tests.rigs.pages import bounds_of, packed

from dynmem.dm.states import HostState
from dynmem.memory.backend import Backend
from dynmem.memory.discard import Discarder, DiscardError
from dynmem.memory.pending import PendingDiscards
from dynmem.units import MIB, PAGE_SHIFT, PAGE_SIZE
from dynmem.vm.balloon.accounts import GuestPages
from dynmem.vm.balloon.discards import StartDiscard
from dynmem.wire import dm

ADDED = 4 * MIB
DIMM = 2 * MIB
DIMM_AT = 2 * BASE >> PAGE_SHIFT
RING = 64  # the guest's first pages are its rings' and its kernel's

Owned = npt.NDArray[np.bool_]


class Flights(Discards):
    """Discards that end when the machine below says so; between the two they may hit at any time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop

    def __call__(self, backend: Backend) -> StartDiscard:
        def discard(ranges: bytes) -> "asyncio.Future[int]":
            future: asyncio.Future[int] = self.loop.create_future()
            self.open.append((backend, ranges, future))
            return future

        return discard


class Interleavings(RuleBasedStateMachine):
    """A guest, its operator and its host, each with moves of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.flights = Flights(self.loop)
        plugged = Plugged(ADDED)
        self.rig = AddingRig(plugged, self.flights, startup_last=True)
        self.device = self.rig.device
        self.dimm = memory_of(self, DIMM)
        self.owned: dict[Backend, Owned] = {
            self.rig.boot: np.ones(SIZE >> PAGE_SHIFT, np.bool_),
            plugged.backend: np.zeros(ADDED >> PAGE_SHIFT, np.bool_),
            self.dimm: np.zeros(DIMM >> PAGE_SHIFT, np.bool_),
        }
        self.ballooned = {backend: np.zeros_like(owned) for backend, owned in self.owned.items()}
        self.firsts = {self.rig.boot: 0, plugged.backend: FIRST, self.dimm: DIMM_AT}
        self.has_dimm = False
        self.asked: dm.Message | None = None  # of the guest, not answered yet
        self.task: asyncio.Task[Any] | None = None  # a reset or an unplug that waits
        self.after: str = ""

    def teardown(self) -> None:
        while self.flights.open or self.task is not None:
            while self.flights.open:
                self.flights.finish()
            self.spin()
            if self.task is not None and self.task.done():
                self.task = None
        self.loop.close()

    # the guest's memory

    def own(self, ranges: bytes, *, is_owned: bool) -> None:
        """The guest owns these pages from now on, or no longer; it has not owned them, or it has."""
        for start, end in bounds_of(ranges):
            (backend,) = (
                b for b, first in self.firsts.items() if first <= start < first + self.owned[b].size
            )
            first = self.firsts[backend]
            part = self.owned[backend][start - first : end - first]
            assert part.size == end - start
            assert (part != is_owned).all()
            part[:] = is_owned
            self.ballooned[backend][start - first : end - first] = False

    def balloon(self, ranges: bytes) -> None:
        """The guest gives these pages up; they are its own again when it gets them back, or at a restart."""
        self.own(ranges, is_owned=False)
        for start, end in bounds_of(ranges):
            for backend, first in self.firsts.items():
                if first <= start < first + self.owned[backend].size:
                    self.ballooned[backend][start - first : end - first] = True

    def choose(self, data: st.DataObject, backend: Backend, most: int) -> bytes:
        """Some ranges of what the guest owns of one memory, at most so many pages."""
        owned = self.owned[backend].copy()
        if backend is self.rig.boot:
            owned[:RING] = False
        edges = np.flatnonzero(np.diff(owned, prepend=False, append=False))
        runs = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        spans = []
        for _ in range(data.draw(st.integers(1, 3))):
            if not runs or most <= 0:
                break
            start, end = runs.pop(data.draw(st.integers(0, len(runs) - 1)))
            skip = data.draw(st.sampled_from((0, 1, 300)))
            length = data.draw(st.sampled_from((1, 5, 256, 512, 1024)))
            start = min(start + skip, end - 1)
            length = min(length, end - start, most)
            spans.append((self.firsts[backend] + start, length))
            most -= length
        return packed(*spans)

    # turns

    def spin(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    def hear(self, messages: list[dm.Message]) -> None:
        """What is in the ring is the guest's from this moment on."""
        for message in messages:
            if isinstance(message, dm.UnballoonRequest):
                self.own(message.ranges, is_owned=True)
                if message.more_pages:
                    continue
            elif isinstance(message, dm.HotAddRequest):
                self.own(message.range.to_bytes(8, "little"), is_owned=True)
            elif not isinstance(message, dm.BalloonRequest | dm.HotRemoveRequest):
                continue
            self.asked = message

    @property
    def is_up(self) -> bool:
        return self.task is None

    def turn(self) -> None:
        """What the machine does when it is woken."""
        self.spin()
        self.hear(self.rig.turn())

    # the operator

    @precondition(lambda self: self.is_up)
    @rule(pages=st.sampled_from((2000, 7700, 8192, 8192 + 700, 8192 + 2048, 8192 + 2048)))
    def ask_for_a_size(self, pages: int) -> None:
        self.device.set_target(pages << PAGE_SHIFT)
        self.turn()

    @precondition(lambda self: self.is_up and self.owned[self.rig.plugged.backend].any())
    @rule(pages=st.sampled_from((8, 256, 1024)))
    def ask_for_pages_for_good(self, pages: int) -> None:
        self.device.hot_remove(pages)
        self.turn()

    def plug_or_unplug_a_dimm(self) -> None:
        self.has_dimm = not self.has_dimm
        self.owned[self.dimm][:] = self.has_dimm
        self.ballooned[self.dimm][:] = False
        if self.has_dimm:
            self.device.memory_plugged(DIMM_AT, self.dimm)
        else:
            self.wait(self.device.memory_unplugged(DIMM_AT), "unplugged")

    # the guest

    @precondition(lambda self: self.is_up and self.asked is not None)
    @rule(data=st.data(), turns=st.booleans())
    def answer(self, data: st.DataObject, turns: bool) -> None:
        asked, self.asked = self.asked, None
        if isinstance(asked, dm.BalloonRequest):
            self.give_up_pages(asked, data)
        elif isinstance(asked, dm.UnballoonRequest):
            self.rig.say(dm.UnballoonResponse(7))
        elif isinstance(asked, dm.HotAddRequest):
            self.add_memory(asked, data)
        else:
            self.give_pages_for_good(data)
        if turns:
            self.turn()

    def give_up_pages(self, asked: dm.BalloonRequest, data: st.DataObject) -> None:
        ranges = self.choose(data, data.draw(st.sampled_from(list(self.owned))), asked.num_pages)
        self.balloon(ranges)
        more = bool(ranges) and data.draw(st.booleans())
        self.asked = asked if more else None
        self.rig.say(dm.BalloonResponse(7, more, ranges))

    def add_memory(self, asked: dm.HotAddRequest, data: st.DataObject) -> None:
        start, count = asked.range & (1 << 40) - 1, asked.range >> 40
        added, result = data.draw(st.sampled_from(((count, 1), (count, 1), (count - 100, 1), (0, 0), (0, 1))))
        if added < count:
            self.own(packed((start + added, count - added)), is_owned=False)
        self.rig.say(dm.HotAddResponse(7, added, result))

    def give_pages_for_good(self, data: st.DataObject) -> None:
        ranges = self.choose(data, self.rig.plugged.backend, 1024)
        self.own(ranges, is_owned=False)
        more = bool(ranges) and data.draw(st.booleans())
        self.asked = dm.HotRemoveRequest(0, 0, 1, 0) if more else None
        self.rig.say(dm.HotRemoveResponse(7, int(bool(ranges)), more, ranges))

    def lie(self) -> None:
        """Give up what was not asked for."""
        if self.asked is None and self.device.host.state is HostState.IDLE:
            self.rig.say(dm.BalloonResponse(7, False, packed((9000, 5), (0, 5000), (FIRST - 3, 900))))

    def reload_the_driver(self) -> None:
        self.rig.close()
        self.asked = None
        self.hear(self.rig.open())

    def start_another_kernel(self) -> None:
        self.rig.disconnect()
        self.wait(self.device.restarted(), "restarted")

    def cycle_the_power(self) -> None:
        self.rig.disconnect()
        for owned in self.owned.values():
            owned[:] = False
        self.wait(self.device.reset(), "reset")

    @precondition(lambda self: self.is_up)
    @rule(
        what=st.sampled_from(("turn",) * 12 + ("dimm", "dimm", "lie", "reload", "kernel", "power")),
    )
    def go_on_or_not(self, what: str) -> None:
        {
            "turn": self.turn,
            "dimm": self.plug_or_unplug_a_dimm,
            "lie": self.lie,
            "reload": self.reload_the_driver,
            "kernel": self.start_another_kernel,
            "power": self.cycle_the_power,
        }[what]()

    # time, and the host

    @rule(ms=st.sampled_from((1, 100, 10_000)))
    def let_time_pass(self, ms: int) -> None:
        self.rig.now += ms * 1_000_000

    @precondition(lambda self: self.flights.open)
    @rule(outcome=st.sampled_from(("later", "later", "later", "done", "done", "failed")))
    def end_a_discard(self, outcome: str) -> None:
        if outcome != "later":
            self.flights.finish(DiscardError("no", 1, 0) if outcome == "failed" else None)

    def wait(self, coroutine: Any, after: str) -> None:
        self.task, self.after = self.loop.create_task(coroutine), after
        self.wait_on()

    @precondition(lambda self: self.task is not None)
    @rule()
    def wait_on(self) -> None:
        """What waits for discards goes on when none is in flight, and not before."""
        assert self.task is not None
        for _ in range(4):
            self.spin()
        if not self.task.done():
            assert self.flights.open
            return
        assert not self.flights.open
        self.task.result()
        self.task = None
        if self.after == "unplugged":
            return
        self.asked = None
        if self.after == "reset":  # x-startup=last: all of the only slot, or nothing
            assert self.device.hot_added is not None
            self.owned[self.rig.boot][:] = True
            self.owned[self.dimm][:] = self.has_dimm
            self.owned[self.rig.plugged.backend][:] = bool(self.device.hot_added.added_bytes)
        for backend, ballooned in self.ballooned.items():
            self.owned[backend] |= ballooned & (self.after == "restarted")
            ballooned[:] = False
        self.hear(self.rig.connect())

    @invariant()
    def no_page_that_the_guest_owns_is_being_discarded(self) -> None:
        for backend, ranges, _ in self.flights.open:
            for start, end in bounds_of(ranges):
                assert not self.owned[backend][start:end].any()

    @invariant()
    def the_books_say_what_the_guest_owns(self) -> None:
        if self.task is not None:
            return
        owned = sum(int(pages.sum()) for pages in self.owned.values())
        offered = self.asked.range >> 40 if isinstance(self.asked, dm.HotAddRequest) else 0
        assert self.device.actual_bytes >> PAGE_SHIFT == owned - offered


Interleavings.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestInterleavings = Interleavings.TestCase


class Late(Flights):
    """Discards that are really done, when they end."""

    def end(self) -> None:
        backend, ranges, _ = self.open[0]
        Discarder(backend).discard(ranges)
        self.finish()


def written_and_read(loop: asyncio.AbstractEventLoop) -> bytes:
    """A guest gives a page up, wants it back while it is being discarded, and writes to it when it has it."""
    late = Late(loop)
    rig = AddingRig(Plugged(ADDED), late)
    rig.shrink(1, (1000, 1))
    assert len(late.open) == 1
    page = slice(1000 << PAGE_SHIFT, (1000 << PAGE_SHIFT) + PAGE_SIZE)

    def write(messages: list[dm.Message]) -> None:
        for message in messages:
            assert message == dm.UnballoonRequest(1, more_pages=False, ranges=packed((1000, 1)))
            rig.boot.view[page] = b"x" * PAGE_SIZE

    write(rig.ask(SIZE))
    late.end()
    write(rig.turn())
    assert rig.device.actual_bytes == SIZE
    return bytes(rig.boot.view[page])


def test_what_the_guest_writes_to_a_page_that_it_wanted_back_during_its_discard_stays() -> None:
    loop = asyncio.new_event_loop()
    assert written_and_read(loop) == b"x" * PAGE_SIZE
    loop.close()


def test_it_is_lost_when_pages_go_back_without_waiting_for_discards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuestPages, "may_remove", property(lambda _: True))
    monkeypatch.setattr(PendingDiscards, "withdraw", lambda *_: None)  # which would refuse
    loop = asyncio.new_event_loop()
    assert written_and_read(loop) == bytes(PAGE_SIZE)
    loop.close()

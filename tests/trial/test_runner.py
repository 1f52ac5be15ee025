"""A run of the trial with guests, monitors and a contender made by hand."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.trial import runner
from bench.trial.contenders.contender import Figures, Host, Order, Silent, Terms
from bench.trial.guests import Report
from bench.trial.measures import Series
from bench.trial.runner import Run, Wanted, events
from bench.trial.script import Burst, Restart, Script

from dynmem.errors import DynmemError
from dynmem.lab.qemu import GuestLostError
from dynmem.units import MIB

BURST = Burst(0, "alone", 0.1, 64 * MIB, 1024 * MIB, 0.1, 512 * MIB)
CACHE = Burst(1, "cache", 0.15, 32 * MIB, 1024 * MIB, 0.1, 512 * MIB)


@dataclass(frozen=True)
class Brief(Script):
    """A script of half a second."""

    @property
    def duration_s(self) -> float:
        return 0.5


class FakeGuest:
    """Reports at every look, and holds what it was ordered to."""

    def __init__(self, name: str, *, dies_at_look: int = 0, refuses: int = 0) -> None:
        self.name = name
        self.monitor = self.observed = Path(f"/nowhere/{name}.qmp")
        self.lives = -1
        self.pid = os.getpid()
        self.orders: list[Wanted] = []
        self.stops = 0
        self._looks = 0
        self._dies_at_look = dies_at_look
        self._refuses = refuses

    def start(self) -> None:
        self.lives += 1
        self._looks = 0

    def order(self, load_bytes: int, cache_bytes: int, rate_bytes: int) -> None:
        if self._refuses:
            self._refuses -= 1
            raise DynmemError("its line is full")
        self.orders.append(Wanted(load_bytes, cache_bytes, rate_bytes))

    def step(self) -> None:
        pass

    def report(self) -> Report:
        self._looks += 1
        if self._looks == self._dies_at_look and not self.lives:
            raise GuestLostError("gone")
        return Report(t=self._looks / 8, wanted_pages=256, held_pages=256, free_pages=512)

    def stop(self) -> None:
        self.stops += 1


class FakeMonitors:
    """Every order arrives, and every guest has its size at once."""

    def __init__(self) -> None:
        self.actual: dict[str, int] = {}

    async def connect(self, name: str, path: Path) -> None:
        assert path.stem == name
        self.actual[name] = 512 * MIB

    async def disconnect(self, name: str) -> None:
        self.actual.pop(name, None)

    async def close(self) -> None:
        self.actual.clear()

    async def send(self, orders: Sequence[Order]) -> list[Order]:
        self.actual.update({order.name: order.target_bytes for order in orders})
        return list(orders)


class FakeContender(Silent):
    """Orders something at each guest's start, in rounds before the run, and once during it."""

    name = "fake"
    rest_s = 20.0
    rounds = 2

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms, Path("/nowhere"))
        self.seen: list[tuple[Host, Mapping[str, Figures]]] = []
        self.stopped = False

    def booting(self, name: str) -> Sequence[Order]:
        return [Order(name, 200 * MIB)]

    def rest(self, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        del host
        if not self.rounds:
            return []
        self.rounds -= 1
        return [Order(name, each.actual_bytes + MIB) for name, each in guests.items()]

    def tick(self, now_s: float, host: Host, guests: Mapping[str, Figures]) -> Sequence[Order]:
        self.seen.append((host, guests))
        return [Order("g0", 300 * MIB)] if len(self.seen) == 1 else []

    def stop(self) -> None:
        self.stopped = True


class Clock:
    """Goes on by 5 ms each time it is looked at, however busy the machine is."""

    def __init__(self) -> None:
        self._now_ns = 0

    def monotonic(self) -> float:
        self._now_ns += 5_000_000
        return self._now_ns / 1e9

    def time_ns(self) -> int:
        return self._now_ns


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "Monitors", FakeMonitors)
    monkeypatch.setattr(runner, "REST_PERIOD_S", 0.0)
    monkeypatch.setattr(runner, "TICK_S", 0.0)
    monkeypatch.setattr(runner, "time", Clock())


def script(*bursts: Burst, restarts: Sequence[Restart] = ()) -> Brief:
    return Brief(1, 64 * MIB, 2, bursts or (BURST, CACHE), tuple(restarts))


def play(played: Script, *guests: FakeGuest) -> tuple[FakeContender, Series]:
    terms = Terms(played.names, 192 * MIB, 512 * MIB, 512 * MIB, 32 * MIB)
    contender = FakeContender(terms)
    series = asyncio.run(Run(played, contender, guests, lambda _phase, _share: None).execute())
    return contender, series


def test_every_burst_is_sent_to_its_guest_and_taken_back() -> None:
    guests = FakeGuest("g0"), FakeGuest("g1")
    play(script(), *guests)
    assert guests[0].orders == [
        Wanted(80 * MIB, 0, 1024 * MIB),
        Wanted(16 * MIB, 0, 512 * MIB),
    ]
    assert guests[1].orders == [
        Wanted(16 * MIB, 32 * MIB, 1024 * MIB),
        Wanted(16 * MIB, 0, 512 * MIB),
    ]


def test_an_order_that_a_guest_does_not_take_is_sent_again() -> None:
    guests = FakeGuest("g0", refuses=2), FakeGuest("g1")
    play(script(), *guests)
    assert guests[0].orders[0] == Wanted(80 * MIB, 0, 1024 * MIB)


def test_orders_before_the_beginning_are_recorded_as_such_and_all_guests_are_stopped() -> None:
    guests = FakeGuest("g0"), FakeGuest("g1")
    contender, series = play(script(), *guests)
    sizes = [(move.at_s < 0, *move.order) for move in series.moves if move.order.name == "g0"]
    assert sizes == [
        (True, "g0", 200 * MIB),
        (True, "g0", 201 * MIB),
        (True, "g0", 202 * MIB),
        (False, "g0", 300 * MIB),
    ]
    assert contender.stopped
    assert all(guest.stops for guest in guests)


def test_a_contender_sees_a_host_of_which_the_budget_is_four_fifths() -> None:
    contender, _ = play(script(), FakeGuest("g0"), FakeGuest("g1"))
    host, guests = contender.seen[-1]
    assert host.total_bytes == 640 * MIB
    assert guests["g0"] == Figures(300 * MIB, 2 * MIB)


def test_a_restarted_guest_has_another_life_and_is_ordered_its_first_size_again() -> None:
    guests = FakeGuest("g0"), FakeGuest("g1")
    _, series = play(script(restarts=[Restart(1, 0.2)]), *guests)
    assert [guest.lives for guest in guests] == [0, 1]
    assert {each.life for each in series.heard[1]} == {0, 1}
    again = [move for move in series.moves if move.at_s > 0 and move.order == Order("g1", 200 * MIB)]
    assert len(again) == 1
    assert series.lost == []


def test_a_guest_that_is_lost_is_recorded_and_started_again() -> None:
    guests = FakeGuest("g0", dies_at_look=12), FakeGuest("g1")
    _, series = play(script(), *guests)
    assert [guest for _, guest in series.lost] == [0]
    assert guests[0].lives == 1


def test_a_guest_that_is_lost_before_the_beginning_ends_the_run_and_stops_the_others() -> None:
    guests = FakeGuest("g0", dies_at_look=1), FakeGuest("g1")
    with pytest.raises(GuestLostError):
        play(script(), *guests)
    assert guests[1].stops


def test_the_host_is_sampled_from_the_beginning_with_the_sizes_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner, "time", time)  # the sampler is a thread, and looks at the clock
    monkeypatch.setattr(runner, "TICK_S", 0.05)
    _, series = play(script(), FakeGuest("g0"), FakeGuest("g1"))
    assert series.held
    assert all(sample.at_s >= 0 for sample in series.held)
    assert series.held[-1].actual == (300 * MIB, 202 * MIB)


def test_events_come_in_the_order_of_time() -> None:
    made = events(script(restarts=[Restart(1, 0.12)]))
    assert [(round(event.at_s, 4), event.guest) for event in made] == [
        (0.1, 0),
        (0.12, 1),
        (0.15, 1),
        (0.2625, 0),
        (0.2812, 1),
    ]

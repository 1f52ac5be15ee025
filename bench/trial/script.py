"""What happens in a run: which guest's load grows when, how fast and for how long, and who is restarted.

A script is made from a seed alone, so every contender meets the same one. What all guests *use* at any moment
(their own need and their loads, without page cache) stays below the budget by a slush and a stated spare for
each guest, and each guest's use below its maximum: a perfect manager loses no guest and leaves nothing unmet.
"""

import random
from dataclasses import dataclass
from typing import Final, Literal

from dynmem.units import MIB

Kind = Literal["alone", "pair", "leak", "cache"]

MAXIMUM_BYTES: Final = 512 * MIB
# A guest at rest fits into it, so what others are guaranteed is in nobody's way.
MINIMUM_BYTES: Final = 136 * MIB
SLUSH_BYTES: Final = 32 * MIB
# What a guest of this size uses without a load: its kernel and what that keeps, 81 MiB as measured.
OWN_BYTES: Final = 96 * MIB
BASE_BYTES: Final = 16 * MIB
# Of every guest's memory, what no manager can be asked to move in time: the guest's watermarks.
SPARE_BYTES: Final = 24 * MIB
# A load that is steady but for a few percent.
STEADY_BYTES: Final = 64 * MIB
WOBBLE: Final = 0.03
LEAK_RATE_BYTES: Final = 8 * MIB
GUESTS_MIN: Final = 4
GUESTS_MAX: Final = 8
_HOLD_S: Final = (2.0, 4.0)
_GAP_S: Final = (2.0, 3.5)
# A guest that was restarted boots beside the next burst.
_RESTART_GAP_S: Final = 3.0
_TAIL_S: Final = 2.0


@dataclass(frozen=True)
class Burst:
    """One growth of one guest's load, or of its page cache.

    Attributes:
        guest: Which guest.
        kind: Alone, one of two at once, a slow leak, or page cache.
        begins_s: When the load begins to grow.
        size_bytes: By how much, a multiple of a MiB.
        rate_bytes: How fast, per second.
        hold_s: How long it stays there; then it falls as fast as it may.
        fall_rate_bytes: How fast that is, per second.
    """

    guest: int
    kind: Kind
    begins_s: float
    size_bytes: int
    rate_bytes: int
    hold_s: float
    fall_rate_bytes: int

    @property
    def full_s(self) -> float:
        """When it has grown."""
        return self.begins_s + self.size_bytes / self.rate_bytes

    @property
    def falls_s(self) -> float:
        """When it begins to fall."""
        return self.full_s + self.hold_s

    @property
    def ends_s(self) -> float:
        """When it has fallen; page cache stays."""
        return self.falls_s + (0.0 if self.kind == "cache" else self.size_bytes / self.fall_rate_bytes)

    def load_bytes(self, at_s: float) -> int:
        """Return what it adds to the load's demand at a moment; page cache adds nothing."""
        if self.kind == "cache" or not self.begins_s <= at_s < self.ends_s:
            return 0
        risen = (at_s - self.begins_s) * self.rate_bytes
        falling = self.size_bytes - max(0.0, at_s - self.falls_s) * self.fall_rate_bytes
        return int(max(0.0, min(self.size_bytes, risen, falling)))


@dataclass(frozen=True)
class Restart:
    """A guest that is ended and started again, with its whole maximum as at its first start."""

    guest: int
    at_s: float


@dataclass(frozen=True)
class Wobble:
    """A small change of a load that is steady otherwise."""

    guest: int
    at_s: float
    load_bytes: int


@dataclass(frozen=True)
class Script:
    """A whole run. Times count from the moment at which all guests have booted and come to rest."""

    seed: int
    rate_bytes: int
    guests: int
    bursts: tuple[Burst, ...]
    restarts: tuple[Restart, ...]
    maximum_bytes: int = MAXIMUM_BYTES
    minimum_bytes: int = MINIMUM_BYTES
    base_bytes: int = BASE_BYTES
    slush_bytes: int = SLUSH_BYTES
    wobbles: tuple[Wobble, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The guests' names, by their numbers."""
        return tuple(f"g{number}" for number in range(self.guests))

    @property
    def budget_bytes(self) -> int:
        """Half the sum of the maximums."""
        return self.guests * self.maximum_bytes // 2

    @property
    def duration_s(self) -> float:
        """How long it runs."""
        ends = [burst.ends_s for burst in self.bursts] + [wobble.at_s for wobble in self.wobbles]
        return max(ends) + _TAIL_S

    def use_bytes(self, guest: int, at_s: float) -> int:
        """Return what a guest uses at a moment: what it needs for itself, and its load."""
        loads = sum(burst.load_bytes(at_s) for burst in self.bursts if burst.guest == guest)
        return OWN_BYTES + self.base_bytes + loads


def room_bytes(guests: int) -> int:
    """Return what bursts may take at once, of all guests together."""
    budget = guests * MAXIMUM_BYTES // 2
    return budget - SLUSH_BYTES - guests * (OWN_BYTES + BASE_BYTES + SPARE_BYTES)


def write(
    seed: int, *, rate_bytes: int, guests: int = GUESTS_MIN, short: bool = False, page_cache: bool = True
) -> Script:
    """Return the script of a seed: seven bursts and a restart, or, if it is *short*, three bursts.

    Without *page_cache* (guests that have none), that burst is a load's, too.
    """
    source = random.Random(f"{seed} {guests} {short}")  # the rate changes the pace, not what happens
    author = _Author(source, rate_bytes, guests)
    if short:
        author.alone()
        author.pair()
    else:
        author.middle(page_cache=page_cache)
    return Script(seed, rate_bytes, guests, tuple(author.bursts), tuple(author.restarts))


def write_steady(seed: int, *, seconds: int, rate_bytes: int, guests: int = GUESTS_MIN) -> Script:
    """Return a script without a burst: every load changes by a few percent of its guest's use each second."""
    source = random.Random(f"steady {seed} {guests}")
    span = int((OWN_BYTES + STEADY_BYTES) * WOBBLE) // MIB
    wobbles = [
        Wobble(guest, float(second), STEADY_BYTES + source.randint(-span, span) * MIB)
        for second in range(1, seconds + 1)
        for guest in range(guests)
    ]
    return Script(seed, rate_bytes, guests, (), (), base_bytes=STEADY_BYTES, wobbles=tuple(wobbles))


class _Author:
    """Writes one script, burst after burst."""

    def __init__(self, source: random.Random, rate_bytes: int, guests: int) -> None:
        self._source = source
        self._rate = rate_bytes
        self._guests = guests
        self._room = room_bytes(guests)
        self._most = MAXIMUM_BYTES - OWN_BYTES - BASE_BYTES - SPARE_BYTES
        self._now = 1.0
        self._last: set[int] = set()
        self.bursts: list[Burst] = []
        self.restarts: list[Restart] = []

    def middle(self, *, page_cache: bool) -> None:
        """Write a whole run. The first burst meets guests at rest; the rest come in any order."""
        scenes = [self.alone, self.pair, self.leak, self.cache if page_cache else self.alone, self.alone]
        self._source.shuffle(scenes)
        if scenes[-1] == self.cache:  # somebody has to need what the page cache took
            scenes.insert(0, scenes.pop())
        self.alone()
        for number, scene in enumerate(scenes):
            if number == len(scenes) // 2:
                self.restart()
            scene()

    def alone(self) -> None:
        """Add one burst that takes most of the room."""
        (guest,) = self._pick(1)
        self._add([guest], "alone", self._size(0.6, 0.95), self._rate)

    def pair(self) -> None:
        """Add two bursts that begin together."""
        self._add(self._pick(2), "pair", self._size(0.3, 0.48), self._rate)

    def leak(self) -> None:
        """Add a slow growth."""
        self._add(self._pick(1), "leak", self._size(0.3, 0.4), min(LEAK_RATE_BYTES, self._rate))

    def cache(self) -> None:
        """Add a reading of a disk into the page cache, most of the room."""
        self._add(self._pick(1), "cache", self._size(0.7, 0.95), self._rate)

    def restart(self) -> None:
        """End a guest and start it again; the next burst does not wait for it."""
        (guest,) = self._pick(1)
        self.restarts.append(Restart(guest, self._now))
        self._now += _RESTART_GAP_S
        self._last.add(guest)  # it boots while the next burst grows

    def _pick(self, count: int) -> list[int]:
        """Return guests that were not in the last scene: those who gave are now the ones who need."""
        others = [guest for guest in range(self._guests) if guest not in self._last]
        return self._source.sample(others, count)

    def _size(self, least: float, most: float) -> int:
        share = self._source.uniform(least, most)
        return min(self._most, int(self._room * share)) // MIB * MIB

    def _add(self, guests: list[int], kind: Kind, size: int, rate: int) -> None:
        hold = round(self._source.uniform(*_HOLD_S), 1)
        made = [Burst(guest, kind, round(self._now, 1), size, rate, hold, self._rate) for guest in guests]
        self.bursts += made
        self._last = set(guests)
        self._now = max(burst.ends_s for burst in made) + self._source.uniform(*_GAP_S)

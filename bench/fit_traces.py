"""Hosts of which a month is known, made by a seed: with patterns that operators describe, and none is real.

    office     busy on weekdays from nine to five, staggered; short backups at night
    batch      jobs at half past two each night, larger ones on one night of the week
    growth     each VM needs up to 1.5 % more each day, beside a daily pattern
    bursts     at any time, two in three days for each VM: for 20 to 80 minutes up to 60 % of its size more
    shop       busy in the evening, more at the weekend; two evenings in a month that nobody could foresee
    leak       needs rise for a week until a restart, in each VM at another time
    changing   half of the VMs come or go in the month, one runs at night only
    month      a weekday's pattern, and one day in the month on which all are busy
    ci         jobs of random size at random times of working days

Every VM has noise of its own that fades within hours, and days on which it is busier or idler than on others.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dynmem.fit.counting import AWAY, settled, usual
from dynmem.fit.trace import Trace

Floats = NDArray[np.float64]

PER_DAY: Final = 144
KINDS: Final = ("office", "batch", "growth", "bursts", "shop", "leak", "changing", "month", "ci")
_PAGES_PER_MIB: Final = 256
# Monday, 2 November 2026, 00:00 UTC.
_BEGIN_MS: Final = 1_793_577_600_000
_SPAN_MS: Final = 600_000
_HOUR: Final = 6


class _Load:
    """What the VMs of one host need, as parts of their sizes."""

    def __init__(self, rng: np.random.Generator, days: int, vms: int) -> None:
        self.rng, self.days, self.vms = rng, days, vms
        self.at = np.arange(days * PER_DAY)
        self.slot = self.at % PER_DAY
        self.day = self.at // PER_DAY
        self.weekday = (self.day + rng.integers(7)) % 7
        self.weekend = (self.weekday >= 5).astype(float)
        self.working = 1 - self.weekend
        self.height = rng.uniform(0.15, 0.5, vms)
        self.busier = 1 + rng.normal(0, 0.08, (vms, days))[:, self.day]
        self.part = np.tile(rng.uniform(0.2, 0.45, vms)[:, None], (1, self.at.size))

    def peak(self, hour: float, spread: float, width: float, scale: float | Floats) -> None:
        """Add a peak each day, of each VM at its own hour."""
        for vm, centre in enumerate(self.rng.normal(hour * _HOUR, spread * _HOUR, self.vms)):
            away = np.abs((self.slot - centre + PER_DAY / 2) % PER_DAY - PER_DAY / 2)
            bump = np.exp(-0.5 * (away / (width * _HOUR)) ** 2)
            self.part[vm] += bump * self.height[vm] * self.busier[vm] * scale

    def bursts(self, a_day: float, spans: tuple[int, int], size: Callable[[], float]) -> None:
        """Add bursts at random times."""
        for row in self.part:
            for first in self.rng.integers(0, self.at.size, self.rng.poisson(a_day * self.days)):
                row[first : first + self.rng.integers(*spans)] += size()


def _office(load: _Load) -> None:
    load.peak(13, 1.5, 3, load.working)
    load.peak(13, 2, 3, 0.15)
    load.peak(2, 0.5, 0.5, 0.4)


def _batch(load: _Load) -> None:
    load.peak(2.5, 0.6, 1.0, 1.0)
    load.peak(3, 0.6, 1.5, 0.8 * (load.weekday == 6))
    load.peak(14, 3, 4, 0.2)


def _growth(load: _Load) -> None:
    load.part *= 1 + load.rng.uniform(0, 0.015, load.vms)[:, None] * load.at / PER_DAY
    load.peak(14, 2, 3, 0.5 - 0.25 * load.weekend)


def _bursts(load: _Load) -> None:
    load.peak(14, 3, 4, 0.3)
    load.bursts(0.7, (2, 9), lambda: float(load.rng.uniform(0.2, 0.6)))


def _shop(load: _Load) -> None:
    load.peak(20.5, 0.7, 2, 1 + 0.4 * load.weekend)
    for day in load.rng.integers(0, load.days, 2):
        load.peak(20, 0.5, 2, 0.5 * (load.day == day))


def _leak(load: _Load) -> None:
    load.peak(14, 2, 3, 0.4)
    week = 7 * PER_DAY
    age = (load.at + load.rng.integers(0, week, load.vms)[:, None]) % week
    load.part += load.rng.uniform(0.1, 0.35, load.vms)[:, None] * age / week


def _changing(load: _Load) -> None:
    load.peak(14, 2, 3, 0.6 - 0.24 * load.weekend)


def _month(load: _Load) -> None:
    load.peak(14, 2, 3, 0.6 * load.working)
    load.peak(15, 1, 4, 0.8 * (load.day % 30 == 26))


def _ci(load: _Load) -> None:
    load.peak(15, 2, 3, 0.3 * load.working)
    before = load.part.copy()
    load.bursts(3, (1, 5), lambda: float(load.rng.lognormal(-1.3, 0.5)))
    working = (load.working > 0) & (load.slot > 8 * _HOUR) & (load.slot < 20 * _HOUR)
    load.part = np.where(working, load.part, before)


_MADE: Final[dict[str, Callable[[_Load], None]]] = {
    "office": _office,
    "batch": _batch,
    "growth": _growth,
    "bursts": _bursts,
    "shop": _shop,
    "leak": _leak,
    "changing": _changing,
    "month": _month,
    "ci": _ci,
}


def trace(kind: str, seed: int, *, days: int = 35, vms: int = 16) -> Trace:
    """Return a host on which 2 to 14 more VMs like the median fit."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    sizes = rng.choice([2048, 4096, 8192], vms) * _PAGES_PER_MIB
    load = _Load(rng, days, vms)
    _MADE[kind](load)
    noise = _fading(rng, (vms, load.at.size), 0.9, rng.uniform(0.02, 0.06))
    part = np.clip((load.part + noise) * 1.2, 0.1, 1.0)
    need = np.ceil(part * sizes[:, None]).astype(np.int64)
    each = sorted(int(np.quantile(row, 0.99)) for row in need)[(vms - 1) // 2]
    whole = np.quantile(need.sum(axis=0), 0.99) + rng.uniform(2, 14) * each
    if kind == "changing":
        for row in need[: vms // 2]:
            at = int(rng.integers(0, load.at.size))
            row[slice(0, at) if rng.random() < 0.75 else slice(at, None)] = AWAY
        need[-1, load.slot > 6 * _HOUR] = AWAY
    less = np.abs(_fading(rng, (1, load.at.size), 0.95, 0.01))[0]
    return Trace(
        names=tuple(f"vm-{vm:02}" for vm in range(vms)),
        span_ms=_SPAN_MS,
        end_ms=_BEGIN_MS + load.at.size * _SPAN_MS,
        per_day=PER_DAY,
        weights=np.full(load.at.size, 6000, dtype=np.int64),
        capacity=(whole * (1 - less)).astype(np.int64),
        need=need,
        silent=np.full(need.shape, AWAY, dtype=np.int64),
        fixed=sizes.astype(np.int64),
        fixed_capacity=int(whole),
    )


def middle(host: Trace) -> int:
    """Return the VM in the middle by what it usually needs, of all that ever ran."""
    needs = settled(host.need, host.silent)
    order = sorted(range(len(host.names)), key=lambda vm: usual(needs[vm], host.weights))
    return order[(len(order) - 1) // 2]


def _fading(rng: np.random.Generator, shape: tuple[int, int], stays: float, size: float) -> Floats:
    """Return noise that fades: each span keeps a part of the one before it."""
    fresh = rng.normal(0, size * np.sqrt(1 - stays**2), shape)
    found = np.empty(shape)
    last = rng.normal(0, size, shape[0])
    for at in range(shape[1]):
        last = stays * last + fresh[:, at]
        found[:, at] = last
    return found

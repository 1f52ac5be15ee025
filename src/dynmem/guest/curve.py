"""Load curves: how much memory a workload wants at each moment.

A workload is written ``NAME,key=value,...``. The names:

- ``steady``: always `high`;
- ``idle``: always `low`;
- ``sine``: from `low` up to `high` and back, once in each period;
- ``steps``: half a period at `low`, then half a period at `high`;
- ``burst``: at `high` for the last fifth of each period, else at `low`;
- ``pulse``: at `high` between `from` and `to` seconds after boot, else at `low`;
- ``told``: the amount in the file `path`, read at every tick (module `told`).

The keys:

- ``low``, ``high``: a share of the memory usable at boot (``5%``) or a size (``64MiB``); 5 % and 80 % by
  default. A share of the present memory would chase a host that gives what is wanted. A size may exceed the
  present memory, since memory can be added;
- ``period``: 30 s by default; ``phase``: where in the period the guest starts, 0 to 1;
- ``from``, ``to``: for ``pulse``, durations since boot, negative before it; ``path``: for ``told``;
- ``rate``: the most that demand grows, a size per second; 256 MiB by default. Demand falls at once.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE, parse_duration, parse_size

_PERIOD_MIN_NS: Final = NS_PER_S // 10
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,4})?)\s*%")
_MILLION: Final = 1_000_000


@dataclass(frozen=True)
class Amount:
    """A share of usable memory in millionths, or bytes."""

    millionths: int | None = None
    size: int = 0

    def pages(self, usable_pages: int) -> int:
        """Return the amount in pages; a share is a share of `usable_pages`."""
        if self.millionths is not None:
            return usable_pages * self.millionths // _MILLION
        return self.size // PAGE_SIZE


TOLD: Final = "told"


def _low(_moment: float, _load: "Load") -> float:
    return 0.0


def _high(_moment: float, _load: "Load") -> float:
    return 1.0


def _sine(moment: float, load: "Load") -> float:
    return (1 - math.cos(2 * math.pi * load.turn(moment))) / 2


def _steps(moment: float, load: "Load") -> float:
    return float(load.turn(moment) >= 1 / 2)


def _burst(moment: float, load: "Load") -> float:
    return float(load.turn(moment) >= 4 / 5)


def _pulse(moment: float, load: "Load") -> float:
    return float(load.pulse_from_ns <= moment < load.pulse_to_ns)


SHAPES: Final[dict[str, Callable[[float, "Load"], float]]] = {
    "steady": _high,
    "idle": _low,
    "sine": _sine,
    "steps": _steps,
    "burst": _burst,
    "pulse": _pulse,
    TOLD: _low,
}


@dataclass(frozen=True, kw_only=True)
class Load:
    """One workload's curve; see the top of this file."""

    name: str = "sine"
    low: Amount = field(default=Amount(millionths=50_000))
    high: Amount = field(default=Amount(millionths=800_000))
    period_ns: int = 30 * NS_PER_S
    phase: float = 0.0
    pulse_from_ns: int = 10 * NS_PER_S
    pulse_to_ns: int = 20 * NS_PER_S
    rate_bytes: int = 256 * MIB
    path: Path | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for values that make no sense."""
        if self.name not in SHAPES:
            raise ConfigError(f"workload {self.name!r} is not one of {', '.join(SHAPES)}")
        if self.period_ns < _PERIOD_MIN_NS:
            raise ConfigError(f"a workload's period of {self.period_ns} ns is below the minimum of 100ms")
        if not 0 <= self.phase <= 1:
            raise ConfigError(f"a workload's phase of {self.phase} is not between 0 and 1")
        if self.pulse_to_ns <= self.pulse_from_ns:
            raise ConfigError("a pulse's to must be later than its from")
        if self.rate_bytes < MIB:
            raise ConfigError(
                f"a workload's rate of {self.rate_bytes} bytes per second is below the minimum of 1MiB"
            )
        if (self.path is not None) != (self.name == TOLD):
            raise ConfigError("only the workload told takes a path, and it needs one: told,path=FILE")

    def turn(self, moment: float) -> float:
        """Return where in its period the curve is at `moment` ns, 0 to 1."""
        return (moment / self.period_ns + self.phase) % 1.0

    def wanted_pages(self, now_ns: int, usable_pages: int) -> int:
        """Return what the curve wants at guest time `now_ns`, regardless of rate and available memory."""
        low, high = self.low.pages(usable_pages), self.high.pages(usable_pages)
        return low + round((high - low) * SHAPES[self.name](now_ns, self))


def parse_load(text: str) -> Load:
    """Return the load of ``NAME,key=value,...``. Raises ConfigError, which names the key and its values."""
    name, *settings = text.split(",")
    values: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key not in _KEYS or not equals:
            raise ConfigError(
                f"workload setting {setting!r} is not KEY=VALUE with KEY one of {', '.join(_KEYS)}"
            )
        target, read = _KEYS[key]
        try:
            values[target] = read(value)
        except ValueError as error:
            raise ConfigError(f"workload {key}: {error}") from error
    return Load(name=name, **values)  # type: ignore[arg-type]


def parse_amount(text: str) -> Amount:
    """Return the amount of ``80%`` or a size. Raises ValueError with a sentence."""
    percent = _PERCENT.fullmatch(text.strip())
    if percent is None:
        return Amount(size=parse_size(text))
    share = float(percent[1])
    if share > 100:
        raise ValueError(f"{text} is above 100%")
    return Amount(millionths=round(share * _MILLION / 100))


def _phase(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number between 0 and 1") from None


def _moment(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    return sign * parse_duration(text.removeprefix("-"))


def _rate(text: str) -> int:
    return parse_size(text.removesuffix("/s"), default_unit="M")


_KEYS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "low": ("low", parse_amount),
    "high": ("high", parse_amount),
    "period": ("period_ns", parse_duration),
    "phase": ("phase", _phase),
    "from": ("pulse_from_ns", _moment),
    "to": ("pulse_to_ns", _moment),
    "rate": ("rate_bytes", _rate),
    "path": ("path", Path),
}

"""What a page with the token may have the manager do: requests as the manager's own socket takes them."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from dynmem.errors import ConfigError, quoted
from dynmem.json_errors import NOT_JSON
from dynmem.limits import API_WAIT_NS_MAX
from dynmem.units import NS_PER_S

#: How the manager's log says that a request came from here.
BY: Final = "web page"
#: The room of a reservation without a name.
RESERVED: Final = "web-page"
#: Beyond the time that a reservation may wait: the manager looks once in any case.
PATIENCE_S: Final = 20.0
_LONGEST_S: Final = API_WAIT_NS_MAX / NS_PER_S


class OfVm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An act on one VM."""

    vm: str


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Leave a VM exactly as it is for so long."""

    vm: str
    for_s: float


class Reserve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"size": "bytes"}):
    """Make room for a VM about to start, within *wait_s*, and keep it for *hold_s*."""

    size: int
    wait_s: float = 0.0
    hold_s: float = 60.0
    name: str = RESERVED


class Order(msgspec.Struct, frozen=True):
    """A request to the manager.

    Attributes:
        request: What is sent.
        timeout_s: How long the reply may take.
    """

    request: dict[str, Any]
    timeout_s: float = PATIENCE_S


def order_of(act: str, body: bytes) -> Order:
    """Return the request that an act is; ConfigError if it is none."""
    kind, made = ACTS[act]
    try:
        asked = msgspec.json.decode(body, type=kind)
    except NOT_JSON as error:
        raise ConfigError(f"{act}: {error}") from error
    order: Order = made(asked)
    return Order(order.request | {"by": BY}, order.timeout_s)


def _release(asked: OfVm) -> Order:
    return Order({"command": "release", "vm": asked.vm})


def _take_up(asked: OfVm) -> Order:
    return Order({"command": "take-up", "vm": asked.vm})


def _resume(asked: OfVm) -> Order:
    return Order({"command": "resume", "vm": asked.vm})


def _pause(asked: Pause) -> Order:
    return Order({"command": "pause", "vm": asked.vm, "for_ns": _ns("for_s", asked.for_s, 1e9)})


def _reserve(asked: Reserve) -> Order:
    wait_ns, hold_ns = (
        _ns(key, seconds, _LONGEST_S) for key, seconds in (("wait_s", asked.wait_s), ("hold_s", asked.hold_s))
    )
    request = {"command": "reserve", "name": asked.name, "size_bytes": asked.size}
    return Order(request | {"wait_ns": wait_ns, "hold_ns": hold_ns}, wait_ns / NS_PER_S + PATIENCE_S)


def _ns(key: str, seconds: float, most_s: float) -> int:
    if not math.isfinite(seconds) or not 0 <= seconds <= most_s:
        raise ConfigError(f"{key}: {quoted(str(seconds))} is not a time from 0 to {most_s:g} s")
    return round(seconds * NS_PER_S)


#: The acts by the last part of their address.
ACTS: Final[Mapping[str, tuple[Any, Callable[[Any], Order]]]] = {
    "pause": (Pause, _pause),
    "resume": (OfVm, _resume),
    "release": (OfVm, _release),
    "take-up": (OfVm, _take_up),
    "reserve": (Reserve, _reserve),
}


class Allowance:
    """So many at once, and so many a second after that."""

    def __init__(self, at_once: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._per_s = per_s
        self._clock = clock
        self._left = float(at_once)
        self._seen_s = clock()

    def take(self) -> bool:
        """Return whether there is one left, and take it."""
        now_s = self._clock()
        self._left = min(self._at_once, self._left + (now_s - self._seen_s) * self._per_s)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True

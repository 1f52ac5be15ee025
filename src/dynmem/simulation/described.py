"""Loads that are described: some guests alike that burst at random, or a small file that says what bursts.

budget = "8G"                  what all may hold [half of all maximums]
slush = "256M"                 the part that is never granted [a 32nd of the budget]
for = "1h"

[[vm]]
name = "web"
count = 4                      so many of them [1]
maximum = "2G"
minimum = "256M"               [a quarter of the maximum]
base = "300M"                  what each uses at rest [a quarter of the maximum]
priority = "high"              with buffer and weight as in the manager's file

[[vm.burst]]                   any number of them
size = "800M"                  on top of base
hold = "20s"                   how long it stays there
every = "5min"                 on average; when is drawn from the seed
at = "90s"                     or once, at a time
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from dynmem.errors import ConfigError
from dynmem.limits import (
    LOAD_FILE_BYTES_MAX,
    MANAGER_FIGURE_BYTES_MAX,
    SIMULATED_ROWS_MAX,
    SIMULATED_S_MAX,
    SIMULATED_VMS_MAX,
    WEIGHT_MAX,
)
from dynmem.manager.config import BUFFER_PERCENT_MAX
from dynmem.policy import Priority
from dynmem.simulation.load import Load, VmLoad
from dynmem.units import MIB, NS_PER_S, PAGE_SIZE, format_size, named_size, parse_duration

#: What a guest of a described load should have at hand: that of virtio-balloon (`manager.sweep.demand`).
RESERVE_BYTES: Final = 64 * MIB
_DS_NS: Final = NS_PER_S // 10
_SLUSH_PART: Final = 32
_BASE_PART: Final = 4
# Of guests alike: how large their bursts are, in parts of what is left above the base, how long, how often.
_SIZES: Final = (0.3, 0.9)
_HOLDS_DS: Final = (50, 600)
_EVERY_DS: Final = 3000
_EVERY_LEAST_DS: Final = 10


class BurstTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A growth of a load, as the file has it."""

    size: str
    hold: str = "10s"
    every: str = ""
    at: str = ""


class VmTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A VM, or several alike, as the file has it."""

    name: str
    maximum: str
    count: int = 1
    minimum: str = ""
    base: str = ""
    buffer: int = 20
    weight: int = 5000
    priority: Priority = "normal"
    burst: tuple[BurstTable, ...] = ()


class LoadTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"for_": "for"}):
    """The whole file."""

    vm: tuple[VmTable, ...]
    for_: str = "1h"
    budget: str = ""
    slush: str = ""


def read(path: Path, seed: int) -> Load:
    """Return the load that a file describes; ConfigError says what is wrong with it."""
    try:
        with path.open("rb") as file:
            text = file.read(LOAD_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: name a file that describes a load") from error
    if len(text) > LOAD_FILE_BYTES_MAX:
        raise ConfigError(f"{path}: longer than {format_size(LOAD_FILE_BYTES_MAX)}: this is no load")
    try:
        table = msgspec.convert(tomllib.loads(text.decode()), LoadTable)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return load_of(table, seed)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def load_of(table: LoadTable, seed: int) -> Load:
    """Return the load of a table; ConfigError says what is wrong with it."""
    length = length_of("for", table.for_)
    counts = [each.count for each in table.vm]
    if min(counts, default=0) < 1 or sum(counts) > SIMULATED_VMS_MAX:
        raise ConfigError(f"from 1 to {SIMULATED_VMS_MAX} VMs are possible, and a count is at least 1")
    vms: list[VmLoad] = []
    for each in table.vm:
        for _ in range(each.count):
            left = SIMULATED_ROWS_MAX - sum(vm.rows for vm in vms)
            vms.append(_vm(each, len(vms) + 1, length, seed, left))
    budget = _size("budget", table.budget or f"{sum(vm.maximum_bytes for vm in vms) // 2}")
    slush = _size("slush", table.slush or f"{budget // _SLUSH_PART // MIB * MIB}", least=0)
    if slush >= budget:
        raise ConfigError(f"slush: {format_size(slush)} is not below the budget of {format_size(budget)}")
    return Load(budget, slush, length, vms)


def alike(guests: int, maximum_bytes: int, length_ds: int, seed: int) -> Load:
    """Return guests alike whose bursts are drawn from the seed, and half of their maximums as the budget."""
    base = maximum_bytes // _BASE_PART
    above = maximum_bytes - base
    if not 1 <= guests <= SIMULATED_VMS_MAX:
        raise ConfigError(f"{guests} guests: from 1 to {SIMULATED_VMS_MAX} are possible")
    vms = []
    for number in range(1, guests + 1):
        random = Random(f"{seed} guest {number}")  # noqa: S311 - a simulation needs the same numbers again
        bursts = []
        at = random.randrange(_EVERY_DS)
        while at < length_ds:
            size = int(above * random.uniform(*_SIZES)) // MIB * MIB
            hold = random.randrange(*_HOLDS_DS)
            bursts.append((at, min(at + hold, length_ds), size))
            at += hold + 1 + int(random.expovariate(1 / _EVERY_DS))
        vm = VmLoad(number, maximum_bytes // _BASE_PART, maximum_bytes, reserve_bytes=RESERVE_BYTES)
        vms.append(_with_bursts(vm, base, bursts, length_ds))
    budget = max(PAGE_SIZE, guests * maximum_bytes // 2)
    return Load(budget, budget // _SLUSH_PART // MIB * MIB, length_ds, vms)


def _vm(table: VmTable, number: int, length: int, seed: int, rows_max: int) -> VmLoad:
    name = table.name
    maximum = _size(f"{name}: maximum", table.maximum)
    minimum = _size(f"{name}: minimum", table.minimum or f"{maximum // _BASE_PART}")
    base = _size(f"{name}: base", table.base or f"{maximum // _BASE_PART}")
    if minimum > maximum:
        raise ConfigError(f"{name}: minimum: {format_size(minimum)} is above its maximum")
    if not (0 <= table.buffer <= BUFFER_PERCENT_MAX and 1 <= table.weight <= WEIGHT_MAX):
        raise ConfigError(f"{name}: buffer is from 0 to {BUFFER_PERCENT_MAX}, weight from 1 to {WEIGHT_MAX}")
    bursts: list[tuple[int, int, int]] = []
    for place, each in enumerate(table.burst):
        random = Random(f"{seed} {number} {place}")  # noqa: S311 - a simulation needs the same numbers again
        for burst in _bursts(each, f"{name}: burst", length, random):
            if 2 * len(bursts) >= rows_max:
                raise ConfigError(
                    f"{name}: more than {SIMULATED_ROWS_MAX} changes of all loads: ask for less"
                )
            bursts.append(burst)
    vm = VmLoad(number, minimum, maximum, table.buffer, table.weight, table.priority, RESERVE_BYTES)
    return _with_bursts(vm, base, bursts, length)


def _bursts(table: BurstTable, what: str, length: int, random: Random) -> Iterator[tuple[int, int, int]]:
    """Yield when each burst begins and ends, and its size in bytes."""
    size, hold = _size(f"{what}: size", table.size), max(1, _time(f"{what}: hold", table.hold))
    if bool(table.every) == bool(table.at):
        raise ConfigError(f"{what}: say either every (how often on average) or at (when)")
    if table.at:
        at, every = _time(f"{what}: at", table.at), length
    else:
        every = _time(f"{what}: every", table.every)
        if every < _EVERY_LEAST_DS:
            raise ConfigError(f"{what}: every: {table.every} is below a second")
        at = int(random.expovariate(1 / every))
    while at < length:
        yield at, min(at + hold, length), size
        at = length if table.at else at + hold + int(random.expovariate(1 / every))


def _with_bursts(vm: VmLoad, base: int, bursts: list[tuple[int, int, int]], length: int) -> VmLoad:
    """Add the rows of a load: those that overlap add up."""
    steps: dict[int, int] = {0: base}
    for at, end, size in bursts:
        steps[at] = steps.get(at, 0) + size
        steps[end] = steps.get(end, 0) - size
    level, times = 0, sorted(at for at in steps if at < length)
    for at, then in zip(times, [*times[1:], length], strict=True):
        level += steps[at]
        pages = min(level, vm.maximum_bytes) // PAGE_SIZE
        vm.add(at, then - at, pages, pages, pages)
    return vm


def _size(what: str, text: str, least: int = PAGE_SIZE) -> int:
    return named_size(what, text, least, MANAGER_FIGURE_BYTES_MAX)


def _time(what: str, text: str) -> int:
    """Return a duration in tenths of a second."""
    days = text.removesuffix("d")
    try:
        if days != text and days.isascii() and days.isdigit() and len(days) < 5:
            return int(days) * 864_000
        return parse_duration(text) // _DS_NS
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error


def length_of(what: str, text: str) -> int:
    """Return the length of a load in tenths of a second; ConfigError names *what* says it."""
    length = _time(what, text)
    if not 0 < length <= SIMULATED_S_MAX * 10:
        raise ConfigError(f"{what}: {text} is not above 0 and at most {SIMULATED_S_MAX // 86_400} days")
    return length

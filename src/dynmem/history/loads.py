"""What each VM needed, span by span, and what there was: read out of a history, for all that adds it up.

    need of a VM      the most that its guest used in a span of time, and its buffer or reserve, whichever is
                      more, between its minimum and maximum; `fit.counting` settles what that is in a
                      span without a report
    capacity          the budget, or what the host could give of it, less slush, reservations and what is
                      kept ready

Every span takes the most of each VM, whether or not at the same second: sums are upper bounds. Sizes are
pages.
"""

from collections.abc import Sequence
from typing import Final

from dynmem.errors import ConfigError, quoted
from dynmem.history.block import Block
from dynmem.history.past import Past, Piece
from dynmem.history.thinning import VM_COLUMNS, Series, series_of
from dynmem.units import PAGE_SIZE

_COLUMNS: Final = VM_COLUMNS | {
    "maximum_bytes",
    "minimum_bytes",
    "buffer_percent",
    "boot_bytes",
    "reserve_bytes",
}

# The first row, the one behind the last, and the span that they are of.
_Part = tuple[int, int, int]


class VmLoad:
    """One VM: figures by the number of their span, and sums over the time.

    Attributes:
        name: Its name.
        need: What it needed in each span in which its guest reported.
        silent: Its size in each in which it did not, for some of the time.
        high: What its guest used at most.
        resident: What the host held for it at most.
        static: What a fixed size would hold.
        known_ds: For how long its guest reported, in tenths of a second.
        there_ds: For how long it was there.
        short_ds: For how long it lacked something of what it wanted, at most.
        demand_sum: What its guest used, times tenths of a second.
        resident_sum: What the host held, times tenths of a second.
        resident_ds: For how long that was measured.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.need: dict[int, int] = {}
        self.high: dict[int, int] = {}
        self.resident: dict[int, int] = {}
        self.static: dict[int, int] = {}
        self.known_ds: dict[int, int] = {}
        self.silent: dict[int, int] = {}
        self.there_ds: int = 0
        self.short_ds: int = 0
        self.demand_sum: int = 0
        self.resident_sum: int = 0
        self.resident_ds: int = 0

    def see(self, piece: Piece, block: Block, parts: Sequence[_Part]) -> None:
        """Take in some rows; those of one part are of one span."""
        demand, resident, actual, short = (
            series_of(block, name, piece.for_ds) for name in ("demand", "resident", "actual", "short")
        )
        most, boot = block.figure("maximum_bytes"), block.figure("boot_bytes")
        for first, end, place in parts:
            there = [row for row in range(first, end) if most[row] is not None]
            if not there:
                continue
            last, for_ds = there[-1], piece.for_ds[first:end]
            self.there_ds += (
                sum(for_ds) if len(there) == end - first else sum(map(piece.for_ds.__getitem__, there))
            )
            size = _most(actual, first, end) or (most[last] or 0) // PAGE_SIZE
            _raise(self.static, place, max(size, (boot[last] or 0) // PAGE_SIZE))
            used = _most(demand, first, end)
            if demand is None or used is None:
                _raise(self.silent, place, size)
            else:
                self.known_ds[place] = self.known_ds.get(place, 0) + sum(demand.ds[first:end])
                self.demand_sum += sum(demand.sums[first:end])
                _raise(self.high, place, used)
                _raise(self.need, place, _need(block, last, used))
            held = _most(resident, first, end)
            if resident is not None and held is not None:
                _raise(self.resident, place, held)
                self.resident_sum += sum(resident.sums[first:end])
                self.resident_ds += sum(resident.ds[first:end])
            if short is not None:
                lacked = (
                    length for length, pages in zip(for_ds, short.high[first:end], strict=True) if pages
                )
                self.short_ds += sum(lacked)


def _most(series: Series | None, first: int, end: int) -> int | None:
    """Return the most of some rows of a series; None: it is not known in any."""
    if series is None:
        return None
    return max((each for each in series.high[first:end] if each is not None), default=None)


def _need(block: Block, row: int, used: int) -> int:
    """Return what a VM needs that uses so much, by its configuration in this row. Pages."""

    def figure(name: str) -> int:
        return block.figure(name)[row] or 0

    spare = max(-(-used * figure("buffer_percent") // 100), figure("reserve_bytes") // PAGE_SIZE)
    least, most = figure("minimum_bytes") // PAGE_SIZE, figure("maximum_bytes") // PAGE_SIZE
    return max(least, min(most, used + spare))


def _raise(figures: dict[int, int], place: int, figure: int) -> None:
    if figure > figures.get(place, -1):
        figures[place] = figure


class HostLoads:
    """All VMs, and what there was for them, by the number of the span.

    Attributes:
        ds: For how long something is recorded, in tenths of a second.
        capacity: What there was for VMs, at least.
        fixed: What there is for VMs of fixed sizes, for whom nothing is kept ready, at the end.
        vms: Every VM that was there, by its name.
    """

    def __init__(self) -> None:
        self.ds: dict[int, int] = {}
        self.capacity: dict[int, int] = {}
        self.fixed: int = 0
        self.vms: dict[str, VmLoad] = {}

    def see(self, piece: Piece, step: int) -> None:
        """Take in some rows."""
        parts: list[_Part] = []
        for row in piece.rows:
            place = piece.at_ms[row] // step
            self.ds[place] = self.ds.get(place, 0) + piece.for_ds[row]
            capacity, self.fixed = _capacity(piece.host, row)
            self.capacity[place] = min(self.capacity.get(place, capacity), capacity)
            if parts and parts[-1][1:] == (row, place):
                parts[-1] = (parts[-1][0], row + 1, place)
            else:
                parts.append((row, row + 1, place))
        if not parts:
            return
        for name, block in piece.vms(_COLUMNS):
            self.vms.setdefault(name, VmLoad(name)).see(piece, block, parts)


def _capacity(host: Block, row: int) -> tuple[int, int]:
    """Return what there was for VMs; and for those of fixed sizes, for whom nothing is kept ready. Pages."""

    def figure(name: str) -> int:
        return (host.figure(name)[row] or 0) // PAGE_SIZE

    budget = figure("budget_bytes")
    there = min(budget, figure("occupied_bytes") + figure("mem_available_bytes"))
    kept = figure("slush_bytes") + figure("reserved_bytes")
    return there - kept - figure("ready_bytes"), there - kept


def loads_of(past: Past, since_ms: int, until_ms: int, step_ms: int) -> HostLoads:
    """Return what is kept of a time, in spans of this length; UnreachableError if nothing is."""
    host = HostLoads()
    for piece in past.pieces(since_ms, until_ms):
        host.see(piece, step_ms)
    if not host.ds:
        raise past.nothing("that time")
    return host


def named(vms: Sequence[str], like: str) -> ConfigError:
    """Return the error that the VM that others are to be like was not there."""
    known = ", ".join(vms[:20]) or "none"
    return ConfigError(f"--like: no VM {quoted(like)} was there in that time: there was {known}")

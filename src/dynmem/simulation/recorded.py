"""A load from a history: what guests needed, in rows of one length, without the names of the VMs.

A VM has the number that the history gave it when it first appeared, so every trace of one history calls it
the same. A guest that reported nothing needs what the host held for it or, where that is not known, its whole
size. Times in which nothing was recorded are left out. Of a VM's settings, those that it had last count.
"""

from typing import Final

from dynmem.errors import ConfigError
from dynmem.history.block import Block
from dynmem.history.past import Past, Piece
from dynmem.history.spans import step_ms
from dynmem.history.thinning import VM_COLUMNS, Series, series_of
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX, SIMULATED_S_MAX, WEIGHT_MAX
from dynmem.manager.config import BUFFER_PERCENT_MAX
from dynmem.policy import priority_of
from dynmem.simulation.load import Load, VmLoad
from dynmem.units import PAGE_SIZE

# Rows that a time is cut into: of a week, a minute each.
_ROWS: Final = 12_000
# And of all VMs together: as they are added up, each takes more memory than in a load.
_ALL_ROWS: Final = 1_000_000
_COLUMNS: Final = VM_COLUMNS | {
    "maximum_bytes",
    "minimum_bytes",
    "buffer_percent",
    "weight",
    "priority",
    "reserve_bytes",
    "boot_bytes",
}
_PAGES_MAX: Final = MANAGER_FIGURE_BYTES_MAX // PAGE_SIZE - 1
_SERIES: Final = ("demand", "resident", "actual")


class _Sum:
    """One VM in one row of time: the first of the three series that is known of it counts."""

    __slots__ = ("ds", "high", "low", "rank", "total")

    def __init__(self) -> None:
        self.rank = len(_SERIES)
        self.ds = self.total = self.low = self.high = 0

    def add(self, rank: int, series: Series, row: int) -> None:
        low, high = series.low[row], series.high[row]
        if low is None or high is None or rank > self.rank:
            return
        if rank < self.rank:
            self.rank, self.low, self.high, self.ds, self.total = rank, low, high, 0, 0
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.ds += series.ds[row]
        self.total += series.sums[row]


class _Vm:
    """One VM over the time."""

    def __init__(self, number: int) -> None:
        self.load = VmLoad(number, 0, 0)
        self.sums: dict[int, _Sum] = {}

    def see(self, piece: Piece, block: Block, places: dict[int, int]) -> None:
        """Take in some rows."""
        known = [(rank, series_of(block, name, piece.for_ds)) for rank, name in enumerate(_SERIES)]
        series = [(rank, each) for rank, each in known if each is not None]
        most, last = block.figure("maximum_bytes"), None
        for row, place in places.items():
            if most[row] is None:
                continue
            last = row
            found = self.sums.setdefault(place, _Sum())
            for rank, each in series:
                found.add(rank, each, row)
        if last is not None:
            self._configure(block, last)

    def _configure(self, block: Block, row: int) -> None:
        def figure(name: str, default: int = 0, most: int = MANAGER_FIGURE_BYTES_MAX - 1) -> int:
            found = block.figure(name)[row]
            return default if found is None else max(0, min(found, most))

        load, word = self.load, block.text("priority")[row]
        load.minimum_bytes = figure("minimum_bytes")
        load.maximum_bytes = max(PAGE_SIZE, figure("maximum_bytes"))
        load.buffer_percent = figure("buffer_percent", 20, BUFFER_PERCENT_MAX)
        load.weight = max(1, figure("weight", 5000, WEIGHT_MAX))
        load.priority = priority_of(word)
        load.reserve_bytes = figure("reserve_bytes", load.reserve_bytes)


def recorded(past: Past, since_ms: int, until_ms: int) -> Load:
    """Return the load of a time; UnreachableError if nothing is kept of it."""
    step = step_ms(since_ms, until_ms, min(_ROWS, _ALL_ROWS // max(1, len(past.names))))
    lengths: dict[int, int] = {}
    vms: dict[str, _Vm] = {}
    budget = slush = 0
    for piece in past.pieces(since_ms, until_ms):
        places = {row: piece.at_ms[row] // step for row in piece.rows}
        if not places:
            continue
        for row, place in places.items():
            lengths[place] = lengths.get(place, 0) + max(0, piece.for_ds[row])
        last = max(places)
        budget = piece.host.figure("budget_bytes")[last] or budget
        slush = piece.host.figure("slush_bytes")[last] or slush
        for name, block in piece.vms(_COLUMNS):
            if name not in vms:
                vms[name] = _Vm(past.names[name])
            vms[name].see(piece, block, places)
    total = sum(lengths.values())
    if not total or not vms:
        raise past.nothing("that time" if not total else "any VM in that time")
    begins, at = {}, 0
    for place in sorted(lengths):
        begins[place] = at
        at += lengths[place]
    if not PAGE_SIZE <= budget < MANAGER_FIGURE_BYTES_MAX or total > SIMULATED_S_MAX * 10:
        raise ConfigError(f"{past.path}: a budget of {budget} bytes and {total / 10:g} s: no manager says so")
    loads = [_rows(vm, begins, lengths) for vm in vms.values()]
    return Load(
        budget,
        max(0, min(slush, budget - 1)),
        total,
        sorted((load for load in loads if load.rows), key=lambda load: load.number),
        row_ds=step // 100,
        skipped_ds=max(0, (until_ms - since_ms) // 100 - total),
    )


def _rows(vm: _Vm, begins: dict[int, int], lengths: dict[int, int]) -> VmLoad:
    for place in sorted(vm.sums):
        found, length = vm.sums[place], lengths[place]
        if found.rank == len(_SERIES) or not length:
            continue
        low, high = (max(0, min(pages, _PAGES_MAX)) for pages in (found.low, found.high))
        mean = found.total // found.ds if found.ds > 0 else high
        vm.load.add(begins[place], length, max(low, min(high, mean)), low, max(low, high))
    return vm.load

"""A history read into a trace: spans of ten minutes, or longer ones where there are many VMs or days."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from dynmem.fit.counting import AWAY, Sizes
from dynmem.fit.trace import Trace
from dynmem.history.loads import loads_of
from dynmem.history.past import Past

DAY_MS: Final = 24 * 3_600_000
#: A history keeps nothing longer.
DAYS_MAX: Final = 400
# Lengths of a span, in minutes: each divides a day.
_SPANS_MIN: Final = (10, 30, 60, 120, 240)
# Rows older than this stand for an hour.
_HOURLY_DAYS: Final = 35
_HOUR_MIN: Final = 60
# VMs times spans: with more of them, longer spans. A reader takes half a kilobyte for each.
_CELLS_MAX: Final = 750_000


def trace_of(past: Past, since_ms: int, until_ms: int) -> Trace:
    """Return what is kept of a time; UnreachableError if nothing is."""
    since_ms = max(since_ms, until_ms - DAYS_MAX * DAY_MS)
    kept = past.span_ms()
    begin_ms = since_ms if kept is None else max(since_ms, min(kept[0], until_ms))
    step = _step_ms(until_ms - begin_ms, len(past.names))
    host = loads_of(past, since_ms, until_ms, step)
    per_day, end = DAY_MS // step, until_ms // step + 1
    spans = -(-(end - min(host.ds)) // per_day) * per_day
    first = end - spans
    names = sorted(host.vms)

    def row(figures: Mapping[int, int], away: int = 0) -> Sizes:
        found = np.full(spans, away, dtype=np.int64)
        found[np.fromiter(figures, dtype=np.int64, count=len(figures)) - first] = list(figures.values())
        return found

    def rows(each: list[Mapping[int, int]]) -> Sizes:
        return np.array([row(figures, AWAY) for figures in each], dtype=np.int64).reshape(len(each), spans)

    vms = [host.vms[name] for name in names]
    return Trace(
        names=tuple(names),
        span_ms=step,
        end_ms=end * step,
        per_day=per_day,
        # A single sweep has no length yet, and is recorded all the same.
        weights=row({place: max(1, ds) for place, ds in host.ds.items()}),
        capacity=row(host.capacity),
        need=rows([vm.need for vm in vms]),
        silent=rows([vm.silent for vm in vms]),
        fixed=np.array([vm.static[max(vm.static)] if vm.static else 0 for vm in vms], dtype=np.int64),
        fixed_capacity=host.fixed,
    )


def _step_ms(length_ms: int, vms: int) -> int:
    """Return how long spans are."""
    for minutes in _SPANS_MIN:
        if minutes < _HOUR_MIN and length_ms > _HOURLY_DAYS * DAY_MS:
            continue
        if length_ms // (minutes * 60_000) * max(1, vms) <= _CELLS_MAX:
            return minutes * 60_000
    return _SPANS_MIN[-1] * 60_000

"""What a host's VMs needed over some days, span by span, as arrays.

Days are counted back from the end of the trace, so that all are whole: with an end at 15:20, each day ends at
15:20. Sizes are pages of 4 KiB.
"""

from typing import NamedTuple

import numpy as np

from dynmem.fit.counting import AWAY, Sizes, Weights, each_like, median_of, settled, usual


class Trace(NamedTuple):
    """A host over some days. The last axis of every array is time.

    Attributes:
        names: The VMs.
        span_ms: How long a span is, in milliseconds.
        end_ms: When the last one ends.
        per_day: Spans in a day.
        weights: For how long each span is recorded, in tenths of a second; 0: nothing is recorded of it.
        capacity: What there was for VMs, at least.
        need: What each VM needed at most; AWAY where its guest reported nothing.
        silent: The size of each VM where its guest reported nothing; AWAY elsewhere.
        fixed: What a fixed size of each VM holds, as it was last.
        fixed_capacity: What there is for VMs of fixed sizes, at the end.
    """

    names: tuple[str, ...]
    span_ms: int
    end_ms: int
    per_day: int
    weights: Weights
    capacity: Sizes
    need: Sizes
    silent: Sizes
    fixed: Sizes
    fixed_capacity: int

    @property
    def days(self) -> int:
        """Days, of which the first may be recorded in part."""
        return self.weights.size // self.per_day

    def until(self, days: int) -> "Trace":
        """Return the first of its days: what was known when they were over."""
        spans = days * self.per_day
        return self._replace(
            end_ms=self.end_ms - (self.days - days) * self.per_day * self.span_ms,
            weights=self.weights[:spans],
            capacity=self.capacity[:spans],
            need=self.need[:, :spans],
            silent=self.silent[:, :spans],
        )


class Model(NamedTuple):
    """What one more VM is like.

    Attributes:
        vm: The VM of the trace that it is like, by its place; None: it always needs the same.
        pages: What that is, or what the VM holds at a fixed size.
    """

    vm: int | None
    pages: int


class Loads(NamedTuple):
    """What was needed and what there was, in each span of which something is recorded or not.

    Attributes:
        weights: How long each is recorded.
        capacity: What there was for VMs.
        needed: What they needed together.
        each: What one more would have needed.
        needs: What each VM needed; 0: it was not there.
    """

    weights: Weights
    capacity: Sizes
    needed: Sizes
    each: Sizes
    needs: Sizes


def is_known(trace: Trace, model: Model) -> bool:
    """Return whether anything is known of what one more is like."""
    return model.vm is None or bool((trace.need[model.vm] >= 0).any() or (trace.silent[model.vm] >= 0).any())


def each_of(needs: Sizes, weights: Weights, model: Model) -> Sizes:
    """Return what one more needs: where its model was away, what that usually needs at most."""
    if model.vm is None:
        return np.full(weights.shape, model.pages, dtype=np.int64)
    return each_like(needs[model.vm], weights)


def as_it_was(trace: Trace, model: Model) -> Loads:
    """Return what was needed of what there was."""
    needs = settled(trace.need, trace.silent)
    each = each_of(needs, trace.weights, model)
    needs = np.maximum(needs, 0)
    return Loads(trace.weights, trace.capacity, needs.sum(axis=0), each, needs)


def as_it_is(trace: Trace, model: Model) -> Loads:
    """Return what would have been needed if the VMs that run at the end had run all the time.

    One that came later would have needed before that what it usually needs at most, and one that is gone
    nothing. A VM is gone when it has been away for a day, and for longer than ever between two times that it
    was there: a VM that runs each night is not.
    """
    needs = settled(trace.need, trace.silent)
    each = each_of(needs, trace.weights, model)
    recorded = np.flatnonzero(trace.weights)
    for row in needs:
        there = np.flatnonzero(row[recorded] >= 0)
        if not there.size:
            continue
        away = recorded.size - 1 - int(there[-1])
        if away > trace.per_day and away > np.diff(there, prepend=there[0]).max() - 1:
            row[:] = AWAY
        elif there[0]:
            row[: recorded[there[0]]] = usual(row, trace.weights)
    needs = np.maximum(needs, 0)
    return Loads(trace.weights, trace.capacity, needs.sum(axis=0), each, needs)


def median_model(trace: Trace) -> int | None:
    """Return the VM in the middle of those that run now, by what they usually need; None: there is none.

    Those that never reported count only where no other ran.
    """
    needs = settled(trace.need, trace.silent)
    recorded = np.flatnonzero(trace.weights)[-trace.per_day :]
    there = (needs[:, recorded] >= 0).any(axis=1)
    reporting = there & (trace.need >= 0).any(axis=1)
    chosen = np.flatnonzero(reporting if reporting.any() else there).tolist()
    return median_of(chosen, trace.names, needs, trace.weights)

"""A snapshot of a host for `dynmem fit --hosts`: the last week by hours, as a small file of JSON.

It holds what `dynmem fit` answers from on that host: what there was for VMs, less what is lost each week,
and what those that run now needed, at most in each hour. Sizes are MiB, so that a thousand VMs fit in a
megabyte. The file may come from anyone: it is of bounded size, and one that is wrong is named.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from dynmem.errors import ConfigError, UnreachableError
from dynmem.fit.counting import Sizes, Weights, quantile
from dynmem.fit.forecast import ahead_of
from dynmem.fit.trace import Model, Trace
from dynmem.limits import FIT_SNAPSHOT_BYTES_MAX, MANAGER_NAME_MAX, MANAGER_VMS_MAX
from dynmem.units import MIB, PAGE_SIZE

#: Hours of a week.
HOURS: Final = 168
SCHEMA_VERSION: Final = 1
FORMAT: Final = "dynmem fit snapshot"
HOUR_MS: Final = 3_600_000
_PAGES: Final = MIB // PAGE_SIZE
# The largest size that there can be, MANAGER_FIGURE_BYTES_MAX.
_MIB_MAX: Final = 1 << 32

Mib = Annotated[int, msgspec.Meta(ge=0, le=_MIB_MAX)]
Name = Annotated[str, msgspec.Meta(max_length=MANAGER_NAME_MAX)]


class VmWeek(msgspec.Struct, frozen=True, kw_only=True):
    """A VM that others may be like.

    Attributes:
        name: Its name; "vm-1" and so on where names were left out.
        fixed_mib: What a fixed size holds.
        usual_mib: What it needed at most in all but a hundredth of the time.
        need_mib: What it needed at most in each hour; null: it was not there.
    """

    name: Name
    fixed_mib: Mib
    usual_mib: Mib
    need_mib: msgspec.Raw


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A host over a week, by hours; the last hour is the last of each list.

    Attributes:
        format: "dynmem fit snapshot".
        schema_version: The version of these fields: it rises when programs have to change.
        host: The host's name; empty where names were left out.
        until_hour: When the last hour ends, in hours since 1970-01-01 00:00 UTC.
        recorded_s: For how much of each hour something is recorded.
        capacity_mib: What there was for VMs at least, less what is lost each week.
        needed_mib: What the VMs that run now needed together at most.
        fixed_capacity_mib: What there is for VMs of fixed sizes.
        fixed_mib: What fixed sizes of the VMs that run now hold.
        vms: The VMs.
    """

    format: Literal["dynmem fit snapshot"]
    schema_version: Literal[1]
    host: Annotated[str, msgspec.Meta(max_length=255)]
    until_hour: Annotated[int, msgspec.Meta(ge=0, le=1 << 32)]
    recorded_s: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=3600)]], msgspec.Meta(max_length=HOURS)]
    capacity_mib: Annotated[list[Mib], msgspec.Meta(max_length=HOURS)]
    needed_mib: Annotated[list[Mib], msgspec.Meta(max_length=HOURS)]
    fixed_capacity_mib: Mib
    fixed_mib: Mib
    vms: Annotated[list[VmWeek], msgspec.Meta(max_length=MANAGER_VMS_MAX)]


Needs = Annotated[list[Mib | None], msgspec.Meta(max_length=HOURS)]
_SNAPSHOT: Final = msgspec.json.Decoder(Snapshot)
_NEEDS: Final = msgspec.json.Decoder(Needs)


class Week(NamedTuple):
    """A host by the hour of the week, the first of which is Thursday 00:00 UTC, as that of 1970 was. MiB.

    Attributes:
        host: Its name.
        until_hour: When its last hour ends.
        weights: For how long each hour is recorded, in seconds.
        capacity: What there was for VMs.
        needed: What they needed.
        fixed_left: What is left beside fixed sizes; below 0: it is missing.
        models: The VMs of the name that was asked for: fixed size, and need in each hour.
    """

    host: str
    until_hour: int
    weights: Weights
    capacity: Sizes
    needed: Sizes
    fixed_left: int
    models: tuple[tuple[int, Sizes], ...]


def snapshot_of(trace: Trace, risk: float, host: str, *, names: bool = True) -> Snapshot:
    """Return the last week of a host, with or without names."""
    loads, _ = ahead_of(trace, Model(None, 1), risk)
    first_ms = trace.end_ms - trace.weights.size * trace.span_ms
    hours = _hours(first_ms, trace)
    since = max(0, int(np.searchsorted(hours, hours[-1] - HOURS + 1)))
    # A span longer than an hour stands for each of its hours.
    times = max(1, trace.span_ms // HOUR_MS)
    starts = np.flatnonzero(np.diff(hours[since:], prepend=-1))

    def by_hour(figures: Sizes, most: np.ufunc) -> Sizes:
        found: Sizes = np.repeat(most.reduceat(figures[..., since:], starts, axis=-1), times, axis=-1)
        return found

    weights = by_hour(trace.weights, np.add) // times
    recorded = np.where(trace.weights > 0, loads.capacity, np.iinfo(np.int64).max)
    capacity = np.where(weights > 0, np.maximum(by_hour(recorded, np.minimum), 0), 0)
    needs = -(-by_hour(loads.needs, np.maximum) // _PAGES)
    fixed = -(-trace.fixed // _PAGES)
    runs = np.flatnonzero(loads.needs.any(axis=1))
    last = int(np.flatnonzero(trace.weights)[-1])
    holds = (trace.need[:, last] >= 0) | (trace.silent[:, last] >= 0)
    return Snapshot(
        format=FORMAT,
        schema_version=SCHEMA_VERSION,
        host=host if names else "",
        until_hour=(trace.end_ms - 1) // HOUR_MS + 1,
        recorded_s=np.minimum(-(-weights // 10), 3600).tolist(),
        capacity_mib=(capacity // _PAGES).tolist(),
        needed_mib=(-(-by_hour(loads.needed, np.maximum) // _PAGES)).tolist(),
        fixed_capacity_mib=max(0, trace.fixed_capacity) // _PAGES,
        fixed_mib=int(fixed[holds].sum()),
        vms=[
            VmWeek(
                name=trace.names[vm] if names else f"vm-{number}",
                fixed_mib=int(fixed[vm]),
                usual_mib=-(-quantile(loads.needs[vm], trace.weights * (loads.needs[vm] > 0)) // _PAGES),
                need_mib=msgspec.Raw(msgspec.json.encode([size or None for size in needs[vm].tolist()])),
            )
            for number, vm in enumerate(runs, 1)
        ],
    )


def _hours(first_ms: int, trace: Trace) -> Sizes:
    """Return the hour since 1970 in which each span begins."""
    found: Sizes = (first_ms + np.arange(trace.weights.size, dtype=np.int64) * trace.span_ms) // HOUR_MS
    return found


def encoded(snapshot: Snapshot) -> bytes:
    """Return the file of a snapshot."""
    return msgspec.json.encode(snapshot) + b"\n"


def load(path: Path) -> bytes:
    """Return a file's bytes; ConfigError or UnreachableError if it is too large, not a file or not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"cannot be opened ({error}): export it again, or correct its name") from error
    data = bytearray()
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError("not a plain file: name a file that `dynmem fit --snapshot` has written")
        while len(data) <= FIT_SNAPSHOT_BYTES_MAX and (
            piece := os.read(descriptor, FIT_SNAPSHOT_BYTES_MAX + 1 - len(data))
        ):
            data += piece
    except OSError as error:
        raise UnreachableError(f"cannot be read ({error}): export it again") from error
    finally:
        os.close(descriptor)
    return _bounded(bytes(data))


def _bounded(data: bytes) -> bytes:
    """Return the bytes of a snapshot; ConfigError if they are more than one has."""
    if len(data) > FIT_SNAPSHOT_BYTES_MAX:
        raise ConfigError(
            f"more than {FIT_SNAPSHOT_BYTES_MAX >> 20} MiB, which no snapshot has: export it again"
        )
    return data


def week_of(data: bytes, name: str, like: str | None = None) -> Week:
    """Return what a snapshot says, with the VMs called *like*; ConfigError if it is wrong.

    A host that has no name in it is called *name*.
    """
    _bounded(data)
    try:
        found = _SNAPSHOT.decode(data)
        models = [(vm, _NEEDS.decode(vm.need_mib)) for vm in found.vms if vm.name == like]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"not a snapshot of version {SCHEMA_VERSION} ({error}): write it with `dynmem fit --snapshot`"
        ) from error
    length = len(found.recorded_s)
    lengths = {len(found.capacity_mib), len(found.needed_mib), *(len(needs) for _, needs in models)}
    if not length or lengths != {length}:
        raise ConfigError("its lists of hours differ in length, or are empty: export it again")
    if not any(found.recorded_s):
        raise ConfigError("nothing is recorded in any of its hours: let the manager observe for a day")
    places = np.arange(found.until_hour - length, found.until_hour) % HOURS

    def week(figures: Sequence[int | None], away: int = 0) -> Sizes:
        row = np.full(HOURS, away, dtype=np.int64)
        row[places] = [away if each is None else each for each in figures]
        return row

    return Week(
        host=found.host or name,
        until_hour=found.until_hour,
        weights=week(found.recorded_s),
        capacity=week(found.capacity_mib),
        needed=week(found.needed_mib),
        fixed_left=found.fixed_capacity_mib - found.fixed_mib,
        models=tuple((vm.fixed_mib, week(needs, vm.usual_mib)) for vm, needs in models),
    )


def schema() -> Mapping[str, Any]:
    """Return the JSON Schema of a snapshot."""
    (made,), components = msgspec.json.schema_components((Snapshot,), ref_template="#/$defs/{name}")
    needs = msgspec.json.schema(Needs)
    components["VmWeek"]["properties"]["need_mib"] = needs
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "$defs": components}

"""``dynmem fit --hosts``: how many more VMs of a kind fit on each of many hosts, and where the next one goes.

The files are read by an executor of the caller's (`concurrent.futures.Executor`): a pool of processes on this
machine, or Dask's `Client.get_executor()` on a cluster, whose workers must see the files, or are given their
bytes. A piece of work is some files; its result is some kilobytes for each. All hosts are counted at once.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from dynmem.errors import ConfigError, DynmemError, quoted
from dynmem.fit.counting import Counts, Sizes, Weights, count, fits_static, most
from dynmem.fit.snapshot import HOURS, Week, load, week_of
from dynmem.limits import FIT_HOSTS_MAX
from dynmem.units import MIB

#: A snapshot: a file, or what it is called in the answer and its bytes.
Source = Path | tuple[str, bytes]

# Files in one piece of work: enough that handing it out costs little, and few enough for many workers.
_PIECE: Final = 25


class HostFit(msgspec.Struct, frozen=True, kw_only=True):
    """One host.

    Attributes:
        host: Its name.
        file: The file that its snapshot is from.
        fits: How many more fit within the risk, beside what is to be kept; -1: not even those that run.
        fits_static: How many more would fit if all VMs had fixed sizes.
        left_bytes: What is left in the worst hour of the week; below 0: it is missing.
        worst_hour: Which hour that is, in hours since Monday 00:00 UTC.
        late_share: In which part of the week those that run do not fit.
        at_risk: Whether that is more than the risk.
    """

    host: str
    file: str
    fits: int
    fits_static: int
    left_bytes: int
    worst_hour: int
    late_share: float
    at_risk: bool


class Problem(msgspec.Struct, frozen=True):
    """A file that was left out.

    Attributes:
        file: The file.
        error: Why.
    """

    file: str
    error: str


class FleetReply(msgspec.Struct, frozen=True, kw_only=True):
    """How many more VMs of a kind fit on many hosts.

    Attributes:
        like: The VM that one more is like; null: it needs its whole size at all times.
        each_bytes: What one more needs at most in the hour in which it needs most.
        each_fixed_bytes: What it holds at a fixed size.
        risk: The share of the time that is accepted.
        keep_bytes: What is to stay free on each host.
        fits: How many more fit on all hosts together.
        fits_static: How many more would fit if all VMs had fixed sizes.
        next: The hosts to which the next VMs should go, in this order; fewer than asked for: no more fit.
        asked: For how many VMs a host was asked for.
        hosts: Every host, by name.
        problems: Every file that was left out, by its name.
    """

    like: str | None
    each_bytes: int
    each_fixed_bytes: int
    risk: float
    keep_bytes: int
    fits: int
    fits_static: int
    next: tuple[str, ...]
    asked: int
    hosts: tuple[HostFit, ...]
    problems: tuple[Problem, ...]


class Read(NamedTuple):
    """What became of a source.

    Attributes:
        file: The source.
        week: What it says; None: it is left out.
        problem: Why.
    """

    file: str
    week: Week | None
    problem: str = ""


def fleet_of(
    sources: Sequence[Source],
    executor: Executor,
    *,
    like: str | None = None,
    size: int | None = None,
    risk: float = 0.01,
    keep: int = 0,
    vms: int = 1,
) -> FleetReply:
    """Return how many more fit on each host, and where the next *vms* should go.

    One more is like the VM *like* of one of the hosts (its name, or HOST/NAME), or needs *size* bytes at all
    times. On each host, *keep* bytes stay free. A source that is wrong is left out and named. Their order
    changes nothing. ConfigError if there is no host, or nothing to be like.
    """
    if (like is None) == (size is None):
        raise ConfigError(
            "say what one more VM is like: --like VM, --like HOST/VM or --size 4G, and one of them"
        )
    if len(sources) > FIT_HOSTS_MAX:
        raise ConfigError(f"{len(sources)} snapshots are more than {FIT_HOSTS_MAX}: name fewer at a time")
    host, _, vm = (like or "").rpartition("/")
    reads = list(_in_pieces(sources, executor, vm if like is not None else None))
    problems = [Problem(read.file, read.problem) for read in reads if read.week is None]
    weeks = _usable([(read.file, read.week) for read in reads if read.week is not None], problems)
    if not weeks:
        why = f": {problems[0].file}: {problems[0].error}" if problems else ""
        raise ConfigError(f"no snapshot can be used{why}")
    fixed, each = _model(weeks, host, vm) if size is None else (-(-size // MIB), _even(size))
    capacity, needed, weights = (
        np.stack(rows)
        for rows in zip(*((week.capacity, week.needed, week.weights) for _, week in weeks), strict=True)
    )
    kept = capacity - -(-keep // MIB)
    fits = most(count(kept, needed, each), weights, risk)
    # An hour of which nothing is recorded is not the worst.
    left = np.where(weights > 0, kept - needed, np.iinfo(np.int64).max >> 1)
    static = [fits_static(week.fixed_left - -(-keep // MIB), fixed) for _, week in weeks]
    hosts = _hosts(weeks, fits, static, capacity - needed, weights, risk)
    return FleetReply(
        like=like,
        each_bytes=int(each.max()) * MIB,
        each_fixed_bytes=fixed * MIB,
        risk=risk,
        keep_bytes=keep,
        fits=int(np.maximum(fits, 0).sum()),
        fits_static=sum(static),
        next=tuple(weeks[at][1].host for at in _places(left, each, fits, vms)),
        asked=vms,
        hosts=hosts,
        problems=tuple(sorted(problems, key=lambda each: (each.file, each.error))),
    )


def _in_pieces(sources: Sequence[Source], executor: Executor, like: str | None) -> Iterator[Read]:
    """Have the executor read all sources, and yield what became of each."""
    try:
        pieces = [
            executor.submit(read_some, tuple(sources[at : at + _PIECE]), like)
            for at in range(0, len(sources), _PIECE)
        ]
        for piece in pieces:
            yield from piece.result()
    except BrokenExecutor as error:
        raise DynmemError(
            f"a process that read snapshots ended ({error}): try again, with fewer files"
        ) from error


def read_some(sources: Sequence[Source], like: str | None) -> list[Read]:
    """Return what some sources say, with the VMs called *like*: what a worker does."""
    found = []
    for source in sources:
        file = str(source) if isinstance(source, Path) else source[0]
        try:
            data = load(source) if isinstance(source, Path) else source[1]
            found.append(Read(file, week_of(data, file, like)))
        except DynmemError as error:
            found.append(Read(file, None, str(error)))
    return found


def _usable(found: list[tuple[str, Week]], problems: list[Problem]) -> list[tuple[str, Week]]:
    """Return one snapshot of each host, by name; what is left out is added to the problems."""
    if not found:
        return []
    # Of all snapshots, so that one with a wrong clock does not make the others old.
    middle = sorted(week.until_hour for _, week in found)[(len(found) - 1) // 2]
    by_host: dict[str, tuple[str, Week]] = {}
    for file, week in sorted(found, key=lambda each: (-each[1].until_hour, each[0])):
        off = week.until_hour - middle
        if abs(off) > HOURS:
            days, when = abs(off) // 24, "before" if off < 0 else "after"
            why = f"its week ends {days} days {when} that of most others: export it again, or check its clock"
            problems.append(Problem(file, why))
        elif week.host in by_host:
            why = f"{by_host[week.host][0]} is of the same host {quoted(week.host)}, and not older"
            problems.append(Problem(file, f"{why}: leave one of them out"))
        else:
            by_host[week.host] = (file, week)
    return [by_host[host] for host in sorted(by_host)]


def _even(size: int) -> Sizes:
    return np.full(HOURS, -(-size // MIB), dtype=np.int64)


def _model(weeks: Sequence[tuple[str, Week]], host: str, vm: str) -> tuple[int, Sizes]:
    """Return the fixed size of the VM that one more is like, and its need in each hour."""
    found = [(week.host, model) for _, week in weeks if host in ("", week.host) for model in week.models]
    if not found:
        raise ConfigError(
            f"--like: no VM {quoted(vm)} is in the snapshots{f' of {quoted(host)}' if host else ''}"
        )
    if len(found) > 1:
        names = ", ".join(sorted({each for each, _ in found})[:5])
        raise ConfigError(f"--like: {len(found)} VMs are called {quoted(vm)} ({names}, ...): say HOST/{vm}")
    return found[0][1]


def _hosts(
    weeks: Sequence[tuple[str, Week]],
    fits: Counts,
    static: Sequence[int],
    left: Sizes,
    weights: Weights,
    risk: float,
) -> tuple[HostFit, ...]:
    """Return each host's figures; *left* is what is left now, with what is to be kept."""
    late = np.where(left < 0, weights, 0).sum(axis=1) / weights.sum(axis=1)
    worst = np.where(weights > 0, left, np.iinfo(np.int64).max).argmin(axis=1)
    return tuple(
        HostFit(
            host=week.host,
            file=file,
            fits=int(fits[at]),
            fits_static=static[at],
            left_bytes=int(left[at, worst[at]]) * MIB,
            worst_hour=since_monday(int(worst[at])),
            late_share=float(late[at]),
            at_risk=bool(late[at] > risk),
        )
        for at, (file, week) in enumerate(weeks)
    )


def since_monday(place: int) -> int:
    """Return an hour of the week in hours since Monday 00:00: the first place is Thursday."""
    return (place + 3 * 24) % HOURS


def _places(left: Sizes, each: Sizes, fits: Counts, vms: int) -> list[int]:
    """Return the hosts for the next VMs: each goes where most is left beside it in the worst hour."""
    room = left - each
    worst, free = room.min(axis=1), fits.copy()
    found = []
    for _ in range(vms):
        open_hosts = np.flatnonzero(free > 0)
        if not open_hosts.size:
            break
        at = int(open_hosts[worst[open_hosts].argmax()])
        found.append(at)
        free[at] -= 1
        room[at] -= each
        worst[at] = room[at].min()
    return found

"""``dynmem fit --hosts`` and ``--snapshot``: many hosts at once, and the file that each of them writes."""

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import click

from dynmem.cli.layout import broken, table, terminal_columns
from dynmem.cli.looking_back import in_json
from dynmem.cli.metrics import replace
from dynmem.errors import ConfigError, ExitCode, printable
from dynmem.fit.fleet import FleetReply, HostFit, fleet_of
from dynmem.fit.snapshot import encoded, snapshot_of
from dynmem.fit.trace import Trace
from dynmem.units import format_size, size_cell

# Fewer files are read sooner than a pool of processes is there.
_POOL_FROM: Final = 2000
_WORKERS_MAX: Final = 8
# Hosts, and files that were left out, that people are shown.
_HOSTS_MAX: Final = 50
_PROBLEMS_MAX: Final = 10
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WEEK: Final = 168


def write_snapshot(path: Path, trace: Trace, risk: float, *, names: bool) -> int:
    """Write the last week of this host to a file; "-": to standard output."""
    data = encoded(snapshot_of(trace, risk, os.uname().nodename, names=names))
    if str(path) == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        replace(path, data)
    return ExitCode.OK


def show_hosts(
    files: Sequence[Path],
    like: str | None,
    size: int | None,
    risk: float,
    keep: int,
    vms: int | None,
    zone_ms: int,
    *,
    as_json: bool,
) -> int:
    """Answer from snapshots: 6 if some files were left out, 5 if not all of *vms* have a place."""
    if not files:
        raise ConfigError("--hosts: name the files that `dynmem fit --snapshot` has written on the hosts")
    with _executor(len(files)) as executor:
        found = fleet_of(files, executor, like=like, size=size, risk=risk, keep=keep, vms=vms or 1)
    if as_json:
        click.echo(in_json(found))
    else:
        click.echo(rendered(found, terminal_columns(), zone_ms))
    if vms is not None and len(found.next) < vms:
        return ExitCode.REFUSED
    return ExitCode.PARTIAL if found.problems else ExitCode.OK


def _executor(files: int) -> Executor:
    workers = min(_WORKERS_MAX, os.cpu_count() or 1)
    if files < _POOL_FROM or workers == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))


def rendered(found: FleetReply, columns: int | None, zone_ms: int = 0) -> str:
    """Return the answer as text: the hosts with most room first, those at risk apart."""
    lines = [each for line in _summary(found, zone_ms) for each in broken(line, columns)]
    rows = [["HOST", "FITS", "AT FIXED SIZES", "LEFT AT WORST", "WHEN"]]
    order = sorted(found.hosts, key=lambda host: (-host.left_bytes, host.host))
    rows += [_row(host, zone_ms) for host in order[:_HOSTS_MAX]]
    lines += ["", *table(rows, ("HOST", "WHEN"))]
    if len(order) > _HOSTS_MAX:
        lines.append(f"and {len(order) - _HOSTS_MAX} hosts with less left (all: --json)")
    for problem in found.problems[:_PROBLEMS_MAX]:
        lines += broken(f"left out: {printable(problem.file)}: {printable(problem.error)}", columns)
    if len(found.problems) > _PROBLEMS_MAX:
        lines.append(f"left out: {len(found.problems) - _PROBLEMS_MAX} more files (all: --json)")
    return "\n".join(lines)


def _summary(found: FleetReply, zone_ms: int) -> Iterator[str]:
    size = format_size(found.each_bytes)
    like = f"like {printable(found.like or '')} ({size} at most)"
    what = like if found.like is not None else f"that need {size} at all times"
    kept = f", with {format_size(found.keep_bytes)} kept free on each" if found.keep_bytes else ""
    yield (
        f"{found.fits} more VMs {what} fit on {len(found.hosts)} hosts within the risk of {found.risk:.2%}"
        f" of the time{kept}; {found.fits_static} if all VMs had fixed sizes"
    )
    if not found.next:
        yield "there is no host on which one more fits"
    else:
        names = ", ".join(printable(host) for host in found.next)
        yield f"the next should go to {names}" if found.asked == 1 else f"the next {found.asked}: {names}"
        if len(found.next) < found.asked:
            yield f"for the other {found.asked - len(found.next)} there is no host"
    for host in found.hosts:
        if host.at_risk:
            short = f"in {host.late_share:.2%} of the week, by up to {format_size(-host.left_bytes)}"
            yield f"at risk: {printable(host.host)}: what runs does not fit {short}, {_when(host, zone_ms)}"


def _row(host: HostFit, zone_ms: int) -> list[str]:
    left = f"-{size_cell(-host.left_bytes)}" if host.left_bytes < 0 else size_cell(host.left_bytes)
    return [printable(host.host), str(max(0, host.fits)), str(host.fits_static), left, _when(host, zone_ms)]


def _when(host: HostFit, zone_ms: int) -> str:
    """Return the worst hour by the clock of this host."""
    hour = (host.worst_hour + zone_ms // 3_600_000) % _WEEK
    return f"{_DAYS[hour // 24]} {hour % 24:02}:00"

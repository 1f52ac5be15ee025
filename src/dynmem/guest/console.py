"""The guest's serial console: one line of JSON about every 200 ms on standard output.

It needs no reader: a line that would block, or that finds no reader or no space on disk, is dropped.
"""

import os
import select
from typing import Final

import msgspec

from dynmem.guest.allocator import Allocator
from dynmem.guest.workload import Workload
from dynmem.units import NS_PER_S

REPORT_NS: Final = NS_PER_S // 5


class Report(msgspec.Struct, frozen=True, gc=False):
    """One line of the console. Pages are 4 KiB; the counters marked * only rise.

    - `t`: seconds of the guest's clock, which stands still while the VM is stopped;
    - `total_pages`: all of the guest's memory; `added_pages`: the part beyond slot 0, which every boot has;
      `absent_pages`: mapped by the hardware, but not used yet, or no longer;
    - `ballooned_pages`: in the balloon; `free_pages`: free; `floor_pages`: left free by the balloon;
    - `wanted_pages`: what the load wants; `held_pages`: what it holds; the difference is unmet demand;
    - `committed_pages`: what load and kernel have requested, as the guest reports it to the host;
    - `filled_pages`*, `verified_pages`*: whole pages written, and checked;
    - `given_pages`*, `regained_pages`*: pages given to the balloon, and returned from it;
    - `wrong_bytes`*, `wrong_pages`*: found wrong by a check;
    - `faults`*: mistakes of the host in its messages; `dropped_lines`*: console lines that were dropped.
    """

    t: float
    total_pages: int
    added_pages: int
    absent_pages: int
    ballooned_pages: int
    free_pages: int
    floor_pages: int
    wanted_pages: int
    held_pages: int
    committed_pages: int
    filled_pages: int
    verified_pages: int
    given_pages: int
    regained_pages: int
    wrong_bytes: int
    wrong_pages: int
    faults: int
    dropped_lines: int


class Console:
    """Writes lines to a descriptor without ever waiting."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._cut_off = b""
        self.dropped_lines: int = 0

    def write_line(self, line: bytes) -> None:
        """Write a line, or drop it.

        The descriptor is not made non-blocking, since other processes may share it; it is polled first. A
        pipe that is ready has room for a line. If only part of a line was written, the rest is written before
        the next one.
        """
        ready = self._poll.poll(0)
        if not ready or not ready[0][1] & select.POLLOUT:
            self.dropped_lines += 1
            return
        data = self._cut_off + line + b"\n"
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            self.dropped_lines += 1
            return
        self._cut_off = data[written:]


def report_of(
    allocator: Allocator,
    workload: Workload,
    *,
    now_ns: int,
    first_pages: int,
    mapped_pages: int,
    floor_pages: int,
    faults: int,
    dropped_lines: int,
) -> bytes:
    """Return the line that reports the guest's state."""
    return msgspec.json.encode(
        Report(
            t=round(now_ns / NS_PER_S, 3),
            total_pages=allocator.total_pages,
            added_pages=allocator.total_pages - first_pages,
            absent_pages=mapped_pages - allocator.total_pages,
            ballooned_pages=allocator.ballooned_pages,
            free_pages=allocator.available_pages,
            floor_pages=floor_pages,
            wanted_pages=workload.wanted_pages,
            held_pages=workload.held_pages,
            committed_pages=allocator.committed_pages,
            filled_pages=workload.filled_pages,
            verified_pages=workload.verified_pages,
            given_pages=allocator.given_pages,
            regained_pages=allocator.regained_pages,
            wrong_bytes=workload.wrong_bytes,
            wrong_pages=workload.wrong_pages,
            faults=faults,
            dropped_lines=dropped_lines,
        )
    )

"""The guest's serial console: one line of JSON about every 200 ms on standard output.

Nobody need read it: a line that would block, or that finds no reader or no room on a disk, is dropped.
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
    """One line of the console. Counters of pages are in units of 4 KiB; those marked * only ever rise.

    - `t`: seconds of the guest's clock, which stands still while the VM is stopped;
    - `total_pages`: all of the guest's memory; `added_pages`: what of it is beyond slot 0, the
      memory that every boot has; `absent_pages`: what the hardware has mapped beside it, for memory that is
      not used yet, or no longer;
    - `ballooned_pages`: what the host has of it; `free_pages`: what nobody uses; `floor_pages`: what the
      balloon leaves free;
    - `wanted_pages`: what the load asks for, `held_pages`: what it has; the difference is unmet demand;
    - `committed_pages`: what the load and the kernel ask for, as the guest reports it to the host;
    - `filled_pages`*, `verified_pages`*: pages written whole and checked whole;
    - `given_pages`*, `regained_pages`*: pages that went to the host and that came back;
    - `wrong_bytes`*, `wrong_pages`*: what did not check out;
    - `faults`*: what the host got wrong in its messages; `dropped_lines`*: console lines that nobody took.
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
    """Writes lines to a descriptor without ever waiting for it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._cut_off = b""
        self.dropped_lines: int = 0

    def write_line(self, line: bytes) -> None:
        """Write a line, or drop it.

        The descriptor is not made non-blocking, since others may share it; it is asked first. A pipe that
        says it has room takes as much as a line has. If only part of a line went out, the rest goes before
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
    """The line that says how the guest is."""
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

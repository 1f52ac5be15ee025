"""The serial console: whole lines or none, and never a wait."""

import os
from pathlib import Path

import msgspec
import numpy as np

from dynmem.guest.allocator import Allocator
from dynmem.guest.console import Console, Report, report_of
from dynmem.guest.curve import parse_load
from dynmem.guest.pattern import PAGE_WORDS
from dynmem.guest.workload import Workload
from dynmem.units import NS_PER_S

LINE = b"x" * 400


def test_lines_that_nobody_reads_are_dropped_whole() -> None:
    reader, writer = os.pipe()
    console = Console(writer)
    for _ in range(1000):
        console.write_line(LINE)
    assert console.dropped_lines > 500
    lines = os.read(reader, 1 << 20).split(b"\n")
    assert len(lines) - 1 + console.dropped_lines == 1000
    assert set(lines) == {LINE, b""}
    console.write_line(b"again")
    assert os.read(reader, 100) == b"again\n"
    os.close(reader)
    os.close(writer)


def test_a_reader_that_went_away_costs_lines_and_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    console = Console(writer)
    console.write_line(LINE)
    assert console.dropped_lines == 1
    os.close(writer)


def test_a_file_takes_every_line(tmp_path: Path) -> None:
    with (tmp_path / "serial").open("wb") as file:
        console = Console(file.fileno())
        for _ in range(100):
            console.write_line(LINE)
    assert (tmp_path / "serial").read_bytes() == (LINE + b"\n") * 100
    assert console.dropped_lines == 0


def test_a_report_says_how_the_guest_is() -> None:
    allocator = Allocator(seed=1)
    allocator.add(0, 2048)
    memory = np.zeros((2048, PAGE_WORDS), np.uint64)
    workload = Workload(memory, allocator, parse_load("steady,rate=1G"), usable_pages=2048, seed=1)
    for now in range(0, NS_PER_S, NS_PER_S // 10):
        workload.tick(now)
    allocator.allocate_for_balloon(100)
    line = report_of(
        allocator,
        workload,
        now_ns=1_234_567_890,
        first_pages=2000,
        mapped_pages=3000,
        floor_pages=7,
        faults=1,
        dropped_lines=2,
    )
    report = msgspec.json.decode(line, type=Report)
    assert (report.t, report.total_pages, report.ballooned_pages) == (1.235, 2048, 100)
    assert (report.added_pages, report.absent_pages) == (48, 952)
    assert report.held_pages == report.wanted_pages == report.filled_pages == 2048 * 8 // 10
    assert report.free_pages == 2048 - report.held_pages - 100
    assert (report.floor_pages, report.faults, report.dropped_lines, report.wrong_bytes) == (7, 1, 2, 0)

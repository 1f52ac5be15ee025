"""Duplicates across two Linux guests under QEMU: what `dynmem duplicates` finds, and a count of our own.

The guests are paused, so both counts are of the same bytes. Ours reads the same files and keeps a SHA-256
digest for each page; it shares no code with the command.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.accept.figures import Figures, in_bytes
from tests.accept.gmm.host import NotAcceptedError
from tests.rigs.managers import cli
from tests.rigs.processes import memory_files

from dynmem.lab.probe import accelerator
from dynmem.lab.qemu import QemuGuest
from dynmem.lab.workload import Load
from dynmem.qmp.client import QmpClient
from dynmem.units import MIB

NAMES: Final = ("one", "two")
MEMORY: Final = 160 * MIB
HELD: Final = 24 * MIB
PAGE: Final = 4096
ZEROS: Final = hashlib.sha256(bytes(PAGE)).digest()
_RAM: Final = "memory-backend-memfd"


async def play(folder: Path, figures: Figures) -> None:
    """Play the scene."""
    accel = accelerator().accel
    guests = [QemuGuest(name, MEMORY, folder, accel=accel, load=Load(high_bytes=HELD)) for name in NAMES]
    try:
        for guest in guests:
            guest.start()
        for guest in guests:
            figures.note(
                f"{guest.name}: QEMU, {accel}, up after", f"{guest.ready(90).t:.1f} s of its own time"
            )
        for guest in guests:
            await _pause(guest)
        blocks = {guest.name: guest.resident_bytes() for guest in guests}
        ours = {guest.name: Counter(_pages(guest.pid)) for guest in guests}
        named = [f"{guest.name}={guest.pid}" for guest in guests]
        code, out, error = await cli("duplicates", *named, "--rate", "none", "--json")
        if code:
            raise NotAcceptedError(f"`dynmem duplicates` ended with {code}: {error}")
        report = json.loads(out)
        figures.note("read", f"{in_bytes(sum(blocks.values()))} in {report['seconds']:.2f} s")
        _compare_vms(report, ours, figures)
        _compare_account(report["accounts"][0], ours, figures)
        for guest in guests:
            what = f"{guest.name}: blocks of its RAM file after both counts"
            figures.equal(
                what,
                guest.resident_bytes(),
                blocks[guest.name],
                "before: reading allocates nothing",
                in_bytes,
            )
    finally:
        for guest in guests:
            guest.stop()


def _compare_vms(report: dict[str, Any], ours: dict[str, Counter[bytes]], figures: Figures) -> None:
    """Hold each VM's figures to be those of our own count."""
    total = sum(ours.values(), Counter[bytes]())
    for vm in report["vms"]:
        own, name = ours[vm["name"]], vm["name"]
        equal = {page: count for page, count in own.items() if page != ZEROS and total[page] > 1}
        for key, pages in {
            "read_bytes": own.total(),
            "zero_bytes": own[ZEROS],
            "equal_bytes": sum(equal.values()),
            "inside_bytes": sum(count - 1 for count in equal.values()),
            "across_bytes": sum(count for page, count in equal.items() if total[page] > count),
        }.items():
            figures.equal(f"{name}: {key}", vm[key], pages * PAGE, "our count", in_bytes)
        figures.at_least(
            f"{name}: found across both VMs", vm["across_bytes"], PAGE, "they run one kernel", in_bytes
        )


def _compare_account(account: dict[str, Any], ours: dict[str, Counter[bytes]], figures: Figures) -> None:
    """Hold the sums to be those of our own count."""
    total = sum(ours.values(), Counter[bytes]())
    zeros = total.pop(ZEROS, 0)
    groups = [count for count in total.values() if count > 1]
    figures.equal("contents that occur more than once", account["contents"], len(groups), "our count")
    figures.equal("all equal pages", account["equal_bytes"], sum(groups) * PAGE, "our count", in_bytes)
    saved = zeros + sum(groups) - len(groups)
    figures.equal("what sharing would save", account["sharing_bytes"], saved * PAGE, "our count", in_bytes)
    figures.equal("what balloons would save", account["balloon_bytes"], zeros * PAGE, "our count", in_bytes)
    figures.equal("changed while it was read", account["changed_bytes"], 0, "the guests are paused")


async def _pause(guest: QemuGuest) -> None:
    async with await QmpClient.connect(guest.lab_qmp_path) as client:
        await client.execute("stop")


def _pages(pid: int) -> Iterator[bytes]:
    """Yield a digest for each page of a QEMU's RAM that is not in a hole."""
    (inode,) = memory_files(pid, _RAM)
    link = next(each for each in Path(f"/proc/{pid}/fd").iterdir() if each.stat().st_ino == inode)
    with link.open("rb", buffering=0) as file:
        fd, end, at = file.fileno(), os.fstat(file.fileno()).st_size, 0
        while at < end:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                return  # the rest is a hole
            hole = os.lseek(fd, at, os.SEEK_HOLE)
            while at < hole:
                yield hashlib.sha256(os.pread(fd, PAGE, at)).digest()
                at += PAGE

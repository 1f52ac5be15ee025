"""Figures of the run while it goes on: how soon readers are served, and what the manager takes."""

import asyncio
import csv
import json
import os
import statistics
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tests.accept.daytwo.answers import MOVED_SLACK, WITHIN_S, hold_none, seconds
from tests.accept.daytwo.beside import FOLLOWED_S, TEXTFILE_S, Beside
from tests.accept.daytwo.brackets import Point, Track
from tests.accept.daytwo.diary import Diary
from tests.accept.daytwo.script import VMS
from tests.accept.figures import Figures, in_bytes
from tests.rigs.managers import DYNMEM, RunningManager

from dynmem.dates import parse_date
from dynmem.units import KIB, MIB, NS_PER_S

READERS: Final = 20
#: Prometheus gives up on a scrape after so long, by default.
SCRAPE_S: Final = 10.0
ASKED: Final = 20
#: Twenty sweeps are one transaction of the history, docs/history.md.
WRITTEN_S: Final = 30.0
STATUS_MS: Final = 150.0
MANAGER_BYTES: Final = 80 * MIB
MANAGER_BYTES_A_VM: Final = MIB // 10


async def scraped_by_many(beside: Beside, figures: Figures) -> None:
    """Have twenty readers ask for the metrics at the same moment."""
    start = threading.Barrier(READERS)
    url = f"http://127.0.0.1:{beside.metrics_port}/metrics"

    def scrape(_: int) -> tuple[int, float, bytes]:
        start.wait()
        begun = time.monotonic()
        with urllib.request.urlopen(url, timeout=SCRAPE_S) as reply:
            return reply.status, time.monotonic() - begun, reply.read()

    def all_at_once() -> list[tuple[int, float, bytes]]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(scrape, range(READERS)))

    found = await asyncio.to_thread(all_at_once)
    figures.equal(
        f"metrics: {READERS} readers at once: replies",
        [code for code, _, _ in found].count(200),
        READERS,
        "all",
    )
    figures.at_most("  different texts", len({text for _, _, text in found}), 2, "one a second")
    figures.at_most(
        "  seconds of the slowest", max(took for _, took, _ in found), SCRAPE_S, "Prometheus waits"
    )


async def status_is_quick(manager: RunningManager, figures: Figures) -> None:
    """Time `dynmem status`, the whole command."""

    def timed() -> tuple[float, float]:
        """Return how long it took, and how much of that a processor worked for it."""
        begun = time.monotonic()
        command = [*DYNMEM, "status", "--socket", str(manager.socket)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        assert process.returncode == 0
        return 1000 * (time.monotonic() - begun), 1000 * (used.ru_utime + used.ru_stime)

    took = await asyncio.to_thread(lambda: [timed() for _ in range(ASKED)])
    figures.note(
        f"status: median of {ASKED} commands, ms", f"{statistics.median(all_ms for all_ms, _ in took):.0f}"
    )
    figures.note("  the quickest", f"{min(all_ms for all_ms, _ in took):.0f}")
    work_ms = min(work_ms for _, work_ms in took)
    figures.at_most("  its own work, ms", work_ms, STATUS_MS, "guests have the processors, too")


def manager_is_small(manager: RunningManager, figures: Figures) -> None:
    """Look at what the manager's process takes."""
    most = MANAGER_BYTES + len(VMS) * MANAGER_BYTES_A_VM
    for line in Path(f"/proc/{manager.process.pid}/status").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "VmHWM":
            figures.note("manager: the most it ever held", in_bytes(int(rest.split()[0]) * KIB))
        if name == "VmRSS":
            held = int(rest.split()[0]) * KIB
            figures.at_most(
                "manager: resident memory", held, most, "80 MiB and 0.1 MiB for each VM", in_bytes
            )


def followed_all(beside: Beside, events: list[dict[str, Any]], figures: Figures) -> None:
    """Hold what was followed against what the history has."""
    followed = [each["id"] for each in beside.followed()]
    expected = [
        each["id"]
        for each in events
        if each["id"] >= followed[0] and seconds(each) < beside.ended_s - FOLLOWED_S / 2
    ]
    followed = followed[: len(expected)]  # more may have happened in the last moment
    figures.equal("events --follow: events", len(followed), len(expected), "what the history has since")
    figures.true("  the same, in order", followed == expected, "by their numbers", holds=followed == expected)
    figures.equal("  exit code", beside.codes["events"], 130, beside.errors("events") or "Ctrl-C")


def top_agrees(beside: Beside, diary: Diary, figures: Figures) -> None:
    """Hold the rows of `dynmem top -b` against each look at the VMs."""
    with (beside.folder / "top").open(newline="") as file:
        rows = list(csv.DictReader(file))
    looks = len({row["at"] for row in rows})
    figures.at_least("top -b: looks, one a second", looks, 0.9 * (diary.ended_s - diary.began_s), "the run")
    for vm in VMS:
        sizes = Track(
            Point(parse_date(row["at"]) / NS_PER_S, size, size)
            for row in rows
            if row["vm"] == vm and row["actual_bytes"]
            for size in (float(row["actual_bytes"]),)
        )
        seen = [
            (at_s, float(each.size))
            for at_s, each in diary.of(vm)
            if diary.began_s < at_s and not diary.is_new(vm, at_s)
        ]
        against = sizes.against(seen, within_s=WITHIN_S, slack=MOVED_SLACK)
        hold_none(f"  looks at {vm} that it contradicts", against, MOVED_SLACK, figures)
    figures.equal("  exit code", beside.codes["top"], 130, beside.errors("top") or "Ctrl-C")


async def page_agrees(beside: Beside, diary: Diary, figures: Figures) -> None:
    """Hold what the page plots and lists against each look at the VMs, and against what was followed."""
    followed = {each["id"] for each in beside.followed()}
    span = {"since": f"{diary.began_s:.3f}", "until": f"{diary.ended_s:.3f}"}
    for vm in VMS:
        parameters = {"of": f"vm:{vm}", "points": "2000", **span}
        found = await asyncio.to_thread(_asked, f"{beside.web}/api/series", parameters)
        sizes = Track(
            Point(at_s, size, size)
            for at_s, size in zip(found["from_s"], found["series"]["actual_bytes"], strict=True)
            if size is not None
        )
        seen = [
            (at_s, float(each.size))
            for at_s, each in diary.of(vm)
            if diary.began_s <= at_s < diary.ended_s - WRITTEN_S and not diary.is_new(vm, at_s)
        ]
        against = sizes.against(seen, within_s=WITHIN_S, slack=MOVED_SLACK)
        hold_none(f"web: looks at {vm} that its plot contradicts", against, MOVED_SLACK, figures)
    found = await asyncio.to_thread(_asked, f"{beside.web}/api/events", {"limit": "1000"})
    missing = followed - {each["id"] for each in found["events"]}
    figures.equal("  followed events that it does not list", missing, set(), "both read the history")


def _asked(url: str, parameters: dict[str, str]) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=SCRAPE_S) as reply:
        found: dict[str, Any] = json.load(reply)
        return found


async def textfile_is_whole(beside: Beside, diary: Diary, figures: Figures) -> None:
    """Hold the file for node_exporter against what is scraped."""
    text = beside.textfile.read_text()
    least = (diary.ended_s - diary.began_s) / (TEXTFILE_S + 3)
    figures.at_least(
        "textfile: times that it was written", beside.textfiles, least, f"every {TEXTFILE_S:g} s"
    )
    age_s = diary.ended_s - sample(text, "dynmem_last_sweep_timestamp_seconds")
    figures.at_most("  seconds since the sweep that it is of", age_s, TEXTFILE_S + 5, "its timer")
    url = f"http://127.0.0.1:{beside.metrics_port}/metrics"

    def scrape() -> str:
        with urllib.request.urlopen(url, timeout=SCRAPE_S) as reply:
            return str(reply.read().decode())

    apart = families(text) ^ families(await asyncio.to_thread(scrape))
    figures.equal("  families of metrics that only one of file and page has", apart, set(), "the same")


def families(text: str) -> set[str]:
    """Return the names of the metrics in a text."""
    return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}


def sample(text: str, name: str) -> float:
    """Return the value of a metric without labels."""
    (value,) = [line.split()[1] for line in text.splitlines() if line.split()[:1] == [name]]
    return float(value)

"""A real Linux guest: it boots, its load obeys, its reports are true, and it leaves nothing behind."""

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.rigs.linux_guest import FAST, Boot, Until, said
from tests.rigs.processes import is_there
from tests.rigs.scenes import wait_until

from dynmem.errors import DeadlineError
from dynmem.lab.probe import try_kvm
from dynmem.lab.qemu import GuestLostError, QemuGuest
from dynmem.lab.workload import Load
from dynmem.units import GIB, MIB, NS_PER_S, PAGE_SIZE

pytestmark = pytest.mark.qemu


def pages(mib: int) -> int:
    return mib * MIB // PAGE_SIZE


def test_the_load_holds_what_it_is_told_and_the_host_sees_it(boot: Boot, until: Until) -> None:
    guest = boot(256, load=Load(high_bytes=16 * MIB))
    until(guest, lambda: said(guest).held_pages == pages(16))
    before = guest.resident_bytes()
    guest.order(Load(high_bytes=150 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == pages(150))
    assert guest.resident_bytes() - before > 120 * MIB
    guest.order(Load(high_bytes=0, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 0)
    report = said(guest)
    assert report.verified_pages >= pages(150)
    assert (report.wrong_bytes, report.oom_kills, report.refused_orders) == (0, 0, 0)
    assert report.orders == 3


def test_reports_come_at_least_five_times_a_second_of_the_guests_time(boot: Boot, until: Until) -> None:
    guest = boot(128)
    times: set[float] = set()

    def enough() -> bool:
        times.add(said(guest).t)
        return len(times) == 12

    until(guest, enough)
    steps = np.diff(sorted(times))
    # a report that was missed makes a step longer, and nothing makes a step shorter
    assert np.quantile(steps, 0.25) <= 0.2


def test_a_report_is_fresh_although_nobody_read_for_a_while(boot: Boot) -> None:
    guest = boot(128)
    before = said(guest).t
    time.sleep(3)
    assert said(guest).t - before > 1  # and not the one that was next three seconds ago


def test_demand_follows_a_sine_within_its_bounds(boot: Boot, until: Until) -> None:
    load = Load(
        curve="sine", low_bytes=10 * MIB, high_bytes=60 * MIB, period_ns=2 * NS_PER_S, rate_bytes=FAST
    )
    guest = boot(192, load=load)
    seen: list[int] = []

    def both_ends_seen() -> bool:
        seen.append(said(guest).wanted_pages)
        settled = [wanted for wanted in seen if wanted >= pages(10)]
        return bool(settled) and min(settled) < pages(18) and max(settled) > pages(52)

    until(guest, both_ends_seen)
    assert max(seen) <= pages(60)


def test_an_order_that_makes_no_sense_is_counted_and_changes_nothing(boot: Boot, until: Until) -> None:
    guest = boot(128, load=Load(high_bytes=8 * MIB))
    until(guest, lambda: said(guest).held_pages == pages(8))
    port, _ = guest._serial()
    for text in (
        b"high=40,curve=square\n",
        b"high\n",
        b"high=40x\n",
        b"rate=0,high=40\n",
        b"depth=3\n",
        b"\xff" * 900 + b"\n",
    ):
        port.write(text)
    until(guest, lambda: said(guest).refused_orders == 6)
    assert said(guest).wanted_pages == pages(8)


def test_bytes_that_change_behind_the_loads_back_are_counted_exactly(boot: Boot, until: Until) -> None:
    guest = boot(128, load=Load(high_bytes=24 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == pages(24))
    guest.resident_bytes()
    assert guest._ram is not None
    with open(guest._ram, "r+b") as ram, mmap.mmap(ram.fileno(), guest.memory_bytes) as view:  # noqa: PTH123
        words = np.frombuffer(view, dtype=np.uint64).reshape(-1, PAGE_SIZE // 8)
        held = np.flatnonzero((np.diff(words) == 1).all(axis=1))  # each word one above the word before it
        assert len(held) >= pages(24)
        first, second = int(held[3]) * PAGE_SIZE, int(held[-3]) * PAGE_SIZE
        del words
        for place in (first + 5, first + 6, second + 4095):
            view[place] ^= 0xFF
    guest.order(Load(high_bytes=0, rate_bytes=FAST))
    until(guest, lambda: said(guest).held_pages == 0 and said(guest).wanted_pages == 0)
    assert (said(guest).wrong_bytes, said(guest).wrong_pages) == (3, 2)


def test_a_polite_load_goes_without_instead_of_dying(boot: Boot, until: Until) -> None:
    guest = boot(192, load=Load(high_bytes=300 * MIB, rate_bytes=FAST, reserve_bytes=40 * MIB))
    until(guest, lambda: said(guest).wanted_pages == pages(300) and said(guest).available_pages < pages(44))
    report = said(guest)
    assert report.unmet_pages > pages(100)
    assert report.available_pages > pages(32)
    assert (report.load, report.oom_kills) == ("running", 0)


def test_a_load_that_takes_more_than_there_is_dies_and_its_demand_stays_in_sight(
    boot: Boot, until: Until
) -> None:
    guest = boot(128, load=Load(high_bytes=300 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).load == "killed" and said(guest).oom_messages == 1)
    assert (guest.oom_kills, said(guest).oom_kills) == (1, 1)
    until(guest, lambda: said(guest).unmet_pages == pages(300))


def test_after_a_kill_an_order_can_start_the_load_again_and_read_the_disk_into_the_page_cache(
    boot: Boot, until: Until
) -> None:
    guest = boot(128, load=Load(high_bytes=300 * MIB, rate_bytes=FAST), disk_bytes=GIB)
    until(guest, lambda: said(guest).load == "killed")
    guest.order(Load(high_bytes=8 * MIB, rate_bytes=FAST))
    until(guest, lambda: said(guest).orders == 2 and said(guest).wanted_pages == pages(8))
    assert said(guest).load == "killed"
    guest.order(Load(high_bytes=8 * MIB, rate_bytes=FAST, cache_bytes=16 * MIB, revive=True))
    until(guest, lambda: said(guest).held_pages == pages(8) and said(guest).read_pages == pages(16))
    assert said(guest).load == "running"
    cached = said(guest).available_pages - said(guest).free_pages
    assert cached > pages(8), said(guest)


def test_stopping_leaves_no_process_and_no_file_and_can_be_repeated(boot: Boot, folder: Path) -> None:
    guest = boot(128)
    assert {path.name for path in folder.iterdir()} == {"g.qmp", "g.lab.qmp"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    pid = guest.pid
    guest.stop()
    guest.stop()
    assert not is_there(pid)
    assert list(folder.iterdir()) == []
    assert guest.resident_bytes() == 0
    assert not guest.alive
    guest.check()


def test_a_stopped_process_is_ended_all_the_same(boot: Boot) -> None:
    guest = boot(128)
    os.kill(guest.pid, signal.SIGSTOP)
    guest.stop()
    assert not is_there(guest.pid)


def test_a_guest_whose_qemu_ends_is_lost_with_a_sentence(boot: Boot, until: Until) -> None:
    guest = boot(128)
    os.kill(guest.pid, signal.SIGKILL)
    with pytest.raises(GuestLostError, match=r"guest g is lost: QEMU ended with exit code -9"):
        until(guest, lambda: False)


def test_what_qemu_complains_about_is_in_the_sentence(folder: Path) -> None:
    with QemuGuest("a", 128 * MIB, folder) as first:
        first.ready(60)
        second = QemuGuest("b", 128 * MIB, folder)
        second.lab_qmp_path = folder / "missing" / "b.qmp"
        with second, pytest.raises(GuestLostError, match=r"guest b is lost.*No such file"):
            second.ready(60)


def test_a_guest_that_is_not_up_in_time_says_so_and_goes(folder: Path) -> None:
    guest = QemuGuest("g", 128 * MIB, folder)
    with guest, pytest.raises(DeadlineError, match=r"sent no report within 0\.05 s"):
        guest.ready(0.05)
    assert list(folder.iterdir()) == []


def test_a_guest_dies_with_the_process_that_started_it(folder: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from dynmem.lab.qemu import QemuGuest\n"
        "guest = QemuGuest('g', 128 << 20, pathlib.Path(sys.argv[1]))\n"
        "guest.start()\n"
        "guest.ready(60)\n"
        "print(guest.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        assert is_there(pid)
        starter.kill()
    wait_until(lambda: not is_there(pid), otherwise=lambda: "QEMU outlived its starter")


def test_a_probe_that_gets_no_answer_chooses_software_emulation_and_leaves_nothing(folder: Path) -> None:
    choice = try_kvm(folder, seconds=0.001)
    assert choice.accel == "tcg"
    assert choice.reason
    assert list(folder.iterdir()) == []

"""`dynmem scan` of a real guest: its figures are those of the guest's kernel and of the file of its RAM."""

import pytest
from tests.rigs.linux_guest import Boot, Until
from tests.rigs.scans import scanned
from tests.rigs.scenes import play

from dynmem.lab.qemu import BALLOON_PATH, QemuGuest
from dynmem.lab.workload import Load
from dynmem.qmp.client import QmpClient
from dynmem.scan.report import VmReport
from dynmem.units import MIB, PAGE_SIZE

pytestmark = pytest.mark.qemu
SIZE = 256 * MIB


def hold(guest: QemuGuest, until: Until, mib: int) -> None:
    """Have the load hold so much, no less and no more."""
    guest.order(Load(high_bytes=mib * MIB, rate_bytes=512 * MIB))
    until(guest, lambda: (report := guest.read_serial()) is not None and report.held_pages == mib * 256)


def test_memory_that_a_real_guest_has_freed_is_stranded_as_its_kernel_and_its_ram_file_say(
    boot: Boot, until: Until
) -> None:
    guest = boot(SIZE // MIB)

    async def switch_statistics_on() -> None:
        async with await QmpClient.connect(guest.lab_qmp_path) as client:
            interval = {"path": BALLOON_PATH, "property": "guest-stats-polling-interval", "value": 1}
            await client.execute("qom-set", interval)

    play(switch_statistics_on())
    hold(guest, until, 120)
    hold(guest, until, 8)
    seen: list[VmReport] = []

    def says_the_same() -> bool:
        """Return whether a scan's figures are those of kernel and file; the statistics are a second old."""
        seen.append(scanned(guest.pid))
        report = guest.read_serial()
        assert report is not None
        used = SIZE - report.free_pages * PAGE_SIZE
        stranded, available = seen[-1].stranded_bytes, seen[-1].guest_available_bytes
        return (
            stranded is not None
            and stranded >= 64 * MIB
            and abs(stranded - (guest.resident_bytes() - used)) < 16 * MIB
            and available is not None
            and abs(available - report.available_pages * PAGE_SIZE) < 16 * MIB
        )

    until(guest, says_the_same)
    vm = seen[-1]
    assert (vm.driver, vm.discards, vm.knob) == ("live", "effective", "balloon")
    assert vm.could_give_bytes is not None
    assert 0 < vm.could_give_bytes <= guest.resident_bytes()

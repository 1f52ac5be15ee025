"""What stock guests report as free, by themselves: it leaves the host, and nothing that they use does.

Linux reports what has been free for two seconds. Unless page_reporting.page_reporting_order says otherwise it
reports blocks of 2 MiB, and 6.1 can report nothing smaller.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from tests.kvm.balloon_scenes import agree
from tests.kvm_rig.guests import BALLOON, MIB, Guest, running, stock_command
from tests.kvm_rig.place import GuestKernel
from tests.kvm_rig.shell import READY_S
from tests.rigs.scenes import until

from dynmem.units import PAGE_SIZE

_FREED: Final = 150
# Processes that come and go, and what they had is free for long enough to be reported.
_LOAD: Final = (
    "while [ -e /tmp/load ]; do dd if=/dev/zero bs={mib}M count=1 2>/dev/null | md5sum; sleep {pause}; done"
    " >/dev/null"
)
_BLOCKS_ONLY: Final = ("6.1",)  # whatever it is asked
_PARTS: Final = 4096
_WRITE_PARTS: Final = (
    f"while [ $i -lt {_PARTS} ]; do printf %4096d $i >/tmp/parts/$i; i=$((i+1)); done"  # a page each
)
_EVEN: Final = "/tmp/parts/*[02468]"
_ODD: Final = "/tmp/parts/*[13579]"


async def figures(guest: Guest) -> dict[str, int] | None:
    """Return what the monitor says of the reports."""
    state: dict[str, Any] = await guest.execute("x-query-hv-balloon")
    return state.get("free-page-reporting")


async def figure(guest: Guest, name: str) -> int:
    """Return one of them."""
    found = await figures(guest)
    assert found is not None
    return found[name]


def test_what_a_guest_frees_leaves_the_host_without_a_balloon(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        async with running(folder, stock_command(folder, kernel, memory="384M")) as guest:
            await agree(guest)
            await write_and_remove(guest, _FREED)
            full, reported = guest.resident_bytes(), await figure(guest, "discarded")
            await until(lambda: full - guest.resident_bytes() > (_FREED - 20) * MIB, seconds=READY_S)
            assert await figure(guest, "discarded") - reported > (_FREED - 20) * MIB
            assert await guest.actual() == 384 * MIB
            assert await guest.complaints() == []

    asyncio.run(scene())


async def write_and_remove(guest: Guest, mib: int) -> None:
    """Have the guest use memory for a file, and free it."""
    await guest.shell.sh(f"dd if=/dev/zero of=/tmp/file bs=1M count={mib} 2>/dev/null; rm /tmp/file")


def test_no_page_in_use_is_lost_while_a_guest_under_load_reports(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        async with running(folder, stock_command(folder, kernel, memory="192M")) as guest:
            await agree(guest)
            await guest.shell.sh("dd if=/dev/urandom of=/tmp/kept bs=1M count=20 2>/dev/null")
            kept = await guest.shell.sh("md5sum /tmp/kept")
            loads = [f"({_LOAD.format(mib=mib, pause=pause)}) &" for mib, pause in ((24, 3), (16, 4), (1, 0))]
            await guest.shell.sh(f"touch /tmp/load; {' '.join(loads)}")
            before = await figure(guest, "calls")
            while await figure(guest, "calls") < before + 5:
                assert await guest.shell.sh("md5sum /tmp/kept") == kept
            await guest.shell.sh("rm /tmp/load")
            assert await guest.shell.sh("md5sum /tmp/kept") == kept
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_single_pages_are_reported_where_the_kernel_can(folder: Path, kernel: GuestKernel) -> None:
    most = _PARTS // 2 * PAGE_SIZE * 3 // 4  # of what is removed

    async def scene() -> None:
        append = "page_reporting.page_reporting_order=0"
        async with running(folder, stock_command(folder, kernel, memory="192M", append=append)) as guest:
            await agree(guest)
            await guest.shell.sh(f"mkdir /tmp/parts; i=0; {_WRITE_PARTS}")
            kept = await guest.shell.sh(f"cat {_EVEN} | md5sum")
            full = guest.resident_bytes()
            await guest.shell.sh(f"rm {_ODD}")
            if kernel.name in _BLOCKS_ONLY:
                await guest.shell.sh("sleep 6")  # by the guest's own clock; it reports after two
                assert full - guest.resident_bytes() < most
            else:
                await until(lambda: full - guest.resident_bytes() > most, seconds=READY_S)
            assert await guest.shell.sh(f"cat {_EVEN} | md5sum") == kept
            assert await guest.complaints() == []

    asyncio.run(scene())


def test_a_guest_that_may_not_report_keeps_what_it_frees(folder: Path, kernel: GuestKernel) -> None:
    async def scene() -> None:
        device = f"{BALLOON},free-page-reporting=off"
        async with running(folder, stock_command(folder, kernel, memory="192M", device=device)) as guest:
            await agree(guest)
            await write_and_remove(guest, 40)
            full = guest.resident_bytes()
            await guest.shell.sh("sleep 6")  # by the guest's own clock; it reports after two
            assert guest.resident_bytes() >= full
            assert await figures(guest) is None
            assert await guest.execute("x-query-faults") == []
            assert await guest.complaints() == []

    asyncio.run(scene())

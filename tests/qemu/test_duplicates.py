"""`dynmem duplicates` over two real guests: its figures are those of a plain count of their pages."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.linux_guest import Boot
from tests.rigs.scenes import play

from dynmem.cli import main
from dynmem.discovery.processes import command_line, running_vms
from dynmem.discovery.qemu_options import name_of
from dynmem.lab.qemu import QemuGuest
from dynmem.qmp.client import QmpClient
from dynmem.ram_files import find_ram_files
from dynmem.units import MIB, PAGE_SIZE

pytestmark = pytest.mark.qemu
_ZERO = bytes(PAGE_SIZE)


async def stop(guest: QemuGuest) -> None:
    async with await QmpClient.connect(guest.qmp_path) as client:
        await client.execute("stop", {})


def pages_of(guest: QemuGuest) -> list[bytes]:
    """Return the pages of a guest's RAM that are not zero; zeros and holes look the same here."""
    (file,) = find_ram_files(guest.pid, None).ram
    data = Path(file.path).read_bytes()
    pages = (data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE))
    return [page for page in pages if page != _ZERO]


def scanned(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["duplicates", *arguments, "--rate", "none", "--json"])
    assert ended.value.code == 0
    return json.loads(capsys.readouterr().out)


def test_duplicates_of_two_stock_guests_are_those_of_a_plain_count(
    boot: Boot, capsys: pytest.CaptureFixture[str]
) -> None:
    guests = [boot(192, name=name) for name in ("web", "db")]
    for guest in guests:
        play(stop(guest))
    held = [guest.resident_bytes() for guest in guests]
    report = scanned(capsys, *(str(guest.qmp_path) for guest in guests))
    contents = [pages_of(guest) for guest in guests]
    counts = Counter(contents[0]) + Counter(contents[1])
    (account,) = report["accounts"]
    assert account["vms"] == ["web", "db"]
    assert account["contents"] == sum(count > 1 for count in counts.values())
    assert account["equal_bytes"] == PAGE_SIZE * sum(count for count in counts.values() if count > 1)
    saved = sum(count - 1 for count in counts.values()) * PAGE_SIZE
    assert account["sharing_bytes"] == saved + account["zero_bytes"]
    for vm, own, other in zip(report["vms"], contents, reversed(contents), strict=True):
        both = set(own) & set(other)
        assert vm["across_bytes"] == PAGE_SIZE * sum(page in both for page in own)
        assert vm["inside_bytes"] == PAGE_SIZE * sum(
            count - 1 for page, count in Counter(own).items() if counts[page] > 1
        )
        assert vm["across_bytes"] >= 8 * MIB  # the kernel, and what was in its initrd
    assert [guest.resident_bytes() for guest in guests] == held
    apart = scanned(
        capsys, *(str(guest.qmp_path) for guest in guests), "--account", "anna=web", "--account", "ben=db"
    )
    assert [vm["across_bytes"] for vm in apart["vms"]] == [0, 0]
    named = {pid: name_of(command_line(pid)) for pid in running_vms()}
    assert {guest.pid: guest.name for guest in guests}.items() <= named.items()

"""A channel breaks under a real guest: it is rescinded, offered again, and the guest's driver comes back."""

import mmap
import os
from pathlib import Path
from typing import Any

from tests.rigs.scenes import play, until
from tests.rigs.vms import MIB, Vm, running

from dynmem.trace.lines import MessageLine, parse
from dynmem.units import PAGE_SIZE
from dynmem.vmbus.ring import READ_INDEX
from dynmem.wire import vmbus

FULL = 64 * MIB
NO_INDEX = 3
DOWNSTREAM_PAGE = 5  # of the ten pages of our guest's rings


def messages(capture: Path) -> list[vmbus.Message]:
    """Every control message that was said so far."""
    whole = (line for line in capture.read_text().splitlines(keepends=True) if line.endswith("\n"))
    lines = (parse(line.strip()) for line in whole if not line.startswith("#"))
    return [vmbus.decode(line.payload) for line in lines if isinstance(line, MessageLine)]


def spoil(vm: Vm, page: int) -> None:
    """Put what is no index where the guest says how far it has read, in the VM's own memory."""
    entries = Path(f"/proc/{vm.process.pid}/fd").iterdir()
    entry = next(entry for entry in entries if str(entry.readlink()).startswith("/memfd:"))
    descriptor = os.open(entry, os.O_RDWR)
    with mmap.mmap(descriptor, FULL) as ram:
        at = page * PAGE_SIZE + READ_INDEX
        ram[at : at + 4] = NO_INDEX.to_bytes(4, "little")
    os.close(descriptor)


def test_our_guests_driver_comes_back_by_itself_and_goes_on(tmp_path: Path) -> None:
    capture = tmp_path / "capture"

    async def scene() -> None:
        options = (f"--capture={capture}",)
        async with running(tmp_path, memory="64M", options=options) as (vm, client):

            async def is_down_to(size: int) -> bool:
                return bool(await client.execute("query-balloon") == {"actual": size})

            await client.execute("balloon", {"value": FULL - 8 * MIB})
            await until(lambda: is_down_to(FULL - 8 * MIB))
            (header,) = [each for each in messages(capture) if isinstance(each, vmbus.GpadlHeader)]
            rings = header.ranges[8 + 8 * DOWNSTREAM_PAGE :]
            spoil(vm, int.from_bytes(rings[:8], "little"))
            await client.execute("balloon", {"value": FULL - 16 * MIB})
            await until(lambda: is_down_to(FULL - 16 * MIB))
            (channel,) = await client.execute("x-query-channels")
            assert (channel["state"], channel["faults"]) == ("open", 1)
            await client.execute("balloon", {"value": FULL})
            await until(lambda: is_down_to(FULL))
            report: dict[str, Any] = (await until(vm.console))[-1]
            assert (report["wrong_bytes"], report["faults"]) == (0, 0)
            assert [fault["kind"] for fault in await client.execute("x-query-faults")] == ["channel faulted"]

    play(scene())
    said = [type(message).__name__ for message in messages(capture)]
    there_and_back = said[said.index("RescindChannelOffer") :]
    assert there_and_back[:5] == [
        "RescindChannelOffer",
        "RelidReleased",
        "OfferChannel",
        "GpadlHeader",
        "GpadlCreated",
    ]

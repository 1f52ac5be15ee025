"""A stock guest and QEMU's own hv-balloon: what ours is measured by, and the rig's proof of itself.

QEMU's device keeps the first request for 50 s, to let the guest settle.
"""

import asyncio
from pathlib import Path

from tests.kvm.balloon_scenes import agree, grow_beyond_the_boot_size, shrink_and_grow_back
from tests.kvm_rig.guests import MIB, qemu_command, running
from tests.kvm_rig.place import GuestKernel
from tests.rigs.beside_qemu import bus_events, events_of, operations

_CAPTURES = Path(__file__).resolve().parent.parent / "captures"
_SAME_ORDERS = 4  # handshake, shrink, grow back and hot add; then the orders of that recording are others


def test_qemus_hv_balloon_takes_memory_returns_it_and_adds_more_and_its_trace_is_ours(
    folder: Path, kernel: GuestKernel
) -> None:
    trace = folder / "trace"
    tracing = ("-trace", "vmbus*", "-trace", "hv_balloon*", "-D", str(trace))

    async def scene() -> None:
        async with running(folder, qemu_command(folder, kernel, options=tracing)) as guest:
            await agree(guest)
            await shrink_and_grow_back(guest)
            await grow_beyond_the_boot_size(guest)
            assert await guest.complaints() == []
            await guest.execute("quit")
            await guest.exit_code()

    asyncio.run(scene())
    theirs = events_of(trace.read_text())
    ours = events_of((_CAPTURES / f"stock-{kernel.name}.trace").read_text())
    assert bus_events(ours) == bus_events(theirs)
    done = [operations(events, added=512 * MIB) for events in (ours, theirs)]
    assert done[0][:_SAME_ORDERS] == done[1][:_SAME_ORDERS]

"""What a stock guest's run records: captures that decode and replay, and trace events beside QEMU's own."""

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.kvm.balloon_scenes import BOOT, agree
from tests.kvm_rig.guests import MIB, Guest, running, stock_command
from tests.kvm_rig.place import GuestKernel
from tests.rigs.replayed_host import lines_of, replay

SIZES = [mib * MIB for mib in (160, 256, 512, 768, 300)]  # each kind of request
ADDED = 512 * MIB


async def be_every_size(guest: Guest) -> None:
    """Agree, and then take, return and add memory."""
    await agree(guest)
    for size in SIZES:
        await guest.balloon(size)


def test_a_run_s_capture_and_trace_decode_without_a_hole_and_replay(
    folder: Path, kernel: GuestKernel
) -> None:
    capture, trace = folder / "capture", folder / "trace"
    command = stock_command(folder, kernel, memory="256M,maxmem=768M")
    command += [f"--capture={capture}", "--trace=vmbus*", "--trace=hv_balloon*", f"-D{trace}"]

    async def scene() -> None:
        async with running(folder, command) as guest:
            await be_every_size(guest)
            await guest.execute("quit")
            assert await guest.exit_code() == 0

    asyncio.run(scene())
    for recording in (capture, trace):
        decoded = subprocess.run(
            [sys.executable, "-m", "dynmem", "trace", "decode", recording],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (decoded.returncode, decoded.stderr) == (0, "")
    host = replay(lines_of(capture.read_text()), boot=BOOT, added=ADDED, sizes=SIZES)
    assert host.device.actual_bytes == SIZES[-1]
    assert host.faults.counts == {}

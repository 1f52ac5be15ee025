"""Fixes a VM at its share (--static): its balloon is set once and never again."""

import asyncio
from pathlib import Path

from dynmem.qmp.client import QmpClient


def fix_share(monitor: Path, share_bytes: int) -> None:
    """Set the balloon of the VM behind `monitor` to `share_bytes`."""
    asyncio.run(_fix(monitor, share_bytes))


async def _fix(monitor: Path, share_bytes: int) -> None:
    client = await QmpClient.connect(monitor)
    try:
        await client.execute("balloon", {"value": share_bytes})
    finally:
        await client.close()

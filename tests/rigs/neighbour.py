"""A neighbour with Proxmox's habits: a client for each batch of commands, which gives up after a while.

As PVE::QMPClient does (qemu-server e6352be6): all connections of a batch are opened first; where the queue
of a monitor is full it tries again after 100 ms; then commands go one by one, and the whole batch of a VM has
3 s (`vmstatus` of pvestatd, every 10 s) or 5 s (a command of qm). What was not done in time is a timeout.
"""

import asyncio
import json
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What pvestatd asks of each VM. query-proxmox-support is refused by any other QEMU, and that is no matter.
STATUS = (
    *("query-status", "query-proxmox-support", "query-blockstats", "query-machines", "query-version"),
    "query-balloon",
)
QM = ("query-status", "query-cpus-fast", "query-migrate", "query-block", "query-pci")
STATUS_S, COMMAND_S = 3.0, 5.0
RETRY_S = 0.1


@dataclass
class Counted:
    """What a neighbour did: batches that were completed, and those that were not in time."""

    batches: int = 0
    timeouts: int = 0
    retries: int = 0
    slowest_s: float = 0.0


class Neighbour:
    """One such program; `patience` shortens how long it waits."""

    def __init__(self, paths: Sequence[Path], *, patience: float = 1.0) -> None:
        self.counted = Counted()
        self._paths = paths
        self._patience = patience

    async def ask(self, paths: Sequence[Path], commands: Sequence[str], limit_s: float) -> None:
        """Send a batch to some VMs, as `queue_execute` does."""
        began = time.monotonic()
        limit_s *= self._patience
        connections = [await self._open(path, limit_s) for path in paths]
        talks = [self._talk(each, commands, limit_s) for each in connections if each is not None]
        self.counted.timeouts += len(paths) - len(talks)
        for done in await asyncio.gather(*talks):
            self.counted.batches += done
            self.counted.timeouts += not done
        self.counted.slowest_s = max(self.counted.slowest_s, time.monotonic() - began)

    async def run(self, rounds: int, period_s: float, seed: int = 1) -> None:
        """Do what pvestatd does every `period_s`, and meanwhile now and then what somebody types."""
        rng = random.Random(seed)
        is_over = False

        async def typed() -> None:
            while not is_over:
                await asyncio.sleep(rng.uniform(0, period_s / 2))
                await self.ask([rng.choice(self._paths)], [rng.choice(QM)], COMMAND_S)

        typing = asyncio.create_task(typed())
        for _ in range(rounds):
            await self.ask(self._paths, STATUS, STATUS_S)
            await asyncio.sleep(period_s)
        is_over = True
        await typing

    async def _open(self, path: Path, limit_s: float) -> socket.socket | None:
        until_s = time.monotonic() + limit_s
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.setblocking(False)
            try:
                connection.connect(str(path))
            except BlockingIOError:
                connection.close()
                self.counted.retries += 1
                if time.monotonic() >= until_s:
                    return None
                await asyncio.sleep(RETRY_S)
            else:
                return connection

    @staticmethod
    async def _talk(connection: socket.socket, commands: Sequence[str], limit_s: float) -> bool:
        """Send commands one after another; return whether all were answered in time."""
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=1 << 22)
        try:
            async with asyncio.timeout(limit_s):
                for number, command in enumerate(("qmp_capabilities", *commands)):
                    writer.write(
                        json.dumps({"execute": command, "id": number, "arguments": {}}).encode() + b"\n"
                    )
                    reply: dict[str, object] = {}
                    while reply.get("id") != number:
                        line = await reader.readline()
                        if not line:
                            return False
                        reply = json.loads(line)
        except TimeoutError:
            return False
        finally:
            writer.transport.abort()
        return True

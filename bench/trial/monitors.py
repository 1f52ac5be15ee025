"""The trial's own connections to the guests' monitors: they send orders and watch sizes."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bench.trial.contenders.contender import Order
from dynmem.errors import DeadlineError, DynmemError, UnreachableError
from dynmem.qmp.client import QmpClient

CONNECT_S: Final = 30.0
_LOOK_S: Final = 0.02
#: From one look at a guest's size to the next.
WATCH_S: Final = 0.1


class Monitors:
    """One connection to each guest, by name."""

    def __init__(self) -> None:
        self._clients: dict[str, QmpClient] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self.actual: dict[str, int] = {}

    async def connect(self, name: str, path: Path) -> None:
        """Connect to a guest that is starting, and watch its size from now on."""
        deadline = time.monotonic() + CONNECT_S
        while True:
            try:
                client = await QmpClient.connect(path, greeting_timeout_s=10.0, events=())
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_LOOK_S)
            else:
                break
        self._clients[name] = client
        self._watchers[name] = asyncio.create_task(self._watch(name, client), name=f"size of {name}")

    async def disconnect(self, name: str) -> None:
        """End the connection to a guest."""
        watcher, client = self._watchers.pop(name, None), self._clients.pop(name, None)
        self.actual.pop(name, None)
        if watcher is not None:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        if client is not None:
            await client.close()

    async def close(self) -> None:
        """End all connections."""
        for name in list(self._clients):
            await self.disconnect(name)

    async def send(self, orders: Sequence[Order]) -> list[Order]:
        """Send orders, all at once, and return those that arrived; a guest that has gone takes none."""
        known = [order for order in orders if order.name in self._clients]
        arrived = await asyncio.gather(*(self._send(order) for order in known))
        return [order for order, has in zip(known, arrived, strict=True) if has]

    async def _send(self, order: Order) -> bool:
        try:
            await self._clients[order.name].execute("balloon", {"value": order.target_bytes})
        except DynmemError:
            return False
        return True

    async def _watch(self, name: str, client: QmpClient) -> None:
        """Keep a guest's size, until its monitor is gone. Before its driver is there it has none."""
        while True:
            with suppress(DeadlineError):
                try:
                    reply = await client.execute("query-balloon")
                except UnreachableError:
                    return
                except DynmemError:  # no balloon yet
                    reply = None
                if isinstance(reply, Mapping) and isinstance(size := reply.get("actual"), int):
                    self.actual[name] = size
            await asyncio.sleep(WATCH_S)

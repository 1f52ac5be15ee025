"""`dynmem web` for the tests: the real server in the test's own loop, and a client for it."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.rigs.scenes import PATIENCE_S

from dynmem.cli.explain_at import page_of
from dynmem.cli.explain_text import explained
from dynmem.manager.address import Address
from dynmem.web.app import Settings, Site
from dynmem.web.files import PageFile
from dynmem.web.serve import listening, server_of

_LENGTH = re.compile(rb"\r\n[0-9a-f]+\r\n")
TOKEN = "correct-horse-battery-staple"
PAGE = {"index.html": PageFile(b"<!doctype html><title>dynmem</title>", "text/html; charset=utf-8", '"1"')}


class HttpReply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class Web:
    """A running server.

    Attributes:
        site: What it serves.
        port: Where, on the loopback.
        connections: Those that are open.
    """

    def __init__(self, site: Site, port: int, connections: Collection[object]) -> None:
        self.site = site
        self.port = port
        self.connections = connections

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, and say nothing."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def raw(self, request: bytes) -> bytes:
        """Send some bytes and return all that comes until the end."""
        reader, writer = await self.connect()
        writer.write(request)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    async def ask(
        self, path: str, method: str = "GET", body: object = None, headers: Mapping[str, str] = {}
    ) -> HttpReply:
        """Ask for something on a connection of its own."""
        data = b"" if body is None else json.dumps(body).encode()
        lines = {"Host": f"localhost:{self.port}", "Connection": "close", **headers}
        if body is not None:
            lines |= {"Content-Type": "application/json", "Content-Length": str(len(data))} | dict(headers)
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(
            f"{key}: {value}\r\n" for key, value in lines.items()
        )
        return reply_of(await self.raw(head.encode() + b"\r\n" + data))

    async def until(self, path: str, wanted: Callable[[Any], bool]) -> Any:
        """Ask again until the reply is as wanted, and return it."""
        last: Any = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    last = (await self.ask(path)).json
                    if wanted(last):
                        return last
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{path}: {last}") from None

    async def act(self, act: str, token: str = TOKEN, **body: object) -> HttpReply:
        """Have something done."""
        return await self.ask(f"/api/{act}", "POST", body, {"Authorization": f"Bearer {token}"})

    @contextlib.asynccontextmanager
    async def reading(self, limit: int = 1 << 16) -> AsyncIterator["Stream"]:
        """Read the live stream for as long as the block lasts; an event is at most *limit* long."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=limit)
        writer.write(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
            yield Stream(reader, head)
        finally:
            writer.transport.abort()


class Stream:
    """The live stream of a reader.

    Attributes:
        head: What came before the first event.
    """

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        self.head = head
        self._reader = reader

    async def event(self, kind: str = "") -> tuple[str, Any]:
        """Return the next event, or the next of a kind, and its data."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                text = await self._reader.readuntil(b"\n\n")
                # In chunks, each with its length before it, and a large event in several.
                lines = _LENGTH.sub(b"", text).decode().splitlines()
                found = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
                if found and kind in ("", found[0]):
                    (data,) = [line for line in lines if line.startswith("data: ")]
                    return found[0], json.loads(data.removeprefix("data: "))


def reply_of(data: bytes) -> HttpReply:
    """Return a reply with its parts."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return HttpReply(int(first.split(" ")[1]), headers, body)


def settings(folder: Path, **changes: Any) -> Settings:
    """Return what a server is for: the manager and the history of a folder, and no token."""
    whole: dict[str, Any] = {
        "socket": folder / "run" / "api.sock",
        "state": folder / "state",
        "token": None,
        "names": (),
        "files": PAGE,
        "explained": explained,
        "explained_at": page_of,
    }
    return Settings(**(whole | changes))


@contextlib.asynccontextmanager
async def serving(folder: Path, **changes: Any) -> AsyncIterator[Web]:
    """Serve the page of the manager and the history of a folder."""
    site = Site(settings(folder, **changes))
    started = asyncio.Event()
    with listening(Address("127.0.0.1", 0)) as at:
        port = at.getsockname()[1]
        server = server_of(site, started.set)
        task = asyncio.create_task(server.serve([at]))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await started.wait()
            yield Web(site, port, server.server_state.connections)
        finally:  # at once: how it ends when it is asked to is seen on the command
            site.close()
            task.cancel()
            await asyncio.wait((task,))
            for each in server.servers:
                each.close()
            for connection in tuple(server.server_state.connections):
                connection.transport.abort()

"""Clients that wait, send too much or are too many: each has an end, and the others are served."""

import asyncio
from pathlib import Path

import pytest
from tests.rigs.scenes import play, plays, until
from tests.rigs.webs import Web, serving

from dynmem.web import connection

NEVER_S = 1e6
Patch = pytest.MonkeyPatch
BEGUN = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


async def gone(reader: asyncio.StreamReader) -> bytes:
    """Read until the server ends the connection."""
    try:
        async with asyncio.timeout(100):
            return await reader.read()
    except ConnectionResetError:
        return b""


async def _slow_ones(web: Web) -> list[asyncio.StreamReader]:
    """Connect with requests that do not end: none, half a head, a second one, half a body."""
    readers = []
    for said in (b"", BEGUN, BEGUN + b"\r\n" + BEGUN, b"POST /api/pause HTTP/1.1\r\n"):
        reader, writer = await web.connect()
        writer.write(said)
        readers.append(reader)
    return readers


def test_a_request_that_does_not_end_is_dropped(tmp_path: Path, monkeypatch: Patch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(connection, "REQUEST_S", 0.2)
        async with serving(tmp_path) as web:
            readers = await _slow_ones(web)
            reader, writer = await web.connect()
            dripping = asyncio.create_task(_drip(writer))
            await gone(reader)
            dripping.cancel()
            for each in readers:
                await gone(each)
            assert (await web.ask("/")).status == 200

    play(scene())


async def _drip(writer: asyncio.StreamWriter) -> None:
    """Send a head a byte at a time, and never the end of it."""
    writer.write(BEGUN)
    while True:
        writer.write(b"x: y\r\n")
        await asyncio.sleep(0.01)


def test_without_that_limit_it_would_stay(tmp_path: Path, monkeypatch: Patch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(connection, "REQUEST_S", NEVER_S)
        async with serving(tmp_path) as web:
            reader, writer = await web.connect()
            writer.write(BEGUN)
            await asyncio.sleep(0.05)
            monkeypatch.setattr(connection, "REQUEST_S", 0.1)
            await gone((await web.connect())[0])
            assert not reader.at_eof()
            writer.write(b"\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")

    play(scene())


@plays
async def test_a_head_or_a_body_that_is_too_long_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, token=b"x" * 16) as web:
        # What comes at once is a whole head, and what comes in pieces is not even parsed.
        assert (await web.ask("/", headers={"x": "y" * 20_000})).status == 431
        assert (await web.ask("/", headers={f"x{number}": "y" for number in range(5000)})).status == 431
        endless_head = await web.raw(BEGUN + b"x: " + b"y" * 400_000)
        assert endless_head == b"" or endless_head.startswith(b"HTTP/1.1 400 ")
        long = await web.act("pause", "x" * 16, vm="a" * 5000, for_s=1)
        assert long.status == 413
        endless = await web.raw(
            b"POST /api/pause HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + b"x" * 16 + b"\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" * 9000
        )
        assert b" 413 " in endless or b" 400 " in endless or endless == b""
        upgrade = await web.raw(BEGUN + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        assert upgrade.startswith(b"HTTP/1.1 200 ")


def test_when_there_are_too_many_the_one_that_waits_longest_leaves(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(connection, "WEB_CONNECTIONS_MAX", 4)
        async with serving(tmp_path) as web, web.reading() as stream:
            await stream.event("trouble")
            idle = [await web.connect() for _ in range(6)]
            for reader, _ in idle[:3]:
                await gone(reader)
            assert not any(reader.at_eof() for reader, _ in idle[3:])
            assert (await web.ask("/")).status == 200
            await gone(idle[3][0])
            assert web.site.live.readers == 1  # one that is served stays

    play(scene())


def test_when_all_are_being_served_the_one_that_comes_is_refused_and_without_the_limit_it_is_not(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(connection, "WEB_CONNECTIONS_MAX", 2)
        async with serving(tmp_path) as web, web.reading() as one, web.reading() as two:
            await one.event()
            await two.event()
            await gone((await web.connect())[0])
            monkeypatch.setattr(connection, "WEB_CONNECTIONS_MAX", 3)
            assert (await web.ask("/")).status == 200

    play(scene())


@plays
async def test_half_open_and_broken_connections_leave_nothing_behind(tmp_path: Path) -> None:
    async with serving(tmp_path) as web:
        for said in (b"", BEGUN, BEGUN + b"\r\n", b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            for leave in (_half_close, _reset):
                reader, writer = await web.connect()
                writer.write(said)
                await writer.drain()
                await leave(reader, writer)
        await until(lambda: not web.site.live.readers)
        await until(lambda: not web.connections)


async def _half_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write_eof()
    await gone(reader)
    writer.close()


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    del reader
    writer.transport.abort()

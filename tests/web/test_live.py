"""The live stream: one look for all, readers that are slow or too many, and tabs that stay open."""

import asyncio
import contextlib
import gc
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.scenes import play, plays, until
from tests.rigs.status_double import StatusDouble, listening, reply, vm_view
from tests.rigs.webs import Web, serving

from dynmem.limits import WEB_HAPPENED_MAX, WEB_READERS_MAX
from dynmem.web import app, connection, live, look
from dynmem.web.live import Reader
from dynmem.web.look import Look, Seen, Trouble

Patch = pytest.MonkeyPatch


@contextlib.asynccontextmanager
async def beside(folder: Path, first: dict[str, Any]) -> AsyncIterator[tuple[Web, StatusDouble]]:
    """Serve beside a double that replies so."""
    path = folder / "api.sock"
    with listening(path, first) as double:
        async with serving(folder, socket=path) as web:
            yield web, double


def test_all_who_look_share_one_look_and_without_them_there_is_none(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(live, "PERIOD_S", 0.05)
        monkeypatch.setattr(look, "FRESH_S", 1e6)
        async with beside(tmp_path, reply(vm_view())) as (web, double):
            assert double.asked == 0
            async with contextlib.AsyncExitStack() as stack:
                streams = [await stack.enter_async_context(web.reading()) for _ in range(8)]
                replies = await asyncio.gather(*(web.ask("/api/status") for _ in range(8)))
                for stream in streams:
                    assert (await stream.event())[1]["vms"][0]["name"] == "vm0"
                assert {each.status for each in replies} == {200}
                assert double.asked == 1
                monkeypatch.setattr(look, "FRESH_S", 0.01)
                await until(lambda: double.asked > 3)
            await until(lambda: web.site.live.readers == 0)
            asked = double.asked
            await asyncio.sleep(0.2)
            assert double.asked <= asked + 1  # the one that was under way

    play(scene())


@plays
async def test_a_thousand_vms_come_whole_and_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with listening(path, reply(*map(vm_view, range(1000)))):
        async with serving(tmp_path, socket=path) as web, web.reading(limit=4 << 20) as stream:
            _, status = await stream.event("status")
            assert [each["name"] for each in status["vms"]] == [f"vm{number}" for number in range(1000)]
            assert (await web.ask("/api/status")).json["vms"] == status["vms"]
            reasons = (await web.ask("/api/explain?vm=vm999")).json["lines"]
            assert reasons[0].startswith("vm999: ")


@plays
async def test_the_reader_that_is_one_too_many_is_refused_until_another_leaves(tmp_path: Path) -> None:
    async with beside(tmp_path, reply()) as (web, _), contextlib.AsyncExitStack() as stack:
        for _ in range(WEB_READERS_MAX):
            await stack.enter_async_context(web.reading())
        refused = await web.ask("/api/live")
        assert (refused.status, refused.headers["retry-after"]) == (503, "10")
        assert str(WEB_READERS_MAX) in refused.json["error"]
        await stack.aclose()
        await until(lambda: web.site.live.readers == 0)
        async with web.reading() as stream:
            await stream.event("status")


def test_without_that_limit_it_is_served(tmp_path: Path, monkeypatch: Patch) -> None:
    async def scene() -> None:
        monkeypatch.setattr(live, "WEB_READERS_MAX", 1)
        async with beside(tmp_path, reply()) as (web, _), web.reading():
            assert (await web.ask("/api/live")).status == 503
            monkeypatch.setattr(live, "WEB_READERS_MAX", 2)
            async with web.reading() as second:
                await second.event("status")

    play(scene())


def test_a_manager_that_is_lost_is_trouble_and_what_does_not_change_is_not_sent(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        for name in ("PERIOD_S", "TROUBLE_S"):
            monkeypatch.setattr(live, name, 0.02)
        monkeypatch.setattr(look, "FRESH_S", 0.01)
        path = tmp_path / "api.sock"
        async with serving(tmp_path, socket=path) as web, web.reading() as stream:
            kind, data = await stream.event()
            assert kind == "trouble"
            assert "no manager is running" in data["error"]
            with listening(path, reply(vm_view())) as double:
                assert (await stream.event())[0] == "status"
                asked = double.asked
                await until(lambda: double.asked >= asked + 5)
                double.reply = {**reply(vm_view(name="other"))}
                # Nothing was sent meanwhile: this is the next.
                assert (await stream.event())[1]["vms"][0]["name"] == "other"
            assert (await stream.event())[0] == "trouble"

    play(scene())


def test_where_nothing_changes_a_status_is_sent_all_the_same_now_and_then(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(live, "PERIOD_S", 0.02)
        monkeypatch.setattr(live, "QUIET_S", 0.1)
        async with beside(tmp_path, reply(vm_view())) as (web, _), web.reading() as stream:
            for _ in range(3):
                assert (await stream.event())[0] == "status"

    play(scene())


@contextlib.contextmanager
def silent(path: Path, says: bytes = b"") -> Iterator[None]:
    """Listen as a manager that hangs: it says so much again and again, and never the end of a line."""
    import socket

    ended = threading.Event()
    with socket.socket(socket.AF_UNIX) as listening_at:
        listening_at.bind(str(path))
        listening_at.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listening_at.accept()
                    with peer, contextlib.suppress(OSError):
                        while not ended.wait(0.01):
                            peer.send(says)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            listening_at.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("says", [b"", b"{"])
def test_a_manager_that_hangs_or_drips_is_named_and_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: Patch, says: bytes
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(app, "STATUS_S", 1e6)
        path = tmp_path / "api.sock"
        with silent(path, says):
            async with serving(tmp_path, socket=path) as web:
                asking = asyncio.create_task(web.ask("/api/status"))
                assert (await web.ask("/")).status == 200
                assert not asking.done()
                asking.cancel()
            monkeypatch.setattr(app, "STATUS_S", 0.1)
            async with serving(tmp_path, socket=path) as web:
                reply = await web.ask("/api/status")
                assert reply.status == 503
                assert "has not replied for 0.1 s" in reply.json["error"]

    play(scene())


@pytest.mark.parametrize(
    "line", ["[]", "{}", '{"schema_version": 1, "ok": true, "vms": "\\ud800"}', "[" * 9999]
)
def test_what_is_no_status_is_trouble_and_no_error_of_ours(tmp_path: Path, line: str) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(line.encode() + b"\n")
        writer.close()

    async def scene() -> None:
        path = tmp_path / "api.sock"
        async with await asyncio.start_unix_server(say, path), serving(tmp_path, socket=path) as web:
            found = await web.ask("/api/status")
            assert found.status == 503
            assert found.json["error"]

    play(scene())


def large(number: int) -> Seen:
    """A status of a MiB, as no other."""
    status = {"manager": {"sweeps": number}, "padding": "x" * (1 << 20)}
    return Seen(status, json.dumps(status).encode())


class Restless(Look):
    """Another status each time, and a large one."""

    def __init__(self) -> None:
        super().__init__(self._none)
        self.looks = 0

    async def _none(self) -> dict[str, Any]:
        raise AssertionError

    async def now(self) -> Seen | Trouble:
        self.looks += 1
        return large(self.looks)


def test_a_reader_that_does_not_read_costs_a_bound_of_memory_and_leaves(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(live, "PERIOD_S", 0.01)
        restless = Restless()
        async with serving(tmp_path) as web:
            web.site.live._look = restless
            # read_limit: our own side takes little in, so that what is sent waits over there
            reader, writer = await asyncio.open_connection("127.0.0.1", web.port, limit=1024)
            writer.write(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await until(lambda: restless.looks > 20)
            (held,) = [each for each in web.connections if isinstance(each, connection.Connection)]
            assert held.transport.get_write_buffer_size() <= 2 * 65_536 + 100
            (slow,) = web.site.live._readers
            assert len(slow._happened) == 0
            async with web.reading() as other:  # which is sent the last one, and no more than that
                number = restless.looks
                await until(lambda: restless.looks > number + 20)
                (held_again,) = [each for each in web.connections if each is held]
                assert held_again is held
                assert web.site.live.readers == 2
                del other
            held.transport.abort()  # what its limit does (below)
            await until(lambda: web.site.live.readers == 0)
            writer.close()

    play(scene())


def test_a_reader_that_does_not_read_is_dropped_and_without_the_limit_it_is_not(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        monkeypatch.setattr(live, "PERIOD_S", 0.01)
        restless = Restless()
        async with serving(tmp_path) as web:
            web.site.live._look = restless
            kept = await asyncio.open_connection("127.0.0.1", web.port, limit=1024)
            kept[1].write(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: restless.looks > 20)
            monkeypatch.setattr(connection, "READ_S", 0.1)
            dropped = await asyncio.open_connection("127.0.0.1", web.port, limit=1024)
            dropped[1].write(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: web.site.live.readers == 2)
            await until(lambda: web.site.live.readers == 1)
            for _, writer in (kept, dropped):
                writer.transport.abort()
            await until(lambda: web.site.live.readers == 0)

    play(scene())


@plays
async def test_of_events_a_slow_reader_is_left_the_last() -> None:
    reader = Reader()
    for number in range(1000):
        reader.happened(b"%d" % number)
        reader.state(b"state %d" % number)
    reader_frames = reader.frames()
    found = [await anext(reader_frames) for _ in range(1 + WEB_HAPPENED_MAX + 1)]
    assert found[1] == b"%d" % (1000 - WEB_HAPPENED_MAX)
    assert found[-2:] == [b"999", b"state 999"]
    reader.end()
    assert [each async for each in reader_frames] == []


@plays
async def test_a_tab_that_is_open_for_a_week_leaves_nothing_behind(tmp_path: Path) -> None:
    async with beside(tmp_path, reply(vm_view())) as (web, _):
        for _ in range(2):  # what is made once, our counting included, is made before
            before = _objects()
            await _comes_and_goes(web, 25)
            _objects().subtract(before)
        before = _objects()
        await _comes_and_goes(web, 100)
        more = _objects() - before
        # asyncio drops what was cancelled of its timers a hundred at a time.
        assert {kind for kind, count in more.items() if count > 20} <= {"TimerHandle", "Context"}


async def _comes_and_goes(web: Web, times: int) -> None:
    for _ in range(times):
        async with web.reading() as stream:
            await stream.event("status")
    await until(lambda: not web.site.live.readers and not web.connections)


def _objects() -> Counter[str]:
    gc.collect()
    return Counter(type(each).__qualname__ for each in gc.get_objects())

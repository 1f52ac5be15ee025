"""Clients of one monitor that flood it or only hold their place do not keep the others from it."""

import asyncio
import contextlib
import tracemalloc
from pathlib import Path

import pytest
from tests.rigs.qmp_server import with_server
from tests.rigs.scenes import play, until

from dynmem.limits import QMP_CLIENTS_MAX, QMP_SAVED_BYTES_MAX
from dynmem.qmp.client import QmpClient
from dynmem.qmp.parser import Malformed, ValueReader
from dynmem.qmp.server import QmpServer
from dynmem.qmp.session import Session
from dynmem.qmp.turns import Share, Turns

ASKED = 10


async def floods(path: Path, data: bytes) -> None:
    """Connect, send this for ever, and read what comes."""
    reader, writer = await asyncio.open_unix_connection(path)

    async def read() -> None:
        while await reader.read(1 << 16):
            pass

    reading = asyncio.create_task(read())
    try:
        while True:
            writer.write(data)
            await writer.drain()
    finally:
        reading.cancel()
        writer.close()


@pytest.mark.parametrize(
    ("clients", "data"),
    [(30, b"\x01junk " * 2000), (30, b"[1, 2, " * 2000), (1, b"]" * 65_536), (30, b"{}" * 2000)],
)
def test_a_question_waits_for_a_few_pieces_of_others_however_much_they_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: int, data: bytes
) -> None:
    pieces = answers = 0
    feed, answer = ValueReader.feed, Session._answer

    def counted_feed(reader: ValueReader, piece: bytes) -> list[object]:
        nonlocal pieces
        pieces += 1
        return feed(reader, piece)

    async def counted_answer(session: Session, value: object) -> object:
        nonlocal answers
        answers += 1
        return await answer(session, value)

    monkeypatch.setattr(ValueReader, "feed", counted_feed)
    monkeypatch.setattr(Session, "_answer", counted_answer)

    async def scene(server: QmpServer) -> None:
        async with await QmpClient.connect(server.path) as client:
            flooding = [asyncio.create_task(floods(server.path, data)) for _ in range(clients)]
            await until(lambda: pieces > 10 * clients)
            done = []
            for _ in range(ASKED):
                before = pieces + answers
                assert await client.execute("query-name") == {}
                done.append(pieces + answers - before)
            for task in flooding:
                task.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
            # each of its own steps is an iteration of the loop, in which one other goes on
            assert sorted(done)[ASKED // 2] < 20, done

    with_server(tmp_path, scene)


@pytest.mark.parametrize("text", [b"1,", b"{},", b'"ab",', b"300,", b'"' + b"x" * 4000 + b'",'])
def test_an_unfinished_list_takes_little_memory(text: bytes) -> None:
    tracemalloc.start()
    reader = ValueReader()
    reader.feed(b"[")
    while not (mistakes := reader.feed(text)):
        size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 120_000
    assert mistakes[0] in (
        Malformed("JSON token count limit exceeded"),
        Malformed("JSON token size limit exceeded"),
    )


def test_idle_clients_of_one_process_give_way_to_a_new_one_and_leave_others_alone(tmp_path: Path) -> None:
    async def scene(server: QmpServer) -> None:
        async with await QmpClient.connect(server.path) as ours:
            (session,) = server._sessions
            session.peer = -1  # the client of another process, and the longest idle one
            held = [await asyncio.open_unix_connection(server.path) for _ in range(QMP_CLIENTS_MAX + 10)]
            for reader, _ in held:
                with contextlib.suppress(ConnectionResetError):
                    await reader.readline()
            await until(lambda: server.clients == QMP_CLIENTS_MAX)
            for reader, _ in held[:11]:  # the first ones had to go
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.readline() == b""
            async with await QmpClient.connect(server.path) as new:
                assert await new.execute("query-name") == {}
            assert await ours.execute("query-name") == {}
            for _, writer in held:
                writer.close()

    with_server(tmp_path, scene)


def test_who_has_used_least_goes_on_first_and_who_was_away_has_saved_a_little() -> None:
    async def scene() -> None:
        turns = Turns()
        order: list[str] = []
        busy, fresh = Share(), Share()

        async def go(name: str, share: Share, cost: int) -> None:
            await turns.next(share)
            share.used += cost
            order.append(name)

        for _ in range(3):
            await go("busy", busy, QMP_SAVED_BYTES_MAX)
        await asyncio.gather(go("busy", busy, 1), go("fresh", fresh, 1), go("fresh", fresh, 1))
        assert order == ["busy"] * 3 + ["fresh", "fresh", "busy"]
        assert fresh.used == QMP_SAVED_BYTES_MAX + 2  # of two that it missed it has saved one

    play(scene())


def test_a_turn_that_nobody_waits_for_any_more_is_the_next_ones() -> None:
    async def scene() -> None:
        turns = Turns()
        gone = asyncio.create_task(turns.next(Share()))
        await asyncio.sleep(0)
        gone.cancel()
        await turns.next(Share())

    play(scene())

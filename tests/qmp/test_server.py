"""The monitor: many clients, events and their rate limits, its socket, and clients that misbehave."""

import asyncio
import contextlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp import QMPClient
from tests.rigs.qmp_server import with_server
from tests.rigs.scenes import play

from dynmem.errors import ConfigError
from dynmem.qmp.client import QmpClient
from dynmem.qmp.command import Command
from dynmem.qmp.server import QmpServer
from dynmem.qmp.throttle import Throttle

GREET = b'{"execute": "qmp_capabilities"}'


def test_qemus_own_client_library_is_served(tmp_path: Path) -> None:
    async def scene(server: QmpServer) -> None:
        client = QMPClient("test")
        await client.connect(str(server.path))
        assert client.greeting is not None
        assert client.greeting.QMP.version == server.version
        assert await client.execute("query-version") == server.version
        names: Any = await client.execute("query-commands")
        assert {command["name"] for command in names} == {
            "qmp_capabilities",
            "query-commands",
            "query-name",
            "query-qmp-schema",
            "query-version",
        }
        with client.listener("HELLO") as listener:
            server.emit("HELLO", {"a": 1})
            assert (await listener.get())["data"] == {"a": 1}
        await client.disconnect()

    with_server(tmp_path, scene)


def test_an_id_too_deep_to_be_sent_back_is_refused_and_the_client_is_served_on(tmp_path: Path) -> None:
    async def scene(server: QmpServer) -> None:
        reader, writer = await asyncio.open_unix_connection(server.path)
        await reader.readline()
        writer.write(b'{"execute": "qmp_capabilities", "id": ' + b"[" * 1020 + b"]" * 1020 + b"}")
        refused = json.loads(await reader.readline())
        assert refused == {"error": {"class": "GenericError", "desc": "JSON nesting depth limit exceeded"}}
        writer.write(b'{"execute": "query-name", "id": [[1]]}')
        assert json.loads(await reader.readline()) == {"return": {}, "id": [[1]]}
        writer.close()

    with_server(tmp_path, scene)


def test_an_event_goes_to_those_who_have_negotiated(tmp_path: Path) -> None:
    async def scene(server: QmpServer) -> None:
        reader, writer = await asyncio.open_unix_connection(server.path)
        await reader.readline()
        async with await QmpClient.connect(server.path) as client:
            server.emit("HELLO")
            await client.execute("query-name")
            assert [event.name for event in client.events] == ["HELLO"]
        writer.write(GREET)
        assert json.loads(await reader.readline()) == {"return": {}}  # and no HELLO before it
        writer.close()

    with_server(tmp_path, scene)


def test_of_events_that_come_too_fast_the_first_and_the_last_are_sent() -> None:
    async def scene() -> None:
        sent: list[bytes] = []
        news = asyncio.Event()

        def send(line: bytes) -> None:
            sent.append(line)
            news.set()

        throttle = Throttle(send, {"SLOW": 50})
        for number in range(10):
            throttle.offer("SLOW", b"%d" % number, {})
            throttle.offer("FAST", b"f", {})
        assert sent == [b"0", *[b"f"] * 10]
        news.clear()
        await news.wait()
        assert sent[-1] == b"9"
        throttle.offer("SLOW", b"10", {})
        assert sent[-1] == b"9"  # it waits for its time again
        news.clear()
        await news.wait()
        assert sent[-1] == b"10"
        throttle.close()

    play(scene())


def test_each_memory_device_has_a_limit_of_its_own_for_changes_of_its_size() -> None:
    async def scene() -> None:
        sent: list[bytes] = []
        throttle = Throttle(sent.append)
        for path in ("/a", "/b", "/a", "/b"):
            line = f"{path}{len(sent)}".encode()
            throttle.offer("MEMORY_DEVICE_SIZE_CHANGE", line, {"size": 1, "qom-path": path})
        assert sent == [b"/a0", b"/b1"]
        throttle.close()

    play(scene())


def test_a_client_that_reads_nothing_is_dropped_and_the_others_are_not(tmp_path: Path) -> None:
    async def scene(server: QmpServer) -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(server.path))
            deaf.sendall(GREET)
            async with await QmpClient.connect(server.path) as client:
                for _ in range(300):
                    server.emit("LONG", {"text": "x" * 10_000})
                    await client.execute("query-name")
                assert server.clients == 1
                assert await client.execute("query-name") == {}

    with_server(tmp_path, scene)


def test_a_client_that_asks_without_reading_is_not_read_further(tmp_path: Path) -> None:
    async def scene(server: QmpServer) -> None:
        with socket.socket(socket.AF_UNIX) as greedy:
            greedy.setblocking(False)
            greedy.connect(str(server.path))
            greedy.send(GREET)
            asked = 0
            for _ in range(2000):
                with contextlib.suppress(BlockingIOError):
                    asked += greedy.send(b'{"execute":"query-commands"}' * 100)
                await asyncio.sleep(0)
            assert asked < 2000 * 2800  # its socket filled up
            async with await QmpClient.connect(server.path) as client:
                assert await client.execute("query-name") == {}

    with_server(tmp_path, scene)


def test_the_socket_is_private_and_goes_with_the_monitor(tmp_path: Path) -> None:
    async def scene(server: QmpServer) -> None:
        assert server.path.stat().st_mode & 0o777 == 0o600
        assert server.path.parent.stat().st_mode & 0o777 == 0o700

    with_server(tmp_path, scene)
    assert not (tmp_path / "run" / "qmp").exists()


def test_a_dead_socket_is_replaced_and_a_living_one_respected(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def story() -> None:
        first, second = QmpServer(path, commands={}), QmpServer(path, commands={})
        await first.start()
        with pytest.raises(ConfigError, match="another process is listening"):
            await second.start()
        await second.close()
        assert path.exists()
        await first.close()

    play(story())


def test_a_command_that_waits_is_answered_before_the_monitor_closes(tmp_path: Path) -> None:
    async def story() -> None:
        server: QmpServer
        closing: list[asyncio.Task[None]] = []

        def leave(_: object) -> object:
            server.emit("SHUTDOWN", {"guest": False})
            closing.append(asyncio.create_task(server.close()))
            return {}

        server = QmpServer(tmp_path / "qmp", commands={"quit": Command(leave)})
        await server.start()
        async with await QmpClient.connect(tmp_path / "qmp") as client:
            assert await client.execute("quit") == {}
            await client.closed.wait()
            assert [event.name for event in client.events] == ["SHUTDOWN"]
        await closing[0]

    play(story())

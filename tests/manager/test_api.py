"""The manager's socket: for its user only, one request a connection, nonsense is answered and forgotten."""

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.managers import configured, managing
from tests.rigs.scenes import play

from dynmem.errors import DeadlineError, NotPermittedError, RefusedError
from dynmem.limits import API_CLIENTS_MAX, API_REQUEST_BYTES_MAX
from dynmem.manager.api import client
from dynmem.manager.api.messages import (
    ReleaseReply,
    ReleaseRequest,
    Reply,
    Request,
    ReserveRequest,
    StatusRequest,
    TakeUpReply,
)
from dynmem.manager.api.server import ApiServer


async def handle(request: Request) -> Reply:
    match request:
        case StatusRequest():
            return ReleaseReply(("web",), sent=True, promised_bytes=1, budget_bytes=2)
        case ReserveRequest(name):
            if name == "forever":
                await asyncio.Event().wait()
            raise DeadlineError(f"no room for {name}")
        case ReleaseRequest(vm):
            raise RefusedError(f"no VM {vm}")
        case _:
            return TakeUpReply(())


async def exchange(path: Path, sent: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(sent)
    reply = await reader.read()
    writer.close()
    return json.loads(reply) if reply else {}


def serving(tmp_path: Path) -> ApiServer:
    return ApiServer(tmp_path / "api.sock", handle)


def test_a_request_is_answered_and_the_connection_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = serving(tmp_path)
        await server.start()
        assert (tmp_path / "api.sock").stat().st_mode & 0o777 == 0o600
        reply = await exchange(tmp_path / "api.sock", b'{"command": "status"}\n')
        fields = {"released": ["web"], "sent": True, "promised_bytes": 1, "budget_bytes": 2}
        assert reply == {"schema_version": 1, "ok": True, **fields}
        await server.close()
        assert not (tmp_path / "api.sock").exists()

    play(scenario())


NONSENSE = {
    "no JSON": b"hello\n",
    "a list": b"[]\n",
    "an unknown command": b'{"command": "format"}\n',
    "an unknown key": b'{"command": "status", "loud": true}\n',
    "a wrong type": b'{"command": "reserve", "name": "web", "size_bytes": "1G"}\n',
    "a number beyond all": b'{"command": "reserve", "name": "web", "size_bytes": 1e999}\n',
    "a name that is no UTF-8": b'{"command": "reserve", "na\xfeme": "web"}\n',
    "too long": b'{"command": "' + b"x" * (2 * API_REQUEST_BYTES_MAX) + b'"}\n',
    "too deep": b'{"command": ' + b"[" * 3000 + b"\n",
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused_in_a_sentence_and_the_next_one_is_served(case: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        server = serving(tmp_path)
        await server.start()
        reply = await exchange(tmp_path / "api.sock", NONSENSE[case])
        assert (reply["ok"], reply["exit_code"], reply["schema_version"]) == (False, 2, 1)
        assert reply["error"]
        assert (await exchange(tmp_path / "api.sock", b'{"command": "status"}\n'))["ok"]
        await server.close()

    play(scenario())


def test_a_refusal_arrives_as_the_error_that_was_meant(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = serving(tmp_path)
        await server.start()
        path = tmp_path / "api.sock"
        with pytest.raises(RefusedError, match="no VM web"):
            await asyncio.to_thread(client.ask, path, {"command": "release", "vm": "web"})
        with pytest.raises(DeadlineError, match="no room for web"):
            await asyncio.to_thread(client.ask, path, {"command": "reserve", "name": "web", "size_bytes": 1})
        request = {"command": "reserve", "name": "forever", "size_bytes": 1}
        with pytest.raises(DeadlineError, match=r"has not replied for 0\.1 s"):
            await asyncio.to_thread(client.ask, path, request, timeout_s=0.1)
        await server.close()

    play(scenario())


def test_only_a_reservation_is_withdrawn_by_hanging_up(tmp_path: Path) -> None:
    begun: list[str] = []
    withdrawn: list[str] = []
    done: list[str] = []
    go_on = asyncio.Event()

    async def slow(request: Request) -> Reply:
        name = type(request).__name__
        begun.append(name)
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            withdrawn.append(name)
            raise
        done.append(name)
        return TakeUpReply(())

    async def scenario() -> None:
        server = ApiServer(tmp_path / "api.sock", slow)
        await server.start()
        for line in (
            b'{"command": "release"}\n',
            b'{"command": "take-up"}\n',
            b'{"command": "reserve", "name": "web", "size_bytes": 1}\n',
        ):
            _, writer = await asyncio.open_unix_connection(tmp_path / "api.sock")
            writer.write(line)
            await writer.drain()
            writer.close()
        while len(begun) < 3 or not withdrawn:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.01)
        go_on.set()
        while len(done) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert withdrawn == ["ReserveRequest"]
        assert sorted(done) == ["ReleaseRequest", "TakeUpRequest"]
        await server.close()

    play(scenario())


def test_clients_beyond_the_limit_are_refused_and_the_others_keep_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = serving(tmp_path)
        await server.start()
        path = tmp_path / "api.sock"
        waiting = [await asyncio.open_unix_connection(path) for _ in range(API_CLIENTS_MAX)]
        for _, writer in waiting:
            writer.write(b'{"command": "reserve", "name": "forever", "size_bytes": 1}\n')
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"command": "status"}\n')
        assert "clients are waiting already" in json.loads(await reader.readline())["error"]
        assert not any(other.at_eof() for other, _ in waiting)
        for _, other in (*waiting, (reader, writer)):
            other.close()
        await server.close()

    play(scenario())


@pytest.mark.parametrize("sent", [b"", b'{"command"'])
def test_clients_that_send_no_request_lock_nobody_out(sent: bytes, tmp_path: Path) -> None:
    async def scenario() -> None:
        server = serving(tmp_path)
        await server.start()
        path = tmp_path / "api.sock"
        idle = [await asyncio.open_unix_connection(path) for _ in range(API_CLIENTS_MAX)]
        for _, writer in idle:
            writer.write(sent)
        assert (await exchange(path, b'{"command": "status"}\n'))["ok"]
        (first, _), *others = idle
        assert await first.read() == b""  # it was waited for longest
        assert not any(other.at_eof() for other, _ in others)
        for _, writer in idle:
            writer.close()
        await server.close()

    play(scenario())


def test_a_socket_path_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(NotPermittedError, match=r"manager\.socket: .*cannot listen"):
            await ApiServer(tmp_path / "absent" / "api.sock", handle).start()

    play(scenario())


def test_a_socket_that_somebody_listens_on_is_never_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.bind(str(path))
        monitor.listen()
        with pytest.raises(NotPermittedError, match=rf"another process is listening \(pid {os.getpid()}\)"):
            play(ApiServer(path, handle).start())
        assert path.is_socket()


def test_a_file_or_folder_in_the_sockets_place_is_never_removed(tmp_path: Path) -> None:
    letter, folder = tmp_path / "letter", tmp_path / "folder"
    letter.write_text("dear")
    folder.mkdir()

    async def scenario() -> None:
        for path in (letter, folder):
            with pytest.raises(NotPermittedError, match="exists and is not a socket"):
                await ApiServer(path, handle).start()

    play(scenario())
    assert letter.read_text() == "dear"


def test_a_manager_that_is_stopped_is_waited_for_only_so_long(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with managing(configured(tmp_path, "observe")) as manager:
            manager.process.send_signal(signal.SIGSTOP)
            with pytest.raises(DeadlineError, match="has not replied"):
                await asyncio.to_thread(client.ask, manager.socket, {"command": "status"}, timeout_s=0.2)
            manager.process.send_signal(signal.SIGCONT)

    play(scenario())

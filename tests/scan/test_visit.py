"""A visit to somebody's monitor: what is sent, how long it lasts, and what is said when it fails."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import pytest
from tests.rigs.monitored import FakeVm

from dynmem.qmp.queries import QUERIES
from dynmem.scan import visit as visit_module
from dynmem.scan.monitored import GuestReport, monitored
from dynmem.scan.visit import Answers, devices_in, visit

pytestmark = pytest.mark.usefixtures("slow_machine")

MIB = 1 << 20
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[None, None, None]]
BALLOON = {
    "qom-list": lambda arguments: (
        [
            {"name": "balloon0", "type": "child<virtio-balloon-pci>"},
            {"name": "gpu", "type": "child<vfio-pci>"},
        ]
        if arguments["path"] == "/machine/peripheral"
        else []
    ),
    "qom-get guest-stats": {
        "last-update": 1000,
        "stats": {"stat-total-memory": 60 * MIB, "stat-free-memory": 40 * MIB, "stat-available-memory": -1},
    },
    "qom-get guest-stats-polling-interval": 2,
    "qom-get free-page-reporting": True,
}


@contextlib.asynccontextmanager
async def served(path: Path, serve: Serve) -> AsyncIterator[None]:
    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()


def visited(path: Path, serve: Serve, pid: int = 0) -> Answers:
    async def play() -> Answers:
        async with served(path, serve):
            return await visit(path, pid)

    return asyncio.run(play())


def test_only_queries_are_sent_and_each_figure_arrives(tmp_path: Path) -> None:
    vm = FakeVm(dict(BALLOON))
    answers = visited(tmp_path / "qmp", vm.serve, os.getpid())
    assert answers.problem == ""
    assert {name for name, _ in vm.asked} <= QUERIES
    told = monitored(answers)
    assert (told.base_bytes, told.actual_bytes) == (64 * MIB, 64 * MIB)
    assert (told.balloons, told.devices) == (("virtio-balloon",), ("virtio-balloon-pci", "vfio-pci"))
    assert (told.interval_s, told.reports_free_pages, told.deflates_on_oom) == (2, True, None)
    assert told.report == GuestReport(40 * MIB, None, 1000)


def test_whether_an_hv_balloon_reports_free_pages_is_asked_as_well(tmp_path: Path) -> None:
    devices = [{"name": "hv0", "type": "child<hv-balloon>"}]
    answers: dict[str, object] = {
        "qom-list": lambda arguments: devices if arguments["path"] == "/machine/peripheral" else [],
        "query-hv-balloon-status-report": {"committed": MIB, "available": MIB},
        "qom-get free-page-reporting": True,
    }
    told = monitored(visited(tmp_path / "qmp", FakeVm(answers).serve))
    assert (told.balloons, told.reports_free_pages) == (("hv-balloon",), True)


def test_a_device_whose_name_cannot_stand_in_a_path_is_left_out() -> None:
    listed = [{"name": name, "type": "child<virtio-balloon-pci>"} for name in ("a\x1b[2J", "x" * 5000, "b0")]
    assert devices_in(listed) == [("b0", "virtio-balloon-pci")]


def test_the_monitor_is_free_again_when_the_visit_is_over(tmp_path: Path) -> None:
    async def play() -> None:
        vm, is_free = FakeVm(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await vm.serve(reader, writer)
            is_free.set()

        async with served(tmp_path / "qmp", serve):
            await visit(tmp_path / "qmp")
            await asyncio.wait_for(is_free.wait(), 100)

    asyncio.run(play())


def test_a_monitor_that_does_not_greet_is_said_to_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit_module, "VISIT_S", 0.1)

    async def hold(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    answers = visited(tmp_path / "qmp", hold)
    assert answers.replies == {}
    assert "another client holds it" in answers.problem


def test_what_came_before_a_monitor_fell_silent_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visit_module, "VISIT_S", 0.5)
    vm = FakeVm()
    vm.silent_on = "query-migrate"
    answers = visited(tmp_path / "qmp", vm.serve)
    assert "left after 100 ms" in answers.problem
    assert monitored(answers).actual_bytes == 64 * MIB


def test_nothing_is_asked_where_another_process_listens(tmp_path: Path) -> None:
    vm = FakeVm()
    answers = visited(tmp_path / "qmp", vm.serve, os.getpid() + 1)
    assert vm.asked == []
    assert "another process" in answers.problem


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"not JSON\n",
        b'{"QMP": []}\n',
        b'{"QMP": {}}\n' + b"x" * 100 + b"\n",
        b'{"QMP": {}}\n{"return": {}, "id": 1}\n{"return": ' + b"[" * 60_000 + b', "id": 1}\n',
        b"y" * 3_000_000,
    ],
)
def test_a_monitor_that_talks_nonsense_is_one_sentence(tmp_path: Path, sent: bytes) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
        writer.close()

    answers = visited(tmp_path / "qmp", talk)
    assert answers.problem
    assert "\n" not in answers.problem


def test_a_monitor_that_floods_is_left_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visit_module, "VISIT_S", 0.1)
    event = json.dumps({"event": "X", "data": {"a": "b" * 500}}).encode() + b"\n"

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'{"QMP": {}}\n')
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(event)
                await writer.drain()

    assert visited(tmp_path / "qmp", flood).problem


def test_a_monitor_that_this_user_may_not_connect_to_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)
    answers = asyncio.run(visit(tmp_path / "qmp"))
    assert answers.is_forbidden
    assert "may not connect" in answers.problem


@pytest.mark.parametrize("path", ["nosuch", "x" * 200, "a\0b"])
def test_a_socket_that_cannot_be_reached_is_a_sentence(tmp_path: Path, path: str) -> None:
    assert asyncio.run(visit(tmp_path / path)).problem

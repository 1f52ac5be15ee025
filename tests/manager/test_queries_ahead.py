"""What looks at a VM usually ask is sent as one message, and means what it would mean one by one."""

import asyncio
import gc
import weakref
from pathlib import Path

import pytest
from tests.rigs.monitored import MEBIBYTE, FakeVm, listening, look, watched
from tests.rigs.scenes import play

from dynmem.errors import DeadlineError, LocalProtocolError
from dynmem.manager.step.facts import RUNNING
from dynmem.manager.sweep.balloon import read_figures
from dynmem.manager.sweep.demand import STATUS_QUERY
from dynmem.manager.sweep.monitor import Monitor, Usual
from dynmem.manager.sweep.quiet import Figures
from dynmem.qmp.client import QmpClient


class CountingVm(FakeVm):
    """A VM that counts the messages that brought its queries."""

    def __init__(self) -> None:
        super().__init__(
            {
                "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
                "qom-get guest-stats": {"stats": {"stat-available-memory": 5 * MEBIBYTE}, "last-update": 1},
                "qom-get guest-stats-polling-interval": 1,
            }
        )
        self.messages = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = asyncio.StreamReader()
        serving = asyncio.create_task(super().serve(inner, writer))
        while data := await reader.read(1 << 16):
            self.messages += 1
            inner.feed_data(data)
        inner.feed_eof()
        await serving


def test_from_the_third_look_on_one_message_asks_what_the_last_two_looks_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = CountingVm()
        async with watched(vm, tmp_path) as connection:
            asked = []
            for _ in range(12):
                vm.messages = 0
                vm.asked.clear()
                await look(connection)
                asked.append((vm.messages, [name for name, _ in vm.asked]))
            usual = ["query-status", "query-migrate", "query-balloon", "qom-get"]
            messages = [count for count, names in asked[3:] if names == usual]  # of the others, more is due
            assert len(messages) >= 6
            assert set(messages) == {1}

    play(scenario())


def test_what_is_asked_at_each_tenth_look_is_in_the_one_message_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = CountingVm()
        async with watched(vm, tmp_path) as connection:
            asked = []
            for _ in range(45):
                vm.messages = 0
                vm.asked.clear()
                await look(connection)
                asked.append((vm.messages, len(vm.asked)))
            assert [count for count, _ in asked[25:]] == [1] * 20
            assert len({queries for _, queries in asked[25:]}) > 1
            assert asked[25:35] == asked[35:]

    play(scenario())


def test_what_was_sent_ahead_is_taken_by_its_command_and_what_was_not_is_asked_by_itself(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        vm = FakeVm({"query-jobs": []})
        async with listening(tmp_path / "qmp", vm.serve), await QmpClient.connect(tmp_path / "qmp") as client:
            monitor, usual = Monitor(client, may_write=False, timeout_s=5), Usual()
            for _ in range(2):
                usual.looked([("query-status", None), ("query-jobs", None), ("query-balloon", None)])
            vm.answers["query-balloon"] = {"actual": 1}
            async with monitor.ahead(usual):
                status = await monitor.query("query-status")
                vm.answers["query-balloon"] = {"actual": 2}
                assert status == {"status": RUNNING, "running": True}
                assert await monitor.query("query-balloon") == {"actual": 1}  # query-jobs was not wanted
                assert await monitor.query("query-balloon") == {"actual": 2}
                assert await monitor.query_now("query-balloon") == {"actual": 2}
            assert usual.queries == [("query-status", None), ("query-balloon", None), ("query-balloon", None)]
            async with monitor.ahead(usual):
                await monitor.query_now("query-status")  # by now all that was sent before is answered
                vm.answers["query-balloon"] = {"actual": 3}
            assert await monitor.query("query-balloon") == {"actual": 3}  # the block is over
            async with monitor.ahead(usual):
                await monitor.query("query-balloon")
            assert not usual.queries  # what was asked between two looks is no look's
            assert client.unasked.replies == 0

    play(scenario())


def test_a_reply_that_does_not_come_is_late_and_one_that_is_refused_is_refused_where_it_is_wanted(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        vm = FakeVm()
        async with listening(tmp_path / "qmp", vm.serve), await QmpClient.connect(tmp_path / "qmp") as client:
            monitor, usual = Monitor(client, may_write=False, timeout_s=0.05), Usual()
            for _ in range(2):
                usual.looked([("query-status", None)])
            vm.silent_on = "query-status"
            async with monitor.ahead(usual):
                with pytest.raises(DeadlineError, match="no reply to query-status"):
                    await monitor.query("query-status")
                with pytest.raises(LocalProtocolError, match="quit is not one of the queries"):
                    await monitor.query("quit")
            usual.looked([("query-status", None), ("quit", None)])
            assert usual.queries == [("query-status", None)]

    play(scenario())


def test_figures_that_must_be_of_now_are_not_those_that_were_asked_ahead(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm({STATUS_QUERY: {"committed": 1}})
        async with listening(tmp_path / "qmp", vm.serve), await QmpClient.connect(tmp_path / "qmp") as client:
            monitor, usual = Monitor(client, may_write=False, timeout_s=5), Usual()
            for _ in range(2):
                usual.looked([(STATUS_QUERY, None), ("query-balloon", None), ("query-status", None)])
            async with monitor.ahead(usual):
                await monitor.query_now("query-status")
                vm.answers[STATUS_QUERY] = {"committed": 2}
                vm.answers["query-balloon"] = {"actual": 3}
                vm.answers["query-status"] = {"status": "paused", "running": False}
                assert await read_figures(monitor) == Figures({"committed": 2}, 3, is_running=False)

    play(scenario())


def test_nothing_is_kept_of_a_reply_that_was_asked_for_ahead(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            listening(tmp_path / "qmp", FakeVm().serve),
            await QmpClient.connect(tmp_path / "qmp") as client,
        ):
            sent = await client.send([("query-status", None)], timeout_s=5)
            await client.wait(sent, timeout_s=5)
            batch = weakref.ref(sent)
            del sent
            gc.collect()
            assert batch() is None

    play(scenario())


def test_a_reply_that_was_passed_over_is_no_reply_to_what_is_asked_afterwards(tmp_path: Path) -> None:
    async def scenario() -> None:
        vm = FakeVm({"query-jobs": []})
        async with listening(tmp_path / "qmp", vm.serve), await QmpClient.connect(tmp_path / "qmp") as client:
            monitor, usual = Monitor(client, may_write=False, timeout_s=100), Usual()
            for _ in range(2):
                usual.looked([("query-jobs", None), ("query-balloon", None)])
            async with monitor.ahead(usual):
                await monitor.query("query-balloon")
                vm.answers["query-jobs"] = ["one"]  # a reply after that of the balloon may know of more
                assert await monitor.query("query-jobs") == ["one"]

    play(scenario())

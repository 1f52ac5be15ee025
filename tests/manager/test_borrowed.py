"""A monitor of another program is visited when nobody is connected, for a moment, and not often."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from tests.rigs.monitored import MEBIBYTE, QEMUS, FakeVm, listening, look, look_until
from tests.rigs.neighbour import STATUS, STATUS_S, Neighbour
from tests.rigs.obedient import ObedientHost
from tests.rigs.scenes import plays, until

from dynmem.discovery.keepers import is_keepers_own
from dynmem.discovery.unix_sockets import UnixSockets
from dynmem.errors import UnreachableError
from dynmem.manager.step.facts import ABSENT, RUNNING, SILENT, ManagerSettings, VmConfig
from dynmem.manager.sweep import borrowed
from dynmem.manager.sweep.borrowed import WAITS_S, Borrowed, TakenError, Visits
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.gate import PLACES
from dynmem.manager.sweep.quiet import NotSentError
from dynmem.units import GIB, NS_PER_S


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A visit may take as long as the machine does, and be followed by another one at once."""
    for name, seconds in (("VISIT_S", 100.0), ("GREETING_S", 100.0), ("VISIT_EVERY_S", 0.0)):
        monkeypatch.setattr(borrowed, name, seconds)
    # Or a visit that begins just after another program's waits for its greeting as long as that.
    monkeypatch.setattr(borrowed, "FRESH_S", 0.0)


class VirtioVm(FakeVm):
    """A QEMU with virtio-balloon, 64 MiB, whose guest reports anew each time; it counts page faults."""

    def __init__(self) -> None:
        self.reports = 0
        self.faults = 1000
        super().__init__(
            {
                "qom-list": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}],
                "qom-get guest-stats": self._statistics,
                "qom-get guest-stats-polling-interval": 1,
                "balloon": {},
            },
            package=QEMUS,
        )

    def _statistics(self, _: Mapping[str, object]) -> object:
        self.reports += 1
        self.faults += 1
        stats = {"stat-available-memory": 20 * MEBIBYTE, "stat-minor-faults": self.faults}
        return {"stats": stats, "last-update": 100 + self.reports}

    @property
    def targets(self) -> list[object]:
        return [arguments["value"] for name, arguments in self.asked if name == "balloon"]


@contextlib.asynccontextmanager
async def borrowing(path: Path, *, may_write: bool = True) -> AsyncIterator[VmConnection]:
    connection = VmConnection("web", path, may_write=may_write, period_s=0.1, access=Borrowed(path, Visits()))
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[None]:
    """Another program's client, which has been greeted."""
    reader, writer = await asyncio.open_unix_connection(path)
    await reader.readline()
    try:
        yield
    finally:
        writer.close()
        await writer.wait_closed()


@plays
async def test_each_look_is_a_visit_and_the_next_one_knows_what_was_seen(tmp_path: Path) -> None:
    vm, path = VirtioVm(), tmp_path / "qmp"
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        for visits in range(1, 4):
            facts = await look(connection)
            assert (facts.run_state, facts.problem) == (RUNNING, None)
            assert len(vm.writers) == visits
            await until(vm.writers[-1].is_closing)  # the manager has left
        assert facts.demand is not None
        assert facts.demand.committed_bytes == 44 * MEBIBYTE
        assert [name for name, _ in vm.asked].count("query-uuid") == 1  # it is the same process
        async with connected(path):  # and whoever owns it finds it free
            assert len(vm.writers) == 4


@plays
async def test_nobody_is_waited_behind_and_what_was_seen_last_counts_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(borrowed, "RECENT_S", 1000.0)
    vm, path = VirtioVm(), tmp_path / "qmp"
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        await look(connection)
        async with connected(path):
            for _ in range(3):
                assert (await look(connection)).run_state == RUNNING
                assert await connection.glance(NS_PER_S) is None
            monkeypatch.setattr(borrowed, "RECENT_S", 0.0)
            monkeypatch.setattr(borrowed, "RECENT_PERIODS", 0)
            facts = await look(connection)
            assert facts.run_state == SILENT
            assert f"another program uses its monitor {path} just now" in (facts.problem or "")
            assert len(vm.writers) == 2
        await look_until(connection, lambda facts: facts.run_state == RUNNING)
        assert len(vm.writers) == 3  # nothing of the manager's was in the queue


@plays
async def test_a_vm_whose_owner_is_connected_from_the_beginning_is_not_disturbed(tmp_path: Path) -> None:
    vm, path = VirtioVm(), tmp_path / "qmp"
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        async with connected(path):
            for _ in range(3):
                assert (await look(connection)).run_state == SILENT
        assert (await look_until(connection, lambda facts: facts.run_state == RUNNING)).problem is None
        assert len(vm.writers) == 2


@plays
async def test_a_monitor_that_does_not_greet_is_left_and_waited_for_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(borrowed, "GREETING_S", 0.05)
    path = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(path))
        hung.listen(8)
        async with borrowing(path) as connection:
            for _ in range(5):
                assert (await look(connection)).run_state == SILENT
                connection._not_before = 0.0
        hung.setblocking(False)
        hung.accept()[0].close()
        with pytest.raises(BlockingIOError):
            hung.accept()  # one attempt stands in the queue: then the monitor counts as taken


@plays
async def test_a_visit_that_takes_too_long_is_ended_and_the_next_one_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, path = VirtioVm(), tmp_path / "qmp"
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        await look(connection)
        vm.silent_on = "query-balloon"
        monkeypatch.setattr(borrowed, "VISIT_S", 0.4)
        monkeypatch.setattr(borrowed, "RECENT_S", 1000.0)
        for expected in (RUNNING, SILENT):  # once is no reason to leave it alone
            connection._not_before = 0.0
            facts = await look(connection)
            assert facts.run_state == expected
            assert "left after 400 ms, with a part of what was asked" in (facts.problem or "")
            await until(vm.writers[-1].is_closing)
            assert connection._not_before > 0
        monkeypatch.setattr(borrowed, "VISIT_S", 100.0)
        vm.silent_on = ""
        connection._not_before = 0.0
        assert (await look(connection)).run_state == RUNNING


@plays
async def test_looks_and_glances_come_no_more_often_than_is_polite_and_targets_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(borrowed, "VISIT_EVERY_S", 1000.0)
    vm, path = VirtioVm(), tmp_path / "qmp"
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        for _ in range(20):
            assert (await look(connection)).run_state == RUNNING
            assert await connection.glance(NS_PER_S, ask=True) is None
        assert len(vm.writers) == 1
        await connection.set_balloon(48 * MEBIBYTE)
        assert (len(vm.writers), vm.targets) == (2, [48 * MEBIBYTE])
        monkeypatch.setattr(borrowed, "VISIT_EVERY_S", 0.0)  # with it switched off
        for _ in range(3):
            await look(connection)
        assert len(vm.writers) == 5


@plays
async def test_glances_take_no_look_s_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, path = VirtioVm(), tmp_path / "qmp"
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        await look(connection)
        monkeypatch.setattr(borrowed, "VISIT_EVERY_S", 1000.0)
        access = connection._access
        assert isinstance(access, Borrowed)
        access._entered_s -= 1000.0  # long enough past for a glance
        access._looked_s -= 1000.0
        monkeypatch.setattr("dynmem.manager.sweep.looks.GLANCE_PATIENCE_S", 100.0)
        assert await connection.glance(NS_PER_S) is not None
        assert await connection.glance(NS_PER_S) is None
        vm.asked.clear()
        await look(connection)
        assert "query-status" in [name for name, _ in vm.asked]
        assert len(vm.writers) == 3


@plays
async def test_a_target_waits_until_the_owner_has_left_and_is_known_not_to_be_sent_if_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, path = VirtioVm(), tmp_path / "qmp"
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        await look(connection)
        async with connected(path):
            monkeypatch.setitem(WAITS_S, "target", 0.0)
            with pytest.raises(NotSentError, match="another program uses its monitor"):
                await connection.set_balloon(32 * MEBIBYTE)
            with pytest.raises(UnreachableError):  # before it was looked at again
                await connection.set_balloon(32 * MEBIBYTE)
        await look_until(connection, lambda facts: facts.run_state == RUNNING)
        monkeypatch.setitem(WAITS_S, "target", 100.0)
        async with connected(path):
            sending = asyncio.create_task(connection.set_balloon(48 * MEBIBYTE))
            await asyncio.sleep(0.05)
            assert not sending.done()
        await sending
        assert vm.targets == [48 * MEBIBYTE]


@plays
async def test_a_vm_that_has_ended_is_not_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borrowed, "RECENT_S", 1000.0)
    path = tmp_path / "qmp"
    async with borrowing(path) as connection:
        async with listening(path, VirtioVm().serve, one_at_a_time=True):
            await look(connection)
        assert (await look_until(connection, lambda facts: facts.run_state == ABSENT)).incarnation == ""


@plays
async def test_a_target_does_not_reach_the_successor_of_the_vm_it_was_meant_for(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    async with borrowing(path) as connection:
        async with listening(path, VirtioVm().serve, one_at_a_time=True):
            await look(connection)
        path.unlink()
        successor = VirtioVm()
        async with listening(path, successor.serve, one_at_a_time=True):
            with pytest.raises(NotSentError, match="started again"):
                await connection.set_balloon(48 * MEBIBYTE)
            assert successor.targets == []
            assert (await look(connection)).run_state == RUNNING


@plays
async def test_a_reset_between_two_visits_shows_by_page_faults_and_not_by_what_others_grant(
    tmp_path: Path,
) -> None:
    vm, path = VirtioVm(), tmp_path / "qmp"
    vm.answers["query-balloon"] = {"actual": 40 * MEBIBYTE}
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        for _ in range(3):
            await look(connection)
        vm.answers["query-balloon"] = {"actual": 50 * MEBIBYTE}  # the owner's balloon manager
        facts = await look(connection)
        assert (facts.resets, facts.actual_bytes, facts.demand is None) == (0, 50 * MEBIBYTE, False)
        vm.faults = 0
        facts = await look(connection)
        assert (facts.resets, facts.demand) == (1, None)


@plays
async def test_a_second_manager_of_a_borrowed_monitor_is_refused_and_one_that_observes_is_not(
    tmp_path: Path,
) -> None:
    vm, path = VirtioVm(), tmp_path / "qmp"
    async with (
        listening(path, vm.serve, one_at_a_time=True),
        borrowing(path) as first,
        borrowing(path) as second,
        borrowing(path, may_write=False) as observer,
    ):
        assert (await look(first)).run_state == RUNNING
        await until(vm.writers[-1].is_closing)
        facts = await look(second)
        assert (facts.run_state, facts.incarnation != "") == (SILENT, True)
        assert f"is managed by another `dynmem run` (process {os.getpid()} " in (facts.problem or "")
        with pytest.raises(UnreachableError):
            await second.set_balloon(48 * MEBIBYTE)
        await look_until(observer, lambda facts: facts.run_state == RUNNING)
        first.configure(may_write=False, period_s=0.1)
        second._not_before = 0.0
        await look_until(second, lambda facts: facts.run_state == RUNNING)


@plays
async def test_only_a_few_monitors_are_visited_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits, together = Visits(lambda: UnixSockets({}, frozenset())), 0
    monkeypatch.setattr(visits.gate, "took", lambda _: None)
    greeted: set[asyncio.StreamWriter] = set()

    class SlowVm(VirtioVm):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal together
            greeted.add(writer)
            together = max(together, len(greeted))
            await asyncio.sleep(0.01)
            await super().serve(reader, writer)
            greeted.discard(writer)

    async def visit(number: int) -> None:
        path = tmp_path / f"{number}"
        server = await asyncio.start_unix_server(SlowVm().serve, path)
        async with server:
            access = Borrowed(path, visits)
            connection = VmConnection(f"vm{number}", path, may_write=False, period_s=0.1, access=access)
            assert (await look(connection, patience_s=60)).run_state == RUNNING
            await connection.close()

    await asyncio.gather(*map(visit, range(8)))
    assert together == PLACES


@plays
async def test_a_visit_that_took_long_leaves_fewer_places_for_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, path, visits = VirtioVm(), tmp_path / "qmp", Visits()
    connection = VmConnection("web", path, may_write=False, period_s=0.1, access=Borrowed(path, visits))
    async with listening(path, vm.serve, one_at_a_time=True):
        await look(connection)
        assert visits.gate.places == PLACES + 1
        vm.silent_on = "query-balloon"
        monkeypatch.setattr(borrowed, "VISIT_S", 0.4)
        while visits.gate.places > PLACES:  # a busy machine may not have closed the last visit yet
            connection._not_before = 0.0
            await look(connection)
        assert visits.gate.places == PLACES
    await connection.close()


@plays
async def test_visits_that_begin_together_share_a_list_and_a_long_one_is_read_in_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_in: list[str] = []

    def read() -> UnixSockets:
        read_in.append(threading.current_thread().name)
        return UnixSockets({}, frozenset({"/run/a"}))

    async def all_of(visits: Visits) -> list[bool]:
        return await asyncio.gather(*(visits.is_taken(Path(f"/run/{name}")) for name in "abc"))

    here = threading.current_thread().name
    monkeypatch.setattr(borrowed, "FRESH_S", 1000.0)
    for quick_s in (1000.0, 0.0):
        read_in.clear()
        monkeypatch.setattr(borrowed, "QUICK_S", quick_s)
        visits = Visits(read)
        for _ in range(3):
            assert await all_of(visits) == [True, False, False]
        assert len(read_in) == 1
        assert here not in read_in  # how long it takes is not known yet
        monkeypatch.setattr(borrowed, "FRESH_S", 0.0)
        await all_of(visits)
        monkeypatch.setattr(borrowed, "FRESH_S", 1000.0)
        assert (here in read_in[1:]) == bool(quick_s)


@plays
async def test_a_vm_that_waits_for_its_turn_is_as_it_was_and_not_silent(tmp_path: Path) -> None:
    vm, path, visits = VirtioVm(), tmp_path / "qmp", Visits()
    connection = VmConnection("web", path, may_write=False, period_s=0.1, access=Borrowed(path, visits))
    async with listening(path, vm.serve, one_at_a_time=True):
        await look(connection)
        async with contextlib.AsyncExitStack() as others:
            for _ in range(visits.gate.places):
                await others.enter_async_context(visits.gate)
            for _ in range(2):
                assert (await look(connection, patience_s=0.05)).run_state == RUNNING
            assert len(vm.writers) == 1
        await look(connection)
        await until(lambda: len(vm.writers) > 1)
        await connection.close()


@plays
async def test_a_neighbour_with_proxmoxs_habits_is_served_at_every_batch(tmp_path: Path) -> None:
    vm, path = VirtioVm(), tmp_path / "qmp"
    neighbour = Neighbour([path])
    async with listening(path, vm.serve, one_at_a_time=True), borrowing(path) as connection:
        looks = 0
        for _ in range(20):
            asking = asyncio.create_task(neighbour.ask([path], STATUS, STATUS_S))
            while not asking.done():
                looks += (await look(connection)).run_state == RUNNING
                await asyncio.sleep(0)
    assert (neighbour.counted.batches, neighbour.counted.timeouts) == (20, 0)
    assert looks


def test_a_qemu_with_hv_balloon_behind_a_borrowed_monitor_is_left_as_it_is() -> None:
    config = VmConfig("web", minimum_bytes=GIB, maximum_bytes=4 * GIB, may_stop=True, monitor="borrowed")
    host = ObedientHost(ManagerSettings(3 * GIB, 0, NS_PER_S, "enforce"), [config], {"web": GIB})
    host.overrides["web"] = {"needs_stop": True}
    assert host.sweep(4).commands == ()
    assert "only over a monitor for dynmem alone" in host.manager.status().vm("web").reason


@pytest.mark.parametrize(
    ("path", "is_theirs"),
    [
        ("/run/qemu-server/100.qmp", True),
        ("/var/run/qemu-server/100.qmp", True),
        ("/run/qemu-server/100-dynmem.qmp", False),
        ("/run/qemu-server/100.qga", False),
        ("/home/me/run/qemu-server/100.qmp", False),
        ("/var/lib/libvirt/qemu/domain-1-web/monitor.sock", True),
        ("/home/me/.config/libvirt/qemu/lib/domain-1-web/monitor.sock", True),
        ("/var/lib/libvirt/qemu/domain-1-web/dynmem.sock", False),
        ("/run/vm/web.qmp", False),
    ],
)
def test_the_monitors_of_keepers_are_known_by_their_paths(path: str, is_theirs: bool) -> None:
    assert is_keepers_own(Path(path)) is is_theirs


def test_a_link_to_a_keepers_monitor_is_that_monitor(tmp_path: Path) -> None:
    (tmp_path / "web.qmp").symlink_to("/run/qemu-server/100.qmp")
    assert is_keepers_own(tmp_path / "web.qmp")


def test_one_search_finds_the_processes_behind_all_monitors_that_are_never_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[int] = []

    def search() -> dict[int, int]:
        searches.append(1)
        return {7: 4711, 8: 4712}

    monkeypatch.setattr(borrowed, "SEARCH_EVERY_S", 1000.0)
    monkeypatch.setattr(borrowed, "sockets_of_vms", search)
    visits = Visits(lambda: UnixSockets({7: "/run/a", 8: "/run/b", 9: "/run/c"}, frozenset()))
    ways = [Borrowed(Path(f"/run/{name}"), visits) for name in "abc"]
    assert [way.listener() for way in ways] == [4711, 4712, 0]
    assert len(searches) == 1


@plays
async def test_a_monitor_that_is_taken_while_a_visit_waits_for_its_turn_is_left_alone(tmp_path: Path) -> None:
    path, taken = tmp_path / "qmp", set[str]()
    visits = Visits(lambda: UnixSockets({}, frozenset(taken)))
    async with contextlib.AsyncExitStack() as others:
        for _ in range(PLACES):
            await others.enter_async_context(visits.gate)

        async def visit() -> None:
            async with Borrowed(path, visits).turn("look"):
                pass

        visiting = asyncio.create_task(visit())
        await until(lambda: bool(visits.gate._waiting))
        taken.add(str(path))
    with pytest.raises(TakenError):
        await visiting

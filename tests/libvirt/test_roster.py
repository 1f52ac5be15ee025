"""Which domains there are, whose policy counts, and which process runs each."""

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from tests.rigs.libvirts import (
    NAMED,
    OTHER,
    UUID,
    FakeDomain,
    FakeLibvirt,
    config,
    passed,
    qemu_process,
    seen,
    xml,
)
from tests.rigs.scenes import play, until

from dynmem.manager import connections
from dynmem.manager.connections import Connections
from dynmem.manager.domains import roster as roster_module
from dynmem.manager.domains.connection import DomainConnection
from dynmem.manager.domains.roster import processes_of
from dynmem.manager.next_sweep import NextSweep
from dynmem.manager.reload import ConfigWatch
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.sweep import sweep
from dynmem.units import MIB


def test_domains_with_a_policy_come_and_go_while_the_manager_runs(tmp_path: Path) -> None:
    async def scene() -> None:
        file = config(tmp_path)
        web = FakeDomain(xml(policy='minimum="64MiB"'))
        libvirt = FakeLibvirt(web, FakeDomain(xml("plain", OTHER), "plain", OTHER))
        async with seen(libvirt) as roster:
            assert roster.take_news()
            assert not roster.take_news()
            vms, domains = roster.managed(file)
            assert ([vm.name for vm in vms], domains) == (["web"], {"web": UUID})
            libvirt.all[1].definition = xml("plain", OTHER, policy='minimum="32MiB"')
            for _ in range(10):  # a tenth of the definitions is read again in each pass
                await passed(roster)
            assert roster.take_news()
            assert [vm.name for vm in roster.managed(file)[0]] == ["plain", "web"]
            libvirt.all.remove(web)
            await passed(roster)
            assert roster.take_news()
            assert [vm.name for vm in roster.managed(file)[0]] == ["plain"]
            web.number = -1  # shut off, and still defined
            libvirt.all.append(web)
            await passed(roster)
            assert [vm.name for vm in roster.managed(file)[0]] == ["plain", "web"]

    play(scene())


def test_what_the_file_says_of_a_domain_counts_in_place_of_its_policy(tmp_path: Path) -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml(policy='minimum="64MiB"')))
        async with seen(libvirt) as roster:
            for key in ("web", UUID, UUID.upper()):
                assert roster.managed(config(tmp_path, NAMED.format("www", key))) == ([], {})
            assert len(roster.managed(config(tmp_path, NAMED.format("www", "WEB")))[0]) == 1  # another's name

    play(scene())


def test_a_domain_that_cannot_be_managed_is_named_once_and_the_others_are(tmp_path: Path) -> None:
    async def scene() -> None:
        file = config(tmp_path, NAMED.format("db", "another"))
        lines: list[str] = []
        libvirt = FakeLibvirt(
            FakeDomain(xml(policy='minimum="64MiB"')),
            FakeDomain(xml("a b", OTHER, policy='minimum="64MiB"'), "a b", OTHER),
            FakeDomain(xml("db", "3", policy='minimum="64MiB"'), "db", "3"),
            FakeDomain("garbage", "broken", "4"),
        )
        async with seen(libvirt, lines) as roster:
            for _ in range(3):
                await passed(roster)
                assert [vm.name for vm in roster.managed(file)[0]] == ["web"]
        assert len(lines) == 3
        assert "domain 'broken' is left out: the definition of a domain is not XML" in lines[0]
        assert "'a b' is no name for dynmem" in lines[1] + lines[2]
        assert "has another VM of this name" in lines[1] + lines[2]

    play(scene())


def test_a_domain_that_is_renamed_while_it_is_read_is_managed_by_the_name_in_its_definition(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(
            FakeDomain(xml("new", policy='minimum="64MiB"'), "old"),
            FakeDomain(xml("db", OTHER, policy='minimum="64MiB"'), "www", OTHER),
        )
        lines: list[str] = []
        async with seen(libvirt, lines) as roster:
            vms, domains = roster.managed(config(tmp_path, NAMED.format("db", "another")))
            assert ([vm.name for vm in vms], domains) == (["new"], {"new": UUID})
        assert len(lines) == 1
        assert "has another VM of this name" in lines[0]

    play(scene())


def test_a_libvirt_that_cannot_be_reached_leaves_everything_as_it_was_and_is_named_once(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        file, lines = config(tmp_path), list[str]()
        libvirt = FakeLibvirt(FakeDomain(xml(policy='minimum="64MiB"')))
        async with seen(libvirt, lines) as roster:
            libvirt.is_down = True
            for _ in range(3):
                await passed(roster)
            assert len(roster.managed(file)[0]) == 1
            assert "reset by peer" in roster.problem
            libvirt.is_down = False
            await passed(roster)
            assert roster.problem == ""
        assert lines == [
            "libvirt: Cannot recv data: Connection reset by peer",
            "libvirt: qemu:///system replies again",
        ]

    play(scene())


def test_a_process_is_a_domains_only_where_no_other_claims_its_uuid() -> None:
    with qemu_process() as process:
        assert processes_of({UUID: "web"}) == {UUID: process.pid}
        assert processes_of({OTHER: "web"}) == {}
        with qemu_process():
            assert processes_of({UUID: "web"}) == {UUID: 0}


def test_no_pass_reads_more_than_twenty_definitions_again_and_all_take_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        uuids = [str(uuid4()) for _ in range(250)]
        libvirt = FakeLibvirt(*(FakeDomain(xml(uuid, uuid), uuid, uuid) for uuid in uuids))
        async with seen(libvirt) as roster:
            read, definition = Counter[str](), libvirt.definition

            def counted(uuid: str) -> str:
                read[uuid] += 1
                return definition(uuid)

            monkeypatch.setattr(libvirt, "definition", counted)
            for number in range(1, 14):
                await passed(roster)
                assert read.total() == 20 * number
            assert len(read) == 250

    play(scene())


def test_a_search_for_processes_that_hangs_holds_no_pass_up_and_is_used_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hangs, searches = threading.Event(), list[int]()

    def search(_: Mapping[str, str]) -> dict[str, int]:
        searches.append(1)
        hangs.wait(60)
        return {UUID: 4711}

    monkeypatch.setattr(roster_module, "processes_of", search)
    monkeypatch.setattr(roster_module, "_SEARCH_S", 0.01)

    async def scene() -> None:
        async with seen(FakeLibvirt(FakeDomain(xml()))) as roster:
            await passed(roster)
            found = roster.find(UUID)
            assert found is not None
            assert (found.pid, found.searches, len(searches)) == (0, 2, 1)
            hangs.set()
            monkeypatch.setattr(roster_module, "_SEARCH_S", 60)
            await passed(roster)
            found = roster.find(UUID)
            assert found is not None
            assert (found.pid, len(searches)) == (4711, 1)

    play(scene())


def test_a_reload_that_names_another_libvirt_waits_for_its_list_and_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        """Both have a domain of the same name and UUID."""
        first, second = (FakeLibvirt(FakeDomain(xml(policy='minimum="64MiB"'))) for _ in range(2))
        second.all[0].size_kib = 128 << 10
        of = {"qemu:///system": first, "qemu:///session": second}
        monkeypatch.setattr(connections, "_link", lambda uri, rebooted: of[uri].link(rebooted))
        monkeypatch.setattr(connections, "FIRST_LOOK_S", 60)
        watch = ConfigWatch(config(tmp_path))
        vms = Connections(watch, lambda _: None, NextSweep(), Measuring())

        async def size_after_reading_again(text: str) -> int | None:
            before = watch.config
            watch.config.path.write_text(text)
            await watch.read_again()
            await vms.take_in()
            await vms.follow(before)
            return (await sweep([vms.all["web"]], 0, 60))[0].actual_bytes if "web" in vms.all else None

        text = watch.config.path.read_text()
        assert await size_after_reading_again(text) == 256 * MIB
        assert await size_after_reading_again(text.replace("system", "session")) == 128 * MIB
        await until(lambda: first.closed)
        assert await size_after_reading_again(text.replace('libvirt = "qemu:///system"', "")) is None
        await until(lambda: second.closed)
        assert "web" not in vms.names
        assert (first.opened, second.opened) == (1, 1)
        await vms.close()

    play(scene())


def test_connections_follow_the_domains_and_know_whose_policy_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        web = FakeDomain(xml(policy='minimum="64MiB"'))
        db = FakeDomain(xml("db", OTHER, policy='minimum="64MiB"'), "db", OTHER)
        libvirt = FakeLibvirt(web, db)
        monkeypatch.setattr(connections, "_link", lambda _, rebooted: libvirt.link(rebooted))
        watch, next_sweep = ConfigWatch(config(tmp_path, NAMED.format("db", OTHER))), NextSweep()
        vms = Connections(watch, lambda _: None, next_sweep, Measuring())

        async def follow() -> list[str]:
            before = watch.config
            await vms.take_in()
            return await vms.follow(before)

        assert await follow() == []
        own = {name: isinstance(vm, DomainConnection) and vm.has_own_policy for name, vm in vms.all.items()}
        assert own == {"db": False, "web": True}
        assert "a domain that is not there yet" in vms.names
        next_sweep.wanted.clear()
        libvirt.all.remove(web)
        vms._roster._next_s = 0.0  # type: ignore[union-attr]
        vms.look()
        await next_sweep.wanted.wait()  # it is known without waiting for the next sweep
        assert vms.look()
        assert await follow() == ["web"]
        assert list(vms.all) == ["db"]
        await vms.close()

    play(scene())


def test_a_process_that_is_not_found_is_searched_for_in_some_passes_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    searches: list[int] = []

    def search(_: Mapping[str, str]) -> dict[str, int]:
        searches.append(1)
        return {}

    monkeypatch.setattr(roster_module, "processes_of", search)

    async def scene() -> None:
        async with seen(FakeLibvirt(FakeDomain(xml()))) as roster:
            for _ in range(15):
                await passed(roster)
        assert len(searches) == 10

    play(scene())


def test_no_more_domains_are_managed_than_a_manager_has_vms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster_module, "MANAGER_VMS_MAX", 1)

    async def scene() -> None:
        lines: list[str] = []
        policy = 'minimum="64MiB"'
        domains = (FakeDomain(xml(policy=policy)), FakeDomain(xml("db", OTHER, policy=policy), "db", OTHER))
        async with seen(FakeLibvirt(*domains), lines) as roster:
            assert [vm.name for vm in roster.managed(config(tmp_path))[0]] == ["db"]
        assert "there are 1 VMs already, which is the most" in lines[0]

    play(scene())

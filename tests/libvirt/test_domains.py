"""Domains as VMs of the manager: they come and go, are looked at, changed and left as any other."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.rigs.libvirts import OTHER, UUID, FakeDomain, FakeLibvirt, mebibytes, qemu_process, xml
from tests.rigs.scenes import play

from dynmem.domains.errors import LibvirtError, LibvirtRefusedError
from dynmem.errors import UnreachableError
from dynmem.manager.config import Config, load
from dynmem.manager.domains.connection import DomainConnection
from dynmem.manager.domains.roster import Roster, processes_of
from dynmem.manager.step.facts import ABSENT, RUNNING, SILENT, VmFacts
from dynmem.manager.sweep.identity import Identities
from dynmem.manager.sweep.quiet import NotSentError
from dynmem.units import KIB, MIB

FILE = """
    [host]
    budget = "1GiB"
    slush = "64MiB"
    [manager]
    libvirt = "qemu:///system"
"""
NAMED = """
    [[vm]]
    name = "{}"
    libvirt = "{}"
    minimum = "32MiB"
    maximum = "256MiB"
"""


def config(folder: Path, more: str = "") -> Config:
    path = folder / "hosts.toml"
    path.write_text(FILE + more)
    return load(path)


async def passed(roster: Roster) -> None:
    """One more pass over the domains, whenever the next one would be due."""
    roster._next_s = 0.0
    await roster.first(60)


@asynccontextmanager
async def seen(
    libvirt: FakeLibvirt, lines: list[str] | None = None, deadline_s: float = 60.0
) -> AsyncIterator[Roster]:
    """The roster of a libvirt after its first pass."""
    report = (lines if lines is not None else []).append
    roster = Roster(lambda rebooted: libvirt.link(rebooted, deadline_s=deadline_s), report)
    try:
        await roster.first(60)
        yield roster
    finally:
        for each in libvirt.all:
            if each.hangs is not None:
                each.hangs.set()
        await roster.close()


def connection(roster: Roster, key: str = UUID, *, may_write: bool = True) -> DomainConnection:
    return DomainConnection("web", key, roster, may_write=may_write, period_s=1.0)


async def look(vm: DomainConnection, at_s: float = 0.0) -> VmFacts:
    return await vm.observe(int(at_s * 1e9), 60)


# -- which there are ----------------------------------------------------------------------------------------


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


# -- looking and changing -----------------------------------------------------------------------------------


def test_a_domain_is_known_by_its_process_and_demand_is_what_its_guest_uses() -> None:
    async def scene() -> None:
        with qemu_process() as process:
            async with seen(FakeLibvirt(FakeDomain(xml()))) as roster:
                vm = connection(roster, "web")
                first = await look(vm)
                assert first.incarnation.startswith(f"{process.pid}@")
                assert (first.run_state, first.device, first.problem) == (RUNNING, "virtio-balloon", None)
                assert (mebibytes(first.boot_bytes), mebibytes(first.actual_bytes)) == (256, 256)
                assert first.demand is None  # of any age
                assert first.resident_bytes is not None
                assert (first.owner and (first.owner.kind, first.owner.name)) == ("libvirt", "web")
                second = await look(vm, 1.0)
                assert second.demand is not None
                assert mebibytes(second.demand.committed_bytes) == 56
                glance = await vm.glance(2_000_000_000)
                assert glance is not None
                assert glance.demand is not None
                await vm.close()

    play(scene())


def test_a_target_is_set_in_kibibytes_and_only_where_the_manager_may() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        async with seen(libvirt) as roster:
            vm = connection(roster)
            with pytest.raises(UnreachableError):
                await vm.set_balloon(128 * MIB)
            await look(vm)
            await vm.set_balloon(128 * MIB)
            assert libvirt.all[0].set == [("balloon", 128 * KIB)]
            assert mebibytes((await look(vm)).actual_bytes) == 128
            vm.is_paused = True
            with pytest.raises(NotSentError):
                await vm.set_balloon(64 * MIB)
            vm.is_paused = False
            libvirt.all[0].error = LibvirtRefusedError("cannot set memory higher than max memory")
            with pytest.raises(NotSentError, match="higher than max"):
                await vm.set_balloon(512 * MIB)
            libvirt.all[0].error = LibvirtError("monitor failed")
            with pytest.raises(LibvirtError, match="monitor failed"):
                await vm.set_balloon(64 * MIB)  # it may have arrived
            vm.configure(may_write=False, period_s=1.0)
            with pytest.raises(NotSentError):
                await vm.set_balloon(64 * MIB)
            assert len(libvirt.all[0].set) == 1
            await vm.close()

    play(scene())


WORDS = {
    (1, 1, 9): "backup",
    (1, 1, 5): "migrating",
    (3, 1, 2): "migrating",
    (1, 1, 99): "busy",
    (3, 2, None): "migrating",
}
WORDS |= {(3, 1, None): "paused", (3, 11, None): "prelaunch", (3, 77, None): "paused", (2, 0, None): RUNNING}
WORDS |= {
    (6, 0, None): "guest-panicked",
    (7, 0, None): "suspended",
    (0, 0, None): "unknown",
    (99, 0, None): "unknown",
}


@pytest.mark.parametrize(("said", "word"), WORDS.items(), ids=map(str, WORDS))
def test_only_a_domain_that_runs_and_is_in_no_job_is_running(
    said: tuple[int, int, int | None], word: str
) -> None:
    async def scene() -> None:
        domain = FakeDomain(xml())
        domain.state, domain.reason, domain.job = said
        async with seen(FakeLibvirt(domain)) as roster:
            vm = connection(roster)
            facts = await look(vm)
            assert facts.run_state == word
            assert facts.actual_bytes == 256 * MIB
            assert domain.asked == (0 if said[2] is not None else 1)
            assert (await vm.glance(1) is not None) == (word == RUNNING)
            if word != RUNNING:
                with pytest.raises(UnreachableError):
                    await vm.set_balloon(128 * MIB)
            await vm.close()

    play(scene())


def test_the_period_of_statistics_is_set_in_enforce_mode_only_and_put_back_on_release() -> None:
    async def scene(*, may_write: bool) -> tuple[list[tuple[str, int]], str | None]:
        domain = FakeDomain(xml(balloon="<memballoon model='virtio'/>"))
        async with seen(FakeLibvirt(domain)) as roster:
            vm = connection(roster, may_write=may_write)
            problems = [(await look(vm, number)).problem for number in range(6)]
            vm.is_released = True
            await look(vm, 9)
            await look(vm, 10)
            await vm.close()
        return domain.set, problems[-1]

    done, _ = play(scene(may_write=True))
    assert done == [("period", 1), ("period", 0)]
    done, problem = play(scene(may_write=False))
    assert done == []
    assert problem is not None
    assert "its guest statistics are off, and only enforce mode changes that: run virsh dommemstat" in problem


def test_a_period_that_another_program_insists_on_stays() -> None:
    async def scene() -> None:
        domain = FakeDomain(xml(balloon="<memballoon model='virtio'/>"))
        async with seen(FakeLibvirt(domain)) as roster:
            vm = connection(roster)
            for number in range(80):
                facts = await look(vm, number)
                await passed(roster)
                roster._domains = {  # read again, and off again
                    uuid: each._replace(definition=each.definition._replace())
                    for uuid, each in roster._domains.items()
                }
            assert domain.set == [("period", 1)] * 3
            assert facts.problem is not None
            assert "another program sets it so again and again" in facts.problem
            await vm.close()

    play(scene())


def test_impossible_figures_are_named_and_no_demand_is_made_of_them() -> None:
    async def scene() -> None:
        domain = FakeDomain(xml())
        async with seen(FakeLibvirt(domain)) as roster:
            vm = connection(roster)
            domain.usable_kib = 1 << 60
            for number in range(3):
                facts = await look(vm, number)
            assert (facts.demand, facts.run_state) == (None, RUNNING)
            assert facts.problem is not None
            assert "impossible sizes" in facts.problem
            domain.size_kib = 1 << 45
            facts = await look(vm, 9)
            assert facts.run_state == SILENT
            assert facts.problem is not None
            assert "not the size of a VM" in facts.problem
            await vm.close()

    play(scene())


def test_a_reset_that_libvirt_reports_ends_what_is_known_of_the_guest() -> None:
    async def scene() -> None:
        libvirt, resets = FakeLibvirt(FakeDomain(xml())), list[int]()
        roster = Roster(libvirt.link, lambda _: None, reset=lambda: resets.append(1))
        await roster.first(60)
        vm = connection(roster)
        for number in range(3):
            facts = await look(vm, number)
        assert facts.demand is not None
        libvirt.rebooted(OTHER)
        libvirt.rebooted(UUID)
        libvirt.rebooted(UUID)  # the same one, which libvirt reports twice
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        facts = await look(vm, 3)
        assert (facts.resets, facts.demand, facts.is_actual_former) == (1, None, True)
        assert resets == [1]
        for number in range(4, 6):
            await look(vm, number)
        libvirt.all[0].faults = 5  # fewer than before: another kernel, whether or not anybody said so
        assert (await look(vm, 6)).resets == 2
        await vm.close()
        await roster.close()

    play(scene())


# -- what goes wrong ----------------------------------------------------------------------------------------


def test_a_domain_that_hangs_is_silent_and_keeps_no_other() -> None:
    async def scene() -> None:
        hung, good = FakeDomain(xml()), FakeDomain(xml("db", OTHER), "db", OTHER)
        async with seen(FakeLibvirt(hung, good), deadline_s=0.05) as roster:
            first, second = (
                connection(roster),
                DomainConnection("db", "db", roster, may_write=True, period_s=1.0),
            )
            await look(first)
            hung.hangs = threading.Event()
            began = time.monotonic_ns()
            facts = await first.observe(began, 0.01)
            assert (facts.run_state, facts.problem) == (SILENT, "libvirt does not reply for it")
            assert facts.actual_bytes == 256 * MIB
            for number in range(5):
                assert (await look(second, number)).run_state == RUNNING
                assert (await first.observe(number, 0.01)).run_state == SILENT
            hung.hangs.set()
            while (await first.observe(0, 0.05)).run_state != RUNNING:
                first._not_before = 0.0
                await asyncio.sleep(0.01)
            await first.close()
            await second.close()

    play(scene())


def test_without_libvirtd_a_domain_is_there_as_long_as_its_process_is() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        with qemu_process() as process:
            async with seen(libvirt) as roster:
                vm = connection(roster)
                before = await look(vm)
                libvirt.is_down = True
                await passed(roster)
                facts = await look(vm)
                assert (facts.run_state, facts.incarnation) == (SILENT, before.incarnation)
                assert facts.resident_bytes is not None
                assert facts.problem is not None
                assert "reset by peer" in facts.problem
                libvirt.is_down = False
                vm._not_before = 0.0
                again = await look(vm)
                assert (again.run_state, again.incarnation) == (RUNNING, before.incarnation)
                libvirt.is_down = True
                process.kill()
                process.wait()
                facts = await look(vm)
                assert (facts.run_state, facts.incarnation) == (ABSENT, "")
                libvirt.is_down = False
                vm._not_before = 0.0
                assert (await look(vm)).run_state == ABSENT  # libvirt still lists the life that is over
                await vm.close()

    play(scene())


def test_each_start_of_a_domain_is_a_life_of_its_own_also_where_its_process_cannot_be_seen() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        async with seen(libvirt) as roster:
            vm = connection(roster)
            assert (await look(vm)).incarnation == "domain 1"
            assert "run dynmem as root" in (await look(vm)).resident_source
            libvirt.all[0].number = 2
            await passed(roster)
            assert (await look(vm)).incarnation == "domain 2"
            libvirt.all[0].number = -1
            await passed(roster)
            facts = await look(vm)
            assert (facts.run_state, facts.problem) == (ABSENT, "the domain is shut off")
            libvirt.all.clear()
            await passed(roster)
            facts = await look(vm)
            assert facts.problem is not None
            assert "libvirt has no domain" in facts.problem
            await vm.close()

    play(scene())


def test_one_domain_under_two_names_counts_once() -> None:
    async def scene() -> None:
        with qemu_process():
            async with seen(FakeLibvirt(FakeDomain(xml()))) as roster:
                identities = Identities()
                vm, twin = (
                    DomainConnection(name, UUID, roster, may_write=False, period_s=1.0, identities=identities)
                    for name in ("web", "twin")
                )
                assert (await look(vm)).run_state == RUNNING
                facts = await look(twin)
                assert (facts.run_state, facts.incarnation) == (ABSENT, "")
                assert facts.problem is not None
                assert "it is the same VM as web" in facts.problem
                await vm.close()
                await twin.close()

    play(scene())


def test_a_second_manager_is_kept_from_a_domain() -> None:
    async def scene() -> None:
        with qemu_process():
            async with seen(FakeLibvirt(FakeDomain(xml()))) as roster:
                vm, other = connection(roster), connection(roster)
                assert (await look(vm)).run_state == RUNNING
                facts = await look(other)
                assert facts.run_state == SILENT
                assert facts.problem is not None
                assert "managed by another `dynmem run`" in facts.problem
                await vm.close()
                other._not_before = 0.0
                assert (await look(other)).run_state == RUNNING
                await other.close()

    play(scene())


def test_a_domain_without_a_balloon_is_seen_and_never_changed() -> None:
    async def scene() -> None:
        domain = FakeDomain(xml(balloon="<memballoon model='none'/>"))
        async with seen(FakeLibvirt(domain)) as roster:
            facts = await look(connection(roster))
            assert (facts.run_state, facts.device) == (RUNNING, None)
            assert facts.problem is not None
            assert "<memballoon model='virtio'/>" in facts.problem
            assert domain.set == []

    play(scene())

"""Domains as VMs of the manager: they come and go, are looked at, changed and left as any other."""

import asyncio
import threading
import time

import pytest
from tests.rigs.libvirts import (
    OTHER,
    UUID,
    FakeDomain,
    FakeLibvirt,
    mebibytes,
    passed,
    qemu_process,
    seen,
    xml,
)
from tests.rigs.scenes import play, until

from dynmem.domains.definition import definition_of
from dynmem.domains.errors import LibvirtError, LibvirtRefusedError
from dynmem.errors import UnreachableError
from dynmem.manager.domains.connection import DomainConnection
from dynmem.manager.domains.period import StatisticsPeriod
from dynmem.manager.domains.roster import Roster
from dynmem.manager.step.facts import ABSENT, RUNNING, SILENT, VmFacts
from dynmem.manager.sweep.identity import Identities
from dynmem.manager.sweep.quiet import NotSentError
from dynmem.manager.sweep.sweep import sweep
from dynmem.units import KIB, MIB, NS_PER_S


def connection(roster: Roster, key: str = UUID, *, may_write: bool = True) -> DomainConnection:
    return DomainConnection("web", key, roster, may_write=may_write, period_s=1.0)


async def look(vm: DomainConnection, at_s: float = 0.0, *, patience_s: float = 60) -> VmFacts:
    (facts,) = await sweep([vm], int(at_s * 1e9), patience_s)
    return facts


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


def test_a_report_may_take_as_long_as_the_former_period_until_one_has_come() -> None:
    period = StatisticsPeriod("web")
    period.saw(definition_of(xml(balloon="<memballoon model='virtio'><stats period='10'/></memballoon>")))
    period.reported()
    period.was_set(1)
    assert period.interval_ns == 10 * NS_PER_S
    period.reported()
    assert period.interval_ns == NS_PER_S


def test_no_target_is_sent_beside_one_that_libvirt_has_not_replied_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        libvirt, hangs, sent = FakeLibvirt(FakeDomain(xml())), threading.Event(), list[int]()

        def hang(_: str, size_kib: int) -> None:
            sent.append(size_kib)
            hangs.wait(30)

        monkeypatch.setattr(libvirt, "set_balloon", hang)
        async with seen(libvirt) as roster:
            vm = connection(roster)
            await look(vm)
            first = asyncio.create_task(vm.set_balloon(128 * MIB))
            await until(lambda: sent)
            with pytest.raises(NotSentError, match="has not replied to the target before"):
                await vm.set_balloon(64 * MIB)
            hangs.set()
            await first
            assert sent == [128 * KIB]
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
        async with seen(FakeLibvirt(hung, good)) as roster:
            first, second = (
                connection(roster),
                DomainConnection("db", "db", roster, may_write=True, period_s=1.0),
            )
            await look(first)
            hung.hangs = threading.Event()
            facts = await look(first, time.monotonic(), patience_s=0.01)
            assert (facts.run_state, facts.problem) == (SILENT, "libvirt does not reply for it")
            assert facts.actual_bytes == 256 * MIB
            for number in range(5):
                assert (await look(second, number)).run_state == RUNNING
                assert (await look(first, number, patience_s=0.01)).run_state == SILENT
            hung.hangs.set()
            while (await look(first)).run_state != RUNNING:
                first._not_before = 0.0
                await asyncio.sleep(0.01)
            await first.close()
            await second.close()

    play(scene())


def test_a_domain_that_has_kept_a_sweep_waiting_is_waited_for_only_when_libvirt_has_replied() -> None:
    async def scene(deadline_s: float) -> None:
        domain = FakeDomain(xml())
        async with seen(FakeLibvirt(domain)) as roster:
            vm = connection(roster)
            await look(vm)
            domain.hangs = threading.Event()
            roster.link._deadline_s = deadline_s
            assert (await look(vm, patience_s=0)).run_state == SILENT
            if deadline_s < 1:  # a look that has ended shows that libvirt replies, unless it was given up
                assert vm._looks._look is not None
                await asyncio.wait((vm._looks._look,))
                vm._not_before = 0.0
            assert (await look(vm, patience_s=1000)).problem == "libvirt does not reply for it"
            domain.hangs.set()
            roster.link._deadline_s = 60
            while (await look(vm, patience_s=1000)).run_state != RUNNING:
                vm._not_before = 0.0
                await asyncio.sleep(0.005)
            await vm.close()

    play(scene(60))
    play(scene(0.02))


def test_a_domain_whose_process_has_ended_is_absent_though_libvirt_still_lists_it() -> None:
    async def scene() -> None:
        with qemu_process() as process:
            async with seen(FakeLibvirt(FakeDomain(xml()))) as roster:
                vm = connection(roster)
                assert (await look(vm)).run_state == RUNNING
                process.kill()
                assert vm._life is not None
                assert vm._life.process is not None
                await until(vm._life.process.gone)  # nobody has waited for it: it can still be opened
                for number in range(2):
                    facts = await look(vm, number)
                    assert (facts.run_state, facts.problem) == (ABSENT, "its process has ended")
                await vm.close()

    play(scene())


def test_a_size_that_rose_while_libvirt_was_gone_is_a_reset() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        async with seen(libvirt) as roster:
            vm = connection(roster)
            await look(vm)
            await vm.set_balloon(128 * MIB)
            assert (await look(vm, 1)).resets == 0
            libvirt.is_down = True
            await passed(roster)
            libvirt.is_down = False
            libvirt.all[0].size_kib = 256 * KIB
            facts = await look(vm, 2)
            assert (facts.run_state, facts.resets, facts.is_actual_former) == (RUNNING, 1, False)
            await vm.close()

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


def test_a_domain_whose_own_policy_says_observe_is_left_as_it_is() -> None:
    async def scene() -> None:
        domain = FakeDomain(
            xml(policy='minimum="64MiB" mode="observe"', balloon="<memballoon model='virtio'/>")
        )
        async with seen(FakeLibvirt(domain)) as roster:
            vm = connection(roster)
            vm.has_own_policy = True
            for number in range(6):
                facts = await look(vm, number)
            assert facts.lock == 'the policy in its metadata has mode="observe"'
            assert facts.run_state == RUNNING
            with pytest.raises(NotSentError):
                await vm.set_balloon(128 * MIB)
            assert domain.set == []
            vm.has_own_policy = False  # the file names it: its metadata does not count
            assert (await look(vm, 7)).lock == ""
            assert domain.set == [("period", 1)]
            vm.configure(may_write=False, period_s=1.0)
            vm.has_own_policy = True
            assert (await look(vm, 8)).lock == ""  # a manager that observes shows its plan as for any other
            await vm.close()

    play(scene())

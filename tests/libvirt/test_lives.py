"""The lives of a domain: what begins and ends one, and what of one is not the next one's."""

import asyncio
import subprocess
import threading

import pytest
from tests.rigs.libvirts import UUID, FakeDomain, FakeLibvirt, passed, seen, xml
from tests.rigs.scenes import play, until

from dynmem.domains.errors import LibvirtError
from dynmem.limits import RECONNECT_PAUSE_S_MAX
from dynmem.manager.domains import roster as roster_module
from dynmem.manager.domains.connection import DomainConnection
from dynmem.manager.domains.roster import Roster
from dynmem.manager.step.facts import ABSENT, RUNNING, SILENT, VmFacts
from dynmem.manager.sweep import looks
from dynmem.manager.sweep.sweep import sweep
from dynmem.units import KIB, MIB


def connection(roster: Roster) -> DomainConnection:
    return DomainConnection("web", UUID, roster, may_write=True, period_s=1.0)


async def look(vm: DomainConnection, at_s: int = 0) -> VmFacts:
    (facts,) = await sweep([vm], at_s * 10**9, 60)
    return facts


def test_a_size_that_was_sent_before_libvirt_was_gone_is_no_reset() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        async with seen(libvirt) as roster:
            vm = connection(roster)
            await look(vm)
            await vm.set_balloon(128 * MIB)
            await look(vm, 1)
            libvirt.all[0].obeys = False
            await vm.set_balloon(192 * MIB)
            libvirt.is_down = True
            await passed(roster)
            libvirt.is_down = False
            libvirt.all[0].size_kib = 192 * KIB
            facts = await look(vm, 2)
            assert (facts.actual_bytes, facts.resets) == (192 * MIB, 0)
            await vm.close()

    play(scene())


def test_a_domain_that_was_paused_since_the_last_look_is_not_glanced_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looks, "GLANCE_PATIENCE_S", 60.0)

    async def scene() -> None:
        domain = FakeDomain(xml())
        async with seen(FakeLibvirt(domain)) as roster:
            vm = connection(roster)
            await look(vm)
            assert await vm.glance(1) is not None
            domain.state = 3
            assert await vm.glance(2) is None
            await vm.close()

    play(scene())


def test_a_glance_at_a_life_that_has_ended_meanwhile_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "GLANCE_PATIENCE_S", 60.0)

    async def scene() -> None:
        domain = FakeDomain(xml())
        libvirt = FakeLibvirt(domain)
        async with seen(libvirt) as roster:
            vm = connection(roster)
            await look(vm)
            asked, domain.hangs = domain.asked, threading.Event()
            glancing = asyncio.create_task(vm.glance(1))
            await until(lambda: vm._looks._glance is not None)
            listed, roster._domains = roster._domains, {}
            assert (await look(vm)).run_state == ABSENT
            roster._domains = listed
            domain.hangs.set()
            assert await glancing is None
            assert domain.asked == asked + 1
            await vm.close()

    play(scene())


def test_a_domain_whose_process_has_ended_since_it_was_found_has_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    monkeypatch.setattr(roster_module, "processes_of", lambda _: {UUID: ended.pid})

    async def scene() -> None:
        async with seen(FakeLibvirt(FakeDomain(xml()))) as roster:
            vm = connection(roster)
            assert (await look(vm)).run_state == ABSENT
            await vm.close()

    play(scene())


def test_a_domain_whose_name_is_none_for_a_command_line_is_called_by_its_uuid() -> None:
    async def scene() -> None:
        async with seen(FakeLibvirt(FakeDomain(xml("a b"), "a b"))) as roster:
            vm = connection(roster)
            owner = (await look(vm)).owner
            assert owner is not None
            assert owner.name == UUID
            await vm.close()

    play(scene())


def test_a_domain_that_failed_and_was_started_again_is_looked_at_at_once() -> None:
    async def scene() -> None:
        domain = FakeDomain(xml())
        libvirt = FakeLibvirt(domain)
        async with seen(libvirt) as roster:
            vm = connection(roster)
            await look(vm)
            domain.error = LibvirtError("internal error")
            assert (await look(vm)).run_state == SILENT
            for _ in range(20):
                vm._lose("again and again")
            assert vm._pause_s == RECONNECT_PAUSE_S_MAX
            domain.error, domain.number = None, -1
            await passed(roster)
            assert (await look(vm)).run_state == ABSENT
            domain.number = 2
            await passed(roster)
            assert (await look(vm)).run_state == RUNNING
            await vm.close()

    play(scene())

"""Calls to libvirt in threads: one that hangs keeps nobody, and what libvirt raises stays inside."""

import asyncio
import os
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from tests.rigs.libvirts import UUID, FakeDomain, FakeLibvirt, xml
from tests.rigs.scenes import play

from dynmem.domains import api
from dynmem.domains.api import Look, RealLibvirt, open_libvirt
from dynmem.domains.errors import LibvirtError, LibvirtLostError, LibvirtMissingError, LibvirtRefusedError
from dynmem.domains.link import AT_ONCE, LEFT_MAX, Link
from dynmem.errors import DeadlineError

look = partial(FakeLibvirt.look, uuid=UUID)


async def until(true: Any) -> None:
    while not true():  # noqa: ASYNC110 - threads set no event of the loop
        await asyncio.sleep(0.005)


def test_a_call_that_hangs_is_left_its_connection_which_it_closes_and_others_get_a_new_one() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        libvirt.all[0].hangs = hangs = threading.Event()
        link = libvirt.link(deadline_s=0.02)
        with pytest.raises(DeadlineError, match=r"has not replied for 0\.02 s"):
            await link.call(lambda each: each.look(UUID))
        await until(lambda: libvirt.opened == 1)  # its thread may get its turn late
        assert len(await link.call(lambda each: each.domains(), 60)) == 1
        assert (libvirt.opened, libvirt.closed) == (2, [])
        hangs.set()
        await until(lambda: libvirt.closed)
        assert libvirt.closed == [
            "libvirt"
        ]  # a thread's name: the loop never waits for the end of a connection
        assert link.generation == 0  # no event was missed
        link.close()

    play(scene())


def test_when_eight_calls_hang_libvirt_is_asked_nothing_until_one_ends() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        libvirt.all[0].hangs = hangs = threading.Event()
        link = libvirt.link(deadline_s=0.01)
        for _ in range(LEFT_MAX):
            with pytest.raises(DeadlineError):
                await link.call(lambda each: each.look(UUID))
        before = threading.active_count()
        with pytest.raises(LibvirtError, match="does not reply to 8 calls: it hangs"):
            await link.call(lambda each: each.domains())
        assert threading.active_count() <= before
        hangs.set()
        await until(lambda: len(libvirt.closed) == LEFT_MAX)
        assert len(await link.call(lambda each: each.domains(), 60)) == 1
        link.close()

    play(scene())


def test_a_connection_that_was_lost_is_made_again_and_a_refusal_ends_none() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        link = libvirt.link()
        with pytest.raises(LibvirtRefusedError):
            await link.call(lambda each: each.look("none"))
        await link.call(lambda each: each.domains())
        assert (libvirt.opened, link.generation) == (1, 0)
        libvirt.is_down = True
        for _ in range(3):
            with pytest.raises(LibvirtLostError):
                await link.call(lambda each: each.domains())
        libvirt.is_down = False
        await link.call(lambda each: each.domains())
        assert link.generation > 0  # whoever waits for events knows that some were missed
        link.close()
        await until(lambda: libvirt.closed)

    play(scene())


def test_no_more_calls_run_at_once_than_libvirt_serves() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        running: list[int] = []
        most: list[int] = []
        turn = threading.Event()

        def ask(_: object) -> None:
            running.append(1)
            most.append(len(running))
            turn.wait(0.01)
            running.pop()

        link = libvirt.link()
        await asyncio.gather(*(link.call(ask) for _ in range(20)))
        assert len(most) == 20
        assert max(most) <= 4
        link.close()

    play(scene())


def test_a_call_that_waits_behind_calls_that_hang_goes_on_over_a_new_connection() -> None:
    async def scene() -> None:
        libvirt = FakeLibvirt(FakeDomain(xml()))
        libvirt.all[0].hangs = hangs = threading.Event()
        link = libvirt.link(deadline_s=0.05)
        hung = [asyncio.create_task(link.call(lambda each: each.look(UUID))) for _ in range(AT_ONCE)]
        await asyncio.sleep(0)
        assert len(await link.call(lambda each: each.domains(), 60)) == 1
        await until(lambda: libvirt.opened == 2)
        assert [type(each) for each in await asyncio.gather(*hung, return_exceptions=True)] == (
            [DeadlineError] * AT_ONCE
        )
        hangs.set()
        link.close()

    play(scene())


def test_without_libvirts_module_the_sentence_names_both_ways_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(LibvirtMissingError) as caught:
        open_libvirt("qemu:///system", True, lambda _: None)
    assert "pip install dynmem[libvirt]" in str(caught.value)
    assert "libvirt-dev" in str(caught.value)
    assert "python3-libvirt" in str(caught.value)


class TheirError(Exception):
    """As libvirtError, as far as it is used."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self._code = code

    def get_error_code(self) -> int:
        return self._code


def real(error: Exception, *, is_alive: bool = True) -> RealLibvirt:
    """The connection that is used in earnest, over a module whose calls fail."""

    def fail(*_: object) -> Any:
        raise error

    connection = SimpleNamespace(
        listAllDomains=fail,
        setKeepAlive=fail,
        domainEventRegisterAny=fail,
        close=fail,
        isAlive=lambda: is_alive,
    )
    module: Any = SimpleNamespace(libvirtError=TheirError)
    return RealLibvirt(module, connection, lambda _: None)


def test_what_libvirt_raises_becomes_our_error_in_one_line_of_bounded_length() -> None:
    with pytest.raises(LibvirtError) as caught:
        real(TheirError(38, "Failed to connect\n\x1b[2J" + "x" * 5000)).domains()
    assert str(caught.value).startswith("Failed to connect ?[2Jxxx")
    assert len(str(caught.value)) <= 300
    with pytest.raises(LibvirtRefusedError, match="no domain"):
        real(TheirError(42, "no domain")).domains()
    with pytest.raises(
        LibvirtRefusedError, match="run dynmem as root, or as a user that may use this libvirt"
    ):
        real(TheirError(88, "access denied")).domains()
    with pytest.raises(LibvirtLostError):
        real(TheirError(1, "client socket is closed"), is_alive=False).domains()
    with pytest.raises(LibvirtRefusedError, match="cannot pass this on"):
        real(TheirError(3, ""))._ask(lambda: (_ for _ in ()).throw(OverflowError("too large")))


def test_jobs_that_are_over_are_none() -> None:
    def looked(**statistics: object) -> Look:
        domain = SimpleNamespace(
            UUIDString=UUID.upper,
            state=lambda: [1, 1],
            info=lambda: [1, 4096, 1024, 1, 0],
            jobStats=lambda: statistics,
            memoryStats=lambda: {"actual": 2048},
        )
        found = real(TheirError(3, "not supported"))
        found._domains = {UUID: domain}
        return found.look(UUID)

    assert looked(type=0) == Look(1, 1, None, 2048, {"actual": 2048})  # and nothing more was asked
    assert looked(type=2, operation=9) == Look(1, 1, 9, 1024, None)  # its balloon is not asked
    assert looked(type=1, operation="?").job == 0
    for over in (3, 4, 5, "?"):
        assert looked(type=over, operation=5).job is None


def test_a_domain_of_another_connection_is_looked_for_and_then_said_to_be_gone() -> None:
    found = real(TheirError(3, ""))
    found._connection = SimpleNamespace(listAllDomains=lambda _: [], isAlive=lambda: True)
    with pytest.raises(LibvirtRefusedError, match="no such domain any more"):
        found.look(UUID)


def test_libvirts_daemons_are_not_started_by_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    module: Any = SimpleNamespace(
        libvirtError=TheirError,
        registerErrorHandler=lambda *_: calls.append("errors"),
        virEventRegisterDefaultImpl=lambda: calls.append("events"),
        virEventRunDefaultImpl=threading.Event().wait,
        openReadOnly=lambda uri: calls.append(f"read only {uri}"),
        open=calls.append,
    )
    monkeypatch.setitem(sys.modules, "libvirt", module)
    monkeypatch.setattr(api, "_is_ready", False)
    monkeypatch.delenv("LIBVIRT_AUTOSTART", raising=False)
    monkeypatch.setattr(api, "RealLibvirt", lambda *_: None)
    open_libvirt("qemu:///system", True, lambda _: None)
    assert os.environ["LIBVIRT_AUTOSTART"] == "0"
    open_libvirt("qemu:///session", False, lambda _: None)
    assert calls == ["errors", "events", "read only qemu:///system", "qemu:///session"]
    monkeypatch.setattr(api, "_is_ready", False)


def test_a_link_says_which_libvirt_it_leads_to() -> None:
    assert Link("qemu:///system").uri == "qemu:///system"

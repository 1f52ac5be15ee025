"""One VM is driven once: under one of the names that lead to it, and by one manager of the host."""

import contextlib
import errno
import os
import signal
from pathlib import Path

import pytest
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import BALLOON, FakeVm, listening, look, look_until, qemu
from tests.rigs.scenes import play, plays, until

from dynmem.errors import RefusedError
from dynmem.manager.step.facts import ABSENT, RUNNING, SILENT
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.identity import Identities, Identity, uuid_of
from dynmem.manager.sweep.vm_lock import VmLock, may_open
from dynmem.sockets import Peer

ONE, TWO = "0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        (Identity("8:1"), Identity("8:1"), True),  # two paths to one socket
        (Identity("8:1", "5@1", ONE), Identity("8:1", "6@1", TWO), True),
        (Identity("8:1", "5@1", ONE), Identity("8:2", "5@1", ONE), True),  # two monitors of one QEMU
        (Identity("8:1", "5@1", ONE), Identity("8:2", "5@1"), True),  # the second has not said
        (Identity("8:1", "5@1", ONE), Identity("8:2", "5@1", TWO), False),  # a broker of monitors
        (Identity("8:1", "5@1"), Identity("8:2", "5@1"), False),
        (Identity("8:1", "5@1", ONE), Identity("8:2", "5@2", ONE), False),  # a lie, or a copy
        (Identity("8:1", "", ONE), Identity("8:2", "", ONE), False),
        (Identity(""), Identity(""), False),
    ],
)
def test_two_names_are_one_vm_by_what_the_kernel_says_and_never_by_a_uuid_alone(
    first: Identity, second: Identity, are_one: bool
) -> None:
    identities = Identities()
    for name in ("web", "db"):
        identities.enter(name, Path(f"/run/{name}.qmp"))
    identities.claim("web", first)
    if are_one:
        with pytest.raises(RefusedError, match="is the same VM as web: "):
            identities.claim("db", second)
        identities.forget("web")
    identities.claim("db", second)


def test_what_is_no_uuid_is_none() -> None:
    assert uuid_of(ONE.upper()) == ONE
    assert [uuid_of(value) for value in (None, 5, "", "x" * 36, ONE + "\n", [ONE])] == [""] * 6


@plays
async def test_a_link_to_a_neighbours_socket_takes_nothing_from_the_neighbour(tmp_path: Path) -> None:
    vm = FakeVm()
    (tmp_path / "link").symlink_to(tmp_path / "qmp")
    identities = Identities()
    link = VmConnection("link", tmp_path / "link", may_write=True, period_s=0.1, identities=identities)
    web = VmConnection("web", tmp_path / "qmp", may_write=True, period_s=0.1, identities=identities)
    async with listening(tmp_path / "qmp", vm.serve):
        facts = await look(link)  # although it is looked at first
        assert (facts.run_state, facts.incarnation) == (ABSENT, "")
        assert f"is the same VM as web: {tmp_path}/link and {tmp_path}/qmp lead to" in (facts.problem or "")
        assert (await look(web)).run_state == RUNNING
        assert len(vm.writers) == 1
        await link.close()
        await web.close()


@pytest.mark.qemu
@plays
async def test_a_qemu_with_two_monitors_is_one_vm_until_it_ends(tmp_path: Path) -> None:
    identities = Identities()
    second_monitor = ("-qmp", f"unix:{tmp_path}/b,server=on,wait=off")
    a, b = (
        VmConnection(name, tmp_path / name, may_write=True, period_s=0.1, identities=identities)
        for name in ("a", "b")
    )
    with qemu(tmp_path / "a", *BALLOON, *second_monitor):
        assert (await look(a)).run_state == "prelaunch"
        facts = await look(b)
        assert (facts.run_state, facts.incarnation) == (ABSENT, "")
        assert f"is the same VM as a: {tmp_path}/b and {tmp_path}/a lead to" in (facts.problem or "")
    await look_until(a, lambda facts: facts.run_state == ABSENT)
    with qemu(tmp_path / "b", *BALLOON):
        await look_until(b, lambda facts: facts.run_state == "prelaunch")
    await a.close()
    await b.close()


@pytest.mark.qemu
@plays
async def test_two_managers_of_one_qemu_by_two_monitors_are_one_too_many(tmp_path: Path) -> None:
    second_monitor = ("-qmp", f"unix:{tmp_path}/b,server=on,wait=off")
    a, b = (VmConnection(name, tmp_path / name, may_write=True, period_s=0.1) for name in ("a", "b"))
    with qemu(tmp_path / "a", *BALLOON, *second_monitor):
        assert (await look(a)).run_state == "prelaunch"
        facts = await look(b)
        assert (facts.run_state, facts.incarnation != "") == (SILENT, True)  # its memory counts
        assert f"is managed by another `dynmem run` (process {os.getpid()} " in (facts.problem or "")
        a.configure(may_write=False, period_s=0.1)  # who only observes keeps nobody away
        await look_until(b, lambda facts: facts.run_state == "prelaunch")
        assert (await look(a)).run_state == "prelaunch"
    await a.close()
    await b.close()


def test_a_second_manager_of_a_vm_is_refused_by_name_and_takes_over_when_the_first_is_killed(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        web = ObedientVm()
        (tmp_path / "second").mkdir()
        config = configured(tmp_path, "enforce", web="")
        other = configured(tmp_path / "second", "enforce", web="")
        other.write_text(other.read_text().replace("/second/web.qmp", "/web.qmp"))
        async with listening(tmp_path / "web.qmp", web.serve), managing(config) as first:
            await first.until(lambda status: status.vm("web").standing == "movable")
            async with managing(other) as second:
                told = f"it is managed by another `dynmem run` (process {first.process.pid} of user "
                status = await second.until(lambda status: told in (status.vm("web").problem or ""))
                assert status.vm("web").standing == "frozen"
                await until(lambda: any(told in line for line in second.lines))
                await first.until(lambda status: status.vm("web").standing == "movable")
                await first.end(signal.SIGKILL)
                await second.until(lambda status: status.vm("web").standing == "movable")

    play(scenario())


@pytest.mark.parametrize(
    ("holder", "mode", "counts"),
    [
        (Peer(1, 0, 0), 0o600, True),  # root may open everything
        (Peer(1, os.geteuid(), 9), 0o600, True),
        (Peer(1, 4321, 4321), 0o775, False),
        (Peer(1, 4321, os.getegid()), 0o775, True),
        (Peer(1, 4321, os.getegid()), 0o755, False),
        (Peer(1, 4321, 4321), 0o777, True),
    ],
)
def test_a_lock_counts_only_if_its_holder_may_open_the_monitor(
    holder: Peer, mode: int, counts: bool, tmp_path: Path
) -> None:
    (tmp_path / "qmp").touch()
    (tmp_path / "qmp").chmod(mode)
    assert may_open(holder, tmp_path / "qmp") is counts


def test_a_lock_is_free_as_soon_as_it_is_released(tmp_path: Path) -> None:
    keys, monitor = (f"test {os.getpid()} {tmp_path.name}",), tmp_path / "qmp"
    first, second = VmLock(), VmLock()
    first.take(keys, monitor)
    for _ in range(20):  # more than may ask at once
        with pytest.raises(RefusedError, match=f"process {os.getpid()} of user "):
            second.take(keys, monitor)
        first.take(keys, monitor)
    first.close()
    second.take(keys, monitor)
    second.close()


def test_without_a_descriptor_for_it_a_lock_is_not_held_and_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    keys, monitor = (f"test {os.getpid()} {tmp_path.name}",), tmp_path / "qmp"
    first, second = VmLock(), VmLock()
    with monkeypatch.context() as patched:
        patched.setattr("dynmem.manager.sweep.vm_lock.socket.socket", none_left)
        first.take(keys, monitor)
    second.take(keys, monitor)
    with pytest.raises(RefusedError):
        first.take(keys, monitor)
    second.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_lock_that_a_stranger_took_keeps_nobody_away(tmp_path: Path) -> None:
    keys, monitor = (f"test {os.getpid()} {tmp_path.name}",), tmp_path / "qmp"
    monitor.touch(0o755)
    ready, over = os.pipe(), os.pipe()
    stranger = os.fork()
    if stranger == 0:
        with contextlib.suppress(BaseException):
            os.close(over[1])
            os.setgid(4321)
            os.setuid(4321)
            theirs = VmLock()
            theirs.take(keys, monitor)
            os.write(ready[1], b"1")
            os.read(over[0], 1)
        os._exit(0)
    try:
        assert os.read(ready[0], 1) == b"1"
        ours = VmLock()
        ours.take(keys, monitor)
        monitor.chmod(0o777)
        with pytest.raises(RefusedError, match=rf"process {stranger} of user 4321"):
            ours.take(keys, monitor)
    finally:
        for end in (*ready, *over):
            os.close(end)
        os.waitpid(stranger, 0)

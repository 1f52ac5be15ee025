"""What is read from /proc: a process's identity, a VM's resident memory."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs.monitored import FakeVm, listening, look, look_until
from tests.rigs.scenes import play

from dynmem.manager.step.facts import SILENT
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.process import Process
from dynmem.manager.sweep.resident import ResidentMeter
from dynmem.units import MIB

HOLDER = """
import mmap, os, sys
fd = os.memfd_create("guest-ram")
os.ftruncate(fd, 64 << 20)
small = os.memfd_create("rom")
os.ftruncate(small, 1 << 20)
os.posix_fallocate(small, 0, 1 << 20)
twice = os.dup(fd)
ram = mmap.mmap(fd, 64 << 20)
anonymous = mmap.mmap(-1, 48 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
anonymous.write(b"x" * (20 << 20))
print("ready", flush=True)
for line in sys.stdin:
    ram[: int(line) << 20] = b"y" * (int(line) << 20)
    print("touched", flush=True)
"""


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """A process with 64 MiB of 'guest RAM' in a memfd that touches what it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def touch(process: subprocess.Popen[str], mebibytes: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{mebibytes}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "touched\n"


def test_resident_is_the_blocks_of_the_ram_file_counted_once(holder: subprocess.Popen[str]) -> None:
    process = Process.of(holder.pid)
    assert process is not None
    meter = ResidentMeter(process)
    before = meter.measure((64 * MIB,))
    assert (before.guest_bytes, before.source) == (0, "blocks of its RAM files")
    assert before.overhead_bytes >= 20 * MIB  # what the process holds besides is told apart
    touch(holder, 10)
    assert meter.is_quick
    assert meter.measure((64 * MIB,)).guest_bytes == 10 * MIB
    process.close()


def test_what_a_guest_holds_now_is_read_without_searching_again(holder: subprocess.Popen[str]) -> None:
    process = Process.of(holder.pid)
    assert process is not None
    meter = ResidentMeter(process)
    assert meter.guest_bytes_now() is None  # nothing was found yet
    meter.measure((64 * MIB,))
    for size in (10, 20, 30):
        touch(holder, size)
        assert [meter.guest_bytes_now() for _ in range(40)] == [size * MIB] * 40
        assert meter.is_quick  # reading has used up nothing
    holder.kill()
    holder.wait()
    assert meter.guest_bytes_now() is None
    process.close()


def test_without_a_ram_file_resident_is_pss_and_says_so(holder: subprocess.Popen[str]) -> None:
    process = Process.of(holder.pid)
    assert process is not None
    # A RAM of 65 MiB cannot be in files of 64: it must be private memory.
    resident = ResidentMeter(process).measure((65 * MIB,))
    assert resident.source == "Pss and swap of its process"
    assert resident.bytes_held is not None
    assert resident.bytes_held >= 20 * MIB
    process.close()


def test_a_process_is_its_id_with_its_start_time() -> None:
    first, again, other = Process.of(os.getpid()), Process.of(os.getpid()), Process.of(os.getppid())
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.incarnation == again.incarnation != other.incarnation
    for process in (first, again, other):
        process.close()


def test_a_process_that_ended_is_gone_even_as_a_zombie() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = Process.of(child.pid)
        assert process is not None
        assert not process.gone()
        assert not process.stopped()
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert process.gone()
        process.close()
        assert process.gone()
    assert Process.of(child.pid) is None


def test_a_stopped_process_is_seen_to_be_stopped() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = Process.of(child.pid)
        assert process is not None
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        assert process.stopped()
        process.close()
        child.kill()


@pytest.mark.parametrize("pid", [0, -1])
def test_a_peer_from_another_pid_namespace_is_nobody_we_know(pid: int) -> None:
    assert Process.of(pid) is None


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    """This process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lack_of_descriptors_here_says_nothing_about_another_process() -> None:
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        Process.of(os.getpid())
    process = Process.of(os.getpid())
    assert process is not None
    with no_descriptor_left():
        resident = ResidentMeter(process).measure(None)
        assert not process.stopped()
    assert resident.bytes_held is None
    assert "Too many open files" in resident.source
    assert resident.source.endswith(": raise the limit of open files for dynmem")
    process.close()


def test_a_lack_of_descriptors_here_ends_no_vms_life_and_is_not_blamed_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pid: int) -> Process:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        vm = FakeVm()
        connection = VmConnection("web", tmp_path / "qmp", may_write=False, period_s=0.1)
        async with listening(tmp_path / "qmp", vm.serve):
            before = await look(connection)
            monkeypatch.setattr(Process, "of", fail)
            monkeypatch.setattr(Process, "is_still", lambda *_: False)  # it is to be looked at again
            vm.writers[-1].close()
            facts = await look_until(connection, lambda facts: "cannot look" in (facts.problem or ""))
            await connection.close()
        assert (facts.run_state, facts.incarnation) == (SILENT, before.incarnation)
        assert "dynmem cannot look at it now (Too many open files)" in (facts.problem or "")

    play(scenario())

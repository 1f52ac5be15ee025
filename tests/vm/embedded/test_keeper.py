"""Nothing that a guest started outlives its machine, whatever the guest did and however the machine ended.

The guest is `tests.rigs.brood`, which multiplies in every known way. Each means of the keeper is forced in
turn, and without any the same guest is seen to survive.
"""

import asyncio
import contextlib
import errno
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.rigs import brood
from tests.rigs.processes import descendants, is_there
from tests.rigs.scenes import PATIENCE_S, play, until
from tests.rigs.vms import running

from dynmem.vm.embedded.keeper import GUEST_PROCESSES_MAX, MEANS, OWN_PID_MAX_SINCE
from dynmem.vm.embedded.output import Ends
from dynmem.vm.embedded.process import GuestProcess
from dynmem.vm.options.machine import GuestOptions

LOOKS: Final = 10
# a machine that consists of a guest's process only, of which it says that it has started
SMALL: Final = """
import asyncio, socket, sys
from pathlib import Path
from dynmem.vm.embedded.output import Ends
from dynmem.vm.embedded.process import GuestProcess
from dynmem.vm.options.machine import GuestOptions

async def main():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program, serial, means = sys.argv[1:]
    options = GuestOptions(program=Path(program), workload="idle")
    with open(serial, "w") as file:
        ends = Ends(file.fileno(), 2)
        guest = await GuestProcess.start(
            options, theirs.fileno(), lambda: None, ends, means=means.split(",")
        )
    print(guest.means, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await guest.end()
    print("ended", flush=True)

try:
    asyncio.run(main())
except Exception as error:
    print(error, flush=True)
"""
# the same without a keeper
UNKEPT: Final = """
import subprocess, sys
program, serial, means = sys.argv[1:]
subprocess.Popen([program, "--hardware-fd=0", "--workload=idle"], stdout=open(serial, "w"))
print(means, flush=True)
sys.stdin.read()
"""


def program_of(folder: Path) -> Path:
    """An executable that is the brood; every process of it has the folder in its arguments."""
    (folder / "brood.py").write_text(Path(brood.__file__).read_text())
    program = folder / "guest"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {folder / "brood.py"} "$@"\n')
    program.chmod(0o755)
    return program


def wait_until(check: Any, otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def mentions(text: str) -> list[int]:
    """The processes whose arguments contain this text: a keeper, a guest, and all that it forked."""
    found = []
    # the newest first: those of the ring do not live long
    for pid in sorted((int(path.name) for path in Path("/proc").glob("[0-9]*")), reverse=True):
        with contextlib.suppress(OSError):  # it has ended
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and is_there(pid):
                found.append(pid)
    return found


def none_left(folder: Path) -> bool:
    """Whether no process has the folder in its arguments; one look may miss the ring."""
    return not any(mentions(str(folder)) for _ in range(LOOKS))


@contextlib.contextmanager
def small(
    folder: Path, means: str, code: str = SMALL, *, before: tuple[str, ...] = (), last: str | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Run a small machine until its brood is complete; skip where it lacks the `last` of its means."""
    serial = folder / "serial"
    last = last or means
    process = subprocess.Popen(
        [*before, sys.executable, "-c", code, str(program_of(folder)), str(serial), means],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if said != last:
            process.wait()
            pytest.skip(f"{last} is not to be had here: {said}")
        complete = 1 + len(brood.WAYS)  # one of them is now and then between two processes
        wait_until(lambda: len(mentions(f"{folder}/brood.py")) >= complete, "the brood is not complete")
        yield process


@pytest.mark.parametrize("means", MEANS)
@pytest.mark.parametrize("ending", ["killed", "ended"])
def test_no_process_of_a_guest_outlives_its_machine_by_any_means(
    tmp_path: Path, means: str, ending: str
) -> None:
    with small(tmp_path, means) as machine:
        if ending == "killed":
            machine.kill()
        assert machine.communicate()[0] == ("ended\n" if ending == "ended" else "")
    wait_until(lambda: none_left(tmp_path), "something is left")


@pytest.mark.parametrize(("means", "last"), [("user", "user"), ("pid,reaper", "reaper")])
def test_without_any_privilege_there_is_a_user_namespace_or_a_reaper(
    tmp_path: Path, means: str, last: str
) -> None:
    no_privilege = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
    with small(tmp_path, means, before=no_privilege, last=last) as machine:
        machine.kill()
    wait_until(lambda: none_left(tmp_path), "something is left")


def test_without_a_keeper_all_of_them_outlive_it(tmp_path: Path) -> None:
    with small(tmp_path, "nothing", UNKEPT) as machine:
        machine.kill()
        machine.wait()
        wait_until(lambda: len(mentions(f"{tmp_path}/brood.py")) > len(brood.WAYS), "some have ended with it")
    wait_until(
        lambda: not any(_killed(mentions(str(tmp_path))) for _ in range(LOOKS)), "they cannot be killed"
    )


def _killed(pids: list[int]) -> list[int]:
    """Kill what is left, the ring as the group that it is."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            group = os.getpgid(pid)
            assert group != os.getpgrp()
            os.killpg(group, signal.SIGKILL)
    return pids


def holders(inode: int) -> list[int]:
    """The processes that have a memory file open or mapped."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            is_mapped = f" {inode} " in (process / "maps").read_text()
            if is_mapped or any(each.stat().st_ino == inode for each in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def ram_of(pid: int) -> tuple[Path, int]:
    """The descriptor of a machine's memory, and the file's number."""
    for each in Path(f"/proc/{pid}/fd").iterdir():
        if "/memfd:guest-ram" in str(each.readlink()):
            return each, each.stat().st_ino
    raise AssertionError("the machine has no memory file")


@contextlib.asynccontextmanager
async def brooding(folder: Path) -> Any:
    """A machine whose first guest is the brood, complete; later ones are quiet."""
    guest = f"embedded,program={program_of(folder)},workload={folder / 'was-here'}"
    async with running(folder, memory="64M", guest=guest) as (vm, client):
        await until(lambda: len(mentions(f"{folder}/brood.py")) > len(brood.WAYS))
        await until(vm.console)
        yield vm, client


@pytest.mark.parametrize(
    ("how", "paused"), [("quit", False), ("SIGTERM", True), ("SIGKILL", True), ("SIGABRT", False)]
)
def test_no_process_and_no_memory_of_a_guest_is_left_when_its_machine_has_ended(
    tmp_path: Path, how: str, paused: bool
) -> None:
    async def scene() -> None:
        async with brooding(tmp_path) as (vm, client):
            _, inode = ram_of(vm.process.pid)
            await until(
                lambda: len(set(descendants(vm.process.pid)).intersection(holders(inode))) >= len(brood.WAYS)
            )
            if paused:
                await client.execute("stop")
            if how == "quit":
                await client.execute("quit")
            else:
                vm.process.send_signal(signal.Signals[how])
            await vm.exit_code()
            await until(lambda: none_left(tmp_path))
            assert holders(inode) == []

    play(scene())


def test_after_a_reset_nothing_of_the_former_guest_touches_the_memory_of_the_next(tmp_path: Path) -> None:
    async def scene() -> None:
        async with brooding(tmp_path) as (vm, client):
            former = set(descendants(vm.process.pid))
            path, _ = ram_of(vm.process.pid)
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 64 << 20) as ram:
                page = slice(brood.MARK_AT, brood.MARK_AT + len(brood.MARK))
                await until(lambda: ram[page] == brood.MARK)
                await client.execute("system_reset")
                await until(lambda: vm.console()[-1]["quiet"])
                assert not any(map(is_there, former))
                ram[page] = bytes(len(brood.MARK))
                await asyncio.sleep(0.2)
                assert ram[page] == bytes(len(brood.MARK))

    play(scene())


# a guest that forks as long as it can
BOMB: Final = """
import json, os, time
forked = 0
try:
    while os.fork():
        forked += 1
    time.sleep(1000)
except OSError as error:
    print(json.dumps({"forked": forked, "stopped by": error.strerror}), flush=True)
time.sleep(1000)
"""


def test_a_guest_that_forks_without_end_has_an_end_and_leaves_the_hosts_own_bound_alone(
    tmp_path: Path,
) -> None:
    if tuple(map(int, os.uname().release.replace("-", ".").split(".")[:2])) < OWN_PID_MAX_SINCE:
        pytest.skip("kernel.pid_max is the whole host's before Linux 6.14")
    bound = Path("/proc/sys/kernel/pid_max")
    before = bound.read_text()
    program = tmp_path / "guest"
    (tmp_path / "bomb.py").write_text(BOMB)
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -S {tmp_path}/bomb.py\n")
    program.chmod(0o755)

    async def scene() -> None:
        async with running(tmp_path, memory="64M", guest=f"embedded,program={program}") as (vm, client):
            (found,) = await until(vm.console)
            assert found["stopped by"] == os.strerror(errno.EAGAIN)
            assert 0 < found["forked"] <= GUEST_PROCESSES_MAX
            await client.execute("stop")
            await client.execute("quit")
            assert await vm.exit_code() == 0
            assert none_left(tmp_path)

    play(scene())
    assert bound.read_text() == before


# what a guest finds that turns against its keepers and its machine, which /proc shows it
PRIES: Final = """
import json, os, time

def parent(pid):
    return int(open(f"/proc/{pid}/status").read().split("PPid:")[1].split()[0])

def tried(call):
    try:
        return repr(call())
    except OSError as error:
        return type(error).__name__

keeper = parent("self")
machine = parent(parent(keeper))
os.kill(0, 15)  # its group of processes: a guest ignores that
print(json.dumps({
    "signals": tried(lambda: os.kill(machine, 0)),
    "descriptors": tried(lambda: os.open(f"/proc/{machine}/fd/0", os.O_RDONLY)),
    "memory": tried(lambda: open(f"/proc/{machine}/mem", "rb")),
    "its keeper's": tried(lambda: os.open(f"/proc/{keeper}/fd/0", os.O_RDONLY)),
    "an end": tried(lambda: os.kill(1, 9)),
    "privileges": int(open("/proc/self/status").read().split("CapPrm:")[1].split()[0], 16),
}), flush=True)
time.sleep(1000)
"""


def test_a_guest_has_no_power_over_its_keepers_and_its_machine(tmp_path: Path) -> None:
    (tmp_path / "pries.py").write_text(PRIES)
    program = tmp_path / "guest"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path}/pries.py\n")
    program.chmod(0o755)

    async def scene() -> None:
        async with running(tmp_path, memory="64M", guest=f"embedded,program={program}") as (vm, client):
            (found,) = await until(vm.console)
            assert found == {
                "signals": "ProcessLookupError",
                "descriptors": "PermissionError",
                "memory": "PermissionError",
                "its keeper's": "PermissionError",
                "an end": "None",  # a signal that the first process of a namespace does not get
                "privileges": 0,
            }
            assert await client.execute("query-status") == {"status": "running", "running": True}

    play(scene())


def state_and_parent(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]


def test_how_a_guest_ended_is_known_although_an_order_to_its_keeper_was_not_read(tmp_path: Path) -> None:
    program = tmp_path / "guest"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)

    async def scene() -> None:
        ended = asyncio.Event()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, (tmp_path / "output").open("w") as file:
            ends = Ends(file.fileno(), file.fileno())
            options = GuestOptions(program=program, workload="idle")
            guest = await GuestProcess.start(options, theirs.fileno(), ended.set, ends)
            keeper = int(state_and_parent(guest.pid)[1])
            os.kill(keeper, signal.SIGSTOP)
            os.kill(guest.pid, signal.SIGBUS)
            await until(lambda: state_and_parent(guest.pid)[0] == "Z")
            guest.kill()  # this order it reads, and then it sees that the guest has ended
            guest.kill()
            os.kill(keeper, signal.SIGCONT)
            await ended.wait()
            ending = guest.ending
            await guest.end()
        assert ending is not None
        assert ending.lacks_memory

    play(scene())


def test_a_pause_holds_every_process_of_a_guest(tmp_path: Path) -> None:
    async def scene() -> None:
        async with brooding(tmp_path) as (vm, client):
            path, _ = ram_of(vm.process.pid)
            with path.open("r+b") as file, mmap.mmap(file.fileno(), 64 << 20) as ram:
                page = slice(brood.MARK_AT, brood.MARK_AT + len(brood.MARK))
                await until(lambda: ram[page] == brood.MARK)
                await client.execute("stop")

                async def stands_still() -> bool:  # the keeper sends the signals, once it has its turn
                    ram[page] = bytes(len(brood.MARK))
                    await asyncio.sleep(0.1)
                    return ram[page] == bytes(len(brood.MARK))

                await until(stands_still)
                await client.execute("cont")
                await until(lambda: ram[page] == brood.MARK)

    play(scene())

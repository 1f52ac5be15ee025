"""What is said of a VM that cannot be read, and which of its files are RAM."""

import fcntl
import os
import signal
from pathlib import Path

import pytest
from tests.rigs.ram_holder import SIZE, file_of, holder

from dynmem.duplicates import vms
from dynmem.duplicates.vms import Vm, VmGoneError, pid_at, without_repeats
from dynmem.errors import NotPermittedError, UnreachableError


def test_a_process_that_is_not_there_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"VM web \(pid 4194305\): there is no such process"):
        Vm(4194305, "web")


def test_a_socket_without_a_listener_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="no process is found that listens there"):
        pid_at(tmp_path / "web.qmp")


def test_a_process_of_another_user_says_who_may_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, blocks: object) -> None:
        raise PermissionError(13, f"/proc/{pid}/maps")

    monkeypatch.setattr(vms, "find_ram_files", refuse)
    with pytest.raises(NotPermittedError, match="run this as the user of that process, or as root"):
        Vm(os.getpid(), "web")


def test_a_process_that_has_ended_is_noticed() -> None:
    with file_of({}) as fd, holder(fd) as child, Vm(child.pid) as vm:
        vm.check_alive()
        child.kill()
        child.wait()
        with pytest.raises(VmGoneError, match="ended"):
            vm.check_alive()


def test_a_descriptor_that_stands_for_another_file_is_not_read() -> None:
    with file_of({}) as fd, holder(fd) as child, Vm(child.pid) as vm:
        (file,) = vm.files
        with pytest.raises(VmGoneError, match="another file"):
            vm.open(file._replace(key=(0, 0)))


def test_a_pipe_in_the_place_of_the_ram_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with file_of({}) as fd, holder(fd) as child, Vm(child.pid) as vm:
        (file,) = vm.files
        with pytest.raises(VmGoneError, match="another file"):
            vm.open(file._replace(path=str(tmp_path / "pipe")))


def test_a_lease_on_the_ram_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    with file_of({}) as fd, holder(fd) as child, Vm(child.pid) as vm, path.open("wb") as leased:
        info = os.fstat(leased.fileno())
        fcntl.fcntl(leased, fcntl.F_SETSIG, signal.SIGWINCH)  # which nobody minds
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        (file,) = vm.files
        with pytest.raises(VmGoneError, match="cannot be opened"):
            vm.open(file._replace(path=str(path), key=(info.st_dev, info.st_ino)))


def test_a_file_counts_as_far_as_it_is_mapped() -> None:
    with file_of({}) as fd, holder(fd) as child:
        os.ftruncate(fd, 4 * SIZE)
        with Vm(child.pid) as vm:
            assert [file.size for file in vm.files] == [SIZE]


def test_memory_of_two_vms_that_is_one_file_counts_once() -> None:
    with (
        file_of({}) as shared,
        file_of({}) as own,
        holder(shared) as one,
        holder(own, shared) as two,
        Vm(one.pid, "one") as first,
        Vm(two.pid, "two") as second,
    ):
        (note,) = without_repeats([first, second])
        assert (len(first.files), len(second.files)) == (1, 1)
        assert note.startswith("VM two")
        assert "is the same file as one of VM one" in note

"""What a machine's log says of memory that is there and may yet disappoint."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.rigs.backings import mounted
from tests.rigs.scenes import play, until
from tests.rigs.vms import running

from dynmem.memory.host_memory import host_memory
from dynmem.units import MIB
from dynmem.vm.advice import memory_note, shortages
from dynmem.vm.objects import Objects
from dynmem.vm.options.memory import BackendOptions


def file(path: Path, name: str, size: int, *, prealloc: bool = False) -> BackendOptions:
    return BackendOptions("memory-backend-file", name, size, True, prealloc, mem_path=path / name)


@pytest.fixture
def objects(caplog: pytest.LogCaptureFixture) -> Objects:
    caplog.set_level(logging.WARNING)
    return Objects()


def test_files_that_a_file_system_has_no_room_for_are_told_of_with_both_numbers(
    tmp_path: Path, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(tmp_path / "small", "tmpfs", "size=64m") as place:
        objects.make(file(place, "a", 40 * MIB))
        assert caplog.messages == []
        play(objects.make_beside(file(place, "b", 40 * MIB)))
        (said,) = caplog.messages
        assert said.startswith(
            f"object 'b': 64 MiB free at {place}/b, 80 MiB needed: the machine ends by SIGBUS"
        )
        assert "prealloc=on" in said
        objects.remove("b")
        objects.make(file(place, "c", 24 * MIB, prealloc=True))
        assert len(caplog.messages) == 1
        assert shortages(objects) == []
        os.truncate(place / "a", MIB)
        assert shortages(objects) == [f"object 'a': {place}/a was cut short to 1 MiB of 40 MiB"]
        objects.close()


def test_memory_that_was_cut_into_files_is_neither_short_nor_missing(
    tmp_path: Path, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(tmp_path / "small", "tmpfs", "size=64m") as place:
        backend = objects.make(BackendOptions("memory-backend-file", "a", 40 * MIB, True, mem_path=place))
        backend.cut(10 * MIB)
        backend.preallocate()
        objects.make(BackendOptions("memory-backend-file", "b", 20 * MIB, True, mem_path=place))
        assert caplog.messages == []
        assert shortages(objects) == []
        objects.close()


def test_a_file_that_is_the_memory_of_two_machines_is_told_of(
    tmp_path: Path, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    objects.make(file(tmp_path, "a", MIB))
    other = Objects()
    other.make(file(tmp_path, "a", MIB))
    (said,) = caplog.messages
    assert said.startswith(f"object 'a': {tmp_path}/a is also the memory of another backend or machine")
    objects.close()
    other.close()
    third = Objects()
    third.make(file(tmp_path, "a", MIB))
    assert len(caplog.messages) == 1
    third.close()


def test_what_is_set_and_does_nothing_is_told_of(objects: Objects, caplog: pytest.LogCaptureFixture) -> None:
    objects.make(BackendOptions("memory-backend-memfd", "a", MIB, share=False))
    objects.make(BackendOptions("memory-backend-memfd", "b", MIB, share=True, hugetlb_size=2 * MIB))
    shared, huge = caplog.messages
    assert shared.startswith("object 'a': share=off reads back as off")
    assert huge == "object 'b': hugetlbsize does nothing without hugetlb=on"
    objects.close()


def test_more_boot_memory_than_the_host_has_is_told_of_with_both_numbers() -> None:
    total = host_memory().total
    assert memory_note(total) is None
    said = str(memory_note(1 << 50))
    assert said.startswith("-m: 1024 TiB at boot, but this host has ")


def test_a_guest_that_ends_for_want_of_memory_is_said_to_with_the_file_that_has_none(tmp_path: Path) -> None:
    wish = tmp_path / "wish"
    with mounted(tmp_path / "small", "tmpfs", "size=40m") as place:
        backend = f"--object=memory-backend-file,id=b,size=128M,mem-path={place}/memory,share=on"
        options = (backend, "--machine=memory-backend=b")
        load = f"embedded,workload=told,path={wish},rate=4GiB"

        async def scene() -> None:
            async with running(tmp_path, memory="128M", guest=load, options=options) as (vm, _):
                await until(vm.console)
                assert "object 'b': 40 MiB free at" in vm.log.read_text()
                wish.write_text("80M")
                assert await vm.exit_code() != 0
                log = vm.log.read_text()
                assert "is gone (killed by SIGBUS)" in log or "Bus error" in log
                assert (
                    "killed by SIGBUS); object 'b': 0 B free at" in log or "is ended by SIGBUS: object" in log
                )

        play(scene())


_TOUCHES = """
import mmap, os, sys
from dynmem.vm.last_words import LastWords
fd = os.memfd_create("m")
os.ftruncate(fd, 4096)
memory = mmap.mmap(fd, 4096)
os.ftruncate(fd, 0)
with LastWords(lambda: "the file is cut"):
    memory[0]
"""


def test_a_machine_that_touches_memory_which_is_not_there_says_so_and_ends_by_sigbus() -> None:
    ended = subprocess.run([sys.executable, "-c", _TOUCHES], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGBUS
    assert ended.stderr == b"the file is cut\n"

"""The memfd backend: real memory, really sealed."""

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.rigs.own_process import open_descriptors

from dynmem.errors import ConfigError
from dynmem.memory.backend import BackendError, MemfdBackend
from dynmem.units import MIB, PAGE_SIZE, TIB


@pytest.fixture
def backend() -> Iterator[MemfdBackend]:
    with MemfdBackend(8 * MIB, "some-ram") as backend:
        yield backend


def test_nothing_is_resident_before_it_is_touched(backend: MemfdBackend) -> None:
    assert backend.resident_bytes() == 0
    backend.view[5 * PAGE_SIZE] = 1
    backend.view[7 * PAGE_SIZE] = 1
    assert backend.resident_bytes() == 2 * PAGE_SIZE


def test_whoever_maps_the_descriptor_sees_the_same_memory(backend: MemfdBackend) -> None:
    with mmap.mmap(backend.fd, backend.size) as other:
        backend.view[100:105] = b"guest"
        assert other[100:105] == b"guest"
        other[100:105] = b"other"
    assert bytes(backend.view[100:105]) == b"other"


@pytest.mark.parametrize("size", [0, 8 * MIB - PAGE_SIZE, 8 * MIB + PAGE_SIZE])
def test_nobody_can_shrink_or_grow_the_memory(backend: MemfdBackend, size: int) -> None:
    with pytest.raises(OSError) as refused:
        os.ftruncate(backend.fd, size)
    assert refused.value.errno == errno.EPERM
    assert os.fstat(backend.fd).st_size == 8 * MIB


def test_nobody_can_add_a_seal_that_takes_writing_away(backend: MemfdBackend) -> None:
    with pytest.raises(OSError) as refused:
        fcntl.fcntl(backend.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert refused.value.errno == errno.EPERM


def test_the_descriptor_carries_its_name_and_is_not_inherited(backend: MemfdBackend) -> None:
    assert Path(f"/proc/self/fd/{backend.fd}").readlink().name.startswith("memfd:some-ram")
    assert not os.get_inheritable(backend.fd)


@pytest.mark.parametrize("size", [0, -PAGE_SIZE, 4095, MIB + 1])
def test_a_size_that_is_no_multiple_of_a_page_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=r"size 0|must be multiple of 4 KiB"):
        MemfdBackend(size)


def test_memory_that_cannot_be_had_is_refused_and_leaves_no_descriptor() -> None:
    before = open_descriptors()
    with pytest.raises(BackendError, match=r"^unable to map backing store for guest RAM: ") as refused:
        MemfdBackend(1 << 62)
    assert refused.value.errno in {errno.ENOMEM, errno.EFBIG, errno.EINVAL}
    assert open_descriptors() == before
    with MemfdBackend(TIB) as large:
        assert large.resident_bytes() == 0


def test_closing_gives_the_memory_back_once_no_array_shows_it() -> None:
    backend = MemfdBackend(MIB)
    words = np.frombuffer(backend.view, np.uint64)
    backend.close()
    backend.close()
    assert words[5] == 0
    with pytest.raises(OSError):
        os.fstat(backend.fd)

"""What the kernel can do is tried out; where it cannot, the probe says so and the plain way is taken."""

import errno
import os

import pytest
from tests.rigs.own_process import open_descriptors

from dynmem.memory import system_calls
from dynmem.memory.abilities import PIDFD_SELF, Abilities, probe
from dynmem.memory.backend import RamBackend
from dynmem.memory.discard import Discarder
from dynmem.pages.ranges import U64Array
from dynmem.units import MIB, PAGE_SIZE

REAL = system_calls.process_madvise


def fresh() -> Abilities:
    """What the probe finds now, whatever it found before."""
    return probe.__wrapped__()


def test_the_probe_finds_the_same_every_time() -> None:
    assert fresh()._replace(pidfd=0) == fresh()._replace(pidfd=0) == probe()._replace(pidfd=0)


def test_a_kernel_that_refuses_batches_for_oneself_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_calls, "process_madvise", lambda *_: -errno.EINVAL)  # Linux 6.1 and 6.12
    before = open_descriptors()
    found = fresh()
    assert (found.pidfd, found.batched_dontneed) == (-1, False)
    assert open_descriptors() == before


def test_a_kernel_that_does_only_a_part_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        system_calls, "process_madvise", lambda pidfd, ranges, advice: REAL(pidfd, ranges[:1], advice)
    )
    assert not fresh().batched_dontneed


def test_a_kernel_that_says_yes_and_drops_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_calls, "process_madvise", lambda _, ranges, __: int(ranges[:, 1].sum()))
    assert not fresh().batched_dontneed


def test_a_kernel_that_knows_no_name_for_oneself_is_given_a_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not probe().batched_dontneed:
        pytest.skip("this kernel takes no batched MADV_DONTNEED from a process for itself")

    def no_name(pidfd: int, ranges: U64Array, advice: int) -> int:
        return -errno.EBADF if pidfd == PIDFD_SELF else REAL(pidfd, ranges, advice)

    monkeypatch.setattr(system_calls, "process_madvise", no_name)
    found = fresh()
    try:
        assert found.batched_dontneed
        assert found.pidfd >= 0
        with RamBackend(MIB) as backend:
            backend.view[:] = b"x" * MIB
            assert Discarder(backend, found).discard((1 | 255 << 40).to_bytes(8, "little")) == MIB - PAGE_SIZE
            assert backend.resident_bytes() == PAGE_SIZE
    finally:
        os.close(found.pidfd)


def test_a_kernel_without_splitting_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_calls, "madvise", lambda *_: errno.EINVAL)
    assert not fresh().splits

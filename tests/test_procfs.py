"""What is read from /proc and set for this process."""

import errno
import resource
from pathlib import Path

import pytest

from dynmem.errors import RemoteProtocolError
from dynmem.procfs import allow_descriptors, is_shortage, meminfo
from dynmem.units import KIB


def test_descriptors_are_allowed_up_to_the_hard_limit_and_never_lowered() -> None:
    soft, hard = before = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(soft, 900)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count - 100, hard))
        assert allow_descriptors(count)
        assert allow_descriptors(count - 50)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (count, hard)
        if hard != resource.RLIM_INFINITY:
            assert not allow_descriptors(hard + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_host_has_no_more_available_than_it_has() -> None:
    available, total = meminfo("MemAvailable", "MemTotal")
    assert 0 < available <= total


def test_figures_come_in_bytes_and_in_the_order_of_the_names(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  50 kB\nHugePages_Free: 7\nMemAvailable:  20 kB\n")
    assert meminfo("MemAvailable", "MemTotal", path=path) == (20 * KIB, 50 * KIB)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MemTotal: 5 kB\n", "has no MemAvailable"),
        ("MemTotal: many kB\nMemAvailable: 5 kB\n", "MemTotal is not a number of kB"),
        ("MemTotal: 5\nMemAvailable: 5 kB\n", "MemTotal is not a number of kB"),
    ],
)
def test_a_meminfo_without_the_figures_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text(text)
    with pytest.raises(RemoteProtocolError, match=words):
        meminfo("MemTotal", "MemAvailable", path=path)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, ""), True),
        (OSError(errno.ENFILE, ""), True),
        (OSError(errno.ENOENT, ""), False),
        (OSError("no number"), False),
        (ValueError(), False),
    ],
)
def test_a_shortage_is_told_from_what_is_wrong_with_what_was_looked_at(
    error: Exception, *, expected: bool
) -> None:
    assert is_shortage(error) is expected

"""What this process itself holds: descriptors and mappings, with what earlier tests left collected first.

A count that is taken while garbage of another test is still there is a count of that test, too: it falls
whenever Python happens to collect it.
"""

import contextlib
import gc
import itertools
import os
import resource
from collections.abc import Iterator
from pathlib import Path


def open_descriptors() -> set[int]:
    """The descriptors of this process."""
    gc.collect()
    return set(filter(_is_open, (int(entry.name) for entry in Path("/proc/self/fd").iterdir())))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # the one that listed the folder
        return False
    return True


@contextlib.contextmanager
def few_more_descriptors(count: int) -> Iterator[None]:
    """Allow this process `count` descriptors more than it has, wherever there are gaps between those."""
    taken = open_descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (number for number in itertools.count() if number not in taken)
    limit = next(itertools.islice(free, count, None))  # numbers below it may be given out
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def mappings() -> list[str]:
    """The mappings of this process, a line each."""
    gc.collect()
    return Path("/proc/self/maps").read_text().splitlines()

"""Pages with the same hash, found by sorting, beside a dictionary."""

from collections import Counter

import numpy as np
import pytest

from dynmem.duplicates import candidates
from dynmem.duplicates.candidates import Candidates
from dynmem.pages.ranges import U64Array

PAGES = 500
HASH = np.uint64(1 << 40)  # a factor that puts small numbers into the upper bits


@pytest.fixture(params=[3, 64, 1 << 16])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_CHUNK", request.param)


def filled(seed: int, kinds: int) -> tuple[Candidates, U64Array]:
    hashes = np.random.default_rng(seed).integers(0, kinds, PAGES, dtype=np.uint64) * HASH
    made = Candidates(PAGES)
    half = PAGES // 2
    made.add(hashes[:half], np.arange(half, dtype=np.uint64))
    made.add(hashes[half:], np.arange(half, PAGES, dtype=np.uint64))
    return made, hashes


def expected(hashes: U64Array, places: list[int]) -> list[tuple[int, int]]:
    """Return hash and place of those places whose hash another one of them has."""
    counts = Counter(int(hashes[place]) for place in places)
    return sorted((int(hashes[place]), place) for place in places if counts[int(hashes[place])] > 1)


def found(made: Candidates) -> list[tuple[int, int]]:
    return list(zip(made.hash_bits(made.keys).tolist(), made.places(made.keys).tolist(), strict=True))


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("kinds", [1, 2, 300, 5000, 1 << 20])
def test_exactly_the_pages_that_share_their_hash_stay(kinds: int) -> None:
    made, hashes = filled(kinds, kinds)
    made.sort()
    assert found(made) == expected(hashes, list(range(PAGES)))


@pytest.mark.usefixtures("_chunk")
@pytest.mark.parametrize("kinds", [1, 100, 300])
def test_pages_that_are_dropped_leave_no_page_alone(kinds: int) -> None:
    made, hashes = filled(kinds, kinds)
    made.sort()
    made.drop(100, 450)
    assert found(made) == expected(hashes, [*range(100), *range(450, PAGES)])


def test_a_group_ends_where_the_hash_changes() -> None:
    made = Candidates(8)
    made.add(np.array([5, 5, 9, 9, 9], np.uint64) * HASH, np.arange(5, dtype=np.uint64))
    made.sort()
    assert made.group_end(0) == 2
    assert made.group_end(2) == 5


def test_the_last_group_ends_with_the_keys_also_at_the_highest_hash() -> None:
    made = Candidates(4)
    made.add(np.full(3, 2**64 - 1, np.uint64), np.arange(3, dtype=np.uint64))
    made.sort()
    assert (made.group_end(0), len(made)) == (3, 3)


def test_the_size_of_a_file_takes_no_memory() -> None:
    made = Candidates(1 << 45)
    made.add(np.array([5, 5], np.uint64) << np.uint64(50), np.array([1, 1 << 44], np.uint64))
    made.sort()
    assert made.places(made.keys).tolist() == [1, 1 << 44]


def test_a_page_takes_eight_bytes() -> None:
    made, _ = filled(1, 1 << 20)
    assert made.keys.nbytes == 8 * PAGES

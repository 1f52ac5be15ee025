"""Only pages with equal bytes count as equal, whatever the hash says."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.rigs.ram_holder import words

from dynmem.duplicates import verify as module
from dynmem.duplicates.candidates import Candidates
from dynmem.duplicates.page_hash import PageHash
from dynmem.duplicates.tally import IntArray
from dynmem.duplicates.verify import Hash, Verified, verify
from dynmem.pages.ranges import U64Array

PER_VM = 400


class Memory:
    """Pages by place, of VMs with 400 each."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers
        self.gone: set[int] = set()

    def read_pages(self, places: U64Array) -> tuple[U64Array, NDArray[np.bool_]]:
        chosen = places.tolist()
        assert len(chosen) <= 256
        there = np.array([place not in self.gone for place in chosen])
        return words([self.numbers[place] for place in chosen]), there

    def vms_of(self, places: U64Array) -> IntArray:
        return (places // np.uint64(PER_VM)).astype(np.int64)


def constant(pages: U64Array) -> U64Array:
    return np.zeros(len(pages), np.uint64)


def sorted_candidates(numbers: list[int], hash_of: Hash) -> Candidates:
    made = Candidates(len(numbers))
    for at in range(0, len(numbers), 256):
        part = numbers[at : at + 256]
        made.add(hash_of(words(part)), np.arange(at, at + len(part), dtype=np.uint64))
    made.sort()
    return made


def verified(numbers: list[int], hash_of: Hash) -> Verified:
    return verify(sorted_candidates(numbers, hash_of), hash_of, Memory(numbers), vms=2)


def counted(numbers: list[int]) -> tuple[list[int], int, int]:
    """Return the equal pages of each VM, how many contents they have, and what sharing saves."""
    counts = Counter(numbers)
    equal = [sum(counts[number] > 1 for number in numbers[at : at + PER_VM]) for at in (0, PER_VM)]
    shared = [count for count in counts.values() if count > 1]
    return equal, len(shared), sum(shared) - len(shared)


@pytest.mark.parametrize("kinds", [1, 7, 100, 900])
@pytest.mark.parametrize("hash_of", [PageHash(), constant])
def test_a_collision_of_hashes_is_never_reported_as_equal(hash_of: Hash, kinds: int) -> None:
    numbers = np.random.default_rng(kinds).integers(1, kinds + 1, 2 * PER_VM).tolist()
    result = verified(numbers, hash_of)
    equal, contents, saved = counted(numbers)
    assert result.tally.equal_pages.tolist() == equal
    assert (result.tally.classes, result.tally.saved_pages) == (contents, saved)
    assert (result.changed, result.uncompared) == (0, 0)


def test_different_pages_of_one_hash_are_told_apart_in_a_small_group() -> None:
    result = verified([5, 6, 5, 6, 7], constant)
    assert (result.tally.classes, result.tally.saved_pages) == (2, 2)
    assert result.tally.equal_pages.tolist() == [4, 0]


def test_a_page_that_changed_since_it_was_hashed_is_not_equal_to_what_it_was() -> None:
    hash_of = PageHash()
    numbers = [1, 1, 1, 2, 2]
    candidates = sorted_candidates(numbers, hash_of)
    result = verify(candidates, hash_of, Memory([1, 1, 3, 2, 4]), vms=1)
    assert (result.changed, result.tally.classes, result.tally.saved_pages) == (2, 1, 1)


def test_a_page_that_is_gone_is_not_equal_to_anything() -> None:
    hash_of = PageHash()
    memory = Memory([1, 1, 1])
    memory.gone = {1}
    result = verify(sorted_candidates(memory.numbers, hash_of), hash_of, memory, vms=1)
    assert (result.changed, result.tally.equal_pages.tolist()) == (1, [2])


def test_contents_of_one_hash_beyond_a_bound_are_left_out_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CONTENTS_MAX", 10)
    result = verified([*range(1, 21)] * 20, constant)
    assert result.tally.classes == 10
    assert result.uncompared == 200

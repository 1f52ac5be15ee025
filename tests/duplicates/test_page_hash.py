"""The hash that nominates pages."""

import numpy as np
from tests.rigs.ram_holder import words

from dynmem.duplicates.page_hash import PAGE_WORDS, PageHash, zero_pages


def test_equal_pages_have_equal_hashes_and_zeros_have_0() -> None:
    hashes = PageHash()(words([0, 7, 7, 0]))
    assert hashes[1] == hashes[2] != 0
    assert hashes[0] == hashes[3] == 0


def test_every_word_and_its_place_counts() -> None:
    pages = np.zeros((PAGE_WORDS, PAGE_WORDS), np.uint64)
    np.fill_diagonal(pages, 1)
    assert np.unique(PageHash()(pages)).size == PAGE_WORDS


def test_two_accounts_have_different_hashes() -> None:
    pages = words([5])
    assert PageHash()(pages) != PageHash()(pages)


def test_the_upper_bits_depend_on_the_lowest_bits_of_a_page() -> None:
    """They alone make groups."""
    pages = np.zeros((64, PAGE_WORDS), np.uint64)
    pages[:, 0] = np.arange(64)
    uppermost = PageHash(b"\1" * 4096)(pages) >> np.uint64(56)
    assert np.unique(uppermost).size > 32


def test_a_page_with_data_is_not_zero_whatever_its_hash_is() -> None:
    pages = words([0, 7, 0])
    assert zero_pages(pages, np.zeros(3, np.uint64)).tolist() == [True, False, True]

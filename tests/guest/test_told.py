"""A load that is told what to hold."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from dynmem.guest.allocator import Allocator
from dynmem.guest.curve import Amount, parse_load
from dynmem.guest.pattern import PAGE_WORDS, Memory
from dynmem.guest.told import Told
from dynmem.guest.workload import Workload
from dynmem.units import MIB, NS_PER_MS, NS_PER_S

PAGES = 8192


@pytest.fixture
def wish(tmp_path: Path) -> Path:
    return tmp_path / "wish"


class Guest:
    """A told workload over memory of its own, half of which is there at boot."""

    def __init__(self, wish: Path) -> None:
        memory: Memory = np.zeros((PAGES, PAGE_WORDS), np.uint64)
        self.allocator = Allocator(seed=1)
        self.allocator.add(0, PAGES // 2)
        load = parse_load(f"told,path={wish},rate=1GiB")
        self.workload = Workload(memory, self.allocator, load, usable_pages=PAGES // 2, seed=2)
        self.now = 0

    def held_after_a_second(self) -> int:
        end = self.now + NS_PER_S
        while self.now < end:
            self.now = max(self.workload.tick(self.now), self.now + NS_PER_MS)
        return self.workload.held_pages


def test_the_last_word_in_the_file_is_followed(wish: Path) -> None:
    guest = Guest(wish)
    assert guest.held_after_a_second() == 0  # there is no file yet
    for text, pages in (("4M", 1024), ("50%\n", PAGES // 4), ("0", 0), (" 8 MiB ", 2048), ("12.5%", 512)):
        wish.write_text(text)
        assert guest.held_after_a_second() == pages
    guest.workload.finish()
    assert (guest.workload.wrong_bytes, guest.workload.wrong_pages) == (0, 0)


def test_a_share_is_one_of_what_there_is_now_ballooned_or_not(wish: Path) -> None:
    guest = Guest(wish)
    wish.write_text("75%")
    assert guest.held_after_a_second() == PAGES * 3 // 8
    guest.allocator.add(PAGES // 2, PAGES // 2)
    guest.workload.pages_max = PAGES
    assert guest.held_after_a_second() == PAGES * 3 // 4
    guest.allocator.allocate_for_balloon(1000)
    assert guest.held_after_a_second() == PAGES * 3 // 4


def test_a_size_may_be_more_than_there_is_but_not_more_than_there_will_ever_be(wish: Path) -> None:
    guest = Guest(wish)
    wish.write_text("1GiB")
    guest.held_after_a_second()
    assert guest.workload.wanted_pages == PAGES // 2
    guest.workload.pages_max = PAGES - 100
    guest.held_after_a_second()
    assert guest.workload.wanted_pages == PAGES - 100
    assert guest.allocator.committed_pages == PAGES - 100  # which the host hears of


@pytest.mark.parametrize("text", ["much", "", "101%", "4M\xff", "9" * 100])
def test_what_is_no_wish_is_said_once_and_the_last_wish_stays(
    wish: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    told = Told(wish)
    wish.write_text("4M")
    assert told.amount() == Amount(size=4 * MIB)
    wish.write_text(text)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            assert told.amount() == Amount(size=4 * MIB)
    assert len(caplog.records) == 1
    wish.write_text("5%")
    assert told.amount() == Amount(millionths=50_000)


def test_a_file_that_is_gone_or_would_block_is_no_end(wish: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Told(wish)
    for _ in range(3):
        assert told.amount() == Amount()
    assert "No such file" in caplog.records[0].getMessage()
    assert len(caplog.records) == 1
    os.mkfifo(wish)
    assert told.amount() == Amount()

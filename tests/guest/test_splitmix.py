"""The guest's random numbers."""

import numpy as np

from dynmem.guest.splitmix import SplitMix


def test_the_first_words_are_those_of_the_published_generator() -> None:
    # seed 1234567, the vector that goes round with every implementation (rosettacode.org, Splitmix64)
    assert SplitMix(1234567).words(3).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_numbers_come_one_by_one_as_they_come_together() -> None:
    together, single = SplitMix(9), SplitMix(9)
    assert together.words(5).tolist() == [int(single.words(1)[0]) for _ in range(5)]


def test_fractions_fill_zero_to_one_evenly() -> None:
    fractions = SplitMix(3).fractions(20_000)
    assert 0 <= fractions.min() < fractions.max() < 1
    counts, _ = np.histogram(fractions, bins=10, range=(0, 1))
    assert counts.min() > 1800


def test_an_order_has_every_number_once() -> None:
    order = SplitMix(4).order(1000)
    assert sorted(order.tolist()) == list(range(1000))
    assert order.tolist() != list(range(1000))


def test_numbers_stay_below_their_bound() -> None:
    random = SplitMix(5)
    assert {random.below(3) for _ in range(100)} == {0, 1, 2}

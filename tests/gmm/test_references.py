"""The references of one VM to shared pages: counts that stay small and right."""

import random
from collections import Counter

import pytest

from dynmem.gmm.references import RECENT_LEAST, References


def test_counts_are_those_of_a_plain_counter_whatever_is_added_and_dropped() -> None:
    chance, references, model = random.Random(1), References(), Counter[int]()
    for step in range(12_000):
        if chance.random() < (0.7 if step < 6_000 else 0.3):
            page = chance.randrange(1, 4_000)
            references.add(page)
            model[page] += 1
        elif model:
            page = chance.choice(list(model)[:20])
            references.drop(page)
            model[page] -= 1
            if not model[page]:
                del model[page]
        if step % 3_000 == 2_999:
            assert {page: references[page] for page in range(4_001)} == {
                page: model[page] for page in range(4_001)
            }
    ids, counts = references.pages()
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == model
    assert references.total == model.total()
    assert ids.tolist() == sorted(model)


def test_a_reference_that_is_not_there_cannot_be_dropped() -> None:
    references = References()
    for page in range(1, RECENT_LEAST + 2):
        references.add(page)
    references.drop(1)
    for page in (1, RECENT_LEAST + 2):
        with pytest.raises(KeyError):
            references.drop(page)
    assert references.total == RECENT_LEAST


def test_a_hundred_thousand_references_take_less_than_20_bytes_each() -> None:
    references = References()
    for page in range(1, 100_001):
        references.add(page)
    ids, counts = references._ids, references._counts
    in_dictionary = len(references._recent) * 100
    assert ids.nbytes + counts.nbytes + in_dictionary < 20 * 100_000

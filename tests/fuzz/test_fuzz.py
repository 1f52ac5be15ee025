"""Mutants for every parser and machine: few in each run of the tests, more in `make soak` and `make fuzz`."""

import contextlib

import pytest
from tests.fuzz.corpus import FOLDER
from tests.fuzz.engine import BATCH, EscapedError, Target, mutants, run
from tests.fuzz.targets import TARGETS
from tests.rigs.machine_wide import huge_pages_held

INPUTS = 60_000
SOAK_INPUTS = 1_000_000


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_the_named_error_comes_out(name: str) -> None:
    fuzz(name, INPUTS)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_the_named_error_comes_out_of_many_more_inputs(name: str) -> None:
    fuzz(name, SOAK_INPUTS)


def fuzz(name: str, inputs: int) -> None:
    # a monitor's memory may be made of huge pages
    with huge_pages_held() if name == "monitor" else contextlib.nullcontext():
        run(TARGETS[name], TARGETS[name].share(inputs))


@pytest.mark.parametrize("name", TARGETS)
def test_right_input_is_taken(name: str) -> None:
    target = TARGETS[name]
    feed, taken = target.make(), 0
    for data in target.seeds:
        try:
            feed(data)
            taken += 1
        except target.errors:
            pass
    assert taken > 0


def test_the_same_seed_makes_the_same_mutants() -> None:
    seeds, words = TARGETS["dm"].seeds, TARGETS["dm"].words
    first = list(mutants(seeds, words, 3 * BATCH + 1, 7))
    assert len(first) == 3 * BATCH + 1
    assert first == list(mutants(seeds, words, 3 * BATCH + 1, 7))
    assert len(set(first)) > BATCH
    assert any(data in seeds for data in first)


def test_a_parser_that_lets_another_error_out_is_caught() -> None:
    def careless(data: bytes) -> int:
        return data[300]

    with pytest.raises(EscapedError, match=r"IndexError.*--inputs 1 --seed 1"):
        run(Target("careless", lambda: careless, (bytes(8),), (KeyError,)), 10)


def test_every_corpus_belongs_to_a_target() -> None:
    assert {path.stem for path in FOLDER.glob("*")} <= set(TARGETS)

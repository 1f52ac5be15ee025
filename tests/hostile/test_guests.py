"""Hostile guests: whatever one does, its machine serves its monitor, ends when asked and leaves nothing.

`make hostile` plays the whole cast and measures; `make test` plays a few of it and does not look at times,
since other tests take the processors meanwhile.
"""

from collections.abc import Iterator

import pytest
from tests.hostile.guests.guest import CAST
from tests.hostile.guests.program import options_of_guests
from tests.hostile.stage import Stage

FEW = (
    "it reads no interrupt, whatever is sent to it",
    "it sends packets of 65,532 ranges of no bytes",
    "it writes to its console as fast as it can",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    stage = Stage(folder, options_of_guests(folder))
    yield stage
    stage.close()


@pytest.mark.parametrize("sentence", FEW)
def test_a_guest_holds_no_host(stage: Stage, sentence: str) -> None:
    assert stage.play(sentence, seconds=1.0, measured=False).faults == []


@pytest.mark.hostile
@pytest.mark.parametrize("sentence", CAST)
def test_a_guest_holds_no_host_however_closely_one_looks(stage: Stage, sentence: str) -> None:
    verdict = stage.hold(sentence, seconds=3.0)
    assert verdict.faults + verdict.late == [], verdict.figures


def test_the_cast_is_large() -> None:
    assert len(CAST) >= 40

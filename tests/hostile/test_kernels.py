"""Hostile kernels on /dev/kvm: whatever one does, its machine serves its monitor and ends when asked.

`make hostile` plays the whole cast and measures; `make test` plays one of it and does not look at times,
since other tests take the processors meanwhile.
"""

from collections.abc import Iterator

import pytest
from tests.hostile.kernels.cast import CAST, options_of_kernels
from tests.hostile.stage import Stage
from tests.rigs.mini_guest import needs_kvm

pytestmark = needs_kvm


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    stage = Stage(folder, options_of_kernels(folder))
    yield stage
    stage.close()


def test_a_kernel_that_does_all_of_it_at_once_holds_no_host(stage: Stage) -> None:
    played = stage.play("its processors do each another of these", seconds=0.5, measured=False)
    assert played.faults == []


@pytest.mark.hostile
@pytest.mark.parametrize("sentence", CAST)
def test_a_kernel_holds_no_host_however_closely_one_looks(stage: Stage, sentence: str) -> None:
    verdict = stage.hold(sentence, seconds=3.0)
    assert verdict.faults + verdict.late == [], verdict.figures

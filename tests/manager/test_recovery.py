"""What a predecessor left in the journal is looked at again; a row that is damaged changes nothing."""

from pathlib import Path

import pytest
from tests.rigs.obedient import ObedientHost

from dynmem.manager.journal.journal import SENT, Intent, Journal
from dynmem.manager.journal.recovery import Unfinished, take_over
from dynmem.manager.step.facts import ManagerSettings, VmConfig
from dynmem.units import GIB, MIB, NS_PER_S


def intent(target: int) -> Intent:
    return Intent("web", "web.1", target, "demand fell", "")


@pytest.fixture
def host() -> ObedientHost:
    settings = ManagerSettings(1 * GIB, 64 * MIB, NS_PER_S, "enforce")
    return ObedientHost(settings, [VmConfig("web", 64 * MIB, 512 * MIB)], {"web": 100 * MIB})


@pytest.mark.parametrize("target", [-5, -(1 << 63), (1 << 52) + 1, (1 << 63) - 1])
def test_an_open_row_whose_target_is_not_a_size_is_named_and_left_as_it_is(
    target: int, host: ObedientHost, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    bad, good = journal.intend([intent(target), intent(256 * MIB)], 1)
    unfinished = Unfinished(journal.open_actions())
    assert unfinished.damaged == [
        f"web: row {bad} of the journal is left as it is: its target, {target}, is not the size of a VM"
    ]
    assert [number for number, _, _ in unfinished.look(host.facts())] == [good]
    assert [row.id for row in journal.open_actions()] == [bad, good]
    journal.close()


@pytest.mark.parametrize("target", [-5, -(1 << 63), (1 << 63) - 1])
def test_a_last_target_that_is_not_a_size_is_not_taken_over(
    target: int, host: ObedientHost, tmp_path: Path
) -> None:
    journal = Journal(tmp_path)
    (row,) = journal.intend([intent(target)], 1)
    journal.conclude([(row, SENT)], 2)
    take_over(journal, host.manager, {"web"})
    assert [host.sweep().commands for _ in range(4)] == [()] * 4  # it has its size already
    assert host.manager.status().vm("web").assigned_bytes == 512 * MIB
    journal.close()

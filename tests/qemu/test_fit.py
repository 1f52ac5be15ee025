"""How many more VMs fit, and then they are started: real guests of one kind under a manager that enforces."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.rigs.linux_guest import Boot, Until, holds
from tests.rigs.managed_guests import configuration, manager

from dynmem.fit.answer import answer_of, model_of
from dynmem.fit.recorded import trace_of
from dynmem.history.file import FILE_NAME
from dynmem.history.past import Moment, Past
from dynmem.lab.qemu import QemuGuest
from dynmem.lab.workload import Load
from dynmem.units import MIB

pytestmark = [
    pytest.mark.soak,
    pytest.mark.qemu,
    pytest.mark.usefixtures("processors"),
    pytest.mark.timeout(1800),
]

HELD = 200
SWEEPS = 60


def sweeps_of(state: Path) -> int:
    if not (state / FILE_NAME).exists():
        return 0
    past = Past(state)
    found = sum(len(piece.rows) for piece in past.pieces(0))
    past.close()
    return found


def managed(guests: Sequence[QemuGuest], until: Until, folder: Path) -> Path:
    """Have a manager share 1600 MiB among guests that all are busy for a while; its state folder."""
    place = folder / str(len(guests))
    place.mkdir()
    with manager(configuration(place, guests, budget="1600MiB"), place / "log") as process:

        def is_recorded(sweeps: int) -> bool:
            assert process.poll() is None
            return sweeps_of(place / "state") >= sweeps

        for guest in guests:
            until(guest, lambda guest=guest: holds(guest, HELD), seconds=300)
        before = sweeps_of(place / "state")
        until(guests[0], lambda: is_recorded(before + SWEEPS), seconds=600)
    return place / "state"


def last_of(state: Path) -> Moment:
    past = Past(state)
    span = past.span_ms()
    assert span is not None
    return past.moment(span[1])


def test_as_many_more_as_are_said_to_fit_get_all_that_they_want_and_one_more_does_not(
    boot: Boot, until: Until, folder: Path
) -> None:
    def start() -> QemuGuest:
        load = Load(high_bytes=HELD * MIB, rate_bytes=64 * MIB)
        return boot(512, name=f"g{len(guests)}", load=load)

    guests: list[QemuGuest] = []
    while len(guests) < 2:
        guests.append(start())
    past = Past(managed(guests, until, folder))
    span = past.span_ms()
    assert span is not None
    trace = trace_of(past, *span)
    found = answer_of(trace, model_of(trace, "g0"))
    assert found.missing_days > 0
    assert found.fits > found.fits_static == 1
    while len(guests) < 2 + found.fits:
        guests.append(start())
    moment = last_of(managed(guests, until, folder))
    assert moment.host.shortage_bytes == 0
    for vm in moment.vms.values():
        assert (vm.planned_bytes or 0) >= (vm.wanted_bytes or 0) > HELD * MIB
    guests.append(start())
    moment = last_of(managed(guests, until, folder))
    assert (moment.host.shortage_bytes or 0) > 0
    assert [guest.oom_kills for guest in guests] == [0] * len(guests)

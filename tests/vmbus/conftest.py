"""A bus and a client of it for every test of this folder."""

import pytest
from tests.rigs.bus import BusEnds


@pytest.fixture
def machine() -> BusEnds:
    """A machine with one device, nothing said yet."""
    return BusEnds()


@pytest.fixture
def opened() -> BusEnds:
    """A machine whose one channel is open."""
    machine = BusEnds()
    machine.connect()
    machine.open()
    return machine

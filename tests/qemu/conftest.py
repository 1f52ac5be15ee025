"""Real guests for the tests: started by a factory, gone when the test is over, whatever happened."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.scenes import wait_until

from dynmem.lab.probe import accelerator
from dynmem.lab.qemu import QemuGuest
from dynmem.units import MIB


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder whose path is short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="dynmem-t") as path:
        yield Path(path)


@pytest.fixture
def boot(folder: Path) -> Iterator[Callable[..., QemuGuest]]:
    """Boots guests: `boot(mib, name="g", **options of QemuGuest)` returns one that has reported."""
    guests: list[QemuGuest] = []

    def start(mib: int = 256, *, name: str = "g", **options: Any) -> QemuGuest:
        guest = QemuGuest(name, mib * MIB, folder, **{"accel": accelerator().accel, **options})
        guests.append(guest)
        guest.start()
        guest.ready(60)
        return guest

    yield start
    for guest in guests:
        guest.stop()


@pytest.fixture
def until() -> Callable[..., None]:
    """`until(guest, condition, seconds=100)`: wait for it, or fail with what the guest said last."""

    def wait(guest: QemuGuest, condition: Callable[[], bool], seconds: float = 100.0) -> None:
        def holds() -> bool:
            if condition():
                return True
            guest.check()
            return False

        wait_until(holds, otherwise=guest.read_serial, seconds=seconds)

    return wait

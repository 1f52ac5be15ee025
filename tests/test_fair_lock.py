"""A lock that goes to whoever has waited longest, where a plain one goes to whoever runs."""

import contextlib
import threading
from contextlib import AbstractContextManager

import pytest
from tests.rigs.partition import PartitionRig

from dynmem.fair_lock import FairLock
from dynmem.vm.faults import Faults
from dynmem.vm.guest_memory import MappedMemory
from dynmem.vm.kvm.board.ports import Ports

PATIENCE_S = 60


def waiting(lock: FairLock, count: int) -> None:
    """Return when so many threads have the lock or wait for it."""
    while len(lock._line) < count:
        pass


def test_whoever_releases_it_and_asks_again_is_behind_those_who_wait() -> None:
    lock = FairLock()
    order: list[str] = []

    def take(name: str) -> None:
        with lock:
            order.append(name)

    with lock:
        others = [threading.Thread(target=take, args=(name,)) for name in ("first", "second", "third")]
        for count, other in enumerate(others, start=2):
            other.start()
            waiting(lock, count)
    with lock:
        order.append("again")
    for other in others:
        other.join(PATIENCE_S)
    assert order == ["first", "second", "third", "again"]


@pytest.mark.parametrize(("lock", "is_exclusive"), [(FairLock(), True), (contextlib.nullcontext(), False)])
def test_one_thread_has_it_at_a_time(lock: AbstractContextManager[None], is_exclusive: bool) -> None:
    inside = [0]
    seen = set()
    met = threading.Event()

    def work() -> None:
        for _ in range(300):
            with lock:
                inside[0] += 1
                if not is_exclusive and inside[0] < 2:
                    met.wait(0.001)
                seen.add(inside[0])
                if inside[0] > 1:
                    met.set()
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (seen == {1}) is is_exclusive


def test_what_a_machines_loop_shares_with_its_guests_processors_has_fair_locks() -> None:
    partition = PartitionRig().partition
    locks = (partition._lock, Ports().lock, Faults(lambda: 0)._lock, MappedMemory()._lock)
    assert {type(lock) for lock in locks} == {FairLock}


def test_it_is_free_after_an_error() -> None:
    lock = FairLock()
    with contextlib.suppress(ValueError), lock:
        raise ValueError
    with lock:
        assert len(lock._line) == 1
    assert not lock._line

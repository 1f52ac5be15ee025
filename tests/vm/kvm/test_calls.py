"""Hypercalls between processors' threads and the machine's task."""

import asyncio
import threading
import time

from dynmem.vm.kvm.calls import Calls
from dynmem.wire.synic import HypercallInput

PATIENCE_S = 60


class Machine:
    """It answers with the number of the call."""

    def __init__(self) -> None:
        self.is_over = False
        self.retries = 0

    async def hypercall(self, call: HypercallInput) -> int:
        return call.input

    def retry_messages(self) -> None:
        self.retries += 1

    async def unplug_answered(self, address: int, *, is_done: bool) -> None:
        raise AssertionError

    async def dimm_ejected(self, slot: int) -> None:
        raise AssertionError

    def dimm_reported(self, slot: int, source: int, status: int) -> None:
        raise AssertionError


def test_a_guest_that_ends_messages_all_the_time_has_one_notification_on_its_way() -> None:
    notified: list[None] = []
    calls, machine = Calls(lambda: notified.append(None)), Machine()
    for _ in range(1000):
        calls.retry_messages()
    assert len(notified) == 1
    asyncio.run(calls.serve(machine))
    calls.retry_messages()
    assert len(notified) == 2
    asyncio.run(calls.serve(machine))
    asyncio.run(calls.serve(machine))
    assert machine.retries == 2


def test_each_processor_gets_the_result_of_its_own_call() -> None:
    calls, machine = Calls(lambda: None), Machine()
    results: dict[int, int] = {}

    def make(number: int) -> None:
        results[number] = calls.make(HypercallInput(0, number, 0))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while len(results) < 8 and time.monotonic() < deadline:
        asyncio.run(calls.serve(machine))
    assert results == {number: number for number in range(8)}


def test_calls_that_a_turn_has_no_time_for_are_left_for_the_next_one() -> None:
    asked = threading.Event()
    calls, machine = Calls(asked.set), Machine()
    thread = threading.Thread(target=calls.make, args=(HypercallInput(0, 7, 0),))
    thread.start()
    assert asked.wait(PATIENCE_S)
    asked.clear()
    machine.is_over = True
    asyncio.run(calls.serve(machine))
    assert thread.is_alive()
    assert asked.is_set()  # for another turn
    machine.is_over = False
    asyncio.run(calls.serve(machine))
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_calls_of_a_guest_that_is_over_wait_for_nobody() -> None:
    calls = Calls(lambda: None)
    thread = threading.Thread(target=calls.make, args=(HypercallInput(0, 0, 0),))
    thread.start()
    calls.end()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert calls.make(HypercallInput(0, 0, 0)) == 0

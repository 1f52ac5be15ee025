"""Measurements that hang keep their own VM waiting and no other."""

import asyncio
import threading

import pytest
from tests.rigs.scenes import plays, until

from dynmem.manager.sweep.measuring import Measuring


@plays
async def test_measurements_that_hang_do_not_keep_the_next_one_waiting() -> None:
    measuring, over = Measuring(running_max=2, hangs_after_s=0.01), threading.Event()
    hanging = [asyncio.create_task(measuring.run(over.wait)) for _ in range(10)]
    await asyncio.sleep(0)  # they come first
    assert await measuring.run(lambda: "measured") == "measured"
    assert not any(each.done() for each in hanging)
    over.set()
    assert await asyncio.gather(*hanging) == [True] * 10


@plays
async def test_no_more_than_a_few_are_measured_at_once() -> None:
    measuring, lock, running, most = Measuring(running_max=3), threading.Lock(), 0, 0

    def measure() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.005)
        with lock:
            running -= 1

    await asyncio.gather(*(measuring.run(measure) for _ in range(20)))
    assert 1 <= most <= 3


@plays
async def test_what_a_measurement_raises_reaches_the_one_who_asked_and_a_cancelled_one_ends_alone() -> None:
    measuring, over = Measuring(running_max=1, hangs_after_s=0.01), threading.Event()

    def fail() -> None:
        raise ValueError("no such process")

    with pytest.raises(ValueError, match="no such process"):
        await measuring.run(fail)
    waiting = asyncio.create_task(measuring.run(over.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert await measuring.run(lambda: 1) == 1
    over.set()


@plays
async def test_measurements_one_after_the_other_share_a_thread_and_none_outlives_its_manager() -> None:
    measuring = Measuring()
    threads = {await measuring.run(threading.current_thread) for _ in range(20)}
    assert len(threads) == 1
    (thread,) = threads
    del measuring, threads
    await asyncio.to_thread(thread.join, 60)
    assert not thread.is_alive()


@plays
async def test_of_many_that_hung_and_came_back_no_more_threads_are_kept_than_may_run() -> None:
    measuring, over = Measuring(running_max=2, hangs_after_s=0.01), threading.Event()
    threads: set[threading.Thread] = set()

    def hang() -> None:
        threads.add(threading.current_thread())
        over.wait()

    hanging = [asyncio.create_task(measuring.run(hang)) for _ in range(6)]
    await until(lambda: len(threads) == 6)
    over.set()
    await asyncio.gather(*hanging)
    await until(lambda: sum(each.is_alive() for each in threads) <= 2)

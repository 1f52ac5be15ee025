"""A call that another thread carries out, as a future of the loop that waits for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def begin(call: Callable[[], T], carry_out: Callable[[Callable[[], None]], object]) -> asyncio.Future[T]:
    """Have *carry_out* run a call in another thread; return its future."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # from here on it cannot be cancelled

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as error:
            done.set_exception(error)

    carry_out(run)
    return asyncio.wrap_future(done)

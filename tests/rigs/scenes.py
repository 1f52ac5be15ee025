"""Scenes with an event loop: one way to play one, and one way to wait in it.

Deadlines here are for what never happens: a machine that is ten times slower keeps them.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

SCENE_S: Final = 200.0
PATIENCE_S: Final = 100.0
_TAIL: Final = 20  # lines of a log

P = ParamSpec("P")
T = TypeVar("T")

_logs: list[Path] = []  # of the programs that run just now


def play(scene: Coroutine[Any, Any, T]) -> T:
    """Play a scene to its end and return what it returns."""
    return asyncio.run(asyncio.wait_for(scene, SCENE_S))


def at_once(scene: Coroutine[Any, Any, T]) -> T:
    """Return what a scene returns that waits for nothing, without a loop."""
    try:
        scene.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    scene.close()
    raise AssertionError("the scene waits for something")


def plays(scene: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make a test of a scene."""

    @functools.wraps(scene)
    def test(*arguments: P.args, **named: P.kwargs) -> None:
        play(scene(*arguments, **named))

    return test


@contextlib.contextmanager
def logged(log: Path) -> Iterator[None]:
    """Show the end of this log when something is waited for in vain."""
    _logs.append(log)
    try:
        yield
    finally:
        _logs.remove(log)


async def until(check: Callable[[], Any], *, seconds: float = PATIENCE_S) -> Any:
    """Return what `check` (a function, or a coroutine function) returns, once that is something."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: the last value is {found!r}{tails()}"
        await asyncio.sleep(0.02)


def wait_until(
    check: Callable[[], object], *, otherwise: Callable[[], object], seconds: float = PATIENCE_S
) -> None:
    """Wait without an event loop until `check` holds; fail with what `otherwise` says then."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {otherwise()}{tails()}"
        time.sleep(0.02)


def tails() -> str:
    """Return the last lines of the logs of what runs."""
    found = ""
    for log in _logs:
        with contextlib.suppress(OSError):
            lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
            found += "\n".join(["", f"{log.name}:", *(f"  {line}" for line in lines)])
    return found

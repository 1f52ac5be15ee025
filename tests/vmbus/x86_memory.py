"""Every order in which two processors of x86-64 can carry out what two pieces of code do to shared memory.

A processor's stores wait in a buffer of its own, in order, and reach memory at any later time; its loads see
its own buffer first and memory otherwise; a fence waits until the buffer is empty. So a load can overtake
earlier stores to other places, and nothing else is out of order.

The code under test is ordinary code over a memory object. It is run again from its beginning for each step,
with the results that its loads have had so far, until it makes the next access.

Source: Sewell, Sarkar, Owens, Zappa Nardelli, Myreen: x86-TSO (2010).
"""

from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final

Buffer = tuple[tuple[int, bytes], ...]
History = tuple[bytes | None, ...]  # what each access so far gave; None for a store or a fence
Access = tuple[str, int, bytes]  # kind, offset, and the bytes of a store or as many as a load wants
_WORD: Final = 4


class _NextAccessError(Exception):
    """The code has come to an access whose result is not known yet."""

    def __init__(self, access: Access) -> None:
        super().__init__(access)
        self.access = access


class ReplayedMemory:
    """The memory that code under test sees: it answers from a history, then stops the code."""

    def __init__(self, history: History) -> None:
        self._results: Iterator[bytes | None] = iter(history)

    def _access(self, kind: str, offset: int, data: bytes) -> bytes:
        for result in self._results:
            return result or b""
        raise _NextAccessError((kind, offset, data))

    def read(self, offset: int, length: int) -> bytes:
        """Load some bytes at once."""
        return self._access("load", offset, bytes(length))

    def write(self, offset: int, data: bytes) -> None:
        """Store some bytes at once."""
        self._access("store", offset, data)

    def load32(self, offset: int) -> int:
        """Load a word."""
        return int.from_bytes(self._access("load", offset, bytes(_WORD)), "little")

    def store32(self, offset: int, value: int) -> None:
        """Store a word."""
        self._access("store", offset, value.to_bytes(_WORD, "little"))

    def fence(self) -> None:
        """Wait for the buffer."""
        self._access("fence", 0, b"")


Code = Callable[[ReplayedMemory], Hashable]
State = tuple[bytes, tuple[History, History], tuple[Buffer, Buffer]]


def _stored(memory: bytes, offset: int, data: bytes) -> bytes:
    return memory[:offset] + data + memory[offset + len(data) :]


def _replaced(pair: tuple[Any, Any], which: int, value: object) -> tuple[Any, Any]:
    return (value, pair[1]) if which == 0 else (pair[0], value)


def _run(code: Code, history: History) -> tuple[Access | None, Hashable]:
    """What the code does next, or its result if it has come to its end."""
    try:
        return None, code(ReplayedMemory(history))
    except _NextAccessError as stopped:
        return stopped.access, None


def _after(state: State, which: int, access: Access, *, fences: bool) -> State | None:
    """The state when a processor has made an access; None while it must wait."""
    memory, histories, buffers = state
    kind, offset, data = access
    buffer, result = buffers[which], None
    if kind == "fence" and fences and buffer:
        return None
    if kind == "store":
        buffers = _replaced(buffers, which, (*buffer, (offset, data)))
    elif kind == "load":
        seen = memory
        for place, waiting in buffer:
            seen = _stored(seen, place, waiting)
        result = seen[offset : offset + len(data)]
    return memory, _replaced(histories, which, (*histories[which], result)), buffers


def _drained(state: State, which: int) -> State:
    """The state when the oldest waiting store of a processor has reached memory."""
    memory, histories, buffers = state
    (offset, data), *rest = buffers[which]
    return _stored(memory, offset, data), histories, _replaced(buffers, which, tuple(rest))


def outcomes(
    memory: bytes, first: Code, second: Code, *, fences: bool = True
) -> set[tuple[Hashable, Hashable]]:
    """All pairs of results that the two can come to; without `fences` a fence does nothing."""
    codes = (first, second)
    start: State = (memory, ((), ()), ((), ()))
    seen, frontier, found = {start}, [start], set()
    while frontier:
        state = frontier.pop()
        results: list[Hashable] = []
        for which in (0, 1):
            access, result = _run(codes[which], state[1][which])
            nexts = [_after(state, which, access, fences=fences)] if access is not None else []
            if state[2][which]:
                nexts.append(_drained(state, which))
            elif access is None:
                results.append(result)
            for after in nexts:
                if after is not None and after not in seen:
                    seen.add(after)
                    frontier.append(after)
        if len(results) == 2:
            found.add((results[0], results[1]))
    return found

"""The frequency of this machine's time stamp counter, which an emulated processor passes through.

On a busy machine an emulated host measures it wrongly, by a factor of four when it was tried; then its clock,
and those of its guests, and every deadline in them run that much too fast.
"""

import ctypes
import mmap
import time
from collections.abc import Callable
from typing import Final

_CODE: Final = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_TRIES: Final = 20
_SPAN_S: Final = 0.2
_NS_PER_MS: Final = 1_000_000


def khz() -> int:
    """Measure it, in 0.2 s."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(_CODE)
        place = ctypes.c_char.from_buffer(memory)
        try:
            read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
            first = _sample(read)
            time.sleep(_SPAN_S)
            last = _sample(read)
        finally:
            del place
    return (last[1] - first[1]) * _NS_PER_MS // (last[0] - first[0])


def _sample(read: Callable[[], int]) -> tuple[int, int]:
    """Return a time in ns and the counter then, of the try that was interrupted least."""
    tries = []
    for _ in range(_TRIES):
        before, ticks, after = time.monotonic_ns(), read(), time.monotonic_ns()
        tries.append((after - before, (before + after) // 2, ticks))
    _, at, ticks = min(tries)
    return at, ticks

"""Runs a command of the operator's: without a shell, in a session of its own, for a bounded time.

It gets nothing on its standard input. When its time is over, or nobody waits for it any more, it ends with
all that it started in its session.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How a command ended.

    Attributes:
        code: Its exit code; None: its time was over.
        said: The last of what it printed, as far as that was to be kept.
    """

    code: int | None
    said: bytes


async def run(words: Sequence[str | Path], limit_s: float, *, keep: int = 0) -> Ended:
    """Run a command, and keep so many of the last bytes that it prints; 0: it has nowhere to print to.

    Raises OSError and ValueError if it cannot be run.
    """
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if keep else asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    said = b""
    try:
        async with asyncio.timeout(limit_s):
            while process.stdout is not None and (more := await process.stdout.read(keep)):
                said = (said + more)[-keep:]
            return Ended(await process.wait(), said)
    except TimeoutError:
        return Ended(None, said)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

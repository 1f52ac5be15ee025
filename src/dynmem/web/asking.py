"""One request to the manager, without waiting for it in a thread: whoever hangs up withdraws it."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from dynmem.limits import API_REPLY_BYTES_MAX
from dynmem.manager.api.client import hung_up, late, reply_of, too_long, unreachable


async def ask(path: Path, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Send one request and return its reply; a refusal is raised as the error of its exit code."""
    try:
        async with asyncio.timeout(timeout_s):
            line = await _exchange(path, json.dumps(request).encode() + b"\n")
    except TimeoutError as error:
        raise late(path, timeout_s) from error
    except OSError as error:
        raise unreachable(path, error) from error
    return reply_of(path, line)


async def _exchange(path: Path, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(os.fspath(path), limit=API_REPLY_BYTES_MAX)
    try:
        writer.write(line)
        return await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        raise hung_up(path) from error
    except asyncio.LimitOverrunError as error:
        raise too_long(path) from error
    finally:
        writer.transport.abort()

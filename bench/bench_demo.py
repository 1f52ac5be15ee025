"""How soon the demonstration shows a VM: from its start to the first line of its first table."""

import subprocess
import sys
import time
from collections.abc import Iterator

from bench.figures import Figure


def _until_line(command: list[str], prefix: str) -> float:
    """Seconds until the program prints a line that starts with `prefix`; the program is then ended."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith(prefix):
                return time.perf_counter() - begin
    finally:
        process.terminate()
        process.wait()
    raise RuntimeError(f"{command} ended before it printed {prefix!r}")


def run() -> Iterator[Figure]:
    """The demonstration beside an interpreter that imports what it draws with."""
    shown = _until_line([sys.executable, "-m", "dynmem", "demo", "--duration", "10"], "  batch  load")
    bare = _until_line([sys.executable, "-c", "import numpy, rich.live, click; print('here')"], "here")
    yield Figure("dynmem demo, first VM in the table", shown, "s", promised=5)
    yield Figure("an interpreter with its libraries", bare, "s")
    yield Figure("ratio", shown / bare, "x", at_most=20)

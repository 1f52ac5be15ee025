"""What a machine records while it runs: QEMU's trace events, and a capture of its traffic."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dynmem.trace.capture import Capture
from dynmem.trace.files import LineFile
from dynmem.trace_events import NO_TRACE, Trace
from dynmem.units import NS_PER_S
from dynmem.vm.log import HastyStream


class Recording:
    """The machine's trace and capture, as its options say.

    Attributes:
        trace: Where the devices' events go: lines as QEMU writes them, to the log file, or to standard error
            if its reader keeps up.
        capture: Where messages and packets go; times count from its heading's date.

    """

    def __init__(
        self,
        *,
        events: frozenset[str] = frozenset(),
        log: Path | None = None,
        capture: Path | None = None,
        title: str = "",
    ) -> None:
        """Open the files. Raises ConfigError if one cannot be written."""
        self._files: list[LineFile] = []
        self.trace: Final = self._tracing(events, self._line_file(log)) if events or log else NO_TRACE
        start_ns, begun_ns = time.monotonic_ns(), time.time_ns()
        write = self._line_file(capture) if capture is not None else None
        self.capture: Final = write and Capture(
            title, write, lambda: time.monotonic_ns() - start_ns, begun_ns=begun_ns
        )

    def _line_file(self, path: Path | None) -> Callable[[str], None]:
        if path is None:
            return HastyStream().write
        try:
            self._files.append(LineFile(path))
        except Exception:
            self.close()
            raise
        return self._files[-1].write

    def _tracing(self, events: frozenset[str], write: Callable[[str], None]) -> Trace:
        process = os.getpid()

        def sink(name: str, text: str) -> None:
            seconds, rest = divmod(time.time_ns(), NS_PER_S)
            write(f"{process}@{seconds}.{rest // 1000:06}:{name} {text}\n")

        return Trace(events, sink)

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

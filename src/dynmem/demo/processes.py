"""Starts the demonstration's programs, and ends every one of them whatever happens."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from dynmem.errors import DynmemError

TERM_WAIT_S: Final = 5.0
LOG_TAIL_BYTES: Final = 600


class Program:
    """One `dynmem` command in its own session, so that Ctrl-C reaches only the demonstration."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id, once it has been started."""
        assert self._process is not None
        return self._process.pid

    def start(self, arguments: Sequence[str]) -> None:
        """Run ``dynmem ARGUMENTS`` with this interpreter and write its output to the log."""
        assert self._process is None
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dynmem", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise, quoting the end of its log, if it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            tail = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
            raise DynmemError(
                f"{self.name} ended with status {self._process.returncode}: {tail or 'nothing in its log'}"
            )

    def stop(self) -> None:
        """Terminate it, then kill it if necessary. Never raises; may be called twice."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(TERM_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

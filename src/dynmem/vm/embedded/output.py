"""What a guest writes to: its serial console and the machine's log, for one guest after another."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.vm.embedded.console import Console
from dynmem.vm.embedded.guest_log import GuestLog, LogAllowance


class Ends(NamedTuple):
    """Descriptors that become a guest's standard output and its standard error."""

    console: int
    log: int


class Output:
    """The console and the log of a machine's guests; neither holds the machine or fills the disk."""

    def __init__(self, serial: Path | None) -> None:
        self._console: Final = Console(serial)
        self._allowance: Final = LogAllowance()
        self._log: GuestLog | None = None

    @contextlib.contextmanager
    def connected(self) -> Iterator[Ends]:
        """Provide the ends of a guest that is started meanwhile. Raises ConfigError."""
        with self._console.connect() as console:
            self._log = GuestLog(self._allowance)
            with self._log.guest_end as log:
                yield Ends(console.fileno(), log.fileno())

    async def disconnect(self) -> None:
        """Write what a guest that has ended has left."""
        if self._log is not None:
            self._log.close()
            self._log = None
        await self._console.disconnect()

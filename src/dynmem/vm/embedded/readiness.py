"""One thing to wait for: a descriptor with something to read."""

import asyncio
from collections.abc import Callable


class Readiness:
    """Watches a descriptor on the running loop: once per `arm` it becomes `ready` and calls `wake`."""

    def __init__(self, fd: int, wake: Callable[[], None]) -> None:
        self.fd = fd
        self.ready: bool = False
        self._wake = wake
        self._armed = False

    def arm(self) -> None:
        """Watch until there is something to read."""
        self.ready = False
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().add_reader(self.fd, self._fired)

    def disarm(self) -> None:
        """Stop watching."""
        if self._armed:
            self._armed = False
            asyncio.get_running_loop().remove_reader(self.fd)

    def _fired(self) -> None:
        self.disarm()
        self.ready = True
        self._wake()

"""Messages to the service manager that started this process: sd_notify(3), a datagram of lines.

Started by hand, there is no service manager, and every message is dropped.
"""

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

# The service manager reads at once unless the host is in trouble; then one message less does no harm.
_PATIENCE_S: Final = 0.1
_US_PER_S: Final = 1_000_000


class ServiceManager:
    """Where messages go, by the environment.

    Attributes:
        watchdog_s: A service that has not reported for so long that it is alive is ended; None: it is not
            watched.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """Take the variables out of the environment: they are not for the programs that this one starts."""
        address = environment.pop("NOTIFY_SOCKET", "")
        watchdog_us = environment.pop("WATCHDOG_USEC", "")
        watched = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        # A leading @ is a socket without a file, whose name begins with a zero byte.
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address
        is_ours = watched == str(os.getpid()) and watchdog_us.isdecimal() and int(watchdog_us) > 0
        self.watchdog_s: float | None = int(watchdog_us) / _US_PER_S if is_ours and self._address else None

    def ready(self) -> None:
        """Report that the service has started, or has read its configuration again."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the configuration is being read again."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the service ends."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Report that the service is alive."""
        self._send("WATCHDOG=1")

    def status(self, line: str) -> None:
        """Report what the service does, for `systemctl status`."""
        self._send("STATUS=" + " ".join(line.split()))

    def _send(self, *lines: str) -> None:
        if not self._address.startswith(("/", "\0")):
            return  # none, or of a kind that only virtual machines have
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(_PATIENCE_S)
                sending.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError:
            return  # the service manager decides what silence means

"""Why a VM is not served, and what its monitor does that monitors do not do: in sentences for the operator.

What does no harm costs only itself: such a monitor is still served, and named.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dynmem.errors import DeadlineError, RefusedError, RemoteProtocolError, UnreachableError
from dynmem.procfs import is_shortage
from dynmem.qmp.client import Unasked
from dynmem.qmp.errors import BusyError, NotListeningError, QmpCommandError, TooMuchError
from dynmem.units import MIB, format_size

# Unasked messages a second above which a monitor floods. QEMU sends its frequent events once a second.
FLOOD_MESSAGES_PER_S: Final = 500
FLOOD_BYTES_PER_S: Final = MIB
# Between two looks at the rates.
_WINDOW_S: Final = 1.0


class Conduct:
    """The conduct of one connection, from its counts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._before = Unasked()
        self._floods = ""

    def sentence(self, unasked: Unasked) -> str:
        """Return what is wrong with what it has sent unasked; "" if nothing is."""
        self._see_rates(unasked)
        if self._floods:
            return self._floods
        if unasked.replies:
            return f"its monitor sent {unasked.replies} replies that no command requested"
        return ""

    def _see_rates(self, unasked: Unasked) -> None:
        elapsed = self._clock() - self._since
        messages = unasked.messages - self._before.messages
        length = unasked.bytes - self._before.bytes
        if messages > FLOOD_MESSAGES_PER_S * max(1.0, elapsed) or length > FLOOD_BYTES_PER_S * max(
            1.0, elapsed
        ):
            self._floods = (
                f"its monitor floods: {messages} messages of {format_size(length)} that no command requested"
                f" within {max(1, round(elapsed))} s: it is read slowly"
            )
        elif elapsed >= _WINDOW_S:
            self._floods = ""
        if elapsed >= _WINDOW_S:
            self._since, self._before = self._clock(), unasked


def trouble(error: BaseException, path: Path, *, has_replied: bool) -> str:
    """Return why a VM was disconnected; *has_replied*: its monitor at *path* was connected before."""
    match error:
        case BusyError():
            return (
                f"no greeting from {path}: another client holds this monitor, or the VM hangs:"
                " give dynmem a monitor of its own (a second -chardev and -mon pair)"
            )
        case NotListeningError():
            return f"no VM is listening ({error}): start it, or correct its qmp in the configuration"
        case UnreachableError():
            return f"its monitor ended the connection, trying again: {error}"
        case DeadlineError() | TimeoutError():
            return f"its monitor did not reply, trying again: {error}"
        case RemoteProtocolError():
            return _sent_wrong(error, has_replied=has_replied)
        case RefusedError() if not isinstance(error, QmpCommandError):
            return f"it {error}"
        case OSError() if is_shortage(error):
            return (
                f"dynmem cannot look at it now ({error.strerror}): raise the limit of open files for dynmem"
                " (LimitNOFILE= in a systemd unit), or see what uses up the host's"
            )
    return f"its monitor {path} failed: {error}"


def _sent_wrong(error: RemoteProtocolError, *, has_replied: bool) -> str:
    if not has_replied:
        return f"the listener does not speak QMP: {error}: correct its qmp in the configuration"
    what = "more than dynmem reads" if isinstance(error, TooMuchError) else "what no monitor sends"
    return f"its monitor sent {what}: {error}: disconnected, and tried again later"

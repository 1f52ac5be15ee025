"""The process behind a monitor socket: which one it is, whether it has ended, whether it is stopped.

The kernel reuses process ids, so a process is its id together with its start time, and a pidfd shows that it
has ended even if its socket was not closed.
"""

import os
import select
from contextlib import suppress
from typing import Final

from dynmem.procfs import bytes_of, is_shortage

_AFTER_NAME_STATE: Final = 0  # proc_pid_stat(5): fields are counted after the name in parentheses
_AFTER_NAME_TIMES: Final = slice(11, 13)  # in user and in kernel mode, all threads; a guest's time is in them
_AFTER_NAME_START: Final = 19


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the process name. Raises OSError."""
    text = bytes_of(f"/proc/{pid}/stat")
    # The name may hold spaces and parentheses: everything up to the last parenthesis is skipped.
    return text[text.rindex(b")") + 2 :].decode("ascii").split()


class Process:
    """One process, held by a pidfd until `close`."""

    def __init__(self, pid: int, start_ticks: int, pidfd: int) -> None:
        self.pid: Final = pid
        self.incarnation: Final = f"{pid}@{start_ticks}"
        self._pidfd = pidfd
        self._poll = select.poll()
        self._poll.register(pidfd, select.POLLIN)
        self._gone = False

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """Open the process *pid*; None if it does not exist, or only in another pid namespace.

        Raises OSError if this process is short of what that takes, which says nothing about the other one.
        """
        if pid <= 0:
            return None
        pidfd = -1
        try:
            pidfd = os.pidfd_open(pid)
            fields = _stat_fields(pid)  # read after the pidfd is held: the id cannot be reused in between
        except OSError as error:
            if pidfd >= 0:
                os.close(pidfd)
            if is_shortage(error):
                raise
            return None
        return cls(pid, int(fields[_AFTER_NAME_START]), pidfd)

    def gone(self) -> bool:
        """Return whether it has ended (a zombie has)."""
        if not self._gone:
            self._gone = bool(self._poll.poll(0))
        return self._gone

    def is_still(self, pid: int) -> bool:
        """Return whether a process of this id is this one: until it has ended, no other can have its id."""
        return pid == self.pid and not self.gone()

    def stopped(self) -> bool:
        """Return whether a signal or a debugger has stopped it (state T or t of proc_pid_stat(5))."""
        with suppress(OSError):
            return not self.gone() and _stat_fields(self.pid)[_AFTER_NAME_STATE] in {"T", "t"}
        return False

    def ticks(self) -> int:
        """Return for how long it has run, in ticks of the kernel (10 ms); 0 if that cannot be read."""
        with suppress(OSError, ValueError):
            return sum(map(int, _stat_fields(self.pid)[_AFTER_NAME_TIMES]))
        return 0

    def close(self) -> None:
        """Close the pidfd."""
        if self._pidfd >= 0:
            self._gone = self.gone()
            with suppress(OSError):
                os.close(self._pidfd)
            self._pidfd = -1

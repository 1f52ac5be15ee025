"""What a guest did wrong: counted for QMP, and logged at a bounded rate."""

import logging
from collections.abc import Callable
from typing import Final

from dynmem.fair_lock import FairLock
from dynmem.limits import VM_FAULT_KINDS_MAX
from dynmem.units import NS_PER_S

LOG_EVERY_NS: Final = 10 * NS_PER_S  # one line for each kind of fault
_LOG: Final = logging.getLogger("dynmem.vm")


class Faults:
    """Counts of what went wrong, by kind. A kind is a phrase of ours, never text from the guest.

    Any thread may note one: the guest's processors do.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self.counts: dict[str, int] = {}
        self._logged: dict[str, tuple[int, int]] = {}
        self._lock: Final = FairLock()

    def note(self, kind: str, detail: str) -> None:
        """Count one; log it with `detail` unless one of its kind was logged recently."""
        with self._lock:
            self._note(kind, detail)

    def _note(self, kind: str, detail: str) -> None:
        if kind not in self.counts and len(self.counts) >= VM_FAULT_KINDS_MAX:
            kind = "other"
        count = self.counts[kind] = self.counts.get(kind, 0) + 1
        now = self._now_ns()
        logged_ns, logged_count = self._logged.get(kind, (-LOG_EVERY_NS, 0))
        if now - logged_ns < LOG_EVERY_NS:
            return
        unseen = count - logged_count - 1
        more = f" ({unseen} more since the last such line)" if unseen else ""
        _LOG.warning("%s: %s%s", kind, detail, more)
        self._logged[kind] = (now, count)

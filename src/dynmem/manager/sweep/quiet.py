"""When a target may be sent to a VM whose VMM a target can end.

QEMU's hv-balloon reads its ring also when a target comes, which it may do only on the guest's signal: where a
message of the guest waits unread at that moment, QEMU aborts (`gpadl_iter_seek: Assertion iter->active
failed`), and the guest is lost (hw/hyperv/hv-balloon.c, hv_balloon_to_target and hv_balloon_recv_channel, at
least up to 10.0). So a target is sent only when no message can be on its way:

    just after a report, of which a guest makes one a second       (the event HV_BALLOON_STATUS_REPORT)
    and once the guest has what it was asked for last, or has long had the time to answer

A target that has to wait is replaced by a later one. QEMU would not act on it any sooner.
"""

import asyncio
import time
from typing import Final

from dynmem.errors import DynmemError
from dynmem.manager.sweep.life import Life

# A report is followed by the next one after a second (Linux: dm_thread_func); half of that is safe.
QUIET_S: Final = 0.5
# A guest that gives has answered by then, all but the slowest.
ANSWER_S: Final = 3.0
# A guest that has not reported by then does not report.
PATIENCE_S: Final = 5.0
_LOOK_S: Final = 0.1


class NotSentError(DynmemError):
    """A target was not sent, and is known not to have arrived."""


class QuietMoment:
    """Waits for the moment to send a target to one VM."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reported = asyncio.Event()
        self._reported_s = -QUIET_S
        self._sent_s = -ANSWER_S
        self._turn = 0

    def saw_report(self) -> None:
        """Take in that its guest's report has just been read by its VMM."""
        self._reported_s = time.monotonic()
        self._reported.set()

    async def wait(self, life: Life) -> None:
        """Return when a target may be sent, and count it as sent. NotSentError: not this one."""
        self._turn += 1
        turn, until_s = self._turn, time.monotonic() + PATIENCE_S
        while not self._is_quiet(life):
            self._reported.clear()
            with_report = asyncio.create_task(self._reported.wait())
            await asyncio.wait((with_report,), timeout=_LOOK_S)
            with_report.cancel()
            if turn != self._turn:
                raise NotSentError("a later target has replaced this one")
            if time.monotonic() >= until_s:
                raise NotSentError(
                    f"the guest of {self._name} has not reported for {PATIENCE_S:g} s, or is busy with its"
                    " last target: a target that crosses one of its messages would end QEMU"
                )
        self._sent_s = time.monotonic()

    def _is_quiet(self, life: Life) -> bool:
        now_s = time.monotonic()
        has_answered = life.has_its_target or now_s - self._sent_s >= ANSWER_S
        return has_answered and now_s - self._reported_s < QUIET_S

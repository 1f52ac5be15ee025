"""When and how a target may be sent to a VM whose VMM a target can end.

QEMU's hv-balloon reads its ring also when a target comes, which it may do only on the guest's signal: where a
message of the guest waits unread at that moment, QEMU aborts (`gpadl_iter_seek: Assertion iter->active
failed`), and the guest is lost (hw/hyperv/hv-balloon.c, hv_balloon_to_target and hv_balloon_recv_channel, at
least up to 10.0). That message can be a report, the late answer to the target before, or the quick answer to
this one: QEMU asks the guest and reads the ring again in one go. So a target is sent

    just after QEMU has read a report, of which a guest makes one a second
    when the last target is long past, and the guest's size has not moved since for as long
    while the guest's processors are stopped, for as long as it takes   (`stop`, `balloon`, `cont`, as one)

and only to a VM whose operator allows the last (`may_stop`). When a report was read, only its figures tell:
they change. The event HV_BALLOON_STATUS_REPORT can come a second late, since QEMU sends one a second; it is
good enough for a guest so idle that its figures do not change. That a guest has its target says nothing: QEMU
counts memory as the guest's when it offers it, and the answer is still to come.

A target that has to wait is replaced by a later one. QEMU would not act on it any sooner.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from dynmem.errors import DynmemError

# How often the figures are read while a target waits. A report is followed by the next one after a second
# (Linux: dm_thread_func), so one that is this old is young.
LOOK_S: Final = 0.025
# A guest whose figures have not changed for this long is idle.
SAME_S: Final = 2.5
# A guest on its way to a target answers more often than this: one that makes much memory usable took 2 s.
ANSWER_S: Final = 3.0
# A guest that has not reported by then does not report, and one that moves for longer is asked again later.
PATIENCE_S: Final = 10.0


class Figures(NamedTuple):
    """What a VMM says of its guest: its last report, its size, and whether it runs."""

    report: object
    size: object
    is_running: bool


Read = Callable[[], Awaitable[Figures]]


class NotSentError(DynmemError):
    """A target was not sent, and is known not to have arrived."""


class QuietMoment:
    """Waits for the moment to send a target to one VM."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._has_reported = False
        self._sent_s = -ANSWER_S
        self._turn = 0

    def saw_report(self) -> None:
        """Take in that its VMM sent the event of a report."""
        self._has_reported = True

    async def wait(self, read: Read) -> None:
        """Return when a target may be sent, and count it as sent. NotSentError: not this one."""
        self._turn += 1
        turn, began_s = self._turn, time.monotonic()
        before = await read()
        busy_s = self._sent_s  # when it was last seen busy
        while True:
            self._has_reported = False
            await asyncio.sleep(LOOK_S)
            figures = await read()
            if turn != self._turn:
                raise NotSentError("a later target has replaced this one")
            now_s = time.monotonic()
            if not figures.is_running:
                raise NotSentError(f"{self._name} has been stopped by somebody else")
            if figures.size != before.size:
                busy_s = now_s
            is_idle = self._has_reported and now_s - began_s >= SAME_S
            is_new = figures.report != before.report or is_idle
            before = figures
            if is_new and now_s - busy_s >= ANSWER_S:
                self._sent_s = now_s
                return
            if now_s - began_s >= PATIENCE_S:
                raise NotSentError(
                    f"the guest of {self._name} has not reported for {PATIENCE_S:g} s, or is busy with its"
                    " last target: a target that crosses one of its messages would end QEMU"
                )

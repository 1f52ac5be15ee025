"""What a guest does to its DIMMs, on its way from the processors' threads to the machine's task.

The board bounds how much there can be of it: a DIMM is ejected once, and reports are counted (`dimm_slots`).
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from dynmem.vm.kvm.board.dimm_slots import Ejected, Reported
from dynmem.vm.platform import GuestCalls


class DimmActs:
    """What waits for the machine.

    Args:
        notify: Called on a processor's thread when the machine's task should `serve`.
        remove: Called with a slot, in the machine's task, before what was ejected from it is unplugged.

    """

    def __init__(self, *, notify: Callable[[], None], remove: Callable[[int], None]) -> None:
        self._notify: Final = notify
        self._remove: Final = remove
        self._waiting: Final[deque[Ejected | Reported]] = deque()

    def add(self, act: Ejected | Reported) -> None:
        """Have the machine take it. On a processor's thread."""
        self._waiting.append(act)
        self._notify()

    async def serve(self, machine: GuestCalls) -> None:
        """Hand up what waits, in order. In the machine's task."""
        while self._waiting:
            if machine.is_over:
                self._notify()
                return
            act = self._waiting.popleft()
            if isinstance(act, Ejected):
                self._remove(act.slot)
                await machine.dimm_ejected(act.slot)
            else:
                machine.dimm_reported(*act)

    def forget(self) -> None:
        """Drop what a guest did that is over: its DIMMs are the next one's."""
        self._waiting.clear()

"""Events of the history: the last ones of a time, and the new ones of each second."""

from collections.abc import Iterator

from dynmem.history.event import Event
from dynmem.limits import WEB_HAPPENED_MAX
from dynmem.web.readings import Reading


def last_events(
    past: Reading, name: str | None, since_ms: int, until_ms: int, limit: int, *, whole: bool
) -> tuple[list[Event], bool]:
    """Return the last events of a time, newest first, and whether there may be more.

    With *whole*, of all VMs and the host; otherwise of the VM, or of the host alone where it is None.
    """
    found: list[Event] = []
    for event in past.events_back(since_ms, until_ms):
        if whole or event.vm == name:
            if len(found) == limit:
                return found, True
            found.append(event)
        if past.is_late:
            return found, True
    return found, False


class News:
    """What has been recorded since the last look, in whichever file."""

    def __init__(self) -> None:
        self._file_id: int | None = None
        self._last_id = 0

    def begin(self) -> None:
        """Forget the past: only what comes from now on is news."""
        self._file_id = None

    def since(self, past: Reading) -> list[Event]:
        """Return the events since the last look, oldest first, and as many as a reader can be sent."""
        is_first = self._file_id is None
        last_id = past.last_event()
        if past.file_id != self._file_id or last_id < self._last_id:  # another, by a number that was free
            self._file_id, self._last_id = past.file_id, 0
        news = [] if is_first else list(_after(past, self._last_id))
        self._last_id = last_id
        return news[::-1]


def _after(past: Reading, last_id: int) -> Iterator[Event]:
    """Yield the last events with a higher number, newest first."""
    for count, event in enumerate(past.events_back()):
        if event.id <= last_id or count == WEB_HAPPENED_MAX:
            return
        yield event

"""What became of the commands of a step: sent, not sent, or refused after more steps were made.

A command counts from the step that chose it on. If it was not sent, its VM keeps the target before it, and
what was changed last is what was changed before.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dynmem.manager.step.changes import Change
from dynmem.manager.step.claims import Claims
from dynmem.manager.step.record import Record
from dynmem.manager.step.roster import Roster
from dynmem.units import PAGE_SIZE


class Outcomes:
    """What was changed last of each VM, whether that was sent, and what there was before it."""

    def __init__(self, roster: Roster, claims: Claims) -> None:
        self._roster: Final = roster
        self._claims: Final = claims
        self._last: dict[str, tuple[int, Change]] = {}
        self._last_before: dict[str, tuple[int, Change]] = {}
        #: The VMs whose last change was sent.
        self.sent: set[str] = set()
        self._sent_before: set[str] = set()
        self._targets_before: dict[str, int | None] = {}

    @property
    def last(self) -> dict[str, tuple[int, Change]]:
        """What was changed last of each VM, and when; a copy."""
        return dict(self._last)

    @property
    def targets_before(self) -> Mapping[str, int | None]:
        """The target that each VM had before the last step. Pages."""
        return self._targets_before

    def begin(self) -> None:
        """Take in the targets that a step finds."""
        self._targets_before = {record.name: record.target_pages for record in self._roster}

    def chose(self, changes: Sequence[Change], now_ns: int) -> None:
        """Take in what a step chose; nothing of it was sent yet."""
        self._last_before, self._sent_before = dict(self._last), set(self.sent)
        self._last.update({each.record.name: (now_ns, each) for each in changes})
        self.sent.difference_update(each.record.name for each in changes)

    def forget(self, name: str) -> None:
        """Forget what was changed of a VM: it is no longer in the configuration."""
        self._last.pop(name, None)

    def not_sent(self, names: Iterable[str]) -> None:
        """Take back commands of the last step that were not sent."""
        for name in names:
            record = self._roster.get(name)
            if record is not None and name in self._targets_before:
                self._take_back(record, self._targets_before[name])
            if self._last_before.get(name) is None:
                self._last.pop(name, None)
            else:
                self._last[name] = self._last_before[name]
            if name in self._sent_before:
                self.sent.add(name)

    def refused_late(self, name: str, target_bytes: int, before: int | None) -> None:
        """Take back a target that a VM refused after more steps were made, unless it has another by now."""
        record = self._roster.get(name)
        if record is not None and record.target_pages == target_bytes // PAGE_SIZE:
            self._take_back(record, before)

    def _take_back(self, record: Record, before: int | None) -> None:
        record.take_back(before)
        self._claims.ask(record)

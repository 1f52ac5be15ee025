"""The live table without its drawing: rows of a status, in an order, filtered, and which lines changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from dynmem.top.columns import BY_KEY, COLUMNS, SortValue

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply
    from dynmem.manager.step.view import VmView

#: Hyper-V's words: a buffer that is not met is "low", a demand that is not met a "warning".
Need = Literal["met", "low", "warning", "away"]
Words = Literal["ours", "esxtop", "Hyper-V"]
#: What the heads show in turn.
WORDS: Final[tuple[Words, ...]] = ("ours", "esxtop", "Hyper-V")
# A longer name or state is cut.
_WIDEST: Final = 32


class Row(NamedTuple):
    """A VM as the table shows it.

    Attributes:
        name: Its name, as the status has it.
        cells: A text for each column.
        values: What each column sorts by.
        need: Whether it has what it needs; "away": it is not running.
    """

    name: str
    cells: tuple[str, ...]
    values: tuple[SortValue, ...]
    need: Need


def rows_of(status: "StatusReply") -> list[Row]:
    """Return a row for each VM, in the order of the configuration."""
    return [
        Row(
            vm.name,
            tuple(column.text(status, vm) for column in COLUMNS),
            tuple(column.value(vm) for column in COLUMNS),
            need(vm),
        )
        for vm in status.vms
    ]


def need(vm: "VmView") -> Need:
    """Return whether a VM has what it needs."""
    if not vm.there:
        return "away"
    if vm.demand_bytes is not None and vm.actual_bytes is not None and vm.demand_bytes > vm.actual_bytes:
        return "warning"
    return "low" if vm.short_bytes else "met"


class Table:
    """The rows as they are shown.

    Attributes:
        lines: The rows that are shown, in their order.
        order: The number of the column that they are sorted by.
        is_inverted: Whether that is the other way round than usual.
        wanted: What the names must contain, whatever the case.
        words: Whose words stand in the heads beside ours.
        widths: The width of each column; it only grows, so that nothing moves about.
    """

    def __init__(self) -> None:
        self.lines: list[Row] = []
        self.order: int = BY_KEY["d"]
        self.is_inverted: bool = False
        self.wanted: str = ""
        self.words: Words = "ours"
        self._rows: list[Row] = []
        self.widths: list[int] = []
        self._widen()

    def show(self, rows: Sequence[Row]) -> None:
        """Show these rows."""
        self._rows = list(rows)
        self._widen()
        self._arrange()

    def sort(self, key: str) -> None:
        """Sort by the column of a key; if it is that already, the other way round."""
        if self.order == BY_KEY[key]:
            self.is_inverted = not self.is_inverted
        else:
            self.order, self.is_inverted = BY_KEY[key], False
        self._arrange()

    def filter(self, text: str) -> None:
        """Show only VMs whose names contain a text."""
        self.wanted = text.strip().casefold()
        self._arrange()

    def next_words(self) -> None:
        """Show the words of the next of those who have other ones."""
        self.words = WORDS[(WORDS.index(self.words) + 1) % len(WORDS)]
        self._widen()

    @property
    def count(self) -> int:
        """How many VMs there are, shown or not."""
        return len(self._rows)

    def place(self, name: str) -> int | None:
        """Return the line of a VM; None if it is not shown."""
        return next((at for at, row in enumerate(self.lines) if row.name == name), None)

    def heads(self) -> list[str]:
        """Return the lines of the heads."""
        lines = [[column.title for column in COLUMNS]]
        if self.words != "ours":
            lines.append([self._theirs(index) for index in range(len(COLUMNS))])
        return [self.line(cells) for cells in lines]

    def line(self, cells: Sequence[str]) -> str:
        """Return cells as one line of text."""
        return "  ".join(
            cell[:width].rjust(width) if column.is_figure else cell[:width].ljust(width)
            for cell, width, column in zip(cells, self.widths, COLUMNS, strict=True)
        )

    def _theirs(self, index: int) -> str:
        return COLUMNS[index].esxtop if self.words == "esxtop" else COLUMNS[index].hyper_v

    def _widen(self) -> None:
        before = self.widths or [0] * len(COLUMNS)
        last = len(COLUMNS) - 1
        self.widths = [
            max(
                before[index],
                len(COLUMNS[index].title),
                len(self._theirs(index)) if self.words != "ours" else 0,
                # what stands last needs no limit
                max(
                    (min(len(row.cells[index]), 200 if index == last else _WIDEST) for row in self._rows),
                    default=0,
                ),
            )
            for index in range(len(COLUMNS))
        ]

    def _arrange(self) -> None:
        shown = [row for row in self._rows if self.wanted in row.name.casefold()]
        known = [row for row in shown if row.values[self.order] is not None]
        is_falling = COLUMNS[self.order].is_figure != self.is_inverted
        known.sort(key=self._key, reverse=is_falling)
        self.lines = known + [row for row in shown if row.values[self.order] is None]

    def _key(self, row: Row) -> tuple[str, float]:
        value = row.values[self.order]
        return (value.casefold(), 0.0) if isinstance(value, str) else ("", value or 0.0)


def changed(before: Sequence[Row], now: Sequence[Row]) -> list[int]:
    """Return the numbers of the lines that look different now, also those that are no longer there."""
    longest = max(len(before), len(now))
    return [
        at
        for at in range(longest)
        if at >= len(before)
        or at >= len(now)
        or (before[at].cells, before[at].need) != (now[at].cells, now[at].need)
    ]

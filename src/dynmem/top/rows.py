"""The rows of the live table on the screen: only lines in view are made, and only those that changed.

A cell is text and never markup: what is drawn are segments, not strings that anything interprets.
"""

from typing import ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from dynmem.top.table import Need, Table, changed

_STYLES: Final[dict[Need, Style]] = {
    "met": Style(),
    "low": Style(color="yellow"),
    "warning": Style(color="red", bold=True),
    "away": Style(dim=True),
}
_CURSOR: Final = Style(reverse=True)
_LOST: Final = Style(dim=True)


class _Rows(ScrollView):
    """The lines of a table, one of them under the cursor.

    Attributes:
        table: The table.
        chosen: The VM under the cursor, which it follows; None: it is on the first line and stays there.
        is_lost: Whether the figures are old.
    """

    can_focus = True
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "first", show=False),
        Binding("end", "last", show=False),
    ]

    def __init__(self, table: Table) -> None:
        super().__init__(id="rows")
        self.table = table
        self.chosen: str | None = None
        self.is_lost = False
        self._drawn = list(table.lines)
        self._drawn_widths = list(table.widths)
        self._drawn_cursor = 0

    @property
    def cursor(self) -> int:
        """The line under the cursor."""
        return (self.table.place(self.chosen) or 0) if self.chosen is not None else 0

    def on_mount(self) -> None:
        self.virtual_size = Size(0, len(self.table.lines))

    def render_line(self, y: int) -> Strip:
        at = y + self.scroll_offset.y
        width = self.size.width
        if at >= len(self._drawn):
            return Strip.blank(width, self.rich_style)
        row = self._drawn[at]
        style = self.rich_style + _STYLES[row.need]
        if self.is_lost:
            style += _LOST
        if at == self._drawn_cursor:
            style += _CURSOR
        return Strip([Segment(self.table.line(row.cells), style)]).adjust_cell_length(width, style)

    def redraw(self) -> None:
        """Draw the lines that changed since the last time."""
        before, cursor_before = self._drawn, self._drawn_cursor
        self._drawn, self._drawn_cursor = list(self.table.lines), self.cursor
        if len(before) != len(self._drawn):
            self.virtual_size = Size(0, len(self._drawn))
        if self._drawn_widths != self.table.widths:
            self._drawn_widths = list(self.table.widths)
            self.refresh()
        else:
            lines = set(changed(before, self._drawn))
            if cursor_before != self._drawn_cursor:
                lines |= {cursor_before, self._drawn_cursor}
            top = self.scroll_offset.y
            for at in sorted(line for line in lines if top <= line < top + self.size.height):
                self.refresh_line(at)
        if cursor_before != self._drawn_cursor:
            self.scroll_to_region(Region(0, self._drawn_cursor, 1, 1), animate=False, force=True)

    def set_lost(self, is_lost: bool) -> None:
        """Dim the figures when they are old."""
        if self.is_lost != is_lost:
            self.is_lost = is_lost
            self.refresh()

    def _choose(self, at: int) -> None:
        lines = self.table.lines
        if lines:
            self.chosen = lines[max(0, min(at, len(lines) - 1))].name
            self.redraw()

    def action_move(self, by: int) -> None:
        self._choose(self.cursor + by)

    def action_page(self, by: int) -> None:
        self._choose(self.cursor + by * max(1, self.size.height - 1))

    def action_first(self) -> None:
        self.chosen = None
        self.redraw()
        self.scroll_to(y=0, animate=False)

    def on_click(self, event: Click) -> None:
        if (at := event.y + self.scroll_offset.y) < len(self.table.lines):
            self._choose(at)

    def action_last(self) -> None:
        self._choose(len(self.table.lines) - 1)

"""``dynmem top`` on a terminal: the host, a live table of its VMs, and keys. It imports textual."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Final

from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

from dynmem.errors import ExitCode, printable
from dynmem.top.columns import BY_KEY, COLUMNS
from dynmem.top.figures import period_s as chosen_or_managers
from dynmem.top.host import alarms, host_line, mode_line
from dynmem.top.rows import _Rows
from dynmem.top.table import Table, rows_of
from dynmem.top.watch import Lost, Seen, Watch

if TYPE_CHECKING:
    from dynmem.manager.api.messages import StatusReply
    from dynmem.manager.step.view import VmView

#: Returns the whole arithmetic of a VM.
Explain = Callable[["StatusReply", "VmView"], str]

HELP: Final = "\n".join(
    [
        "dynmem top: what each VM needs and has. Nothing is changed from here.",
        "",
        "  up down pageup pagedown home end   move the cursor; it follows its VM, but for home",
        "  enter, e      explain the VM under the cursor; again or escape: back",
        "  /             show only VMs whose names contain a text; escape: all",
        "  space         pause the display, and go on",
        "  w             esxtop's words below ours, then Hyper-V's, then ours alone",
        "  i             sort the other way round",
        *(f"  {column.key}             sort by {column.title}; again: inverted" for column in COLUMNS),
        "  ?, f1         this help",
        "  q, ctrl+c     end",
        "",
        "AT HAND is ACTUAL less DEMAND, PRESSURE is DEMAND as a part of ACTUAL.",
        "Yellow: a buffer is not met. Red: a guest needs more than it has. Dim: not running.",
    ]
)
_SORTED: Final = Style(underline=True)
_HEAD: Final = Style(bold=True)


class _Looked(Message):
    """The manager was asked; *found* is what came of it."""

    def __init__(self, found: Seen | Lost) -> None:
        super().__init__()
        self.found = found


class _Heads(Widget):
    """The names of the columns, ours and below them those of others."""

    def __init__(self, table: Table) -> None:
        super().__init__(id="heads")
        self.table = table
        self.drawn: tuple[list[str], int] = (table.heads(), table.order)

    def render_line(self, y: int) -> Strip:
        lines, order = self.drawn
        style = self.rich_style + _HEAD
        if y >= len(lines):
            return Strip.blank(self.size.width, style)
        begin = sum(width + 2 for width in self.table.widths[:order])
        end = begin + self.table.widths[order]
        line = lines[y]
        parts = [
            Segment(line[:begin], style),
            Segment(line[begin:end], style + _SORTED if y == 0 else style),
            Segment(line[end:], style),
        ]
        return Strip(parts).adjust_cell_length(self.size.width, style)


class _Page(ModalScreen[None]):
    """A text over the table."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,e,question_mark,f1", "app.pop_screen", show=False)
    ]

    def __init__(self, text: str, vm: str | None = None) -> None:
        super().__init__()
        self.vm = vm
        self.text = text
        self._static = Static(text, id="text", markup=False)

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="page"):
            yield self._static

    def show(self, text: str) -> None:
        if text != self.text:
            self.text = text
            self._static.update(text)


class _Top(App[int]):
    """The live table."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #mode, #host { height: 1; }
    #alarms { height: auto; max-height: 4; color: $text-error; }
    #heads { height: 1; background: $panel; }
    #rows { height: 1fr; overflow-x: hidden; }
    #filter { display: none; height: 1; border: none; }
    #keys { height: 1; background: $panel; }
    #page { border: round $primary; padding: 0 1; background: $surface; }
    #text { width: 1fr; }
    _Page { align: center middle; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", show=False),
        Binding("ctrl+c", "interrupt", show=False, priority=True),
        Binding("enter,e", "explain", show=False),
        Binding("slash", "filter", show=False),
        Binding("space", "pause", show=False),
        Binding("w", "words", show=False),
        Binding("i", "invert", show=False),
        Binding("question_mark,f1", "help", show=False),
        Binding("escape", "clear", show=False),
        *(Binding(key, f"sort('{key}')", show=False) for key in BY_KEY),
    ]

    def __init__(
        self,
        look: "Callable[[], StatusReply]",
        explain: Explain,
        first: Seen,
        period_s: float | None,
    ) -> None:
        super().__init__()
        self.table = Table()
        self.table.show(first.rows)
        self._explain = explain
        self._latest = self._shown = first
        self._lost = ""
        self._is_paused = False
        self._texts: dict[str, str] = {}
        # Kept here and not looked up: a look may come while the screen is being taken down.
        self._lines = {name: Static(id=name, markup=False) for name in ("mode", "host", "alarms", "keys")}
        self._heads = _Heads(self.table)
        self._rows = _Rows(self.table)
        self._filter = Input(id="filter", placeholder="show only VMs whose names contain ...", compact=True)
        self._watch = Watch(look, chosen_or_managers(first.status, period_s), self._post)

    def _post(self, found: Seen | Lost) -> None:
        self.post_message(_Looked(found))

    def compose(self) -> ComposeResult:
        yield from (self._lines["mode"], self._lines["host"], self._lines["alarms"])
        yield from (self._heads, self._rows, self._filter, self._lines["keys"])

    def on_mount(self) -> None:
        self._rows.focus()
        self._draw_lines()
        self._watch.start()

    def on_unmount(self) -> None:
        self._watch.end()

    # -- looks ----------------------------------------------------------------------------------------------

    def on__looked(self, message: _Looked) -> None:
        """Take in a look; while the display is paused it is kept."""
        if not self._rows.is_attached:
            return  # the end has begun
        if isinstance(message.found, Lost):
            self._lost = message.found.why
        else:
            self._lost, self._latest = "", message.found
        if not self._is_paused:
            self._show()
        self._draw_lines()

    def _show(self) -> None:
        self._shown = self._latest
        self.table.show(self._shown.rows)
        self._draw_table()
        if isinstance(self.screen, _Page) and self.screen.vm is not None:
            self.screen.show(self._explanation(self.screen.vm))

    # -- drawing --------------------------------------------------------------------------------------------

    def _draw_table(self) -> None:
        heads = self._heads
        if heads.drawn != (drawn := (self.table.heads(), self.table.order)):
            heads.drawn = drawn
            heads.styles.height = len(drawn[0])
            heads.refresh()
        self._rows.redraw()

    def _draw_lines(self) -> None:
        status, table = self._shown.status, self.table
        self._line("mode", mode_line(status))
        self._line("host", host_line(status))
        problems = list(alarms(status))
        if self._lost:
            problems.insert(0, f"LOST: {printable(self._lost)}. Figures are old; it is asked again.")
        self._line("alarms", "\n".join(problems))
        self._rows.set_lost(bool(self._lost))
        parts = ["PAUSED"] if self._is_paused else []
        parts.append(f"by {COLUMNS[table.order].title}{', inverted' if table.is_inverted else ''}")
        if table.wanted:
            parts.append(f"{len(table.lines)} of {table.count} VMs: {printable(table.wanted)}")
        if table.words != "ours":
            parts.append(f"{table.words}'s words below ours")
        self._line("keys", "; ".join([*parts, "? help, enter explain, / filter, space pause, q end"]))

    def _line(self, name: str, text: str) -> None:
        """Show a text in one of the lines; one that stays the same is not drawn again."""
        if self._texts.get(name) != text:
            self._texts[name] = text
            self._lines[name].update(text)

    # -- keys -----------------------------------------------------------------------------------------------

    def action_sort(self, key: str) -> None:
        self.table.sort(key)
        self._draw_table()
        self._draw_lines()

    def action_invert(self) -> None:
        self.action_sort(COLUMNS[self.table.order].key)

    def action_words(self) -> None:
        self.table.next_words()
        self._draw_table()
        self._draw_lines()

    def action_pause(self) -> None:
        self._is_paused = not self._is_paused
        if not self._is_paused:
            self._show()
        self._draw_lines()

    def action_interrupt(self) -> None:
        self.exit(return_code=ExitCode.INTERRUPTED)

    def action_help(self) -> None:
        self.push_screen(_Page(HELP))

    def action_explain(self) -> None:
        if self.table.lines:
            name = self.table.lines[self._rows.cursor].name
            self.push_screen(_Page(self._explanation(name), name))

    def _explanation(self, name: str) -> str:
        status = self._shown.status
        vm = next((each for each in status.vms if each.name == name), None)
        if vm is None:
            return f"{printable(name)} is no longer among the VMs"
        return "\n".join(map(printable, self._explain(status, vm).split("\n")))

    def action_filter(self) -> None:
        self._filter.display = True
        self._filter.focus()

    def action_clear(self) -> None:
        self._filter.value = ""
        self.on_input_submitted()

    def on_input_changed(self, event: Input.Changed) -> None:
        self.table.filter(event.value)
        self._draw_table()
        self._draw_lines()

    def on_input_submitted(self) -> None:
        self._filter.display = False
        self._rows.focus()


def live_table(
    look: "Callable[[], StatusReply]", explain: Explain, first: "StatusReply", period_s: float | None
) -> "App[int]":
    """Return the program for a terminal, which begins with a first status; `run` runs it."""
    return _Top(look, explain, Seen(first, rows_of(first)), period_s)

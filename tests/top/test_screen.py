"""`dynmem top` on a screen that is only in memory: keys, looks, a manager that is lost, and what is drawn."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.scenes import PATIENCE_S
from tests.rigs.status_double import StatusDouble, listening, reply, vm_view
from textual.app import App
from textual.pilot import Pilot
from textual.strip import Strip
from textual.widgets import Input, Static

from dynmem.cli import main
from dynmem.cli.explain_text import explained
from dynmem.manager.api.client import ask, status_of
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.step.view import VmView
from dynmem.top.rows import _Rows
from dynmem.top.screen import _Looked, _Top, live_table
from dynmem.top.watch import Seen
from dynmem.units import GIB, MIB

PERIOD_S = 0.02
NEVER_S = 3600.0


def status(*vms: VmView, **changes: object) -> StatusReply:
    return status_of(reply(*vms, **changes))


class Seat:
    """Somebody before a screen.

    Attributes:
        now: What the manager has.
        looks: How often it was asked.
    """

    def __init__(self, now: StatusReply) -> None:
        self.now = now
        self.looks = 0
        self.app: App[int]
        self.pilot: Pilot[int]

    def look(self) -> StatusReply:
        self.looks += 1
        return self.now

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until(self, wanted: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not wanted():
                await self.pilot.pause(0.005)

    async def looks_again(self, times: int = 3) -> None:
        """Wait until what it has now was shown, or would have been."""
        enough = self.looks + times
        await self.until(lambda: self.looks >= enough)

    @property
    def rows(self) -> _Rows:
        rows: _Rows = self.app.screen_stack[0].query_one(_Rows)
        return rows

    def lines(self) -> list[str]:
        return [self.rows.render_line(y).text.rstrip() for y in range(self.rows.size.height)]

    def names(self) -> list[str]:
        return [line.split()[0] for line in self.lines() if line]

    def text(self, name: str) -> str:
        shown = self.app.screen.query_one(f"#{name}")
        return "\n".join(str(shown.render_line(y).text).rstrip() for y in range(shown.size.height))

    def cursor(self) -> str:
        """The name on the only line that is drawn in reverse."""
        (name,) = [
            strip.text.split()[0]
            for strip in map(self.rows.render_line, range(self.rows.size.height))
            if any(segment.style is not None and segment.style.reverse for segment in strip)
        ]
        return str(name)


@contextlib.asynccontextmanager
async def seated(
    *vms: VmView, period_s: float = NEVER_S, size: tuple[int, int] = (120, 24)
) -> AsyncIterator[Seat]:
    seat = Seat(status(*vms))
    seat.app = live_table(seat.look, explained, seat.now, period_s)
    async with seat.app.run_test(size=size) as seat.pilot:
        await seat.pilot.pause()
        yield seat


def screen(scene: Callable[[], Any]) -> None:
    asyncio.run(scene())


def test_it_shows_the_host_the_heads_and_a_line_for_each_vm() -> None:
    async def scene() -> None:
        async with seated(*map(vm_view, range(3))) as seat:
            assert seat.text("mode").startswith("observe (nothing is sent); a sweep every 1 s")
            assert seat.text("host").startswith("budget 8 GiB, ")
            assert seat.text("heads").split()[:4] == ["VM", "STATE", "DEMAND", "TARGET"]
            assert seat.names() == ["vm2", "vm1", "vm0"]
            assert "300M" in seat.lines()[2]
            assert "? help" in seat.text("keys")

    screen(scene)


def test_keys_sort_and_sort_the_other_way_round() -> None:
    async def scene() -> None:
        async with seated(*map(vm_view, range(3))) as seat:
            await seat.press("n")
            assert seat.names() == ["vm0", "vm1", "vm2"]
            assert "by VM" in seat.text("keys")
            await seat.press("i")
            assert seat.names() == ["vm2", "vm1", "vm0"]
            assert "by VM, inverted" in seat.text("keys")

    screen(scene)


def test_the_cursor_follows_its_vm_and_enter_explains_it_as_the_command_does() -> None:
    async def scene() -> None:
        async with seated(*map(vm_view, range(3)), size=(120, 50)) as seat:
            assert seat.cursor() == "vm2"
            await seat.press("down")
            assert seat.cursor() == "vm1"
            await seat.press("n", "down", "up", "up")
            assert (seat.names()[0], seat.cursor()) == ("vm0", "vm0")
            await seat.press("d")
            assert (seat.names()[2], seat.cursor()) == ("vm0", "vm0")
            await seat.press("enter")
            expected = explained(seat.now, seat.now.vms[0])
            assert " ".join(seat.text("text").split()) == " ".join(expected.split())
            await seat.press("escape", "home")
            assert seat.cursor() == "vm2"
            await seat.pilot.click(_Rows, offset=(3, 1))
            assert seat.cursor() == "vm1"
            await seat.pilot.click(_Rows, offset=(3, 9))
            assert seat.cursor() == "vm1"

    screen(scene)


def test_a_filter_is_typed_kept_and_cleared() -> None:
    async def scene() -> None:
        async with seated(vm_view(name="web-1"), vm_view(name="DB"), vm_view(name="web-2")) as seat:
            await seat.press("slash", "w", "E", "b", "enter")
            assert sorted(seat.names()) == ["web-1", "web-2"]
            assert "2 of 3 VMs: web" in seat.text("keys")
            assert not seat.app.query_one(Input).display
            await seat.press("n")
            assert seat.names() == ["web-1", "web-2"]
            await seat.press("escape")
            assert len(seat.names()) == 3

    screen(scene)


def test_heads_help_and_the_end() -> None:
    async def scene() -> None:
        async with seated(vm_view()) as seat:
            await seat.press("w")
            assert "SZTGT" in seat.text("heads")
            assert "esxtop's words below ours" in seat.text("keys")
            await seat.press("w")
            assert "Assigned Memory" in seat.text("heads")
            await seat.press("w", "question_mark")
            assert "sort by PRESSURE" in seat.text("text")
            await seat.press("q")
            assert "\n" not in seat.text("heads")
            await seat.press("q")
            assert not seat.app.is_running

    screen(scene)


def test_ctrl_c_ends_it_with_130_wherever_it_is_pressed() -> None:
    async def scene() -> None:
        async with seated(vm_view()) as seat:
            await seat.press("slash", "ctrl+c")
            assert (seat.app.is_running, seat.app.return_code) == (False, 130)

    screen(scene)


def test_the_command_ends_with_the_exit_code_of_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupt(pilot: Pilot[object]) -> None:
        await pilot.press("ctrl+c")

    run = App.run
    monkeypatch.setattr(App, "run", lambda app: run(app, headless=True, auto_pilot=interrupt))
    monkeypatch.setattr("dynmem.cli.top.is_terminal", lambda: True)
    monkeypatch.setattr("dynmem.cli.top.ask", lambda *_: reply(vm_view()))
    with pytest.raises(SystemExit) as ended:
        main(["top"])
    assert ended.value.code == 130


def test_a_look_that_comes_when_the_screen_is_taken_down_is_left_out() -> None:
    async def scene() -> None:
        async with seated(vm_view()) as seat:
            app = seat.app
        assert isinstance(app, _Top)
        app.on__looked(_Looked(Seen(status(vm_view()), [])))
        assert app.table.count == 1

    screen(scene)


def test_looks_are_shown_as_they_come_and_not_while_paused() -> None:
    async def scene() -> None:
        async with seated(vm_view(0), vm_view(1), period_s=PERIOD_S) as seat:
            seat.now = status(vm_view(0, actual_bytes=GIB), vm_view(1))
            await seat.until(lambda: "1G" in "".join(seat.lines()))
            await seat.press("space")
            assert seat.text("keys").startswith("PAUSED")
            seat.now = status(vm_view(7))
            await seat.looks_again()
            assert seat.names() == ["vm1", "vm0"]
            await seat.press("space")
            await seat.until(lambda: seat.names() == ["vm7"])

    screen(scene)


def test_an_explanation_that_is_open_stays_true() -> None:
    async def scene() -> None:
        async with seated(vm_view(), period_s=PERIOD_S, size=(120, 50)) as seat:
            await seat.press("e")
            seat.now = status(vm_view(demand_bytes=77 * MIB))
            await seat.until(lambda: "uses 77 MiB" in seat.text("text"))
            seat.now = status(vm_view(1))
            await seat.until(lambda: "vm0 is no longer among the VMs" in seat.text("text"))

    screen(scene)


def test_a_long_reason_is_wrapped_and_not_cut() -> None:
    async def scene() -> None:
        words = [f"word{number}" for number in range(60)]
        async with seated(vm_view(reason=" ".join(words)), size=(80, 60)) as seat:
            await seat.press("e")
            assert [word for word in seat.text("text").split() if word.startswith("word")] == words

    screen(scene)


def test_a_manager_that_is_lost_is_shown_and_found_again(tmp_path: Path) -> None:
    async def scene() -> None:
        path = tmp_path / "api.sock"

        def look() -> StatusReply:
            return status_of(ask(path, {"command": "status"}))

        with listening(path, reply(vm_view())) as double:
            seat = Seat(look())
            seat.app = live_table(look, explained, seat.now, PERIOD_S)
            async with seat.app.run_test(size=(160, 24)) as seat.pilot:
                await seat.until(lambda: double.asked >= 3)
                await asyncio.to_thread(double.close)
                await seat.until(lambda: "LOST: no manager is running" in seat.text("alarms"))
                assert seat.names() == ["vm0"]
                assert seat.rows.is_lost
                again = StatusDouble(path, reply(vm_view(5)))
                await seat.until(lambda: seat.names() == ["vm5"])
                assert "LOST" not in seat.text("alarms")
                assert not seat.rows.is_lost
            await asyncio.to_thread(again.close)

    screen(scene)


def test_of_200_vms_only_the_line_that_changed_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        vms = [vm_view(number) for number in range(200)]
        async with seated(*vms, period_s=PERIOD_S) as seat:
            await seat.press("n")
            drawn: list[object] = []
            monkeypatch.setattr(_Rows, "refresh_line", lambda _, y: drawn.append(y))
            monkeypatch.setattr(_Rows, "refresh", lambda *_, **__: drawn.append("all"))
            await seat.looks_again()
            assert drawn == []
            place = [row.name for row in seat.rows.table.lines].index("vm10")
            assert place < seat.rows.size.height
            seat.now = status(*[*vms[:10], vm_view(10, resident_bytes=MIB), *vms[11:]])
            await seat.until(lambda: drawn)
            await seat.looks_again()
            assert drawn == [place]

    screen(scene)


def test_a_line_that_is_out_of_sight_is_not_drawn_and_one_that_comes_into_sight_is_true() -> None:
    async def scene() -> None:
        vms = [vm_view(number) for number in range(300)]
        async with seated(*vms, period_s=PERIOD_S) as seat:
            made: list[int] = []
            real = _Rows.render_line

            def counted(rows: _Rows, y: int) -> Strip:
                made.append(y)
                return real(rows, y)

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(_Rows, "render_line", counted)
                seat.now = status(vm_view(0, resident_bytes=GIB), *vms[1:])
                await seat.looks_again()
                assert made == []
            await seat.press("end")
            assert seat.cursor() == "vm0"
            assert "1G" in seat.lines()[-1]

    screen(scene)


def test_neither_names_nor_reasons_are_markup_or_control_the_terminal() -> None:
    async def scene() -> None:
        evil = "[bold red]x[/] \x1b]0;title\x07 [@click=app.quit]end[/]"
        vm = vm_view(name="a[red]\x1b[2J", reason=evil, problem=evil, run_state=evil)
        async with seated(vm, size=(160, 50)) as seat:
            assert seat.names() == ["a[red]?[2J"]
            await seat.press("enter")
            text = seat.text("text")
            assert "why: [bold red]x[/] ?]0;title? [@click=app.quit]end[/]" in text
            for line in [*text.split("\n"), *seat.lines()]:
                assert line.isprintable()

    screen(scene)


def test_no_line_of_the_screen_takes_text_for_markup() -> None:
    async def scene() -> None:
        async with seated(vm_view()) as seat:
            await seat.press("question_mark")
            every = [*seat.app.screen_stack[0].query(Static), *seat.app.screen.query(Static)]
            assert len(every) == 5
            assert str(Static("[red]x[/]").visual) == "x"  # what any of them would show otherwise
            for static in every:
                static.update("[red]x[/]")
                await seat.pilot.pause()
                assert "[red]x[/]" in static.render_line(0).text

    screen(scene)

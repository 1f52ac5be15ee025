"""`dynmem top -b`: CSV of a manager or a double, of one that is lost, and into a pipe that is closed."""

import asyncio
import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.rigs.managers import ObedientVm, cli, configured, managing
from tests.rigs.monitored import listening as listening_vm
from tests.rigs.status_double import AT, listening, reply, vm_view

from dynmem.cli import main
from dynmem.errors import DeadlineError, UnreachableError
from dynmem.manager.api.client import status_of
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.step.view import VmView
from dynmem.top.batch import COLUMNS, write
from dynmem.units import MIB

DYNMEM = (sys.executable, "-c", "from dynmem.cli import main; main()")


class Clock:
    """A clock that goes on only while it is waited for, or a look takes time."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.waits.append(round(seconds, 3))
        self.now_s += seconds


def written(
    *looks: StatusReply | Exception, period_s: float | None = 1.0, takes_s: tuple[float, ...] = ()
) -> tuple[list[list[str]], int, list[str], Clock]:
    """Write these looks: the rows, how many were lost, the notes, and the clock."""
    clock, notes, out = Clock(), list[str](), io.StringIO()
    coming, slow = iter(looks), iter(takes_s)

    def ask() -> StatusReply:
        clock.now_s += next(slow, 0.0)
        found = next(coming)
        if isinstance(found, Exception):
            raise found
        return found

    lost = write(
        ask, out, count=len(looks), period_s=period_s, note=notes.append, wait=clock.wait, clock=clock
    )
    return list(csv.reader(io.StringIO(out.getvalue()))), lost, notes, clock


def status(*vms: VmView) -> StatusReply:
    return status_of(reply(*vms))


def test_each_look_is_a_row_for_each_vm_below_a_header_with_units() -> None:
    two = status(vm_view(0), vm_view(1, name="db"))
    rows, lost, _, clock = written(two, two, two)
    assert rows[0] == ["at", *(name for name, _ in COLUMNS)]
    assert [row[:2] for row in rows[1:]] == [[AT, "vm0"], [AT, "db"]] * 3
    first = dict(zip(rows[0], rows[1], strict=True))
    assert first["demand_bytes"] == str(300 * MIB)
    assert first["at_hand_bytes"] == str(212 * MIB)
    assert (first["pressure_ratio"], first["last_change_at"]) == ("0.5859", AT)
    assert (lost, clock.waits) == (0, [1.0, 1.0])


def test_every_figure_has_its_unit_in_its_name_and_bytes_are_fields_of_the_status() -> None:
    own = {"at_hand_bytes", "last_change_bytes"}
    for name, cell in COLUMNS:
        value = cell(vm_view())
        if isinstance(value, int | float):
            assert name.endswith(("_bytes", "_ratio"))
            assert name in own or not name.endswith("_bytes") or name in VmView.__struct_fields__


def test_what_is_not_known_is_empty() -> None:
    unknown = vm_view(demand_bytes=None, resident_bytes=None, last_change=None, standing=None)
    rows, *_ = written(status(unknown))
    row = dict(zip(rows[0], rows[1], strict=True))
    empty = {"standing", "demand_bytes", "resident_bytes", "at_hand_bytes", "pressure_ratio"}
    assert {name for name, cell in row.items() if not cell} == empty | {"last_change_at", "last_change_bytes"}


def test_without_a_delay_the_managers_own_period_is_used() -> None:
    *_, clock = written(status(), status(), period_s=None)
    assert clock.waits == [1.0]


def test_a_look_that_takes_long_delays_the_next_one_and_adds_none() -> None:
    *_, clock = written(*[status()] * 4, takes_s=(0.0, 2.5))
    assert (clock.waits, clock.now_s) == ([1.0, 0.0, 1.0], 4.5)


def test_a_lost_manager_has_no_rows_until_it_replies_again() -> None:
    one = status(vm_view())
    rows, lost, notes, clock = written(one, UnreachableError("it is gone"), DeadlineError("it hangs"), one)
    assert (len(rows), lost, notes) == (1 + 2, 2, ["it is gone", "it hangs"])
    assert clock.waits == [1.0] * 3


def test_texts_can_neither_break_a_row_nor_be_a_formula() -> None:
    rows, *_ = written(status(vm_view(name="a\n\x1b[2J,b", run_state='=cmd|"x"!A1')))
    assert len(rows) == 2
    assert rows[1][1:3] == ["a??[2J,b", '\'=cmd|"x"!A1']


def test_a_program_that_stops_reading_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with (
        listening(path, reply(*map(vm_view, range(50)))),
        subprocess.Popen(
            [*DYNMEM, "top", "-b", "-d", "0.1", "--socket", path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as writing,
    ):
        assert writing.stdout is not None
        assert writing.stderr is not None
        assert writing.stdout.readline().startswith(b"at,vm,")
        writing.stdout.close()
        assert writing.wait(timeout=100) == 0
        assert writing.stderr.read() == b""


def batch(path: Path, *arguments: str) -> tuple[int, list[str], str]:
    done = subprocess.run(
        [*DYNMEM, "top", "-b", "-d", "0.1", *arguments, "--socket", path],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_without_a_manager_it_ends_as_status_does(tmp_path: Path) -> None:
    code, lines, err = batch(tmp_path / "api.sock")
    assert (code, lines) == (3, [])
    assert err.startswith("dynmem: no manager is running at ")


def test_a_manager_that_is_lost_for_a_moment_is_found_again_and_the_exit_code_says_so(
    tmp_path: Path,
) -> None:
    path = tmp_path / "api.sock"
    with listening(path, reply(vm_view())) as double:
        double.lost = {2}
        code, lines, err = batch(path, "-n", "4")
    assert (code, len(lines)) == (6, 1 + 3)
    assert (
        err == f"dynmem: no row: the manager at {path} closed the connection without a reply: see its log\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-b", "-d", "soon"], "--delay: 'soon' is not a duration"),
        (["-b", "-d", "1ms"], "--delay: '1ms' is not between 100ms and 24h"),
        (["-b", "-n", "0"], "Invalid value for '-n'"),
    ],
)
def test_wrong_use_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", *arguments])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


async def _batch_beside_a_manager(folder: Path) -> tuple[tuple[int, str, str], StatusReply]:
    vm = ObedientVm()
    config = configured(folder, "observe", web="")
    async with listening_vm(folder / "web.qmp", vm.serve), managing(config) as manager:
        await manager.until(lambda status: status.vm("web").actual_bytes is not None)
        done = await cli("top", "-b", "-n", "3", "-d", "0.1", "--socket", manager.socket)
        return done, await manager.status()


def test_a_real_manager_is_written_as_its_status_has_it(tmp_path: Path) -> None:
    (code, out, err), found = asyncio.run(_batch_beside_a_manager(tmp_path))
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["vm"] for row in rows] == ["web"] * 3
    assert {row["actual_bytes"] for row in rows} == {str(found.vm("web").actual_bytes)}
    assert all(re.fullmatch(r"[0-9TZ:.-]+", row["at"]) for row in rows)
    assert len({row["at"] for row in rows}) == 3

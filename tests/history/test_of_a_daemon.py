"""The history of a running manager: what it did is what its journal has, and a full history stops nothing."""

import contextlib
from pathlib import Path

from tests.rigs.backings import mounted
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import MEBIBYTE, listening
from tests.rigs.scenes import play

from dynmem.history.file import FILE_NAME
from dynmem.history.past import Past
from dynmem.manager.journal.journal import Journal

TIGHT = "300MiB"  # two VMs of 256 MiB do not fit


def test_every_move_of_a_manager_is_in_its_history_as_in_its_journal(tmp_path: Path) -> None:
    async def scenario() -> None:
        web, db = ObedientVm(), ObedientVm()
        (tmp_path / "state").mkdir(mode=0o700)
        (tmp_path / "state" / FILE_NAME).write_text("dear diary")
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
            managing(config) as manager,
        ):
            await manager.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
            await manager.ask(command="pause", vm="web", for_ns=10**12)
            await manager.ask(command="reserve", name="new", size_bytes=1 << 40, wait_ns=1)
            await manager.sweeps(5)
            await manager.end()
            assert any("set aside as" in line for line in manager.lines)
        past = Past(tmp_path / "state")
        events = list(past.events())
        moved = [(each.vm, each.target_bytes, each.text) for each in events if each.kind == "moved"]
        journal = Journal(tmp_path / "state")
        assert moved == [(row.vm, row.target_bytes, row.reason) for row in reversed(journal.recent(100))]
        journal.close()
        kinds = [each.kind for each in events]
        assert (kinds[0], kinds[-1]) == ("started", "stopped")
        seen = sorted((each.kind, each.vm) for each in events if each.kind in ("came", "request"))
        assert seen == [("came", "db"), ("came", "web"), ("request", "web")]
        assert any("cannot be made free" in each.text for each in events if each.kind == "refused")
        rows = sum(len(piece.rows) for piece in past.pieces(0))
        assert rows >= 5
        (span,) = [past.span_ms()]
        assert span is not None
        last = past.moment(span[1])
        assert set(last.vms) == {"web", "db"}
        assert last.vms["web"].standing == "paused"
        assert last.host.mode == "enforce"

    play(scenario())


def test_on_a_disk_that_somebody_fills_the_manager_goes_on_and_every_move_is_in_its_history_in_the_end(
    tmp_path: Path,
) -> None:
    async def scenario(disk: Path) -> None:
        web, db = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", TIGHT, web="", db="")
        config.write_text(config.read_text().replace(f"{tmp_path}/state", f"{disk}/state"))
        async with (
            listening(tmp_path / "web.qmp", web.serve),
            listening(tmp_path / "db.qmp", db.serve),
            managing(config) as manager,
        ):
            await manager.until(lambda _: web.actual + db.actual <= (300 - 16) * MEBIBYTE)
            with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while filler.write(b"x" * 4096):
                    pass
            before = len(web.targets + db.targets)
            web.demand = 200 * MEBIBYTE
            await manager.until(lambda _: web.actual >= 200 * MEBIBYTE)
            assert len(web.targets + db.targets) > before
            status = await manager.status()
            assert status.manager.journal_problem is None
            # Whether the history has something to give up by now is a matter of time; if not, it says so.
            said = [line for line in manager.lines if "the VMs are served as ever" in line]
            assert len(said) <= 1
            (disk / "filler").unlink()
            await manager.end()
        kinds = [event.kind for event in Past(disk / "state").events()]
        assert kinds.count("moved") == len(web.targets + db.targets)  # what waited was written in the end
        assert kinds[-1] == "stopped"

    with mounted(tmp_path / "disk", "tmpfs", "size=16m") as disk:
        play(scenario(disk))

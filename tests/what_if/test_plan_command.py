"""``dynmem plan`` from a manager that runs, from its history when none does, and as it was at a time."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.rigs.commands import ran
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.pasts import RecordedHost, written
from tests.rigs.scenes import play

from dynmem.cli.vm_name import VM_SETTING

ROOT = Path(__file__).resolve().parent.parent.parent


def test_it_asks_the_manager_that_runs_also_on_the_socket_that_only_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = tmp_path / "public" / "status.sock"
    path = configured(tmp_path, "observe", "200MiB", web="")
    path.write_text(path.read_text().replace("[manager]", f'[manager]\nstatus_socket = "{public}"'))

    async def scenario() -> None:
        async with listening(tmp_path / "web.qmp", ObedientVm(64).serve), managing(path) as manager:
            await manager.until(lambda status: status.vm("web").change)

            async def planned(*options: object) -> str:
                code, out, err = await asyncio.to_thread(ran, capsys, "plan", *options)
                assert (code, err) == (0, "")
                return out

            text = await planned("--socket", manager.socket)
            assert f"from the manager at {manager.socket}; observe (nothing is sent)" in text
            assert "1. web gives " in text
            found = json.loads(await planned("--socket", public, "--budget", "1G", "--json"))
            assert found["schema_version"] == 1
            assert (found["now"]["budget_bytes"], found["tried"]["budget_bytes"]) == (200 << 20, 1 << 30)
            assert [each["vm"] for each in found["now"]["moves"]] == ["web"]
            assert found["tried"]["moves"] == []  # it fits

    play(scenario())


def test_without_a_manager_it_reads_the_history_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = RecordedHost(3, "observe", budget=600).sweeps(40)
    written(tmp_path, rows)
    where = ("--socket", tmp_path / "none.sock", "--state", tmp_path)
    code, text, _ = ran(capsys, "plan", *where)
    assert code == 0
    first = text.splitlines()[0]
    assert f"from the history in {tmp_path}/history.sqlite; the manager: no manager is running at" in first
    code, text, _ = ran(capsys, "plan", "--at", "2026-03-02T03:00:20Z", *where, "--json")
    assert code == 0
    found = json.loads(text)
    assert found["at"].startswith("2026-03-02T03:00:20")
    assert found["source"] == f"from the history in {tmp_path}/history.sqlite"
    (row,) = (each for each in rows if each.at_ms // 1000 % 60 == 20)
    firsts = [each["to_bytes"] for each in found["now"]["moves"] if each["turn"] == 1]
    assert firsts == [each.target_bytes for each in row.sample.moves]


def test_with_neither_it_says_what_is_wrong_with_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ran(capsys, "plan", "--socket", tmp_path / "none.sock", "--state", tmp_path)
    assert (code, out) == (3, "")
    assert "no manager is running" in err
    assert "and there is no history instead" in err


@pytest.mark.parametrize("sample", [7, {"vms": 7}, {"host": {}, "vms": {}, "moves": [], "now_ns": "now"}])
def test_a_manager_of_another_version_is_no_reason_to_fail_otherwise(
    sample: object, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynmem.cli.plan.ask", lambda *_: {"at": "2026-03-02T03:00:00Z", "sample": sample})
    code, out, err = ran(capsys, "plan", "--state", tmp_path)
    assert (code, out) == (3, "")
    assert "is of another version" in err


def test_settings_of_vms_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    monkeypatch.setattr("dynmem.manager.api.client.ask", lambda *_, **__: {"vms": [{"name": "web"}]})
    context, option = click.Context(click.Command("plan")), click.Option(["--set"])
    offered = [each.value for each in VM_SETTING.shell_complete(context, option, "web.m")]
    assert offered == ["web.maximum=", "web.minimum="]


def test_the_page_of_the_fields_is_what_the_classes_say() -> None:
    command = [sys.executable, "-m", "scripts.what_if", "--print"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert made == (ROOT / "docs" / "simulate-fields.md").read_text(), "run python -m scripts.what_if"

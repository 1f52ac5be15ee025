"""`dynmem duplicates` as a command: what it prints, how it ends, and what it says when it cannot read."""

import io
import json
import os
import socket
import sys
from pathlib import Path

import pytest
from tests.rigs.ram_holder import file_of, holder

from dynmem.cli import main
from dynmem.cli.duplicates_text import rendered
from dynmem.discovery import processes
from dynmem.duplicates import vms
from dynmem.duplicates.report import Report

WEB = {0: 0, 1: 7, 2: 7}
DB = {9: 7}


def dynmem(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["duplicates", *arguments])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return int(ended.value.code), shown.out, shown.err


def test_two_vms_of_one_account_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    with file_of(WEB) as one, file_of(DB) as two, holder(one) as web, holder(two) as db:
        code, out, err = dynmem(capsys, f"web={web.pid}", f"db={db.pid}", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert report["schema_version"] == 1
    (account,) = report["accounts"]
    assert (account["name"], account["vms"]) == ("default", ["web", "db"])
    assert (account["zero_bytes"], account["equal_bytes"], account["sharing_bytes"]) == (4096, 12288, 12288)
    assert [vm["across_bytes"] for vm in report["vms"]] == [8192, 4096]


def test_accounts_are_never_compared(capsys: pytest.CaptureFixture[str]) -> None:
    with file_of(WEB) as one, file_of(DB) as two, holder(one) as web, holder(two) as db:
        code, out, _ = dynmem(
            capsys, f"web={web.pid}", f"db={db.pid}", "--account", "anna=web", "--account", "ben=db", "--json"
        )
    report = json.loads(out)
    assert code == 0
    assert [account["name"] for account in report["accounts"]] == ["anna", "ben"]
    assert [vm["across_bytes"] for vm in report["vms"]] == [0, 0]
    assert [vm["equal_bytes"] for vm in report["vms"]] == [8192, 0]


def test_the_table_says_what_ksm_and_a_balloon_can_do_and_that_sharing_leaks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with file_of(WEB) as one, file_of(DB) as two, holder(one) as web, holder(two) as db:
        code, out, err = dynmem(capsys, f"web={web.pid}", f"db={db.pid}")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "account default"
    assert lines[2].split()[:3] == ["web", "16", "MiB"]
    assert lines[4].split()[0] == "sum"
    assert "KSM merges private memory only" in out
    assert "docs/duplicates.md" in out


class Terminal(io.StringIO):
    """Standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_bar_shows_the_progress_on_a_terminal_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    with file_of(WEB) as one, holder(one) as web:
        assert dynmem(capsys, f"web={web.pid}")[2] == ""
        monkeypatch.setattr(sys, "stderr", terminal)
        dynmem(capsys, f"web={web.pid}")
    assert "reading" in terminal.getvalue()
    assert "100%" in terminal.getvalue()


def test_prose_is_broken_at_the_width_of_the_terminal() -> None:
    empty = Report(rate_bytes_per_s=None, seconds=0.0, accounts=(), vms=(), notes=(), problems=())
    assert max(map(len, rendered(empty, 60).splitlines())) <= 60


def test_all_finds_vms_by_their_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with file_of(WEB) as one, holder(one) as web:
        lines = {web.pid: ["qemu-system-x86_64", "-name", "guest=web"]}
        for module in (vms, processes):
            monkeypatch.setattr(module, "command_line", lambda pid, *_: lines.get(pid, []))
        code, out, _ = dynmem(capsys, "--all", "--json")
    assert code == 0
    assert [(vm["name"], vm["pid"]) for vm in json.loads(out)["vms"]] == [("web", web.pid)]


def test_vms_with_one_name_on_their_command_lines_are_told_apart_by_their_pids(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with file_of(WEB) as one, file_of(DB) as two, holder(one) as web, holder(two) as db:
        lines = {pid: ["qemu-system-x86_64", "-name", "web"] for pid in (web.pid, db.pid)}
        for module in (vms, processes):
            monkeypatch.setattr(module, "command_line", lambda pid, *_: lines.get(pid, []))
        code, out, _ = dynmem(capsys, "--all", "--json")
    assert code == 0
    assert {vm["name"] for vm in json.loads(out)["vms"]} == {f"web-{web.pid}", f"web-{db.pid}"}


def test_a_vm_is_found_by_the_socket_that_its_process_listens_at(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.bind(str(tmp_path / "web.qmp"))
        monitor.listen()
        code, out, _ = dynmem(capsys, f"web={tmp_path}/web.qmp", "--json")
    assert code == 0
    assert [vm["pid"] for vm in json.loads(out)["vms"]] == [os.getpid()]


def test_a_vm_that_cannot_be_read_is_named_and_the_others_are_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with file_of(WEB) as one, holder(one) as web:
        code, out, err = dynmem(capsys, f"web={web.pid}", "gone=4194305")
    assert code == 6
    assert "web" in out
    assert err.startswith("dynmem: VM gone (pid 4194305): there is no such process")
    assert err.count("\n") == 1


def test_when_no_vm_can_be_read_each_reason_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = dynmem(capsys, "4194305", "4194306")
    assert (code, out) == (3, "")
    assert ["VM 4194305:" in err, "VM 4194306:" in err, err.count("\n")] == [True, True, 2]


def test_a_vm_that_has_ended_since_all_were_listed_is_no_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with file_of(WEB) as one, holder(one) as web:
        monkeypatch.setattr(processes, "running_vms", lambda: iter((web.pid, 4194305)))
        code, out, err = dynmem(capsys, "--all", "--json")
    assert (code, err) == (0, "")
    assert [vm["pid"] for vm in json.loads(out)["vms"]] == [web.pid]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "name the VMs, or use --all"),
        (("1", "--all"), 2, "name the VMs, or use --all"),
        (("1", "--rate", "fast"), 2, "--rate: 'fast' is not a size"),
        (("1", "--rate", "1K"), 2, "'1K' is below 1MiB, the least"),
        (("=1",), 2, "'=1' is not NAME=PID or NAME=SOCKET"),
        (("4194305",), 3, "VM 4194305: there is no such process"),
        (("/nonexistent/web.qmp",), 3, "no process is found that listens there"),
        (("SELF", "--account", "anna"), 2, "--account: 'anna' is not NAME=VM,..."),
        (("SELF", "--account", "anna=ben"), 2, "there is no VM 'ben' here: there is SELF"),
        (("SELF", "--account", "a=SELF", "--account", "b=SELF"), 2, "is in two accounts: a, b"),
        (("SELF", "SAME"), 2, "two VMs are called"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, words: str
) -> None:
    with file_of(WEB) as one, holder(one) as web:
        named = {"SELF": f"SELF={os.getpid()}", "SAME": f"SELF={web.pid}"}
        ended, out, err = dynmem(capsys, *(named.get(each, each) for each in arguments))
    assert (ended, out) == (code, "")
    assert err.startswith("dynmem: ")
    assert words in err
    assert err.count("\n") == 1

"""`dynmem status`, `reserve`, `release`, `run --check` as commands: quick, and clear about what is wrong."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from tests.rigs.daemon import DAEMON
from tests.rigs.obedient import ObedientHost

from dynmem.cli import main
from dynmem.cli.explain_text import explained
from dynmem.cli.status_text import rendered
from dynmem.errors import RemoteProtocolError
from dynmem.manager.api import client
from dynmem.manager.api.client import status_of
from dynmem.manager.api.messages import StatusReply, encode
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.view import ChangeView, VmView
from dynmem.units import GIB, MIB, NS_PER_S

HEAVY = ("numpy", "asyncio", "rich", "msgspec", "sqlite3", "dynmem.manager.step", "dynmem.qmp")
MODULES_MAX = 200  # 171 when this was written, of which Python itself and click are 160


def dynmem(*arguments: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", "from dynmem.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_status_imports_nothing_heavy_and_little_at_all() -> None:
    script = (
        "import sys, runpy\n"
        "sys.argv = ['dynmem', 'status', '--socket', '/nowhere']\n"
        "from dynmem.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted(sys.modules), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "dynmem.cli.status" in modules
    for heavy in HEAVY:
        assert heavy not in modules
    assert len(modules) <= MODULES_MAX


def test_a_manager_runs_without_numpy() -> None:
    script = (
        "import sys, dynmem.cli.run, dynmem.manager.loop\n"
        "from dynmem.manager.step.claims import Claims\n"
        "from dynmem.manager.step.books_view import books_view\n"
        "gmm = Claims(1000).gmm\n"
        "books_view(gmm.verify().query_statistics(), gmm.shortage(), gmm.least_pages)\n"
        "assert 'numpy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_manager_the_next_step_is_named(tmp_path: Path) -> None:
    code, out, err = dynmem("status", "--socket", tmp_path / "api.sock")
    assert (code, out) == (3, "")
    assert err.startswith(
        f"dynmem: no manager is running at {tmp_path}/api.sock (no such socket): start `dynmem run`"
    )
    assert err.count("\n") == 1


def test_a_socket_left_by_a_killed_manager_is_recognised(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "api.sock"))
    code, _, err = dynmem("status", "--socket", tmp_path / "api.sock")
    assert code == 3
    assert "the socket of one that was killed" in err


FOREIGN = "the listener is not a manager of dynmem: name the manager's socket with --socket"


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (b"hello\n", FOREIGN),
        (b"[]\n", FOREIGN),
        (b'{"QMP": {"version": {}, "capabilities": []}}\n', FOREIGN),
        (b'{"schema_version": 99, "ok": true}\n', "is of another version: restart `dynmem run`"),
        (b"[" * 9999 + b"\n", FOREIGN),
        (b"", "closed the connection without a reply"),
    ],
)
def test_something_else_on_the_socket_is_recognised(noise: bytes, words: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "api.sock"))
        server.listen()
        with subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from dynmem.cli import main; main()",
                "status",
                "--socket",
                tmp_path / "api.sock",
            ],
            stderr=subprocess.PIPE,
            text=True,
        ) as asking:
            peer, _ = server.accept()
            peer.recv(4096)
            peer.sendall(noise)
            peer.close()
            _, err = asking.communicate(timeout=100)
    assert asking.returncode == (1 if noise else 3)
    assert err.startswith("dynmem: ")
    assert words in err
    assert err.count("\n") == 1


WRONG_USE: dict[str, tuple[list[str], str]] = {
    "no size": (["reserve", "much"], "SIZE: 'much' is not a size"),
    "no duration": (["reserve", "1G", "--wait", "soon"], "--wait: 'soon' is not a duration"),
    "a wait without end": (
        ["reserve", "1G", "--wait", "999999999999h"],
        "--wait: '999999999999h' is above 24h",
    ),
    "a hold without end": (["reserve", "1G", "--hold", "25h"], "--hold: '25h' is above 24h, the limit"),
    "neither one nor all": (["release"], "name one VM, or use --all"),
    "both one and all": (["release", "web", "--all"], "name one VM, or use --all"),
    "an unknown option": (["status", "--jsn"], "No such option"),
    "no such file": (["run", "--config", "/nowhere/hosts.toml"], "/nowhere/hosts.toml: cannot be read"),
}


@pytest.mark.parametrize("case", WRONG_USE)
def test_wrong_use_is_named_and_ends_with_2(case: str) -> None:
    arguments, words = WRONG_USE[case]
    result = CliRunner().invoke(_MAIN, arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("command", ["run", "status", "reserve", "release"])
def test_help_shows_examples_as_they_are_typed(command: str) -> None:
    result = CliRunner().invoke(_MAIN, [command, "--help"])
    assert result.exit_code == 0
    assert any(line.startswith(f"    dynmem {command}") for line in result.output.splitlines())


class _Main:
    """`main` in the form that click's runner calls."""

    name = "dynmem"

    def main(self, args: list[str], prog_name: str, **_: Any) -> None:
        del prog_name
        main(args)


_MAIN: Any = _Main()


def test_check_says_what_a_configuration_means(tmp_path: Path) -> None:
    path = tmp_path / "hosts.toml"
    path.write_text(
        '[host]\nbudget = "2GiB"\n[[vm]]\nname = "web"\nqmp = "/run/web.qmp"\n'
        'minimum = "512M"\nmaximum = "1G"\n'
    )
    code, out, err = dynmem("run", "--config", path, "--check")
    assert (code, err) == (0, "")
    assert "mode observe" in out
    assert (
        "vm web: 512 MiB to 1 GiB, buffer 20 %, weight 5000, priority normal, monitor /run/web.qmp (own)"
        in out
    )
    path.write_text(path.read_text().replace("512M", "4G"))
    code, out, err = dynmem("run", "--config", path, "--check")
    assert (code, out) == (2, "")
    assert err == (
        f"dynmem: {path}: vm 'web'.minimum: 4 GiB is above its maximum of 1 GiB: swap or correct them\n"
    )


def answer(**changes: object) -> dict[str, Any]:
    """Return the reply to `status` as the manager sends it, the fields of its VM changed."""
    vm = VmView(
        name="web",
        minimum_bytes=64 * MIB,
        maximum_bytes=GIB,
        there=True,
        released=False,
        run_state="running",
        demand_bytes=300 * MIB,
        wanted_bytes=360 * MIB,
        planned_bytes=400 * MIB,
        assigned_bytes=512 * MIB,
        actual_bytes=512 * MIB,
        resident_bytes=411 * MIB,
        resident_source="blocks of its RAM files",
        demand_source="committed - ballooned",
        reason="demand 300 MiB + 20 %",
        standing="movable",
    )
    rack = ObedientHost(ManagerSettings(8 * GIB, 256 * MIB, NS_PER_S), [], {}, available_bytes=20 * GIB)
    rack.sweep()
    view = msgspec.structs.replace(rack.manager.status(), vms=(msgspec.structs.replace(vm, **changes),))
    reply = encode(StatusReply(**msgspec.structs.asdict(view), manager=DAEMON))
    decoded: dict[str, Any] = json.loads(reply)
    return decoded


def shown(**changes: object) -> str:
    return rendered(status_of(answer(**changes)))


def test_a_status_shows_every_figure_its_source_and_the_reason() -> None:
    text = shown()
    for word in (
        "observe (nothing is sent); a sweep every 1 s, the last 0.2 s ago",
        "budget 8 GiB, slush 256 MiB, ready 0 B, MemAvailable 20 GiB",
    ):
        assert word in text
    assert "free: 7.75 GiB measured free by the budget" in text
    titles, row = (line for line in text.splitlines() if line.startswith(("VM", "web ")))
    names = [
        "VM",
        "STATE",
        "PRIORITY",
        "MINIMUM",
        "MAXIMUM",
        "DEMAND",
        "PLAN",
        "TARGET",
        "ACTUAL",
        "RESIDENT",
    ]
    assert titles.split() == names
    assert row.split() == ["web", "running", "normal", "64M", "1G", "300M", "400M", "512M", "512M", "411M"]
    assert "the whole arithmetic: dynmem explain web" in text


def test_what_is_known_of_several_vms_is_summed_up() -> None:
    reply = answer()
    other = {**reply["vms"][0], "name": "db", "resident_bytes": None, "maximum_bytes": 512 * MIB}
    reply["vms"].append(other)
    (row,) = (line for line in rendered(status_of(reply)).splitlines() if line.startswith("sum"))
    assert row.split() == ["sum", "128M", "1.5G", "600M", "800M", "1G", "1G", "411M"]


def test_prose_is_broken_to_the_width_of_a_terminal_and_left_whole_for_a_program() -> None:
    long = "its monitor does not reply and has not for long " * 6
    reply = status_of(answer(problem=long.strip()))
    assert max(len(line) for line in rendered(reply).splitlines()) > 200
    lines = rendered(reply, 80).splitlines()
    assert max(len(line) for line in lines) <= 80
    begin = next(number for number, line in enumerate(lines) if line.startswith("    its monitor"))
    assert lines[begin + 1].startswith("      ")
    assert "".join(lines).replace(" ", "") == rendered(reply).replace("\n", "").replace(" ", "")


def test_a_decision_that_is_not_sent_is_marked() -> None:
    reason = "would shrink to 360 MiB: everything fits; demand 300 MiB + 20 %"
    change = ChangeView(target_bytes=360 * MIB, reason=reason, measurement="", sent=False)
    assert "    would shrink to 360 MiB (not sent)\n" in shown(change=change)
    assert "everything fits" not in shown(change=change)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "uses 300 MiB, has 512 MiB: 112 MiB of it others may have"),
        ({"planned_bytes": GIB}, "uses 300 MiB, has 512 MiB: nobody else needs the rest"),
        ({"actual_bytes": 350 * MIB}, "uses 300 MiB, has 350 MiB: 50 MiB at hand"),
        (
            {"expected_bytes": 9 * MIB, "actual_bytes": 350 * MIB},
            "uses 300 MiB, grows, has 350 MiB: 50 MiB at hand",
        ),
        ({"short_bytes": 60 * MIB}, "uses 300 MiB, has 512 MiB: 60 MiB short, since others hold it"),
        (
            {"standing": "frozen", "reason": "frozen: its state is paused; more"},
            "frozen: its state is paused",
        ),
        ({"there": False, "problem": "no monitor at /run/web.qmp"}, "no monitor at /run/web.qmp"),
    ],
)
def test_a_line_says_what_a_vm_uses_what_it_has_and_why(changes: dict[str, object], line: str) -> None:
    assert f"web: {line}\n" in shown(**changes)


def test_figures_that_are_not_known_are_dashes() -> None:
    text = shown(actual_bytes=None, resident_bytes=None, problem="it has no balloon device")
    (row,) = (line for line in text.splitlines() if line.startswith("web "))
    assert row.split()[-3:] == ["512M", "-", "-"]
    assert "    it has no balloon device" in text


def test_a_status_of_an_older_manager_reads_none_for_the_fields_it_lacks() -> None:
    older = answer()
    for name in ("demand_source", "change"):
        del older["vms"][0][name]
    assert "web: uses 300 MiB, has 512 MiB" in rendered(status_of(older))
    assert "not reported" in explained(status_of(older), status_of(older).vms[0])


def test_json_is_the_whole_answer(tmp_path: Path) -> None:
    whole = answer()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "api.sock"))
        server.listen()
        with subprocess.Popen(
            [sys.executable, "-c", "from dynmem.cli import main; main()", "status", "--json"],
            env=os.environ | {"DYNMEM_SOCKET": str(tmp_path / "api.sock")},
            stdout=subprocess.PIPE,
            text=True,
        ) as asking:
            peer, _ = server.accept()
            assert json.loads(peer.recv(4096)) == {"command": "status"}
            peer.sendall(json.dumps(whole).encode() + b"\n")
            peer.close()
            out, _ = asking.communicate(timeout=100)
    assert json.loads(out) == whole


def test_a_reply_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "API_REPLY_BYTES_MAX", 1000)
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def reply() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"x" * 1001)
                peer.recv(4096)  # the request
                peer.recv(1)  # until the client has left

        replying = threading.Thread(target=reply)
        replying.start()
        with pytest.raises(RemoteProtocolError, match="a reply above 1000 bytes"):
            client.ask(path, {"command": "status"}, timeout_s=100)
        replying.join(100)

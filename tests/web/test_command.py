"""`dynmem web` on the command line: what it says at the start, why it does not start, and how it ends."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.rigs.scenes import plays

from dynmem.cli import main
from dynmem.manager.address import Address
from dynmem.web.seldom import A_MINUTE, Seldom
from dynmem.web.serve import listening

DYNMEM = (sys.executable, "-c", "from dynmem.cli import main; main()")


@plays
async def test_it_says_where_it_is_serves_without_a_manager_and_ends(tmp_path: Path) -> None:
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        process = await asyncio.create_subprocess_exec(
            *(*DYNMEM, "web", "--listen", "127.0.0.1:0", "--socket", tmp_path / "api.sock"),
            *("--state", tmp_path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line.startswith("the page is at http://127.0.0.1:")
        assert "(read-only)" in line
        address = line.split()[4]

        def found(address: str = address) -> object:
            with urllib.request.urlopen(f"{address}api/session") as reply:
                return json.load(reply)

        assert await asyncio.to_thread(found) == {"schema": 1, "acts": False, "may_act": False}
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://")[:-1].split(":"))
        writer.write(b"GET /api/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"event: trouble")
        os.kill(process.pid, number)
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (code, b"", b"")
        await reader.read()  # the stream has ended, too
        writer.close()


def ended(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[object, str]:
    """Run the command, which does not start: exit code and what it says."""
    with pytest.raises(SystemExit) as end:
        main(["web", *map(str, arguments)])
    return end.value.code, capsys.readouterr().err


def test_the_log_of_the_program_that_calls_it_is_left_alone(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended(capsys, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    for _ in range(200):
        logging.getLogger("dynmem.other").warning("said")
    assert caplog.text.count("said") == 200


def test_why_it_does_not_start_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, err = ended(capsys, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (code, "another program listens there" in err) == (5, True)
    code, err = ended(capsys, "--listen", "192.0.2.77:80")
    assert (code, "choose an address of this host" in err) == (2, True)
    code, err = ended(capsys, "--listen", "vmhost:80")
    assert (code, "is not an address and a port" in err) == (2, True)
    code, err = ended(capsys, "--name", "http://vmhost")
    assert (code, "leave out scheme" in err) == (2, True)
    open_to_all = tmp_path / "token"
    open_to_all.write_text("x" * 32)
    open_to_all.chmod(0o644)
    code, err = ended(capsys, "--token-file", open_to_all)
    assert (code, "others can read it" in err) == (4, True)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "dynmem.web.serve")
    code, err = ended(capsys)
    assert (code, "run `pip install dynmem[web]`" in err) == (1, True)


def test_on_another_address_than_the_loopbacks_it_says_who_can_see_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def served(settings: object, at: socket.socket, started: object) -> object:
        del settings, started
        at.close()

        async def nothing() -> int:
            return 0

        return nothing()

    monkeypatch.setattr("dynmem.web.serve.serve", served)
    assert "every host that reaches 0.0.0.0" in ended(capsys, "--listen", "0.0.0.0:0")[1]
    assert not ended(capsys, "--listen", "127.0.0.1:0")[1]


def test_what_the_kernel_keeps_for_a_client_is_bounded() -> None:
    with listening(Address("127.0.0.1", 0)) as at, socket.create_connection(at.getsockname()) as client:
        served, _ = at.accept()
        with served:
            assert served.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 512 << 10
            assert served.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_lines_that_clients_cause_are_few_and_those_left_out_are_counted() -> None:
    now = [0.0]
    seldom = Seldom(lambda: now[0])

    def lines(count: int) -> list[str]:
        records = [logging.makeLogRecord({"msg": "line %d", "args": (at,)}) for at in range(count)]
        return [record.getMessage() for record in records if seldom.filter(record)]

    assert len(lines(1000)) == A_MINUTE
    now[0] += 61
    assert lines(3) == [f"line 0 ({1000 - A_MINUTE} lines before it left out)", "line 1", "line 2"]

"""Metrics over HTTP: read-only, one rendering for all who ask at once, and nobody holds the server up."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.rigs.commands import ran
from tests.rigs.daemon import DAEMON
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.scenes import play, until

from dynmem.errors import ConfigError
from dynmem.limits import METRICS_CLIENTS_MAX, METRICS_REQUEST_BYTES_MAX
from dynmem.manager.address import Address, parse_address
from dynmem.manager.api import clients
from dynmem.manager.api.clients import Client
from dynmem.manager.api.messages import StatusReply
from dynmem.manager.api.scrapes import MetricsServer
from dynmem.manager.config import load, warnings
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import ManagerSettings
from dynmem.units import GIB, NS_PER_S

ANY_PORT = Address("127.0.0.1", 0)
ASK = b"GET /metrics HTTP/1.1\r\nHost: host\r\nAccept: */*\r\n\r\n"


def present() -> StatusReply:
    view = Manager(ManagerSettings(GIB, 0, NS_PER_S), []).status()
    return StatusReply(**msgspec.structs.asdict(view), manager=DAEMON)


class Served:
    """A server of metrics whose text is `body`; it notes how often that was rendered and what was said."""

    def __init__(self, body: bytes = b"dynmem_mode 1\n") -> None:
        self.body, self.renderings, self.lines = body, 0, list[str]()
        self.may_render = threading.Event()
        self.may_render.set()
        self.server = MetricsServer(present, self._render, "text/plain", self.lines.append)

    def _render(self, status: StatusReply) -> bytes:
        assert status.budget_bytes == GIB
        self.renderings += 1
        assert self.may_render.wait(60)
        return self.body

    @property
    def port(self) -> int:
        """Where it listens, by the last line that says so."""
        found = re.findall(r"http://127\.0\.0\.1:(\d+)/metrics", "\n".join(self.lines))
        return int(found[-1])


@contextlib.asynccontextmanager
async def serving(body: bytes = b"dynmem_mode 1\n") -> AsyncIterator[Served]:
    served = Served(body)
    await served.server.listen(ANY_PORT)
    try:
        yield served
    finally:
        served.may_render.set()
        await served.server.close()


async def exchange(port: int, sent: bytes = ASK) -> tuple[bytes, bytes]:
    """Send a request and return head and body of the reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    reply = await reader.read()
    writer.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    return head, body


def test_a_scraper_gets_the_metrics_with_their_type_and_length() -> None:
    async def scenario() -> None:
        async with serving() as served:
            head, body = await exchange(served.port)
            assert head.splitlines()[0] == b"HTTP/1.1 200 OK"
            assert b"Content-Type: text/plain" in head
            assert b"Content-Length: %d" % len(body) in head
            assert body == served.body
            head, body = await exchange(served.port, ASK.replace(b"GET", b"HEAD"))
            assert (head.splitlines()[0], body) == (b"HTTP/1.1 200 OK", b"")
            assert b"Content-Length: %d" % len(served.body) in head
            head, _ = await exchange(served.port, ASK.replace(b"/metrics", b"/metrics?name[]=a"))
            assert b"200 OK" in head

    play(scenario())


NONSENSE = {
    "another path": (b"GET / HTTP/1.1\r\n\r\n", b"404"),
    "a path above": (b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
    "a write": (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
    "another version": (b"GET /metrics HTTP/2.0\r\n\r\n", b"400"),
    "no request": (b"hello\r\n\r\n", b"400"),
    "bytes of TLS": (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
    "two lines in one": (b"GET /metrics\nHost: a HTTP/1.1\r\n\r\n", b"400"),
    "a header without end": (b"GET /metrics HTTP/1.1\r\nA: " + b"x" * 2 * METRICS_REQUEST_BYTES_MAX, b"431"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_anything_else_is_refused_in_a_sentence_and_the_next_one_is_served(case: str) -> None:
    sent, code = NONSENSE[case]

    async def scenario() -> None:
        async with serving() as served:
            head, body = await exchange(served.port, sent)
            assert head.split()[1] == code
            assert body.endswith(b"\n")
            assert served.renderings == 0
            assert (await exchange(served.port))[1] == served.body

    play(scenario())


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=2 * METRICS_REQUEST_BYTES_MAX),
        st.from_regex(
            rb"(GET|HEAD|PUT|get) [!-~]{0,20} HTTP/[0-9.]{1,3}(\r\n[ -~]{0,30}){0,5}", fullmatch=True
        ),
    )
)
def test_whatever_bytes_come_the_reply_is_one_of_http(sent: bytes) -> None:
    async def scenario() -> bytes:
        served = Served()
        reader = asyncio.StreamReader(limit=METRICS_REQUEST_BYTES_MAX)
        reader.feed_data(sent + b"\r\n\r\n")
        reader.feed_eof()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            reply = await served.server._reply(reader, Client(lambda: None, ours))
        await served.server.close()
        return reply

    reply = play(scenario())
    head, _, body = reply.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 (200 OK|4\d\d [A-Z][A-Za-z ]+)\r\n", head + b"\r\n")
    length = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
    assert len(body) in {length, 0}


def test_twenty_scrapers_at_once_share_one_rendering() -> None:
    async def scenario() -> None:
        async with serving() as served:
            served.may_render.clear()
            asking = [asyncio.create_task(exchange(served.port)) for _ in range(20)]
            await until(lambda: served.renderings == 1)
            await asyncio.sleep(0)
            served.may_render.set()
            replies = await asyncio.gather(*asking)
            assert {body for _, body in replies} == {served.body}
            assert served.renderings == 1

    play(scenario())


def test_what_was_rendered_a_while_ago_is_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with serving() as served:
            monkeypatch.setattr("dynmem.manager.api.scrapes.FRESH_S", 3600)
            for _ in range(2):
                await exchange(served.port)
            assert served.renderings == 1
            monkeypatch.setattr("dynmem.manager.api.scrapes.FRESH_S", 0)
            await exchange(served.port)
            assert served.renderings == 2

    play(scenario())


def test_a_rendering_that_failed_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # which would log it
        async with serving() as served:
            monkeypatch.setattr("dynmem.manager.api.scrapes.FRESH_S", 3600)
            with monkeypatch.context() as patched:
                patched.setattr(served, "body", None)  # of which no reply can be made
                assert await exchange(served.port) == (b"", b"")
            assert (await exchange(served.port))[1] == served.body

    play(scenario())


def test_scrapers_that_send_nothing_lock_nobody_out() -> None:
    async def scenario() -> None:
        async with serving() as served:
            idle = [
                await asyncio.open_connection("127.0.0.1", served.port) for _ in range(METRICS_CLIENTS_MAX)
            ]
            assert (await exchange(served.port))[1] == served.body
            (first, _), *_ = idle
            assert await first.read() == b""  # it was waited for longest
            for _, writer in idle:
                writer.close()

    play(scenario())


def test_scrapers_beyond_the_limit_are_refused() -> None:
    async def scenario() -> None:
        async with serving() as served:
            served.may_render.clear()
            waiting = [asyncio.create_task(exchange(served.port)) for _ in range(METRICS_CLIENTS_MAX)]
            heard = served.server._clients
            await until(lambda: len(heard._clients) == METRICS_CLIENTS_MAX and not heard._waited_for)
            head, body = await exchange(served.port)
            assert head.split()[1] == b"503"
            assert b"32 clients" in body
            served.may_render.set()
            assert all(body == served.body for _, body in await asyncio.gather(*waiting))

    play(scenario())


def test_a_scraper_that_does_not_read_is_dropped_and_its_reply_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "REPLY_TIMEOUT_S", 0.1)

    async def scenario() -> None:
        async with serving(b"x" * (16 << 20)) as served:
            with socket.create_connection(("127.0.0.1", served.port)) as slow:
                slow.setblocking(False)
                slow.sendall(ASK)
                await until(lambda: served.renderings == 1)
                everyone = served.server._clients
                await until(lambda: not everyone._clients)
            monkeypatch.undo()
            assert len((await exchange(served.port))[1]) == len(served.body)  # the next one is served

    play(scenario())


def test_scrapers_that_do_not_read_lock_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "REPLY_TIMEOUT_S", 1000.0)
    monkeypatch.setattr("dynmem.manager.api.scrapes.METRICS_CLIENTS_MAX", 2)

    async def scenario() -> None:
        async with serving(b"x" * (16 << 20)) as served, contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                slow = stack.enter_context(socket.create_connection(("127.0.0.1", served.port)))
                slow.sendall(ASK)
            everyone = served.server._clients
            await until(lambda: len(everyone._clients) == 2 and served.renderings)
            await until(lambda: len(everyone._waited_for) == 2)  # for them to read
            assert len((await exchange(served.port))[1]) == len(served.body)

    play(scenario())


def test_a_scraper_that_sends_more_than_a_request_has_its_reply_all_the_same() -> None:
    async def scenario() -> None:
        async with serving(b"x" * (4 << 20)) as served:
            assert len((await exchange(served.port, ASK + b"x" * 500_000))[1]) == len(served.body)

    play(scenario())


def test_an_address_that_cannot_be_had_is_named_and_tried_again() -> None:
    async def scenario() -> None:
        served = Served()
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = Address(*other.getsockname())
            await served.server.listen(taken)
            (line,) = served.lines
            assert line.startswith(f"manager.metrics: cannot listen on {taken} (Address already in use)")
        await served.server.listen(taken)
        assert (await exchange(served.port))[1] == served.body
        await served.server.listen(taken)  # it has it: nothing is said again
        assert len(served.lines) == 2
        await served.server.listen(None)
        with pytest.raises(ConnectionRefusedError):
            await exchange(taken.port)
        await served.server.close()

    play(scenario())


def test_addresses_are_numbers_and_a_port() -> None:
    for text in ("127.0.0.1:9737", "0.0.0.0:1", "[::1]:9737", "[::]:0"):
        assert str(parse_address(text)) == text
    wrong = [":9737", "localhost:9737", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", ""]
    wrong += ["::1:9737", "[::1]", "[127.0.0.1]:1", "127.0.0.1:١", "1.2.3.4:5\n", "http://[::1]:1"]
    for text in wrong:
        with pytest.raises(ValueError, match="is not an address and a port: write it like"):
            parse_address(text)


def test_the_file_says_where_metrics_are_served(tmp_path: Path) -> None:
    path = configured(tmp_path, "observe")
    assert load(path).metrics is None
    text = path.read_text()
    for address, is_open in (("127.0.0.1:9737", False), ("[::1]:9737", False), ("0.0.0.0:9737", True)):
        path.write_text(text.replace("[manager]", f'[manager]\nmetrics = "{address}"'))
        config = load(path)
        assert str(config.metrics) == address
        assert (
            any("every program that reaches that address" in each for each in warnings(config, GIB))
            == is_open
        )
    path.write_text(text.replace("[manager]", '[manager]\nmetrics = "localhost:9737"'))
    with pytest.raises(ConfigError, match=r"manager\.metrics: 'localhost:9737' is not an address"):
        load(path)


def families(text: bytes) -> set[str]:
    return {each.name for each in text_string_to_metric_families(text.decode())}


def test_a_manager_serves_its_metrics_and_a_file_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured(tmp_path, "enforce", "200MiB", web="")
    text = path.read_text()
    path.write_text(text.replace("[manager]", '[manager]\nmetrics = "127.0.0.1:0"'))

    async def scenario() -> None:
        vm = ObedientVm()
        async with listening(tmp_path / "web.qmp", vm.serve), managing(path) as manager:
            await manager.until(lambda status: status.totals and status.totals.sent)
            line = next(each for each in manager.lines if "metrics are served at" in each)
            port = int(line.rpartition(":")[2].removesuffix("/metrics"))
            _, body = await exchange(port)
            wanted = {"dynmem_vm_actual_bytes", "dynmem_decision_seconds", "dynmem_host_load_ratio"}
            assert wanted <= families(body)
            assert b'dynmem_commands_total{result="sent"} 0' not in body

            async def is_the_same() -> bool:
                """Whether the command prints what is served, unless something became known in between."""
                _, served = await exchange(port)
                code, out, err = await asyncio.to_thread(ran, capsys, "metrics", "--socket", manager.socket)
                assert (code, err) == (0, "")
                return families(out.encode()) == families(served)

            await until(is_the_same)
            prom = tmp_path / "dynmem.prom"
            for _ in range(2):
                assert await asyncio.to_thread(
                    ran, capsys, "metrics", "--textfile", prom, "--socket", manager.socket
                ) == (0, "", "")
            assert "dynmem_vm_actual_bytes{vm=" in prom.read_text()
            assert prom.stat().st_mode & 0o777 == 0o644
            assert [each for each in os.listdir(tmp_path) if "prom" in each] == ["dynmem.prom"]  # noqa: PTH208
            code, _, err = await asyncio.to_thread(
                ran, capsys, "metrics", "--textfile", tmp_path / "a.txt", "--socket", manager.socket
            )
            assert (code, "end in .prom" in err) == (2, True)
            code, _, err = await asyncio.to_thread(
                ran, capsys, "metrics", "--textfile", tmp_path / "no/a.prom", "--socket", manager.socket
            )
            assert (code, "cannot be written" in err) == (4, True)
            path.write_text(text)
            os.kill(manager.process.pid, signal.SIGHUP)
            await until(lambda: any("metrics 127.0.0.1:0 -> off" in each for each in manager.lines))
            await manager.sweeps(1)
            with pytest.raises(ConnectionRefusedError):
                await exchange(port)
        code, _, err = await asyncio.to_thread(
            ran, capsys, "metrics", "--textfile", tmp_path / "dynmem.prom", "--socket", manager.socket
        )
        assert (code, "no manager is running" in err) == (3, True)
        assert "dynmem_vm_actual_bytes{vm=" in (tmp_path / "dynmem.prom").read_text()

    play(scenario())

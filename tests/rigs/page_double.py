"""A server of the page that serves what a test says, at the addresses and by the rules of `dynmem web`.

With it a test has as many VMs, statuses and faults as it likes, as fast as it likes.
"""

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.rigs.browser import Browser
from tests.rigs.status_double import reply, vm_view

from dynmem.manager.step.view import MeasuredView, VmView
from dynmem.units import GIB, MIB
from dynmem.web.files import INDEX, page_files
from dynmem.web.guard import HEADERS

Reply = tuple[int, dict[str, Any]]


HELD, RESERVED, FREE = 5 * GIB + MIB, 256 * MIB, 2 * GIB
MEASURED = MeasuredView(
    bytes=FREE,
    deciding="host",
    text="2 GiB measured free by the host",
    budget_term_bytes=2 * GIB + 511 * MIB,
    host_term_bytes=FREE,
    mem_available_bytes=3 * GIB,
    held_bytes=HELD,
    untouched_bytes=0,
    reserved_bytes=RESERVED,
)


def status(*vms: VmView, **changes: Any) -> dict[str, Any]:
    """A status of a host with something in each part of its budget."""
    whole = {"measured_free": MEASURED, "ready_bytes": 512 * MIB} | changes
    return reply(*(vms or (vm_view(0), vm_view(1))), **whole)


def event(number: int, **changes: Any) -> dict[str, Any]:
    """A move of vm0, that many seconds ago."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - number))
    move = {"kind": "moved", "vm": "vm0", "text": "grow to 512 MiB: its guest needs it", "id": 1000 - number}
    return move | {"target_bytes": 512 * MIB, "before_bytes": 256 * MIB, "at": at} | changes


class _Server(ThreadingHTTPServer):
    """Serves each connection in a thread, and ends them all when it is closed."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._open: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        self._open.add(request)
        return request, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for request in tuple(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)
        super().server_close()  # waits for the threads

    def handle_error(self, *_: object) -> None:
        """Say nothing: a browser hangs up as it likes."""


class PageDouble:
    """What listens in place of `dynmem web`.

    Attributes:
        url: Where the page is.
        status: What the manager says; a text in its place is the sentence of why it does not reply.
        series: The columns of every plot.
        events: What happened, newest first.
        lines: The page of `dynmem explain`.
        refused: By the path of a question, the reply that it gets in place of the usual one.
        token: What lets a page act; None: nothing does.
        acts: What was done with the token: the act and what about.
        asked: The path and query of every question.
        is_open: Whether a live stream is served.
    """

    def __init__(self, status: dict[str, Any] | str) -> None:
        self.status = status
        self.series: dict[str, list[float | None]] = {}
        self.times: list[float] = []
        self.events: list[dict[str, Any]] = []
        self.lines: list[str] = []
        self.refused: dict[str, Reply] = {}
        self.token: str | None = None
        self.acts: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[str] = []
        self.is_open = True
        self._readers: set[queue.SimpleQueue[bytes | None]] = set()
        self._lock = threading.Lock()
        self._has_ended = False
        self._server = _Server(_handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def readers(self) -> int:
        """How many live streams are open."""
        return len(self._readers)

    def send(self, kind: str, value: object) -> None:
        """Send an event to every reader."""
        self._to_all(frame(kind, value))

    def show(self, status: dict[str, Any] | str) -> None:
        """Have the manager say something else from now on."""
        self.status = status
        self._to_all(self.first())

    def first(self) -> bytes:
        """What a new reader gets at once."""
        if isinstance(self.status, str):
            return frame("trouble", {"error": self.status})
        return frame("status", self.status)

    def hang_up(self) -> None:
        """End every live stream, and serve none until `is_open` again."""
        self.is_open = False
        self._to_all(None)

    def end(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._thread.join()
        with self._lock:
            self._has_ended = True
        self._to_all(None)
        self._server.server_close()

    @contextlib.contextmanager
    def reading(self) -> "Iterator[queue.SimpleQueue[bytes | None]]":
        """A queue of what one reader is sent, from a status on."""
        mine: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        mine.put(self.first())
        with self._lock:
            self._readers.add(mine)
            if self._has_ended:
                mine.put(None)
        try:
            yield mine
        finally:
            with self._lock:
                self._readers.discard(mine)

    def _to_all(self, data: bytes | None) -> None:
        with self._lock:
            for reader in self._readers:
                reader.put(data)

    def question(self, path: str, asked: dict[str, str], authorization: str) -> Reply:
        """Return the reply to a question."""
        if path in self.refused:
            return self.refused[path]
        if path == "/api/series":
            return 200, {"schema": 1, "of": asked["of"], "from_s": self.times, "series": self.series}
        if path == "/api/events":
            of = asked.get("of")
            wanted = [
                each
                for each in self.events
                if of is None or of == ("host" if each["vm"] is None else f"vm:{each['vm']}")
            ]
            limit = int(asked["limit"])
            return 200, {"schema": 1, "events": wanted[:limit], "more": len(wanted) > limit}
        if path == "/api/status" and isinstance(self.status, dict):
            return 200, self.status
        session = {"schema": 1, "acts": self.token is not None, "may_act": self._is_token(authorization)}
        found: dict[str, dict[str, Any]] = {
            "/api/explain": {"schema": 1, "lines": self.lines},
            "/api/session": session,
        }
        return (200, found[path]) if path in found else (503, {"error": f"{path}: not served"})

    def act(self, act: str, authorization: str, body: dict[str, Any]) -> Reply:
        """Return the reply to an act."""
        if not self._is_token(authorization):
            return 403, {"error": "the token is wrong"}
        self.acts.append((act, body))
        return self.refused.get(act, (200, {"schema_version": 1, "ok": True}))

    def _is_token(self, authorization: str) -> bool:
        return self.token is not None and authorization == f"Bearer {self.token}"


def frame(kind: str, value: object) -> bytes:
    """Return an event of the live stream."""
    return f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode()


def _handler(double: PageDouble) -> type[BaseHTTPRequestHandler]:
    files = page_files()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def get(self) -> None:
            path = urlsplit(self.path).path
            if path == "/api/live":
                self._live()
            elif path.startswith("/api/"):
                double.asked.append(self.path)
                asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                self._json(double.question(path, asked, self.headers.get("Authorization", "")))
            else:
                self._file(INDEX if path == "/" else path.removeprefix("/page/"))

        def post(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            authorization = self.headers.get("Authorization", "")
            self._json(double.act(self.path.removeprefix("/api/"), authorization, body))

        def _json(self, reply: Reply) -> None:
            self._send(reply[0], "application/json", json.dumps(reply[1]).encode())

        def _file(self, name: str) -> None:
            if (found := files.get(name)) is None:
                self._send(404, "text/plain", b"")
            else:
                self._send(200, found.content_type, found.content)

        def _send(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self._rules()
            self.wfile.write(body)

        def _rules(self) -> None:
            for name, value in HEADERS.items():
                self.send_header(name.decode(), value.decode())
            self.end_headers()

        def _live(self) -> None:
            if not double.is_open:
                self._json((503, {"error": "no live stream now"}))
                return
            self.close_connection = True
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self._rules()
            with double.reading() as mine, contextlib.suppress(OSError):
                while (data := mine.get()) is not None:
                    self.wfile.write(data)

        def log_message(self, *_: object, **__: object) -> None:
            """Print nothing."""

    return type("Serving", (Handler,), {"do_GET": Handler.get, "do_POST": Handler.post})


@contextlib.contextmanager
def page_double(status: dict[str, Any] | str) -> Iterator[PageDouble]:
    """A server that listens, and ends."""
    double = PageDouble(status)
    try:
        yield double
    finally:
        double.end()


def names(page: Browser) -> list[str]:
    """The VMs in the table, in its order."""
    return page.texts("#rows .name")


def choose(page: Browser, name: str) -> None:
    """Choose a VM."""
    page.run(
        "[...document.querySelectorAll('#rows .name button')]"
        ".find((each) => each.innerText === arguments[0]).click()",
        name,
    )
    page.until(lambda: page.text("#detail-head") == name)

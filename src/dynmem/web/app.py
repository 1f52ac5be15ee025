"""What is served at which address.

    /                   the page;  /page/NAME  its files
    /api/status         the manager's status
    /api/live           the same again and again, and what happens (`live`)
    /api/series         a plot of a VM or the host;  /api/events  what happened;  /api/explain  why
    /api/session        what this page may do
    /api/pause ...      what it has done, with the token (`acts`)

Every refusal is one sentence: {"error": ...}.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dynmem.errors import DynmemError, ExitCode
from dynmem.history.event import SCHEMA, Event, encoded
from dynmem.limits import WEB_BODY_BYTES_MAX, WEB_EVENTS_MAX, WEB_POINTS_MAX
from dynmem.manager.api.client import status_of
from dynmem.web.acts import ACTS, Allowance, order_of
from dynmem.web.asking import ask
from dynmem.web.files import INDEX, PageFile
from dynmem.web.guard import Guard
from dynmem.web.happened import News, last_events
from dynmem.web.live import Live, Reader
from dynmem.web.look import Look, Trouble
from dynmem.web.questions import UnknownError, about, count_of, moment_of, span_of, vm_name
from dynmem.web.readings import BusyError, NoHistoryError, Reading, Readings
from dynmem.web.series import series_of
from dynmem.web.token import is_token

_POINTS: Final = 500
_EVENTS: Final = 100
#: How long the manager may take for a status.
STATUS_S: Final = 5.0
_STATUS_OF: Final[Mapping[ExitCode, int]] = {
    ExitCode.USAGE: 400,
    ExitCode.UNREACHABLE: 503,
    ExitCode.NOT_PERMITTED: 403,
    ExitCode.REFUSED: 409,
    ExitCode.TIMED_OUT: 504,
}
_SENTENCES: Final[Mapping[int, str]] = {
    404: "there is nothing at this address",
    405: "this address takes no such request",
}
_TOO_MANY: Final = ({"error": "too many wrong tokens: try again in a minute"}, 429)
STREAM: Final = "text/event-stream"
_NO_STORE: Final = {"Cache-Control": "no-store"}


class Settings(msgspec.Struct, frozen=True):
    """What one server is for.

    Attributes:
        socket: The manager's socket.
        state: The manager's state folder, where the history is.
        token: What a request needs that changes something; None: none may.
        names: By which names the page is reached, besides addresses and localhost.
        files: The files of the page.
        explained: Returns the page about a VM of a status.
        explained_at: Returns that of a VM at a time, in milliseconds, from a history.
    """

    socket: Path
    state: Path
    token: bytes | None
    names: tuple[str, ...]
    files: dict[str, PageFile]
    explained: Callable[[Any, Any], str]
    explained_at: Callable[[Any, str, int], str]


class Site:
    """The page and its figures; `app` serves them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        status = partial(ask, settings.socket, {"command": "status"}, STATUS_S)
        self._look = Look(status)
        self._readings = Readings(settings.state)
        self._new_readings = Readings(settings.state)  # a long plot does not hold up what happens now
        self._news = News()
        self.live: Final = Live(self._look, self._happened, self._news.begin)
        self._acts = Allowance(20, 1.0)
        self._wrong = Allowance(10, 0.5)
        routes = [
            Route("/", partial(self._file, INDEX)),
            Route("/page/{name:path}", self._named_file),
            Route("/api/status", self._status),
            Route("/api/live", self._stream),
            Route("/api/series", self._series),
            Route("/api/events", self._events),
            Route("/api/explain", self._explain),
            Route("/api/session", self._session),
            *(Route(f"/api/{act}", partial(self._act, act), methods=["POST"]) for act in ACTS),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: _unserved, DynmemError: _refused}
        served = Starlette(routes=routes, exception_handlers=handlers)
        served.router.redirect_slashes = False
        self.app: Final[ASGIApp] = Guard(served, settings.names)

    def close(self) -> None:
        """End every stream, and read no more."""
        self.live.close()
        self._readings.close()
        self._new_readings.close()

    async def _happened(self) -> list[Event]:
        return await self._new_readings.read(self._news.since)

    # -- the page -------------------------------------------------------------------------------------------

    async def _named_file(self, request: Request) -> Response:
        return await self._file(str(request.path_params["name"]), request)

    async def _file(self, name: str, request: Request) -> Response:
        found = self._settings.files.get(name)
        if found is None:
            return _json({"error": "there is no such file of the page"}, 404)
        # Asked for again each time, and sent only when it has changed: there is no other version to mend.
        headers = {"Cache-Control": "no-cache", "ETag": found.etag}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=headers)
        return Response(found.content, headers={**headers, "Content-Type": found.content_type})

    # -- the manager ----------------------------------------------------------------------------------------

    async def _status(self, request: Request) -> Response:
        del request
        seen = await self._look.now()
        return _raw(seen.data, 503 if isinstance(seen, Trouble) else 200)

    async def _stream(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(headers={**_NO_STORE, "Content-Type": STREAM})
        try:
            reader = self.live.join()
        except BusyError as error:
            return _json({"error": str(error)}, 503, {"Retry-After": "10"})

        return _Stream(self.live, reader)

    # -- the history ----------------------------------------------------------------------------------------

    async def _series(self, request: Request) -> Response:
        asked = request.query_params
        of, span = asked.get("of", "host"), span_of(asked)
        name, points = about(of), count_of(asked, "points", _POINTS, WEB_POINTS_MAX)

        def read(past: Reading) -> bytes:
            _know(past, name)
            found = series_of(past, name, span.since_ms, span.until_ms, points)
            return msgspec.json.encode({"schema": SCHEMA, "of": of, **found})

        return _raw(await self._readings.read(read))

    async def _events(self, request: Request) -> Response:
        asked = request.query_params
        is_whole, span = "of" not in asked, span_of(asked)
        name = about(asked.get("of", "host"))
        limit = count_of(asked, "limit", _EVENTS, WEB_EVENTS_MAX)

        def read(past: Reading) -> bytes:
            found, more = last_events(past, name, span.since_ms, span.until_ms, limit, whole=is_whole)
            events = [msgspec.Raw(encoded(each)) for each in found]
            return msgspec.json.encode({"schema": SCHEMA, "events": events, "more": more})

        return _raw(await self._readings.read(read))

    async def _explain(self, request: Request) -> Response:
        asked = request.query_params
        name, at_ms = vm_name(asked.get("vm", "")), moment_of(asked, "at")
        text = await (self._explained(name) if at_ms is None else self._explained_at(name, at_ms))
        return _json({"schema": SCHEMA, "lines": text.splitlines()})

    async def _explained(self, name: str) -> str:
        seen = await self._look.now()
        if isinstance(seen, Trouble):
            raise NoHistoryError(seen.error)
        status = status_of(seen.status)
        vm = next((each for each in status.vms if each.name == name), None)
        if vm is None:
            raise UnknownError(f"the manager has no VM {name}")
        return self._settings.explained(status, vm)

    async def _explained_at(self, name: str, at_ms: int) -> str:
        def read(past: Reading) -> str:
            _know(past, name)
            return self._settings.explained_at(past, name, at_ms)

        return await self._readings.read(read)

    # -- acts -----------------------------------------------------------------------------------------------

    async def _session(self, request: Request) -> Response:
        token, given = self._settings.token, _authorization(request)
        may_act = token is not None and is_token(given, token)
        if token is not None and given is not None and not may_act and not self._wrong.take():
            return _json(*_TOO_MANY)
        return _json({"schema": SCHEMA, "acts": token is not None, "may_act": may_act})

    async def _act(self, act: str, request: Request) -> Response:
        token = self._settings.token
        if token is None:
            why = "this page only shows: start `dynmem web` with --token-file to act from here"
            return _json({"error": why}, 403)
        if not is_token(_authorization(request), token):
            if not self._wrong.take():
                return _json(*_TOO_MANY)
            return _json({"error": "the token is wrong"}, 403, {"WWW-Authenticate": "Bearer"})
        if not self._acts.take():
            return _json({"error": "too many requests: at most one a second"}, 429, {"Retry-After": "5"})
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _json({"error": f"{act}: the body has to be application/json"}, 415)
        order = order_of(act, await _body(request))
        asking = asyncio.ensure_future(ask(self._settings.socket, order.request, order.timeout_s))
        hang_up = asyncio.ensure_future(_hung_up(request.receive))
        try:
            await asyncio.wait((asking, hang_up), return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                return _json({"error": "withdrawn"}, 408)
            return _json(asking.result())
        finally:
            asking.cancel()  # closing its connection withdraws a reservation that waits
            hang_up.cancel()


class _Stream(Response):
    """The reply to a reader: it ends when either side does."""

    def __init__(self, live: Live, reader: Reader) -> None:
        super().__init__(headers={**_NO_STORE, "Content-Type": STREAM})
        self._live = live
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        hang_up = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait((sending, hang_up), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._live.leave(self._reader)
            sending.cancel()
            hang_up.cancel()

    async def _send(self, send: Send) -> None:
        headers = [each for each in self.raw_headers if each[0] != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for frame in self._reader.frames():
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _authorization(request: Request) -> bytes | None:
    values = [value for name, value in request.scope["headers"] if name == b"authorization"]
    return values[0] if len(values) == 1 else None


async def _body(request: Request) -> bytes:
    body = bytearray()
    with suppress(ClientDisconnect):
        async for piece in request.stream():
            body += piece
            if len(body) > WEB_BODY_BYTES_MAX:
                too_long = f"an act is at most {WEB_BODY_BYTES_MAX} bytes long"
                raise HTTPException(413, too_long, {"Connection": "close"})  # the rest is not read
    return bytes(body)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _know(past: Reading, name: str | None) -> None:
    if name is not None and name not in past.names:
        raise UnknownError(f"the history has no VM {name}")


def _raw(data: bytes, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return Response(data, status, {**_NO_STORE, **headers, "Content-Type": "application/json"})


def _json(reply: object, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return _raw(msgspec.json.encode(reply), status, headers)


async def _unserved(request: Request, error: HTTPException) -> Response:
    del request
    sentence = _SENTENCES.get(error.status_code, error.detail)
    return _json({"error": sentence}, error.status_code, error.headers or {})


async def _refused(request: Request, error: DynmemError) -> Response:
    del request
    if isinstance(error, BusyError):
        return _json({"error": str(error)}, 503, {"Retry-After": "5"})
    if isinstance(error, UnknownError):
        return _json({"error": str(error)}, 404)
    return _json({"error": str(error)}, _STATUS_OF.get(error.exit_code, 502))

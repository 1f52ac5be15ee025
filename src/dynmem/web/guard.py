"""What every request passes before anything is done for it, and the headers that every reply has.

A page of another site can have a browser send requests here, and a name of its own can lead to this address
(DNS rebinding). So the Host has to be an address, localhost or a name that the operator gave, and what a
browser says of where a request comes from has to be this page.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynmem.errors import printable, quoted
from dynmem.limits import WEB_HEAD_BYTES_MAX, WEB_TARGET_BYTES_MAX

#: Nothing but what this server has, and no code but its files.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: On every reply.
HEADERS: Final[Mapping[bytes, bytes]] = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}
_METHODS: Final = ("GET", "HEAD", "POST")
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,255})(?::[0-9]{1,5})?")
_ORIGIN: Final = re.compile(rb"https?://(.{1,300})")


class Problem(msgspec.Struct, frozen=True):
    """Why a request is refused.

    Attributes:
        status: The status of HTTP.
        error: The reason, and what to do.
    """

    status: int
    error: str


class Guard:
    """Passes on what may come in. *names*: those of the operator's, in lower case."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(names) | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [each for each in message.get("headers", ()) if each[0] not in HEADERS]
                message["headers"] = [*own, *HEADERS.items()]
            await send(message)

        problem = self._problem(scope)
        if problem is None:
            await self._app(scope, receive, with_headers)
        else:
            await refuse(problem, with_headers)

    def _problem(self, scope: Scope) -> Problem | None:
        headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
        if scope["method"] not in _METHODS:
            return Problem(405, f"{scope['method'][:16]}: only {', '.join(_METHODS)} are served")
        if len(scope["raw_path"]) + len(scope["query_string"]) > WEB_TARGET_BYTES_MAX:
            return Problem(414, f"an address has at most {WEB_TARGET_BYTES_MAX} bytes: ask for less")
        if sum(len(name) + len(value) for name, value in headers) > WEB_HEAD_BYTES_MAX:
            return Problem(431, f"the head of a request has at most {WEB_HEAD_BYTES_MAX} bytes: send less")
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or (host := self._name(hosts[0])) is None:
            return Problem(400, "a request names one host, and a port at most")
        if not self._is_ours(host):
            return Problem(
                421,
                f"this page is not served as {quoted(printable(host))}: reach it by an address or as"
                " localhost, or start `dynmem web` with --name for a name of yours",
            )
        return self._from_elsewhere(scope, headers, hosts[0])

    def _from_elsewhere(
        self, scope: Scope, headers: Sequence[tuple[bytes, bytes]], host: bytes
    ) -> Problem | None:
        """Return why not, if the browser says that another site has it ask."""
        refused = Problem(403, "another site asks for this: open the page itself")
        for origin in (value for name, value in headers if name == b"origin"):
            found = _ORIGIN.fullmatch(origin)
            name = None if found is None else self._name(found[1])
            # A proxy may have changed the Host, but not the name by which it is known.
            is_known = name is not None and name in self._names - {"localhost"}
            if found is None or (found[1].lower() != host.lower() and not is_known):
                return refused
        said = {name: value for name, value in headers if name.startswith(b"sec-fetch-")}
        site, mode = said.get(b"sec-fetch-site", b"none"), said.get(b"sec-fetch-mode", b"")
        is_link = mode == b"navigate" and scope["method"] == "GET" and scope["path"] == "/"
        return refused if site in (b"cross-site", b"same-site") and not is_link else None

    def _name(self, host: bytes) -> str | None:
        """Return the name or address of a host without its port; None: it is none."""
        found = _HOST.fullmatch(host)
        return None if found is None else found[1].decode().strip("[]").rstrip(".").lower()

    def _is_ours(self, host: str) -> bool:
        if host in self._names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True


async def refuse(problem: Problem, send: Send) -> None:
    """Send the reply to a request that is not served."""
    body = msgspec.json.encode({"error": problem.error})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]
    if problem.status == 405:
        headers.append((b"allow", ", ".join(_METHODS).encode()))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""Acting from the page: with the token and no other way, at a bounded rate, in the manager's own words."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.scenes import play, plays, until
from tests.rigs.webs import TOKEN, serving

from dynmem.errors import ConfigError, DynmemError, NotPermittedError
from dynmem.web import acts, app
from dynmem.web.acts import ACTS, Allowance, order_of
from dynmem.web.token import is_token, read_token

Patch = pytest.MonkeyPatch
ACT = TOKEN.encode()


class Secretary:
    """What listens in place of a manager, and takes down what it is asked.

    Attributes:
        asked: The requests.
        waits: Whether it replies only when the client has gone.
        left: How many clients went without a reply.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.waits = False
        self.left = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        self.asked.append(json.loads(await reader.readline()))
        if self.waits:
            await reader.read()
            self.left += 1
        else:
            writer.write(b'{"schema_version": 1, "ok": true, "done": true}\n')
        writer.close()


@contextlib.asynccontextmanager
async def secretary(path: Path) -> AsyncIterator[Secretary]:
    """Listen for as long as the block lasts."""
    made = Secretary()
    server = await asyncio.start_unix_server(made.serve, path)
    yield made
    server.close()


BODIES: dict[str, dict[str, Any]] = {
    "pause": {"vm": "web", "for_s": 1.5},
    "resume": {"vm": "web"},
    "release": {"vm": "web"},
    "take-up": {"vm": "web"},
    "reserve": {"bytes": 1 << 30, "wait_s": 2},
}


@plays
async def test_without_a_token_nothing_is_asked_of_the_manager(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with secretary(path) as manager:
        async with serving(tmp_path, socket=path) as web:
            for act, body in BODIES.items():
                refused = await web.act(act, **body)
                assert refused.status == 403
                assert "--token-file" in refused.json["error"]
            assert (await web.ask("/api/session")).json == {"schema": 1, "acts": False, "may_act": False}
        async with serving(tmp_path, socket=path, token=ACT) as web:
            for wrong in ("", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é" * 16):
                assert (await web.act("release", wrong, vm="web")).status == 403
            for headers in ({}, {"Authorization": f"Basic {TOKEN}"}, {"Cookie": f"token={TOKEN}"}):
                assert (await web.ask("/api/release", "POST", {"vm": "web"}, headers)).status == 403
            session = await web.ask("/api/session", headers={"Authorization": f"Bearer {TOKEN}x"})
            assert session.json == {"schema": 1, "acts": True, "may_act": False}
        assert manager.asked == []


@plays
async def test_with_it_each_act_is_the_managers_own_request_and_names_the_page(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with secretary(path) as manager, serving(tmp_path, socket=path, token=ACT) as web:
        assert set(BODIES) == set(ACTS)
        for act, body in BODIES.items():
            done = await web.act(act, **body)
            assert (done.status, done.json["done"]) == (200, True)
        assert manager.asked == [
            {"command": "pause", "vm": "web", "for_ns": 1_500_000_000, "by": "web page"},
            {"command": "resume", "vm": "web", "by": "web page"},
            {"command": "release", "vm": "web", "by": "web page"},
            {"command": "take-up", "vm": "web", "by": "web page"},
            {
                "command": "reserve",
                "name": "web-page",
                "size_bytes": 1 << 30,
                "wait_ns": 2_000_000_000,
                "hold_ns": 60_000_000_000,
                "by": "web page",
            },
        ]
        session = await web.ask("/api/session", headers={"Authorization": f"bearer {TOKEN}"})
        assert session.json == {"schema": 1, "acts": True, "may_act": True}


@plays
async def test_another_site_cannot_act_even_with_the_token_and_a_form_has_no_type_that_is_taken(
    tmp_path: Path,
) -> None:
    path = tmp_path / "api.sock"
    async with secretary(path) as manager, serving(tmp_path, socket=path, token=ACT) as web:
        allowed = {"Authorization": f"Bearer {TOKEN}"}
        for more, status in (
            ({"Origin": "http://evil.example"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Host": "evil.example"}, 421),
            ({"Content-Type": "text/plain"}, 415),
            ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ):
            reply = await web.ask("/api/release", "POST", {"vm": "web"}, allowed | more)
            assert (more, reply.status) == (more, status)
        assert manager.asked == []


def test_acts_and_wrong_tokens_are_bounded_and_wrong_ones_keep_nobody_from_acting(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        path = tmp_path / "api.sock"
        clock = [0.0]
        monkeypatch.setattr(Allowance.__init__, "__defaults__", (lambda: clock[0],))
        async with secretary(path) as manager, serving(tmp_path, socket=path, token=ACT) as web:
            wrong = [(await web.act("release", "x" * 16, vm="web")).status for _ in range(12)]
            assert wrong == [403] * 10 + [429] * 2
            for token, status in (("x" * 16, 429), (TOKEN, 200)):  # nor can it be guessed there
                bearer = {"Authorization": f"Bearer {token}"}
                assert (await web.ask("/api/session", headers=bearer)).status == status
            assert (await web.ask("/api/session")).status == 200
            acted = [(await web.act("release", vm="web")).status for _ in range(22)]
            assert acted == [200] * 20 + [429] * 2
            clock[0] += 3.0
            assert [(await web.act("release", vm="web")).status for _ in range(4)] == [200] * 3 + [429]
            assert len(manager.asked) == 23

    play(scene())


def test_without_the_rate_or_the_length_of_a_body_each_act_would_be_carried_out(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    async def scene() -> None:
        path = tmp_path / "api.sock"
        monkeypatch.setattr(Allowance, "take", lambda _: True)
        async with secretary(path) as manager, serving(tmp_path, socket=path, token=ACT) as web:
            assert {(await web.act("release", vm="web")).status for _ in range(22)} == {200}
            assert {(await web.act("release", "x" * 16, vm="web")).status for _ in range(12)} == {403}
            long = "a" * 5000
            assert (await web.act("release", vm=long)).status == 413
            monkeypatch.setattr(app, "WEB_BODY_BYTES_MAX", 1 << 20)
            assert (await web.act("release", vm=long)).status == 200
            assert manager.asked[-1]["vm"] == long

    play(scene())


@plays
async def test_a_browser_that_leaves_withdraws_what_it_waits_for(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with secretary(path) as manager, serving(tmp_path, socket=path, token=ACT) as web:
        manager.waits = True
        acting = asyncio.create_task(web.act("reserve", bytes=1, wait_s=3600))
        await until(lambda: manager.asked)
        assert not manager.left
        acting.cancel()
        await until(lambda: manager.left)


WRONG = (
    ("pause", b""),
    ("pause", b"[]"),
    ("pause", b'{"vm": "web"}'),
    ("pause", b'{"vm": null, "for_s": 1}'),
    ("pause", b'{"vm": "web", "for_s": -1}'),
    ("pause", b'{"vm": "web", "for_s": 1e300}'),
    ("pause", b'{"vm": "web", "for_s": "NaN"}'),
    ("release", b"{}"),
    ("release", b'{"vm": "web", "all": true}'),
    ("reserve", b'{"bytes": 1.5}'),
    ("reserve", b'{"size": 1}'),
    ("reserve", b'{"bytes": 1, "wait_s": 86401}'),
    ("release", b"\xff"),
    ("release", b"[" * 4000),
)


@pytest.mark.parametrize(("act", "body"), WRONG)
def test_what_is_no_act_is_refused_in_a_sentence(act: str, body: bytes) -> None:
    with pytest.raises(ConfigError):
        order_of(act, body)


def test_all_vms_at_once_is_not_an_act_of_a_page() -> None:
    for act in ("release", "pause", "resume", "take-up"):
        with pytest.raises(ConfigError):
            order_of(act, b'{"for_s": 1}' if act == "pause" else b"{}")


def token_file(folder: Path, content: str = TOKEN + "\n", mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_a_token_that_others_can_read_or_guess_is_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    assert read_token(token_file(tmp_path)) == ACT
    assert read_token(token_file(tmp_path, mode=0o400)) == ACT
    wrong: list[tuple[Path, type[DynmemError]]] = [
        (tmp_path / "nosuch", NotPermittedError),
        (tmp_path, ConfigError),
        (Path("/dev/null"), ConfigError),
    ]
    for path, kind in wrong:
        with pytest.raises(kind):
            read_token(path)
    for mode in (0o640, 0o604, 0o660, 0o777):
        with pytest.raises(NotPermittedError, match="others can read it"):
            read_token(token_file(tmp_path, mode=mode))
    for content in ("", "short", "x" * 600, "two words that are long", "\x00" * 20):
        with pytest.raises(ConfigError, match="a token has"):
            read_token(token_file(tmp_path, content))
    path = token_file(tmp_path, mode=0o440)  # as systemd gives it, by an ACL
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_token(path) == ACT


def test_a_header_has_the_token_or_not() -> None:
    for header, found in (
        (b"Bearer " + ACT, True),
        (b"bearer   " + ACT + b" ", True),
        (b"Basic " + ACT, False),
        (ACT, False),
        (b"Bearer", False),
        (b"", False),
        (None, False),
    ):
        assert (header, is_token(header, ACT)) == (header, found)


def test_an_allowance_grows_back_and_not_beyond_what_it_was() -> None:
    now = [0.0]
    allowance = Allowance(2, 0.5, lambda: now[0])
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    now[0] += 2.0
    assert [allowance.take() for _ in range(2)] == [True, False]
    now[0] += 1e9
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    assert acts.BY == "web page"

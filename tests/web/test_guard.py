"""Who may ask, and how: names, sites, methods and paths, and the headers that every reply has."""

import re
from pathlib import Path

import pytest
from tests.rigs.scenes import plays
from tests.rigs.webs import PAGE, serving

from dynmem.web import guard
from dynmem.web.files import PageFile, page_files
from dynmem.web.guard import HEADERS, Guard


@plays
async def test_every_reply_has_the_headers_whatever_was_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as web:
        asked = [
            (200, await web.ask("/")),
            (200, await web.ask("/api/session")),
            (304, await web.ask("/", headers={"If-None-Match": PAGE["index.html"].etag})),
            (400, await web.ask("/api/series?since=soon")),
            (400, await web.ask("/", headers={"Host": "a b"})),
            (403, await web.act("pause", vm="web", for_s=1)),
            (403, await web.ask("/", headers={"Origin": "http://evil.example"})),
            (404, await web.ask("/nosuch")),
            (405, await web.ask("/", "DELETE")),
            (405, await web.ask("/api/pause")),
            (405, await web.ask("/api/status", "POST", {})),
            (414, await web.ask("/" + "a" * 2100)),
            (421, await web.ask("/", headers={"Host": "evil.example"})),
            (503, await web.ask("/api/status")),
            (503, await web.ask("/api/events")),
        ]
        for status, reply in asked:
            assert reply.status == status, reply
            for name, value in HEADERS.items():
                assert reply.headers[name.decode()] == value.decode(), (status, name)
            assert "set-cookie" not in reply.headers
            assert "access-control-allow-origin" not in reply.headers
            assert "server" not in reply.headers
            if status >= 400:
                assert reply.json["error"]
        policy = asked[0][1].headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "*" not in policy
        raw = await web.raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 400 ")
        assert all(name in raw for name in HEADERS)


HOSTS = {
    "localhost": 200,
    "LOCALHOST:1": 200,
    "127.0.0.1": 200,
    "[::1]:8737": 200,
    "192.0.2.7:80": 200,
    "vmhost.example.org": 200,
    "VMHost.example.org.:443": 200,
    "evil.example": 421,
    "localhost.evil.example": 421,
    "127.0.0.1.evil.example": 421,
    "2130706433": 421,
    "evil.example:8737": 421,
    "[evil]": 400,
    "localhost/": 400,
    "user@localhost": 400,
    "": 400,
}


@plays
async def test_it_is_reached_by_an_address_localhost_or_a_name_that_was_given(tmp_path: Path) -> None:
    async with serving(tmp_path, names=("vmhost.example.org",)) as web:
        for host, status in HOSTS.items():
            reply = await web.ask("/", headers={"Host": host})
            assert (host, reply.status) == (host, status)
        two = await web.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert two.startswith(b"HTTP/1.1 400 ")
        none = await web.raw(b"GET / HTTP/1.0\r\n\r\n")
        assert none.startswith(b"HTTP/1.1 400 ")


def test_without_that_check_a_name_that_leads_here_would_be_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @plays
    async def scene() -> None:
        monkeypatch.setattr(Guard, "_is_ours", lambda *_: True)
        async with serving(tmp_path) as web:
            assert (await web.ask("/", headers={"Host": "evil.example"})).status == 200

    scene()


@plays
async def test_what_a_browser_says_comes_from_another_site_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, names=("vmhost.example.org",)) as web:
        here = f"localhost:{web.port}"
        for headers, status in (
            ({"Origin": f"http://{here}"}, 200),
            ({"Origin": "https://vmhost.example.org"}, 200),
            ({"Origin": "https://localhost"}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"http://{here}.evil.example"}, 403),
            ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
            ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
            ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
            ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
            ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ):
            reply = await web.ask("/api/session", headers=headers)
            assert (headers, reply.status) == (headers, status)
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        assert (await web.ask("/", headers=link)).status == 200


def test_without_these_checks_each_would_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (
        ("_from_elsewhere", None, {"Origin": "http://evil.example"}, 403),
        ("_from_elsewhere", None, {"Sec-Fetch-Site": "cross-site"}, 403),
        ("WEB_HEAD_BYTES_MAX", 1 << 20, {"x": "y" * 20_000}, 431),
    )

    @plays
    async def scene() -> None:
        async with serving(tmp_path) as web:
            for name, off, headers, status in asked:
                assert (await web.ask("/api/session", headers=headers)).status == status
                with monkeypatch.context() as patch:
                    if off is None:
                        patch.setattr(guard.Guard, name, lambda *_: None)
                    else:
                        patch.setattr(guard, name, off)
                    assert (await web.ask("/api/session", headers=headers)).status == 200

    scene()


FORBIDDEN = (
    "/page/",
    "/page",
    "/page/..",
    "/page/../app.py",
    "/page/..%2fapp.py",
    "/page/%2e%2e/app.py",
    "/page/..%5capp.py",
    "/page//etc/passwd",
    "/page/index.html/",
    "/page/index.html%00.js",
    "/page/uplot",
    "/page/INDEX.HTML",
    "//etc/passwd",
    "/page/%c0%ae%c0%ae/app.py",
)


@plays
async def test_only_the_files_of_the_page_are_served_and_no_folder_is_listed(tmp_path: Path) -> None:
    files = PAGE | {"uplot/uPlot.js": PageFile(b"0", "text/javascript; charset=utf-8", '"2"')}
    async with serving(tmp_path, files=files) as web:
        found = await web.ask("/page/uplot/uPlot.js")
        assert (found.status, found.body) == (200, b"0")
        assert found.headers["content-type"].startswith("text/javascript")
        assert (await web.ask("/page/index.html")).body == (await web.ask("/")).body
        for path in FORBIDDEN:
            assert ((await web.ask(path)).status, path) == (404, path)
        assert (await web.ask("http://evil.example/")).status == 404


def test_links_other_kinds_of_files_and_large_ones_are_no_files_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "app.js").write_text("1")
    (tmp_path / "notes.md").write_text("2")
    (tmp_path / "passwd.txt").symlink_to("/etc/passwd")
    assert set(page_files(tmp_path)) == {"app.js"}


def test_the_page_that_is_installed_loads_nothing_from_elsewhere_and_has_nothing_inline() -> None:
    for name, file in page_files().items():
        if name.endswith(".html"):
            text = file.content.decode()
            assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text), name
            assert not re.search(r"<script(?![^>]*\bsrc=)", text), name
            assert not re.search(r"<style|\son[a-z]+\s*=|\sstyle\s*=", text), name

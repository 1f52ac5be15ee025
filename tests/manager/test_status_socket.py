"""A second socket for other users: it reports the status, and carries out nothing."""

import asyncio
import grp
import os
import signal
from pathlib import Path

import pytest
from tests.rigs.commands import ran
from tests.rigs.managers import cli, configured, managing
from tests.rigs.scenes import play, until

from dynmem.errors import ConfigError, NotPermittedError
from dynmem.manager.api import client
from dynmem.manager.config import check_monitors, load

GROUP = grp.getgrgid(os.getegid()).gr_name


def with_keys(path: Path, *lines: str) -> Path:
    path.write_text(path.read_text().replace("[manager]", "\n".join(("[manager]", *lines))))
    return path


def test_others_read_the_status_and_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = tmp_path / "public" / "status.sock"
    path = with_keys(configured(tmp_path, "enforce", web=""), f'status_socket = "{public}"')

    async def scenario() -> None:
        async with managing(path) as manager:
            await until(public.exists)
            await until(lambda: public.stat().st_mode & 0o777 == 0o666)
            assert manager.socket.stat().st_mode & 0o777 == 0o600
            code, out, _ = await asyncio.to_thread(ran, capsys, "status", "--socket", public)
            assert (code, "web" in out) == (0, True)
            for request in (
                {"command": "release", "vm": "web"},
                {"command": "take-up"},
                {"command": "pause", "vm": "web", "for_ns": 1},
                {"command": "reserve", "name": "db", "size_bytes": 1 << 20},
            ):
                with pytest.raises(NotPermittedError, match="only reports the status: to change something"):
                    await asyncio.to_thread(client.ask, public, request)
            status = await manager.status()
            assert not status.vm("web").released
            assert status.reservations == ()
            with_keys(path, f'status_group = "{GROUP}"')
            os.kill(manager.process.pid, signal.SIGHUP)
            await until(lambda: any("manager.status_group stays None" in each for each in manager.lines))
            assert await manager.end() == 0
            assert not public.exists()

    play(scenario())


def test_a_group_may_read_and_nobody_else(tmp_path: Path) -> None:
    public = tmp_path / "status.sock"
    lines = (f'status_socket = "{public}"', f'status_group = "{GROUP}"')

    async def scenario() -> None:
        async with managing(with_keys(configured(tmp_path, "observe"), *lines)):
            await until(public.exists)
            await until(lambda: public.stat().st_mode & 0o777 == 0o660)
            assert public.stat().st_gid == os.getegid()

    play(scenario())


WRONG = {
    "a group alone": (
        ['status_group = "root"'],
        r"manager\.status_group: there is no manager\.status_socket",
    ),
    "no group": (
        ['status_socket = "/run/x"', 'status_group = "no such"'],
        "'no such' is no group of this host",
    ),
    "a group that is none": (
        ['status_socket = "/run/x"', 'status_group = "a\\u0000b"'],
        "is no group of this",
    ),
    "a relative path": (['status_socket = "x"'], r"manager\.status_socket: 'x' is not an absolute path"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_key_is_named(case: str, tmp_path: Path) -> None:
    lines, sentence = WRONG[case]
    with pytest.raises(ConfigError, match=sentence):
        load(with_keys(configured(tmp_path, "observe"), *lines))


def test_it_is_a_socket_of_its_own(tmp_path: Path) -> None:
    path = configured(tmp_path, "observe", web="")
    text = path.read_text()
    with pytest.raises(ConfigError, match=r"manager\.status_socket: is manager\.socket"):
        load(with_keys(path, f'status_socket = "{tmp_path}/run/api.sock"'))
    path.write_text(text)
    config = load(with_keys(path, f'status_socket = "{tmp_path}/web.qmp"'))
    with pytest.raises(ConfigError, match=r"same socket as manager\.status_socket"):
        check_monitors(config)


def test_a_socket_that_cannot_be_had_ends_the_manager_before_it_begins(tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_text("dear")
    path = with_keys(configured(tmp_path, "observe"), f'status_socket = "{letter}"')

    async def scenario() -> None:
        code, out, err = await cli("run", "--config", path)
        assert (code, out) == (4, "")
        assert "manager.status_socket: " in err
        assert "exists and is not a socket" in err
        assert not (tmp_path / "run" / "api.sock").exists()

    play(scenario())

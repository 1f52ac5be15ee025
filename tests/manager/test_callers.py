"""Who asked for what: the log names the user and the process of every request that changes something."""

import os
import pwd
import socket
from pathlib import Path

from tests.rigs.managers import configured, managing
from tests.rigs.scenes import play, until

from dynmem.manager.api.callers import caller_of, request_line
from dynmem.manager.api.messages import PauseRequest, ReleaseRequest, ReserveRequest
from dynmem.sockets import Peer


def test_the_log_names_who_asked_for_a_change_and_not_who_looked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with managing(configured(tmp_path, "enforce", web="")) as manager:
            reply = await manager.ask(command="pause", vm="web", for_ns=10**12)
            assert reply["ok"]
            me = f"{pwd.getpwuid(os.geteuid()).pw_name} (process {os.getpid()})"
            await until(lambda: any(f"web: pause requested by {me}" in each for each in manager.lines))
            assert not (await manager.ask(command="pause", vm="nosuch", for_ns=10**12))["ok"]
            assert (await manager.ask(command="status"))["ok"]
            assert (await manager.ask(command="release"))["ok"]
            await until(lambda: any("all VMs: release requested by" in each for each in manager.lines))
            assert sum("requested by" in each for each in manager.lines) == 2

    play(scenario())


def test_a_request_is_named_by_what_it_is_about() -> None:
    root = Peer(7, 0, 0)
    assert request_line(ReleaseRequest("web"), root) == "web: release requested by root (process 7)"
    assert request_line(ReleaseRequest(), None) == "all VMs: release requested by a client"
    assert request_line(ReserveRequest("db", 1), root).startswith("db: reserve requested by root")
    assert request_line(PauseRequest(1, "web"), root).startswith("web: pause requested")


def test_a_caller_is_known_while_it_is_connected_and_no_socket_is_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert caller_of(ours) == Peer(os.getpid(), os.geteuid(), os.getegid())
    assert caller_of(ours) is None  # it is closed

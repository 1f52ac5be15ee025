"""A monitor of ours with one command, `query-name`, for tests of how it treats its clients."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.rigs.scenes import play

from dynmem.qmp.command import Command
from dynmem.qmp.server import QmpServer


def with_server(tmp_path: Path, scene: Callable[[QmpServer], Awaitable[None]]) -> None:
    async def story() -> None:
        server = QmpServer(tmp_path / "qmp", commands={"query-name": Command(lambda _: {})})
        await server.start()
        await scene(server)
        await server.close()

    play(story())

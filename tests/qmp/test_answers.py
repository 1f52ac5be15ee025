"""Our monitor and a real QEMU give the same answers to the same bytes."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.qmp.conversations import GREET, ROWS, Row
from tests.rigs.scenes import play
from tests.rigs.sockets import wait_for_listener
from tests.rigs.unpacked import unpacked_qemu

from dynmem.qmp.command import Command
from dynmem.qmp.errors import DEVICE_NOT_ACTIVE, QmpCommandError
from dynmem.qmp.server import QmpServer
from dynmem.qmp.types import INT, Member, Object

END = b'\n{"execute":"query-name","id":"end"}\n'


async def answers(path: Path, row: Row, *, cut: int = 1 << 20) -> object:
    """What the monitor at `path` answers to the row's bytes, sent in pieces of `cut` bytes."""
    reader, writer = await asyncio.open_unix_connection(path)
    await reader.readline()
    if row.negotiated:
        writer.write(GREET)
        await reader.readline()

    stream = row.sent + END
    for start in range(0, len(stream), cut):
        writer.write(stream[start : start + cut])
        await writer.drain()
        if cut < len(stream):
            await asyncio.sleep(0)
    found = []
    while (answer := json.loads(await asyncio.wait_for(reader.readline(), 100))).get("id") != "end":
        found.append(answer)
    writer.close()
    return found


def no_device(arguments: object) -> object:
    del arguments
    raise QmpCommandError(DEVICE_NOT_ACTIVE, "No balloon device has been activated")


VALUE = Object((Member("value", INT),))
COMMANDS = {
    "query-name": Command(lambda _: {}),
    "balloon": Command(no_device, VALUE),
}


@pytest.mark.parametrize("cut", [1 << 20, 1], ids=["whole", "byte by byte"])
def test_our_monitor_gives_the_answers_of_the_table(tmp_path: Path, cut: int) -> None:
    async def scene() -> dict[str, object]:
        server = QmpServer(tmp_path / "qmp", commands=COMMANDS)
        await server.start()
        found = {row.name: await answers(tmp_path / "qmp", row, cut=cut) for row in ROWS}
        await server.close()
        return found

    assert play(scene()) == {row.name: row.answers for row in ROWS}


@pytest.fixture(params=["installed", "10"])
def qemu_monitor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "qemu"
    program = ["qemu-system-x86_64"] if request.param == "installed" else unpacked_qemu().command()
    program += ["-S", "-nodefaults", "-display", "none", "-machine", "none"]
    process = subprocess.Popen([*program, "-qmp", f"unix:{path},server=on,wait=off"])
    wait_for_listener(path, process)
    yield path
    process.terminate()
    process.wait(100)


@pytest.mark.qemu
def test_a_real_qemu_gives_the_answers_of_the_table(qemu_monitor: Path) -> None:
    async def scene() -> dict[str, object]:
        return {row.name: await answers(qemu_monitor, row) for row in ROWS}

    assert play(scene()) == {row.name: row.answers for row in ROWS}

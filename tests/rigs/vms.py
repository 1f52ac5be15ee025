"""A real ``dynmem vm`` for tests: started, watched, ended, with nothing left behind."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient
from qemu.qmp.error import QMPError
from tests.rigs.processes import descendants, is_keeper, memory_files, parent
from tests.rigs.scenes import PATIENCE_S, logged

MIB = 1 << 20
BALLOON = "hv-balloon,id=hvb,status-report=on"


class Vm:
    """One running machine; its monitor is `qmp`, its guest's console `serial`."""

    def __init__(
        self,
        folder: Path,
        *,
        memory: str,
        device: str | None,
        guest: str | None,
        options: tuple[str, ...] = (),
        name: str = "one",
    ) -> None:
        self.qmp = folder / "run" / "qmp"
        self.qmp.parent.mkdir(mode=0o700, exist_ok=True)
        self.serial = folder / "serial"
        self.log = folder / "log"
        command = [sys.executable, "-m", "dynmem", "vm", f"--name={name}", f"--memory={memory}"]
        command += [f"--guest={guest}"] if guest is not None else []
        command += [f"--serial=file:{self.serial}"]
        command += [f"--qmp=unix:{self.qmp},server=on,wait=off"]
        command += [f"--device={device}"] if device else []
        command += options
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)

    async def client(self) -> Any:
        """Another client, by QEMU's own library."""
        client = QMPClient("test")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no monitor at {self.qmp}: {self.log.read_text()}"
            if self.qmp.exists():
                with contextlib.suppress(QMPError):
                    await client.connect(str(self.qmp))
                    return client
            await asyncio.sleep(0.02)

    def guest_pids(self) -> list[int]:
        """The first process of its guest; what that has started is not among them."""
        found = []
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if not is_keeper(pid) and is_keeper(parent(pid)):
                    found.append(pid)
        return found

    def resident_bytes(self) -> int:
        """What the guest's RAM occupies, boot memory and what was added, as the kernel counts it."""
        files = memory_files(self.process.pid)
        assert files, "the machine has no memory file"
        return sum(files.values())

    def console(self) -> list[dict[str, Any]]:
        """The guest's reports; the last line may be unfinished."""
        lines = self.serial.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def kill(self) -> None:
        """End it; its guest ends with it."""
        self.process.kill()
        self.process.wait()

    async def exit_code(self) -> int:
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    memory: str = "512M",
    device: str | None = BALLOON,
    guest: str | None = "embedded",
    options: tuple[str, ...] = (),
) -> AsyncIterator[tuple[Vm, Any]]:
    vm = Vm(folder, memory=memory, device=device, guest=guest, options=options)
    client: QMPClient | None = None
    try:
        with logged(vm.log):
            client = await vm.client()
            yield vm, client
    finally:
        vm.kill()
        if client is not None:
            with contextlib.suppress(Exception):
                await client.disconnect()

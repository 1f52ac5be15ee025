"""Looking at unix sockets without touching them."""

import socket
import subprocess
from pathlib import Path

from tests.rigs.scenes import PATIENCE_S, wait_until

_LISTENING = "00010000"  # __SO_ACCEPTCON in the flags of proc_net(5)


def _flags(path: Path) -> list[str]:
    lines = Path("/proc/net/unix").read_text().splitlines()
    return [line.split()[3] for line in lines if line.endswith(f" {path}")]


def is_listened_on(path: Path) -> bool:
    """Whether somebody listens there; a socket is bound, and seen in its folder, a little before."""
    return _LISTENING in _flags(path)


def wait_for_greeting(path: Path) -> None:
    """Wait until a monitor serves its clients, and is free again: a QEMU listens long before it does."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(path))
        assert client.recv(1) == b"{"
    wait_until(lambda: _flags(path) == [_LISTENING], otherwise=lambda: f"{path} is in use")


def wait_for_listener(path: Path, process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    """Wait until a program that was started listens at `path`; fail with its log when it ends instead."""

    def words() -> str:
        return "" if log is None else log.read_text()

    def listens() -> bool:
        assert process.poll() is None, f"{process.args!r} ended: {words()}"
        return is_listened_on(path)

    wait_until(listens, otherwise=lambda: f"nobody listens at {path} {words()}")

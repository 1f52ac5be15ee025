"""Statuses as a manager sends them, and a listener on a real socket that replies with one of them."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tests.rigs.daemon import DAEMON
from tests.rigs.obedient import ObedientHost

from dynmem.manager.api.messages import StatusReply, encode
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.view import LastChangeView, VmView
from dynmem.units import GIB, MIB, NS_PER_S

AT = "2026-03-02T11:20:41.000000Z"


def vm_view(number: int = 0, **changes: object) -> VmView:
    """Return a VM that uses 300 MiB and a MiB for each number, and has 512 MiB."""
    last = LastChangeView(
        target_bytes=512 * MIB,
        reason="grow to 512 MiB: its guest needs it",
        measurement="",
        sent=True,
        at_ns=NS_PER_S,
        at=AT,
    )
    vm = VmView(
        name=f"vm{number}",
        minimum_bytes=64 * MIB,
        maximum_bytes=GIB,
        there=True,
        released=False,
        run_state="running",
        demand_bytes=(300 + number) * MIB,
        wanted_bytes=360 * MIB,
        planned_bytes=512 * MIB,
        assigned_bytes=512 * MIB,
        actual_bytes=512 * MIB,
        resident_bytes=411 * MIB,
        reason="demand 300 MiB + 20 %",
        standing="movable",
        last_change=last,
    )
    return msgspec.structs.replace(vm, **changes)


def reply(*vms: VmView, **changes: object) -> dict[str, Any]:
    """Return a status of these VMs as it is sent, decoded."""
    rack = ObedientHost(ManagerSettings(8 * GIB, 256 * MIB, NS_PER_S), [], {}, available_bytes=20 * GIB)
    rack.sweep(13)
    manager = msgspec.structs.replace(DAEMON, at=AT)
    whole = StatusReply(**msgspec.structs.asdict(rack.manager.status()), manager=manager)
    decoded: dict[str, Any] = json.loads(encode(msgspec.structs.replace(whole, vms=vms, **changes)))
    return decoded


class StatusDouble:
    """What listens in place of a manager.

    Attributes:
        path: Its socket.
        reply: What it replies.
        lost: The requests, counted from 1, on which it closes the connection without a reply.
        asked: How often it was asked.
    """

    def __init__(self, path: Path, first: dict[str, Any]) -> None:
        self.path = path
        self.reply = first
        self.lost: set[int] = set()
        self.asked = 0
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(BrokenPipeError), self._listening.accept()[0] as peer:
                if json.loads(peer.recv(4096)) == "end":
                    return
                self.asked += 1
                if self.asked not in self.lost:
                    peer.sendall(json.dumps(self.reply).encode() + b"\n")

    def close(self) -> None:
        """End as a manager does: the socket is gone."""
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
            last.sendall(b'"end"')
            self._thread.join()
        self._listening.close()
        self.path.unlink()


@contextlib.contextmanager
def listening(path: Path, first: dict[str, Any]) -> Iterator[StatusDouble]:
    """Listen, and end."""
    double = StatusDouble(path, first)
    try:
        yield double
    finally:
        if path.exists():
            double.close()

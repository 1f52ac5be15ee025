"""The demonstration's manager (`dynmem run`): its configuration, its status, and its `reserve`."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from dynmem.demo.guests import Guest
from dynmem.demo.processes import Program
from dynmem.demo.scenario import Scenario
from dynmem.errors import UnreachableError
from dynmem.manager.api import client
from dynmem.manager.step.view import StatusView
from dynmem.units import NS_PER_S

ANSWER_WAIT_S: Final = 10.0


class Conductor:
    """Runs the manager with a configuration made from the scenario, and sends it requests."""

    def __init__(self, scenario: Scenario, guests: Sequence[Guest], folder: Path) -> None:
        self._socket = folder / "api.sock"
        self._config = folder / "demo.toml"
        self._config.write_text(_configuration(scenario, guests, folder), encoding="utf-8")
        self._program = Program("the manager", folder / "manager.log")

    def start(self) -> None:
        """Start the manager and wait until it replies."""
        self._program.start(["run", "--config", str(self._config)])
        deadline = time.monotonic() + ANSWER_WAIT_S
        while True:
            self.check()
            try:
                self.status()
            except UnreachableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def check(self) -> None:
        """Raise if the manager has ended."""
        self._program.check()

    def status(self) -> StatusView:
        """Return the manager's status."""
        return msgspec.convert(client.ask(self._socket, {"command": "status"}), StatusView)

    def reserve(self, name: str, size: int, wait_s: float) -> None:
        """Make room for a VM that is about to start. Raises DeadlineError if there is none in time."""
        request = {
            "command": "reserve",
            "name": name,
            "size_bytes": size,
            "wait_ns": int(wait_s * NS_PER_S),
        }
        client.ask(self._socket, request, timeout_s=wait_s + 5)

    def stop(self) -> None:
        """Stop the manager; every target stays as it is."""
        self._program.stop()


def _configuration(scenario: Scenario, guests: Sequence[Guest], folder: Path) -> str:
    lines = [
        "[host]",
        f"budget = {scenario.budget_bytes}",
        f"slush = {scenario.slush_bytes}",
        "[manager]",
        'mode = "enforce"',
        f'period = "{scenario.period}"',
        f"socket = {json.dumps(str(folder / 'api.sock'))}",
        f"state = {json.dumps(str(folder / 'state'))}",
    ]
    for guest in guests:
        member = guest.member
        lines += [
            "[[vm]]",
            f'name = "{member.name}"',
            f"qmp = {json.dumps(str(guest.monitor))}",
            f"minimum = {member.minimum_bytes}",
            f"maximum = {member.maximum_bytes}",
            f"buffer = {scenario.buffer_percent}",
            f'priority = "{member.priority}"',
        ]
    return "\n".join(lines) + "\n"

"""dynmem as it is shipped: `dynmem run` in enforce mode, with the least configuration there is.

Its own figures come over the guests' own monitors, which the trial does not use. What it sent is read from
its journal afterwards.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from bench.trial.contenders.contender import Move, Order, Silent, Terms
from dynmem.demo.processes import Program
from dynmem.manager.journal.journal import FAILED, FILE_NAME
from dynmem.units import NS_PER_S


class Dynmem(Silent):
    """Runs the manager."""

    name = "dynmem"
    rest_s = 12.0

    def __init__(self, terms: Terms, folder: Path) -> None:
        super().__init__(terms, folder)
        self._folder = folder
        self._state = folder / "state"
        self._program = Program("the manager", folder / "manager.log")

    def start(self, monitors: Mapping[str, Path]) -> None:
        config = self._folder / "trial.toml"
        config.write_text(configuration(self.terms, monitors, self._folder), encoding="utf-8")
        self._program.start(["run", "--config", str(config)])

    def check(self) -> None:
        self._program.check()

    def stop(self) -> None:
        self._program.stop()

    def moves(self, begin_wall_ns: int) -> Sequence[Move]:
        return journal_moves(self._state / FILE_NAME, begin_wall_ns)


def configuration(terms: Terms, monitors: Mapping[str, Path], folder: Path) -> str:
    """Return the manager's configuration file: everything that has a default keeps it, but for the slush."""
    lines = [
        "[host]",
        f"budget = {terms.budget_bytes}",
        f"slush = {terms.slush_bytes}",
        "[manager]",
        'mode = "enforce"',
        f"socket = {json.dumps(str(folder / 'api.sock'))}",
        f"state = {json.dumps(str(folder / 'state'))}",
    ]
    for name in terms.names:
        lines += [
            "[[vm]]",
            f'name = "{name}"',
            f"qmp = {json.dumps(str(monitors[name]))}",
            f"minimum = {terms.minimum_bytes}",
            f"maximum = {terms.maximum_bytes}",
        ]
    return "\n".join(lines) + "\n"


def journal_moves(journal: Path, begin_wall_ns: int) -> list[Move]:
    """Return the commands in a journal that were not refused, oldest first."""
    with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "SELECT at_ns, vm, target_bytes FROM action"
            " WHERE outcome IS NULL OR outcome NOT LIKE ? ORDER BY id",
            (f"{FAILED}%",),
        ).fetchall()
    return [Move((at_ns - begin_wall_ns) / NS_PER_S, Order(vm, target)) for at_ns, vm, target in rows]

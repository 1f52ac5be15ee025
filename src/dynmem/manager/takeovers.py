"""Takes VMs of Proxmox over from its own balloon manager, and hands them back.

Which move is next is in `step.takeover`. What was there is recorded before anything is set, and only the file
itself shows that it was set. `qm` runs beside the loop, as `commands` runs them, once for each VM at a time;
a move that failed is tried again, later each time.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from dynmem.discovery.proxmox import ProxmoxVm, read_vm
from dynmem.errors import printable
from dynmem.manager.commands import run
from dynmem.manager.config import Config
from dynmem.manager.journal.journal import JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.step.facts import Rival, VmFacts
from dynmem.manager.step.takeover import Move, Said, Taken, conflict, next_move, words
from dynmem.manager.sweep.measuring import Measuring

# From one reading of the files to the next: pvestatd acts every 10 s.
LOOK_EVERY_S: Final = 2.0
# How long a sweep waits for the files. What they said last counts meanwhile.
PATIENCE_S: Final = 0.2
# qm itself waits 10 s for a VM's lock.
QM_S: Final = 30.0
_PAUSE_S: Final = 10.0
_PAUSE_S_MAX: Final = 300.0
# How often shares are set to 0 and found otherwise. Then another program insists.
_TAKES_MAX: Final = 3
_SAID_MAX: Final = 200
_OUTPUT_MAX: Final = 4096


class Takeovers:
    """The takeovers of one manager; *report* prints a line for the operator."""

    def __init__(
        self, config: Config, writer: JournalWriter, report: Callable[[str], None], threads: Measuring
    ) -> None:
        self._config = config
        self._writer = writer
        self._report = report
        self._threads = threads
        self._records = {each.number: each for each in writer.journal.taken()}
        self._numbers: dict[int, str] = {}
        self._said: dict[int, Said | None] = {}
        self._stale: set[int] = set()  # whose file has to be read before the next move
        self._moves: Counter[int] = Counter()
        self._reading: asyncio.Task[None] | None = None
        self._read_s = -LOOK_EVERY_S
        self._running: dict[int, asyncio.Task[None]] = {}
        self._problems: dict[int, str] = {}
        self._pauses: dict[int, tuple[float, float]] = {}
        self._takes: dict[int, int] = {}
        self._named: set[str] = set()

    def configure(self, config: Config) -> None:
        """Put another configuration in force."""
        self._config = config
        self._takes.clear()

    async def look(self, vms: Sequence[VmFacts]) -> tuple[VmFacts, ...]:
        """Read the files of these VMs, and return the facts with who else decides on their sizes."""
        self._numbers = {
            int(vm.owner.name): vm.name for vm in vms if vm.owner is not None and vm.owner.kind == "proxmox"
        }
        wanted = self._numbers.keys() | self._records.keys()
        if not wanted:
            return tuple(vms)
        is_new = bool(wanted - self._running.keys() - (self._said.keys() - self._stale))
        is_due = is_new or time.monotonic() - self._read_s >= LOOK_EVERY_S
        if is_due and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read(frozenset(wanted)), name="Proxmox's files")
            await asyncio.wait((self._reading,), timeout=PATIENCE_S)
        found = tuple(self._with_rival(vm) for vm in vms)
        self._name_conflicts(found)
        return found

    def settle(self, released: Collection[str], paused: Collection[str]) -> None:
        """Begin what is to be done now; in enforce mode only, and to no VM that is paused."""
        if not self._config.settings.is_enforcing:
            return
        wanted = {vm.name for vm in self._config.vms if vm.takeover and vm.name not in released}
        for number in self._numbers.keys() | self._records.keys():
            until_s, _ = self._pauses.get(number, (0.0, 0.0))
            is_known = number in self._said and number not in self._stale
            if number in self._running or not is_known or time.monotonic() < until_s:
                continue
            record, name = self._records.get(number), self._name(number)
            if name in paused:
                continue
            move = next_move(record, self._said[number], is_wanted=name in wanted)
            if move == "take" and self._takes.get(number, 0) >= _TAKES_MAX:
                self._problems[number] = "another program sets its shares again and again"
            elif move:
                task = asyncio.create_task(self._make(move, number, name), name=f"qm {number}")
                self._running[number] = task
                self._stale.add(number)  # only its file shows what was done
                self._moves[number] += 1
                task.add_done_callback(partial(self._ended, number))

    async def close(self) -> None:
        """End what runs; what was begun is recorded."""
        running: list[asyncio.Task[None]] = [*self._running.values()]
        running += [self._reading] if self._reading is not None else []
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    # -- what the files say ---------------------------------------------------------------------------------

    async def _read(self, numbers: Iterable[int]) -> None:
        self._read_s = time.monotonic()
        before = {number: self._moves[number] for number in numbers if number not in self._running}
        said = await self._threads.run(partial(_read_all, self._config.proxmox_files, tuple(before)))
        for number, each in said.items():
            if self._moves[number] == before[number]:  # else it may be from before that move
                self._said[number] = each
                self._stale.discard(number)

    def _with_rival(self, vm: VmFacts) -> VmFacts:
        number = int(vm.owner.name) if vm.owner is not None and vm.owner.kind == "proxmox" else 0
        said, record = self._said.get(number), self._records.get(number)
        if said is None or not (said.is_moved or record is not None):
            return vm
        former = "" if record is None else f"its shares were {_shown(record.shares)}"
        shares = 1000 if said.shares is None else said.shares
        problem = self._problems.get(number, "")
        return msgspec.structs.replace(
            vm, rival=Rival(str(number), shares, said.is_moved, "" if said.is_moved else former, problem)
        )

    def _name_conflicts(self, vms: Iterable[VmFacts]) -> None:
        """Report a conflict once where it freezes nothing: nothing is sent then."""
        if self._config.settings.is_enforcing:
            self._named.clear()
            return
        configs = {vm.name: vm for vm in self._config.vms}
        found = {vm.name: conflict(vm, configs[vm.name]) for vm in vms if vm.name in configs}
        for name in sorted(name for name, text in found.items() if text and name not in self._named):
            self._report(f"{name}: {found[name]}")
        self._named = {name for name, text in found.items() if text}

    def _name(self, number: int) -> str:
        """Return what the manager's file calls a VM; "" if that name is another one's by now."""
        if number in self._numbers:
            return self._numbers[number]
        name = self._records[number].vm
        return "" if name in self._numbers.values() else name

    # -- moves ----------------------------------------------------------------------------------------------

    async def _make(self, move: Move, number: int, name: str) -> None:
        record, said = self._records.get(number), self._said[number]
        try:
            if move == "take":
                assert said is not None
                await self._take(Taken(number, name, said.shares))
            elif record is not None and move == "give back":
                await self._give_back(record)
            elif record is not None:
                await self._forget(record, is_gone=said is None)
        except JournalError:
            return  # the writer has reported why; nothing was done, and the next look finds it again
        except (OSError, ValueError, _QmError) as error:
            self._failed(number, name, error)
        else:
            self._problems.pop(number, None)
            self._pauses.pop(number, None)

    async def _take(self, record: Taken) -> None:
        await self._writer.do(partial(self._writer.journal.take, record))
        self._records[record.number] = record
        await self._run(words(record.number, 0))
        self._takes[record.number] = self._takes.get(record.number, 0) + 1
        self._report(
            f"{record.vm}: taken over from Proxmox: the shares of VM {record.number} are 0 now, they were"
            f" {_shown(record.shares)}"
        )

    async def _give_back(self, record: Taken) -> None:
        await self._run(words(record.number, record.shares))
        self._report(
            f"{record.vm}: handed back to Proxmox: the shares of VM {record.number} are"
            f" {_shown(record.shares)} again"
        )

    async def _forget(self, record: Taken, *, is_gone: bool) -> None:
        await self._writer.do(partial(self._writer.journal.give_back, record.number))
        del self._records[record.number]
        if is_gone:
            self._report(
                f"{record.vm}: VM {record.number} is not on this node any more: if its shares are still 0,"
                f" run there: qm {' '.join(words(record.number, record.shares))}"
            )

    def _failed(self, number: int, name: str, error: Exception) -> None:
        _, pause_s = self._pauses.get(number, (0.0, _PAUSE_S / 2))
        pause_s = min(2 * pause_s, _PAUSE_S_MAX)
        self._pauses[number] = (time.monotonic() + pause_s, pause_s)
        problem = f"{self._config.qm} failed: {error}"
        if problem != self._problems.get(number):
            self._report(f"{name or number}: {problem}; it is tried again")
        self._problems[number] = problem

    def _ended(self, number: int, _: asyncio.Task[None]) -> None:
        del self._running[number]

    async def _run(self, arguments: Sequence[str]) -> None:
        """Run `qm`; _QmError says what it printed last."""
        code, said = await run((self._config.qm, *arguments), QM_S, keep=_OUTPUT_MAX)
        if code is None:
            raise _QmError(f"it had {QM_S:g} s and was ended")
        if code:
            lines = said.decode(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            raise _QmError(f"exit code {code}: {printable(last)[:_SAID_MAX]}")


class _QmError(Exception):
    """What Proxmox's command failed with."""


def _read_all(folder: Path, numbers: Sequence[int]) -> dict[int, Said | None]:
    """Return what the files of these VMs say, without those that cannot be read now."""
    found: dict[int, Said | None] = {}
    for number in numbers:
        with contextlib.suppress(OSError):
            found[number] = _said(read_vm(number, folder))
    return found


def _said(vm: ProxmoxVm | None) -> Said | None:
    return None if vm is None else Said(vm.said_shares, vm.is_moved, bool(vm.lock))


def _shown(shares: int | None) -> str:
    return "not set" if shares is None else str(shares)

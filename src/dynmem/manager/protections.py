"""Tells the host's kernel by priority from whom to take memory, if the operator says so, and takes it back.

    journal (what was there) --> write --> ... --> write what was there --> journal (no longer)

It is taken back when a VM is released, when the option ends, and when a VM leaves the configuration; a
manager that was killed leaves it to the next one, which finds it in the journal. Whoever has set something
else meanwhile keeps that. A VM that is paused or locked is left as it is, and so is every VM in other modes
than enforce.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from dynmem.errors import DynmemError
from dynmem.manager.config import Config
from dynmem.manager.journal.journal import JournalError
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.step.facts import VmFacts
from dynmem.manager.step.protection import Kind, Setting, may_raise, wanted
from dynmem.manager.step.states import is_held
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.protection import LOW, present, without_effect, write
from dynmem.procfs import PROC
from dynmem.units import format_size

Key = tuple[str, Kind]

#: What a sweep does at most: each is a few system calls and a write to the journal.
AT_ONCE: Final = 20


class Protections:
    """The settings of one manager's VMs; *report* prints a line for the operator."""

    def __init__(
        self,
        config: Config,
        writer: JournalWriter,
        report: Callable[[str], None],
        threads: Measuring,
        proc: Path = PROC,
    ) -> None:
        self._config = config
        self._writer = writer
        self._report = report
        self._threads = threads
        self._proc = proc
        self._made: dict[Key, Setting] = {(each.vm, each.kind): each for each in writer.journal.protections()}
        self._unproven = set(self._made)  # recorded by a manager that may have been killed before it wrote
        self._notes: dict[Key, str] = {}
        self._refused: dict[Key, tuple[str, int]] = {}  # for which life and value nothing is tried again
        self._working: asyncio.Task[None] | None = None

    def configure(self, config: Config) -> None:
        """Put another configuration in force."""
        self._config = config
        self._refused.clear()

    def look(self, vms: Iterable[VmFacts], released: Collection[str], paused: Collection[str]) -> None:
        """Begin what is to be done now, if nothing is being done."""
        if not self._config.settings.is_enforcing or (self._working is not None and not self._working.done()):
            return
        found = {vm.name: vm for vm in vms}
        goals = self._goals(found, released)
        todo: list[tuple[Key, str, int | None]] = []
        for key in goals.keys() | self._made.keys():
            vm, made, goal = found.get(key[0]), self._made.get(key), goals.get(key)
            life = vm.incarnation if vm is not None else ""
            if vm is not None and life and (vm.name in paused or is_held(vm)):
                continue
            if made is None:
                is_to_do = self._refused.get(key) != (life, goal)
            else:
                is_to_do = goal != made.after or life != made.life or key in self._unproven
            if is_to_do:
                todo.append((key, life, goal))
        if todo:
            self._working = asyncio.create_task(self._work(sorted(todo)[:AT_ONCE]), name="protections")

    def named(self, vms: Iterable[VmFacts]) -> tuple[VmFacts, ...]:
        """Return the facts with what was set of each VM, in words."""
        words: dict[str, list[str]] = {}
        for key in sorted(self._made.keys() | self._notes.keys()):
            words.setdefault(key[0], []).append(self._words(key))
        return tuple(
            msgspec.structs.replace(vm, protection="; ".join(words[vm.name])) if vm.name in words else vm
            for vm in vms
        )

    async def close(self) -> None:
        """Wait for what is being done; what was set stays, as targets do."""
        if self._working is not None:
            await asyncio.wait((self._working,))
            self._working = None

    def _goals(self, vms: Mapping[str, VmFacts], released: Collection[str]) -> dict[Key, int]:
        """Return what should be set now."""
        settings = self._config.settings
        return {
            (config.name, kind): value
            for config in self._config.vms
            if config.name not in released and (vm := vms.get(config.name)) is not None and vm.incarnation
            for kind, value in wanted(config, settings).items()
        }

    def _words(self, key: Key) -> str:
        made = self._made.get(key)
        note = self._notes.get(key, "")
        if made is None:
            return f"{key[1]} is left as it is: {note}"
        said = f"{key[1]} is {_shown(key[1], made.after)}, and was {_shown(key[1], made.before)}"
        return f"{said} ({note})" if note else said

    async def _work(self, todo: Iterable[tuple[Key, str, int | None]]) -> None:
        for key, life, goal in todo:
            try:
                made = self._made.get(key)
                if made is not None and not await self._stands(made, life, goal):
                    await self._undo(made)
                if key not in self._made and goal is not None:
                    await self._make(key, life, goal)
            except JournalError:
                return  # the writer has reported why; tried again with the next sweep

    async def _make(self, key: Key, life: str, goal: int) -> None:
        """Record what is there, and set the goal in its place."""
        try:
            place, before = await self._threads.run(partial(present, key[1], life, self._proc))
            if not may_raise(before, goal):
                return self._refuse(key, life, goal, f"it is {_shown(key[1], before)} already")
            setting = Setting(key[0], key[1], life, place, before, goal)
            await self._writer.do(partial(self._writer.journal.protect, setting))
            self._made[key] = setting
            done = await self._threads.run(partial(write, setting, goal, before, self._proc))
            note = await self._threads.run(partial(without_effect, setting)) if key[1] == LOW else ""
        except JournalError:
            raise
        except (DynmemError, OSError) as error:
            await self._forget(key)
            return self._refuse(key, life, goal, _why(error))
        if not done:
            return await self._forget(key)
        self._notes.pop(key, None)
        if note:
            self._notes[key] = f"without effect: {note} keeps less"
        self._report(f"{key[0]}: {self._words(key)}")
        return None

    async def _stands(self, made: Setting, life: str, goal: int | None) -> bool:
        """Return whether a setting that was recorded was made, and is still wanted."""
        self._unproven.discard((made.vm, made.kind))
        if (made.life, made.after) != (life, goal):
            return False
        try:
            there = await self._threads.run(partial(present, made.kind, life, self._proc))
        except (DynmemError, OSError):
            return False
        return there == (made.place, made.after)

    async def _undo(self, made: Setting) -> None:
        """Set what was there before, unless that process has ended or another program has set something."""
        try:
            done = await self._threads.run(partial(write, made, made.before, made.after, self._proc))
        except (DynmemError, OSError):
            done = False
        await self._forget((made.vm, made.kind))
        if done:
            self._report(f"{made.vm}: {made.kind} is {_shown(made.kind, made.before)} again")

    async def _forget(self, key: Key) -> None:
        if key in self._made:
            await self._writer.do(partial(self._writer.journal.unprotect, key[0], key[1]))
            del self._made[key]
        self._notes.pop(key, None)

    def _refuse(self, key: Key, life: str, goal: int, why: str) -> None:
        self._refused[key] = (life, goal)
        self._notes[key] = why
        self._report(f"{key[0]}: {self._words(key)}")


def _why(error: Exception) -> str:
    step = ": run dynmem as root" if isinstance(error, PermissionError) else ""
    return f"{error.strerror}{step}" if isinstance(error, OSError) and error.strerror else str(error)


def _shown(kind: Kind, value: int) -> str:
    return str(value) if kind != LOW or not value else format_size(value)

"""Runs the operator's command for a VM when memory is out, as `commands` runs them.

What is decided, and when, is in `step.last_resort`. The command gets the VM's name as its last argument, and
nowhere to write to; its exit code is what is reported.
"""

import asyncio
from collections.abc import Callable

from dynmem.limits import COMMAND_S_MAX
from dynmem.manager.commands import run
from dynmem.manager.step.results import Interrupt


class LastResort:
    """The commands that run; *report* prints a line for the operator."""

    def __init__(self, report: Callable[[str], None], limit_s: float = COMMAND_S_MAX) -> None:
        self._report = report
        self._limit_s = limit_s
        self._running: set[asyncio.Task[None]] = set()

    def run(self, interrupt: Interrupt) -> None:
        """Start the command; the loop goes on meanwhile."""
        task = asyncio.create_task(self._run(interrupt))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """End every command that still runs."""
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, interrupt: Interrupt) -> None:
        name, program = interrupt.vm, interrupt.command[0]
        try:
            code, _ = await run((*interrupt.command, name), self._limit_s)
        except (OSError, ValueError) as error:
            self._report(f"{name}: {program} cannot be run ({error}): correct its on_out_of_memory")
            return
        if code is None:
            self._report(f"{name}: {program} had {self._limit_s:g} s and is ended: it has not finished")
        elif code:
            self._report(f"{name}: {program} failed with exit code {code}: see its own log")
        else:
            self._report(f"{name}: {program} is done")

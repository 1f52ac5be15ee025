"""What the manager reports to systemd: that it is ready, what it does, and that it is alive.

Alive means that its sweeps come. A loop that turns and sweeps no more is as dead as one that hangs, so the
watchdog is fed only while the next sweep is not overdue; then systemd ends the manager and starts it again.
Every VM keeps its target meanwhile.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from dynmem.manager.step.facts import ABSENT, Facts, ManagerSettings
from dynmem.manager.step.results import StepResult
from dynmem.systemd.notify import ServiceManager
from dynmem.units import format_size

# Of the time after which systemd ends a silent service: as sd_watchdog_enabled(3) recommends.
_SHARE: Final = 2


class Supervised:
    """A manager under a service manager; without one, nothing of this does anything."""

    def __init__(self, systemd: ServiceManager, clock: Callable[[], float] = time.monotonic) -> None:
        self._systemd = systemd
        self._clock = clock
        self._due_s = clock()
        self._status = ""

    def ready(self) -> None:
        """Report that the socket listens, or that the configuration has been read again."""
        self._systemd.ready()

    def reloading(self) -> None:
        """Report that the configuration is being read again."""
        self._systemd.reloading()

    def stopping(self) -> None:
        """Report that the manager ends."""
        self._systemd.stopping()

    def sweeps(self, period_s: float) -> None:
        """Take note that a sweep begins, and that the next one is due a period from now."""
        self._due_s = self._clock() + period_s + (self._systemd.watchdog_s or 0.0)

    def stepped(self, settings: ManagerSettings, facts: Facts, result: StepResult) -> None:
        """Report what the manager does, if that has changed."""
        line = status_line(settings, facts, result)
        if line != self._status:
            self._status = line
            self._systemd.status(line)

    async def keep_alive(self) -> None:
        """Feed the watchdog while sweeps come; cancel it to end it."""
        while self._systemd.watchdog_s is not None:
            if self._clock() < self._due_s:
                self._systemd.alive()
            await asyncio.sleep(self._systemd.watchdog_s / _SHARE)


def status_line(settings: ManagerSettings, facts: Facts, result: StepResult) -> str:
    """Return what `systemctl status` shows: no figure in it changes with every sweep."""
    there = sum(vm.run_state != ABSENT for vm in facts.vms)
    short = sum(each.short_pages > 0 for each in result.plan.decisions)
    lacking = f", {short} of them with less than they want" if short else ""
    budget = format_size(settings.budget_bytes)
    return f"{settings.mode}: {there} of {len(facts.vms)} VMs are running{lacking}; budget {budget}"

"""The daemon: each period a sweep over all VMs, one pure step, and what it decided recorded and sent.

    sweep (facts) --> step (decisions) --> journal (intents) --> act (balloon commands) --> journal (outcomes)

Everything that decides is in `step`; everything that can block is bounded. SIGTERM and Ctrl-C end the loop
between two steps: every VM keeps its target, which is safe to keep permanently.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

from dynmem import __version__
from dynmem.errors import ExitCode, RemoteProtocolError
from dynmem.history.recorder import Recorder
from dynmem.limits import MANAGER_DESCRIPTORS, MANAGER_DESCRIPTORS_PER_VM
from dynmem.manager.acts import Acts
from dynmem.manager.api.fronts import Fronts
from dynmem.manager.api.scrapes import MetricsServer
from dynmem.manager.api.service import Service
from dynmem.manager.asked import Asked
from dynmem.manager.config import Config
from dynmem.manager.connections import Connections
from dynmem.manager.fast_lane import WATCH_S, FastLane
from dynmem.manager.journal.journal import Journal, JournalError
from dynmem.manager.journal.recovery import Unfinished, take_over
from dynmem.manager.journal.writer import JournalWriter
from dynmem.manager.last_resort import LastResort
from dynmem.manager.next_sweep import NextSweep
from dynmem.manager.private import lock, private_folder
from dynmem.manager.protections import Protections
from dynmem.manager.reload import ConfigWatch, changes
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import ABSENT, Facts, HostFacts, Mode, VmFacts
from dynmem.manager.step.results import StepResult
from dynmem.manager.supervised import Supervised
from dynmem.manager.sweep.host import HostMeter
from dynmem.manager.sweep.measuring import Measuring
from dynmem.manager.sweep.sweep import sweep
from dynmem.manager.takeovers import Takeovers
from dynmem.manager.totals import Totals
from dynmem.metrics.render import render
from dynmem.metrics.text import CONTENT_TYPE
from dynmem.procfs import allow_descriptors
from dynmem.systemd.notify import ServiceManager
from dynmem.units import NS_PER_S, format_size

# A sweep waits this part of a period for the slowest VM, so that the others are served within theirs.
PATIENCE_SHARE: Final = 4
PATIENCE_S_MAX: Final = 1.0
# While a VM or a reservation waits for memory that is being given, sweeps follow after this part of a period.
SOON_SHARE: Final = 5
# A sweep that a client or a reset asks for follows the last one no later than this.
SOON_S_MAX: Final = 0.2
# What each mode does.
_MODES: Final[Mapping[Mode, str]] = {
    "observe": "changing nothing",
    "advise": "changing nothing, printing commands",
    "enforce": "managing",
}
# The most names in one line.
NAMES_MAX: Final = 20


class Daemon:
    """One running manager; *report* prints a line for the operator.

    *hangups* are the SIGHUPs that came before this could handle them.
    """

    def __init__(self, config: Config, report: Callable[[str], None], hangups: Sequence[int] = ()) -> None:
        self._hangups = hangups
        self._watch = ConfigWatch(config)
        self._report = report
        self._manager = Manager(config.settings, config.vms)
        self._next_sweep = NextSweep()
        self._totals = Totals()
        self._supervised = Supervised(ServiceManager())
        self._wants_reload = False
        self._measuring = Measuring()
        self._last_resort = LastResort(report)
        self._history = Recorder(config.state, report, config.history_bytes)
        self._vms = Connections(self._watch, report, self._next_sweep, self._measuring)
        self._facts: dict[str, VmFacts] = {}
        self._stop = asyncio.Event()
        self._stopped_by = signal.SIGTERM
        self._host = HostMeter()
        self._host_problem = ""
        self._takeovers: Takeovers  # once there is a journal
        self._protections: Protections  # likewise

    @property
    def _config(self) -> Config:
        return self._watch.config

    def is_vm(self, name: str) -> bool:
        """Return whether a VM of this name is configured now."""
        return name in self._vms.all

    @property
    def _period_s(self) -> float:
        return self._config.settings.period_ns / NS_PER_S

    async def run(self) -> ExitCode:
        """Serve until a signal. Until then the locks, the journal and the socket are this daemon's alone."""
        config = self._config
        with ExitStack() as held:
            private_folder(config.state)
            private_folder(config.socket.parent)
            socket_lock = config.socket.with_name(config.socket.name + ".lock")
            held.callback(os.close, lock(config.state / "lock", f"the state folder {config.state}"))
            held.callback(os.close, lock(socket_lock, f"the socket {config.socket}"))
            journal = Journal(config.state)
            held.callback(journal.close)
            writer = JournalWriter(journal, self._report)
            self._takeovers = Takeovers(config, writer, self._report, self._measuring)
            self._protections = Protections(config, writer, self._report, self._measuring)
            await self._take_over(journal)
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self._stop_by, number)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_soon)
            if self._hangups:
                self._reload_soon()
            service = Service(
                self._watch,
                self._manager,
                writer,
                self._next_sweep,
                self._totals,
                lambda: self._history.problem,
            )
            metrics = MetricsServer(service.status, render, CONTENT_TYPE, self._report)
            fronts = Fronts(config, Asked(service, self._history).handle, metrics, self._report)
            await fronts.start(self._greet)
            self._supervised.ready()
            if self._manager.released:
                self._report(self._released())
            if self._manager.paused:
                self._report(self._paused())
            self._allow_descriptors()
            acts = Acts(self._manager, writer, self._report, self._totals)
            alive = asyncio.create_task(self._supervised.keep_alive())
            try:
                await self._serve(acts, writer, service, fronts, Unfinished(journal.open_actions()))
            finally:
                await self._last_resort.close()
                await self._takeovers.close()
                await self._protections.close()
                await fronts.close()
                await service.forget_ended()
                await self._vms.close()
                await acts.finish()
                await writer.finish()
                farewell = self._farewell()
                self._history.happened("stopped", farewell)
                await self._history.finish()
                alive.cancel()
        self._report(farewell)
        return ExitCode.INTERRUPTED if self._stopped_by == signal.SIGINT else ExitCode.OK

    async def _take_over(self, journal: Journal) -> None:
        """Continue where a predecessor ended, once it is known which domains there are."""
        await self._put_in_force(self._config)
        take_over(journal, self._manager, self._vms.names)

    def _stop_by(self, number: signal.Signals) -> None:
        self._stopped_by = number
        self._stop.set()
        self._supervised.stopping()

    def _reload_soon(self) -> None:
        self._wants_reload = True
        self._next_sweep.wanted.set()

    def _allow_descriptors(self) -> None:
        if not allow_descriptors(MANAGER_DESCRIPTORS + MANAGER_DESCRIPTORS_PER_VM * len(self._vms.all)):
            self._report(
                "note: the hard limit of open descriptors (ulimit -Hn) is too low for this number of VMs:"
                " raise it"
            )

    async def _reload(self) -> None:
        """Read the configuration again and put it in force, if it is right."""
        self._wants_reload = False
        before = self._config
        for line in await self._watch.read_again():
            self._report(line)
            self._history.happened("reload", line)
        await self._put_in_force(before)

    async def _put_in_force(self, before: Config) -> None:
        """Put the file, and what libvirt has beside it, in the place of what was in force *before*."""
        await self._vms.take_in()
        config = self._config
        self._manager.configure(config.settings, config.vms)
        self._takeovers.configure(config)
        self._protections.configure(config)
        self._history.limit(config.history_bytes)
        for name in await self._vms.follow(before):
            self._facts.pop(name, None)
        self._allow_descriptors()

    def _greet(self) -> None:
        """Say in the log and in the history that the manager has begun."""
        settings = self._config.settings
        what = _MODES[settings.mode]
        if settings.statistics and not settings.is_enforcing:
            what += ", but for how often guests are asked for their statistics"
        count = len(self._vms.all)
        vms = f"{count} VM{'' if count == 1 else 's'}"
        greeting = (
            f"dynmem {__version__}: {settings.mode}: {what}: {vms},"
            f" budget {format_size(settings.budget_bytes)}, slush {format_size(settings.slush_bytes)},"
            f" every {self._period_s:g} s; see it with: dynmem status --socket {self._config.socket}"
        )
        self._report(greeting)
        self._history.happened("started", greeting)

    def _released(self) -> str:
        return self._left_alone(
            "released",
            self._manager.released,
            "grown to their full size and left alone, also after they start again; to manage one again:"
            " dynmem release",
        )

    def _paused(self) -> str:
        return self._left_alone(
            "paused",
            self._manager.paused,
            "left exactly as they are until their time is over; to end a pause: dynmem pause",
        )

    def _left_alone(self, what: str, names: Sequence[str], undo: str) -> str:
        """Return the line about VMs that an operator took out of the manager's hands before it started."""
        more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
        one = names[0] if len(names) == 1 else "VM"
        return (
            f"{what} earlier: {', '.join(names[:NAMES_MAX])}{more}: {undo} {one} --undo"
            f" --socket {self._config.socket}"
        )

    def _farewell(self) -> str:
        sizes = [
            f"{name} {format_size(facts.actual_bytes)}"
            for name, facts in self._facts.items()
            if facts.actual_bytes is not None
        ]
        kept = f" ({', '.join(sizes)})" if sizes else ""
        return (
            f"stopped by {self._stopped_by.name}: every VM keeps its target{kept};"
            " to grow all to their maximum, start again and run: dynmem release --all"
        )

    # -- sweep and step -------------------------------------------------------------------------------------

    async def _serve(
        self,
        acts: Acts,
        writer: JournalWriter,
        service: Service,
        fronts: Fronts,
        unfinished: Unfinished,
    ) -> None:
        """Sweep and step until the stop signal; a sweep that took too long is not made up for."""
        stopping = asyncio.create_task(self._stop.wait())
        lane = FastLane(self._measure_host)
        for line in unfinished.damaged:
            self._report(line)
        while not self._stop.is_set():
            began = time.monotonic()
            self._supervised.sweeps(self._period_s)
            if self._wants_reload:
                self._supervised.reloading()
                await self._reload()
                await fronts.listen(self._config.metrics)
                self._supervised.ready()
            elif (news := self._watch.look()) is not None:
                self._report(news)
            if self._vms.look():
                await self._take_in_domains()
            self._next_sweep.begin()
            facts = await self._sweep()
            swept_s = time.monotonic() - began
            pause_s = self._period_s - swept_s
            if facts is not None:
                await self._close_unfinished(writer, unfinished, facts)
                if self._stop.is_set():
                    break  # nothing more is sent
                result = await self._step(facts, lane, acts, unfinished)
                self._next_sweep.stepped()
                await service.stepped(swept_s)
                pause_s = began + self._period_s - time.monotonic()
                if result.waiting:
                    pause_s = self._period_s / SOON_SHARE
            asked = asyncio.create_task(self._next_sweep.wanted.wait())
            until_s = time.monotonic() + pause_s
            while not (stopping.done() or asked.done()) and (left_s := until_s - time.monotonic()) > 0:
                nap_s = min(left_s, WATCH_S) if lane.is_wanted else left_s
                await asyncio.wait((stopping, asked), timeout=nap_s, return_when=asyncio.FIRST_COMPLETED)
                if not (stopping.done() or asked.done()) and lane.is_wanted:
                    await self._look_between(lane, acts, unfinished)
            asked.cancel()
            # A guest that is reset again and again makes sweeps no more frequent than one that gives.
            soon_s = began + min(self._period_s / SOON_SHARE, SOON_S_MAX) - time.monotonic()
            await asyncio.wait((stopping,), timeout=max(0.0, soon_s))
            self._next_sweep.wanted.clear()
        await stopping

    async def _take_in_domains(self) -> None:
        """Put in force which domains of libvirt have come and gone."""
        before = self._config
        await self._put_in_force(before)
        for line in changes(before, self._config):
            self._report(f"libvirt: {line}")
            self._history.happened("reload", f"libvirt: {line}")

    async def _look_between(self, lane: FastLane, acts: Acts, unfinished: Unfinished) -> None:
        """Look at the VMs that could run out of memory before the next sweep, and serve them."""
        facts = await lane.look(self._vms.all)
        if facts is not None and not self._stop.is_set():
            await self._step(facts, lane, acts, unfinished)

    async def _step(self, facts: Facts, lane: FastLane, acts: Acts, unfinished: Unfinished) -> StepResult:
        """Decide, say what was found, and carry out what was decided."""
        self._totals.looked(facts)
        result = self._manager.step(facts)
        for line in result.changes:
            self._report(line)
        if result.interrupt is not None:
            self._totals.interrupted()
            self._last_resort.run(result.interrupt)
            self._history.happened("interrupted", result.interrupt.reason, result.interrupt.vm)
        unfinished.add(await acts.act(self._vms.all, result.commands))
        self._totals.decided(time.monotonic_ns() - facts.now_ns)
        if facts.looked is None or result.commands:
            self._history.stepped(self._manager.sample(), acts.take_refused())
        lane.stepped(facts, result)
        self._supervised.stepped(self._config.settings, facts, result)
        return result

    async def _sweep(self) -> Facts | None:
        """Look at all VMs at once and return the facts; None if the host cannot be measured.

        No VM makes the others wait longer than the patience of a sweep.
        """
        now_ns = time.monotonic_ns()
        patience_s = min(self._period_s / PATIENCE_SHARE, PATIENCE_S_MAX)
        released, paused = set(self._manager.released), set(self._manager.paused)
        for name, connection in self._vms.all.items():
            connection.is_released, connection.is_paused = name in released, name in paused
        vms = await self._takeovers.look(await sweep(self._vms.all.values(), now_ns, patience_s))
        self._takeovers.settle(released, paused)
        self._protections.look(vms, released, paused)
        vms = self._protections.named(vms)
        for facts in vms:
            before = self._facts.get(facts.name)
            is_news = before is None or (before.run_state, before.problem) != (ABSENT, facts.problem)
            if facts.run_state == ABSENT and is_news:
                self._report(f"{facts.name}: absent: {facts.problem}")
            self._facts[facts.name] = facts
        host = self._measure_host(whole=True)
        return None if host is None else Facts(now_ns=now_ns, host=host, vms=vms)

    def _measure_host(self, *, whole: bool = False) -> HostFacts | None:
        """Measure what of the host decides, or the *whole* host.

        Return None if that fails (no descriptor left, no /proc), which is reported once.
        """
        try:
            host = self._host.measure() if whole else self._host.measure_again()
        except (OSError, RemoteProtocolError) as error:
            problem = f"the host's memory cannot be read ({error}): nothing is decided until it can"
            if problem != self._host_problem:
                self._host_problem = problem
                self._report(problem)
            return None
        if self._host_problem:
            self._host_problem = ""
            self._report("the host's memory can be read again")
        return host

    async def _close_unfinished(self, writer: JournalWriter, unfinished: Unfinished, facts: Facts) -> None:
        """Record the outcomes of actions that a predecessor, or a full disk, left open."""
        found = unfinished.look(facts)
        if not found:
            return
        outcomes = [(number, outcome) for number, _, outcome in found]
        try:
            await writer.do(partial(writer.journal.conclude, outcomes, time.time_ns()))
        except JournalError:
            return
        for number, intent, outcome in found:
            unfinished.close(number)
            self._report(
                f"{intent.vm}: {format_size(intent.target_bytes)} was left open in the journal: {outcome}"
            )

"""Which domains a libvirt has, what their definitions say, and which of them are managed.

    each second, in a thread:
        the list of all domains     --> who came, went, started
        the definition of each that is new or was started, and of a tenth of the others
        the processes of this host  --> which of them runs which domain

The list is one call, whatever the number of domains. What one pass finds is in force from the next sweep on;
no sweep waits for it. A libvirt that does not reply leaves everything as it was.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from dynmem.discovery.processes import command_line, running_vms
from dynmem.discovery.qemu_options import started_as
from dynmem.domains.api import Libvirt, Listed
from dynmem.domains.definition import Definition, definition_of
from dynmem.domains.errors import LibvirtError, LibvirtLostError
from dynmem.domains.link import Link
from dynmem.errors import ConfigError, DynmemError, RemoteProtocolError, quoted
from dynmem.limits import MANAGER_VMS_MAX
from dynmem.manager.config import Config
from dynmem.manager.domains.policies import policy_of
from dynmem.manager.step.facts import VmConfig
from dynmem.manager.sweep.measuring import Measuring

LOG: Final = logging.getLogger(__name__)
#: From one pass to the next.
EVERY_S: Final = 1.0
# One pass reads this part of the definitions that it has already, and no more than so many.
_AGAIN: Final = 10
_AGAIN_MAX: Final = 20
# A pass over very many new domains takes longer than a call.
_PASS_S: Final = 10.0
# A process is searched for in this many passes after its domain was started.
_SEARCHES: Final = 10
# A search that takes longer is used by the next pass.
_SEARCH_S: Final = 1.0
_NO_NUMBER: Final = -1
_SAME_RESET_US: Final = 100_000
_PID_FILES: Final = Path("/run/libvirt/qemu")


class Domain(NamedTuple):
    """One domain.

    Attributes:
        listed: What the list says of it.
        definition: What its XML says.
        pid: The process that runs it; 0: not known, or it does not run.
        searches: In how many passes that was searched for.
    """

    listed: Listed
    definition: Definition
    pid: int = 0
    searches: int = 0

    @property
    def is_running(self) -> bool:
        """Whether it runs."""
        return self.listed.number != _NO_NUMBER


class Reset(NamedTuple):
    """The resets of a domain's guest.

    Attributes:
        number: How many were seen.
        at_us: When the last one was.
    """

    number: int = 0
    at_us: int = 0


class Roster:
    """The domains of one libvirt.

    *report* prints a line for the operator; *news* is called when there is something to take in, and *reset*
    when a guest was reset.

    Attributes:
        link: The way to it.
        problem: Why it is not known which domains there are; "" if it is.
    """

    def __init__(
        self,
        link: Callable[[Callable[[str], None]], Link],
        report: Callable[[str], None],
        *,
        news: Callable[[], None] = lambda: None,
        reset: Callable[[], None] = lambda: None,
        threads: Measuring | None = None,
    ) -> None:
        self.link: Final = link(self._rebooted)
        self.problem: str = "libvirt has not been asked yet"
        self._report = report
        self._news = news
        self._reset = reset
        self._threads = Measuring() if threads is None else threads
        self._domains: dict[str, Domain] = {}
        self._resets: dict[str, Reset] = {}
        self._pass: asyncio.Task[None] | None = None
        self._search: asyncio.Task[dict[str, int]] | None = None
        self._passes = 0
        self._turn = 0
        self._next_s = 0.0
        self._has_news = False
        self._said: dict[str, str] = {}
        self._unread: dict[str, str] = {}

    def find(self, key: str) -> Domain | None:
        """Return a domain by its UUID or its name."""
        found = self._domains.get(key.lower())
        return found or next((each for each in self._domains.values() if each.listed.name == key), None)

    def resets(self, uuid: str) -> Reset:
        """Return what is known of the resets of a domain's guest."""
        return self._resets.get(uuid, Reset())

    def look(self) -> None:
        """Begin a pass, if it is time and none is being made."""
        if self._pass is None and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + EVERY_S
            self._pass = asyncio.create_task(self._make_pass(), name="domains")

    async def first(self, patience_s: float) -> None:
        """Make the first pass, and wait for it that long."""
        self.look()
        if self._pass is not None:
            await asyncio.wait((self._pass,), timeout=patience_s)

    def take_news(self) -> bool:
        """Return whether something has changed since the last call."""
        had, self._has_news = self._has_news, False
        return had

    def managed(self, config: Config) -> tuple[list[VmConfig], dict[str, str]]:
        """Return the VMs that have a policy of their own, and their UUIDs by their names.

        What the file says of a domain counts in place of that. What cannot be managed is reported, once.
        """
        keys = {found.listed.uuid for key in config.domains.values() if (found := self.find(key)) is not None}
        names = {vm.name for vm in config.vms}
        vms: list[VmConfig] = []
        uuids: dict[str, str] = {}
        said: dict[str, str] = {}
        for uuid, domain in sorted(self._domains.items(), key=lambda each: each[1].listed.name):
            name = domain.definition.name
            if domain.definition.policy is None or uuid in keys:
                continue
            try:
                vm = _policy(domain, names, config)
            except ConfigError as error:
                said[uuid] = f"domain {quoted(name)} is not managed: its policy: {error}"
                continue
            names.add(vm.name)
            vms.append(vm)
            uuids[vm.name] = uuid
        for uuid, line in said.items():
            if self._said.get(uuid) != line:
                self._report(line)
        self._said = said
        return vms, uuids

    async def close(self) -> None:
        """End the connection and what is asked over it."""
        for task in (self._pass, self._search):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        self.link.close()

    def _rebooted(self, uuid: str) -> None:
        now_us, before = time.time_ns() // 1000, self.resets(uuid)
        # A reset that libvirt itself was asked for is reported twice: as done, and as QEMU's.
        if uuid in self._domains and abs(now_us - before.at_us) > _SAME_RESET_US:
            self._resets[uuid] = Reset(before.number + 1, now_us)
            self._reset()

    async def _make_pass(self) -> None:
        try:
            self._passes += 1
            known = self._domains
            again = self._read_again(list(known))
            found, problems = await self.link.call(partial(_read, known=known, again=again), _PASS_S)
            wanted = {
                uuid: domain.listed.name
                for uuid, domain in found.items()
                if domain.is_running and not domain.pid and domain.searches < _SEARCHES
            }
            pids = await self._searched(wanted) if wanted else {}
            for uuid in wanted:
                was = found[uuid]
                found[uuid] = was._replace(pid=pids.get(uuid, 0), searches=was.searches + 1)
            self._take(found)
            for uuid, line in problems.items():
                if self._unread.get(uuid) != line:
                    self._report(line)
            self._unread = problems
            self._say("")
        except DynmemError as error:
            self._say(str(error))
        except Exception as error:  # a surprise must not end the service of the others
            LOG.exception("a look at the domains of libvirt failed")
            self._say(f"a look at its domains failed: {error!r}")
        finally:
            self._pass = None

    def _read_again(self, uuids: Sequence[str]) -> set[str]:
        """Return whose definitions are read again in this pass: all take their turn."""
        count = min(-(-len(uuids) // _AGAIN), _AGAIN_MAX)
        first, self._turn = self._turn, self._turn + count
        return {uuids[number % len(uuids)] for number in range(first, first + count)}

    async def _searched(self, wanted: Mapping[str, str]) -> dict[str, int]:
        """Return which processes run these domains, as far as that is known soon: /proc can make wait."""
        if self._search is None:
            self._search = asyncio.create_task(self._threads.run(partial(processes_of, wanted)))
        search = self._search
        await asyncio.wait((search,), timeout=_SEARCH_S)
        if not search.done():
            return {}
        self._search = None
        return search.result()

    def _take(self, found: dict[str, Domain]) -> None:
        """Put what a pass found in the place of what was known."""
        before, self._domains = self._domains, found
        self._resets = {uuid: each for uuid, each in self._resets.items() if uuid in found}
        if {uuid: each.definition for uuid, each in before.items()} != {
            uuid: each.definition for uuid, each in found.items()
        } or any(each.listed != found[uuid].listed for uuid, each in before.items()):
            self._has_news = True
            self._news()

    def _say(self, problem: str) -> None:
        if problem != self.problem and (problem or self._passes > 1):
            uri = self.link.uri
            self._report(f"libvirt: {problem}" if problem else f"libvirt: {uri} replies again")
        self.problem = problem


def _policy(domain: Domain, names: Collection[str], config: Config) -> VmConfig:
    """Return the policy of a domain beside VMs of these *names*. ConfigError says why it has none."""
    if domain.definition.name in names:
        raise ConfigError(f"{config.path} has another VM of this name")
    if len(names) == MANAGER_VMS_MAX:
        raise ConfigError(f"there are {MANAGER_VMS_MAX} VMs already, which is the most")
    return policy_of(domain.definition, config.room_bytes)


def _read(
    libvirt: Libvirt, *, known: Mapping[str, Domain], again: Collection[str]
) -> tuple[dict[str, Domain], dict[str, str]]:
    """Make one pass, in a thread; return the domains, and a line for each that cannot be read."""
    found: dict[str, Domain] = {}
    problems: dict[str, str] = {}
    for listed in libvirt.domains():
        before = known.get(listed.uuid)
        is_same = before is not None and before.listed == listed
        if before is not None and is_same and listed.uuid not in again:
            found[listed.uuid] = before
            continue
        try:
            definition = definition_of(libvirt.definition(listed.uuid))
        except RemoteProtocolError as error:
            problems[listed.uuid] = f"domain {quoted(listed.name)} is left out: {error}"
        except LibvirtLostError:
            raise
        except LibvirtError:
            if before is not None:
                found[listed.uuid] = before  # gone since it was listed, or just now out of reach
        else:
            if before is not None and is_same:
                found[listed.uuid] = before._replace(definition=definition)
            else:
                found[listed.uuid] = Domain(listed, definition)
    return found, problems


def processes_of(wanted: Mapping[str, str]) -> dict[str, int]:
    """Return the processes that run domains, by UUID; *wanted* has the names of the domains by theirs.

    A process can write any UUID into its command line. The one that runs the domain has it there; where
    another has it, too, only the file that libvirt keeps says which is which.
    """
    found: dict[str, list[int]] = {}
    for pid in running_vms():
        uuid = started_as(command_line(pid)).uuid
        if uuid in wanted:
            found.setdefault(uuid, []).append(pid)
    return {uuid: pids[0] if len(pids) == 1 else _noted(wanted[uuid], pids) for uuid, pids in found.items()}


def _noted(name: str, pids: Collection[int]) -> int:
    """Return which of these processes the system's libvirt has noted as a domain's; 0 if none."""
    with suppress(OSError, ValueError):
        text = (_PID_FILES / f"{name.replace('/', '')}.pid").read_text(encoding="ascii")
        if int(text) in pids:
            return int(text)
    return 0

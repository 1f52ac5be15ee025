"""The manager's connections to its VMs: made and ended as the file and the domains of libvirt have it."""

import asyncio
from collections.abc import Callable, Container
from functools import partial
from typing import Final

from dynmem.domains.link import Link
from dynmem.manager.config import Config
from dynmem.manager.domains.connection import DomainConnection
from dynmem.manager.domains.roster import Roster
from dynmem.manager.next_sweep import NextSweep
from dynmem.manager.reload import ConfigWatch
from dynmem.manager.step.facts import VmConfig
from dynmem.manager.sweep.borrowed import Borrowed, Visits
from dynmem.manager.sweep.connection import VmConnection
from dynmem.manager.sweep.identity import Identities
from dynmem.manager.sweep.managed_vm import ManagedVm
from dynmem.manager.sweep.measuring import Measuring
from dynmem.units import NS_PER_S

# How long a manager that begins, and one that is led to another libvirt, waits for the list of its domains.
FIRST_LOOK_S: Final = 2.0


class AnyName:
    """Holds every name: which domains libvirt has is known only while it replies."""

    def __contains__(self, name: object) -> bool:
        return True


class Connections:
    """The connections of one manager, by the VMs' names.

    *watch* has what is in force, *report* prints a line for the operator, and *next_sweep* is had soon where
    a domain comes or goes, or a guest is reset.

    Attributes:
        all: The connections.
    """

    def __init__(
        self,
        watch: ConfigWatch,
        report: Callable[[str], None],
        next_sweep: NextSweep,
        measuring: Measuring,
    ) -> None:
        self._watch = watch
        self._report = report
        self._next_sweep = next_sweep
        self._measuring = measuring
        self._identities = Identities()
        self._visits = Visits()
        self._uri = watch.config.libvirt
        self._roster = self._domains_of(self._uri)
        self._is_asked = False
        self.all: dict[str, ManagedVm] = {vm.name: self._made(vm) for vm in watch.config.vms}

    @property
    def names(self) -> Container[str]:
        """Every name that a VM of this manager may have."""
        return set(self.all) if self._roster is None else AnyName()

    def look(self) -> bool:
        """Have libvirt asked for its domains, if it is time to; return whether any have come or gone."""
        if self._roster is None:
            return False
        self._roster.look()
        return self._roster.take_news()

    async def take_in(self) -> None:
        """Add what libvirt has beside the file to what is in force."""
        if self._uri != self._watch.config.libvirt:
            former, self._uri = self._roster, self._watch.config.libvirt
            self._roster, self._is_asked = self._domains_of(self._uri), False
            if former is not None:
                await former.close()
        if self._roster is not None:
            if not self._is_asked:
                self._is_asked = True
                await self._roster.first(FIRST_LOOK_S)
            self._watch.take_in(*self._roster.managed(self._watch.file))

    async def follow(self, before: Config) -> list[str]:
        """Make and end connections after what is in force now; return the names of those that ended."""
        config = self._watch.config
        dropped = [name for name, way in before.ways.items() if config.ways.get(name) != way]
        await asyncio.gather(*(self.all.pop(name).close() for name in dropped))
        self.all = {vm.name: self.all.get(vm.name) or self._made(vm) for vm in config.vms}
        settings = config.settings
        for name, each in self.all.items():
            if isinstance(each, DomainConnection):
                each.has_own_policy = name not in self._watch.file.domains
            each.configure(
                may_write=settings.is_enforcing,
                may_ask=settings.statistics,
                period_s=settings.period_ns / NS_PER_S,
            )
        return dropped

    async def close(self) -> None:
        """End all of them; targets stay as they are."""
        await asyncio.gather(*(each.close() for each in self.all.values()))
        if self._roster is not None:
            await self._roster.close()

    def _domains_of(self, uri: str) -> Roster | None:
        """Return the domains of a libvirt; None if there is none to ask."""
        if not uri:
            return None
        news, reset = self._next_sweep.wanted.set, self._next_sweep.saw_reset
        return Roster(partial(_link, uri), self._report, news=news, reset=reset, threads=self._measuring)

    def _made(self, vm: VmConfig) -> ManagedVm:
        """Return a new connection to a VM that is configured."""
        config, name = self._watch.config, vm.name
        settings, domain = config.settings, config.domains.get(name)
        if domain is not None:
            assert self._roster is not None
            return DomainConnection(
                name,
                domain,
                self._roster,
                may_write=settings.is_enforcing,
                may_ask=settings.statistics,
                period_s=settings.period_ns / NS_PER_S,
                identities=self._identities,
                measuring=self._measuring,
            )
        path = config.monitors[name]
        return VmConnection(
            name,
            path,
            may_write=settings.is_enforcing,
            may_ask=settings.statistics,
            period_s=settings.period_ns / NS_PER_S,
            reset=self._next_sweep.saw_reset,
            identities=self._identities,
            measuring=self._measuring,
            access=Borrowed(path, self._visits) if vm.monitor == "borrowed" else None,
        )


def _link(uri: str, rebooted: Callable[[str], None]) -> Link:
    return Link(uri, rebooted=rebooted)

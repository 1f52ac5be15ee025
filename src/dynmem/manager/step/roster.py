"""The VMs that are there: which have come, gone, been reset, reported, settled."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from dynmem.manager.step.deadlines import Deadlines
from dynmem.manager.step.facts import SILENT, Facts, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.record import Excess, Record
from dynmem.manager.step.safeguards import EQUAL_SWEEPS, Safeguards, stall_ns
from dynmem.manager.step.standing import fresh_report
from dynmem.manager.step.states import allows
from dynmem.units import pages_of


class Arrivals(msgspec.Struct):
    """What one sweep changed about who is there.

    Attributes:
        gone: Names of VMs whose process has ended, or was replaced by another.
        begun: VMs whose process is new.
        reset: VMs whose guest was reset.
    """

    gone: list[str] = msgspec.field(default_factory=list)
    begun: list[Record] = msgspec.field(default_factory=list)
    reset: list[Record] = msgspec.field(default_factory=list)


class Roster:
    """One record per configured VM whose process is there."""

    def __init__(self, settings: ManagerSettings, vms: Sequence[VmConfig], safeguards: Safeguards) -> None:
        self._settings = settings
        self._configs: Mapping[str, VmConfig] = {vm.name: vm for vm in vms}
        self._safeguards = safeguards
        self._records: dict[str, Record] = {}
        self._restored: dict[str, tuple[str, int]] = {}

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def get(self, name: str) -> Record | None:
        """Return the record of a VM that is there."""
        return self._records.get(name)

    @property
    def configs(self) -> Mapping[str, VmConfig]:
        """Every configured VM, there or not."""
        return self._configs

    def configure(self, settings: ManagerSettings, vms: Sequence[VmConfig]) -> list[Record]:
        """Put another configuration in force; return the records of the VMs that are no longer in it."""
        is_other_period = settings.period_ns != self._settings.period_ns
        self._settings = settings
        self._configs = {vm.name: vm for vm in vms}
        gone = [self._records.pop(name) for name in tuple(self._records) if name not in self._configs]
        for record in self:
            record.config = self._configs[record.name]
            if is_other_period:
                record.excess = Excess(stall_ns(settings.period_ns))
                record.deadlines = Deadlines(stall_ns(settings.period_ns))
        return gone

    def restore(self, name: str, incarnation: str, target_pages: int) -> None:
        """Remember the target that a manager before this one sent to this life of a VM."""
        if name in self._configs:
            self._restored[name] = (incarnation, target_pages)

    def see(self, facts: Facts) -> Arrivals:
        """Take in one sweep; return which VMs came, went and were reset."""
        arrivals = Arrivals()
        found = {vm.name: vm for vm in facts.vms}
        for known in self:
            if known.name not in found:
                found[known.name] = _unseen(known)
        for vm in found.values():
            if vm.name not in self._configs:
                continue
            record = self._come_and_go(vm, facts.now_ns, arrivals)
            if record is None:
                continue
            if facts.is_new(vm.name):
                self._update(record, vm, facts, arrivals)
                continue
            record.facts = vm
            if vm.name in facts.measured:
                record.see_growth(facts.now_ns, expects=self._safeguards.growth)
        return arrivals

    def _come_and_go(self, vm: VmFacts, now_ns: int, arrivals: Arrivals) -> Record | None:
        """Return the record of this life of a VM, a new one if need be; None if it is absent."""
        record = self._records.get(vm.name)
        if record is not None and record.incarnation != vm.incarnation:
            del self._records[vm.name]
            arrivals.gone.append(vm.name)
            record = None
        if record is None and vm.incarnation:
            record = self._records[vm.name] = self._begun(vm, now_ns)
            arrivals.begun.append(record)
        return record

    def _begun(self, vm: VmFacts, now_ns: int) -> Record:
        config = self._configs[vm.name]
        incarnation, restored = self._restored.pop(vm.name, ("", 0))
        boot = vm.boot_bytes or max(vm.actual_bytes or 0, config.maximum_bytes)
        return Record(
            config=config,
            incarnation=vm.incarnation,
            resets=vm.resets,
            boot_pages=pages_of(boot),
            excess=Excess(stall_ns(self._settings.period_ns)),
            deadlines=Deadlines(stall_ns(self._settings.period_ns)),
            facts=vm,
            reported_after_ns=0,
            restored=vm.restored,
            began_ns=now_ns,
            mark_ns=now_ns,
            restored_pages=restored if incarnation == vm.incarnation else None,
        )

    def _update(self, record: Record, vm: VmFacts, facts: Facts, arrivals: Arrivals) -> None:
        now_ns = facts.now_ns
        record.facts = vm
        record.believe(pages_of(facts.host.mem_total_bytes) if self._safeguards.two_sources else None)
        record.see_boot()
        if vm.resets != record.resets:
            record.start_again(vm.resets, now_ns)
            arrivals.reset.append(record)
        record.see_actual(now_ns)
        record.see_demand(now_ns, believe_all=not self._safeguards.fresh_demand)
        record.see_growth(now_ns, expects=self._safeguards.growth)
        record.see_faults(now_ns, minds=self._safeguards.thrash)
        if allows(vm.run_state).another_guest or vm.restored != record.restored:
            record.restored = vm.restored
            record.await_guest(now_ns)
        self._settle(record)
        if not record.reported and fresh_report(record, now_ns, self._settings.period_ns):
            record.reported, record.first_report_ns = True, now_ns
        if vm.resident_bytes is not None and vm.actual_bytes is not None:
            record.excess.see(record.excess_pages, now_ns)
        record.see_progress(now_ns)

    def _settle(self, record: Record) -> None:
        """Count equal sweeps; after enough of them the VM's size is adopted as its target."""
        vm = record.facts
        fingerprint = (vm.incarnation, vm.device, vm.actual_bytes, vm.resets)
        record.equal_sweeps = record.equal_sweeps + 1 if fingerprint == record.fingerprint else 1
        record.fingerprint = fingerprint
        if allows(vm.run_state).another_guest:
            record.equal_sweeps = 0  # its size is not the one of the guest that is to come
        if record.actual_pages is None:
            return
        enough = record.equal_sweeps >= EQUAL_SWEEPS or not self._safeguards.two_sweeps
        if not self._settings.is_enforcing:
            record.target_pages = record.actual_pages
            if record.is_target_over:
                record.restored_pages, record.is_target_over = None, False
        elif not record.adopted and enough and vm.actual_bytes is not None:
            restored = None if record.is_target_over else record.restored_pages
            # What another program requested of virtio-mem is still offered, until the guest does not take it.
            offered = min(record.actual_pages + record.offered_pages, record.credible_pages)
            record.target_pages = offered if restored is None else restored
            record.restored_pages, record.is_target_over = None, False


def _unseen(record: Record) -> VmFacts:
    """Return the facts of a VM that a sweep lacks: it is silent, since it is not known to be gone."""
    return VmFacts(record.name, record.incarnation, SILENT, resets=record.resets)

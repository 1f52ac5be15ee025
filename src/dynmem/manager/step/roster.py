"""The VMs that are there: who has come, gone, been reset, reported, settled."""

from collections.abc import Iterator, Mapping, Sequence

from dynmem.manager.step.claims import Claims
from dynmem.manager.step.facts import SILENT, Facts, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.measured import Charge, charge
from dynmem.manager.step.record import Excess, Record
from dynmem.manager.step.safeguards import EQUAL_SWEEPS, Safeguards, stall_ns
from dynmem.manager.step.standing import fresh_report
from dynmem.units import format_pages, pages_of


class Roster:
    """One record per configured VM whose process is there, and its claim in the books."""

    def __init__(
        self, settings: ManagerSettings, vms: Sequence[VmConfig], claims: Claims, safeguards: Safeguards
    ) -> None:
        self._settings = settings
        self._configs: Mapping[str, VmConfig] = {vm.name: vm for vm in vms}
        self._claims = claims
        self._safeguards = safeguards
        self._records: dict[str, Record] = {}
        self._restored: dict[str, tuple[str, int]] = {}

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def get(self, name: str) -> Record | None:
        """The record of a VM that is there."""
        return self._records.get(name)

    @property
    def configs(self) -> Mapping[str, VmConfig]:
        """Every configured VM, there or not."""
        return self._configs

    def restore(self, name: str, incarnation: str, target_pages: int) -> None:
        """Remember the target that a manager before this one sent to this life of a VM."""
        if name in self._configs:
            self._restored[name] = (incarnation, target_pages)

    def see(self, facts: Facts) -> list[str]:
        """Take in one sweep; answer a line for each VM that came, went or was reset."""
        lines: list[str] = []
        found = {vm.name: vm for vm in facts.vms}
        for known in self:
            if known.name not in found:
                found[known.name] = _unseen(known)
        for vm in found.values():
            if vm.name not in self._configs:
                continue
            lines += self._come_and_go(vm, facts.now_ns)
            record = self._records.get(vm.name)
            if record is not None:
                lines += self._update(record, vm, facts.now_ns)
        return lines

    def charge(self, record: Record) -> Charge:
        """What this VM takes."""
        claim = self._claims.pages(record.name)
        overhead = record.known_overhead_pages
        if not self._safeguards.claims and record.resident_pages is not None:
            claim = min(claim, max(0, record.resident_pages - overhead))
        return charge(claim, record.resident_pages, overhead)

    def _come_and_go(self, vm: VmFacts, now_ns: int) -> list[str]:
        lines = []
        record = self._records.get(vm.name)
        if record is not None and record.incarnation != vm.incarnation:
            freed = self._claims.end(vm.name)
            del self._records[vm.name]
            record = None
            lines.append(f"{vm.name}: gone, {format_pages(freed)} freed")
        if record is None and vm.incarnation:
            self._begin(vm, now_ns)
        return lines

    def _begin(self, vm: VmFacts, now_ns: int) -> None:
        config = self._configs[vm.name]
        incarnation, restored = self._restored.pop(vm.name, ("", 0))
        boot = vm.boot_bytes or max(vm.actual_bytes or 0, config.maximum_bytes)
        record = Record(
            config=config,
            incarnation=vm.incarnation,
            resets=vm.resets,
            boot_pages=pages_of(boot),
            excess=Excess(stall_ns(self._settings.period_ns)),
            facts=vm,
            reported_after_ns=0,
            mark_ns=now_ns,
            restored_pages=restored if incarnation == vm.incarnation else None,
        )
        self._records[vm.name] = record
        self._claims.begin(record)

    def _update(self, record: Record, vm: VmFacts, now_ns: int) -> list[str]:
        lines = []
        record.facts = vm
        if vm.boot_bytes:
            record.boot_pages = pages_of(vm.boot_bytes)
        if vm.resets != record.resets:
            self._reset(record, vm, now_ns)
            lines.append(
                f"{vm.name}: reset, counts {format_pages(self._claims.pages(vm.name))} until it reports"
            )
        record.see_actual(now_ns)
        record.see_demand(now_ns, believe_all=not self._safeguards.fresh_demand)
        self._settle(record)
        record.reported = record.reported or fresh_report(record, now_ns, self._settings.period_ns)
        if vm.resident_bytes is not None and vm.actual_bytes is not None:
            record.excess.see(record.excess_pages, now_ns)
        record.see_progress(now_ns)
        self._claims.observe(record)
        return lines

    def _reset(self, record: Record, vm: VmFacts, now_ns: int) -> None:
        record.resets = vm.resets
        record.reported = False
        record.reported_after_ns = now_ns
        record.stopped = record.declined = None
        record.highest_pages = 0
        record.excess.forget()
        record.restart_clock(now_ns)
        self._claims.reset(record)

    def _settle(self, record: Record) -> None:
        """Count equal sweeps; after enough of them the size it has is adopted as its target."""
        vm = record.facts
        fingerprint = (vm.incarnation, vm.device, vm.actual_bytes, vm.resets)
        record.equal_sweeps = record.equal_sweeps + 1 if fingerprint == record.fingerprint else 1
        record.fingerprint = fingerprint
        if record.actual_pages is None:
            return
        enough = record.equal_sweeps >= EQUAL_SWEEPS or not self._safeguards.two_sweeps
        if not self._settings.is_enforcing:
            record.target_pages = record.actual_pages
        elif not record.adopted and enough and vm.actual_bytes is not None:
            record.target_pages = (
                record.actual_pages if record.restored_pages is None else record.restored_pages
            )
            record.restored_pages = None


def _unseen(record: Record) -> VmFacts:
    """A VM that a sweep says nothing about is silent: it is not known to be gone."""
    return VmFacts(record.name, record.incarnation, SILENT, resets=record.resets)

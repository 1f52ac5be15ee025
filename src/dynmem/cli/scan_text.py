"""What ``dynmem scan`` prints on a terminal: one table, what would help most, and what could not be seen."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from dynmem.cli.layout import broken, table
from dynmem.units import format_size

if TYPE_CHECKING:
    from dynmem.scan.report import ScanReport, VmReport

_HEAD: Final = (
    *("VM", "ID", "SIZE", "RESIDENT", "SWAPPED", "USED", "COULD GIVE", "BY", "STRANDED"),
    *("DEVICE", "DRIVER", "DISCARDS", "LIMIT"),
)
_WORDS: Final = frozenset({"VM", "BY", "DEVICE", "DRIVER", "DISCARDS"})
_NAME_MAX: Final = 24
_LINES_MAX: Final = 5  # pieces of advice below the table
_UNKNOWN, _NOTHING = "?", "-"
_DISCARDS: Final = {"effective": "yes", "ineffective": "no"}


def rendered(report: "ScanReport", columns: int | None, *, with_evidence: bool = False) -> str:
    """Return the table and what stands below it. Sentences end before `columns`."""
    lines = [_host(report)]
    if not report.vms:
        lines.append("no VM runs here that can be seen")
    else:
        lines += ["", *table([_HEAD, *map(_row, report.vms)], _WORDS)]
    texts = list(_evidence(report.vms) if with_evidence else _advice(report.vms))
    texts += [f"not seen: {each}" for each in report.unseen]
    if not with_evidence:
        texts += _unseen(report.vms)
    if texts:
        lines.append("")
    for text in texts:
        lines += broken(text, columns)
    return "\n".join(lines)


def _host(report: "ScanReport") -> str:
    total, available = _size(report.host_total_bytes), _size(report.host_available_bytes)
    swapped = _size(report.host_swap_used_bytes)
    sums = "".join(
        f", {what} {format_size(amount)}"
        for what, amount in (
            ("stranded", sum(vm.stranded_bytes or 0 for vm in report.vms)),
            ("could be given back", sum(vm.could_give_bytes or 0 for vm in report.vms)),
        )
        if amount
    )
    return f"host {total}, available {available}, in swap {swapped}; VMs {len(report.vms)}{sums}"


def _row(vm: "VmReport") -> tuple[str, ...]:
    device = "+".join(vm.devices) or (_UNKNOWN if vm.monitor is None else _NOTHING)
    if vm.free_page_reporting:
        device += "+reporting"
    return (
        vm.name if len(vm.name) <= _NAME_MAX else vm.name[: _NAME_MAX - 1] + "~",
        str(vm.number if vm.number is not None else vm.pid or _UNKNOWN),
        _size(vm.assigned_bytes or vm.configured_bytes),
        _size(vm.resident_bytes),
        _size(vm.swapped_bytes),
        _size(vm.guest_uses_bytes),
        _size(vm.could_give_bytes),
        _NOTHING if vm.knob == "none" else vm.knob,
        _size(vm.stranded_bytes),
        device,
        _NOTHING if vm.driver == "none" else _UNKNOWN if vm.driver == "unknown" else vm.driver,
        _DISCARDS.get(vm.discards, _UNKNOWN),
        _NOTHING if vm.limit_bytes is None and vm.limit_is_known else _size(vm.limit_bytes),
    )


def _size(size: int | None) -> str:
    return _UNKNOWN if size is None else format_size(size)


def _advice(vms: Sequence["VmReport"]) -> Iterator[str]:
    """Yield what would help most; the VMs come with the worst first."""
    wrong = [vm for vm in vms if vm.finding]
    for vm in wrong[:_LINES_MAX]:
        yield f"{vm.name}: {vm.finding}" + (f" -> {vm.change}" if vm.change else "")
    if len(wrong) > _LINES_MAX:
        yield f"and {len(wrong) - _LINES_MAX} more: `dynmem scan VM` or --json"


def _evidence(vms: Sequence["VmReport"]) -> Iterator[str]:
    for vm in vms:
        yield f"{vm.name}: driver {vm.driver}: {vm.driver_evidence}"
        yield f"  discards {vm.discards}: {vm.discards_evidence}"
        yield f"  could give {_size(vm.could_give_bytes)} by {vm.knob}: {vm.knob_reason}"
        if vm.lock:
            yield f"  locked by Proxmox ({vm.lock}): leave it alone until that is over"
        if vm.limit_file:
            yield f"  limit: {vm.limit_file}"
        yield from (f"  not seen: {each}" for each in vm.unseen)
        if vm.finding:
            yield f"  {vm.finding}" + (f" -> {vm.change}" if vm.change else "")


def _unseen(vms: Sequence["VmReport"]) -> Iterator[str]:
    """Yield what could not be seen of VMs, each reason once."""
    reasons = Counter(each for vm in vms for each in vm.unseen if each not in vm.finding)
    for reason, count in reasons.most_common(_LINES_MAX):
        yield f"not seen of {count} VM{'s' if count > 1 else ''}: {reason}"
    if len(reasons) > _LINES_MAX:
        yield f"and {len(reasons) - _LINES_MAX} more that could not be seen: --json"

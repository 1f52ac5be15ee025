"""What `dynmem duplicates` prints for people: a table for each account, and what the figures mean."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from dynmem.cli.layout import broken, table
from dynmem.units import format_size

if TYPE_CHECKING:
    from dynmem.duplicates.report import AccountFigures, Report, VmFigures

_KSM_NOTE: Final = (
    "KSM merges private memory only. The RAM above is in shared files, so KSM would save that much only if"
    " the VMs were started again with private RAM."
)
_BALLOON_NOTE: Final = (
    "BALLOON counts zero pages: a guest that does not use them can give them up, and what else it has free"
    " only the guest knows."
)
_LEAK_NOTE: Final = (
    "Sharing pages lets one VM find out what is in another's memory: read docs/duplicates.md before you turn"
    " it on."
)


def rendered(report: "Report", columns: int | None = None) -> str:
    """Return a table for each account, and what the figures mean. Lines of prose end before `columns`."""
    sections = [
        _table(account, [vm for vm in report.vms if vm.account == account.name])
        for account in report.accounts
    ]
    notes = [*report.notes, *(note for each in report.accounts for note in _notes(each))]
    notes += [_KSM_NOTE, _BALLOON_NOTE, _LEAK_NOTE]
    sections.append("\n".join(line for note in notes for line in broken(f"- {note}", columns)))
    return "\n\n".join(sections)


def _notes(account: "AccountFigures") -> Iterator[str]:
    if account.changed_bytes:
        size = format_size(account.changed_bytes)
        yield f"{account.name}: {size} changed before it was compared, and does not count as equal"
    if account.uncompared_bytes:
        size = format_size(account.uncompared_bytes)
        yield f"{account.name}: {size} was not compared: thousands of different pages had one hash"


_FIGURES: Final = ("read", "zero", "equal", "inside", "across", "sharing", "ksm", "balloon")


def _table(account: "AccountFigures", vms: "Sequence[VmFigures]") -> str:
    rows = [["VM", "RAM", *(name.upper() for name in _FIGURES)]]
    figures = [[vm.ram_bytes, *(getattr(vm, f"{name}_bytes") for name in _FIGURES)] for vm in vms]
    rows += [[vm.name, *map(format_size, row)] for vm, row in zip(vms, figures, strict=True)]
    if len(vms) > 1:
        rows.append(["sum", *(format_size(sum(column)) for column in zip(*figures, strict=True))])
    return "\n".join([f"account {account.name}", *table(rows, {"VM"})])

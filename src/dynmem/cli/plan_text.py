"""What would be done, as people read it."""

from collections.abc import Iterator
from typing import Final

from dynmem.cli.layout import broken, table
from dynmem.cli.looking_back import local
from dynmem.dates import parse_date
from dynmem.units import NS_PER_MS, format_size, size_cell
from dynmem.what_if.outlook import Outlook, PlanReport, VmOutlook

_WORDS: Final = ("VM", "PRIORITY")


def rendered(found: PlanReport, columns: int | None) -> str:
    """Return it as text: the host, a table of the VMs, a line about each, the moves, what is not possible."""
    shown = found.tried or found.now
    sections = [
        _prose(_host(found), columns),
        _table(found),
        _prose((f"{vm.name}: {vm.reason}" for vm in shown.vms), columns),
        _prose(_moves(shown), columns),
        _prose(_obstacles(shown), columns),
    ]
    return "\n\n".join(section for section in sections if section)


def _prose(lines: Iterator[str], columns: int | None) -> str:
    return "\n".join(piece for line in lines for piece in broken(line, columns))


def _host(found: PlanReport) -> Iterator[str]:
    at = local(parse_date(found.at) // NS_PER_MS)
    note = "" if found.mode == "enforce" else " (nothing is sent)"
    yield f"{at}, {found.source}; {found.mode}{note}"
    if found.tried is None:
        yield _figures(found.now)
    else:
        yield f"now:   {_figures(found.now)}"
        yield f"tried: {_figures(found.tried)}"


def _figures(look: Outlook) -> str:
    room, free = format_size(look.room_bytes), format_size(abs(look.free_bytes))
    what = "measured free" if look.free_bytes >= 0 else "more held or promised than there is"
    text = f"budget {format_size(look.budget_bytes)}, {room} to divide, {free} {what}"
    if look.ready_bytes:
        text += f", {format_size(look.ready_bytes)} kept ready"
    if look.shortage_bytes:
        text += f"; {format_size(look.shortage_bytes)} more is wanted than there is"
    return text


def _table(found: PlanReport) -> str:
    now, tried = found.now, found.tried
    names = dict.fromkeys(vm.name for look in (now, tried) if look is not None for vm in look.vms)
    if not names:
        return "no VM is there"
    befores = {vm.name: vm for vm in now.vms}
    afters = {vm.name: vm for vm in tried.vms} if tried is not None else befores
    heads = ["VM", "PRIORITY", "DEMAND", "NOW", "PLANNED"]
    rows = [heads + (["TRIED"] if tried is not None else []) + ["WANTED", "SHORT"]]
    for name in names:
        before, then = befores.get(name), afters.get(name)
        one = then or before
        assert one is not None
        row = [name, one.priority, size_cell(one.demand_bytes), size_cell(one.now_bytes), _planned(before)]
        row += [_planned(then)] if tried is not None else []
        row += [size_cell(one.wanted_bytes), size_cell(one.short_bytes) if one.short_bytes else ""]
        rows.append(row)
    return "\n".join(table(rows, _WORDS))


def _planned(vm: VmOutlook | None) -> str:
    """Return what a VM has in the end; a VM that is left alone keeps what it has."""
    return "" if vm is None else size_cell(vm.planned_bytes if vm.planned_bytes is not None else vm.now_bytes)


def _moves(look: Outlook) -> Iterator[str]:
    if not look.moves:
        yield "Nothing is to be moved."
        return
    yield "What would be done, in this order:"
    turn = 1
    for number, each in enumerate(look.moves, 1):
        if each.turn != turn:
            turn = each.turn
            yield "   when that is given and measured free:"
        paid = f" [{each.measurement}]" if each.measurement else ""
        way = "gives" if each.to_bytes < each.from_bytes else "gets"
        size = format_size(abs(each.to_bytes - each.from_bytes))
        before, then = format_size(each.from_bytes), format_size(each.to_bytes)
        yield f"{number:2}. {each.vm} {way} {size}: from {before} to {then}{paid}"
    if not look.is_at_rest:
        yield "   and more: sizes still move after that"


def _obstacles(look: Outlook) -> Iterator[str]:
    if look.not_possible:
        yield "Not possible:"
        for each in look.not_possible:
            yield f"  - {each}"

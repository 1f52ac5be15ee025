"""``dynmem status``, ``reserve`` and ``release``: short requests to the running manager.

Nothing heavy is imported: `status` takes less than 150 ms from start to finish.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dynmem.errors import ConfigError, ExitCode
from dynmem.manager.api.client import ask, status_of
from dynmem.manager.paths import default_socket
from dynmem.units import NS_PER_S, format_size, parse_duration, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dynmem.manager.api.messages import StatusReply
    from dynmem.manager.step.results import Reservation
    from dynmem.manager.step.view import VmView

_socket_option = click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    envvar="DYNMEM_SOCKET",
    metavar="PATH",
    help="The manager's socket [default: $DYNMEM_SOCKET, or that of this user's manager].",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the whole reply as JSON.")


@click.command()
@_socket_option
@_json_option
def status(path: Path | None, *, as_json: bool) -> int:
    """Show how much memory each VM has, and why.

    \b
    Examples:
      dynmem status
      dynmem status --json | jq '.vms[] | {name, actual_bytes, reason}'

    Exit codes: 0 OK, 1 not a manager or one of another version, 2 wrong usage, 3 no manager is running,
    4 not permitted, 7 no reply in time.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    answer = ask(path or default_socket(), {"command": "status"})
    click.echo(json.dumps(answer, indent=2) if as_json else rendered(status_of(answer)))
    return ExitCode.OK


@click.command()
@click.argument("size")
@click.option(
    "--name", metavar="VM", help="The VM it is for. Once that VM has started, the reservation ends."
)
@click.option(
    "--wait", "wait", default="30s", show_default=True, metavar="TIME", help="How long to wait for room."
)
@click.option(
    "--hold",
    "hold",
    default="60s",
    show_default=True,
    metavar="TIME",
    help="How long to keep the room once it is there.",
)
@_socket_option
@_json_option
def reserve(size: str, name: str | None, wait: str, hold: str, path: Path | None, *, as_json: bool) -> int:
    """Make room for a VM that is about to start; shrink others if necessary.

    Exit code 0: SIZE is free now, and kept until the VM named by --name has started, or for --hold.
    Exit code 5: there can never be that much room. Exit code 7: not in time; nothing is kept. With --wait 0s
    it looks once and does not wait.

    \b
    Example:
      dynmem reserve 2GiB --name web --wait 30s && virsh start web
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    wait_ns, hold_ns = _duration("--wait", wait), _duration("--hold", hold)
    request = {
        "command": "reserve",
        "name": name or f"reservation-{os.getpid()}",
        "size_bytes": _size(size),
        "wait_ns": wait_ns,
        "hold_ns": hold_ns,
    }
    answer = ask(path or default_socket(), request, timeout_s=wait_ns / NS_PER_S + 20)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        size = format_size(answer["size_bytes"])
        click.echo(f"{answer['name']}: room for {size}: {answer['reason']} for {hold_ns / NS_PER_S:g} s")
    return ExitCode.OK


@click.command()
@click.argument("vm", required=False)
@click.option("--all", "everyone", is_flag=True, help="Release all VMs.")
@click.option("--undo", is_flag=True, help="Manage the VM again.")
@_socket_option
@_json_option
def release(vm: str | None, path: Path | None, *, everyone: bool, undo: bool, as_json: bool) -> int:
    """Grow a VM to its full size and leave it alone until --undo.

    Its full size is what it booted with or, where memory can be hot-added (hv-balloon with a memdev), its
    maximum in the manager's file. The others make room first, but the VM gets its full size in any case, even
    beyond the budget. It stays released when it or the manager restarts.

    \b
    Examples:
      dynmem release web         grow it to its full size
      dynmem release --all       before you remove the manager from the host
      dynmem release web --undo  manage it again

    Exit codes: 0 OK, 1 not a manager or one of another version, 2 wrong usage or no such VM, 3 no manager is
    running, 4 not permitted, 7 no reply in time.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    if (vm is None) != everyone:
        raise ConfigError("name one VM, or use --all: `dynmem release web` or `dynmem release --all`")
    request: dict[str, Any] = {"command": "take-up" if undo else "release"}
    if vm is not None:
        request["vm"] = vm
    answer = ask(path or default_socket(), request)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    elif undo:
        taken_up = answer["taken_up"]
        none = f"{vm} was not released" if vm is not None else "no VM was released"
        click.echo(f"managed again: {', '.join(taken_up)}" if taken_up else f"{none}: nothing is changed")
    else:
        note = "" if answer["sent"] else " (observe mode: nothing was sent)"
        click.echo(f"released: {', '.join(answer['released'])}{note}")
        if answer["promised_bytes"] > answer["budget_bytes"]:
            promised, budget = (format_size(answer[key]) for key in ("promised_bytes", "budget_bytes"))
            click.echo(f"note: released VMs may take {promised} together, the budget is {budget}", err=True)
    return ExitCode.OK


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"SIZE: {error}") from error


def _duration(option: str, text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error


def rendered(status: "StatusReply") -> str:
    """Return the reply as text: the host in three lines, a table, a reason per VM."""
    sections = [_host(status), _table(status.vms), _reasons(status)]
    if status.reservations:
        sections.insert(1, _reservations(status.reservations))
    return "\n\n".join(section for section in sections if section)


def _bytes(size: int | None) -> str:
    return "-" if size is None else format_size(size)


def _host(status: "StatusReply") -> str:
    manager, free = status.manager, status.measured_free
    period_s = status.period_ns / NS_PER_S
    note = " (nothing is sent)" if status.mode == "observe" else ""
    lines = [
        f"{status.mode}{note}; a sweep every {period_s:g} s, the last {_ago(manager.swept_ago_s)}",
        f"budget {format_size(status.budget_bytes)}, slush {format_size(status.slush_bytes)}",
    ]
    if free is not None:
        lines[1] += f", MemAvailable {format_size(free.mem_available_bytes)}"
        lines.append(f"free: {free.text}")
    if status.shortage_bytes:
        lines.append(f"SHORTAGE: {format_size(status.shortage_bytes)} more is wanted than is available")
    if status.emergency:
        lines.append("EMERGENCY: the VMs occupy more than the budget")
    if manager.journal_problem:
        lines.append(f"JOURNAL: {manager.journal_problem}")
    if manager.config_problem:
        lines.append(f"CONFIGURATION: {manager.config_problem}")
    return "\n".join(lines)


def _ago(seconds: float | None) -> str:
    return "still to come" if seconds is None else f"{seconds:.1f} s ago"


def _reservations(reservations: "Sequence[Reservation]") -> str:
    return "\n".join(
        f"reserved for {each.name}: {format_size(each.size_bytes)}, {each.state}: {each.reason}"
        for each in reservations
    )


COLUMNS: Final[tuple[tuple[str, "Callable[[VmView], str]"], ...]] = (
    ("VM", lambda vm: vm.name),
    ("STATE", lambda vm: vm.run_state),
    ("DEMAND", lambda vm: _bytes(vm.demand_bytes)),
    ("WANTED", lambda vm: _bytes(vm.wanted_bytes)),
    ("TARGET", lambda vm: _bytes(vm.assigned_bytes)),
    ("ACTUAL", lambda vm: _bytes(vm.actual_bytes)),
    ("RESIDENT", lambda vm: _bytes(vm.resident_bytes)),
)


def _table(vms: "Sequence[VmView]") -> str:
    if not vms:
        return "no VMs are configured"
    rows = [[title for title, _ in COLUMNS]]
    rows += [[cell(vm) for _, cell in COLUMNS] for vm in vms]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _reasons(status: "StatusReply") -> str:
    """Return why each VM has its size, what the last step requested, and where the figures come from."""
    lines = []
    for vm in status.vms:
        said = [_own_reason(vm)]
        if vm.change is not None:
            said.append(vm.change.reason + (f" [{vm.change.measurement}]" if vm.change.measurement else ""))
        first, *more = [sentence for sentence in said if sentence] or ["as wanted"]
        lines.append(f"{vm.name}: {first}")
        lines += [f"    {sentence}" for sentence in more]
        if vm.problem and vm.problem not in vm.reason:
            lines.append(f"    {vm.problem}")
        if vm.resident_source:
            demand = f"; demand = {vm.demand_source}" if vm.demand_source else ""
            own = f" ({format_size(vm.process_bytes)} besides in its process)" if vm.process_bytes else ""
            lines.append(f"    resident by {vm.resident_source}{own}{demand}")
    return "\n".join(lines)


def _own_reason(vm: "VmView") -> str:
    """Return a VM's reason without the part at its end that the last step's change says, too."""
    parts, changed = vm.reason.split("; "), vm.change.reason if vm.change is not None else ""
    own = next(n for n in range(len(parts) + 1) if n == len(parts) or "; ".join(parts[n:]) in changed)
    return "; ".join(parts[:own])

"""``dynmem status``, ``explain``, ``reserve``, ``release``, ``pause``: requests to the running manager.

Nothing heavy is imported: `status` takes less than 150 ms from start to finish.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dynmem.cli.explain_text import explained
from dynmem.cli.layout import terminal_columns
from dynmem.cli.options import socket_option, state_option
from dynmem.cli.status_text import rendered
from dynmem.cli.vm_name import VM_NAME
from dynmem.errors import ConfigError, ExitCode, quoted
from dynmem.limits import API_WAIT_NS_MAX, PAUSE_NS_MAX
from dynmem.manager.api.client import ask, status_of
from dynmem.manager.paths import default_socket
from dynmem.units import NS_PER_S, format_size, named_size, parse_duration

_json_option = click.option("--json", "as_json", is_flag=True, help="Print the whole reply as JSON.")


@click.command()
@socket_option
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
    click.echo(json.dumps(answer, indent=2) if as_json else rendered(status_of(answer), terminal_columns()))
    return ExitCode.OK


@click.command()
@click.argument("name", metavar="VM", type=VM_NAME)
@click.option(
    "--at", metavar="TIME", help="As it was then: 3am, 'yesterday 22:30', 2h, ...; from the history."
)
@state_option
@socket_option
@_json_option
def explain(name: str, path: Path | None, at: str | None, state: Path | None, *, as_json: bool) -> int:
    """Show how the size of VM was computed: every figure, and where it comes from.

    Now, that is asked of the running manager. With --at, it is read from the file of the history, and no
    manager need be running: the last sweep up to that time of which something is kept.

    \b
    Examples:
      dynmem explain web
      dynmem explain web --at 3am

    Exit codes: as of status; 2 if no VM of this name is configured, or known to the history.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    if at is not None:
        from dynmem.cli.explain_at import explained_at

        click.echo(explained_at(name, at, state, as_json=as_json))
        return ExitCode.OK
    if state is not None:
        raise ConfigError("--state: that is where the history is: say also --at which time")
    answer = ask(path or default_socket(), {"command": "status"})
    found = status_of(answer)
    vm = next((each for each in found.vms if each.name == name), None)
    if vm is None:
        known = ", ".join(each.name for each in found.vms) or "none"
        raise ConfigError(f"no VM {quoted(name)} is configured: there is {known}")
    if as_json:
        versions = {key: answer[key] for key in ("schema_version", "schema") if key in answer}
        shown = next(each for each in answer["vms"] if each["name"] == name)
        click.echo(json.dumps({**versions, **shown}, indent=2))
    else:
        click.echo(explained(found, vm))
    return ExitCode.OK


@click.command()
@click.argument("size")
@click.option(
    "--name",
    metavar="VM",
    type=VM_NAME,
    help="The VM it is for. Once that VM has started, the reservation ends.",
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
@socket_option
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
        "size_bytes": named_size("SIZE", size),
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
@click.argument("vm", required=False, type=VM_NAME)
@click.option("--all", "everyone", is_flag=True, help="Release all VMs.")
@click.option("--undo", is_flag=True, help="Manage the VM again.")
@socket_option
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
    answer = _ordered("take-up" if undo else "release", vm, path)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    elif undo:
        click.echo(_managed_again(answer["taken_up"], vm, "released"))
    else:
        note = "" if answer["sent"] else " (nothing was sent: only enforce mode does that)"
        click.echo(f"released: {', '.join(answer['released'])}{note}")
        if answer["promised_bytes"] > answer["budget_bytes"]:
            promised, budget = (format_size(answer[key]) for key in ("promised_bytes", "budget_bytes"))
            click.echo(f"note: released VMs may take {promised} together, the budget is {budget}", err=True)
    return ExitCode.OK


@click.command()
@click.argument("vm", required=False, type=VM_NAME)
@click.option("--all", "everyone", is_flag=True, help="Pause all VMs.")
@click.option("--for", "for_", metavar="TIME", help="How long, such as 30min or 2h; at most 31 days (744h).")
@click.option("--undo", is_flag=True, help="Manage the VM again now.")
@socket_option
@_json_option
def pause(
    vm: str | None, for_: str | None, path: Path | None, *, everyone: bool, undo: bool, as_json: bool
) -> int:
    """Leave a VM exactly as it is for a while, or until --undo.

    Nothing is sent to it meanwhile, not even when memory is out. What it holds counts in full: the others
    share the rest, and the log says when that is less than their minimums. The pause holds when the VM or the
    manager restarts, up to the same date.

    \b
    Examples:
      dynmem pause web --for 2h     nothing touches it for two hours
      dynmem pause --all --for 1h   while you work on the host
      dynmem pause web --undo       manage it again now

    Exit codes: 0 OK, 1 not a manager or one of another version, 2 wrong usage or no such VM, 3 no manager is
    running, 4 not permitted, 5 the VM is released, 7 no reply in time.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    if (vm is None) != everyone:
        raise ConfigError("name one VM, or use --all: `dynmem pause web --for 2h`")
    if (for_ is None) != undo:
        raise ConfigError("say for how long, or use --undo: `dynmem pause web --for 2h`")
    how_long = {} if for_ is None else {"for_ns": _duration("--for", for_, PAUSE_NS_MAX)}
    answer = _ordered("resume" if undo else "pause", vm, path, **how_long)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    elif undo:
        click.echo(_managed_again(answer["resumed"], vm, "paused"))
    else:
        names = ", ".join(answer["paused"]) or "none, since all are released"
        click.echo(f"paused until {answer['until']}: {names}")
    return ExitCode.OK


def _ordered(command: str, vm: str | None, path: Path | None, **figures: int) -> dict[str, Any]:
    """Return the manager's reply to a command about one VM; None: all of them."""
    request: dict[str, Any] = {"command": command, **figures}
    if vm is not None:
        request["vm"] = vm
    return ask(path or default_socket(), request)


def _managed_again(names: Sequence[str], vm: str | None, state: str) -> str:
    """Return what an --undo did; *state* is what it ended for these VMs."""
    if names:
        return f"managed again: {', '.join(names)}"
    none = f"{vm} was not {state}" if vm is not None else f"no VM was {state}"
    return f"{none}: nothing is changed"


def _duration(option: str, text: str, most_ns: int = API_WAIT_NS_MAX) -> int:
    try:
        duration_ns = parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from error
    if duration_ns > most_ns:
        hours = most_ns // (3600 * NS_PER_S)
        raise ConfigError(f"{option}: {quoted(text)} is above {hours}h, the limit: shorten it")
    return duration_ns

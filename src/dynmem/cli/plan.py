"""``dynmem plan``: what would be done now, and why; and with other settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.cli.layout import terminal_columns
from dynmem.cli.looking_back import folder_of, in_json, moment_ms
from dynmem.cli.options import socket_option, state_option
from dynmem.cli.vm_name import VM_NAME, VM_SETTING
from dynmem.errors import DynmemError, ExitCode, RemoteProtocolError, UnreachableError
from dynmem.manager.api.client import ask
from dynmem.manager.paths import default_socket
from dynmem.units import NS_PER_MS

if TYPE_CHECKING:
    from dynmem.history.past import Moment

_NO_STEP: Final = "it has made no step yet: try again in a moment"


@click.command()
@click.option("--budget", metavar="SIZE", help="Try another budget.")
@click.option(
    "--set",
    "settings",
    type=VM_SETTING,
    multiple=True,
    metavar="VM.SETTING=VALUE",
    help="Try another minimum, maximum, buffer, weight or priority of a VM. May be repeated.",
)
@click.option("--without", type=VM_NAME, multiple=True, metavar="VM", help="Try it without this VM.")
@click.option(
    "--with", "more", multiple=True, metavar="SIZE:NAME", help="Try it with one more VM that may take SIZE."
)
@click.option("--at", metavar="TIME", help="From how it was then: 3am, 2h, ...; from the history.")
@state_option
@socket_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def plan(
    budget: str | None,
    settings: tuple[str, ...],
    without: tuple[str, ...],
    more: tuple[str, ...],
    at: str | None,
    state: Path | None,
    path: Path | None,
    *,
    as_json: bool,
) -> int:
    """Show what the manager would do now, in which order, and why; and what other settings would change.

    Nothing is changed. The figures are those of the running manager's last step; if no manager replies, or
    with --at, of the last one in its history. The plan and the moves are computed by the manager's own code,
    as if guests went on needing what they need now.

    \b
    Examples:
      dynmem plan
      dynmem plan --budget 24G
      dynmem plan --set web.maximum=8G --set web.priority=high
      dynmem plan --without db --with 4G:new
      dynmem plan --at 3am --budget 32G --json

    Exit codes: 0 OK, 2 wrong usage or no such VM, 3 neither a manager nor a history, or nothing is kept of
    that time.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.cli.plan_text import rendered
    from dynmem.what_if.knobs import parse
    from dynmem.what_if.outlook import plan_report

    knobs = parse(budget, settings, without, more)
    moment, source = _moment(path, state, at)
    found = plan_report(moment, source, knobs)
    if as_json:
        click.echo(in_json(found))
    else:
        click.echo(rendered(found, terminal_columns()))
    return ExitCode.OK


def _moment(path: Path | None, state: Path | None, at: str | None) -> "tuple[Moment, str]":
    """Return the step to begin from, and where it comes from."""
    if at is not None:
        return _recorded(state, moment_ms("--at", at))
    socket = path or default_socket()
    try:
        return _asked(socket), f"from the manager at {socket}"
    except DynmemError as error:
        problem = error
    try:
        moment, source = _recorded(state, moment_ms("--at", "now"))
    except DynmemError as error:
        raise UnreachableError(f"{problem}; and there is no history instead: {error}") from error
    return moment, f"{source}; the manager: {problem}"


def _recorded(state: Path | None, at_ms: int) -> "tuple[Moment, str]":
    from dynmem.history.past import Past

    past = Past(folder_of(state))
    try:
        moment = past.moment(at_ms)
    finally:
        past.close()
    return moment, f"from the history in {past.path}{moment.note}"


def _asked(socket: Path) -> "Moment":
    """Return the last step of the running manager."""
    import msgspec

    from dynmem.dates import parse_date
    from dynmem.history.past import EACH_SWEEP, Moment
    from dynmem.manager.step.sample import Sample

    reply = ask(socket, {"command": "sample"})
    if reply.get("sample") is None:
        raise UnreachableError(f"the manager at {socket}: {_NO_STEP}")
    try:
        sample = msgspec.convert(reply["sample"], Sample)
        at_ms = parse_date(str(reply["at"])) // NS_PER_MS
    except (msgspec.ValidationError, KeyError, ValueError) as error:
        raise RemoteProtocolError(
            f"the manager at {socket} is of another version ({error}): restart `dynmem run`"
        ) from error
    return Moment(at_ms, EACH_SWEEP, sample.host, sample.vms)

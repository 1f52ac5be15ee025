"""``dynmem history`` and ``dynmem events``: what was, and what happened, from the file of the history."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynmem.cli.layout import terminal_columns
from dynmem.cli.looking_back import folder_of, in_json, moment_ms, span_ms
from dynmem.cli.options import state_option
from dynmem.cli.vm_name import VM_NAME
from dynmem.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dynmem.history.event import Event

ROWS = 30
# From one look for new events to the next, seconds.
_FOLLOW_S = 1.0
# Events that are shown before the new ones.
_FOLLOW_FIRST = 10


@click.command()
@click.argument("name", metavar="[VM]", required=False, type=VM_NAME)
@click.option("--since", default="1h", show_default=True, metavar="TIME", help="From when: 3am, 2h, 7d, ...")
@click.option("--until", default="now", show_default=True, metavar="TIME", help="Until when.")
@click.option(
    "--rows", default=ROWS, show_default=True, metavar="N", help="At most so many rows; 0: all that are kept."
)
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what all VMs needed as a trace without names, for `dynmem simulate --trace`.",
)
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print the rows and the events as JSON.")
def history(
    name: str | None,
    since: str,
    until: str,
    rows: int,
    export: Path | None,
    state: Path | None,
    *,
    as_json: bool,
) -> int:
    """Show what VM had, needed and was given over a time; without VM, the host.

    It reads the file of the history, so no manager need be running. Times are by the clock of this host. Each
    row shows means; with --json also the least and the most.

    \b
    Examples:
      dynmem history web --since 3am
      dynmem history web --since "yesterday 22:00" --until 6am
      dynmem history --since 7d                         the host
      dynmem history --since 7d --export host.trace     without names
      dynmem history web --json --rows 0 | jq '.rows[] | [.at, .levels.demand.high]'

    Exit codes: 0 OK, 2 wrong usage, no such VM or no history, 3 there is none of that time or folder.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.cli.history_text import rendered
    from dynmem.history.past import Past
    from dynmem.history.spans import spans_of, step_ms

    if export is not None:
        from dynmem.cli.simulate import exported, recorded_load

        if name is not None:
            raise ConfigError("--export: a trace holds all VMs: leave the VM out")
        return exported(recorded_load(since, until, state)[0], export)
    if rows < 0:
        raise ConfigError(f"--rows: {rows} is below 0: write how many, or 0 for all")
    since_ms, until_ms = span_ms(since, until)
    past = Past(folder_of(state))
    if name is not None:
        past.known(name)
    step = step_ms(since_ms, until_ms, rows) if rows else 0
    found = spans_of(past, name, since_ms, until_ms, step)
    events = [each for each in past.events(since_ms, until_ms) if each.vm == name]
    if not found and not events:
        raise past.nothing(f"{name or 'the host'} from {since} until {until}")
    if as_json:
        reply = {"vm": name, "step_s": step / 1000 or None, "rows": found, "events": events}
        click.echo(in_json(reply))
    else:
        click.echo(rendered(name, found, events, terminal_columns()))
    return ExitCode.OK


@click.command()
@click.argument("name", metavar="[VM]", required=False, type=VM_NAME)
@click.option("--since", metavar="TIME", help="From when: 3am, 2h, 7d, ... [default: 24h]")
@click.option("--until", default="now", show_default=True, metavar="TIME", help="Until when.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only such events; may be given more than once."
)
@click.option("--follow", "-f", is_flag=True, help="Go on: print what happens from now on.")
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def events(
    name: str | None,
    since: str | None,
    until: str,
    kinds: tuple[str, ...],
    state: Path | None,
    *,
    follow: bool,
    as_json: bool,
) -> int:
    """Show what happened on this host, or to VM, and why.

    It reads the file of the history, so no manager need be running. With --follow, the last ten come first,
    and new ones about a second after they happen; Ctrl-C ends it.

    \b
    Examples:
      dynmem events --since 3am
      dynmem events web --kind moved --kind "would move"
      dynmem events --follow --json | jq -c 'select(.kind == "shortage")'

    Exit codes: 0 OK, 2 wrong usage, no such VM or no history, 3 no such folder, 130 Ctrl-C.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from typing import get_args

    from dynmem.cli.history_text import event_lines
    from dynmem.history.event import Kind, encoded

    for kind in kinds:
        if kind not in get_args(Kind):
            raise ConfigError(f"--kind: there is no {kind!r}: there are {', '.join(get_args(Kind))}")
    folder = folder_of(state)
    first = moment_ms("--since", since or "24h")
    last = moment_ms("--until", until)
    if follow and until != "now":
        raise ConfigError("--until: with --follow there is no end: leave out one of the two")
    columns = terminal_columns()
    for event in (
        _following(folder, name, first if since else None) if follow else _between(folder, name, first, last)
    ):
        if kinds and event.kind not in kinds:
            continue
        if as_json:
            click.echo(encoded(event).decode())
        else:
            click.echo("\n".join(event_lines(event, columns)))
    return ExitCode.OK


def _between(folder: Path, name: str | None, since_ms: int, until_ms: int) -> "Iterator[Event]":
    from dynmem.history.past import Past

    past = Past(folder)
    if name is not None:
        past.known(name)
    for event in past.events(since_ms, until_ms):
        if name in (None, event.vm):
            yield event
    past.close()


def _following(folder: Path, name: str | None, since_ms: int | None) -> "Iterator[Event]":
    """Yield events as they come. The file is opened at each look: it may have been set aside meanwhile."""
    from dynmem.history.past import Past

    last_id, opened = 0, 0
    is_first = True
    while True:
        past = Past(folder)
        if past.file_id != opened:
            last_id, opened = 0, past.file_id
        found = [event for event in past.events(since_ms or 0, after_id=last_id) if name in (None, event.vm)]
        last_id = max(last_id, past.last_event())
        past.close()
        yield from found if since_ms is not None or not is_first else found[-_FOLLOW_FIRST:]
        is_first = False
        time.sleep(_FOLLOW_S)

"""``dynmem fit``: how many more VMs of a kind fit, from the history, and how wrong such answers were."""

import re
import time
from datetime import datetime
from pathlib import Path
from typing import Final

import click

from dynmem.cli.layout import terminal_columns
from dynmem.cli.looking_back import folder_of, in_json, span_ms
from dynmem.cli.options import state_option
from dynmem.cli.vm_name import VM_NAME
from dynmem.errors import ConfigError, ExitCode, quoted
from dynmem.units import named_size

_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,6})?) ?%?")
_HUNDRED: Final = 100


@click.command()
@click.option(
    "--like",
    type=VM_NAME,
    metavar="VM",
    help="What one more is like [default: the median of those that run].",
)
@click.option(
    "--size", metavar="SIZE", help="One more needs SIZE at all times, such as 4G: nothing is known of it."
)
@click.option("--vms", type=click.IntRange(1, 999), metavar="N", help="Say whether N more fit.")
@click.option(
    "--since", default="28d", show_default=True, metavar="TIME", help="From when: 14d, 2026-03-02, ..."
)
@click.option("--until", default="now", show_default=True, metavar="TIME", help="Until when.")
@click.option(
    "--risk",
    default="1%",
    show_default=True,
    metavar="PERCENT",
    help="The part of the time in which memory may be short.",
)
@click.option(
    "--snapshot", type=click.Path(path_type=Path), metavar="FILE", help="Write the last week for --hosts."
)
@click.option("--no-names", is_flag=True, help="Leave the names of host and VMs out of --snapshot.")
@click.option("--hosts", is_flag=True, help="Answer for the hosts whose snapshots are FILES.")
@click.option("--keep", metavar="SIZE", help="With --hosts: keep SIZE free on each, as for high priority.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print everything, each held-out day too, as JSON.")
def fit(
    like: str | None,
    size: str | None,
    vms: int | None,
    since: str,
    until: str,
    risk: str,
    state: Path | None,
    snapshot: Path | None,
    keep: str | None,
    files: tuple[Path, ...],
    *,
    hosts: bool,
    no_names: bool,
    as_json: bool,
) -> int:
    """Show how many more VMs of a kind fit on this host, and how wrong such answers were.

    From the file of the history alone: no manager need be running, and observing is enough. Each day of the
    history is also held out once and answered from the days before it; the errors of these answers are shown
    beside the answer. docs/fit.md says how it is computed, and what it scored.

    With --hosts it answers for many hosts, from the snapshots that they wrote with --snapshot: how many more
    fit on each, to which the next should go, and which are at risk.

    \b
    Examples:
      dynmem fit
      dynmem fit --like web --risk 0.1%
      dynmem fit --size 4G --vms 3 && echo start them
      dynmem fit --snapshot /var/lib/dynmem/$(hostname).json
      dynmem fit --hosts --like db-1/web --vms 2 *.json

    Exit codes: 0 OK, 2 wrong usage, no such VM or no history, 3 there is none of that time or folder, 4 the
    file of --snapshot cannot be written, 5 the VMs of --vms do not fit, 6 some files were left out.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.cli.fit_text import rendered
    from dynmem.fit.answer import answer_of, model_of
    from dynmem.fit.recorded import trace_of
    from dynmem.history.past import Past

    share = risk_of(risk)
    bytes_each = None if size is None else named_size("--size", size)
    if hosts:
        from dynmem.cli.fit_hosts import show_hosts

        kept = 0 if keep is None else named_size("--keep", keep)
        now_ms = round(time.time() * 1000)
        return show_hosts(files, like, bytes_each, share, kept, vms, zone_ms(now_ms), as_json=as_json)
    if files:
        raise ConfigError(f"{files[0]}: say --hosts to answer from snapshots")
    since_ms, until_ms = span_ms(since, until)
    past = Past(folder_of(state))
    trace = trace_of(past, since_ms, until_ms)
    past.close()
    if snapshot is not None:
        from dynmem.cli.fit_hosts import write_snapshot

        return write_snapshot(snapshot, trace, share, names=not no_names)
    found = answer_of(trace, model_of(trace, like, bytes_each), share, vms, zone_ms(until_ms))
    if as_json:
        click.echo(in_json(found))
    else:
        click.echo(rendered(found, terminal_columns()))
    return ExitCode.OK if found.asked is None or found.asked.fits else ExitCode.REFUSED


def risk_of(text: str) -> float:
    """Return the share of a percentage as people write it; ConfigError if it is none below 100 %."""
    match = _PERCENT.fullmatch(text.strip())
    if match is None or float(match[1]) >= _HUNDRED:
        raise ConfigError(
            f"--risk: {quoted(text)} is not from 0 to below 100 percent: write it like 1% or 0.1%"
        )
    return float(match[1]) / _HUNDRED


def zone_ms(at_ms: int) -> int:
    """Return how far the clock of this host is ahead of UTC at a date."""
    offset = datetime.fromtimestamp(at_ms / 1000).astimezone().utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1000)

"""``dynmem report``: what fixed sizes hold, what was needed, how many more VMs would fit, and every move."""

from pathlib import Path

import click

from dynmem.cli.layout import terminal_columns
from dynmem.cli.looking_back import folder_of, in_json, span_ms
from dynmem.cli.options import state_option
from dynmem.cli.vm_name import VM_NAME
from dynmem.errors import ConfigError, ExitCode

_HUNDRED = 100


@click.command()
@click.option("--since", default="7d", show_default=True, metavar="TIME", help="From when: 3am, 2h, 7d, ...")
@click.option("--until", default="now", show_default=True, metavar="TIME", help="Until when.")
@click.option(
    "--like",
    type=VM_NAME,
    metavar="VM",
    help="The model of more VMs [default: the median of those that ran].",
)
@click.option(
    "--risk",
    default=1.0,
    show_default=True,
    metavar="PERCENT",
    help="The part of the time in which memory may have been short.",
)
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print everything, each move too, as JSON.")
def report(
    since: str, until: str, like: str | None, risk: float, state: Path | None, *, as_json: bool
) -> int:
    """Show what fixed sizes hold, what was needed, and how many more VMs would fit.

    From the file of the history alone: no manager need be running, and observing is enough. Needs are what
    the guests used at most in each span of time, and their buffers; docs/history.md has the formulas.

    \b
    Examples:
      dynmem report --since 7d
      dynmem report --since 30d --like web --risk 0.1
      dynmem report --json | jq '.moves[] | [.at, .vm, .text]'

    Exit codes: 0 OK, 2 wrong usage, no such VM or no history, 3 there is none of that time or folder.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.cli.report_text import rendered
    from dynmem.history.past import Past
    from dynmem.history.report import report_of

    if not 0 <= risk < _HUNDRED:
        raise ConfigError(f"--risk: {risk:g} is not from 0 to below 100 percent of the time")
    since_ms, until_ms = span_ms(since, until)
    past = Past(folder_of(state))
    found = report_of(past, since_ms, until_ms, like, risk / _HUNDRED)
    past.close()
    if as_json:
        click.echo(in_json(found))
    else:
        click.echo(rendered(found, terminal_columns()))
    return ExitCode.OK

"""``dynmem simulate``: the same load under the manager's rules, under those of others, and at fixed sizes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.cli.layout import terminal_columns
from dynmem.cli.looking_back import folder_of, in_json, span_ms
from dynmem.cli.options import state_option
from dynmem.errors import ConfigError, ExitCode
from dynmem.units import MIB, PAGE_SIZE, format_size, named_size

if TYPE_CHECKING:
    from dynmem.simulation.load import Load

#: In the order of the table.
RULES: Final = ("dynmem", "proxmox", "mom", "static", "fpr", "none")
# A balloon of Linux shrinks its guest by about 1 GiB a second.
_GIVE_BYTES: Final = 1000 * MIB
_RATE_MAX: Final = 64 * 1024 * MIB
_SEED_MAX: Final = 1 << 63


@click.command()
@click.option("--since", metavar="TIME", help="The history of this host from then on: 3am, 2h, 7d, ... [7d].")
@click.option("--until", metavar="TIME", help="Until when [now].")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="A trace that was exported.")
@click.option("--load", "file", type=click.Path(path_type=Path), metavar="FILE", help="A load in TOML.")
@click.option("--guests", type=int, metavar="N", help="So many guests alike, which burst at random.")
@click.option("--maximum", default="2G", show_default=True, metavar="SIZE", help="With --guests: of each.")
@click.option("--for", "length", default="1h", show_default=True, metavar="TIME", help="With --guests.")
@click.option("--budget", metavar="SIZE", help="What all may hold [that of the load].")
@click.option(
    "--rule", "rules", type=click.Choice(RULES), multiple=True, help="Only this rule. May be repeated."
)
@click.option(
    "--rate", default="64M", show_default=True, metavar="SIZE", help="By how much programs grow in a second."
)
@click.option("--seed", default=1, show_default=True, metavar="N", help="What chance brings.")
@click.option("--jobs", type=int, metavar="N", help="So many processes [one for each processor].")
@click.option(
    "--export", type=click.Path(path_type=Path), metavar="FILE", help="Write the load as a trace, and end."
)
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def simulate(
    since: str | None,
    until: str | None,
    trace: Path | None,
    file: Path | None,
    guests: int | None,
    maximum: str,
    length: str,
    budget: str | None,
    rules: tuple[str, ...],
    rate: str,
    seed: int,
    jobs: int | None,
    export: Path | None,
    state: Path | None,
    *,
    as_json: bool,
) -> int:
    """Play a load to simulated guests: with the manager's own step, with the rules of others, at fixed sizes.

    The load is this host's history, a trace of another's, a file that describes it, or guests alike that
    burst at random. For each rule: what guests lacked, how often one killed its programs, what was moved, and
    what all held against the budget. docs/simulate.md says what is assumed.

    \b
    Examples:
      dynmem simulate --since 7d
      dynmem simulate --since 7d --budget 24G --rule dynmem --rule static
      dynmem simulate --guests 8 --maximum 2G --seed 1
      dynmem simulate --load evening.toml
      dynmem history --export host.trace --since 7d; dynmem simulate --trace host.trace

    Exit codes: 0 OK, 2 wrong usage, or a file that is no load, 3 there is no history of that time or folder,
    4 the file of --export cannot be written.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.cli.simulate_text import rendered
    from dynmem.simulation.assumed import assumed
    from dynmem.simulation.figures import SimulationReport
    from dynmem.simulation.play import simulate as played
    from dynmem.simulation.play import watches
    from dynmem.simulation.stage import Guests

    if not 0 <= seed < _SEED_MAX:
        raise ConfigError(f"--seed: {seed} is not from 0 to below {_SEED_MAX}")
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs: {jobs} is below 1")
    per_s = _size("--rate", rate, _RATE_MAX)
    load, source = _load(since, until, trace, file, guests, maximum, length, seed, state)
    if budget is not None:
        load.budget_bytes = _size("--budget", budget, 1 << 60)
        load.slush_bytes = min(load.slush_bytes, load.budget_bytes // 2)
    if export is not None:
        return exported(load, export)
    each = Guests(max(1, per_s // PAGE_SIZE // 10), _GIVE_BYTES // PAGE_SIZE // 10)
    names = [rule for rule in RULES if not rules or rule in rules]
    with _bar() as progress:
        found = played(load, names, each, seed, jobs=jobs or _processors(), progress=progress)
    report = SimulationReport(
        source=source,
        seed=seed,
        vms=len(load.vms),
        seconds=load.for_ds / 10,
        skipped_s=load.skipped_ds / 10,
        row_s=load.row_ds / 10,
        budget_bytes=load.budget_bytes,
        slush_bytes=load.slush_bytes,
        rate_bytes=per_s,
        give_bytes=_GIVE_BYTES,
        watches=watches(load),
        assumed=tuple(
            assumed(
                rate_bytes=per_s,
                give_bytes=_GIVE_BYTES,
                row_ds=load.row_ds,
                skipped_ds=load.skipped_ds,
                watches=watches(load),
            )
        ),
        rules=tuple(found),
    )
    if as_json:
        click.echo(in_json(report))
    else:
        click.echo(rendered(report, terminal_columns()))
    return ExitCode.OK


def exported(load: "Load", path: Path) -> int:
    """Write a load as a trace, and say what is in it."""
    from dynmem.simulation.trace_file import write

    write(load, path)
    rows = sum(vm.rows for vm in load.vms)
    hours = load.for_ds / 36_000
    click.echo(f"{path}: {len(load.vms)} VMs, {hours:.1f} h in {rows} rows; no names, no dates, no paths")
    return ExitCode.OK


def _load(
    since: str | None,
    until: str | None,
    trace: Path | None,
    file: Path | None,
    guests: int | None,
    maximum: str,
    length: str,
    seed: int,
    state: Path | None,
) -> "tuple[Load, str]":
    """Return the load that is meant, and where it comes from."""
    given = {
        "--since": since or until,
        "--trace": trace,
        "--load": file,
        "--guests": guests,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)}: choose one: where the load comes from")
    if trace is not None:
        from dynmem.simulation.trace_file import read as read_trace

        return read_trace(trace), f"the trace {trace}"
    if file is not None:
        from dynmem.simulation.described import read as read_load

        return read_load(file, seed), f"the load of {file}"
    if guests is not None:
        from dynmem.simulation.described import alike, length_of

        size = _size("--maximum", maximum, 1 << 50)
        return alike(
            guests, size, length_of("--for", length), seed
        ), f"{guests} guests of {format_size(size)} alike"
    return recorded_load(since or "7d", until or "now", state)


def recorded_load(since: str, until: str, state: Path | None) -> "tuple[Load, str]":
    """Return the load of a time of this host's history, and where it comes from."""
    from dynmem.history.past import Past
    from dynmem.simulation.recorded import recorded

    since_ms, until_ms = span_ms(since, until)
    past = Past(folder_of(state))
    try:
        return recorded(past, since_ms, until_ms), f"the history in {past.path}, {since} to {until}"
    finally:
        past.close()


def _size(option: str, text: str, most: int) -> int:
    size = named_size(option, text)
    if not PAGE_SIZE <= size <= most:
        raise ConfigError(
            f"{option}: {format_size(size)} is not from {format_size(PAGE_SIZE)} to {format_size(most)}"
        )
    return size


def _processors() -> int:
    return len(os.sched_getaffinity(0))


@contextmanager
def _bar() -> Iterator[Callable[[float], None]]:
    """Show how far it is, on a terminal's standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), TimeRemainingColumn())
    # No thread draws it: processes are forked meanwhile.
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True, auto_refresh=False
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda share: bar.update(task, completed=share, refresh=True)

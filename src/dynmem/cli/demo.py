"""``dynmem demo``: virtual machines share a budget while you watch."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import click
import msgspec
from rich.live import Live

from dynmem.demo import plot, scenario, table
from dynmem.demo.picture import RunRecord
from dynmem.demo.record import Sample
from dynmem.demo.runner import Run
from dynmem.demo.verdict import report, verdict
from dynmem.errors import ConfigError, DynmemError
from dynmem.lab.qemu import Accelerator
from dynmem.units import NS_PER_S

EPILOG = """\b
Examples:
  dynmem demo                              one minute, three embedded guests
  dynmem demo --static --duration 30       the same loads, each VM fixed at a third of the budget
  dynmem demo --plot demo.html             also write a page that plots every VM's memory
  dynmem demo --beside --plot demo.svg     run the loads again without a manager, and draw both
  dynmem demo --qemu                       two of the guests are real Linux under QEMU

\b
Exit codes: 0 OK, 1 failure (or a VM never ran), 10 a wrong byte in guest memory, 11 more resident than the
budget, 12 a guest was lost or one of its processes OOM-killed, 130 interrupted.
"""
EMBEDDED_NOTE = (
    "These guests are processes of this program that use memory and talk to their host as a virtual machine"
    " does; no Linux runs in them. With --qemu two of the three are real Linux guests."
)
QEMU_NOTE = (
    "web and db are real Linux guests under QEMU with virtio-balloon; batch is an embedded guest, a process."
)
PRINT_EVERY_NS = NS_PER_S
QEMU_DURATION_S = 90.0
SECONDS_MIN = 5
SECONDS_MAX = 86400


class Seconds(click.ParamType[float]):
    """How long the demonstration runs: a finite number of seconds."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = math.nan
        if not SECONDS_MIN <= seconds <= SECONDS_MAX:
            self.fail(f"{value} is not a number of seconds from {SECONDS_MIN} to {SECONDS_MAX}", param, ctx)
        return seconds


class NewFile(click.ParamType[Path]):
    """A file that can be written; its folder is checked before anything starts."""

    name = "file"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(value))
        if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            self.fail(
                f"{path} cannot be written: name a file in an existing folder that you may write to",
                param,
                ctx,
            )
        return path


class _Screen:
    """A live table on a terminal, otherwise one line per second; nothing with --json."""

    def __init__(self, note: str, *, quiet: bool) -> None:
        self._note = note
        self._quiet = quiet
        self._printed_ns = -NS_PER_S
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stdout.isatty():
            self._live = Live(auto_refresh=False)
            self._live.start()
        elif not self._quiet:
            click.echo(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, run: Run, sample: Sample) -> None:
        """Show one sample."""
        budget, duration = run.scenario.budget_bytes, run.duration_s
        if self._live is not None:
            members = [
                (member.name, run.backends[member.name], member.maximum_bytes)
                for member in run.scenario.members
            ]
            heading = table.header(sample, budget, run.elapsed_s, duration)
            width = self._live.console.width
            self._live.update(table.render(sample, members, heading, self._note, width), refresh=True)
        elif not self._quiet and sample.at_ns - self._printed_ns >= PRINT_EVERY_NS:
            self._printed_ns = sample.at_ns
            click.echo(table.header(sample, budget, run.elapsed_s, duration))
            for member in run.scenario.members:
                vm = sample.vms.get(member.name)
                click.echo(table.line(member.name, vm) if vm else f"  {member.name:<6} not started yet")


@click.command(epilog=EPILOG)
@click.option(
    "--duration",
    type=Seconds(),
    help=f"How many seconds to run, {SECONDS_MIN} or more [default: 60; with --qemu 90].",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Shift the peaks of the loads."
)
@click.option(
    "--static", is_flag=True, help="Run without a manager: each VM is fixed at its share of the budget."
)
@click.option("--beside", is_flag=True, help="Then run the same loads again with --static, to compare.")
@click.option("--qemu", is_flag=True, help="Use real Linux under QEMU for two of the guests.")
@click.option("--json", "as_json", is_flag=True, help="Print only the summary, as JSON.")
@click.option(
    "--plot",
    "plot_path",
    type=NewFile(),
    help="Write a page that plots every VM's memory over time, or, as FILE.svg, its first picture alone.",
)
def demo(
    duration: float | None,
    seed: int,
    static: bool,
    beside: bool,
    qemu: bool,
    as_json: bool,
    plot_path: Path | None,
) -> int:
    """Watch virtual machines share a budget of half the sum of their maximums.

    Each starts when the manager has made room for it. Their loads rise and fall at different times, and one
    is squeezed and rescued. Every page of every load is checked.
    """
    note = QEMU_NOTE if qemu else EMBEDDED_NOTE
    cast = scenario.vary(scenario.QEMU if qemu else scenario.EMBEDDED, seed)
    if static and beside:
        raise ConfigError("--static is what --beside compares with: use one of the two")
    accel = _accelerator(as_json) if qemu else "tcg"
    runs, codes = [], []
    for is_static in (False, True) if beside else (static,):
        run = Run(
            cast,
            seed=seed,
            duration_s=duration or (QEMU_DURATION_S if qemu else 60.0),
            static=is_static,
            accel=accel,
        )
        with _Screen(note, quiet=as_json) as screen:
            summary = run.execute(screen.show)
        runs.append(RunRecord(run.samples, summary))
        code, complaints = verdict(summary)
        codes.append(code)
        click.echo(msgspec.json.encode(summary) if as_json else report(summary))
        for complaint in complaints:
            click.echo(f"dynmem: {complaint}", err=True)
    if plot_path is not None:
        _write_plot(plot_path, runs, note, quiet=as_json)
    return codes[0]  # without a manager, guests are expected to fare worse


def _write_plot(path: Path, runs: Sequence[RunRecord], note: str, *, quiet: bool) -> None:
    try:
        plot.write(path, runs, note)
    except OSError as error:
        raise DynmemError(f"--plot {path}: cannot be written: {error.strerror}") from None
    if not quiet:
        click.echo(f"  plot            {path}")


def _accelerator(quiet: bool) -> Accelerator:
    from dynmem.lab.probe import accelerator

    choice = accelerator()
    if not quiet:
        click.echo(f"accelerator: {choice.accel} ({choice.reason})")
    return choice.accel

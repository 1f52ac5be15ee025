"""Run the trial: real Linux guests share half of their memory, and each contender meets the same loads.

Guests run under KVM where a probe guest boots with it, and emulated elsewhere. The first policy of every seed
and rate is "none": guests that nothing limits, which the others are held against.
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.markdown import machine
from bench.trial import guests, report
from bench.trial.contenders import CONTENDERS, REFERENCE
from bench.trial.keeper import Keeper
from bench.trial.measures import Series, delays, figures, outcomes
from bench.trial.report import RunRecord
from bench.trial.runner import Run, Show
from bench.trial.script import GUESTS_MAX, GUESTS_MIN, Script, write, write_steady
from dynmem.errors import DynmemError, ExitCode
from dynmem.lab.probe import accelerator
from dynmem.lab.qemu import Accelerator
from dynmem.units import MIB

RATES: Final = (64, 128, 256)
IDLE_LOADS: Final = 2


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    seeds: list[int]
    rates: list[int]
    policies: list[str]
    guests: int
    short: bool
    embedded: bool
    idle_load: bool
    keep: Path | None
    steady_s: int

    @property
    def conditions(self) -> str:
        """What kept runs must have in common, besides the script."""
        return ("embedded" if self.embedded else "linux") + ("-busy" if self.idle_load else "")

    def scripts(self) -> Iterator[Script]:
        """Yield the scripts, in the order of the runs."""
        for rate in self.rates:
            for seed in self.seeds:
                if self.steady_s:
                    yield write_steady(seed, seconds=self.steady_s, rate_bytes=rate * MIB, guests=self.guests)
                    continue
                yield write(
                    seed,
                    rate_bytes=rate * MIB,
                    guests=self.guests,
                    short=self.short,
                    page_cache=not self.embedded,
                )


def main() -> int:
    """Run what was asked for and print the tables. Returns the exit code."""
    options, form = _parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _busy_loops(IDLE_LOADS if options.idle_load else 0):
            runs = _run_all(options)
    except DynmemError as error:
        print(f"trial: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("trial: interrupted; every guest has been stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    if form == "json":
        print(report.encode(runs))
    elif form == "markdown":
        print("\n".join(_document(runs)))
    else:
        console = Console()
        for group in report.groups(runs):
            console.print(report.table(group))
    return ExitCode.OK


def _parse() -> tuple[Options, str]:
    parser = argparse.ArgumentParser(
        prog="python -m bench.trial", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="run the seeds 1 to N (1)")
    parser.add_argument("--seed", type=int, metavar="S", help="run this seed alone")
    parser.add_argument(
        "--rates",
        default=",".join(map(str, RATES)),
        metavar="R,...",
        help="growth of loads, MiB/s (%(default)s)",
    )
    parser.add_argument(
        "--policies", default=",".join(CONTENDERS), metavar="P,...", help="contenders (%(default)s)"
    )
    parser.add_argument(
        "--guests",
        type=int,
        default=GUESTS_MIN,
        metavar="N",
        help=f"{GUESTS_MIN} to {GUESTS_MAX} (%(default)s)",
    )
    parser.add_argument("--embedded", action="store_true", help="guests of `dynmem vm`, without an emulator")
    parser.add_argument("--short", action="store_true", help="three bursts instead of seven")
    parser.add_argument(
        "--steady", type=int, default=0, metavar="SECONDS", help="no bursts, but noise of a few percent"
    )
    parser.add_argument("--idle-load", action="store_true", help="two busy loops beside the guests")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="keep every run's series and logs there, and use\nthe reference of an earlier trial if it fits",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", dest="form", const="json", help="print JSON")
    form.add_argument(
        "--markdown", action="store_const", dest="form", const="markdown", help="print Markdown"
    )
    words = parser.parse_args()
    policies = words.policies.split(",")
    if unknown := set(policies) - set(CONTENDERS):
        parser.error(f"no policy {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    if not GUESTS_MIN <= words.guests <= GUESTS_MAX:
        parser.error(f"{words.guests} guests: from {GUESTS_MIN} to {GUESTS_MAX} are possible")
    try:
        rates = [int(rate) for rate in words.rates.split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) < 1:
        parser.error(f"--rates {words.rates}: give whole MiB per second, such as 64,128")
    options = Options(
        seeds=[words.seed] if words.seed is not None else list(range(1, words.seeds + 1)),
        rates=rates,
        policies=[REFERENCE, *(policy for policy in policies if policy != REFERENCE)],
        guests=words.guests,
        short=words.short,
        embedded=words.embedded,
        idle_load=words.idle_load,
        keep=words.keep,
        steady_s=words.steady,
    )
    return options, words.form or "table"


def _run_all(options: Options) -> list[RunRecord]:
    accel: Accelerator | None = None if options.embedded else accelerator().accel
    backend = {None: "embedded", "kvm": "Linux on KVM", "tcg": "Linux, emulated"}[accel]
    scripts = list(options.scripts())
    runs = []
    with Bar(len(scripts) * len(options.policies)) as bar:
        for script in scripts:
            reference: Series | None = None
            for policy in options.policies:
                bar.begin(f"{policy}, {script.rate_bytes // MIB} MiB/s, seed {script.seed}")
                series = _run(script, policy, options, accel, bar.show)
                reference = reference or series
                runs.append(_record(script, policy, options, backend, series, reference))
                bar.end(runs[-1])
    return runs


def _run(script: Script, policy: str, options: Options, accel: Accelerator | None, show: Show) -> Series:
    keeper = Keeper(options.keep / options.conditions, policy, script) if options.keep is not None else None
    if keeper is not None and policy == REFERENCE and (series := keeper.earlier()) is not None:
        return series
    with tempfile.TemporaryDirectory(prefix="dynmem-trial-") as name:
        folder = Path(name)
        contender = CONTENDERS[policy](guests.terms(script), folder)
        made = guests.make(script, folder, accel=accel, free_page_reporting=contender.free_page_reporting)
        try:
            series = asyncio.run(Run(script, contender, made, show).execute())
        finally:
            if keeper is not None:
                keeper.logs(folder)
        if keeper is not None:
            keeper.series(series)
        return series


def _record(
    script: Script, policy: str, options: Options, backend: str, series: Series, reference: Series
) -> RunRecord:
    return RunRecord(
        policy=policy,
        seed=script.seed,
        rate_bytes=script.rate_bytes,
        guests=script.guests,
        backend=backend,
        is_short=options.short,
        has_idle_load=options.idle_load,
        figures=report.figures_record(figures(script, series, reference)),
        delays_s=[report.finite(each) for each in delays(script, series, reference)],
        bursts=report.burst_records(outcomes(script, series)),
    )


class Bar:
    """Shows how far everything is: a bar on a terminal's standard error, a line for each run elsewhere."""

    def __init__(self, count: int) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=float(count))
        self._done = 0
        self._what = ""

    def __enter__(self) -> Self:
        """Show it."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self._bar.stop()

    def begin(self, what: str) -> None:
        """Show the next run by its name."""
        self._what = what

    def show(self, phase: str, share: float) -> None:
        """Show how far this run is."""
        self._bar.update(self._task, description=f"{self._what}: {phase}", completed=self._done + share)

    def end(self, run: RunRecord) -> None:
        """Print the outcome of this run in a line."""
        self._done += 1
        survived, killed, *_, median, p99, _ = report.cells([run])
        self._console.print(
            f"{self._what}: {survived} survived, {killed} killed, need to memory {median}, p99 {p99}",
            soft_wrap=True,
        )


@contextmanager
def _busy_loops(count: int) -> Iterator[None]:
    """Keep processors busy beside everything."""
    with ExitStack() as stack:
        for _ in range(count):
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(loop.wait)
            stack.callback(loop.kill)
        yield


def _document(runs: Sequence[RunRecord]) -> Iterator[str]:
    """Yield the tables as Markdown, headed by the machine."""
    yield from ("| | |", "|---|---|")
    for what, value in machine():
        yield f"| {what} | {value} |"
    yield ""
    for group in report.groups(runs):
        yield from report.markdown(group)


if __name__ == "__main__":
    sys.exit(main())

"""Run the suite again and again, in a fresh random order each time, every second run on a busy machine.

It stops at the first run that fails and says how to repeat it. Options it does not know, and paths, go on to
pytest. Exit status 1 when a run failed.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
LOOPS_PER_CPU = 2
INTERRUPTS_MAX = 4
PATIENCE_S = 30  # for what the tests have to put away
LOOK_S = 0.5  # how often to look whether somebody interrupts
INTERRUPTS: list[int] = []  # the signals that ask for the end
# It ends with its starter, however that ends.
BUSY_LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


@dataclass(frozen=True)
class Run:
    """One run of the suite and how it went."""

    number: int
    seed: int
    is_busy: bool
    status: int
    summary: str
    seconds: float

    def line(self) -> str:
        """Return the run as a line of the table."""
        load = "busy" if self.is_busy else "-"
        return f"{self.number:>3}  {self.seed:>10}  {load:<4}  {self.seconds:>7.0f}  {self.summary}"


HEADER = f"{'n':>3}  {'seed':>10}  {'load':<4}  {'seconds':>7}  outcome"


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep every processor busy twice over."""
    command = [sys.executable, "-c", BUSY_LOOP, str(os.getpid())]
    loops: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(LOOPS_PER_CPU * len(os.sched_getaffinity(0))):
            loops.append(subprocess.Popen(command, start_new_session=True))  # noqa: PERF401
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run_suite(number: int, seed: int, more: list[str], *, is_busy: bool) -> tuple[Run, str]:
    """Run the suite once; also return all that it printed."""
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal"]
    command += ["-m", "not soak and not hostile and not stock"]
    command += [f"--randomly-seed={seed}", f"--hypothesis-seed={seed}", *more]
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = None
    while output is None:
        with suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=LOOK_S)
        if INTERRUPTS:
            stop(process)
            raise KeyboardInterrupt
    totals = re.findall(r"^=* ?(\d.*) in [\d.]+s", output, re.MULTILINE)
    summary = totals[-1] if totals else "no test ran"
    if process.returncode and "failed" not in summary:
        summary += f", exit status {process.returncode}"
    return Run(number, seed, is_busy, process.returncode, summary, time.monotonic() - begin), output


def stop(suite: "subprocess.Popen[str]") -> None:
    """Interrupt a suite until it has ended: an interrupt that meets a finalizer is lost."""
    for _ in range(INTERRUPTS_MAX):
        suite.send_signal(signal.SIGINT)  # from a terminal it has one already
        with suppress(subprocess.TimeoutExpired):
            suite.communicate(timeout=PATIENCE_S)
            return
    suite.kill()
    suite.communicate()


def note_interrupt(number: int, _: FrameType | None) -> None:
    """Remember that the end is asked for; an exception raised here could meet a finalizer and be lost."""
    INTERRUPTS.append(number)


def main() -> int:
    """Run the suite as often as was asked for and print a table of the runs."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--runs", type=int, default=10, help="how often (10)")
    parser.add_argument("--seed", type=int, help="the seed of the first run (a fresh one)")
    parser.add_argument("--load", choices=("half", "all", "none"), default="half", help="which runs are busy")
    options, more = parser.parse_known_args()
    for caught in (signal.SIGTERM, signal.SIGINT):  # in the background of a shell it would ignore the latter
        signal.signal(caught, note_interrupt)
    runs: list[Run] = []
    try:
        for number in range(1, options.runs + 1):
            seed = options.seed if options.seed is not None and number == 1 else random.randrange(1 << 32)
            is_busy = options.load == "all" or (options.load == "half" and number % 2 == 0)
            print(f"run {number}: seed {seed}{', on a busy machine' if is_busy else ''}", flush=True)
            with busy_machine() if is_busy else nullcontext():
                run, output = run_suite(number, seed, more, is_busy=is_busy)
            runs.append(run)
            print(f"       {run.summary}, {run.seconds:.0f} s", flush=True)
            if run.status:
                print(output)
                load = "all" if is_busy else "none"
                again = " ".join([f"--seed {seed} --load {load}", *more])
                print(f'run {number} failed; to repeat it: make flake N=1 ARGS="{again}"')
                break
    except KeyboardInterrupt:
        print("interrupted")
    print(HEADER, *(run.line() for run in runs), sep="\n")
    return 0 if len(runs) == options.runs and not any(run.status for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())

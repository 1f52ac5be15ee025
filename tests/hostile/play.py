"""Play a cast by hand, or the members in whose sentence one of some words is, and print what was measured."""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.hostile.stage import Stage
from tests.rigs.leftovers import adopt_orphans, children, left_processes


def main(name: str, cast: Iterable[str], options_of: Callable[[Path], Callable[[str], Sequence[str]]]) -> int:
    """Play members of a cast; return the program's exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.hostile.{name}", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each one has (4)")
    parser.add_argument("--list", action="store_true", help="say who there is")
    parser.add_argument("words", nargs="*", metavar="WORD")
    arguments = parser.parse_args()
    chosen = [each for each in cast if not arguments.words or any(word in each for word in arguments.words)]
    if arguments.list:
        print("\n".join(chosen))
        return 0
    adopt_orphans()
    before = children()
    failed = 0
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="hostile-") as folder,
        contextlib.closing(Stage(Path(folder), options_of(Path(folder)))) as stage,
    ):
        for sentence in chosen:
            verdict = stage.hold(sentence, seconds=arguments.seconds)
            faults = verdict.faults + verdict.late
            failed += bool(faults)
            print(f"{'FAILED' if faults else 'ok    '} {sentence}: {verdict.figures}", flush=True)
            for fault in faults:
                print(f"       {fault}", flush=True)
    left = left_processes(before)
    print("\n".join(["left behind:", *left]) if left else "nothing is left")
    print(f"{len(chosen)} hostile {name} in {time.monotonic() - begin:.0f} s, {failed} failed")
    return 1 if failed or left or not chosen else 0

"""Play the cast of hostile guests: ``python -m tests.hostile.guests [--seconds S] [WORD ...]``.

Words choose the members in whose sentence one of them is; all of them play without any.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.guests.guest import CAST
from tests.hostile.guests.stage import Stage
from tests.rigs.leftovers import adopt_orphans, children, left_processes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.guests", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each one has (4)")
    parser.add_argument("--list", action="store_true", help="say who there is")
    parser.add_argument("words", nargs="*", metavar="WORD")
    arguments = parser.parse_args()
    chosen = [name for name in CAST if not arguments.words or any(word in name for word in arguments.words)]
    if arguments.list:
        print("\n".join(chosen))
        return 0
    adopt_orphans()
    before = children()
    failed = 0
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="hostile-") as folder,
        contextlib.closing(Stage(Path(folder))) as stage,
    ):
        for name in chosen:
            verdict = stage.hold(name, seconds=arguments.seconds)
            faults = verdict.faults + verdict.late
            failed += bool(faults)
            print(f"{'FAILED' if faults else 'ok    '} {name}: {verdict.figures}", flush=True)
            for fault in faults:
                print(f"       {fault}", flush=True)
    left = left_processes(before)
    print("\n".join(["left behind:", *left]) if left else "nothing is left")
    print(f"{len(chosen)} hostile guests in {time.monotonic() - begin:.0f} s, {failed} failed")
    return 1 if failed or left or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.fuzz [NAME ...] --inputs N --seed S --jobs J``: long runs over the targets."""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.fuzz.targets import TARGETS, timed


def main() -> int:
    """Exit 1 when anything escaped that may not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TARGETS))
    parser.add_argument(
        "--inputs", type=int, default=1_000_000, help="for each target; one whose inputs cost more gets fewer"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if unknown := set(options.names) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}")
    escaped = 0
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        names = options.names or TARGETS
        runs = [pool.submit(timed, name, options.inputs, options.seed) for name in names]
        for finished in as_completed(runs):
            name, took, what = finished.result()
            escaped += bool(what)
            count = TARGETS[name].share(options.inputs)
            print(f"{name:18} {what or f'{count} inputs, {count / took:,.0f} a second'}", flush=True)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())

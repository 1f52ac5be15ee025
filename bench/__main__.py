"""Run benchmarks by name (all without one); with --check, exit 1 when a bound is missed."""

import argparse
import importlib
import sys
from typing import Final

from bench.figures import Benchmark

BENCHMARKS: Final = {  # name -> what it answers
    "balloon": "1 GiB out of an embedded guest and back through every layer, beside a bare loop",
    "codec": "every dynamic memory message beside construct and dissect.cstruct; a whole handshake",
    "demo": "how soon dynmem demo shows a VM",
    "manager": "what an idle manager costs per VM and second",
    "page_set": "the set of given-up pages beside a balanced tree of ranges in C: time, memory, giving back",
    "memory": "resident memory of a VM's two processes without guest RAM",
    "ring": "round trips over a ring between two processes, beside a socket",
    "status": "dynmem status, start to finish",
}


def main() -> int:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound is missed")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    missed = 0
    for name in options.names or BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name]}", flush=True)
        benchmark: Benchmark = importlib.import_module(f"bench.bench_{name}").run
        for figure in benchmark():
            print(figure.line(), flush=True)
            missed += not figure.holds
    if options.check and missed:
        print(f"{missed} figures missed their bound")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Run benchmarks by name (all without one).

--check: exit 1 when a bound is missed. --big: those that have larger sizes take them.
--markdown: print the run as a document (docs/performance.md); the figures go to standard error.
"""

import argparse
import importlib
import sys
from typing import Final

from bench import markdown
from bench.figures import Benchmark

BENCHMARKS: Final = {  # name -> what it answers
    "balloon": "1 GiB out of an embedded guest and back through every layer, beside a bare loop",
    "codec": "every dynamic memory message beside construct and dissect.cstruct; a whole handshake",
    "demo": "how soon dynmem demo shows a VM",
    "fit": "how many more VMs fit on 1000 hosts of 60 VMs, and on one with a month of history",
    "gmm": "pages allocated and freed in the books beside free lists in C; what the books occupy",
    "history": "a month of the history of 1000 VMs in bytes, and what it costs of a processor",
    "kvm": "what an exit of a guest on KVM costs, beside a doorbell and beside a thread that computes",
    "manager": "what an idle manager costs per VM and second",
    "page": "the first paint of the web page with 200 VMs, and what an update of it costs",
    "page_set": "the set of given-up pages beside a balanced tree of ranges in C: time, memory, giving back",
    "discard": "from the bytes of a balloon response to free memory, beside the bare call and a tree in C",
    "duplicates": "a scan for equal pages of two VMs, beside memcpy",
    "memory": "resident memory of a VM's two processes without guest RAM",
    "metrics": "the metrics of 1000 VMs, beside the same status as JSON",
    "ring": "round trips over a ring between two processes, beside a socket",
    "simulate": "a day of 60 VMs, simulated under each rule",
    "status": "dynmem status, start to finish",
    "sweep": "a sweep of 60 real QEMUs, beside a bare loop that sends the same queries",
    "web": "a plot of a week and of a year for the web page, and a look at 1000 VMs",
}


def main() -> int:
    """Run what was asked for and print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound is missed")
    parser.add_argument("--big", action="store_true", help="larger sizes where a benchmark has them; minutes")
    parser.add_argument("--markdown", action="store_true", help="print a document")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    missed = 0
    sections = []
    log = sys.stderr if options.markdown else sys.stdout
    for name in options.names or BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name]}", file=log, flush=True)
        module = importlib.import_module(f"bench.bench_{name}")
        benchmark: Benchmark = getattr(module, "run_big", module.run) if options.big else module.run
        figures = []
        for figure in benchmark():
            print(figure.line(), file=log, flush=True)
            figures.append(figure)
            missed += not figure.holds
        sections.append(markdown.Section(name, BENCHMARKS[name], module.__doc__ or "", figures))
    if options.markdown:
        print("\n".join(markdown.document(sections)))
    if options.check and missed:
        print(f"{missed} figures missed their bound", file=log)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())

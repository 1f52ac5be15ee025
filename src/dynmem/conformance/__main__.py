"""Run the suite: ``python -m dynmem.conformance [--json] [--host MODULE:FACTORY] [--guest MODULE:FACTORY]``.

Without a factory, this project's own ends are tested. The exit code is 1 if any case failed, 2 if a factory
does not exist.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from dynmem.conformance.adapter import GROUPS
from dynmem.conformance.case import Case, run
from dynmem.conformance.report import conforms, facts, reference, table
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES
from dynmem.errors import ConfigError

OURS: Final = (
    ("host", "dynmem.conformance.ours.host:OurHost"),
    ("guest", "dynmem.conformance.ours.guest:OurGuest"),
)
CASES: Final = {"host": HOST_CASES, "guest": GUEST_CASES}
DESCRIPTION: Final = """\
Test a host or a guest for what its peers rely on; without --host and --guest, this project's own two ends.
The exit code is 0 if all is well, 1 if a case failed or none passed, 2 if an option is wrong."""


def load(name: str) -> Callable[[], Any]:
    """Return the factory called ``MODULE:NAME``. Raises ConfigError if there is none."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ConfigError(f"{name!r} is not a factory: write MODULE:NAME, like my_host_under_test:MyHost")
    try:
        factory: Callable[[], Any] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{name} is not a factory: {error}") from error
    return factory


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed options."""
    parser = argparse.ArgumentParser(prog="python -m dynmem.conformance", description=DESCRIPTION)
    parser.add_argument(
        "--host", action="append", default=[], help="test hosts made by this factory, MODULE:NAME"
    )
    parser.add_argument(
        "--guest", action="append", default=[], help="test guests made by this factory, MODULE:NAME"
    )
    parser.add_argument("--only", default="", help="run the cases whose names contain this text")
    parser.add_argument("--list", action="store_true", help="print the cases as Markdown and run nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args(arguments)


def chosen(cases: Iterable[Case], text: str) -> list[Case]:
    """Return the cases to run."""
    return [case for case in cases if text in case.name]


def listing() -> str:
    """Return every case of both ends as Markdown."""
    return reference("Hosts", HOST_CASES) + "\n" + reference("Guests", GUEST_CASES)


def main(arguments: Sequence[str]) -> int:
    """Run the chosen cases. Returns the exit code."""
    options = parse(arguments)
    if options.list:
        sys.stdout.write(listing())
        return 0
    subjects = [
        *(("host", name) for name in options.host),
        *(("guest", name) for name in options.guest),
    ] or OURS
    if not any(chosen(CASES[end], options.only) for end, _ in subjects):
        raise ConfigError(
            f"--only {options.only}: no case has this in its name: --list shows the names, by group"
            f" ({', '.join(GROUPS)})"
        )
    good, found = True, []
    for end, name in subjects:
        results = run(chosen(CASES[end], options.only), load(name))
        good &= conforms(results)
        found.append(facts(end, name, results))
        if not options.json:
            sys.stdout.write(table(f"{end} {name}", results) + "\n")
    if options.json:
        sys.stdout.write(json.dumps({"schema_version": 1, "runs": found}, indent=1) + "\n")
    return 0 if good else 1


def command() -> int:
    """Run `main` with the command line and return the exit code; report a wrong option in one sentence."""
    try:
        return main(sys.argv[1:])
    except ConfigError as problem:
        sys.stderr.write(f"{problem}\n")
        return int(problem.exit_code)


if __name__ == "__main__":
    sys.exit(command())

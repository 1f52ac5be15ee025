"""``python -m tests.kvm_rig``: set up the rig for stock guests, or run pytest in it (`make test-kvm`)."""

import argparse
import sys

from tests.kvm_rig import build, run

from dynmem.errors import DynmemError, ExitCode


def main() -> int:
    """Set up or run; return the exit code, which after a run is pytest's."""
    parser = argparse.ArgumentParser(prog="python -m tests.kvm_rig", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    setup = commands.add_parser("setup", help="fetch what is missing and make the images, once")
    setup.add_argument("--check", action="store_true", help="fetch nothing; report whether all is there")
    tests = commands.add_parser(
        "run", help="run tests on /dev/kvm where it boots stock kernels, else emulated"
    )
    tests.add_argument("--emulated", action="store_true", help="do not try this machine's own /dev/kvm")
    tests.add_argument("arguments", nargs="*", help="for pytest; after --")
    options = parser.parse_args()
    try:
        if options.command == "setup":
            print(_set_up(is_check=options.check))
            return ExitCode.OK
        with build.used() as rig:
            return run.run(rig, options.arguments, emulated_only=options.emulated)
    except DynmemError as error:
        print(f"dynmem: {error}", file=sys.stderr)
        return error.exit_code


def _set_up(*, is_check: bool) -> str:
    if is_check:
        with build.used() as found:
            return f"the rig for stock guests is set up: {found.guests.parent}"
    at_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    agree = _ask if at_terminal else _announce
    found = build.set_up(agree=agree, report=_report, at_terminal=at_terminal)
    return f"the rig for stock guests is set up: {found.guests.parent}"


def _report(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def _announce(question: str) -> bool:
    print(f"{question}\nNot at a terminal, so nobody can be asked: going on.", file=sys.stderr, flush=True)
    return True


def _ask(question: str) -> bool:
    print(question, file=sys.stderr)
    try:
        answer = input("Go on? [Y/n] ")
    except (EOFError, KeyboardInterrupt):
        return False
    return answer.strip().lower() in {"", "y", "yes"}


if __name__ == "__main__":
    sys.exit(main())

"""``python -m dynmem.lab setup``: everything that real Linux guests need, fetched once."""

import argparse
import sys
from pathlib import Path

from dynmem.errors import DynmemError, ExitCode
from dynmem.lab import image


def main() -> int:
    """Set up, or with ``--check`` only say whether that has been done. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dynmem.lab", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="setup")
    setup = commands.add_parser("setup", help="install QEMU and gcc, unpack a kernel, build an initramfs")
    setup.add_argument("--check", action="store_true", help="fetch nothing, only say what is missing")
    setup.add_argument("--deb", type=Path, help="a Debian kernel package to use instead of downloading one")
    options = parser.parse_args()
    at_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    try:
        if options.check:
            found = image.require()
        else:
            found = image.set_up(
                deb=options.deb, agree=_ask if at_terminal else _announce, at_terminal=at_terminal
            )
    except DynmemError as error:
        print(f"dynmem: {error}", file=sys.stderr)
        return error.exit_code
    print(f"real Linux guests are set up: kernel {found.release} in {found.kernel.parent}")
    return ExitCode.OK


def _announce(question: str) -> bool:
    print(f"{question}\nNobody is here to be asked: fetching it.", file=sys.stderr)
    return True


def _ask(question: str) -> bool:
    print(question, file=sys.stderr)
    try:
        answer = input("Fetch it now? [Y/n] ")
    except (EOFError, KeyboardInterrupt):
        return False
    return answer.strip().lower() in {"", "y", "yes"}


if __name__ == "__main__":
    sys.exit(main())

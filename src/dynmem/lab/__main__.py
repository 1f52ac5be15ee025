"""``python -m dynmem.lab``: fetch what real Linux guests need, and what else the tests run, once each."""

import argparse
import sys
from pathlib import Path
from typing import Final

from dynmem.errors import ConfigError, DynmemError, ExitCode
from dynmem.lab import browser, image, libvirt, qemu10


def main() -> int:
    """Set up, or with ``--check`` report what is missing. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dynmem.lab", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    setup = commands.add_parser("setup", help="install QEMU and gcc, unpack a kernel, build an initramfs")
    setup.add_argument("--check", action="store_true", help="fetch nothing; report what is missing")
    setup.add_argument("--deb", type=Path, help="a Debian kernel package to use instead of downloading one")
    newer = commands.add_parser("setup-qemu10", help="unpack QEMU 10 beside what is installed")
    newer.add_argument("--check", action="store_true", help="fetch nothing; report whether it is there")
    real = commands.add_parser(
        "setup-libvirt", help="install libvirt's daemon and its module for this Python"
    )
    real.add_argument("--check", action="store_true", help="fetch nothing; report what is missing")
    page = commands.add_parser("setup-browser", help="install Chromium and its driver")
    page.add_argument("--check", action="store_true", help="fetch nothing; report what is missing")
    options = parser.parse_args()
    try:
        print(_SET_UPS[options.command](options))
    except DynmemError as error:
        print(f"dynmem: {error}", file=sys.stderr)
        return error.exit_code
    return ExitCode.OK


def _set_up_guests(options: argparse.Namespace) -> str:
    found = image.require() if options.check else None
    if found is None:
        found = image.set_up(
            deb=options.deb, agree=_ask if _at_terminal() else _announce, at_terminal=_at_terminal()
        )
    return f"real Linux guests are set up: kernel {found.release} in {found.kernel.parent}"


def _set_up_qemu10(options: argparse.Namespace) -> str:
    found = qemu10.find()
    if found is None and options.check:
        raise ConfigError("QEMU 10 is not set up: run `python -m dynmem.lab setup-qemu10`")
    if found is None:
        found = qemu10.set_up(agree=_ask if _at_terminal() else _announce)
    return f"QEMU 10 is set up: {found.folder}"


def _set_up_libvirt(options: argparse.Namespace) -> str:
    if options.check and (libvirt.missing() or not libvirt.has_module()):
        lacking = " ".join((*libvirt.missing(), *(() if libvirt.has_module() else (libvirt.MODULE,))))
        raise ConfigError(f"libvirt is not set up: {lacking}: run `python -m dynmem.lab setup-libvirt`")
    found = libvirt.set_up(agree=_ask if _at_terminal() else _announce, at_terminal=_at_terminal())
    return f"libvirt is set up: {found}"


def _set_up_browser(options: argparse.Namespace) -> str:
    if options.check and (lacking := browser.missing()):
        raise ConfigError(
            f"the browser is not set up: {' '.join(lacking)}: run `python -m dynmem.lab setup-browser`"
        )
    found = browser.set_up(agree=_ask if _at_terminal() else _announce, at_terminal=_at_terminal())
    return f"the browser is set up: {found.browser}"


_SET_UPS: Final = {
    "setup": _set_up_guests,
    "setup-qemu10": _set_up_qemu10,
    "setup-libvirt": _set_up_libvirt,
    "setup-browser": _set_up_browser,
}


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _announce(question: str) -> bool:
    print(f"{question}\nNot at a terminal, so nobody can be asked: fetching it.", file=sys.stderr)
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

"""``dynmem run``: the memory manager of a host."""

import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.cli.options import config_option
from dynmem.errors import ExitCode

if TYPE_CHECKING:
    from dynmem.manager.config import Config

# What systemd's journal knows the lines of a manager by: those about one VM, and all others.
VM_MESSAGE_ID: Final = "fe328537ea384d49ac322a4d40f0a58e"
HOST_MESSAGE_ID: Final = "b1beb8da77ac4f25a401a94974b7138c"


@click.command()
@config_option
@click.option("--check", is_flag=True, help="Check the file, show what it means, and exit.")
def run(path: Path, *, check: bool) -> int:
    """Share a host's memory between its virtual machines.

    \b
    Examples:
      dynmem run --config hosts.toml --check    is the file OK, and what does it mean?
      dynmem run --config hosts.toml            run in the foreground

    With mode = "observe" (the default) it changes nothing: `dynmem status` shows what it would do, and why.
    With mode = "advise" it prints, for each change, the command that you would type to make it. With mode =
    "enforce" it does it. Ctrl-C and SIGTERM end it and leave every VM at its present target; to
    undo, run `dynmem release --all` first. SIGHUP makes it read the file again; a wrong one changes nothing.
    It prints one line per change, with the date.

    Exit codes: 0 ended by SIGTERM or the file is OK, 2 the file or an option is wrong, 4 not permitted,
    5 another manager uses this socket or state folder, 130 Ctrl-C.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    hangups: list[int] = []  # none may end a manager that is just starting
    signal.signal(signal.SIGHUP, lambda number, _: hangups.append(number))
    config = checked(path)
    if check:
        click.echo(summary(config))
        return ExitCode.OK
    return _serve(config, hangups)


def checked(path: Path) -> "Config":
    """Return what a file and its drop-ins say, with a note on standard error for whatever is hardly meant."""
    from dynmem.manager.config import check_monitors, load, warnings
    from dynmem.procfs import meminfo

    config = load(path)
    check_monitors(config)
    (total_bytes,) = meminfo("MemTotal")
    for warning in warnings(config, total_bytes):
        click.echo(f"dynmem: {path}: note: {warning}", err=True)
    if config.libvirt:
        from dynmem.domains.api import missing

        if problem := missing():
            click.echo(f"dynmem: {path}: note: {problem}", err=True)
    return config


def _serve(config: "Config", hangups: list[int]) -> int:
    import asyncio
    import logging

    from dynmem.manager.loop import Daemon
    from dynmem.systemd import journal

    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s dynmem: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )

    def report(line: str) -> None:
        if is_journal and journal.send(entry(line, line.partition(": ")[0], daemon.is_vm)):
            return
        date = datetime.now().astimezone().isoformat(timespec="milliseconds")
        try:
            print(date, line, flush=True)
        except BrokenPipeError:
            # The reader has gone; the VMs are still served.
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        except OSError as error:
            logging.getLogger("dynmem").warning("a line could not be printed (%s): %s", error.strerror, line)

    is_journal = journal.is_journal(sys.stdout.fileno())
    daemon = Daemon(config, report, hangups)
    return asyncio.run(daemon.run())


def entry(line: str, about: str, is_vm: Callable[[str], bool]) -> dict[str, str]:
    """Return a line as an entry of systemd's journal, with the VM that it is *about*, if that is one."""
    fields = {"MESSAGE": line, "PRIORITY": "6", "SYSLOG_IDENTIFIER": "dynmem"}
    if is_vm(about):
        return {**fields, "MESSAGE_ID": VM_MESSAGE_ID, "DYNMEM_VM": about}
    return {**fields, "MESSAGE_ID": HOST_MESSAGE_ID}


def summary(config: "Config") -> str:
    """Return what a configuration means, a line for the host and one for each VM."""
    from dynmem.units import NS_PER_S, format_size

    settings, kept = config.settings, config.settings.ready_bytes
    ready = "" if kept is None else f", ready {format_size(kept)}"
    lines = [
        f"{config.path}: OK",
        f"mode {settings.mode}, period {settings.period_ns / NS_PER_S:g} s",
        f"budget {format_size(settings.budget_bytes)}, slush {format_size(settings.slush_bytes)}{ready}",
        f"socket {config.socket}, state {config.state}, metrics {config.metrics or 'off'}",
    ]
    lines += [
        (
            f"vm {vm.name}: {format_size(vm.minimum_bytes)} to {format_size(vm.maximum_bytes)},"
            f" buffer {vm.buffer_percent} %, weight {vm.weight}, priority {vm.priority},"
            f" {config.ways[vm.name]}"
        )
        for vm in config.vms
    ]
    return "\n".join(lines)

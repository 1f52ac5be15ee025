"""``dynmem duplicates``: zero pages and equal pages in the memory of running VMs."""

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.cli.duplicates_text import rendered
from dynmem.cli.layout import terminal_columns
from dynmem.errors import ConfigError, DynmemError, ExitCode, UnreachableError, quoted
from dynmem.units import MIB, named_size

if TYPE_CHECKING:
    from dynmem.duplicates.report import Report
    from dynmem.duplicates.vms import Vm

_DEFAULT_ACCOUNT: Final = "default"
_RATE_MIN: Final = MIB
_NO_LIMIT: Final = "none"


@click.command()
@click.argument("named", metavar="[VM]...", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every QEMU and every `dynmem vm` of this host.")
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME=VM,...",
    help="VMs that belong together. Pages are compared within an account only. May be given several"
    f" times; the other VMs are the account {_DEFAULT_ACCOUNT!r}.",
)
@click.option(
    "--rate",
    default="256MiB",
    show_default=True,
    metavar="SIZE",
    help=f"How much is read in a second; {_NO_LIMIT!r} for as fast as possible.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def duplicates(
    named: tuple[str, ...], accounts: tuple[str, ...], rate: str, *, everyone: bool, as_json: bool
) -> int:
    """Count zero pages and equal pages in the memory of running VMs, and what they would save.

    VM is the id of a process, or the socket of its monitor; NAME=VM gives it a name. The memory is read and
    never changed, and nothing is merged. What a guest changes meanwhile counts as it
    was when it was compared.

    \b
    Examples:
      dynmem duplicates --all
      dynmem duplicates web=/run/vm/web.qmp db=4711 --rate 64MiB
      dynmem duplicates --all --account anna=web,db --account ben=shop --json

    Exit codes: 0 OK, 2 wrong usage, 3 no such VM, 4 not permitted, 6 some of the VMs could not be read.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    if bool(named) == everyone:
        raise ConfigError("name the VMs, or use --all: `dynmem duplicates 4711` or `dynmem duplicates --all`")
    limit = _rate(rate)
    with contextlib.ExitStack() as stack:
        vms, problems = _vms(named)
        for vm in vms:
            stack.callback(vm.close)
        groups = _accounts(accounts, vms)
        report = _scanned(groups, limit, problems)
    if not report.vms and problems:
        for problem in problems[:-1]:
            click.echo(f"dynmem: {problem}", err=True)
        raise problems[-1]
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        click.echo(rendered(report, terminal_columns()))
        for problem in problems:
            click.echo(f"dynmem: {problem}", err=True)
    return ExitCode.PARTIAL if problems else ExitCode.OK


def _rate(text: str) -> int | None:
    if text == _NO_LIMIT:
        return None
    size = named_size("--rate", text)
    if size < _RATE_MIN:
        raise ConfigError(f"--rate: {quoted(text)} is below 1MiB, the least: raise it, or use {_NO_LIMIT!r}")
    return size


def _vms(named: Sequence[str]) -> "tuple[list[Vm], list[DynmemError]]":
    """Return the named VMs, or all of the host, and why others cannot be read. Raises ConfigError."""
    from dynmem.discovery.processes import running_vms
    from dynmem.duplicates.vms import Vm, pid_at

    vms: list[Vm] = []
    problems: list[DynmemError] = []
    targets = [_target(each) for each in named] or [(None, str(pid)) for pid in running_vms()]
    for name, target in targets:
        try:
            pid = int(target) if target.isdecimal() else pid_at(Path(target))
            if any(pid == vm.pid for vm in vms):
                continue
            vms.append(Vm(pid, name))
        except UnreachableError as error:
            if named:  # or it has ended since it was listed
                problems.append(error)
        except DynmemError as error:
            problems.append(error)
    if not vms and not problems:
        raise ConfigError("no QEMU and no `dynmem vm` runs on this host: name a VM by its pid")
    _distinguish(vms, {name for name, _ in targets if name is not None})
    return vms, problems


def _distinguish(vms: "Sequence[Vm]", given: Container[str]) -> None:
    """Add their pids to the names that several VMs have on their command lines.

    Raises ConfigError if the user has given one of them.
    """
    names = Counter(vm.name for vm in vms)
    for vm in vms:
        if names[vm.name] > 1:
            if vm.name in given:
                raise ConfigError(f"two VMs are called {quoted(vm.name)}: name them like a=4711 b=4712")
            vm.name = f"{vm.name}-{vm.pid}"


def _target(text: str) -> tuple[str | None, str]:
    name, is_named, target = text.partition("=")
    if not is_named or "/" in name:
        return None, text
    if not name or not target or "," in name or not name.isprintable():
        raise ConfigError(f"{quoted(text)} is not NAME=PID or NAME=SOCKET")
    return name, target


def _accounts(options: Sequence[str], vms: "Sequence[Vm]") -> "dict[str, list[Vm]]":
    """Return the VMs by account. Raises ConfigError."""
    by_name = {vm.name: vm for vm in vms}
    account_of: dict[str, str] = {}
    groups: dict[str, list[Vm]] = {}
    for option in options:
        account, _, members = option.partition("=")
        if not account or not members or not account.isprintable():
            raise ConfigError(f"--account: {quoted(option)} is not NAME=VM,...")
        for member in members.split(","):
            if member not in by_name:
                known = ", ".join(by_name) or "none"
                raise ConfigError(f"--account: there is no VM {quoted(member)} here: there is {known}")
            if account_of.setdefault(member, account) != account:
                raise ConfigError(
                    f"--account: VM {quoted(member)} is in two accounts: {account_of[member]}, {account}"
                )
            if by_name[member] not in groups.setdefault(account, []):
                groups[account].append(by_name[member])
    rest = [vm for vm in vms if vm.name not in account_of]
    if rest:
        groups.setdefault(_DEFAULT_ACCOUNT, []).extend(rest)
    return groups


def _scanned(groups: "dict[str, list[Vm]]", limit: int | None, problems: list[DynmemError]) -> "Report":
    """Scan account by account; add to `problems` what could not be read."""
    from dynmem.duplicates.rate import Rate
    from dynmem.duplicates.report import Report
    from dynmem.duplicates.scan import scan_account
    from dynmem.duplicates.vms import without_repeats

    began = time.monotonic()
    notes = list(without_repeats([vm for vms in groups.values() for vm in vms]))
    rate = Rate(limit)
    expected = sum(vm.held_bytes() for vms in groups.values() for vm in vms)
    with _progress(expected) as progress:
        found = [scan_account(name, vms, rate, progress) for name, vms in groups.items()]
    problems += [problem for each in found for problem in each.problems]
    return Report(
        rate_bytes_per_s=limit,
        seconds=round(time.monotonic() - began, 3),
        accounts=tuple(each.account for each in found if each.vms),
        vms=tuple(vm for each in found for vm in each.vms),
        notes=(*notes, *(note for each in found for note in each.notes)),
        problems=tuple(str(problem) for problem in problems),
    )


class _Silent:
    """Shows nothing: the output goes to a file or a program."""

    def expect(self, size: int) -> None:
        del size

    def did(self, size: int) -> None:
        del size


class _Bar:
    """A bar on the terminal."""

    def __init__(self, length: int) -> None:
        self._bar = click.progressbar(length=length, label="reading", file=sys.stderr)

    def __enter__(self) -> "_Bar":
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__(None, None, None)

    def expect(self, size: int) -> None:
        self._bar.length = (self._bar.length or 0) + size

    def did(self, size: int) -> None:
        self._bar.update(size)


@contextlib.contextmanager
def _progress(length: int) -> Iterator[_Bar | _Silent]:
    if not sys.stderr.isatty():
        yield _Silent()
        return
    with _Bar(length) as bar:
        yield bar

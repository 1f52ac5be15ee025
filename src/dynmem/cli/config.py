"""``dynmem config``: a first configuration from the VMs that are found; one that is there, checked, shown."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dynmem.cli.options import config_option
from dynmem.errors import ConfigError, DynmemError, ExitCode

if TYPE_CHECKING:
    from dynmem.cli.config_text import Sized
    from dynmem.discovery.find import Found, FoundVm

# A monitor that is asked for the VM's size has this long for each reply, and is asked nothing else.
_PATIENCE_S: Final = 0.5


@click.group()
def config() -> None:
    """Write, check and show the configuration of `dynmem run`."""


@config.command()
@config_option
def check(path: Path) -> int:
    """Check the manager's file and its drop-ins, and show what they mean.

    Beside config.toml, the files config.d/*.toml are read in the order of their names: a later one adds VMs,
    and replaces single keys, also those of a VM that an earlier one has.

    \b
    Examples:
      dynmem config check
      dynmem config check --config hosts.toml && systemctl reload dynmem

    Exit codes: 0 OK, 2 a file is wrong, and which one, or wrong usage.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.cli.run import checked, summary

    click.echo(summary(checked(path)))
    return ExitCode.OK


@config.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the values and their origins as JSON.")
def show(path: Path, *, as_json: bool) -> int:
    """Show the configuration in force after a reload: every key, and the file that it comes from.

    What no file has stands there with its default. What is printed is a configuration itself.

    \b
    Examples:
      dynmem config show
      dynmem config show --json | jq '.values[] | select(.origin)'

    Exit codes: 0 OK, 2 a file is wrong, and which one, or wrong usage.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.cli.config_show import as_toml, values
    from dynmem.cli.run import checked

    checked(path)
    found = values(path)
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "path": str(path), "values": found}, indent=2))
    else:
        click.echo(as_toml(found))
    return ExitCode.OK


@config.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[FOLDER]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to FILE, which must not exist, and not to standard output.",
)
def init(folders: tuple[Path, ...], output: Path | None) -> int:
    """Write a first configuration, with a comment on each line, for the VMs that run on this host.

    It looks at command lines, sockets and Proxmox's files, and changes nothing. With FOLDER, only VMs whose
    monitors are in these folders are written, and a monitor there that no command line names is asked for the
    size of its VM. A VM that dynmem cannot manage as it is stands behind `#`, with the reason and what to do.

    \b
    Examples:
      dynmem config init                          the VMs of this host, on standard output
      dynmem config init /run/vm -o hosts.toml    those with a monitor in /run/vm
      dynmem run --config hosts.toml --check      is the file OK, and what does it mean?

    Exit codes: 0 OK, 2 wrong usage or FILE exists, 3 a folder cannot be read, 4 not permitted.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.cli.config_text import initial
    from dynmem.dates import format_date
    from dynmem.discovery.find import find_vms
    from dynmem.procfs import meminfo

    found = find_vms(folders)
    sized = asyncio.run(_sized(_wanted(found, folders)))
    (total_bytes,) = meminfo("MemTotal")
    text = initial(sized, found.unseen, total_bytes, format_date(time.time_ns())[:10])
    for sentence in found.unseen:
        click.echo(f"dynmem: note: {sentence}", err=True)
    if output is None:
        sys.stdout.write(text)
    else:
        _write(output, text)
        click.echo(f"{output}: {len(sized)} VMs; check it: dynmem run --config {output} --check")
    return ExitCode.OK


def _wanted(found: "Found", folders: Sequence[Path]) -> "list[FoundVm]":
    """Return all VMs or, with folders, those that have a monitor there."""
    if not folders:
        return list(found.vms)
    real = {os.path.realpath(folder) for folder in folders}
    return [vm for vm in found.vms if any(os.path.realpath(each.path.parent) in real for each in vm.monitors)]


async def _sized(vms: "Sequence[FoundVm]") -> "list[Sized]":
    return list(await asyncio.gather(*map(_size_of, vms)))


async def _size_of(vm: "FoundVm") -> "Sized":
    """Return a VM with its size: by its command line or, where none names its socket, as its monitor says."""
    from dynmem.cli.config_text import Sized
    from dynmem.qmp.client import QmpClient
    from dynmem.qmp.queries import query
    from dynmem.scan.monitored import figure

    if vm.started.monitors or not vm.monitors or vm.monitors[0].is_taken:
        return Sized(vm, vm.started.memory_bytes)
    path = vm.monitors[0].path
    try:
        async with await QmpClient.connect(path, greeting_timeout_s=_PATIENCE_S, events=()) as client:
            reply = await query(client, "query-memory-size-summary", timeout_s=_PATIENCE_S)
    except (DynmemError, OSError, TimeoutError) as error:
        return Sized(vm, 0, f"nobody replies at {path} as a monitor does ({error})")
    size = figure(reply.get("base-memory")) if isinstance(reply, dict) else None
    return Sized(vm, size or 0)


def _write(path: Path, text: str) -> None:
    try:
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w"
        ) as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: there is such a file already: move it away, or name another") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}): name another file") from error

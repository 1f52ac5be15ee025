"""``dynmem scan``: what the VMs of this host hold, need and could give back."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynmem.cli.layout import terminal_columns
from dynmem.cli.scan_text import rendered
from dynmem.errors import ExitCode, UnreachableError, quoted

if TYPE_CHECKING:
    from dynmem.discovery.find import Found, FoundVm


@click.command()
@click.argument("named", metavar="[VM]...", nargs=-1)
@click.option(
    "--sockets",
    "folders",
    multiple=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="A folder of QMP sockets: adds VMs that no process leads to. May be given several times.",
)
@click.option(
    "--libvirt",
    "uri",
    default="",
    metavar="URI",
    help="The libvirt to ask, read-only, about its domains. Default: the one that each was started by.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def scan(named: tuple[str, ...], folders: tuple[Path, ...], uri: str, *, as_json: bool) -> int:
    """Show what the VMs of this host hold, need and could give back. Nothing is changed.

    Finds QEMU (plain, Proxmox, libvirt) and `dynmem vm` by their processes, asks each monitor that no other
    client uses for at most 100 ms, and libvirt about its domains, and reads /proc. VM is a name, a pid or
    Proxmox's VMID; a VM that is named is shown with its evidence. Without root, it reports what it could not
    see.

    \b
    Examples:
      dynmem scan
      dynmem scan web
      sudo dynmem scan --json | jq '.vms[] | {name, stranded_bytes, change}'

    Exit codes: 0 OK, 3 no such VM or folder.
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from dynmem.discovery.find import find_vms
    from dynmem.procfs import allow_descriptors
    from dynmem.scan.domains import Libvirts
    from dynmem.scan.scan import scan as scan_host

    allow_descriptors(4096)
    report = asyncio.run(scan_host(_chosen(find_vms(folders), named), libvirts=Libvirts(uri)))
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        click.echo(rendered(report, terminal_columns(), with_evidence=bool(named)))
    return ExitCode.OK


def _chosen(found: "Found", named: tuple[str, ...]) -> "Found":
    """Return the VMs that are named, or all. Raises UnreachableError if one is not there."""
    if not named:
        return found
    vms = [vm for vm in found.vms if _names(vm) & set(named)]
    for name in named:
        if not any(name in _names(vm) for vm in vms):
            known = ", ".join(vm.name for vm in found.vms[:20]) or "none"
            raise UnreachableError(f"there is no VM {quoted(name)} here: there is {known}")
    return found._replace(vms=tuple(vms))


def _names(vm: "FoundVm") -> set[str]:
    """Return what a VM can be called on the command line."""
    numbers = (vm.pid or None, vm.started.number)
    return {vm.name, *(str(each) for each in numbers if each is not None)}

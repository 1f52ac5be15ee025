"""Whether libvirt, where it keeps VMs of this host, can be asked about them."""

import asyncio
from contextlib import suppress

from dynmem.discovery.find import Found, FoundVm
from dynmem.discovery.keepers import libvirt_of
from dynmem.doctor.manager import names_of
from dynmem.domains.api import Open, open_libvirt
from dynmem.domains.errors import LibvirtMissingError
from dynmem.domains.link import Link
from dynmem.errors import DynmemError
from dynmem.findings import Finding, Verdict

_SUBJECT = "libvirt"
_PATIENCE_S = 1.0


def examine(found: Found, opener: Open = open_libvirt) -> list[Finding]:
    """Ask each libvirt that keeps a VM for the list of its domains, read-only."""
    kept: dict[str, list[FoundVm]] = {}
    for vm in found.vms:
        if vm.is_domain:
            kept.setdefault(libvirt_of([each.path for each in vm.monitors]), []).append(vm)
    return [_tried(uri, vms, opener) for uri, vms in kept.items()]


def _tried(uri: str, vms: list[FoundVm], opener: Open) -> Finding:
    async def ask() -> int:
        link = Link(uri, read_only=True, opener=opener, deadline_s=_PATIENCE_S)
        try:
            return len(await link.call(lambda libvirt: libvirt.domains()))
        finally:
            with suppress(DynmemError):
                link.close()

    try:
        count = asyncio.run(ask())
    except LibvirtMissingError as error:
        why, _, step = str(error).partition(": ")
        return Finding(_SUBJECT, Verdict.LIMITED, f"{names_of(vms)} of {uri}: {why}", step)
    except DynmemError as error:
        step = "start libvirtd, or run dynmem as root or as the user whose libvirt it is"
        return Finding(_SUBJECT, Verdict.LIMITED, f"{uri} does not answer for {names_of(vms)}: {error}", step)
    known = f"{count} domain{'' if count == 1 else 's'}"
    return Finding(_SUBJECT, Verdict.OK, f'{uri} answers, and has {known} (libvirt = "{uri}")')

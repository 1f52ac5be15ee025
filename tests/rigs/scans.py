"""A scan of one VM of this host, as if it were alone here."""

import asyncio
from pathlib import Path

from dynmem.discovery.find import Found, find_vms
from dynmem.scan.report import VmReport
from dynmem.scan.scan import scan


def found(pid: int) -> Found:
    """The VMs of this host, without those of others."""
    everything = find_vms(proxmox=Path("/nonexistent"))
    return everything._replace(vms=tuple(vm for vm in everything.vms if vm.pid == pid))


def scanned(pid: int) -> VmReport:
    (vm,) = asyncio.run(scan(found(pid))).vms
    return vm

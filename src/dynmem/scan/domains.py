"""What libvirt says of its domains: it holds their monitors, and answers for them.

Asked read-only, which libvirt allows everybody by default, and only about domains that were found by their
processes. A libvirt that cannot be reached, or does not reply, is asked no more, and named once.
"""

from functools import partial
from typing import Final

from dynmem.discovery.find import FoundVm
from dynmem.discovery.keepers import libvirt_of
from dynmem.domains.api import Libvirt, Look, Open, open_libvirt
from dynmem.domains.definition import Definition, definition_of
from dynmem.domains.errors import LibvirtRefusedError
from dynmem.domains.link import Link
from dynmem.domains.states import run_state
from dynmem.domains.statistics import as_qemu
from dynmem.errors import DeadlineError, DynmemError
from dynmem.scan.monitored import VIRTIO_MEM, Monitored, VirtioMem, figure, virtio_report
from dynmem.scan.visit import VIRTIO_BALLOON
from dynmem.units import KIB

# A libvirt that takes longer for one domain is left.
PATIENCE_S: Final = 0.5
_LATE_MAX: Final = 3


class Libvirts:
    """The libvirts of this host; *uri* is asked in place of those that the domains seem to be of."""

    def __init__(self, uri: str = "", *, opener: Open = open_libvirt, patience_s: float = PATIENCE_S) -> None:
        self._uri = uri
        self._opener = opener
        self._patience_s = patience_s
        self._links: dict[str, Link] = {}
        self._problems: dict[str, str] = {}
        self._late = 0

    async def ask(self, vm: FoundVm) -> Monitored | None:
        """Return what libvirt says of a domain; None if that is not to be had."""
        if not vm.is_domain:
            return None
        uri = self._uri or libvirt_of([each.path for each in vm.monitors])
        if uri in self._problems:
            return None
        link = self._links.get(uri)
        if link is None:
            link = Link(uri, read_only=True, opener=self._opener, deadline_s=self._patience_s)
            self._links[uri] = link
        try:
            xml, look = await link.call(partial(_asked, uuid=vm.started.uuid))
            return as_monitored(definition_of(xml), look)
        except LibvirtRefusedError:
            return None  # it is another libvirt's
        except DynmemError as error:
            self._late += isinstance(error, DeadlineError)
            if isinstance(error, DeadlineError) and self._late < _LATE_MAX:
                return None  # one domain that hangs is not all
            self._problems[uri] = f"{uri} was not asked about its domains: {error}"
            return None

    def close(self) -> list[str]:
        """End the connections; return what could not be asked: sentences."""
        for link in self._links.values():
            link.close()
        return list(self._problems.values())


def _asked(libvirt: Libvirt, *, uuid: str) -> tuple[str, Look]:
    return libvirt.definition(uuid), libvirt.look(uuid)


def as_monitored(domain: Definition, look: Look) -> Monitored:
    """Return what libvirt says in the form of what a monitor says."""
    said = look.statistics or {}
    mems = [each for each in domain.plugged if each.model == VIRTIO_MEM]
    dimms = sum(each.size for each in domain.plugged if each.model == "dimm")
    return Monitored(
        is_known=True,
        run_state=run_state(look),
        uuid=domain.uuid,
        base_bytes=domain.boot_bytes - dimms,
        actual_bytes=_bytes(said.get("actual", look.size_kib)),
        dimm_bytes=dimms,
        devices=(),
        balloons=(VIRTIO_BALLOON,) if domain.has_balloon else (),
        virtio_mems=tuple(VirtioMem(each.current, each.requested, each.block or 1) for each in mems),
        interval_s=domain.period_s,
        reports_free_pages=domain.reports_free_pages,
        deflates_on_oom=domain.deflates_on_oom,
        report=virtio_report(as_qemu(said)),
    )


def _bytes(kib: object) -> int | None:
    """Return a size that libvirt has in KiB, in bytes; None if no VM can have it."""
    return figure(kib * KIB) if isinstance(kib, int) and not isinstance(kib, bool) else None

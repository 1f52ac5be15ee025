"""What the two ends agree on when a channel opens: the protocol version, then capabilities."""

from typing import Final

from dynmem.dm.blocks import MemoryBlocks, capabilities
from dynmem.dm.options import GuestOptions, HostOptions
from dynmem.wire import dm

MAX_PAGE_COUNT_BYTES: Final = 8
# max_page_number of a guest that can use any page
_NO_LIMIT: Final = (1 << 64) - 1


class HostHandshake:
    """The host's side of it.

    Attributes:
        version: The version that was accepted.
        capabilities: What the guest reported.

    """

    def __init__(self, options: HostOptions) -> None:
        self.version: int | None = None
        self.capabilities: dm.CapabilitiesReport | None = None
        self._options = options

    def take_version(self, request: dm.VersionRequest) -> dm.VersionResponse:
        """Accept or refuse a version; return the answer.

        Versions are compared as one number, so that those between the known ones pass too, as with QEMU.
        """
        accepted = dm.VERSION_WIN7 <= request.version <= self._options.max_version
        if accepted:
            self.version = request.version
        return dm.VersionResponse(request.trans_id, accepted)

    def take_capabilities(self, report: dm.CapabilitiesReport, info_trans_id: int) -> list[dm.Message]:
        """Take what the guest can do; return what to send to it.

        The answer has hot_remove set, as QEMU's has, with which guests have been tested; it obliges the host
        to nothing.
        """
        self.capabilities = report
        replies: list[dm.Message] = [
            dm.CapabilitiesResponse(
                report.trans_id,
                is_accepted=True,
                hot_remove=True,
                suppress_pressure_reports=not self._options.status_report,
            )
        ]
        most = self._options.max_page_count
        if most is not None and self._has(dm.VERSION_WIN8):
            data = most.to_bytes(MAX_PAGE_COUNT_BYTES, "little")
            replies.append(dm.InfoMessage(info_trans_id, dm.INFO_TYPE_MAX_PAGE_CNT, data))
        return replies

    def can(self, capability: int) -> bool:
        """Return whether the guest has reported a capability (one of ``dm.CAP_...``)."""
        return self.capabilities is not None and bool(self.capabilities.caps & capability)

    @property
    def can_hot_remove(self) -> bool:
        """Whether the guest can be asked for memory permanently."""
        return self.can(dm.CAP_HOT_REMOVE) and self._has(dm.VERSION_WIN10)

    def _has(self, version: int) -> bool:
        return self.version is not None and self.version >= version


class GuestHandshake:
    """The guest's side of it.

    Attributes:
        version: The version that the host accepted.
        reports_status: Whether the host wants status reports.
        host_hot_removes: Whether the host may ask for memory permanently.

    """

    def __init__(self, options: GuestOptions, blocks: MemoryBlocks | None, page_limit: int) -> None:
        """Begin with the first version; every page that `blocks` can add is below `page_limit`."""
        self.version: int | None = None
        self.reports_status: bool = True
        self.host_hot_removes: bool = False
        self._options = options
        self._versions = options.habits.versions
        self._blocks = blocks
        self._page_limit = page_limit
        self._attempt = 0

    @property
    def _is_last(self) -> bool:
        return self._attempt == len(self._versions) - 1

    def version_request(self, trans_id: int) -> dm.VersionRequest:
        """Return the request for the version whose turn it is."""
        return dm.VersionRequest(trans_id, self._versions[self._attempt], self._is_last)

    def next_version(self) -> bool:
        """Go on to the next version; return whether there is one."""
        if self._is_last:
            return False
        self._attempt += 1
        return True

    def version_accepted(self) -> None:
        """Record that the host accepted the version of the last request."""
        self.version = self._versions[self._attempt]

    def capabilities_report(self, trans_id: int) -> dm.CapabilitiesReport:
        """Return the report of what this guest can do."""
        habits = self._options.habits
        caps = self._options.caps | habits.unnamed_capabilities
        last_page = _NO_LIMIT
        if self._blocks is not None:
            caps |= capabilities(self._blocks, habits)
            if habits.names_last_page:
                last_page = self._page_limit - 1
        return dm.CapabilitiesReport(trans_id, caps, self._options.min_page_cnt, last_page)

    def capabilities_accepted(self, response: dm.CapabilitiesResponse) -> None:
        """Record what the host wants and can do."""
        self.reports_status = not response.suppress_pressure_reports
        self.host_hot_removes = response.hot_remove

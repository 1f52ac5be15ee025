"""What a monitor's replies mean. Each figure is checked alone: an impossible one counts as absent.

A guest writes its own statistics, so nothing here is believed beyond what it costs the guest.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from dynmem.limits import MANAGER_FIGURE_BYTES_MAX, QMP_NAME_MAX
from dynmem.qmp.queries import DEVICE_FOLDERS, HV_BALLOON_WITHOUT_REPORT
from dynmem.scan.visit import (
    DEFLATES,
    HV_BALLOON,
    INTERVAL,
    REPORTING,
    STATISTICS,
    VIRTIO_BALLOON,
    Answers,
    device_path,
    devices_in,
)

VIRTIO_MEM: Final = "virtio-mem"
_SECONDS_MAX: Final = 1 << 40  # a wall clock beyond this is nonsense


class GuestReport(NamedTuple):
    """What the guest reports of itself. Bytes; None: not reported, or impossible.

    Attributes:
        free: What nothing uses.
        available: What it could use at once, caches included.
        updated_s: When it reported, by the clock of the host; 0: never; None: that is not said.
    """

    free: int | None = None
    available: int | None = None
    updated_s: int | None = None


class VirtioMem(NamedTuple):
    """A virtio-mem device. Bytes.

    Attributes:
        size: What the guest has plugged.
        requested: What it was asked to have.
        block: The unit of both.
    """

    size: int
    requested: int
    block: int


class Monitored(NamedTuple):
    """What a VM's monitor says.

    Attributes:
        is_known: Whether it said anything.
        run_state: The state of the VM; "" if it was not said.
        migration: The state of a migration; "" if there is none.
        uuid: The VM's UUID; "" if it was not said.
        base_bytes: Its memory without what is plugged; None: not said.
        actual_bytes: Its size less what its balloon holds; None: not said.
        dimm_bytes: What DIMMs add.
        devices: The types of its devices; None: not said.
        balloons: Its devices that move memory: "virtio-balloon", "hv-balloon".
        virtio_mems: Its virtio-mem devices.
        balloon_path: The QOM path of its virtio-balloon.
        interval_s: How often QEMU asks the guest for statistics; 0: never; None: not said.
        reports_free_pages: Whether the device lets the guest hand back free pages; None: not said.
        deflates_on_oom: Whether the guest may take pages back before it kills; None: not said.
        report: What the guest reports.
        committed_bytes: What a guest with hv-balloon has promised its programs; None: not said.
    """

    is_known: bool = False
    run_state: str = ""
    migration: str = ""
    uuid: str = ""
    base_bytes: int | None = None
    actual_bytes: int | None = None
    dimm_bytes: int = 0
    devices: tuple[str, ...] | None = None
    balloons: tuple[str, ...] = ()
    virtio_mems: tuple[VirtioMem, ...] = ()
    balloon_path: str = ""
    interval_s: int | None = None
    reports_free_pages: bool | None = None
    deflates_on_oom: bool | None = None
    report: GuestReport = GuestReport()
    committed_bytes: int | None = None


def monitored(answers: Answers) -> Monitored:
    """Return what the answers mean. Whatever they are, it raises nothing."""
    replies = answers.replies
    hv_refusal = answers.refusals.get("query-hv-balloon-status-report", "")
    hv = _members(replies.get("query-hv-balloon-status-report"))
    balloons = []
    if hv or hv_refusal.startswith(HV_BALLOON_WITHOUT_REPORT):
        balloons.append(HV_BALLOON)
    path = device_path(replies, VIRTIO_BALLOON)
    if path:
        balloons.append(VIRTIO_BALLOON)
    dimms, virtio_mems = _memory_devices(replies.get("query-memory-devices"))
    return Monitored(
        is_known=bool(replies),
        run_state=_word(_members(replies.get("query-status")).get("status")),
        migration=_word(_members(replies.get("query-migrate")).get("status")),
        uuid=_uuid(_members(replies.get("query-uuid")).get("UUID")),
        base_bytes=figure(_members(replies.get("query-memory-size-summary")).get("base-memory")) or None,
        actual_bytes=figure(_members(replies.get("query-balloon")).get("actual")),
        dimm_bytes=dimms,
        devices=_types(replies),
        balloons=tuple(balloons),
        virtio_mems=virtio_mems,
        balloon_path=path,
        interval_s=_number(replies.get(INTERVAL), _SECONDS_MAX),
        reports_free_pages=_flag(replies.get(REPORTING)),
        deflates_on_oom=_flag(replies.get(DEFLATES)),
        report=_hv_report(hv) if hv else virtio_report(replies.get(STATISTICS)),
        committed_bytes=figure(hv.get("committed")),
    )


def virtio_report(reply: object) -> GuestReport:
    """Return what guest-stats mean; what is not as QEMU sends it counts as not reported."""
    report = _members(reply)
    figures = _members(report.get("stats"))
    free = figure(figures.get("stat-free-memory"))
    available = figure(figures.get("stat-available-memory"))
    caches = figure(figures.get("stat-disk-caches"))
    if available is None and free is not None and caches is not None:
        available = free + caches  # Linux before 4.6
    updated = _number(report.get("last-update"), _SECONDS_MAX)
    return GuestReport(free, available, updated)


def _hv_report(reply: Mapping[str, object]) -> GuestReport:
    return GuestReport(available=figure(reply.get("available")))


def _memory_devices(reply: object) -> tuple[int, tuple[VirtioMem, ...]]:
    """Return the memory of DIMMs and the virtio-mem devices."""
    dimms = 0
    found: list[VirtioMem] = []
    for entry in reply if isinstance(reply, list) else ():
        device = _members(entry)
        data = _members(device.get("data"))
        size, requested = figure(data.get("size")), figure(data.get("requested-size"))
        if device.get("type") == "dimm":
            dimms = min(dimms + (size or 0), MANAGER_FIGURE_BYTES_MAX)
        elif device.get("type") == VIRTIO_MEM and size is not None and requested is not None:
            found.append(VirtioMem(size, requested, figure(data.get("block-size")) or 1))
    return dimms, tuple(found)


def _types(replies: Mapping[str, object]) -> tuple[str, ...] | None:
    if not any(folder in replies for folder in DEVICE_FOLDERS):
        return None
    return tuple(kind for folder in DEVICE_FOLDERS for _, kind in devices_in(replies.get(folder)))


def _members(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def figure(value: object) -> int | None:
    """Return a number of bytes that a monitor sent; None if it is not one, or no VM has as many."""
    return _number(value, MANAGER_FIGURE_BYTES_MAX)


def _number(value: object, most: int) -> int | None:
    is_one = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most
    return value if isinstance(value, int) and is_one else None


def _uuid(value: object) -> str:
    """Return a UUID; "" if it is none, or of zeros: QEMU's for a VM that was given none."""
    text = _word(value)
    return text if text.strip("0-") else ""


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _word(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() and len(value) <= QMP_NAME_MAX else ""

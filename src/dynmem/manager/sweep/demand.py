"""How each balloon device tells what its guest needs: a table of devices, and one tracker of reports.

A report is paired with the size the VM had when the guest made it. Every formula has the form
demand = size + offset, and the size may have moved since the last report, so what a report tells is a
range; the demand known before stays unless the range contradicts it. (Pairing with the newest size would
understate demand while a VM shrinks, pairing with the oldest would overstate it: the first kills guests, the
second makes targets swing.)
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Final, NamedTuple

from dynmem.errors import RemoteProtocolError
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX, QMP_NAME_MAX
from dynmem.manager.step.facts import Demand
from dynmem.manager.sweep.monitor import STATISTICS_INTERVAL, Monitor
from dynmem.qmp.errors import QmpCommandError
from dynmem.units import MIB

HV_BALLOON: Final = "hv-balloon"
VIRTIO_BALLOON: Final = "virtio-balloon"
STATUS_EVENT: Final = "HV_BALLOON_STATUS_REPORT"
ABSENT_STATISTIC: Final = (1 << 64) - 1  # QEMU hw/virtio/virtio-balloon.c: never reported by the guest
VIRTIO_RESERVE_BYTES: Final = 64 * MIB
"""What a Linux guest must keep available to live through its own growth until the manager has seen it.

Measured with Linux 6.1, statistics and a period of 1 s: with 64 MiB available, loads that grew by 64 MiB/s
lived and those of 96 MiB/s were OOM-killed. Guests with hv-balloon keep such a reserve themselves and report
it as committed; the virtio-balloon driver keeps none.
"""
BOOT_BYTES_MIN: Final = MIB  # no VM is smaller, and no target may come near zero


class Report(NamedTuple):
    """What one look at a guest's figures gave. `mark` differs whenever the guest has reported anew."""

    mark: Hashable
    offset_bytes: int
    available_bytes: int


class Silence(NamedTuple):
    """Why there are no figures, in a sentence without the VM's name."""

    reason: str


class Device(NamedTuple):
    """A balloon device of one VM; `path` is its QOM path ("" where none is needed)."""

    kind: str
    path: str


class Backend(NamedTuple):
    """One kind of balloon device: its demand formula in words, and how the figures are read."""

    formula: str
    read: Callable[[Monitor, Device, int], Awaitable[Report | Silence]]
    """(monitor, device, boot_bytes) -> figures or the reason why there are none"""


def number(value: object, what: str) -> int:
    """A size that a monitor sent; RemoteProtocolError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= ABSENT_STATISTIC:
        raise RemoteProtocolError(f"{what} is not a number of bytes")
    return value


def size(value: object, what: str, *, least: int = 0) -> int:
    """The size of a VM as its monitor told it; RemoteProtocolError if a VM can't have it."""
    bytes_said = number(value, what)
    if not least <= bytes_said <= MANAGER_FIGURE_BYTES_MAX:
        raise RemoteProtocolError(f"{what} is {bytes_said}, which is no size of a VM")
    return bytes_said


def word(value: object) -> str | None:
    """A name or a state that a monitor told, if it is one that can be shown; else None."""
    is_one = isinstance(value, str) and 0 < len(value) <= QMP_NAME_MAX and value.isprintable()
    return value if isinstance(value, str) and is_one else None


def fields(value: object, what: str) -> Mapping[str, object]:
    """An object that a monitor sent; RemoteProtocolError if it is none."""
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"the reply to {what} is not an object")
    return value


async def _read_hv_balloon(monitor: Monitor, device: Device, boot_bytes: int) -> Report | Silence:
    """QEMU hw/hyperv/hv-balloon.c: the last STATUS_REPORT; committed includes what is ballooned."""
    del device
    command = "query-hv-balloon-status-report"
    try:
        reply = fields(await monitor.query(command), command)
    except QmpCommandError as error:
        if "not enabled" in error.desc:
            return Silence("its hv-balloon sends no status: add status-report=on to the device")
        return Silence("its guest has not sent a status report yet")
    committed = number(reply.get("committed"), "committed")
    available = number(reply.get("available"), "available")
    if max(committed, available) > MANAGER_FIGURE_BYTES_MAX:
        return Silence("its guest reports sizes that cannot be")
    return Report((committed, available), committed - boot_bytes, available)


def _available(statistics: Mapping[str, object]) -> int | None:
    """Memory the guest could use at once; free plus caches where it is too old to say (Linux < 4.6)."""
    available = number(statistics.get("stat-available-memory", ABSENT_STATISTIC), "stat-available-memory")
    if available != ABSENT_STATISTIC:
        return available
    free = number(statistics.get("stat-free-memory", ABSENT_STATISTIC), "stat-free-memory")
    if free == ABSENT_STATISTIC:
        return None
    caches = number(statistics.get("stat-disk-caches", ABSENT_STATISTIC), "stat-disk-caches")
    return free if caches == ABSENT_STATISTIC else free + caches


async def _read_virtio_balloon(monitor: Monitor, device: Device, boot_bytes: int) -> Report | Silence:
    """QEMU hw/virtio/virtio-balloon.c: guest-stats, in bytes; last-update 0 and 2^64-1 mean never.

    demand = actual - available + a reserve. It holds with deflate-on-oom on and off alike: the balloon is in
    both or in neither, and what the guest's kernel keeps out of its total is counted as needed, rightly.
    """
    del boot_bytes
    reply = fields(
        await monitor.query("qom-get", {"path": device.path, "property": "guest-stats"}), "guest-stats"
    )
    updated = number(reply.get("last-update"), "last-update")
    available = _available(fields(reply.get("stats"), "guest-stats"))
    if updated == 0 or available is None:
        return Silence("its guest has sent no statistics: load the virtio_balloon driver in it")
    if available > MANAGER_FIGURE_BYTES_MAX:
        return Silence("its guest reports sizes that cannot be")
    return Report(updated, VIRTIO_RESERVE_BYTES - available, available)


BACKENDS: Final[Mapping[str, Backend]] = {
    HV_BALLOON: Backend("committed - ballooned", _read_hv_balloon),
    VIRTIO_BALLOON: Backend("actual - stat-available-memory + 64 MiB", _read_virtio_balloon),
}


async def find_device(monitor: Monitor) -> Device | None:
    """The VM's balloon device, by what its monitor answers; None if it has none."""
    try:
        await monitor.query("query-hv-balloon-status-report")
    except QmpCommandError as error:
        # "no hv-balloon device present", "... in this build" and an unknown command all mean: not this one.
        if error.desc.startswith(("guest memory status reporting", "no guest memory status")):
            return Device(HV_BALLOON, "")
    else:
        return Device(HV_BALLOON, "")
    for folder in ("/machine/peripheral", "/machine/peripheral-anon"):
        try:
            entries = await monitor.query("qom-list", {"path": folder})
        except QmpCommandError:
            continue
        for entry in entries if isinstance(entries, list) else ():
            kind, name = fields(entry, "qom-list").get("type"), word(entry.get("name"))
            if isinstance(kind, str) and kind.startswith("child<virtio-balloon") and name is not None:
                return Device(VIRTIO_BALLOON, f"{folder}/{name}")
    return None


async def statistics_interval(monitor: Monitor, device: Device) -> int:
    """How often (s) QEMU asks the guest for statistics; 0: never."""
    arguments: dict[str, object] = {"path": device.path, "property": STATISTICS_INTERVAL}
    return number(await monitor.query("qom-get", arguments), STATISTICS_INTERVAL)


class DemandTracker:
    """Turns reports of one VM into demand, and knows how old it is.

    A report that was already there when we came says nothing about now: the first demand is known when the
    mark has moved for the first time, and again after `forget`.
    """

    def __init__(self, backend: Backend) -> None:
        self._source = backend.formula
        self._mark: Hashable = None
        self._lowest: int | None = None
        self._highest = 0
        self._actual = 0
        self._demand: tuple[int, int, int] | None = None  # committed, available, when

    def saw_size(self, actual_bytes: int) -> None:
        """The VM's size at one look; to be called before the report of the same look.

        For hv-balloon it is the size without what was hot-added: boot size less what is ballooned.
        """
        if self._lowest is None:
            self._lowest = self._highest = actual_bytes
        self._lowest = min(self._lowest, actual_bytes)
        self._highest = max(self._highest, actual_bytes)
        self._actual = actual_bytes

    def saw_report(self, report: Report, now_ns: int) -> None:
        """The guest's figures at one look, new or not."""
        if report.mark == self._mark:
            return
        is_first = self._mark is None
        self._mark = report.mark
        if not is_first and self._lowest is not None:
            low = max(0, self._lowest + report.offset_bytes)
            high = max(0, self._highest + report.offset_bytes)
            before = high if self._demand is None else self._demand[0]
            self._demand = (min(max(before, low), high), report.available_bytes, now_ns)
        self._lowest = self._highest = self._actual

    def forget(self) -> None:
        """The guest began anew: what it said before is no longer true."""
        self._demand = None

    def demand(self, now_ns: int) -> Demand | None:
        """What is known now."""
        if self._demand is None:
            return None
        committed, available, at_ns = self._demand
        return Demand(
            committed_bytes=committed,
            available_bytes=available,
            source=self._source,
            age_ns=max(0, now_ns - at_ns),
        )

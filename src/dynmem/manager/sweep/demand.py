"""How each balloon device reports what its guest needs: a table of devices, and one tracker of reports.

A report is paired with the size of the VM when the guest made it. Every formula has the form demand = size +
offset, and the size may have moved since the last report, so a report gives a range; the demand known before
stays unless the range contradicts it. (Pairing with the newest size would understate demand while a VM
shrinks, pairing with the oldest would overstate it: the first kills guests, the second makes targets swing.)
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Final, NamedTuple

import msgspec

from dynmem.errors import RemoteProtocolError
from dynmem.limits import MANAGER_FIGURE_BYTES_MAX, QMP_NAME_MAX, QMP_PATH_MAX
from dynmem.manager.step.facts import HV_BALLOON, VIRTIO_BALLOON, Demand
from dynmem.manager.sweep.monitor import STATISTICS_INTERVAL, Monitor
from dynmem.qmp.errors import COMMAND_NOT_FOUND, DEVICE_NOT_FOUND, QmpCommandError
from dynmem.qmp.queries import DEVICE_FOLDERS, HV_BALLOON_WITHOUT_REPORT
from dynmem.units import MIB, PAGE_SIZE, format_size

STATUS_EVENT: Final = "HV_BALLOON_STATUS_REPORT"
STATUS_QUERY: Final = "query-hv-balloon-status-report"
# A guest's driver wrote a size that differs from the one before (virtio-balloon only).
BALLOON_EVENT: Final = "BALLOON_CHANGE"
# QEMU hw/virtio/virtio-balloon.c: the guest never reported it.
ABSENT_STATISTIC: Final = (1 << 64) - 1
# What a Linux guest must keep available to survive its own growth until the manager has seen it. Measured
# with Linux 6.1, statistics and a period of 1 s: with 64 MiB available, loads that grew by 64 MiB/s survived
# and those that grew by 96 MiB/s were OOM-killed. Guests with hv-balloon keep such a reserve themselves and
# report it as committed; the virtio-balloon driver keeps none.
VIRTIO_RESERVE_BYTES: Final = 64 * MIB
# The others do not move by themselves, or are not reported by every kernel.
_STATISTICS: Final = (
    *("stat-available-memory", "stat-free-memory", "stat-disk-caches"),
    *("stat-minor-faults", "stat-major-faults", "stat-swap-in"),
)
_NO_STATISTICS: Final = "its guest has sent no statistics: load the virtio_balloon driver in it"
# No VM is smaller, and no target may come near zero.
BOOT_BYTES_MIN: Final = MIB


class Report(NamedTuple):
    """A guest's figures, as read once.

    Attributes:
        mark: Differs whenever the guest has reported again.
        offset_bytes: Demand less the size of the VM.
        available_bytes: What the guest could use at once.
        minor_faults: How many page faults it has had since it booted; None: not reported.
        major_faults: How many of them read from a disk, and how many pages were swapped in; None: not
            reported.
        total_bytes: What the guest's kernel manages; None: not reported.
    """

    mark: Hashable
    offset_bytes: int
    available_bytes: int
    minor_faults: int | None = None
    major_faults: int | None = None
    total_bytes: int | None = None


class Silence(NamedTuple):
    """Why there are no figures.

    Attributes:
        reason: A sentence without the VM's name.
    """

    reason: str


class Device(NamedTuple):
    """A balloon device of one VM.

    Attributes:
        kind: HV_BALLOON or VIRTIO_BALLOON.
        path: Its QOM path; empty where none is needed.
    """

    kind: str
    path: str


class DemandSource(NamedTuple):
    """How one kind of balloon device reports demand.

    Attributes:
        formula: The formula in words.
        read: Reads the figures of a device behind a monitor, given the VM's boot size.
        reserve_bytes: What its guest should keep at hand beyond its demand.
    """

    formula: str
    read: Callable[[Monitor, Device, int], Awaitable[Report | Silence]]
    reserve_bytes: int = 0


def number(value: object, what: str) -> int:
    """Return a size that a monitor sent; RemoteProtocolError if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= ABSENT_STATISTIC:
        raise RemoteProtocolError(f"{what} is {_shown(value)}, which is not a number of bytes")
    return value


def _shown(value: object) -> str:
    """Return a wrong figure as people can read it, whatever it is."""
    if isinstance(value, bool | None) or (isinstance(value, int) and abs(value) <= ABSENT_STATISTIC):
        return str(value)
    return {int: "a huge number", float: "a fraction", str: "text"}.get(type(value), "no number")


def size(value: object, what: str, *, least: int = 0) -> int:
    """Return the size of a VM as its monitor reported it; RemoteProtocolError if no VM can have that size."""
    reported = number(value, what)
    if not least <= reported <= MANAGER_FIGURE_BYTES_MAX:
        raise RemoteProtocolError(f"{what} is {reported}, which is not the size of a VM")
    return reported


def virtio_size(value: object) -> int | Silence:
    """Return the size of a VM with virtio-balloon as `query-balloon` reported it.

    What its balloon holds is a word of 32 bits that the guest writes (QEMU hw/virtio/virtio-balloon.c). QEMU
    takes it off the VM's memory unseen, so a size below nothing is the guest's fault.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value < 0:
        return Silence(f"its guest reports an impossible balloon: actual is {_shown(value)}")
    return size(value, "actual")


def word(value: object, *, longest: int = QMP_NAME_MAX) -> str | None:
    """Return a name or a state that a monitor sent, if it can be shown; else None."""
    is_one = isinstance(value, str) and 0 < len(value) <= longest and value.isprintable()
    return value if isinstance(value, str) and is_one else None


def fields(value: object, what: str) -> Mapping[str, object]:
    """Return an object that a monitor sent; RemoteProtocolError if it is not one."""
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"the reply to {what} is not an object")
    return value


async def _read_hv_balloon(monitor: Monitor, device: Device, boot_bytes: int) -> Report | Silence:
    """Read the last STATUS_REPORT (QEMU hw/hyperv/hv-balloon.c); committed includes what is ballooned."""
    del device
    command = STATUS_QUERY
    try:
        reply = fields(await monitor.query(command), command)
    except QmpCommandError as error:
        if "not enabled" in error.desc:
            return Silence("its hv-balloon sends no status: add status-report=on to the device")
        return Silence("its guest has not sent a status report yet")
    committed = _guests("committed", reply.get("committed"))
    available = _guests("available", reply.get("available"))
    if isinstance(committed, Silence):
        return committed
    if isinstance(available, Silence):
        return available
    return Report((committed, available), committed - boot_bytes, available)


def _guests(name: str, value: object) -> int | Silence:
    """Return a figure that a guest reports. An impossible one is the guest's fault, and not its monitor's."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MANAGER_FIGURE_BYTES_MAX:
        return value
    return Silence(f"its guest reports impossible sizes: {name} is {_shown(value)}")


def _available(statistics: Mapping[str, object]) -> int | Silence:
    """Return what the guest could use at once; free plus caches before Linux 4.6."""
    found: list[int] = []
    for names in (("stat-available-memory",), ("stat-free-memory", "stat-disk-caches")):
        for name in names:
            if statistics.get(name, ABSENT_STATISTIC) in (ABSENT_STATISTIC, -1):  # the same, signed
                break
            figure = _guests(name, statistics[name])
            if isinstance(figure, Silence):
                return figure
            found.append(figure)
        if found:
            return sum(found)
    return Silence(_NO_STATISTICS)


async def _read_virtio_balloon(monitor: Monitor, device: Device, boot_bytes: int) -> Report | Silence:
    """Read guest-stats (QEMU hw/virtio/virtio-balloon.c), in bytes; last-update 0 and 2^64-1 mean never.

    demand = actual - available. It holds with and without deflate-on-oom: the balloon is in both figures or
    in neither, and what the guest's kernel keeps out of its total rightly counts as needed.

    last-update has whole seconds, and a guest that was asked on demand reports several times in one: so two
    reports are told apart by their figures as well.
    """
    del boot_bytes
    return virtio_report(await monitor.query("qom-get", {"path": device.path, "property": "guest-stats"}))


def virtio_report(found: object) -> Report | Silence:
    """Return what guest-stats mean. RemoteProtocolError if they are not as QEMU sends them."""
    reply = fields(found, "guest-stats")
    updated = number(reply.get("last-update"), "last-update")
    statistics = fields(reply.get("stats"), "guest-stats")
    available = _available(statistics)
    if isinstance(available, Silence):
        return available
    if updated == 0:
        return Silence(_NO_STATISTICS)
    minor, major = (_count(statistics, name) for name in ("stat-minor-faults", "stat-major-faults"))
    swapped = _count(statistics, "stat-swap-in")  # in bytes, whatever its name says
    if major is not None:
        major += (swapped or 0) // PAGE_SIZE
    figures = tuple(_count(statistics, name) for name in _STATISTICS)
    total = _count(statistics, "stat-total-memory")
    return Report((updated, figures), -available, available, minor, major, total)


def _count(statistics: Mapping[str, object], name: str) -> int | None:
    """Return a figure that need not be there; None if it is not, or cannot be true."""
    figure = _guests(name, statistics.get(name))
    return figure if isinstance(figure, int) else None


DEMAND_SOURCES: Final[Mapping[str, DemandSource]] = {
    HV_BALLOON: DemandSource("committed - ballooned", _read_hv_balloon),
    VIRTIO_BALLOON: DemandSource(
        f"actual - stat-available-memory, and {format_size(VIRTIO_RESERVE_BYTES)} in reserve",
        _read_virtio_balloon,
        VIRTIO_RESERVE_BYTES,
    ),
}


async def find_device(monitor: Monitor) -> Device | None:
    """Return the VM's balloon device, going by its monitor's replies; None if it has none.

    Raises QmpCommandError if the monitor does not say what devices there are.
    """
    try:
        await monitor.query(STATUS_QUERY)
    except QmpCommandError as error:
        # "no hv-balloon device present", "... in this build" and an unknown command all mean: absent.
        if error.desc.startswith(HV_BALLOON_WITHOUT_REPORT):
            return Device(HV_BALLOON, "")
    else:
        return Device(HV_BALLOON, "")
    path = await find_object(monitor, VIRTIO_BALLOON)
    return None if path is None else Device(VIRTIO_BALLOON, path)


async def find_object(monitor: Monitor, kind: str) -> str | None:
    """Return the path of the VM's first device whose type begins with *kind*; None if it has none.

    Raises QmpCommandError if the monitor does not say what devices there are.
    """
    return next(iter(await find_objects(monitor, kind)), None)


async def find_objects(monitor: Monitor, kind: str) -> list[str]:
    """Return the paths of all the VM's devices whose type begins with *kind*. Raises as `find_object`."""
    paths: list[str] = []
    for folder in DEVICE_FOLDERS:
        try:
            entries = await monitor.query("qom-list", {"path": folder})
        except QmpCommandError as error:
            if error.error_class in (COMMAND_NOT_FOUND, DEVICE_NOT_FOUND):
                continue  # a monitor without the command or the folder has no such devices
            raise
        for entry in entries if isinstance(entries, list) else ():
            found = fields(entry, "qom-list").get("type")
            name = word(entry.get("name"), longest=QMP_PATH_MAX)
            if isinstance(found, str) and found.startswith(f"child<{kind}") and name is not None:
                paths.append(f"{folder}/{name}")
    return paths


async def statistics_interval(monitor: Monitor, device: Device) -> int:
    """Return how often QEMU asks the guest for statistics, in seconds; 0: never."""
    arguments: dict[str, object] = {"path": device.path, "property": STATISTICS_INTERVAL}
    return number(await monitor.query("qom-get", arguments), STATISTICS_INTERVAL)


class DemandTracker:
    """Turns reports of one VM into demand, and knows how old it is.

    A report that was there before the manager says nothing about the present: the first demand is known when
    the mark has moved for the first time, and again after `forget`.
    """

    def __init__(self, source: DemandSource) -> None:
        self._source = source
        self._mark: Hashable = None
        self._lowest: int | None = None
        self._highest = 0
        self._actual = 0
        self._most = MANAGER_FIGURE_BYTES_MAX
        self._demand: Demand | None = None
        self._at_ns = 0

    def saw_size(self, actual_bytes: int, most_bytes: int = MANAGER_FIGURE_BYTES_MAX) -> None:
        """Take in the VM's size, and the most that it can have; call it before `saw_report` of the same look.

        For hv-balloon it is the size without what was hot-added: boot size less what is ballooned; and its
        demand is at most `most_bytes`, since a guest may promise its programs more, and its figure may be
        absurd.
        """
        self._most = most_bytes
        if self._lowest is None:
            self._lowest = self._highest = actual_bytes
        self._lowest = min(self._lowest, actual_bytes)
        self._highest = max(self._highest, actual_bytes)
        self._actual = actual_bytes

    def saw_report(self, report: Report, now_ns: int) -> bool:
        """Take in the guest's figures; return whether they are new."""
        if report.mark == self._mark:
            return False
        is_first = self._mark is None
        self._mark = report.mark
        if not is_first and self._lowest is not None:
            low = min(max(0, self._lowest + report.offset_bytes), self._most)
            high = min(max(0, self._highest + report.offset_bytes), self._most)
            before = high if self._demand is None else self._demand.committed_bytes
            self._demand, self._at_ns = self._of(report, min(max(before, low), high)), now_ns
        self._lowest = self._highest = self._actual
        return True

    def _of(self, report: Report, committed_bytes: int) -> Demand:
        return Demand(
            committed_bytes=committed_bytes,
            available_bytes=report.available_bytes,
            source=self._source.formula,
            age_ns=0,
            reserve_bytes=self._source.reserve_bytes,
            faults=report.major_faults,
        )

    def forget(self) -> None:
        """Drop what a guest reported before its reset, and how large it was.

        A report that is read next may still be the former guest's, so the one after it is the first.
        """
        self._demand = self._mark = self._lowest = None

    def missed(self) -> None:
        """Take in that reports may have been missed: the next one may be of any age, and is not believed."""
        self._mark = None

    def demand(self, now_ns: int) -> Demand | None:
        """Return what is known now; None if nothing is."""
        if self._demand is None:
            return None
        return msgspec.structs.replace(self._demand, age_ns=max(0, now_ns - self._at_ns))

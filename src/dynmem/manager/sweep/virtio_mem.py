"""virtio-mem: where a VM's devices are, what a target sends to them, and what the guest did not put online.

The list of memory devices shows sizes, and names a device only if it was given an id. So each device is found
in QEMU's object tree by its memory backend, and `requested-size` is set there and nowhere else.

A request is granted at once and says nothing: only `size` shows what the guest plugs and unplugs. And what is
plugged is of use only once the guest has put it online, which no device reports. The guest's own total does:
it grows with what is plugged, or it does not.

    gap = boot memory + plugged − total       what the kernel keeps, and what is not online
    gap = the same, less the ballooned        where the balloon comes off the total, too (Linux without
                                              deflate-on-oom)

A gap that has been smaller, while nothing moved, holds memory that is not online. Of the two, the smaller
rise is right: in the other, the balloon is wrong.
"""

from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Final, NamedTuple

from dynmem.errors import DynmemError
from dynmem.limits import MANAGER_DEVICES_MAX, QMP_PATH_MAX
from dynmem.manager.step.division import Parts
from dynmem.manager.step.facts import VirtioMem
from dynmem.manager.sweep.demand import find_objects, word
from dynmem.manager.sweep.monitor import Monitor
from dynmem.manager.sweep.sizes import Listed
from dynmem.qmp.errors import QmpCommandError
from dynmem.units import MIB

# How the types of the devices begin: virtio-mem-pci, and those of other buses.
_TYPE: Final = "virtio-mem-"
# Less is not worth a word: the kernel's own figures move a little.
_NOISE_BYTES: Final = 16 * MIB


class PartlySentError(DynmemError):
    """A part of a target was sent, and another was refused."""


async def find_paths(monitor: Monitor) -> Mapping[str, str]:
    """Return the path of each virtio-mem device by its memory backend, as far as the monitor says.

    Raises as QmpClient.execute, but not QmpCommandError.
    """
    found: dict[str, str] = {}
    try:
        for path in (await find_objects(monitor, _TYPE))[:MANAGER_DEVICES_MAX]:
            reply = await monitor.query("qom-get", {"path": path, "property": "memdev"})
            backend = word(reply, longest=QMP_PATH_MAX)
            if backend is not None:
                found.setdefault(backend, path)
    except QmpCommandError:
        pass  # those that are not found are counted, and left as they are
    return found


def with_paths(listed: tuple[Listed, ...], paths: Mapping[str, str]) -> tuple[VirtioMem, ...]:
    """Return the devices with their paths."""
    return tuple(
        VirtioMem(
            paths.get(each.backend, ""),
            each.block_bytes,
            each.size_bytes,
            each.requested_bytes,
            each.max_bytes,
        )
        for each in listed
    )


async def send_parts(monitor: Monitor, parts: Parts, balloon: Callable[[int], Awaitable[None]]) -> None:
    """Send what the devices of one VM are asked for, one after the other; the first refusal ends it.

    *balloon* sends the balloon's part. Raises what was refused, or PartlySentError if something was sent.
    """
    sent = ""
    try:
        for path, size in parts.requests:
            await monitor.set_requested_size(path, size)
            sent = f"requested-size of {path}"
        if parts.balloon_bytes is not None:
            await balloon(parts.balloon_bytes)
    except QmpCommandError as error:
        if not sent:
            raise
        raise PartlySentError(f"{sent} is set, and the rest was refused: {error}") from None


class _Sizes(NamedTuple):
    """The sizes of a VM at one look: with an empty balloon, with the present one, and the plugged part."""

    full: int
    present: int
    plugged: int


class Online:
    """How much of what virtio-mem has plugged a guest has not put online, by its reports. Bytes.

    A report may be from before the last move of a size. So a gap counts as what the kernel keeps only if no
    size has moved for two reports (for one, before anything is plugged: a manager plugs soon), and what is
    offline is reckoned with the smallest sizes since the last.
    """

    def __init__(self) -> None:
        self.offline_bytes: int = 0
        self._mark: Hashable = None
        self._kept: tuple[int, int] | None = None
        self._now = self._low = self._high = _Sizes(0, 0, 0)
        self._steady = 0
        self._has_plugged = False
        self._is_new = True

    def saw_sizes(self, boot_bytes: int, size_bytes: int, plugged_bytes: int) -> None:
        """Take in the sizes of one look; call it before `saw_total` of the same look."""
        self._now = now = _Sizes(boot_bytes + plugged_bytes, size_bytes, plugged_bytes)
        if self._is_new:
            self._low, self._high, self._is_new = now, now, False
        self._low = _Sizes(*map(min, self._low, now))
        self._high = _Sizes(*map(max, self._high, now))

    def saw_total(self, mark: Hashable, total_bytes: int) -> None:
        """Take in the total of a guest's report; *mark* differs with each report."""
        if mark == self._mark:
            return
        is_first, self._mark = self._mark is None, mark
        self._steady = 0 if is_first or self._low != self._high else self._steady + 1
        self._has_plugged |= self._high.plugged > 0
        gaps = self._low.full - total_bytes, self._low.present - total_bytes
        if self._steady > self._has_plugged:
            kept = self._kept or gaps
            self._kept = min(kept[0], gaps[0]), min(kept[1], gaps[1])
        if self._kept is not None:
            rise = min(gaps[0] - self._kept[0], gaps[1] - self._kept[1])
            self.offline_bytes = min(rise, self._low.plugged) if rise >= _NOISE_BYTES else 0
        self._low = self._high = self._now

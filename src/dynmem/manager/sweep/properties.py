"""What a balloon device lets its guest do by itself: read once, and again after a reconnect.

    deflate-on-oom        the guest may take pages back from the balloon before it kills a process
    free-page-reporting   the guest may hand back free pages: what it does not use is not resident

Both say what the device offers. Linux takes up both; a guest whose driver does not cannot be told by these.
"""

from typing import NamedTuple

from dynmem.manager.step.facts import HV_BALLOON
from dynmem.manager.sweep.demand import Device, find_object
from dynmem.manager.sweep.monitor import Monitor
from dynmem.qmp.errors import QmpCommandError


class Properties(NamedTuple):
    """What one device offers; None: its monitor does not say.

    Attributes:
        deflates_on_oom: Whether its guest may take pages back before it kills a process.
        reports_free_pages: Whether its guest may hand back free pages.
    """

    deflates_on_oom: bool | None = None
    reports_free_pages: bool | None = None


async def read_properties(monitor: Monitor, device: Device) -> Properties:
    """Return the properties of a device. Raises as QmpClient.execute, but not QmpCommandError.

    An hv-balloon has no deflate-on-oom. That of `dynmem vm` has free-page-reporting, QEMU's does not.
    """
    path = device.path
    try:
        path = path or await find_object(monitor, device.kind) or ""
    except QmpCommandError:
        return Properties()
    reports = await _flag(monitor, path, "free-page-reporting")
    if device.kind == HV_BALLOON:
        return Properties(None, reports)
    return Properties(await _flag(monitor, path, "deflate-on-oom"), reports)


async def _flag(monitor: Monitor, path: str, name: str) -> bool | None:
    """Return a property that is on or off; None if there is none of that name."""
    if not path:
        return None
    try:
        value = await monitor.query("qom-get", {"path": path, "property": name})
    except QmpCommandError:
        return None
    return value if isinstance(value, bool) else None

"""Whether a VM runs, by its monitor: QEMU's RunState, a migration of its memory, and jobs that copy it.

    query-status    each look
    query-migrate   each look
    query-jobs      while a job runs, when the monitor says that one has changed, and now and then

Of jobs, those count that are about the whole VM: a backup of its disks (drive-backup, blockdev-backup; those
of libvirt and Proxmox are among them), and a snapshot that is saved or loaded. A mirror, a commit or a stream
may run for weeks and concerns disks alone.
"""

from collections.abc import Mapping
from typing import Final

from dynmem.errors import RemoteProtocolError
from dynmem.manager.step.facts import BACKUP, MIGRATING, RESTORING, RUNNING, SAVING
from dynmem.manager.sweep.demand import fields, word
from dynmem.manager.sweep.monitor import SELDOM, Monitor
from dynmem.qmp.errors import QmpCommandError

#: The event of a job that has changed.
JOB_EVENT: Final = "JOB_STATUS_CHANGE"
# States of QEMU's MigrationStatus in which the VM's memory is being moved.
_MOVING: Final = frozenset(
    {
        "setup",
        "cancelling",
        "active",
        "postcopy-active",
        "postcopy-paused",
        "postcopy-recover",
        "postcopy-recover-setup",
        "postcopy-device",
        "pre-switchover",
        "device",
        "wait-unplug",
        "failing",
        "colo",
    }
)
_STOPPED: Final = frozenset({"paused", "prelaunch", "suspended"})
# QEMU's JobType, and the state of a VM that has such a job (qapi/job.json).
_JOBS: Final[Mapping[str, str]] = {
    "backup": BACKUP,
    "snapshot-save": SAVING,
    "snapshot-load": RESTORING,
}
# QEMU's JobStatus of a job that has not begun, or has ended and waits for its owner to look at it.
_AT_REST: Final = frozenset({"undefined", "created", "concluded", "null"})


class Jobs:
    """The jobs of one VM's monitor."""

    def __init__(self) -> None:
        self._next = 0
        self._state = ""

    def changed(self) -> None:
        """Take in that a job has changed."""
        self._next = 0

    async def state(self, monitor: Monitor, look: int) -> str:
        """Return the state that the jobs put the VM in; "" if they do not. Raises as QmpClient.execute."""
        if look >= self._next:
            self._next = look + SELDOM
            try:
                self._state = _state_of(await monitor.query("query-jobs"))
            except QmpCommandError:
                self._state = ""  # dynmem vm, and QEMU before 3.0, have no jobs
            if self._state:
                self._next = 0
        return self._state


def _state_of(listed: object) -> str:
    if not isinstance(listed, list):
        raise RemoteProtocolError("the reply to query-jobs is not a list")
    found = ""
    for entry in listed:
        job = fields(entry, "query-jobs")
        kind, status = job.get("type"), job.get("status")
        state = _JOBS.get(kind, "") if isinstance(kind, str) else ""
        if state and status not in _AT_REST and found != RESTORING:
            found = state
    return found


async def read_run_state(monitor: Monitor, jobs: Jobs, look: int) -> str:
    """Return the state of a VM, as `states` has it. *look* counts the looks at it."""
    reply = fields(await monitor.query("query-status"), "query-status")
    status = word(reply.get("status"))
    if status is None:
        raise RemoteProtocolError("the reply to query-status has no status")
    moving = await _is_moving(monitor)
    if status != RUNNING:
        # One that is stopped may be moved, too; of one that waits for its memory, "inmigrate" says more.
        return MIGRATING if moving and status in _STOPPED else status
    return MIGRATING if moving else await jobs.state(monitor, look) or status


async def _is_moving(monitor: Monitor) -> bool:
    try:
        migration = fields(await monitor.query("query-migrate"), "query-migrate")
    except QmpCommandError:
        return False  # dynmem vm does not migrate; QEMU before its machine exists may say so, too
    return migration.get("status") in _MOVING


async def read_uuid(monitor: Monitor) -> object:
    """Return what a monitor reports as its VM's UUID; None if it reports none."""
    try:
        reply = await monitor.query("query-uuid")
    except QmpCommandError:
        return None
    return reply.get("UUID") if isinstance(reply, dict) else None

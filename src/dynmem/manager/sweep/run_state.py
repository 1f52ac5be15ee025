"""Whether a VM runs, by its monitor: QEMU's RunState, or that its memory is being moved to another host."""

from typing import Final

from dynmem.errors import RemoteProtocolError
from dynmem.manager.sweep.demand import fields, word
from dynmem.manager.sweep.monitor import Monitor
from dynmem.qmp.errors import QmpCommandError

# States of QEMU's MigrationStatus in which the VM's memory is being moved.
_MIGRATING: Final = frozenset(
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
    }
)


async def read_run_state(monitor: Monitor) -> str:
    """Return the state of a VM; "migrating" where its memory is being moved."""
    reply = fields(await monitor.query("query-status"), "query-status")
    status = word(reply.get("status"))
    if status is None:
        raise RemoteProtocolError("the reply to query-status has no status")
    try:
        migration = fields(await monitor.query("query-migrate"), "query-migrate")
    except QmpCommandError:
        return status  # dynmem vm does not migrate; QEMU before its machine exists may say so, too
    return "migrating" if migration.get("status") in _MIGRATING else status

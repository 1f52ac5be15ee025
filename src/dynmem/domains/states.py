"""What libvirt's states and jobs are called in QEMU's words, which are those of a VM with a monitor.

Only a domain that runs, and with which libvirt does nothing else, is "running".
"""

from typing import Final

from dynmem.domains.api import Look

RUNNING: Final = "running"
_MIGRATING: Final = "migrating"
_SAVING: Final = "save-vm"
_BACKUP: Final = "backup"
_ARRIVING: Final = "inmigrate"
_STARTING: Final = "prelaunch"
_PANICKED: Final = "guest-panicked"
# virDomainState. A domain that is blocked waits for a resource, as running ones do.
_STATES: Final = {1: RUNNING, 2: RUNNING, 4: "shutdown", 6: _PANICKED, 7: "suspended"}
_PAUSED: Final = 3
_ENDED: Final = 5
# virDomainPausedReason: migration, save, dump, I/O error, watchdog, snapshot, crash, start, postcopy (twice).
_REASONS: Final = {
    2: _MIGRATING,
    3: _MIGRATING,
    4: _MIGRATING,
    5: "io-error",
    6: "watchdog",
    9: _SAVING,
    10: _PANICKED,
    11: _STARTING,
    12: _MIGRATING,
    13: _MIGRATING,
}
# virDomainJobOperation. To save and to dump is to move memory into a file.
_JOBS: Final = {
    1: _STARTING,  # start
    2: _MIGRATING,  # save
    3: _ARRIVING,  # restore
    4: _ARRIVING,  # migration in
    5: _MIGRATING,  # migration out
    6: _SAVING,  # snapshot
    7: "restore-vm",  # snapshot revert
    8: _MIGRATING,  # dump
    9: _BACKUP,  # backup
    10: _BACKUP,  # snapshot delete
}
_BUSY: Final = "busy"  # a job that libvirt may come to have one day
_UNKNOWN: Final = "unknown"


def run_state(look: Look) -> str:
    """Return the state of a domain in a word; "" if it does not run at all."""
    if look.state == _ENDED:
        return ""
    if look.job is not None:
        return _JOBS.get(look.job, _BUSY)
    if look.state == _PAUSED:
        return _REASONS.get(look.reason, "paused")
    return _STATES.get(look.state, _UNKNOWN)

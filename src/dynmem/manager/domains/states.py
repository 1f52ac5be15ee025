"""What libvirt's states and jobs are called where the manager speaks of a VM's state (`step.states`).

Only a domain that runs, and with which libvirt does nothing else, is "running".
"""

from typing import Final

from dynmem.domains.api import Look
from dynmem.manager.step.facts import BACKUP, MIGRATING, RESTORING, RUNNING, SAVING

_ARRIVING: Final = "inmigrate"
_STARTING: Final = "prelaunch"
_PANICKED: Final = "guest-panicked"
# virDomainState. A domain that is blocked waits for a resource, as running ones do.
_STATES: Final = {1: RUNNING, 2: RUNNING, 4: "shutdown", 6: _PANICKED, 7: "suspended"}
_PAUSED: Final = 3
_ENDED: Final = 5
# virDomainPausedReason: migration, save, dump, I/O error, watchdog, snapshot, crash, start, postcopy (twice).
_REASONS: Final = {
    2: MIGRATING,
    3: MIGRATING,
    4: MIGRATING,
    5: "io-error",
    6: "watchdog",
    9: SAVING,
    10: _PANICKED,
    11: _STARTING,
    12: MIGRATING,
    13: MIGRATING,
}
# virDomainJobOperation. To save and to dump is to move memory into a file.
_JOBS: Final = {
    1: _STARTING,  # start
    2: MIGRATING,  # save
    3: _ARRIVING,  # restore
    4: _ARRIVING,  # migration in
    5: MIGRATING,  # migration out
    6: SAVING,  # snapshot
    7: RESTORING,  # snapshot revert
    8: MIGRATING,  # dump
    9: BACKUP,  # backup
    10: BACKUP,  # snapshot delete
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

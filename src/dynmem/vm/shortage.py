"""What a host may be short of for a moment: descriptors, memory of the kernel, processes.

These are quotas of the whole host, or of a user with several VMs. That one is used up says nothing of the
guest that was to be started, or sent something, just then: whoever meets such an error waits and tries again.
"""

import errno
import os
from typing import Final

from dynmem.errors import ConfigError, DynmemError
from dynmem.procfs import SHORTAGES
from dynmem.vm.platform import ShortageError

_NUMBERS: Final = SHORTAGES | {
    errno.EAGAIN,  # processes of the user (RLIMIT_NPROC) or of the cgroup
    errno.ETOOMANYREFS,  # descriptors of the user that were sent and not yet received
}


def is_shortage(number: int) -> bool:
    """Return whether this errno says that a quota is used up."""
    return number in _NUMBERS


def cannot_start(number: int, what: str) -> DynmemError:
    """Return the error for a guest that cannot be started: a shortage passes, anything else does not."""
    text = f"the guest cannot be started: {what}: {os.strerror(number)}"
    return ShortageError(text) if is_shortage(number) else ConfigError(text)

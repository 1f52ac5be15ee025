"""All cases: those for hosts and those for guests."""

from typing import Final

from dynmem.conformance import (
    guest_dm,
    guest_hot_add,
    guest_session,
    guest_vmbus,
    host_dm,
    host_dm_faults,
    host_hot_add,
    host_session,
    host_vmbus,
    host_vmbus_faults,
)
from dynmem.conformance.case import Case

HOST_CASES: Final[tuple[Case, ...]] = (
    *host_session.TABLE.cases,
    *host_vmbus.TABLE.cases,
    *host_vmbus_faults.TABLE.cases,
    *host_dm.TABLE.cases,
    *host_dm_faults.TABLE.cases,
    *host_hot_add.TABLE.cases,
)
GUEST_CASES: Final[tuple[Case, ...]] = (
    *guest_session.TABLE.cases,
    *guest_vmbus.TABLE.cases,
    *guest_dm.TABLE.cases,
    *guest_hot_add.TABLE.cases,
)

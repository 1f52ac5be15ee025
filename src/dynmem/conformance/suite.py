"""All cases: those for hosts and those for guests."""

from typing import Final

from dynmem.conformance.case import Case
from dynmem.conformance.guest import dm as guest_dm
from dynmem.conformance.guest import hot_add as guest_hot_add
from dynmem.conformance.guest import session as guest_session
from dynmem.conformance.guest import vmbus as guest_vmbus
from dynmem.conformance.host import contact as host_contact
from dynmem.conformance.host import dm as host_dm
from dynmem.conformance.host import dm_faults as host_dm_faults
from dynmem.conformance.host import hot_add as host_hot_add
from dynmem.conformance.host import rescind as host_rescind
from dynmem.conformance.host import session as host_session
from dynmem.conformance.host import vmbus as host_vmbus
from dynmem.conformance.host import vmbus_faults as host_vmbus_faults

#: All cases for hosts, in the order of the report.
HOST_CASES: Final[tuple[Case, ...]] = (
    *host_session.TABLE.cases,
    *host_vmbus.TABLE.cases,
    *host_contact.TABLE.cases,
    *host_rescind.TABLE.cases,
    *host_vmbus_faults.TABLE.cases,
    *host_dm.TABLE.cases,
    *host_dm_faults.TABLE.cases,
    *host_hot_add.TABLE.cases,
)
#: All cases for guests, in the order of the report.
GUEST_CASES: Final[tuple[Case, ...]] = (
    *guest_session.TABLE.cases,
    *guest_vmbus.TABLE.cases,
    *guest_dm.TABLE.cases,
    *guest_hot_add.TABLE.cases,
)

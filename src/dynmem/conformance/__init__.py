"""A test suite for any host or guest of VMBus and Dynamic Memory: it checks what the peers rely on.

Write an adapter (`HostUnderTest` or `GuestUnderTest`) and `run` the cases on it, or name it to the command:
``python -m dynmem.conformance --host mymodule:MyHost``. The contract and the cases are in
``docs/conformance.md``.
"""

from dynmem.conformance.adapter import (
    DM,
    DM_FAULTS,
    GROUPS,
    HOT_ADD,
    SESSION,
    VMBUS,
    VMBUS_FAULTS,
    GuestFactory,
    GuestUnderTest,
    HostFactory,
    HostUnderTest,
    Hypercalls,
)
from dynmem.conformance.case import Case, Result, UnderTest, Verdict, run, run_case
from dynmem.conformance.report import conforms, facts, table
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES

# in the order of use: the adapter, the groups of cases it claims, running them, reporting
__all__ = [
    "HostUnderTest",
    "GuestUnderTest",
    "Hypercalls",
    "HostFactory",
    "GuestFactory",
    "SESSION",
    "VMBUS",
    "VMBUS_FAULTS",
    "DM",
    "DM_FAULTS",
    "HOT_ADD",
    "GROUPS",
    "HOST_CASES",
    "GUEST_CASES",
    "run",
    "run_case",
    "UnderTest",
    "Case",
    "Result",
    "Verdict",
    "conforms",
    "table",
    "facts",
]

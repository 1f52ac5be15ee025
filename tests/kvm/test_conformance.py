"""The conformance suite's own host against the drivers of stock Linux: what every sound guest does.

Each case boots a guest, so only the session is played, and of that not the case that watches status reports
for a minute: every recording has such reports.
"""

from pathlib import Path

from tests.kvm_rig.linux_under_test import LinuxUnderTest
from tests.kvm_rig.place import GuestKernel

from dynmem.conformance import adapter
from dynmem.conformance.case import Case, Result, Verdict, run_case
from dynmem.conformance.suite import GUEST_CASES

_CASES = [
    case for case in GUEST_CASES if case.group == adapter.SESSION and case.name != "guest-session-status"
]


def test_the_drivers_of_stock_linux_conform(folder: Path, kernel: GuestKernel) -> None:
    results = [_played(case, kernel, folder / "console") for case in _CASES]
    assert len(results) == 5
    assert [result for result in results if result.verdict is not Verdict.PASSED] == []


def _played(case: Case, kernel: GuestKernel, console: Path) -> Result:
    guest = LinuxUnderTest(kernel, console)
    try:
        return run_case(case, lambda: guest)
    finally:
        guest.close()

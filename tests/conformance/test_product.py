"""What `dynmem vm` and its embedded guest are made of, beyond the two protocol machines, conforms too."""

import pytest
from tests.conformance.device_host import DeviceHost
from tests.conformance.driver_guest import DriverGuest

from dynmem.conformance.adapter import HOT_ADD
from dynmem.conformance.case import Case, Verdict, run_case
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES


@pytest.mark.parametrize("case", HOST_CASES, ids=lambda case: case.name)
def test_the_device_conforms(case: Case) -> None:
    result = run_case(case, DeviceHost)
    skipped = "hot-add" in case.name and "cannot hot-add" in result.detail
    assert result.verdict is (Verdict.SKIPPED if skipped else Verdict.PASSED), result.detail


@pytest.mark.parametrize("case", GUEST_CASES, ids=lambda case: case.name)
def test_the_embedded_guests_drivers_conform(case: Case) -> None:
    result = run_case(case, DriverGuest)
    skipped = case.group == HOT_ADD and "the guest cannot hot-" in result.detail
    assert result.verdict is (Verdict.SKIPPED if skipped else Verdict.PASSED), result.detail

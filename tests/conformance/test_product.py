"""What `dynmem vm` and its embedded guest are made of, beyond the two protocol machines, conforms too."""

import pytest
from tests.conformance.device_host import DeviceHost
from tests.conformance.driver_guest import DriverGuest
from tests.rigs.cases import assert_conforms

from dynmem.conformance.adapter import HOT_ADD
from dynmem.conformance.case import Case
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES


@pytest.mark.parametrize("case", HOST_CASES, ids=lambda case: case.name)
def test_the_device_conforms(case: Case) -> None:
    assert_conforms(case, DeviceHost, may_skip=lambda why: "hot-add" in case.name and "cannot hot-add" in why)


@pytest.mark.parametrize("case", GUEST_CASES, ids=lambda case: case.name)
def test_the_embedded_guests_drivers_conform(case: Case) -> None:
    assert_conforms(
        case, DriverGuest, may_skip=lambda why: case.group == HOT_ADD and "the guest cannot hot-" in why
    )

"""Our host and our guest against every case for their end."""

import pytest
from tests.rigs.cases import assert_conforms

from dynmem.conformance.case import Case
from dynmem.conformance.ours.guest import OurGuest
from dynmem.conformance.ours.host import OurHost
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES


@pytest.mark.parametrize("case", HOST_CASES, ids=lambda case: case.name)
def test_our_host_conforms(case: Case) -> None:
    assert_conforms(case, OurHost)


@pytest.mark.parametrize("case", GUEST_CASES, ids=lambda case: case.name)
def test_our_guest_conforms(case: Case) -> None:
    assert_conforms(case, OurGuest)

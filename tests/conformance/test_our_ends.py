"""Our host and our guest against every case for their end."""

import pytest

from dynmem.conformance.case import Case, Verdict, run_case
from dynmem.conformance.ours.guest import OurGuest
from dynmem.conformance.ours.host import OurHost
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES


@pytest.mark.parametrize("case", HOST_CASES, ids=lambda case: case.name)
def test_our_host_conforms(case: Case) -> None:
    result = run_case(case, OurHost)
    assert result.verdict is Verdict.PASSED, result.detail


@pytest.mark.parametrize("case", GUEST_CASES, ids=lambda case: case.name)
def test_our_guest_conforms(case: Case) -> None:
    result = run_case(case, OurGuest)
    assert result.verdict is Verdict.PASSED, result.detail

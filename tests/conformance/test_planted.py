"""The suite catches what it is there to catch."""

import pytest
from tests.conformance import planted_guests, planted_hosts

from dynmem.conformance.case import Verdict, run_case
from dynmem.conformance.ours.guest import OurGuest
from dynmem.conformance.ours.host import OurHost
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES

CASES = {case.name: case for case in (*HOST_CASES, *GUEST_CASES)}
CAUGHT = frozenset({Verdict.FAILED, Verdict.BROKEN})


@pytest.mark.parametrize("planted", planted_hosts.CAUGHT_BY, ids=lambda planted: planted.__name__)
def test_a_host_with_one_mistake_fails_the_case_that_is_there_for_it(planted: type[OurHost]) -> None:
    case = CASES[planted_hosts.CAUGHT_BY[planted]]
    assert run_case(case, planted).verdict in CAUGHT
    assert run_case(case, OurHost).verdict is Verdict.PASSED  # its twin without the mistake


@pytest.mark.parametrize("planted", planted_guests.CAUGHT_BY, ids=lambda planted: planted.__name__)
def test_a_guest_with_one_mistake_fails_the_case_that_is_there_for_it(planted: type[OurGuest]) -> None:
    case = CASES[planted_guests.CAUGHT_BY[planted]]
    assert run_case(case, planted).verdict in CAUGHT
    assert run_case(case, OurGuest).verdict is Verdict.PASSED

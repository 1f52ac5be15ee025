"""The suite catches what it is there to catch."""

import pytest

from dynmem.conformance.case import Verdict, run_case
from dynmem.conformance.our_host import OurHost
from dynmem.conformance.suite import HOST_CASES

from .planted_hosts import CAUGHT_BY

CASES = {case.name: case for case in HOST_CASES}


@pytest.mark.parametrize("planted", CAUGHT_BY, ids=lambda planted: planted.__name__)
def test_a_host_with_one_mistake_fails_the_case_that_is_there_for_it(planted: type[OurHost]) -> None:
    case = CASES[CAUGHT_BY[planted]]
    assert run_case(case, planted).verdict in (Verdict.FAILED, Verdict.BROKEN)
    assert run_case(case, OurHost).verdict is Verdict.PASSED  # its twin without the mistake

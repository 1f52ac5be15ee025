"""Our host against every case for hosts."""

import pytest

from dynmem.conformance.case import Case, Verdict, run_case
from dynmem.conformance.our_host import OurHost
from dynmem.conformance.suite import HOST_CASES


@pytest.mark.parametrize("case", HOST_CASES, ids=lambda case: case.name)
def test_our_host_conforms(case: Case) -> None:
    result = run_case(case, OurHost)
    assert result.verdict in (Verdict.PASSED, Verdict.SKIPPED), result.detail


def test_our_host_skips_nothing_but_what_it_lacks() -> None:
    skipped = {case.name for case in HOST_CASES if run_case(case, OurHost).verdict is Verdict.SKIPPED}
    assert skipped == {"session-hot-add"}

"""Captured traffic, played by a host and by a guest that are nothing else, passes every session case."""

import pytest
from tests.conformance.captured import script
from tests.conformance.scripted_guest import ScriptedGuest
from tests.conformance.scripted_host import ScriptedHost

from dynmem.conformance import adapter
from dynmem.conformance.case import Case, Verdict, run_case
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES

HOST_SESSION = [case for case in HOST_CASES if case.group == adapter.SESSION]
GUEST_SESSION = [case for case in GUEST_CASES if case.group == adapter.SESSION]


@pytest.mark.parametrize("case", HOST_SESSION, ids=lambda case: case.name)
def test_a_captured_host_passes_the_session(case: Case) -> None:
    result = run_case(case, ScriptedHost)
    assert result.verdict is Verdict.PASSED, result.detail


@pytest.mark.parametrize("case", GUEST_SESSION, ids=lambda case: case.name)
def test_a_captured_guest_passes_the_session(case: Case) -> None:
    result = run_case(case, ScriptedGuest)
    assert result.verdict is Verdict.PASSED, result.detail


def test_the_session_plays_the_captured_host_to_its_end() -> None:
    hosts: list[ScriptedHost] = []

    def make() -> ScriptedHost:
        hosts.append(ScriptedHost())
        return hosts[-1]

    case = next(case for case in HOST_SESSION if case.name == "session-hot-add")
    assert run_case(case, make).verdict is Verdict.PASSED
    assert not hosts[0].lines
    assert hosts[0].said == sum(not line.by_guest for line in script())


def test_what_a_script_does_not_claim_is_skipped() -> None:
    case = next(case for case in HOST_CASES if case.group == adapter.VMBUS)
    assert run_case(case, ScriptedHost).verdict is Verdict.SKIPPED

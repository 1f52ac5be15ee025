"""What the suite says, and that its documentation says the same."""

import json
from pathlib import Path

import pytest
from tests.conformance.device_host import DeviceHost
from tests.conformance.driver_guest import DriverGuest
from tests.conformance.scripted_guest import ScriptedGuest
from tests.conformance.scripted_host import ScriptedHost
from tests.conformance.silent_ends import ChatteringGuest, ChatteringHost, SilentGuest, SilentHost

from dynmem.conformance.__main__ import listing, main
from dynmem.conformance.adapter import GROUPS, GuestFactory, HostFactory
from dynmem.conformance.case import Case, CaseTable, Verdict, fail, run
from dynmem.conformance.ours.guest import OurGuest
from dynmem.conformance.ours.host import OurHost
from dynmem.conformance.report import conforms, table
from dynmem.conformance.suite import GUEST_CASES, HOST_CASES
from dynmem.errors import ConfigError

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"


class Raises(OurHost):
    """Cannot even be made."""

    def __init__(self) -> None:
        raise OSError("no such machine")


def failing() -> Case:
    cases = CaseTable()

    @cases.case("x-fails", "session", "Something must happen.", "somebody")
    def _play(host: OurHost) -> None:
        fail("it did not happen")

    return cases.cases[0]


HOSTS: tuple[HostFactory, ...] = (OurHost, DeviceHost, ScriptedHost, SilentHost)
GUESTS: tuple[GuestFactory, ...] = (OurGuest, DriverGuest, ScriptedGuest, SilentGuest)


def test_every_adapter_claims_groups_that_there_are() -> None:
    claimed = [*(make().groups for make in HOSTS), *(make().groups for make in GUESTS)]
    assert all(groups and groups <= set(GROUPS) for groups in claimed)


def test_names_are_distinct_and_groups_are_known() -> None:
    cases = (*HOST_CASES, *GUEST_CASES)
    assert len({case.name for case in cases}) == len(cases)
    assert {case.group for case in cases} == set(GROUPS)


def test_the_document_lists_every_case_as_it_is() -> None:
    assert DOCUMENT.read_text().endswith(listing())


def test_a_failed_case_is_told_with_what_happened_what_must_and_why() -> None:
    results = run([failing()], OurHost)
    assert [result.verdict for result in results] == [Verdict.FAILED]
    text = table("host x", results)
    assert all(
        part in text for part in ("it did not happen", "Something must happen.", "somebody", "1 failed")
    )
    assert not conforms(results)


def test_an_implementation_that_raises_is_broken_and_the_run_goes_on() -> None:
    results = run(HOST_CASES[:3], Raises)
    assert [result.verdict for result in results] == [Verdict.BROKEN] * 3
    assert results[0].detail == "OSError: no such machine"


@pytest.mark.parametrize("host", [SilentHost, ChatteringHost])
def test_no_case_passes_for_a_host_that_does_nothing_right(host: type[SilentHost]) -> None:
    assert {result.verdict for result in run(HOST_CASES, host)} == {Verdict.FAILED}


@pytest.mark.parametrize("guest", [SilentGuest, ChatteringGuest])
def test_no_case_passes_for_a_guest_that_does_nothing_right(guest: type[SilentGuest]) -> None:
    passed = [result.name for result in run(GUEST_CASES, guest) if result.verdict is not Verdict.FAILED]
    posts_again = ["guest-post-again"]  # which is all that this one does
    assert passed == (posts_again if guest is ChatteringGuest else [])


def test_nothing_passed_is_no_conformance() -> None:
    assert not conforms([])


def test_the_command_prints_json_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--only", "session"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [run["end"] for run in told["runs"]] == ["host", "guest"]
    assert all(case["verdict"] == "passed" for run in told["runs"] for case in run["cases"])


@pytest.mark.parametrize("name", ["nowhere:Host", "dynmem.conformance.ours.host:Nobody", "", "dynmem.errors"])
def test_a_factory_that_is_none_is_told_in_a_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a factory"):
        main(["--guest", name])


@pytest.mark.parametrize("name", ["my_host", ":MyHost", "my_host:"])
def test_a_factory_without_module_or_name_is_shown_how_to_write_one(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a factory: write MODULE:NAME, like \w+:MyHost"):
        main(["--host", name])


def test_a_choice_of_no_case_names_the_groups() -> None:
    with pytest.raises(ConfigError, match=r"--only nonsense: no case .*session, vmbus, .*hot add"):
        main(["--only", "nonsense"])


def test_the_help_of_the_command_has_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "`" not in capsys.readouterr().out


def test_the_command_ends_with_1_for_a_host_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", f"{__name__}:Raises", "--only", "session-open"]) == 1
    assert "broken  session-open" in capsys.readouterr().out

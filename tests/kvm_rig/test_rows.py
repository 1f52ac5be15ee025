"""Rows of scenarios: readable, and recognized in what pytest writes."""

import pytest
from tests.kvm_rig.rows import below, is_row, row


def test_a_row_names_the_kernel_and_the_scenario_as_a_sentence() -> None:
    written = row("tests/kvm/test_x.py::test_a_guest_gives_memory[6.12]", "passed", 7.25)
    assert written.split() == ["6.12", "a", "guest", "gives", "memory", "passed", "7.2", "s"]
    assert row("tests/kvm/test_x.py::test_three_guests", "failed", 1.0).startswith("-      three guests")


@pytest.mark.parametrize(
    "test", ["test_x.py::test_a[6.1]", "test_x.py::test_a[6.12]", "test_x.py::test_" + "long_" * 30]
)
@pytest.mark.parametrize("outcome", ["passed", "failed", "setup failed"])
def test_rows_and_what_is_below_them_are_recognized_coloured_or_not(test: str, outcome: str) -> None:
    written = row(test, outcome, 123.4).encode()
    assert is_row(written)
    assert is_row(b"\x1b[31m" + written + b"\x1b[0m")
    assert is_row(below("AssertionError: no\nmore").encode())


@pytest.mark.parametrize(
    "line",
    [b"", b"....  [100%]", b"=== FAILURES ===", b"    await x()", b"E       assert 1", b"2 passed in 6.0s"],
)
def test_other_lines_of_pytest_are_not_taken_for_rows(line: bytes) -> None:
    assert not is_row(line)

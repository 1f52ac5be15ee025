"""What a guest did wrong is counted always and logged seldom."""

import logging

import pytest

from dynmem.limits import VM_FAULT_KINDS_MAX
from dynmem.vm.faults import LOG_EVERY_NS, Faults


def test_a_kind_is_logged_once_in_a_while_with_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    now = 0
    faults = Faults(lambda: now)
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            faults.note("ring", f"packet {number}")
        faults.note("post", "other")
        now = LOG_EVERY_NS
        faults.note("ring", "later")
    assert faults.counts == {"ring": 1001, "post": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "ring: packet 0",
        "post: other",
        "ring: later (999 more since the last such line)",
    ]


def test_kinds_are_bounded() -> None:
    faults = Faults(lambda: 0)
    for number in range(VM_FAULT_KINDS_MAX + 50):
        faults.note(str(number), "")
    assert len(faults.counts) == VM_FAULT_KINDS_MAX + 1
    assert faults.counts["other"] == 50

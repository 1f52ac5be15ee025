"""The virtual clock."""

from hypothesis import given
from hypothesis import strategies as st

from dynmem.vm.clock import VirtualClock


@given(st.lists(st.tuples(st.sampled_from(["stop", "start", "wait"]), st.integers(0, 1000))))
def test_time_is_the_sum_of_what_passed_while_it_ran(steps: list[tuple[str, int]]) -> None:
    source = 12345
    clock = VirtualClock(lambda: source)
    running, expected = True, 0
    for step, ns in steps:
        source += ns
        expected += ns if running else 0
        if step == "stop":
            clock.stop()
            running = False
        elif step == "start":
            clock.start()
            running = True
        assert clock.now_ns() == expected
        assert clock.running is running

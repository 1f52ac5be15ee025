"""The limit of reading."""

from dynmem.duplicates.rate import Rate
from dynmem.units import MIB, NS_PER_S


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.ns = 0

    def now(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * NS_PER_S)


def test_reading_takes_as_long_as_the_limit_says() -> None:
    time = Time()
    rate = Rate(64 * MIB, now_ns=time.now, sleep=time.sleep)
    for _ in range(129):
        rate.spend(MIB)
    assert time.ns == 2 * NS_PER_S


def test_a_pause_is_not_made_up_for_by_a_burst() -> None:
    time = Time()
    rate = Rate(64 * MIB, now_ns=time.now, sleep=time.sleep)
    time.ns = 100 * NS_PER_S
    for _ in range(65):
        rate.spend(MIB)
    assert time.ns >= 100.9 * NS_PER_S


def test_without_a_limit_nothing_waits() -> None:
    time = Time()
    rate = Rate(None, now_ns=time.now, sleep=time.sleep)
    rate.spend(1 << 50)
    assert time.ns == 0

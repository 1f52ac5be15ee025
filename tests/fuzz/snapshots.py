"""The snapshot of another host, as a target: whatever it holds, a week comes out, or the named error."""

import json
from collections.abc import Callable

from tests.fuzz.engine import Target

from dynmem.errors import ConfigError
from dynmem.fit.counting import count, most
from dynmem.fit.snapshot import HOURS, week_of

SEED = {
    "format": "dynmem fit snapshot",
    "schema_version": 1,
    "host": "node-1",
    "until_hour": 490_000,
    "recorded_s": [3600, 1800, 0],
    "capacity_mib": [1000, 1000, 0],
    "needed_mib": [300, 900, 4294967296],
    "fixed_capacity_mib": 1000,
    "fixed_mib": 512,
    "vms": [{"name": "web", "fixed_mib": 512, "usual_mib": 300, "need_mib": [300, None, 100]}],
}
SEEDS = (json.dumps(SEED).encode(), json.dumps(SEED | {"host": "", "vms": []}).encode())
WORDS = (
    b"null",
    b"[",
    b"]",
    b"{",
    b"-1",
    b"1e9",
    b"18446744073709551616",
    b'"need_mib":',
    b"\\ud800",
    b"\xff",
)
TEXT = b' ",:[]{}0123456789-.abcdefhimnortuvwy_'


def weeks() -> Callable[[bytes], object]:
    def feed(data: bytes) -> object:
        week = week_of(data, "file", "web")
        assert week.host
        assert {row.shape for row in (week.weights, week.capacity, week.needed)} == {(HOURS,)}
        for fixed, each in week.models:
            assert fixed >= 0
            assert each.shape == (HOURS,)
            assert most(count(week.capacity, week.needed, each), week.weights, 0.01) >= -1
        return week

    return feed


SNAPSHOTS = (Target("fit-snapshot", weeks, SEEDS, (ConfigError,), WORDS, TEXT, cost=20),)

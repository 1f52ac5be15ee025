"""The contenders' rules on figures made by hand."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from bench.trial.contenders import CONTENDERS, REFERENCE
from bench.trial.contenders.contender import Figures, Host, Order, Terms
from bench.trial.contenders.dynmem import configuration, journal_moves
from bench.trial.contenders.mom import Mom, grown, shrunk
from bench.trial.contenders.proxmox import Proxmox, Sharer, one_round

from dynmem.manager.config import load
from dynmem.units import GIB, MIB

TERMS = Terms(("a", "b"), 192 * MIB, 512 * MIB, 512 * MIB, 32 * MIB)
MB = 1000 * 1000
GB = 1000 * MB


def sharers(*rows: tuple[int, int, int, int]) -> dict[str, Sharer]:
    """Guests of at most 2 GB: size, minimum and free memory in MB, and shares."""
    return {
        f"{100 + number}": Sharer(size * MB, minimum * MB, 2 * GB, free * MB, shares)
        for number, (size, minimum, free, shares) in enumerate(rows)
    }


TWO_AT_MINIMUM = sharers((1000, 1000, 0, 2000), (1000, 1000, 0, 1000))
ONE_FULL = sharers((2000, 2000, 0, 2000), (1000, 1000, 0, 1000))
ONE_WELL_OFF = sharers((2000, 2000, 0, 2000), (1007, 1000, 0, 1000), (1000, 1000, 512, 1000))


@pytest.mark.parametrize(
    ("guests", "goal", "expected"),
    [
        (TWO_AT_MINIMUM, 90, {"100": 1060, "101": 1030}),
        (TWO_AT_MINIMUM, 150, {"100": 1100, "101": 1050}),
        (TWO_AT_MINIMUM, 270, {"100": 1100, "101": 1090}),
        (ONE_FULL, 18, {"101": 1018}),
        (ONE_FULL, 500, {"101": 1100}),
        (ONE_WELL_OFF, 11, {"101": 1018}),
        (ONE_WELL_OFF, 80, {"101": 1087}),
        (ONE_WELL_OFF, 200, {"101": 1107}),
    ],
)
def test_proxmox_divides_a_goal_as_the_test_of_its_package_expects(
    guests: Mapping[str, Sharer], goal: int, expected: dict[str, int]
) -> None:
    sizes = one_round(guests, goal * MB, 100 * MB)
    assert {name: size // MB for name, size in sizes.items()} == expected


def test_proxmox_takes_from_guests_with_free_memory_first() -> None:
    guests = sharers((1300, 1000, 0, 1000), (1300, 1000, 600, 1000))
    assert {name: size // MB for name, size in one_round(guests, -200 * MB, 100 * MB).items()} == {
        "101": 1200
    }


def test_proxmox_takes_from_everybody_when_nobody_has_free_memory() -> None:
    guests = sharers((1300, 1000, 0, 1000), (1300, 1000, 0, 1000))
    assert {name: size // MB for name, size in one_round(guests, -100 * MB, 100 * MB).items()} == {
        "100": 1250,
        "101": 1250,
    }


def test_proxmox_acts_every_ten_seconds_and_only_beyond_its_tolerance(tmp_path: Path) -> None:
    proxmox = Proxmox(TERMS, tmp_path)
    guests = {"a": Figures(192 * MIB, 0), "b": Figures(192 * MIB, 0)}
    host = Host(640 * MIB, 312 * MIB)
    assert proxmox.tick(9.9, host, guests) == ()
    assert proxmox.tick(10.0, host, guests) == [Order("a", 292 * MIB), Order("b", 292 * MIB)]
    assert proxmox.tick(19.9, host, guests) == ()
    assert proxmox.tick(20.1, Host(640 * MIB, 505 * MIB), guests) == ()


def test_proxmox_starts_a_guest_at_its_minimum(tmp_path: Path) -> None:
    assert Proxmox(TERMS, tmp_path).booting("a") == [Order("a", 192 * MIB)]


@pytest.mark.parametrize(
    ("size", "used", "host_free", "expected"),
    [
        (1000, 100, 0.10, 950),  # much free: 5 % at a time
        (1000, 870, 0.10, 970),  # not below what it uses and half of a fifth
        (1000, 990, 0.03, 970),  # critical: what it uses less 2 %
    ],
)
def test_mom_shrinks_slowly_and_not_below_a_share_of_free_memory(
    size: float, used: float, host_free: float, expected: float
) -> None:
    assert shrunk(size, used, host_free) == pytest.approx(expected)


def test_mom_grows_by_a_twentieth_or_at_once_to_what_is_used_and_a_fifth_of_the_maximum() -> None:
    assert grown(1000, 100, 2000) == pytest.approx(1050)
    assert grown(1000, 900, 2000) == pytest.approx(1300)
    assert grown(1990, 100, 2000) == pytest.approx(2000)


def test_mom_acts_on_averages_every_ten_seconds(tmp_path: Path) -> None:
    mom = Mom(TERMS, tmp_path)
    calm, short = Host(GIB, GIB // 2), Host(GIB, GIB * 9 // 10)
    guests = {"a": Figures(400 * MIB, 200 * MIB)}
    assert mom.tick(0.0, calm, guests) == ()
    assert mom.tick(5.0, short, guests) == ()
    # half of the samples say 50 % free, half say 10 %: no pressure yet
    assert mom.tick(10.0, short, guests) == [Order("a", 420 * MIB)]
    for at_s in (15.0, 20.0, 25.0):
        orders = mom.tick(at_s, Host(GIB, GIB), guests)
    assert orders == ()
    assert mom.tick(30.0, Host(GIB, GIB), guests) == [Order("a", 380 * MIB)]


def test_mom_leaves_a_guest_between_minimum_and_maximum(tmp_path: Path) -> None:
    mom = Mom(TERMS, tmp_path)
    assert mom.rest(Host(GIB, GIB), {"a": Figures(195 * MIB, 190 * MIB)}) == [Order("a", 192 * MIB)]
    assert mom.rest(Host(GIB, 0), {"a": Figures(512 * MIB, 0)}) == []


def test_static_gives_each_guest_its_share_when_it_starts_and_never_again(tmp_path: Path) -> None:
    static = CONTENDERS["static"](TERMS, tmp_path)
    assert static.booting("b") == [Order("b", 256 * MIB)]
    assert static.tick(100.0, Host(GIB, GIB), {"b": Figures(512 * MIB, 0)}) == ()


@pytest.mark.parametrize("name", ["none", "fpr"])
def test_who_only_watches_orders_nothing(name: str, tmp_path: Path) -> None:
    contender = CONTENDERS[name](TERMS, tmp_path)
    assert contender.booting("a") == ()
    assert contender.tick(100.0, Host(GIB, GIB), {"a": Figures(512 * MIB, 0)}) == ()
    assert contender.free_page_reporting == (name == "fpr")


def test_the_reference_is_the_contender_that_limits_nobody() -> None:
    assert REFERENCE == "none"
    assert next(iter(CONTENDERS)) == REFERENCE


def test_the_managers_configuration_is_one_that_it_accepts_with_its_own_period(tmp_path: Path) -> None:
    place = Path("/run/trial")  # short enough for a socket
    text = configuration(TERMS, {name: place / f"{name}.qmp" for name in TERMS.names}, place)
    assert "period" not in text
    (tmp_path / "trial.toml").write_text(text)
    assert [vm.name for vm in load(tmp_path / "trial.toml").vms] == ["a", "b"]


def test_the_managers_commands_are_read_from_its_journal_without_those_that_were_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE action (id INTEGER PRIMARY KEY, at_ns, vm, target_bytes, outcome)")
        database.executemany(
            "INSERT INTO action (at_ns, vm, target_bytes, outcome) VALUES (?, ?, ?, ?)",
            [(3 * 10**9, "a", 7, "sent"), (4 * 10**9, "b", 8, "failed: no"), (5 * 10**9, "a", 9, None)],
        )
    assert [(m.at_s, *m.order) for m in journal_moves(path, 2 * 10**9)] == [(1.0, "a", 7), (3.0, "a", 9)]

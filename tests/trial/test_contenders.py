"""What the contenders order, and when, on figures made by hand."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from bench.trial.contenders import CONTENDERS, REFERENCE
from bench.trial.contenders.contender import Figures, Host, Order, Terms
from bench.trial.contenders.dynmem import configuration, journal_moves
from bench.trial.contenders.mom import Mom
from bench.trial.contenders.proxmox import Proxmox

from dynmem.manager.config import load
from dynmem.units import GIB, MIB

TERMS = Terms(("a", "b"), 192 * MIB, 512 * MIB, 512 * MIB, 32 * MIB)


def test_proxmox_acts_every_ten_seconds_and_only_beyond_its_tolerance(tmp_path: Path) -> None:
    proxmox = Proxmox(TERMS, tmp_path)
    guests = {"a": Figures(192 * MIB, 0), "b": Figures(192 * MIB, 0)}
    host = Host(640 * MIB, 312 * MIB)
    assert proxmox.tick(9.9, host, guests) == ()
    assert proxmox.tick(10.0, host, guests) == [Order("a", 292 * MIB), Order("b", 292 * MIB)]
    assert proxmox.tick(19.9, host, guests) == ()
    assert proxmox.tick(20.1, Host(640 * MIB, 505 * MIB), guests) == []


def test_proxmox_starts_a_guest_at_its_minimum(tmp_path: Path) -> None:
    assert Proxmox(TERMS, tmp_path).booting("a") == [Order("a", 192 * MIB)]


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

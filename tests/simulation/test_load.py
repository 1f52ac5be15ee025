"""Loads: rows become levels with their means; described ones are as described, recorded ones are nameless."""

import json
from pathlib import Path
from random import Random

import msgspec
import pytest
from tests.rigs.commands import ran
from tests.rigs.pasts import THREE_AM, RecordedHost, changed, written

from dynmem.errors import ConfigError, UnreachableError
from dynmem.history.past import Past
from dynmem.manager.step.sample import Sample
from dynmem.manager.sweep.demand import VIRTIO_RESERVE_BYTES
from dynmem.simulation import recorded as recording
from dynmem.simulation.described import RESERVE_BYTES, alike, read
from dynmem.simulation.load import ABSENT, VmLoad
from dynmem.simulation.recorded import recorded
from dynmem.simulation.trace_file import read as read_trace
from dynmem.simulation.trace_file import write
from dynmem.units import GIB, MIB, PAGE_SIZE, pages_covering

EXAMPLE = """
budget = "3G"
slush = "128M"
for = "10min"

[[vm]]
name = "web"
count = 2
maximum = "2G"
minimum = "256M"
base = "300M"
priority = "high"
buffer = 10
[[vm.burst]]
size = "800M"
hold = "20s"
at = "90s"
[[vm.burst]]
size = "100M"
every = "1min"

[[vm]]
name = "db"
maximum = "1G"
"""


def levels(vm: VmLoad, seed: int = 1) -> dict[int, int]:
    return dict(vm.changes(seed))


def test_a_row_is_played_as_two_levels_with_its_mean_and_its_peaks_come_first_or_last_by_chance() -> None:
    random, firsts = Random(3), set()
    for number in range(1, 40):
        low, high = 10_000, 10_000 + random.randrange(2000, 90_000)
        mean = random.randrange(low, high + 1)
        vm = VmLoad(number, 0, GIB)
        vm.add(0, 600, mean, low, high)
        (_, first), (at, then), end = sorted(levels(vm).items())
        assert {first, then} == {low, high}
        assert end == (600, ABSENT)
        played = (first * at + then * (600 - at)) / 600
        assert abs(played - mean) <= (high - low) / 300  # a tenth of a second at each end
        firsts.add(first == high)
    assert firsts == {True, False}


def test_a_level_that_a_quiet_row_had_stays_and_between_rows_a_vm_is_away() -> None:
    vm = VmLoad(1, 0, GIB)
    vm.add(100, 50, 5000, 4990, 5010)
    vm.add(150, 50, 5004, 4995, 5020)
    vm.add(200, 50, 5100, 5050, 5200)
    vm.add(300, 50, 5100, 5100, 5100)
    assert levels(vm) == {0: ABSENT, 100: 5000, 200: 5100, 250: ABSENT, 300: 5100, 350: ABSENT}


def test_the_part_of_a_load_is_played_as_it_is_in_the_whole() -> None:
    random, vm = Random(1), VmLoad(7, 0, GIB)
    for row in range(50):
        low = random.randrange(10_000)
        vm.add(row * 600, 600, low + 5000, low, low + 40_000)
    whole, part = levels(vm), levels(vm.between(9000, 15_000))
    assert {at: pages for at, pages in whole.items() if 9000 <= at < 15_000} == {
        at: pages for at, pages in part.items() if 9000 <= at < 15_000
    }


def test_a_file_describes_a_load(tmp_path: Path) -> None:
    path = tmp_path / "evening.toml"
    path.write_text(EXAMPLE)
    load = read(path, 5)
    assert (load.budget_bytes, load.slush_bytes, load.for_ds) == (3 * GIB, 128 * MIB, 6000)
    first, second, last = load.vms
    assert (first.priority, first.buffer_percent, first.minimum_bytes) == ("high", 10, 256 * MIB)
    assert levels(last) == {0: 256 * MIB // PAGE_SIZE, 6000: ABSENT}
    for vm in (first, second):
        at = dict(zip(vm.at_ds, vm.mean, strict=True))
        assert at[0] == 300 * MIB // PAGE_SIZE
        assert at[900] - at[max(each for each in at if each < 900)] == 800 * MIB // PAGE_SIZE
    assert list(first.at_ds) != list(second.at_ds)  # their bursts are drawn apart
    again = read(path, 5)
    assert [list(vm.at_ds) for vm in again.vms] == [list(vm.at_ds) for vm in load.vms]
    assert [list(vm.at_ds) for vm in read(path, 6).vms] != [list(vm.at_ds) for vm in load.vms]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vm = 7", "Expected `array`"),
        ("", "missing required field `vm`"),
        ("vm = []", "from 1 to 2000 VMs"),
        ("[", "Invalid"),
        (EXAMPLE.replace("count = 2", "count = 0"), "a count is at least 1"),
        (EXAMPLE.replace("count = 2", "count = 3000000"), "from 1 to 2000 VMs"),
        (EXAMPLE.replace('"10min"', '"9999d"'), "for: 9999d is not above 0 and at most 400 days"),
        (EXAMPLE.replace('"800M"', '"much"'), "web: burst: size: 'much' is not a size"),
        (EXAMPLE.replace('at = "90s"', ""), "say either every (how often on average) or at (when)"),
        (EXAMPLE.replace('"1min"', '"1ms"'), "every: 1ms is below a second"),
        (EXAMPLE.replace("128M", "3G"), "slush: 3 GiB is not below the budget"),
        (EXAMPLE.replace("256M", "3G"), "web: minimum: 3 GiB is above its maximum"),
        (EXAMPLE.replace("= 10\n", "= 1001\n"), "buffer is from 0 to 1000"),
        (EXAMPLE.replace("high", "urgent"), "Invalid enum value 'urgent'"),
        (EXAMPLE.replace("hold =", "colour ="), "unknown field `colour`"),
        ("#" * ((1 << 20) + 1), "longer than 1 MiB"),
    ],
)
def test_a_file_that_describes_no_load_is_named_with_what_is_wrong(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "evening.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read(path, 1)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


def test_no_file_makes_more_changes_than_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynmem.simulation.described.SIMULATED_ROWS_MAX", 1000)
    path = tmp_path / "evening.toml"
    path.write_text(EXAMPLE.replace('"1min"', '"1s"').replace('"10min"', '"1h"'))
    with pytest.raises(ConfigError, match="web: more than 1000 changes of all loads"):
        read(path, 1)


def test_what_is_described_is_a_virtio_balloon() -> None:
    assert RESERVE_BYTES == VIRTIO_RESERVE_BYTES
    assert {vm.reserve_bytes for vm in alike(2, GIB, 100, 1).vms} == {RESERVE_BYTES}


def test_guests_alike_stay_below_their_maximums_and_share_half_of_them() -> None:
    load = alike(8, 2 * GIB, 36_000, 3)
    assert load.budget_bytes == 8 * GIB
    assert all(max(vm.mean) <= 2 * GIB // PAGE_SIZE for vm in load.vms)
    assert len({tuple(vm.at_ds) for vm in load.vms}) == 8


def test_of_a_history_the_load_has_the_demands_and_neither_names_nor_dates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = RecordedHost(3, "observe").sweeps(120)
    written(tmp_path, rows)
    past = Past(tmp_path)
    load = recorded(past, THREE_AM, THREE_AM + 200_000)
    assert load.for_ds == 1200
    assert load.skipped_ds == 800
    for vm in load.vms:
        (name,) = (name for name, number in past.names.items() if number == vm.number)
        demands = [row.sample.vms[name].demand_bytes or 0 for row in rows]
        assert list(vm.mean) == list(map(pages_covering, demands))
        assert vm.maximum_bytes == 512 * MIB
    part = recorded(past, THREE_AM + 60_000, THREE_AM + 120_000)
    assert [vm.number for vm in part.vms] == [vm.number for vm in load.vms]
    with pytest.raises(UnreachableError, match="nothing is kept of that time"):
        recorded(past, THREE_AM - 9_000_000, THREE_AM - 8_000_000)
    past.close()
    path = tmp_path / "host.trace"
    since = ("--since", "2026-03-02T03:00:00Z", "--until", "2026-03-02T03:01:00Z")
    code, out, _ = ran(capsys, "history", *since, "--state", tmp_path, "--export", path)
    assert (code, "3 VMs" in out) == (0, True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {type(each) for line in lines for each in (line.values() if isinstance(line, dict) else line)} <= {
        int,
        str,
    }
    texts = [each for line in lines if isinstance(line, dict) for each in line.values()]
    assert {each for each in texts if isinstance(each, str)} == {"normal"}
    assert max(each for line in lines if isinstance(line, list) for each in line) < THREE_AM // 1000
    code, _, err = ran(capsys, "history", "vm-1", *since, "--state", tmp_path, "--export", path)
    assert (code, "leave the VM out" in err) == (2, True)


def test_figures_that_no_manager_records_make_a_load_that_can_be_played_or_a_named_error(
    tmp_path: Path,
) -> None:
    source = Random(2)
    sizes = (-(1 << 40), -1, 0, 1, 1 << 62)
    rows = RecordedHost(2, "observe").sweeps(12)
    refused = 0
    for number in range(30):

        def strange(sample: Sample) -> Sample:
            name = source.choice(
                ("maximum_bytes", "demand_bytes", "weight", "buffer_percent", "reserve_bytes")
            )
            vms = {
                each: msgspec.structs.replace(vm, **{name: source.choice(sizes)})
                for each, vm in sample.vms.items()
            }
            host = msgspec.structs.replace(sample.host, slush_bytes=source.choice(sizes))
            if source.random() < 0.05:
                host = msgspec.structs.replace(host, budget_bytes=source.choice(sizes))
            return msgspec.structs.replace(sample, host=host, vms=vms)

        folder = tmp_path / str(number)
        folder.mkdir()
        lengths = [row._replace(for_ds=source.choice((10, -3))) for row in changed(rows, strange)]
        written(folder, lengths)
        try:
            load = recorded(Past(folder), THREE_AM, THREE_AM + 60_000)
        except ConfigError:
            refused += 1
            continue
        again = tmp_path / f"{number}.trace"
        write(load, again)
        assert [vm.rows for vm in read_trace(again).vms] == [vm.rows for vm in load.vms]
    assert refused < 30


def test_a_guest_that_never_reported_needs_what_the_host_held_for_it(tmp_path: Path) -> None:
    host = RecordedHost(2, "observe")
    host.host.overrides["vm-1"] = {"demand": None}
    rows = host.sweeps(20)
    written(tmp_path, rows)
    load = recorded(Past(tmp_path), THREE_AM, THREE_AM + 100_000)
    silent = load.vms[1]
    held = {pages_covering(row.sample.vms["vm-1"].resident_bytes or 0) for row in rows}
    assert set(silent.mean) <= held


def test_of_many_vms_rows_are_longer_so_that_all_of_them_are_not_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, RecordedHost(4, "observe").sweeps(100))
    assert recorded(Past(tmp_path), THREE_AM, THREE_AM + 100_000).row_ds == 10
    monkeypatch.setattr(recording, "_ALL_ROWS", 4 * 12)
    load = recorded(Past(tmp_path), THREE_AM, THREE_AM + 100_000)
    assert load.row_ds == 100
    assert sum(vm.rows for vm in load.vms) <= 4 * 12

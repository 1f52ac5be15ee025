"""Many hosts at once, by any executor: each is counted as it is alone, and a wrong file stops no other."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest
from bench.fit_traces import trace
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.fit import render
from tests.history.test_report import rows_of
from tests.rigs.pasts import THREE_AM, written

from dynmem.cli.fit import fit
from dynmem.errors import ConfigError, DynmemError, ExitCode
from dynmem.fit.answer import answer_of
from dynmem.fit.counting import AWAY
from dynmem.fit.fleet import FleetReply, Source, fleet_of
from dynmem.fit.snapshot import FORMAT, HOURS, Snapshot, VmWeek, encoded, load, snapshot_of, week_of
from dynmem.fit.trace import Model
from dynmem.limits import FIT_SNAPSHOT_BYTES_MAX
from dynmem.units import MIB

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


class Counting(Executor):
    """An executor of somebody else's: it does everything at once, and counts."""

    def __init__(self) -> None:
        self.handed_out = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.handed_out += 1
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def snapshot(host: str, needed: Sequence[int], capacity: int = 1000, **changes: object) -> Snapshot:
    """Return a host on which so much was needed in the last hours."""
    made = Snapshot(
        format=FORMAT,
        schema_version=1,
        host=host,
        until_hour=490_000,
        recorded_s=[3600] * len(needed),
        capacity_mib=[capacity] * len(needed),
        needed_mib=list(needed),
        fixed_capacity_mib=capacity,
        fixed_mib=700,
        vms=[
            VmWeek(
                name=f"on-{host}",
                fixed_mib=200,
                usual_mib=100,
                need_mib=msgspec.Raw(msgspec.json.encode([100] * len(needed))),
            )
        ],
    )
    return msgspec.structs.replace(made, **changes)


def fleet(*snapshots: Snapshot, executor: Executor | None = None, **how: Any) -> FleetReply:
    sources = [(f"{made.host}.json", encoded(made)) for made in snapshots]
    return fleet_of(sources, executor or Counting(), **({"size": 100 * MIB} | how))


def test_any_executor_gives_the_same_and_reads_the_files_in_pieces(tmp_path: Path) -> None:
    files: list[Source] = []
    for number in range(60):
        path = tmp_path / f"{number}.json"
        path.write_bytes(encoded(snapshot(f"host-{number:02}", [10 * number, 500])))
        files.append(path)
    counting = Counting()
    found = fleet_of(files, counting, like="host-07/on-host-07", vms=3)
    assert counting.handed_out == 3  # of 25 each
    with ThreadPoolExecutor(4) as threads:
        assert fleet_of(files, threads, like="on-host-07", vms=3) == msgspec.structs.replace(
            found, like="on-host-07"
        )
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as processes:
        assert fleet_of(files, processes, like="host-07/on-host-07", vms=3) == found
    assert len(found.hosts) == 60
    assert found.fits == 51 * 5 + sum((1000 - 10 * number) // 100 for number in range(51, 60))
    assert found.fits_static == 60  # 300 MiB are left beside fixed sizes, and it holds 200


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1200), min_size=4, max_size=4), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.integers(0, 300),
    st.randoms(use_true_random=False),
)
def test_order_changes_nothing_more_memory_never_fits_fewer_and_a_vm_more_never_fits_more(
    hosts: list[list[int]], risk: float, more: int, random: Any
) -> None:
    made = [snapshot(f"h{number}", needed) for number, needed in enumerate(hosts)]
    now = fleet(*made, risk=risk, vms=20)
    shuffled = random.sample(made, len(made))
    assert fleet(*shuffled, risk=risk, vms=20) == now
    larger = fleet(*(snapshot(each.host, each.needed_mib, 1000 + more) for each in made), risk=risk)
    fuller = fleet(
        *(snapshot(each.host, [need + more for need in each.needed_mib]) for each in made), risk=risk
    )
    for before, after_more, after_vm in zip(now.hosts, larger.hosts, fuller.hosts, strict=True):
        assert after_more.fits >= before.fits >= after_vm.fits
    for host, needed in zip(now.hosts, hosts, strict=True):
        late = [sum(need + n * 100 > 1000 for need in needed) / 4 for n in range(12)]
        assert host.fits == max((n for n in range(12) if late[n] <= risk), default=-1)
        assert host.at_risk == (late[0] > risk)
        assert host.left_bytes == (1000 - max(needed)) * MIB
    assert len(now.next) == min(20, now.fits)


def test_the_next_vms_go_where_most_is_left_in_the_worst_hour_beside_what_is_kept() -> None:
    made = [snapshot("a", [100, 650]), snapshot("b", [500, 500]), snapshot("c", [900, 100])]
    assert fleet(*made, vms=1).next == ("b",)
    # 500, 350 and 100 MiB are left; each takes 100.
    assert fleet(*made, vms=5).next == ("b", "b", "a", "b", "a")
    found = fleet(*made, vms=9, keep=200 * MIB)
    assert found.next == ("b", "b", "a", "b")
    assert [host.fits for host in found.hosts] == [1, 3, -1]
    assert found.keep_bytes == 200 * MIB
    assert not any(host.at_risk for host in found.hosts)  # what is kept puts none at risk


def test_a_host_on_which_those_that_run_do_not_fit_is_at_risk_and_gets_none() -> None:
    found = fleet(snapshot("full", [900] * 9 + [1200]), snapshot("free", [100] * 10), vms=12)
    free, full = found.hosts
    assert (full.host, full.at_risk, full.late_share, full.left_bytes) == ("full", True, 0.1, -200 * MIB)
    # The last of the hours: 1970 began on a Thursday.
    assert full.worst_hour == (490_000 - 1 + 72) % HOURS
    assert (free.at_risk, set(found.next), len(found.next)) == (False, {"free"}, 9)


def test_hours_meet_by_the_hour_of_the_week_whenever_the_snapshots_were_made() -> None:
    busy, idle = [900], [100] * (HOURS - 1)
    model = snapshot("m", [0] * HOURS)
    needs = msgspec.json.encode([800, *[100] * (HOURS - 1)])
    vm = msgspec.structs.replace(model.vms[0], need_mib=msgspec.Raw(needs))
    model = msgspec.structs.replace(model, vms=[vm])
    # The host's busy hour was made ten hours later, and is the same hour of the week.
    later = snapshot("h", idle[:-9] + busy + idle[-9:], until_hour=490_010)
    meets = fleet(model, later, size=None, like="m/on-m", risk=0.0)
    assert {host.host: host.fits for host in meets.hosts}["h"] == 0
    other = snapshot("h", busy + idle, until_hour=490_010)
    assert {host.host: host.fits for host in fleet(model, other, size=None, like="m/on-m", risk=0.0).hosts}[
        "h"
    ] == 1


def test_a_snapshot_answers_as_its_history_does_where_each_week_is_like_the_last() -> None:
    host = trace("office", 1, days=14, vms=4)
    hour = np.arange(host.weights.size) // 6
    need = (np.stack([hour * factor % 24 for factor in (1, 5, 7, 11)]) + 10) * 2560
    host = host._replace(need=need, capacity=np.full(hour.size, 500_000), fixed_capacity=900_000)
    answer = answer_of(host, Model(2, int(host.fixed[2])), risk=0.02)
    made = snapshot_of(host, 0.02, "here")
    found = fleet(made, size=None, like="vm-02", risk=0.02)
    assert (found.hosts[0].fits, found.hosts[0].fits_static) == (answer.fits, answer.fits_static)
    assert answer.fits > 0
    assert len(made.capacity_mib) == HOURS
    assert [vm.name for vm in made.vms] == list(host.names)


def test_an_hour_that_is_recorded_in_part_counts_and_longer_spans_stand_for_each_of_their_hours() -> None:
    host = trace("office", 1, days=8, vms=2)
    host.need[:], host.capacity[:] = 25_600, 256_000
    host.weights[-3], host.capacity[-3], host.need[:, -3] = 0, 0, AWAY
    made = snapshot_of(host, 0.01, "here")
    assert (made.recorded_s[-1], made.capacity_mib[-1], made.needed_mib[-1]) == (3000, 1000, 200)
    assert (len(made.recorded_s), made.until_hour) == (HOURS, host.end_ms // 3_600_000)
    spans = 8 * 6
    four_hours = host._replace(
        span_ms=4 * 3_600_000,
        per_day=6,
        weights=np.full(spans, 144_000),
        capacity=np.arange(1, spans + 1) * 256_000,
        need=host.need[:, :spans],
        silent=host.silent[:, :spans],
    )
    made = snapshot_of(four_hours, 0.01, "here")
    assert len(made.capacity_mib) == len(made.needed_mib) == len(made.recorded_s) == HOURS
    assert made.capacity_mib[-9:] == [46_000] + [47_000] * 4 + [48_000] * 4
    assert set(made.recorded_s) == {3600}


def test_a_snapshot_counts_on_one_more_week_of_what_is_lost() -> None:
    host = trace("office", 1, days=14, vms=2)
    host.need[:], host.capacity[:] = 25_600, 256_000
    host.need[0] += np.arange(host.weights.size) // host.per_day * 2560
    made = snapshot_of(host, 0.01, "here")
    assert set(made.capacity_mib) == {1000 - 70}


def test_a_snapshot_without_names_has_none() -> None:
    made = encoded(snapshot_of(trace("batch", 1, days=8, vms=3), 0.01, "secret", names=False))
    assert b"secret" not in made
    assert [vm["name"] for vm in json.loads(made)["vms"]] == ["vm-1", "vm-2", "vm-3"]
    assert week_of(made, "a.json").host == "a.json"


def _changed(**changes: object) -> bytes:
    return json.dumps(json.loads(encoded(snapshot("x", [1, 2]))) | changes).encode()


HOSTILE = {
    "empty": (b"", "not a snapshot"),
    "no json": (b"\xff\xfe{", "not a snapshot"),
    "deep": (b"[" * 500_000, "not a snapshot"),
    "deep in a field": (_changed()[:-1] + b',"more":' + b"[" * 500_000, "not a snapshot"),
    "a status": (b'{"schema_version": 1, "ok": true, "vms": []}', "not a snapshot"),
    "another version": (_changed(schema_version=2), "not a snapshot of version 1"),
    "negative": (_changed(capacity_mib=[-1, 1]), "not a snapshot"),
    "huge number": (_changed(needed_mib=[1 << 63, 1]), "not a snapshot"),
    "no number": (_changed(needed_mib=[1, "a"]), "not a snapshot"),
    "fractions": (_changed(needed_mib=[1, 1.5]), "not a snapshot"),
    "too many hours": (_changed(recorded_s=[3600] * 169), "not a snapshot"),
    "other lengths": (_changed(capacity_mib=[1]), "differ in length"),
    "no hours": (_changed(capacity_mib=[], needed_mib=[], recorded_s=[]), "differ in length, or are empty"),
    "nothing recorded": (_changed(recorded_s=[0, 0]), "nothing is recorded"),
    "long name": (_changed(host="x" * 256), "not a snapshot"),
    "too large": (b" " * (FIT_SNAPSHOT_BYTES_MAX + 1), "more than 4 MiB"),
    "its model": (
        _changed(vms=[{"name": "on-good", "fixed_mib": 1, "usual_mib": 1, "need_mib": ["a"]}]),
        "not a snapshot",
    ),
    "its model's hours": (
        _changed(vms=[{"name": "on-good", "fixed_mib": 1, "usual_mib": 1, "need_mib": [1, 2, 3]}]),
        "differ in length",
    ),
    "another week": (_changed(until_hour=490_000 - HOURS - 24), "ends 8 days before that of most others"),
    "the far future": (_changed(until_hour=1 << 32), "after that of most others"),
}


def test_each_hostile_file_is_named_and_stops_no_other() -> None:
    good = [snapshot("good", [500, 500]), snapshot("fair", [600, 600]), snapshot("free", [0, 0])]
    sources = [(each.host, encoded(each)) for each in good] + [
        (name, data) for name, (data, _) in HOSTILE.items()
    ]
    found = fleet_of(sources, Counting(), like="good/on-good")
    assert [host.host for host in found.hosts] == ["fair", "free", "good"]
    problems = {problem.file: problem.error for problem in found.problems}
    assert set(problems) == set(HOSTILE)
    for name, (_, words) in HOSTILE.items():
        assert words in problems[name], name


def test_what_is_no_file_or_too_large_is_named_and_not_read(tmp_path: Path) -> None:
    fifo, folder, large, loop = (tmp_path / name for name in ("fifo", "folder", "large", "loop"))
    os.mkfifo(fifo)
    folder.mkdir()
    with large.open("wb") as file:
        file.truncate(1 << 40)
    loop.symlink_to(loop)
    (tmp_path / "good").write_bytes(encoded(snapshot("good", [1])))
    missing, null = tmp_path / "missing", tmp_path / "nul\0"
    found = fleet_of(
        [fifo, folder, large, loop, missing, null, Path("/dev/zero"), tmp_path / "good"], Counting(), size=1
    )
    assert [host.host for host in found.hosts] == ["good"]
    assert len(found.problems) == 7
    with pytest.raises(ConfigError, match="more than 4 MiB"):
        load(large)


def test_of_one_host_the_newest_snapshot_counts_and_the_others_are_named() -> None:
    old, new = snapshot("a", [900], until_hour=489_990), snapshot("a", [100])
    for order in ((old, new), (new, old)):
        sources = [("z-new" if each is new else "a-old", encoded(each)) for each in order]
        found = fleet_of(sources, Counting(), size=MIB)
        assert [host.file for host in found.hosts] == ["z-new"]
        assert [problem.file for problem in found.problems] == ["a-old"]


def test_what_one_more_is_like_must_be_one_vm() -> None:
    twice = [snapshot("a", [1]), snapshot("b", [1], vms=snapshot("a", [1]).vms)]
    assert fleet(*twice, size=None, like="b/on-a").each_bytes == 100 * MIB
    for how, words in (
        ({"size": None, "like": "on-a"}, "2 VMs are called 'on-a' \\(a, b, ...\\): say HOST/on-a"),
        ({"size": None, "like": "c/on-a"}, "no VM 'on-a' is in the snapshots of 'c'"),
        ({"size": None, "like": None}, "say what one more VM is like"),
        ({"size": 1, "like": "on-a"}, "say what one more VM is like"),
    ):
        with pytest.raises(ConfigError, match=words):
            fleet(*twice, **how)
    with pytest.raises(ConfigError, match="no snapshot can be used: x: not a snapshot"):
        fleet_of([("x", b"{}")], Counting(), size=1)


def test_no_more_hosts_are_taken_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynmem.fit.fleet.FIT_HOSTS_MAX", 2)
    with pytest.raises(ConfigError, match="3 snapshots are more than 2: name fewer at a time"):
        fleet(*(snapshot(f"h{number}", [1]) for number in range(3)))


def _die(*_: object) -> None:
    os._exit(1)


def test_a_worker_that_dies_is_an_error_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynmem.fit.fleet.read_some", _die)
    with (
        ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool,
        pytest.raises(DynmemError, match="a process that read snapshots ended"),
    ):
        fleet_of([("x", b"{}")], pool, size=1)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(fit, arguments, standalone_mode=False)


def test_the_command_writes_a_snapshot_of_its_history_and_answers_for_many(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    written(state, rows_of({"web": [300] * 12, "db": [200] * 12}, for_ds=6000))
    time = ["--state", str(state), "--since", "2026-03-02T00:00:00Z", "--until", "2026-03-02T04:59:59Z"]
    files = [str(tmp_path / name) for name in ("one.json", "two.json")]
    assert run("--snapshot", files[0], *time).return_value == ExitCode.OK
    assert run("--snapshot", files[1], "--no-names", *time).return_value == ExitCode.OK
    nameless = json.loads(Path(files[1]).read_text())
    assert (nameless["host"], [vm["name"] for vm in nameless["vms"]]) == ("", ["vm-1", "vm-2"])
    done = run("--hosts", "--like", "web", *files)
    assert done.return_value == ExitCode.OK
    for words in (
        "2 more VMs like web (300 MiB at most) fit on 2 hosts within the risk of 1.00% of the time;",
        "the next should go to",
        "two.json",
        "400M",
    ):
        assert words in done.output
    (tmp_path / "bad.json").write_text("{}")
    done = run("--hosts", "--size", "300M", "--vms", "2", *files, str(tmp_path / "bad.json"))
    assert done.return_value == ExitCode.PARTIAL
    assert "bad.json: not a snapshot" in done.output
    assert run("--hosts", "--size", "300M", "--vms", "3", *files).return_value == ExitCode.REFUSED
    reply = json.loads(run("--hosts", "--size", "300M", "--keep", "200M", "--json", *files).output)
    assert set(reply) - {"schema_version"} == set(FleetReply.__struct_fields__)
    assert [host["fits"] for host in reply["hosts"]] == [0, 0]
    assert "--hosts: name the files" in str(run("--hosts", "--size", "1G").exception)
    assert "say --hosts" in str(run("a.json").exception)
    assert nameless["until_hour"] == THREE_AM // 3_600_000 + 2


def test_the_page_names_hosts_at_risk_and_files_left_out() -> None:
    from dynmem.cli.fit_hosts import rendered

    found = fleet(snapshot("full", [1200] * 4), *(snapshot(f"h{at:02}", [100]) for at in range(60)), vms=2)
    text = rendered(found, None)
    assert "at risk: full: what runs does not fit in 100.00% of the week, by up to 200 MiB" in text
    assert "the next 2: h00, h01" in text
    assert "and 11 hosts with less left" in text


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    assert render() == (ROOT / "docs" / "fit-snapshot.schema.json").read_text(), "run python -m scripts.fit"

"""A status as metrics: every name as the field has it, and no figure where none is known."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.rigs.daemon import DAEMON
from tests.rigs.obedient import ObedientHost

from dynmem.manager.api.client import status_of
from dynmem.manager.api.messages import StatusReply, encode
from dynmem.manager.step.capability import Known
from dynmem.manager.step.facts import Demand, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.step.view import VmView
from dynmem.manager.totals import Ending, Totals
from dynmem.metrics.families import CAPABILITIES, CAPABLE, FAMILIES, STATES, VMS, load_ratio
from dynmem.metrics.render import render
from dynmem.metrics.text import Sample, family_lines, label, number
from dynmem.units import GIB, MIB, NS_PER_S

ROOT = Path(__file__).resolve().parent.parent.parent


def rack(mode: Any = "enforce") -> ObedientHost:
    settings = ManagerSettings(GIB, 64 * MIB, NS_PER_S, mode)
    configs = [VmConfig(name, 64 * MIB, 512 * MIB) for name in ("web", "db", "away")]
    return ObedientHost(settings, configs, {"web": 400 * MIB, "db": 100 * MIB}, available_bytes=4 * GIB)


def status(host: ObedientHost, totals: Totals | None = None, **changes: object) -> StatusReply:
    view = host.manager.status().dated(lambda _: "2026-03-02T11:20:41Z")
    reply = StatusReply(
        **msgspec.structs.asdict(view), manager=DAEMON, totals=None if totals is None else totals.view()
    )
    return msgspec.structs.replace(reply, **changes)


def parsed(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read a text as Prometheus's own client library does."""
    families: list[Any] = list(text_string_to_metric_families(text.decode()))
    samples = [sample for family in families for sample in family.samples]
    found = {(each.name, tuple(sorted(each.labels.items()))): float(each.value) for each in samples}
    assert len(found) == len(samples)
    return found


def value(text: bytes, name: str, **labels: str) -> float | None:
    return parsed(text).get((name, tuple(sorted(labels.items()))))


def swept() -> tuple[ObedientHost, Totals]:
    host, totals = rack(), Totals()
    host.overrides["web"] = {"resident_overhead_bytes": MIB}
    for _ in range(3):
        totals.looked(host.facts())
        host.sweep()
        totals.swept(0.004)
        totals.decided(7_000_000)
    return host, totals


def complete() -> StatusReply:
    """A status in which every figure is known."""
    reply = status(*swept())
    assert reply.host is not None
    seen = {"arc_bytes": 1, "zram_bytes": 2, "ksm_saved_bytes": 3}
    host = msgspec.structs.replace(reply.host, **seen, pressure_some_percent=12.5, pressure_full_percent=0.0)
    figures = {"plugged_bytes": 4, "pluggable_bytes": 5, "limit_bytes": 6, "ceiling_bytes": 7}
    web, *others = reply.vms
    vms = (msgspec.structs.replace(web, **figures), *others)
    return msgspec.structs.replace(reply, host=host, vms=vms)


def test_a_status_is_read_by_prometheus_s_own_parser_with_its_types() -> None:
    text = render(complete())
    families: list[Any] = list(text_string_to_metric_families(text.decode()))
    kinds = {family.name: family.type for family in families}
    for family in FAMILIES:
        name = family.name.removesuffix("_total")  # as the parser names counters
        assert kinds.get(name) in {family.kind, None}
        assert all(
            set(sample.labels) == set(family.labels)
            for each in families
            if each.name == name
            for sample in each.samples
            if not sample.name.endswith(("_sum", "_count"))
        )
    assert set(kinds) == {family.name.removesuffix("_total") for family in FAMILIES}
    assert all(family.documentation for family in families)


def test_names_and_units_are_as_the_field_has_them() -> None:
    units = ("_bytes", "_seconds", "_ratio", "_total", "_info")
    plain = {
        "dynmem_config_in_force",
        "dynmem_history_writable",
        "dynmem_host_emergency",
        "dynmem_host_waiting",
        "dynmem_journal_writable",
        "dynmem_mode",
        "dynmem_reservations",
        "dynmem_vm_capability",
        "dynmem_vm_locked",
        "dynmem_vm_pinned",
        "dynmem_vm_problem",
        "dynmem_vm_standing",
        "dynmem_vm_state",
        "dynmem_vm_up",
    }
    for family in FAMILIES:
        assert re.fullmatch("dynmem(_[a-z]+)+", family.name)
        assert family.name.endswith(units) != (family.name in plain)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.meaning.endswith(".")
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_a_size_of_a_vm_is_the_field_of_that_name_in_the_status() -> None:
    host, totals = swept()
    reply = status(host, totals)
    text, fields = parsed(render(reply)), set(VmView.__struct_fields__)
    sizes = [family.name for family in VMS if family.name.endswith("_bytes")]
    assert len(sizes) > 10
    for name in sizes:
        field = name.removeprefix("dynmem_vm_")
        for vm in reply.vms:
            wanted = getattr(vm, field) if field in fields else vm.books and vm.books.ballooned_bytes
            assert text.get((name, (("vm", vm.name),))) == wanted


def test_what_is_not_known_is_absent_and_not_a_number() -> None:
    host = rack()
    text = render(status(host))  # before the first sweep, and of a manager without totals
    assert b"-1" not in text
    assert value(text, "dynmem_host_budget_bytes") == GIB
    assert value(text, "dynmem_vm_up", vm="web") == 0
    for name in ("actual_bytes", "demand_bytes", "pressure_ratio", "report_age_seconds"):
        assert f"dynmem_vm_{name}".encode() not in text
    for part in (b"load_ratio", b"measured_free", b"timestamp", b"_total", b"_bucket"):
        assert part not in text
    host.sweep()
    text = render(status(host))
    assert value(text, "dynmem_vm_actual_bytes", vm="web") == 512 * MIB
    assert value(text, "dynmem_vm_actual_bytes", vm="away") is None
    assert value(text, "dynmem_vm_state", vm="away", state="absent") == 1


def test_what_describes_a_vm_in_words_stands_in_its_info_alone() -> None:
    host, totals = swept()
    text = render(status(host, totals))
    assert value(text, "dynmem_vm_info", vm="web", device="hv-balloon", priority="normal", monitor="own") == 1
    for family in VMS:
        if not family.name.endswith("_info"):
            assert set(family.labels) <= {"vm", "state", "standing", "direction", "capability"}


def test_what_a_vm_can_do_is_1_or_0_and_what_is_not_known_is_absent() -> None:
    reply = complete()
    capability = reply.vms[0].capability
    assert capability is not None
    words = {"driver": "proven", "statistics": "stale", "deflate_on_oom": "unknown", "movable": "grow only"}
    changed = {name: Known(word, "") for name, word in words.items()}
    web = msgspec.structs.replace(reply.vms[0], capability=msgspec.structs.replace(capability, **changed))
    text = render(msgspec.structs.replace(reply, vms=(web,)))
    found = {name: value(text, "dynmem_vm_capability", vm="web", capability=name) for name in words}
    assert found == {"driver": 1, "statistics": 0, "deflate_on_oom": None, "movable": 0}


def test_the_words_of_an_ability_are_those_of_its_evidence() -> None:
    documented = (ROOT / "docs" / "status.md").read_text().split("## Capability")[1].split("## Known")[0]
    for word in CAPABLE:
        assert f'"{word}"' in documented
    for name in CAPABILITIES:
        assert f"| `{name}` |" in documented


def test_the_pressure_on_the_host_is_a_ratio() -> None:
    text = render(complete())
    assert value(text, "dynmem_host_pressure_ratio", kind="some") == 0.125
    assert value(text, "dynmem_host_pressure_ratio", kind="full") == 0


def test_a_state_that_no_list_has_is_other_and_makes_no_label() -> None:
    host, _ = swept()
    reply = status(host)
    web = msgspec.structs.replace(reply.vms[0], run_state='inmigrate"} 1\nevil 1')
    text = render(msgspec.structs.replace(reply, vms=(web,)))
    assert b"evil" not in text
    assert {state: value(text, "dynmem_vm_state", vm="web", state=state) for state in STATES} == {
        **dict.fromkeys(STATES, 0.0),
        "other": 1.0,
    }


NAMES = ('a"} 1\nevil 1', "back\\slash", "line\nbreak", "", "\udc80", "ümläut", 'x"', "\r")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_within_its_quotes_whatever_it_is(name: str) -> None:
    host, _ = swept()
    reply = status(host)
    vm = msgspec.structs.replace(reply.vms[0], name=name)
    text = render(msgspec.structs.replace(reply, vms=(vm,)))
    readable = name.encode(errors="replace").decode()
    assert value(text, "dynmem_vm_actual_bytes", vm=readable) == 512 * MIB
    assert all(key[0].startswith("dynmem_") for key in parsed(text))


def test_numbers_are_spelled_as_the_format_has_them() -> None:
    cases = {1 << 60: str(1 << 60), 0.25: "0.25", True: "1", float("inf"): "+Inf", float("-inf"): "-Inf"}
    assert [number(each) for each in cases] == list(cases.values())
    assert number(float("nan")) == "NaN"
    assert [number(each) for each in (None, "12", b"1", ())] == [""] * 4


def test_a_family_without_a_sample_has_no_heading() -> None:
    assert list(family_lines("a", "gauge", "A.", [Sample("", None)])) == []
    lines = list(family_lines("a", "gauge", "A\\\nb.", [Sample("", None), Sample(label("b", "c"), 1)]))
    assert lines == ["# HELP a A\\\\\\nb.", "# TYPE a gauge", 'a{b="c"} 1']


def test_a_client_renders_what_it_received_as_the_manager_renders_what_it_has() -> None:
    host, totals = swept()
    reply = status(host, totals)
    assert render(status_of(msgspec.json.decode(encode(reply)))) == render(reply)


def test_a_reply_of_an_older_manager_is_rendered_without_what_it_lacks() -> None:
    host, totals = swept()
    older = msgspec.json.decode(encode(status(host, totals)))
    del older["totals"], older["ready_bytes"], older["swept_at"], older["vms"][0]["books"]
    text = render(status_of(older))
    assert value(text, "dynmem_vm_ballooned_bytes", vm="web") is None
    assert value(text, "dynmem_host_ready_bytes") is None
    assert value(text, "dynmem_vm_actual_bytes", vm="web") is not None


def test_the_load_of_a_host_is_what_is_wanted_as_a_part_of_what_there_is() -> None:
    host = rack()
    assert load_ratio(status(host)) is None
    host.sweep()
    reply = status(host)
    assert [vm.wanted_bytes for vm in reply.vms] == [None] * 3  # nothing is planned yet: what they may take
    assert load_ratio(reply) == 1
    host.sweep(4)
    reply = status(host)
    wanted = sum(vm.wanted_bytes or 0 for vm in reply.vms)
    assert wanted > 500 * MIB
    assert load_ratio(reply) == pytest.approx(wanted / (GIB - 64 * MIB))
    host.available_bytes = 0  # others took it: there is what the guests hold, and no more
    host.sweep()
    reply = status(host)
    held = sum(vm.resident_bytes or 0 for vm in reply.vms)
    assert held < GIB
    wanted = sum(vm.wanted_bytes or 0 for vm in reply.vms)
    assert load_ratio(reply) == pytest.approx(min(1, wanted / (held - 64 * MIB)))


def test_the_load_stays_between_0_and_1() -> None:
    host = rack()
    host.demands.update(web=4 * GIB, db=4 * GIB)
    host.sweep()
    full = load_ratio(status(host))
    assert full == 1
    assert load_ratio(status(host, vms=())) == 0
    assert load_ratio(status(host, budget_bytes=0)) == 1


# -- what adds up -------------------------------------------------------------------------------------------


def facts_of(host: ObedientHost, second: int, *vms: VmFacts) -> Any:
    return msgspec.structs.replace(host.facts(), now_ns=second * NS_PER_S, vms=vms)


def vm(actual_mib: int | None, demand_mib: int, resets: int = 0, life: str = "web.1") -> VmFacts:
    actual = None if actual_mib is None else actual_mib * MIB
    demand = Demand(demand_mib * MIB, 0, "committed - ballooned", 1)
    return VmFacts("web", life, "running", actual_bytes=actual, demand=demand, resets=resets)


def test_unmet_demand_adds_up_over_time() -> None:
    host, totals = rack(), Totals()
    for second, looked in ((10, vm(100, 120)), (15, vm(110, 120)), (17, vm(200, 120)), (99, vm(None, 900))):
        totals.looked(facts_of(host, second, looked))
    (web,) = totals.view().vms
    assert web.unmet_byte_s == (20 * 5 + 10 * 2) * MIB
    totals.looked(facts_of(host, 200, vm(None, 900)))  # its size is not known: nor is what it lacks
    assert totals.view().vms[0].unmet_byte_s == web.unmet_byte_s


def test_a_look_at_one_vm_counts_for_that_one_and_costs_the_others_nothing() -> None:
    host, totals = rack(), Totals()
    web, db = vm(100, 120), msgspec.structs.replace(vm(100, 110), name="db")
    totals.looked(facts_of(host, 10, web, db))
    part = msgspec.structs.replace(facts_of(host, 12, vm(130, 120), db), looked=frozenset({"web"}))
    totals.looked(part)
    assert [each.unmet_byte_s / MIB for each in totals.view().vms] == [40, 0]
    totals.looked(facts_of(host, 15, vm(130, 120), db))
    assert [each.unmet_byte_s / MIB for each in totals.view().vms] == [40, 50]


def test_the_reserve_that_a_guest_should_have_counts_as_its_demand() -> None:
    host, totals = rack(), Totals()
    lacking = vm(100, 90)
    assert lacking.demand is not None
    lacking = msgspec.structs.replace(
        lacking, demand=msgspec.structs.replace(lacking.demand, reserve_bytes=64 * MIB)
    )
    for second in (1, 2):
        totals.looked(facts_of(host, second, lacking))
    assert totals.view().vms[0].unmet_byte_s == 54 * MIB


def test_what_moved_is_counted_within_a_life_of_the_guest() -> None:
    host, totals = rack(), Totals()
    for second, looked in enumerate(
        (
            vm(100, 1),
            vm(150, 1),
            vm(130, 1),
            vm(500, 1, resets=1),
            vm(None, 1),
            vm(400, 1),
            vm(390, 1, life="b"),
        )
    ):
        totals.looked(facts_of(host, second, looked))
    (web,) = totals.view().vms
    assert (web.grown_bytes, web.shrunk_bytes) == (50 * MIB, 20 * MIB)


def test_a_vm_that_is_no_longer_configured_is_forgotten() -> None:
    host, totals = rack(), Totals()
    totals.looked(facts_of(host, 1, vm(100, 1)))
    totals.looked(facts_of(host, 2))
    assert totals.view().vms == ()


def test_durations_are_counted_up_to_each_bound() -> None:
    totals = Totals()
    for took_s in (0.0005, 0.001, 0.3, 60.0):
        totals.swept(took_s)
    found = totals.view().sweeps
    counts = dict(zip(found.bounds_s, found.counts, strict=True))
    assert (counts[0.001], counts[0.25], counts[0.5], counts[10.0], found.count) == (2, 2, 3, 3, 4)
    assert found.sum_s == pytest.approx(60.3015)
    host, _ = swept()
    text = render(status(host, totals))
    assert value(text, "dynmem_sweep_seconds_bucket", le="0.5") == 3
    assert (
        value(text, "dynmem_sweep_seconds_bucket", le="+Inf")
        == value(text, "dynmem_sweep_seconds_count")
        == 4
    )


def test_commands_are_counted_by_how_they_ended() -> None:
    host, totals = rack(), Totals()
    endings: list[Ending] = ["sent", "sent", "failed", "unknown"]
    for how in endings:
        totals.ended(how)
    totals.interrupted()
    text = render(status(host, totals))
    found = [value(text, "dynmem_commands_total", result=each) for each in ("sent", "failed", "unknown")]
    assert found == [2, 1, 1]
    assert value(text, "dynmem_last_resorts_total") == 1


def test_the_page_about_metrics_is_what_the_table_says() -> None:
    command = [sys.executable, "-m", "scripts.metrics", "--print"]
    made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert made == (ROOT / "docs" / "metrics.md").read_text(), "run python -m scripts.metrics"


def test_no_figure_is_made_of_nonsense_and_the_books_stand_in_for_a_measurement() -> None:
    host = rack()
    host.sweep(4)
    whole = status(host)
    first, *others = whole.vms
    odd = msgspec.structs.replace(first, actual_bytes=0, resident_bytes=None, claim_bytes=7 * MIB)
    text = render(msgspec.structs.replace(whole, vms=(odd, *others), swept_at="yesterday"))
    assert value(text, "dynmem_vm_pressure_ratio", vm=first.name) is None
    assert value(text, "dynmem_last_sweep_timestamp_seconds") is None
    held = 7 * MIB + sum(vm.resident_bytes or vm.claim_bytes or 0 for vm in others)
    assert value(text, "dynmem_host_resident_bytes") == held

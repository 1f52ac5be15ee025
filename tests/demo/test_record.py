"""Adding up the demonstration, its verdict, its cast and its page."""

import re
from pathlib import Path

import msgspec
import pytest

from dynmem.demo import plot, scenario
from dynmem.demo.guests import last_report
from dynmem.demo.picture import RunRecord, squeezes
from dynmem.demo.record import Sample, Summary, UnmetDemand, VmSample, VmSummary
from dynmem.demo.verdict import verdict
from dynmem.errors import ExitCode
from dynmem.units import MIB, NS_PER_S


def summary(*, wrong: int = 0, peak: int = 700 * MIB, ooms: int = 0) -> Summary:
    vm = VmSummary("web", "embedded", 512 * MIB, wrong, 10, 1.5, peak, ooms)
    return Summary(1, "managed", 1, wrong, 10, 1.5, peak, 768 * MIB, 60.0, [vm])


def test_unmet_demand_counts_each_second_by_the_share_that_was_unmet() -> None:
    unmet = UnmetDemand()
    unmet.observe(0, 400, 400)
    unmet.observe(2 * NS_PER_S, 400, 300)  # two seconds, a quarter short
    unmet.observe(3 * NS_PER_S, 100, 300)  # more than wanted is not negative demand
    assert unmet.seconds == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (summary(), ExitCode.OK),
        (summary(wrong=3), ExitCode.WRONG_BYTES),
        (summary(peak=769 * MIB), ExitCode.OVER_BUDGET),
        (summary(ooms=1), ExitCode.GUEST_LOST),
        (summary(peak=0), ExitCode.FAILURE),
        (summary(wrong=3, peak=0), ExitCode.WRONG_BYTES),
        (summary(wrong=1, peak=800 * MIB, ooms=1), ExitCode.WRONG_BYTES),
    ],
)
def test_the_worst_that_happened_decides_the_exit_code(summary: Summary, code: ExitCode) -> None:
    assert verdict(summary)[0] is code


@pytest.mark.parametrize("cast", [scenario.EMBEDDED, scenario.QEMU])
def test_the_maximums_are_twice_the_budget_and_each_fits_beside_the_minimums_of_those_before_it(
    cast: scenario.Scenario,
) -> None:
    assert sum(member.maximum_bytes for member in cast.members) == 2 * cast.budget_bytes
    minimums = 0
    for member in cast.members:
        assert member.maximum_bytes + minimums + cast.slush_bytes <= cast.budget_bytes
        minimums += member.minimum_bytes


@pytest.mark.parametrize("cast", [scenario.EMBEDDED, scenario.QEMU])
def test_for_a_while_the_loads_want_more_than_there_is(cast: scenario.Scenario) -> None:
    room = cast.budget_bytes - cast.slush_bytes
    wanted = [
        sum(member.wanted_bytes(moment / 100) * (100 + cast.buffer_percent) // 100 for member in cast.members)
        for moment in range(100)
    ]
    assert max(wanted) > room > min(wanted)


def test_the_same_seed_moves_the_peaks_the_same_way() -> None:
    assert scenario.vary(scenario.EMBEDDED, 7) == scenario.vary(scenario.EMBEDDED, 7)
    assert scenario.vary(scenario.EMBEDDED, 7) != scenario.vary(scenario.EMBEDDED, 8)
    assert scenario.vary(scenario.EMBEDDED, 1) == scenario.EMBEDDED


def test_the_page_holds_every_vm_and_reaches_for_nothing_outside(tmp_path: Path) -> None:
    vms = {"web": VmSample(90 * MIB, 80 * MIB, 85 * MIB, 128 * MIB, 128 * MIB, 70 * MIB, "because")}
    samples = [Sample(index * NS_PER_S, 1 << 30, vms) for index in range(2000)]
    plot.write(tmp_path / "page.html", [RunRecord(samples, summary())], "processes <only>")
    page = (tmp_path / "page.html").read_text()
    assert "web" in page
    assert "processes &lt;only&gt;" in page
    assert not re.search(r"(src|href)=|https?://|url\(", page)
    assert len(page) < 200_000  # two thousand samples are thinned


def two_runs() -> list[RunRecord]:
    """A managed run in which `web` lacks half of what it wants from 20 s to 40 s, and a static one."""

    def sample(second: int) -> Sample:
        held = 200 if 20 <= second < 40 else 400
        vm = VmSample(400 * MIB, held * MIB, 0, 0, 0, 0, "")
        return Sample(second * NS_PER_S, 1 << 30, {"web": vm})

    samples = [sample(second) for second in range(60)]
    return [
        RunRecord(samples, summary()),
        RunRecord(samples, msgspec.structs.replace(summary(), mode="static")),
    ]


def test_the_picture_has_a_panel_per_run_a_legend_round_axes_and_the_squeeze(tmp_path: Path) -> None:
    plot.write(tmp_path / "demo.svg", two_runs(), "")
    picture = (tmp_path / "demo.svg").read_text()
    words = re.findall(r">([^<>]+)</text>", picture)
    assert "with dynmem: 1.5 VM-seconds of demand unmet" in words
    assert "without a manager: each VM fixed at 768 MiB: 1.5 VM-seconds of demand unmet" in words
    assert {"web", "wanted by all loads", "not served", "budget"} <= set(words)
    assert {"0", "256 MiB", "512 MiB", "768 MiB", "0 s", "10 s", "60 s"} <= set(words)
    assert words.count("web is squeezed") == 2
    assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert len(picture) < 60_000


def test_a_squeeze_is_the_longest_time_of_a_vm_without_a_good_part_of_what_it_wants() -> None:
    (squeeze,) = squeezes(two_runs()[0].samples, ["web", "absent"])
    assert squeeze == ("web", 20 * NS_PER_S, 39 * NS_PER_S)
    assert squeezes(two_runs()[0].samples[:20], ["web"]) == []


def test_a_serial_line_that_is_cut_or_not_a_report_is_passed_over(tmp_path: Path) -> None:
    serial = tmp_path / "serial"
    good = msgspec.json.encode({"wanted_pages": 5, "held_pages": 4, "wrong_bytes": 0, "t": 1.5})
    serial.write_bytes(b'{"wanted_pages": 1}\n' + good + b"\nnot json\n" + good[:20])
    report = last_report(serial)
    assert report is not None
    assert (report.wanted_pages, report.held_pages) == (5, 4)
    assert last_report(tmp_path / "absent") is None

"""The page in a real browser: it says what the manager says, and nothing that it shows can do anything."""

import pytest
from tests.rigs.browser import Browser
from tests.rigs.page_double import FREE, HELD, MEASURED, RESERVED, PageDouble, choose, event, names, status
from tests.rigs.status_double import vm_view

from dynmem.cli.explain_text import in_a_line
from dynmem.units import GIB, MIB, format_size

HOSTILE = '<img src="x" onerror="alert(1)"><script>alert(2)</script>'


def test_the_figures_are_those_of_the_status(page: Browser, double: PageDouble) -> None:
    figures = dict(zip(page.texts("#figures dt"), page.texts("#figures dd"), strict=True))
    assert figures == {
        "Budget": "8 GiB",
        "Held by VMs": format_size(HELD),
        "Reserved": "256 MiB",
        "Ready reserve": "512 MiB",
        "Measured free": "2 GiB",
        "Slush": "256 MiB",
        "MemAvailable": "3 GiB",
    }
    assert page.text("#sum") == MEASURED.text
    titles = page.run(
        "return [...document.querySelectorAll('#bar .part')].map((each) => [each.title, each.hidden])"
    )
    exact = {
        title.split(": ")[0]: title.split("(")[1].split(" ")[0] for title, hidden in titles if not hidden
    }
    assert {name: int(text) for name, text in exact.items()} == {
        "held by VMs": HELD,
        "reserved for VMs about to start": RESERVED,
        "ready reserve": 512 * MIB,
        "measured free beyond that": FREE - 512 * MIB,
        "within the budget, but not available on the host": 511 * MIB,
        "slush, never granted": 256 * MIB,
    }
    assert sum(map(int, exact.values())) == 8 * GIB
    cells = page.run(
        "return [...document.querySelector('#rows [role=row]').children].map((e) => e.innerText)"
    )
    assert cells == [
        *("vm0", "running", "300 MiB", "512 MiB", "512 MiB", "411 MiB", "64 MiB to 1 GiB", "59 %"),
        "uses 300 MiB, has 512 MiB: nobody else needs the rest",
    ]
    assert page.complaints() == []


def test_the_page_says_of_each_vm_in_a_line_what_dynmem_status_says(
    page: Browser, double: PageDouble
) -> None:
    vms = [
        vm_view(0),
        vm_view(1, there=False, run_state="absent"),
        vm_view(2, there=False, problem="its monitor is gone: start it"),
        vm_view(3, standing="frozen", reason="frozen: it is migrating; nothing is changed"),
        vm_view(4, demand_bytes=None, reason=""),
        vm_view(5, short_bytes=3 * MIB + 17),
        vm_view(6, planned_bytes=500 * MIB, expected_bytes=1),
        vm_view(7, wanted_bytes=GIB, planned_bytes=GIB, actual_bytes=300 * MIB),
        vm_view(8, demand_bytes=1, actual_bytes=1536 * MIB, planned_bytes=GIB * 9999),
        vm_view(9, demand_bytes=GIB + 1, actual_bytes=(1 << 40) + 5 * GIB, wanted_bytes=None),
    ]
    double.show(status(*vms))
    page.until(lambda: len(names(page)) == len(vms))
    assert page.texts("#rows .why") == [in_a_line(vm) for vm in vms]
    states = dict(zip(names(page), page.texts("#rows .state"), strict=True))
    assert (states["vm3"], states["vm5"], states["vm7"]) == (
        "running, frozen",
        "running, low",
        "running, warning",
    )


def test_a_vm_that_appears_has_a_row_and_one_that_vanishes_has_none(
    page: Browser, double: PageDouble
) -> None:
    choose(page, "vm1")
    double.show(status(vm_view(0), vm_view(1), vm_view(2)))
    page.until(lambda: names(page) == ["vm0", "vm1", "vm2"])
    double.show(status(vm_view(0), vm_view(2)))
    page.until(lambda: names(page) == ["vm0", "vm2"])
    assert page.text("#count") == "2 VMs"
    assert page.text("#detail-head") == "vm1"  # what was is there still
    assert page.complaints() == []


def test_a_manager_that_dies_is_named_and_its_last_figures_stay_until_it_is_back(
    page: Browser, double: PageDouble
) -> None:
    double.show("/run/dynmem/api.sock: nothing listens there: start `dynmem run`")
    page.until(lambda: "nothing listens there: start `dynmem run`" in page.text("#alarms"))
    assert page.text("#link") == "Not live"
    assert names(page) == ["vm0", "vm1"]
    double.show(status(vm_view(0), vm_view(1), vm_view(3)))
    page.until(lambda: "vm3" in names(page))
    assert (page.text("#alarms"), page.text("#link")) == ("", "Live")
    assert page.complaints() == []


def test_a_page_that_is_opened_without_a_manager_says_so(browser: Browser, double: PageDouble) -> None:
    double.status = "/run/dynmem/api.sock: no such file: start `dynmem run`"
    browser.open(double.url)
    browser.until(lambda: "no such file" in browser.text("#alarms"))
    assert browser.complaints() == []


@pytest.mark.parametrize(
    "nonsense", [{}, {"vms": None}, {"vms": [None]}, {"vms": {}, "measured_free": []}, 7]
)
def test_a_status_that_is_none_is_named_and_the_next_one_is_shown(
    page: Browser, double: PageDouble, nonsense: object
) -> None:
    double.send("status", nonsense)
    page.until(lambda: "cannot be" in page.text("#alarms"))
    choose(page, "vm1")
    double.show(status(vm_view(7)))
    page.until(lambda: names(page) == ["vm7"] and page.text("#alarms") == "")
    assert page.complaints() == []


def test_a_server_that_is_gone_is_asked_again_and_by_one_stream_only(
    page: Browser, double: PageDouble
) -> None:
    double.hang_up()
    page.until(lambda: "dynmem web) does not reply" in page.text("#alarms"))
    page.until(lambda: "no live stream now" in page.text("#alarms"))  # what it says when it is back, and full
    double.events = [event(1, text="meanwhile")]
    double.is_open = True
    page.until(lambda: page.text("#link") == "Live")
    assert page.text("#alarms") == ""
    page.until(lambda: "meanwhile" in page.text("#events-list"))  # what was missed is fetched
    assert double.readers == 1
    assert all(each.startswith("network: ") for each in page.complaints())


@pytest.mark.parametrize(
    ("field", "word"),
    [("journal_problem", "Journal"), ("history_problem", "History"), ("config_problem", "Configuration")],
)
def test_a_file_that_the_manager_cannot_use_is_named(
    page: Browser, double: PageDouble, field: str, word: str
) -> None:
    broken = status()
    broken["manager"][field] = "/var/lib/dynmem: no space is left: make room"
    double.show(broken)
    page.until(lambda: page.text("#alarms") == f"{word}: /var/lib/dynmem: no space is left: make room")
    double.show(status(emergency=True, shortage_bytes=3 * MIB))
    page.until(lambda: "Emergency" in page.text("#alarms"))
    assert page.text("#alarms").split("\n")[-1] == "Shortage: 3 MiB more is wanted than is available"


def test_a_history_that_cannot_be_read_is_named_and_the_live_figures_go_on(
    page: Browser, double: PageDouble
) -> None:
    sentence = {"error": "history.sqlite: cannot be read: try again"}
    double.refused = {f"/api/{each}": (503, sentence) for each in ("series", "events", "explain")}
    choose(page, "vm0")
    page.until(
        lambda: (
            sentence["error"] in page.text("#plot-note") and sentence["error"] in page.text("#explain pre")
        )
    )
    double.show(status(vm_view(0, demand_bytes=301 * MIB)))
    page.until(lambda: page.text("#rows .demand") == "301 MiB")
    double.refused = {}
    page.run("document.querySelector('#span [value=\"86400\"]').click()")
    page.until(lambda: page.text("#plot-note") == "")
    assert all(each.startswith("network: ") for each in page.complaints())


def test_what_comes_from_outside_is_shown_as_text_and_does_nothing(page: Browser, double: PageDouble) -> None:
    vm = vm_view(0, name=HOSTILE, reason=HOSTILE, standing="frozen", run_state=HOSTILE)
    hostile = status(vm, measured_free=None, mode="observe")
    hostile["manager"]["journal_problem"] = HOSTILE
    hostile["reservations"] = [
        {
            "name": HOSTILE,
            "size_bytes": 1,
            "deadline_ns": 1,
            "state": "ready",
            "reason": HOSTILE,
            "until": None,
        }
    ]
    double.events = [event(1, vm=HOSTILE, text=HOSTILE, kind=HOSTILE, measurement=HOSTILE)]
    double.lines = [HOSTILE, "two\u202e\x07"]
    double.status = hostile
    page.open(double.url)
    page.until(lambda: names(page) == [HOSTILE] and HOSTILE in page.text("#events-list"))
    double.send("happened", event(0, vm=HOSTILE, text=HOSTILE, at=HOSTILE))
    choose(page, HOSTILE)
    page.until(
        lambda: HOSTILE in page.text("#moves ol") or page.run("document.querySelector('#moves').open = true")
    )
    page.until(lambda: page.text("#explain pre") == f"{HOSTILE}\ntwo??")
    assert page.text("#rows .why") == HOSTILE
    assert HOSTILE in page.text("#alarms")
    assert HOSTILE in page.text("#reservations")
    assert page.text("#events-list").count(HOSTILE) == 6
    double.show(HOSTILE)
    page.until(lambda: page.text("#link") == "Not live")
    assert page.run("return document.querySelectorAll('img, body script').length") == 0
    assert page.complaints() == []


def test_the_reason_of_a_move_is_there_under_the_pointer_and_under_the_arrow_keys(
    page: Browser, double: PageDouble
) -> None:
    double.events = [event(300), event(120, kind="reset", text="its guest was reset")]
    choose(page, "vm0")
    page.until(lambda: page.text("#readout dd") == "300 MiB")
    assert "its guest" not in page.text("#readout")
    left, top, width = page.run(
        "const r = document.querySelector('.u-over').getBoundingClientRect(); return [r.left, r.top, r.width]"
    )

    def under_the_pointer(seconds_ago: int) -> str:
        x = left + width * (1 - seconds_ago / 3600)
        page.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=top + 20)
        return page.text("#readout")

    page.until(lambda: "moved: grow to 512 MiB" in under_the_pointer(300))
    page.until(lambda: "reset: its guest was reset" in under_the_pointer(120))
    page.run("document.querySelector('#plot').focus()")
    for _ in range(60):
        page.press("\ue012")
        if "grow to 512 MiB" in page.text("#readout"):
            break
    assert "its guest was reset" not in page.text("#readout")
    assert "grow to 512 MiB" in page.text("#readout")
    assert page.complaints() == []


def test_a_moment_of_the_plot_is_explained_until_now_is_asked_for_again(
    page: Browser, double: PageDouble
) -> None:
    double.lines = ["vm0: now"]
    choose(page, "vm0")
    page.until(lambda: page.text("#explain pre") == "vm0: now" and page.text("#readout dd") == "300 MiB")
    double.lines = ["vm0: then"]
    page.run("document.querySelector('#plot').focus()")
    page.press("\ue012", "\ue007")  # left, enter
    page.until(lambda: page.text("#explain pre") == "vm0: then")
    (asked,) = [each for each in double.asked if "/api/explain" in each and "at=" in each]
    assert asked.split("at=")[1] == f"{double.times[-1]:.3f}"
    assert page.text("#explain-head").startswith("Why it had what it had: ")
    double.lines = ["vm0: now again"]
    double.show(status(vm_view(0, demand_bytes=MIB)))
    page.until(lambda: page.text("#rows .demand") == "1 MiB")
    assert page.text("#explain pre") == "vm0: then"
    page.click("#explain-now")
    page.until(lambda: page.text("#explain pre") == "vm0: now again")
    left, top, width = page.run(
        "const r = document.querySelector('.u-over').getBoundingClientRect(); return [r.left, r.top, r.width]"
    )
    at = {"x": left + width * 0.9, "y": top + 30, "button": "left", "clickCount": 1}
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        page.command("Input.dispatchMouseEvent", type=kind, **at)
    page.until(lambda: page.text("#explain-head").startswith("Why it had what it had: "))
    assert page.complaints() == []


def test_a_part_of_the_plot_that_is_drawn_over_is_shown_alone(page: Browser, double: PageDouble) -> None:
    page.until(lambda: page.text("#readout .at"))
    left, top, width = page.run(
        "const r = document.querySelector('.u-over').getBoundingClientRect(); return [r.left, r.top, r.width]"
    )
    double.asked.clear()
    for kind, share in (
        ("mousePressed", 0.5),
        ("mouseMoved", 0.6),
        ("mouseMoved", 0.75),
        ("mouseReleased", 0.75),
    ):
        at = {"x": left + width * share, "y": top + 30, "button": "left", "clickCount": 1}
        page.command("Input.dispatchMouseEvent", type=kind, buttons=1, **at)
    page.until(lambda: any("/api/series" in each for each in double.asked))
    asked = next(each for each in double.asked if "/api/series" in each)
    since, until = (float(asked.split(f"{key}=")[1].split("&")[0]) for key in ("since", "until"))
    assert until - since == pytest.approx(3600 / 4, abs=3600 / width + 2)
    assert page.run("return document.querySelector('#span').elements.span.value") == "custom"
    assert page.complaints() == []


def test_the_time_that_is_shown_is_chosen_and_only_one_plot_is_kept(
    page: Browser, double: PageDouble
) -> None:
    for name in ("vm0", "vm1", "vm0"):
        choose(page, name)

    def asked_for_s() -> set[int]:
        spans = [
            each.split("since=")[1].split("&points")[0] for each in double.asked if "of=vm%3Avm0" in each
        ]
        ends = [span.split("&")[:2] for span in spans]
        return {round(float(until.removeprefix("until=")) - float(since)) for since, until in ends}

    page.until(lambda: asked_for_s() == {3600})
    page.click('#span [value="86400"]')
    page.until(lambda: asked_for_s() == {3600, 86400})
    page.click('#span [value="604800"]')
    page.until(lambda: asked_for_s() == {3600, 86400, 604800})
    page.run("document.querySelector('#span [value=custom]').click()")
    page.run(
        "const form = document.querySelector('#span').elements;"
        "form.since.value = '2026-03-01T00:00:00'; form.until.value = '2026-03-02T12:00:00';"
        "document.querySelector('#custom button').click()"
    )
    page.until(lambda: any("since=1772323200.000&until=1772452800.000" in each for each in double.asked))
    page.run("document.querySelector('#span').elements.until.value = '2026-02-01T00:00:00'")
    page.run("document.querySelector('#custom button').click()")
    page.until(lambda: "has to begin before it ends" in page.text("#plot-note"))
    assert page.run("return document.querySelectorAll('.uplot').length") == 1


def test_everything_is_reached_by_keys_alone(page: Browser, double: PageDouble) -> None:
    double.show(status(*(vm_view(number) for number in range(5))))
    page.until(lambda: len(names(page)) == 5)
    seen = []
    for _ in range(60):
        page.press("\ue004")
        seen.append(page.focus())
        if seen[-1] == "vm0":
            break
    assert seen[0] == "Skip to the VMs"
    assert {"VM", "Demand", "Pressure", "filter", "plot"} <= set(seen)
    page.press("\ue015", "\ue015")  # down
    assert page.focus() == "vm2"
    page.press("\ue010")  # end
    assert page.focus() == "vm4"
    page.press("\ue007")  # enter
    page.until(lambda: page.text("#detail-head") == "vm4")
    assert page.run("return document.activeElement.getAttribute('aria-pressed')") == "true"
    page.press("\ue004")
    assert page.focus() == "events-vm"  # the table is one stop, not one for each VM
    page.run("document.querySelector('#heads .demand button').focus()")
    page.press("\ue007")
    page.until(lambda: names(page)[0] == "vm4")
    assert (
        page.run("return document.querySelector('#heads .demand').getAttribute('aria-sort')") == "descending"
    )
    page.press("\ue007")
    page.until(lambda: names(page)[0] == "vm0")


def test_a_row_that_moves_keeps_the_focus(page: Browser, double: PageDouble) -> None:
    page.run("document.querySelector('#heads .demand button').click()")
    page.run("document.querySelectorAll('#rows button')[1].focus()")
    assert page.focus() == "vm0"
    double.show(status(vm_view(0), vm_view(1, demand_bytes=MIB)))
    page.until(lambda: names(page) == ["vm0", "vm1"])
    assert page.focus() == "vm0"


def test_the_filter_and_the_order_hold_while_figures_change(page: Browser, double: PageDouble) -> None:
    many = [vm_view(number, name=f"{kind}-{number}") for number in (2, 10) for kind in ("web", "db")]
    double.show(status(*many, vm_view(3, name="web-unknown", demand_bytes=None)))
    page.until(lambda: names(page) == ["db-2", "db-10", "web-2", "web-10", "web-unknown"])
    page.fill("#filter", "WEB")
    page.run("document.querySelector('#heads .demand button').click()")
    assert names(page) == ["web-10", "web-2", "web-unknown"]
    page.run("document.querySelector('#heads .demand button').click()")
    assert names(page) == ["web-2", "web-10", "web-unknown"]  # what is not known is last either way
    assert page.text("#count") == "3 of 5 VMs"
    double.show(status(*many[:3]))
    page.until(lambda: names(page) == ["web-2", "web-10"] or page.text("#count") == "2 of 3 VMs")
    assert names(page) == ["web-2", "web-10"]


def test_events_come_live_are_filtered_and_are_never_there_twice(page: Browser, double: PageDouble) -> None:
    double.events = [event(30), event(40, vm=None, kind="shortage", text="memory is short")]
    page.open(double.url)
    page.until(lambda: len(page.texts("#events-list li")) == 2 and page.text("#link") == "Live")
    double.send("happened", double.events[0])
    double.send("happened", event(5, vm="vm1", kind="reset", text="its guest was reset"))
    page.until(lambda: len(page.texts("#events-list li")) == 3)
    assert "vm1 reset its guest was reset" in page.texts("#events-list li")[0]
    page.fill("#events-kind", "moved", "change")
    assert [line.split(" ")[1] for line in page.texts("#events-list li")] == ["vm0"]
    double.send("happened", event(4, vm="vm1", kind="reset"))
    double.send("happened", event(3, vm="vm1"))
    page.until(lambda: [line.split(" ")[1] for line in page.texts("#events-list li")] == ["vm1", "vm0"])
    page.fill("#events-kind", "", "change")
    double.asked.clear()
    page.fill("#events-vm", "host")
    assert len(page.texts("#events-list li")) == 1
    page.fill("#events-vm", "vm1")
    page.until(
        lambda: any("of=vm%3Avm1" in each for each in double.asked)
    )  # older ones of the VM that is named
    assert len(page.texts("#events-list li")) == 3

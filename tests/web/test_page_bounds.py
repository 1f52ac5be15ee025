"""What the page costs: 200 VMs, an hour of figures, a tab that stays open and one that nobody looks at."""

from tests.rigs.browser import Browser
from tests.rigs.page_double import PageDouble, choose, event, names, status
from tests.rigs.status_double import vm_view

from dynmem.units import MIB

VMS = 200
NODES_OF_A_ROW_MAX = 40
NODES_OF_THE_REST_MAX = 3000
EVENTS_SHOWN_MAX = 200
ROWS_MAX = 500


def test_of_200_vms_only_the_row_that_changed_is_touched(page: Browser, double: PageDouble) -> None:
    vms = [vm_view(number) for number in range(VMS)]
    double.show(status(*vms))
    page.until(lambda: len(names(page)) == VMS)
    assert page.counts()["Nodes"] < VMS * NODES_OF_A_ROW_MAX + NODES_OF_THE_REST_MAX
    page.run(
        "window.touched = new Set();"
        "const watch = new MutationObserver((changes) => changes.forEach(({ target }) => {"
        "  const element = target.nodeType === Node.ELEMENT_NODE ? target : target.parentElement;"
        "  touched.add(element.closest('#rows > *')?.firstElementChild.innerText ?? element.id);"
        "}));"
        "for (const id of ['host', 'vms']) watch.observe(document.getElementById(id),"
        " { subtree: true, childList: true, characterData: true, attributes: true });"
    )
    vms[77] = vm_view(77, demand_bytes=MIB)
    double.show(status(*vms))
    page.until(lambda: page.texts("#rows .demand")[77] == "1 MiB")
    assert page.run("return [...touched]") == ["vm77"]
    assert page.complaints() == []


def test_what_has_a_thousand_vms_shows_500_of_them_and_says_so(page: Browser, double: PageDouble) -> None:
    double.show(status(*(vm_view(number) for number in range(2 * ROWS_MAX))))
    page.until(lambda: len(names(page)) == ROWS_MAX)
    assert page.text("#count") == "500 of 1000 VMs are shown: narrow the filter"
    page.fill("#filter", "vm99")
    assert len(names(page)) == 11


def test_an_hour_of_figures_and_events_leaves_the_page_as_large_as_it_was(
    page: Browser, double: PageDouble
) -> None:
    choose(page, "vm1")
    double.send("happened", event(9, id=-1, kind="reset"))
    page.until(lambda: page.texts("#events-list .kind") == ["reset"])
    minute = [
        status(*(vm_view(number, demand_bytes=(second + number) * MIB) for number in range(4)))
        for second in range(60)
    ]

    def minutes(first: int, count: int) -> dict[str, int]:
        for second in range(first * 60, (first + count) * 60):
            double.show(minute[second % 60])
            if second % 3 == 0:
                double.send("happened", event(0, id=second, text=f"second {second}"))
        last = f"second {second - second % 3}"
        page.until(lambda: last in page.text("#events-list li"))
        return page.counts()

    before, after = minutes(0, 20), minutes(20, 40)
    assert len(page.texts("#events-list li")) == EVENTS_SHOWN_MAX
    page.fill("#events-kind", "reset", "change")
    assert page.texts("#events-list li") == ["No event"]  # it was forgotten
    assert after["Nodes"] <= before["Nodes"] + 50
    assert after["JSEventListeners"] <= before["JSEventListeners"]
    assert after["JSHeapUsedSize"] <= before["JSHeapUsedSize"] + MIB
    assert double.readers == 1
    assert page.complaints() == []


def test_plots_that_are_no_longer_shown_are_gone(page: Browser, double: PageDouble) -> None:
    double.show(status(*(vm_view(number) for number in range(20))))
    page.until(lambda: len(names(page)) == 20)

    def round_of_plots() -> dict[str, int]:
        for number in range(20):
            choose(page, f"vm{number}")
        page.until(lambda: page.text("#readout dd") == "300 MiB")
        page.click("#unchoose")
        page.until(lambda: page.text("#readout dt") == "Budget")
        return page.counts()

    before, after = round_of_plots(), round_of_plots()
    assert page.run("return document.querySelectorAll('.uplot').length") == 1
    assert after["JSEventListeners"] <= before["JSEventListeners"]
    assert after["Nodes"] <= before["Nodes"] + 50
    assert after["JSHeapUsedSize"] <= before["JSHeapUsedSize"] + MIB
    assert page.complaints() == []


def test_a_tab_that_nobody_looks_at_reads_nothing_and_goes_on_when_it_is_looked_at(
    page: Browser, double: PageDouble
) -> None:
    page.run(
        # a minute takes 60 ms
        "const real = setTimeout; window.setTimeout = (call, ms) => real(call, ms / 1000);"
        "window.seen = (isHidden) => {"
        "  Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true });"
        "  document.dispatchEvent(new Event('visibilitychange'));"
        "};"
        "seen(true);"
    )
    page.until(lambda: page.run("return performance.now()") and _is_alone(double))
    double.show(status(vm_view(5)))
    assert names(page) == ["vm0", "vm1"]
    page.run("seen(false)")
    page.until(lambda: names(page) == ["vm5"])
    assert double.readers == 1
    assert page.complaints() == []


def test_a_stream_that_says_nothing_for_long_is_opened_again(browser: Browser, double: PageDouble) -> None:
    script = browser.command(
        "Page.addScriptToEvaluateOnNewDocument",  # 1000 times as fast
        source=(
            "const [every, now] = [setInterval, Date.now];"
            "window.setInterval = (call, ms) => every(call, ms / 1000);"
            "const begin = now(); Date.now = () => begin + (now() - begin) * 1000;"
        ),
    )
    try:
        browser.open(double.url)
        browser.until(lambda: sum("/api/session" in each for each in double.asked) > 2)
    finally:
        browser.command("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert names(browser) == ["vm0", "vm1"]


def _is_alone(double: PageDouble) -> bool:
    """Whether the stream is closed: writing to it shows that."""
    double.send("happened", event(0))
    return double.readers == 0

"""The page for whoever looks at it: on a phone, in the dark, by a program that reads it out."""

import pytest
from tests.rigs.browser import PHONE, Browser
from tests.rigs.page_double import PageDouble, choose, event, names, status
from tests.rigs.status_double import vm_view

from dynmem.units import GIB, MIB

# As WCAG 2 wants it of text that is not large (1.4.3).
CONTRAST = 4.5
NAMED = {
    "button",
    "textbox",
    "searchbox",
    "combobox",
    "radio",
    "spinbutton",
    "link",
    "image",
    "log",
    "table",
}
_CONTRASTS = """
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (part) => (part /= 255) <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, alpha = 1] = channels(getComputedStyle(at).backgroundColor);
    if (alpha) return [r, g, b];
  }
  return [255, 255, 255];
};
return [...document.querySelectorAll('body *')]
  .filter((each) => [...each.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()))
  .filter((each) => each.checkVisibility())
  .map((each) => {
    const [one, other] = [light(channels(getComputedStyle(each).color)), light(ground(each))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    return [each.tagName + '.' + each.className + ' ' + each.innerText.slice(0, 30), ratio];
  });
"""


@pytest.fixture
def full(page: Browser, double: PageDouble) -> Browser:
    """The page with something in each of its parts."""
    double.events = [event(5), event(6, vm="vm1", measurement="2 GiB by the budget")]
    double.lines = ["vm0: uses 300 MiB"]
    double.token = "a-token-of-a-test"
    page.open(double.url)
    page.until(lambda: page.texts("#events-list .who"))
    broken = status(
        vm_view(0),
        vm_view(1, short_bytes=MIB),
        vm_view(2, demand_bytes=GIB),
        vm_view(3, there=False),
        emergency=True,
    )
    double.show(broken)
    page.until(lambda: len(names(page)) == 4)
    choose(page, "vm0")
    page.until(lambda: page.text("#explain pre"))
    page.run("document.querySelector('#moves').open = true")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(full: Browser, double: PageDouble, scheme: str) -> None:
    full.media(prefers_color_scheme=scheme)
    grounds = {"light": "rgb(243, 245, 248)", "dark": "rgb(16, 20, 26)"}
    full.until(lambda: full.run("return getComputedStyle(document.body).backgroundColor") == grounds[scheme])
    ratios = full.run(_CONTRASTS)
    assert len(ratios) > 80
    assert [each for each in ratios if each[1] < CONTRAST] == []


def test_the_plot_has_the_colours_of_the_scheme_that_is_preferred_now(
    full: Browser, double: PageDouble
) -> None:
    script = (
        "const c = document.querySelector('.uplot canvas'); const all = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; const found = new Set();"
        "for (let at = 0; at < all.length; at += 4) if (all[at + 3] === 255)"
        " found.add([all[at], all[at + 1], all[at + 2]].join());"
        "return [...found]"
    )
    full.media(prefers_color_scheme="light")
    full.until(lambda: "29,78,216" in full.run(script))
    full.media(prefers_color_scheme="dark")
    full.until(lambda: "114,169,255" in full.run(script))


def test_a_program_that_reads_the_page_out_finds_a_name_for_everything(
    full: Browser, double: PageDouble
) -> None:
    nodes = [each for each in full.command("Accessibility.getFullAXTree")["nodes"] if not each["ignored"]]
    found = [(each["role"]["value"], each.get("name", {}).get("value", "")) for each in nodes]
    assert [role for role, name in found if role in NAMED and not name.strip()] == []
    words = {role: [name for each, name in found if each == role] for role, _ in found}
    assert words["columnheader"][:3] == ["VM", "State", "Demand"]
    assert words["columnheader"][-1] == "Why"
    assert words["rowheader"] == ["vm0", "vm1", "vm2", "vm3"]
    assert {"Host", "VMs", "Events", "vm0"} <= set(words["heading"])
    assert words["alert"]
    assert any(name.startswith("Budget 8 GiB: held by VMs 5121 MiB") for name in words["image"])


def test_nothing_moves_by_itself_where_that_is_not_wanted(full: Browser, double: PageDouble) -> None:
    script = "return getComputedStyle(document.querySelector('#bar .part')).transitionDuration"
    assert full.run(script) == "0.4s"
    full.media(prefers_reduced_motion="reduce")
    assert full.run(script) == "0s"


def test_a_phone_needs_no_scrolling_to_the_side(page: Browser, double: PageDouble) -> None:
    long = "a-virtual-machine-with-a-name-of-sixty-three-characters-in-all-1"
    double.events = [event(5, text="x" * 300), event(6, vm=long)]
    double.lines = ["x" * 200]
    broken = status(vm_view(0, name=long, problem="x" * 200), vm_view(1, there=False, problem="y" * 200))
    broken["manager"]["journal_problem"] = "/a/very/long/path" * 10
    double.token = "t" * 16
    page.resize(PHONE)
    page.open(double.url, PHONE)
    page.until(lambda: len(names(page)) == 2)
    double.show(broken)
    page.until(lambda: long in names(page))
    choose(page, long)
    page.until(lambda: page.text("#explain pre"))
    widest = page.run("return document.documentElement.scrollWidth")
    assert widest == PHONE[0]
    cells = page.run(
        "return [...document.querySelectorAll('#rows [role=row] > *')]"
        ".filter((each) => each.scrollWidth > each.clientWidth + 1).map((each) => each.className)"
    )
    assert cells == []
    assert page.run("return document.querySelector('#plot canvas').getBoundingClientRect().right") <= PHONE[0]
    assert page.complaints() == []

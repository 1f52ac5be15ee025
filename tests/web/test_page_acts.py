"""What the page may have done: nothing without a token, and with it what a real manager then does."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.rigs.browser import Browser
from tests.rigs.managers import ObedientVm, configured, managing
from tests.rigs.monitored import listening
from tests.rigs.page_double import PageDouble, choose, names, status
from tests.rigs.scenes import play
from tests.rigs.status_double import vm_view
from tests.rigs.webs import TOKEN, serving

from dynmem.units import GIB, MIB, format_size
from dynmem.web.files import page_files

_SHOWN = (
    "return [...document.querySelectorAll('button')]"
    ".filter((each) => each.checkVisibility()).map((each) => each.innerText)"
)


def buttons(page: Browser) -> set[str]:
    """The buttons that can be seen, those of the table aside."""
    return set(page.run(_SHOWN)) & {
        "Act with a token",
        "Forget the token",
        "Pause for",
        "Resume",
        "Release",
        "Manage again",
        "Reserve",
    }


def use_token(page: Browser, token: str) -> None:
    if not page.run("return document.querySelector('#ask').open"):
        page.click("#use-token")
    page.until(lambda: page.text("#ask-head") == "Act with a token")
    page.press(token, "\ue007")


@pytest.fixture
def guarded(page: Browser, double: PageDouble) -> Browser:
    """The page of a server with a token, and a VM chosen."""
    double.token = TOKEN
    page.open(double.url)
    page.until(lambda: len(names(page)) == 2 and "Act with a token" in buttons(page))
    choose(page, "vm0")
    return page


def test_a_page_of_a_server_without_a_token_has_nothing_that_acts(page: Browser, double: PageDouble) -> None:
    choose(page, "vm0")
    page.until(lambda: any("/api/session" in each for each in double.asked))
    assert buttons(page) == set()
    assert page.complaints() == []


def test_buttons_come_with_the_token_which_is_asked_for_once_and_kept_nowhere_else(
    guarded: Browser, double: PageDouble
) -> None:
    page = guarded
    assert buttons(page) == {"Act with a token"}
    use_token(page, "not the token")
    page.until(lambda: "does not accept" in page.text("#ask-text"))
    assert buttons(page) == {"Act with a token"}
    use_token(page, TOKEN)
    page.until(lambda: buttons(page) == {"Forget the token", "Pause for", "Release", "Reserve"})
    assert page.run("return document.querySelector('#ask input').value") == ""

    page.run("document.querySelector('#acts select').value = '3600'")
    page.click("#acts button")
    page.until(lambda: page.text("#acted") == "Done: pause vm0")
    page.run("document.querySelectorAll('#acts button')[1].click()")
    page.until(lambda: page.text("#ask-head") == "Release vm0?")
    page.press("\ue00c")  # escape: no
    page.until(lambda: not page.run("return document.querySelector('#ask').open"))
    page.run("document.querySelectorAll('#acts button')[1].click()")
    page.press("\ue007")
    page.until(lambda: page.text("#acted") == "Done: release vm0")
    assert double.acts == [("pause", {"vm": "vm0", "for_s": 3600}), ("release", {"vm": "vm0"})]

    kept = page.run("return [localStorage.length, sessionStorage.length, document.cookie, location.href]")
    assert kept == [0, 0, "", double.url]
    page.click("#use-token")
    page.until(lambda: buttons(page) == {"Act with a token"})
    assert page.complaints() == []


def test_what_the_manager_refuses_is_said_and_a_token_that_changed_is_asked_for_again(
    guarded: Browser, double: PageDouble
) -> None:
    page = guarded
    use_token(page, TOKEN)
    page.until(lambda: "Reserve" in buttons(page))
    double.refused["reserve"] = (
        409,
        {"error": "web: no room for 2 GiB: the floors of the others leave 1 GiB"},
    )
    page.fill("#reserve [name=name]", "web")
    page.fill("#reserve [name=gib]", "1.5")
    page.click("#reserve button")
    page.until(lambda: "the floors of the others" in page.text("#reserve output"))
    assert double.acts == [("reserve", {"name": "web", "bytes": 3 * GIB // 2, "wait_s": 30})]
    double.token = "another-token-than-before"
    page.click("#acts button")
    page.until(lambda: buttons(page) == {"Act with a token"})
    assert page.text("#acted") == "the token is wrong"
    assert len(double.acts) == 1


def test_what_is_offered_is_what_undoes_what_was_done(guarded: Browser, double: PageDouble) -> None:
    page = guarded
    use_token(page, TOKEN)
    page.until(lambda: "Pause for" in buttons(page))
    double.show(status(vm_view(0, standing="paused"), vm_view(1)))
    page.until(lambda: buttons(page) == {"Forget the token", "Resume", "Release", "Reserve"})
    double.show(status(vm_view(0, standing="released", released=True), vm_view(1)))
    page.until(lambda: buttons(page) == {"Forget the token", "Manage again", "Reserve"})
    double.show(status(vm_view(0, there=False), vm_view(1)))
    page.until(lambda: buttons(page) == {"Forget the token", "Reserve"})


def test_beside_a_real_manager_the_page_shows_its_figures_and_acts_and_survives_it(
    browser: Browser, tmp_path: Path
) -> None:
    def until(wanted: Callable[[], Any]) -> Any:
        return asyncio.to_thread(browser.until, wanted)

    def figures() -> dict[str, str]:
        return dict(zip(browser.texts("#figures dt"), browser.texts("#figures dd"), strict=True))

    async def scenario() -> None:
        web_vm, db_vm = ObedientVm(), ObedientVm()
        config = configured(tmp_path, "enforce", "400MiB", web="", db="")
        async with (
            listening(tmp_path / "web.qmp", web_vm.serve),
            listening(tmp_path / "db.qmp", db_vm.serve),
            serving(tmp_path, token=TOKEN.encode(), files=page_files()) as web,
        ):
            url = f"http://127.0.0.1:{web.port}/"
            await asyncio.to_thread(browser.open, url)
            await until(lambda: "does not reply" in browser.text("#alarms"))
            async with managing(config) as manager:
                await until(lambda: names(browser) == ["db", "web"] and browser.text("#alarms") == "")
                calm = await manager.until(lambda _: web_vm.actual + db_vm.actual <= (400 - 16) * MIB)
                assert (await asyncio.to_thread(figures))["Budget"] == format_size(calm.budget_bytes)
                await asyncio.to_thread(browser.click, "#rows button")
                await until(lambda: browser.text("#detail-head") == "db")
                await until(lambda: browser.text("#explain pre").startswith("db: "))
                await until(lambda: "moved" in browser.text("#events-list"))
                await until(
                    lambda: browser.run("return document.querySelectorAll('#plot canvas').length") == 1
                )

                await asyncio.to_thread(use_token, browser, TOKEN)
                await until(lambda: "Pause for" in buttons(browser))
                await asyncio.to_thread(browser.click, "#acts button")
                await until(lambda: "running, paused" in browser.texts("#rows .state"))
                assert (await manager.status()).vms[1].standing == "paused"
                await until(lambda: '"command":"pause"' in browser.text("#events-list"))
                await until(lambda: "Resume" in buttons(browser))
                await asyncio.to_thread(browser.click, "#acts button")
                await manager.until(lambda status: all(vm.standing == "movable" for vm in status.vms))
            await until(lambda: "does not reply" in browser.text("#alarms"))
            assert await asyncio.to_thread(names, browser) == ["db", "web"]
            async with managing(config):
                await until(lambda: browser.text("#link") == "Live" and browser.text("#alarms") == "")
        complaints = await asyncio.to_thread(browser.complaints)
        assert [each for each in complaints if not each.startswith("network: ")] == []

    play(scenario())

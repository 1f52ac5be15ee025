"""The rig of the browser: it reports what a page complains of, reaches nothing but this machine, and goes."""

from tests.rigs import leftovers
from tests.rigs.browser import PHONE, browsing


def test_a_browser_reports_complaints_reaches_no_other_machine_and_goes_with_its_processes() -> None:
    before = leftovers.children()
    with browsing() as browser:
        browser.open("data:text/html,<p>a page</p><script>nothing.here()</script>", PHONE)
        assert browser.text("p") == "a page"
        assert browser.run("return window.innerWidth") == PHONE[0]
        (complaint,) = browser.complaints()
        assert "nothing is not defined" in complaint
        browser.run("fetch('http://example.org').catch((error) => { document.title = error })")
        browser.until(lambda: browser.driver.title)
        (complaint,) = browser.complaints()
        assert "ERR_NAME_NOT_RESOLVED" in complaint
        assert leftovers.children() - before
    assert leftovers.left_processes(before) == []

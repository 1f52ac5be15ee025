"""What the tests of a manager have in common."""

import pytest

from dynmem.qmp.client import QmpClient


@pytest.fixture(autouse=True)
def slow_greetings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The monitors that a test plays greet when the machine lets them; that of a QEMU, when it is free."""
    if request.node.get_closest_marker("qemu") is None:
        defaults = QmpClient.connect.__func__.__kwdefaults__  # type: ignore[attr-defined]
        monkeypatch.setitem(defaults, "greeting_timeout_s", 100.0)

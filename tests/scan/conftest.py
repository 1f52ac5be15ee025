"""What the tests of visits have in common."""

import pytest

from dynmem.scan import visit


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A visit may take as long as the machine does."""
    monkeypatch.setattr(visit, "VISIT_S", 100.0)

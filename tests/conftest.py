"""What every test may ask for, and what holds for the whole run."""

from collections.abc import Iterator

import pytest
from tests.rigs import machine_wide


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """Hold the machine's huge pages until the test and all its objects are gone."""
    with machine_wide.huge_pages_held():
        yield

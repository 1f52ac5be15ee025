"""A small machine to load kernels into."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.rigs.boot import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with Machine(tmp_path) as machine:
        yield machine

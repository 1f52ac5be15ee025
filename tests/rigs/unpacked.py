"""The QEMU 10 beside the machine's own."""

import os

import pytest

from dynmem.lab import qemu10
from dynmem.lab.qemu10 import Qemu10


def unpacked_qemu() -> Qemu10:
    """The QEMU 10 to compare with; without one the test is skipped, or in the gate fails."""
    found = qemu10.find()
    if found is None and "DYNMEM_GATE" not in os.environ:
        pytest.skip("QEMU 10 is not set up: scripts/setup-qemu10 says why")
    assert found is not None
    return found

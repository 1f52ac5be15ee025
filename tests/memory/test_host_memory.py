"""Memory is not made resident where the host has not enough of it."""

from collections.abc import Callable
from functools import partial

import pytest

from dynmem.memory import backend
from dynmem.memory.backend import Backend, BackendError, MemfdBackend, RamBackend
from dynmem.memory.host_memory import HostMemory, host_memory
from dynmem.units import MIB


@pytest.mark.parametrize("make", [MemfdBackend, RamBackend, partial(RamBackend, share=True)])
def test_more_than_the_host_can_give_is_not_preallocated(
    make: Callable[..., Backend], monkeypatch: pytest.MonkeyPatch
) -> None:
    # a host with 64 MiB to give and a margin of 16 MiB
    monkeypatch.setattr(backend, "host_memory", lambda: HostMemory(512 * MIB, 64 * MIB))
    with pytest.raises(BackendError, match=r"49 MiB .* the host can give only 48 MiB \(64 MiB available"):
        make(49 * MIB, prealloc=True)
    with make(48 * MIB, prealloc=True) as memory:
        assert memory.resident_bytes() == 48 * MIB
        monkeypatch.setattr(backend, "host_memory", lambda: HostMemory(512 * MIB, 16 * MIB))
        memory.preallocate()  # it is there already
    with make(49 * MIB) as memory:
        with pytest.raises(BackendError, match="49 MiB"):
            memory.preallocate()
        assert memory.resident_bytes() == 0


def test_a_host_keeps_a_part_of_its_memory_and_at_most_a_gibibyte() -> None:
    assert HostMemory(2048 * MIB, 0).margin == 64 * MIB
    assert HostMemory(1 << 50, 0).margin == 1 << 30
    now = host_memory()
    assert 0 < now.available <= now.total
    assert now.lacks(0) is None
    assert "needed at once" in str(now.lacks(now.total))

"""Read a VM's memory at a look: what it booted with, what can be added, what virtio-mem has plugged.

What can change while nobody plugs a device is read at each look, and at each glance; the rest now and then. A
device may be replaced by another one with the same memory, so its path is looked up again, too.
"""

from dynmem.manager.sweep.life import Life
from dynmem.manager.sweep.monitor import SELDOM, Monitor
from dynmem.manager.sweep.sizes import read_base, read_memory
from dynmem.manager.sweep.virtio_mem import find_paths, with_paths


async def look_at_memory(monitor: Monitor, life: Life) -> None:
    """Read a VM's memory: seldom, except where it can grow. Raises as `read_memory`."""
    if life.base_bytes is None:
        life.base_bytes = await read_base(monitor)
    memory = life.memory
    can_grow = memory is not None and (memory.limit_bytes > memory.boot_bytes or bool(memory.virtio_mems))
    if memory is None or can_grow or life.looks >= life.next_memory:
        life.next_memory = life.looks + SELDOM
        await _read(monitor, life, life.base_bytes)


async def glance_at_memory(monitor: Monitor, life: Life) -> None:
    """Read what virtio-mem has plugged by now. Raises as `read_memory`."""
    if life.virtio_mems and life.base_bytes is not None:
        await _read(monitor, life, life.base_bytes)


async def _read(monitor: Monitor, life: Life, base_bytes: int) -> None:
    memory = await read_memory(monitor, base_bytes)
    backends = {each.backend for each in memory.virtio_mems}
    if backends and (backends != life.backends or life.looks >= life.next_paths):
        life.paths, life.backends = await find_paths(monitor), backends
        life.next_paths = life.looks + SELDOM
    life.memory, life.virtio_mems = memory, with_paths(memory.virtio_mems, life.paths)

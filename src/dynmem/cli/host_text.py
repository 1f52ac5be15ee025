"""The host's memory in a line or two of ``dynmem status``: what is there, and nothing of what is not."""

from typing import TYPE_CHECKING

from dynmem.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dynmem.manager.step.facts import HostFacts
    from dynmem.manager.step.view import VmView


def host_lines(host: "HostFacts | None") -> "Iterator[str]":
    """Yield what an operator wants to see of the host beside MemAvailable, and what could not be read."""
    if host is None:
        return
    parts = []
    if host.arc_bytes is not None:
        parts.append(f"ZFS's cache could give back {format_size(host.arc_bytes)}")
    if host.swap_total_bytes and host.swap_free_bytes is not None:
        used, total = host.swap_total_bytes - host.swap_free_bytes, host.swap_total_bytes
        parts.append(f"swap {format_size(used)} of {format_size(total)} in use")
    if host.zram_bytes is not None:
        parts.append(f"zram takes {format_size(host.zram_bytes)}")
    if host.ksm_saved_bytes:
        parts.append(f"KSM saves {format_size(host.ksm_saved_bytes)}")
    if host.huge_bytes:
        free = format_size(host.huge_free_bytes or 0)
        parts.append(f"huge pages {format_size(host.huge_bytes)}, {free} free")
    if host.pressure_some_percent is None:
        parts.append("pressure not known (no PSI)")
    else:
        full = host.pressure_full_percent or 0
        parts.append(f"pressure {host.pressure_some_percent:g} % some, {full:g} % full")
    yield f"host: {'; '.join(parts)}"
    for sentence in host.unseen:
        yield f"HOST: {sentence}"


def nodes_line(vm: "VmView", host: "HostFacts | None") -> str:
    """Return from which NUMA nodes a VM's memory comes, and what they have; "" if it may come from all."""
    if host is None or not vm.node_numbers:
        return ""
    available = sum(node.available_bytes for node in host.nodes if node.number in vm.node_numbers)
    names = " and ".join(map(str, vm.node_numbers))
    which = f"nodes {names}" if len(vm.node_numbers) > 1 else f"node {names}"
    return f"its memory comes from NUMA {which} alone: {format_size(available)} available there"

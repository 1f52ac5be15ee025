"""One scan: find the VMs, visit their monitors, look at their processes, judge.

First all monitors, four at a time, so that none is kept for longer than its tenth of a second; then all
processes, in threads. Sixty VMs whose monitors are silent take a second and a half. However many there are,
and whatever they do: no monitor is visited after `VISITS_S`, and no mapping is walked after `WALKS_S`.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from dynmem.discovery.find import Found, FoundVm
from dynmem.discovery.proxmox import ProxmoxVm
from dynmem.discovery.qemu_options import object_size
from dynmem.discovery.surroundings import NOTHING_SEEN, Surroundings, look_around
from dynmem.discovery.unix_sockets import unix_sockets
from dynmem.errors import DynmemError, printable
from dynmem.procfs import PROC, meminfo
from dynmem.scan import judge
from dynmem.scan.advice import ORDER, Case, advise
from dynmem.scan.domains import Libvirts
from dynmem.scan.held import Held, measure, state_of
from dynmem.scan.monitored import VIRTIO_MEM, Monitored, monitored
from dynmem.scan.report import ScanReport, VmReport
from dynmem.scan.visit import HV_BALLOON, VIRTIO_BALLOON, Answers, visit

AT_ONCE: Final = 4
#: Seconds after which no more monitors are visited: a hundred silent ones.
VISITS_S: Final = 2.5
#: Seconds after which no more mappings are walked: what is left of a scan takes milliseconds.
WALKS_S: Final = 4.0
_GONE: Final = "its process has ended"
# States of a process that has ended and is not waited for yet (proc_pid_status(5)).
_ENDED: Final = frozenset({"Z", "X"})
_STOPPED: Final = frozenset({"T", "t"})
_MEMORY_BACKENDS: Final = "memory-backend-"


class Process(NamedTuple):
    """What was seen of a VM's process.

    Attributes:
        held: What it holds; None: not known.
        around: What is around it.
        problem: Why it could not be seen, or not all of it; "" if it could.
    """

    held: Held | None
    around: Surroundings
    problem: str = ""


async def scan(
    found: Found,
    *,
    proc: Path = PROC,
    visits_s: float = VISITS_S,
    walks_s: float = WALKS_S,
    libvirts: Libvirts | None = None,
) -> ScanReport:
    """Return what is known of the VMs; it changes nothing.

    What *libvirts* lead to is asked about its domains; None: nothing is.
    """
    began = time.monotonic()
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(vm: FoundVm) -> tuple[Answers, Monitored]:
        async with gate:
            if time.monotonic() - began > visits_s:
                return Answers(problem="its monitor was not asked: there was no time left"), Monitored()
            is_stopped = bool(vm.pid) and state_of(vm.pid, proc) in _STOPPED
            told = await libvirts.ask(vm) if libvirts is not None and not is_stopped else None
            if told is not None:
                return Answers(), told
            answers = await _visited(vm, proc, is_stopped=is_stopped)
            return answers, monitored(answers)

    async def look(vm: FoundVm, pid: int, told: Monitored) -> Process:
        async with gate:
            walks = time.monotonic() - began < walks_s
            return await asyncio.to_thread(_looked_at, vm, pid, told, proc, walks=walks)

    visits = await asyncio.gather(*map(ask, found.vms))
    answers, told = [each for each, _ in visits], [each for _, each in visits]
    now_s = int(time.time())
    unseen = (*found.unseen, *(libvirts.close() if libvirts is not None else ()))
    pids = [vm.pid or said.pid for vm, said in zip(found.vms, answers, strict=True)]
    processes = await asyncio.gather(*map(look, found.vms, pids, told))
    total, available, swap_total, swap_free = _host(proc)
    vms = [
        _report(vm, pid, said, answer, process, now_s, has_swap=bool(swap_total))
        for vm, pid, said, answer, process in zip(found.vms, pids, told, answers, processes, strict=True)
        if process.problem != _GONE
    ]
    return ScanReport(
        host_total_bytes=total,
        host_available_bytes=available,
        host_swap_used_bytes=None if swap_total is None or swap_free is None else swap_total - swap_free,
        seconds=round(time.monotonic() - began, 3),
        vms=tuple(sorted(vms, key=lambda each: (ORDER.index(each.worst), -each.worst_bytes, each.name))),
        unseen=tuple(map(printable, unseen)),
    )


async def _visited(vm: FoundVm, proc: Path, *, is_stopped: bool) -> Answers:
    """Visit the first monitor of a VM that serves no other client."""
    if not vm.monitors:
        return Answers(problem=vm.problem)
    monitor = vm.monitors[0]
    if is_stopped:
        return Answers(problem="a signal has stopped its process: its monitor was not asked", is_stopped=True)
    if not vm.started.is_ours and (monitor.is_taken or str(monitor.path) in await _taken(proc)):
        return Answers(problem=f"another client holds its monitor {monitor.path}")
    # Whoever passed the monitor as a descriptor has made it listen, and is its listener for the kernel.
    was_passed = any(each.descriptor is not None for each in vm.started.monitors)
    return await visit(monitor.path, 0 if was_passed else vm.pid)


async def _taken(proc: Path) -> frozenset[str]:
    """Return who is served now: since the VMs were found, their owners may have connected.

    In a thread: where there are very many sockets, the list takes as long as a visit may last.
    """
    return (await asyncio.to_thread(unix_sockets, proc)).taken


def _looked_at(vm: FoundVm, pid: int, told: Monitored, proc: Path, *, walks: bool) -> Process:
    """Look at a VM's process; it raises nothing."""
    if not pid:
        return Process(None, NOTHING_SEEN, "its process cannot be seen from here")
    if state_of(pid, proc) in _ENDED:
        return Process(None, NOTHING_SEEN, _GONE)
    around = look_around(pid, proc)
    try:
        return Process(measure(pid, _blocks(vm, told), walks=walks, proc=proc), around)
    except PermissionError:
        return Process(None, around, "what it holds cannot be read: run this as root")
    except OSError:
        return Process(None, around, _GONE)


def _blocks(vm: FoundVm, told: Monitored) -> frozenset[int]:
    """Return the sizes of the pieces of a guest's memory, as far as they are known."""
    found = {vm.started.memory_bytes, told.base_bytes or 0}
    for each in vm.started.objects:
        if each.get("qom-type", "").startswith(_MEMORY_BACKENDS):
            found.add(object_size(each.get("size", "")))
    return frozenset(found - {0})


def _host(proc: Path) -> Sequence[int | None]:
    try:
        return meminfo("MemTotal", "MemAvailable", "SwapTotal", "SwapFree", path=proc / "meminfo")
    except (OSError, DynmemError):
        return (None,) * 4


def _report(
    vm: FoundVm, pid: int, told: Monitored, answers: Answers, process: Process, now_s: int, *, has_swap: bool
) -> VmReport:
    held, around = process.held, process.around
    size = judge.assigned(told)
    full = (told.base_bytes + told.dimm_bytes if told.base_bytes else 0) or vm.started.memory_bytes
    can_be_reclaimed = has_swap and around.can_be_reclaimed
    traits = judge.Traits(vm.started, held, around.links, can_be_reclaimed, around.locked_bytes)
    state, back = judge.driver(told, now_s), judge.discards(told, traits, full)
    gives = judge.give(told, traits, state, back, now_s)
    stranded = judge.stranded(told, held, now_s)
    case = Case(
        vm,
        told,
        size or full,
        state,
        back,
        gives,
        stranded,
        around.limit,
        answers.problem,
        answers.is_forbidden,
        answers.is_stopped,
    )
    advice = advise(case)
    fresh = judge.is_fresh(told, now_s)
    unseen = (answers.problem, process.problem, held.unseen if held is not None else "", around.unseen)
    report = VmReport(
        name=vm.name,
        pid=pid,
        number=vm.started.number,
        uuid=told.uuid or vm.started.uuid,
        keeper=vm.keeper,
        lock=_lock(vm.proxmox),
        monitor=str(vm.monitors[0].path) if answers.replies else None,
        run_state=told.run_state,
        configured_bytes=full or None,
        assigned_bytes=size,
        resident_bytes=held.resident_bytes if held is not None else None,
        swapped_bytes=held.swapped_bytes if held is not None else None,
        guest_uses_bytes=judge.used(told, now_s),
        guest_free_bytes=told.report.free if fresh else None,
        guest_available_bytes=told.report.available if fresh else None,
        report_age_s=judge.report_age_s(told, now_s),
        stranded_bytes=stranded,
        could_give_bytes=gives.size,
        knob=gives.knob,
        knob_reason=gives.reason,
        devices=_devices(told, vm),
        free_page_reporting=told.reports_free_pages,
        deflate_on_oom=told.deflates_on_oom,
        driver=state.word,
        driver_evidence=state.evidence,
        discards=back.word,
        discards_evidence=back.evidence,
        limit_bytes=around.limit.size if around.limit is not None else None,
        limit_is_known=around.is_known,
        limit_file=str(around.limit.file) if around.limit is not None else "",
        worst=advice.kind,
        finding=advice.finding,
        change=advice.change,
        worst_bytes=advice.size,
        unseen=tuple(each for each in unseen if each),
    )
    return _cleaned(report)


def _cleaned(report: VmReport) -> VmReport:
    """Return a report whose texts can be shown: paths and names come from command lines and sockets."""
    texts: dict[str, object] = {"unseen": tuple(map(printable, report.unseen))}
    for name in VmReport.__struct_fields__:
        value = getattr(report, name)
        if isinstance(value, str):
            texts[name] = printable(value)
    return msgspec.structs.replace(report, **texts)


def _lock(file: ProxmoxVm | None) -> str:
    return file.lock if file is not None else ""


def _devices(told: Monitored, vm: FoundVm) -> tuple[str, ...]:
    """Return what moves memory: by its monitor, or else by its command line."""
    if told.is_known:
        return (*told.balloons, *((VIRTIO_MEM,) if told.virtio_mems else ()))
    drivers = [each.get("driver", "") for each in vm.started.devices]
    kinds = (VIRTIO_BALLOON, HV_BALLOON, VIRTIO_MEM)
    return tuple(kind for kind in kinds if any(each.startswith(kind) for each in drivers))

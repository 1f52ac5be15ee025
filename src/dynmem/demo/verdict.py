"""Judges a run: the exit code of the demonstration and the sentences that explain it."""

from dynmem.demo.record import Summary
from dynmem.errors import ExitCode
from dynmem.units import format_size


def verdict(summary: Summary) -> tuple[ExitCode, list[str]]:
    """Return the exit code for the worst thing that happened, and a sentence for every bad thing."""
    code = ExitCode.OK
    sentences = []
    if unseen := [vm.name for vm in summary.vms if not vm.peak_resident_bytes]:
        code = ExitCode.FAILURE
        sentences.append(
            f"{', '.join(unseen)} never had resident memory: not started in time, or not measurable, so these"
            " figures prove nothing; use a longer --duration"
        )
    if killed := [vm.name for vm in summary.vms if vm.oom_kills]:
        code = ExitCode.GUEST_LOST
        sentences.append(f"a process in {', '.join(killed)} was OOM-killed: the guest was squeezed too far")
    if summary.peak_resident_bytes > summary.budget_bytes:
        code = ExitCode.OVER_BUDGET
        sentences.append(
            f"the VMs held {format_size(summary.peak_resident_bytes)} at their peak, above the budget of"
            f" {format_size(summary.budget_bytes)}"
        )
    if summary.wrong_bytes:
        code = ExitCode.WRONG_BYTES
        bad = ", ".join(f"{vm.name} {vm.wrong_bytes}" for vm in summary.vms if vm.wrong_bytes)
        sentences.append(f"{summary.wrong_bytes} wrong bytes in guest memory ({bad})")
    return code, sentences


def report(summary: Summary) -> str:
    """Return the summary in words."""
    maximums = format_size(sum(vm.maximum_bytes for vm in summary.vms))
    peak, budget = format_size(summary.peak_resident_bytes), format_size(summary.budget_bytes)
    lines = [
        f"{len(summary.vms)} VMs, maximums {maximums}, {summary.duration_seconds:.1f} s, {summary.mode}",
        f"  peak resident   {peak} of {budget} (the host's own figure: blocks of the VMs' RAM)",
        f"  unmet demand    {summary.unmet_demand_seconds:.1f} VM-seconds",
        f"  pages moved     {summary.pages_moved}",
        f"  wrong bytes     {summary.wrong_bytes}",
    ]
    return "\n".join(lines)

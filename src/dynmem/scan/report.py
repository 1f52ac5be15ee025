"""What `dynmem scan` found, field by field, as `--json` prints it."""

from typing import Final

import msgspec

SCHEMA_VERSION: Final = 1


class VmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One VM. Sizes are bytes; null: not known.

    Attributes:
        name: What it is called.
        pid: Its process; 0: not known.
        number: Proxmox's VMID.
        uuid: Its UUID; "": not known.
        keeper: Who runs it: "proxmox", "libvirt", "dynmem vm" or "qemu".
        lock: Proxmox's lock; "" if there is none.
        monitor: The monitor that was asked; null: none could be.
        run_state: The state that its monitor reports; "" if it was not asked.
        configured_bytes: The memory that it was started with.
        assigned_bytes: What its guest has now.
        resident_bytes: What it holds of the host's memory.
        swapped_bytes: What it holds of the host's swap.
        guest_uses_bytes: What its guest says that it uses.
        guest_free_bytes: What its guest says is free.
        guest_available_bytes: What its guest says it could use at once.
        report_age_s: How old that is; null where the guest made no dated report.
        stranded_bytes: What is free in the guest and held or swapped on the host, at least.
        could_give_bytes: What could be given back now.
        knob: By what: "virtio-mem", "balloon", "host reclaim" or "none".
        knob_reason: Why so.
        devices: Its devices that move memory.
        free_page_reporting: Whether its balloon lets the guest hand back free pages.
        deflate_on_oom: Whether its guest may take pages back before it kills a process.
        driver: "live", "silent", "absent", "unknown", or "none" without a device.
        driver_evidence: How that is known.
        discards: "effective", "ineffective" or "unknown".
        discards_evidence: How that is known.
        limit_bytes: The tightest memory limit of a cgroup above it.
        limit_is_known: Whether its cgroups could be read: then null means that nothing limits it.
        limit_file: The file that sets it; "" if there is none.
        worst: What is wrong, in a word; "none" if nothing is.
        finding: The same in a sentence.
        change: The command or option that would change it.
        worst_bytes: How much memory that is about.
        unseen: What could not be seen of it, and why.
    """

    name: str
    pid: int
    number: int | None
    uuid: str
    keeper: str
    lock: str
    monitor: str | None
    run_state: str
    configured_bytes: int | None
    assigned_bytes: int | None
    resident_bytes: int | None
    swapped_bytes: int | None
    guest_uses_bytes: int | None
    guest_free_bytes: int | None
    guest_available_bytes: int | None
    report_age_s: int | None
    stranded_bytes: int | None
    could_give_bytes: int | None
    knob: str
    knob_reason: str
    devices: tuple[str, ...]
    free_page_reporting: bool | None
    deflate_on_oom: bool | None
    driver: str
    driver_evidence: str
    discards: str
    discards_evidence: str
    limit_bytes: int | None
    limit_is_known: bool
    limit_file: str
    worst: str
    finding: str
    change: str
    worst_bytes: int
    unseen: tuple[str, ...]


class ScanReport(msgspec.Struct, frozen=True, kw_only=True):
    """One scan of a host.

    Attributes:
        schema_version: Rises when programs have to change.
        host_total_bytes: The host's memory; null: not known.
        host_available_bytes: What of it is available.
        host_swap_used_bytes: What is in its swap.
        seconds: How long the scan took.
        vms: The VMs, those with the worst lines first.
        unseen: What could not be seen of the host, and why.
    """

    schema_version: int = SCHEMA_VERSION
    host_total_bytes: int | None
    host_available_bytes: int | None
    host_swap_used_bytes: int | None
    seconds: float
    vms: tuple[VmReport, ...]
    unseen: tuple[str, ...]

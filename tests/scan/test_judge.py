"""What follows from what was seen: each verdict with its evidence, and nothing from an absent signal."""

from collections.abc import Sequence

import pytest

from dynmem.discovery.qemu_options import started_as
from dynmem.manager.sweep.demand import VIRTIO_RESERVE_BYTES
from dynmem.scan.held import Held
from dynmem.scan.judge import (
    OWN_BYTES,
    RESERVE_BYTES,
    Traits,
    assigned,
    discards,
    driver,
    give,
    stranded,
    used,
)
from dynmem.scan.monitored import GuestReport, Monitored, VirtioMem

MIB = 1 << 20
GIB = 1 << 30
NOW_S = 10_000
SIZE = 4 * GIB


def balloon(
    *,
    updated_s: int | None = NOW_S - 1,
    interval_s: int | None = 2,
    actual: int | None = SIZE,
    free: int | None = 2 * GIB,
    available: int | None = 3 * GIB,
    virtio_mems: tuple[VirtioMem, ...] = (),
    devices: tuple[str, ...] = ("virtio-balloon-pci",),
    migration: str = "",
) -> Monitored:
    return Monitored(
        is_known=True,
        base_bytes=SIZE,
        actual_bytes=actual,
        devices=devices,
        balloons=("virtio-balloon",),
        balloon_path="/machine/peripheral/balloon0",
        interval_s=interval_s,
        report=GuestReport(free, available, updated_s),
        virtio_mems=virtio_mems,
        migration=migration,
    )


def holding(guest: int, *, has_own: bool = False, huge: int = 0) -> Held:
    return Held(guest, 0, guest, huge, has_own)


def traits(
    *arguments: str,
    held: Held | None = None,
    links: Sequence[str] | None = (),
    can_be_reclaimed: bool = False,
    locked: int = 0,
) -> Traits:
    return Traits(started_as(["qemu", "-m", "4G", *arguments]), held, links, can_be_reclaimed, locked)


@pytest.mark.parametrize(
    ("told", "word", "evidence"),
    [
        (balloon(), "live", "reported 1 s ago"),
        (balloon(updated_s=NOW_S + 1), "live", "reported 0 s ago"),
        (balloon(updated_s=NOW_S - 31), "silent", "asked every 2 s, and its last report is 31 s old"),
        (balloon(updated_s=NOW_S - 31, interval_s=20), "live", "31 s ago"),
        (balloon(updated_s=0)._replace(run_state="paused"), "unknown", "does not run (paused)"),
        (balloon(updated_s=0)._replace(run_state="running"), "absent", "has never reported"),
        (balloon(updated_s=NOW_S + 500), "silent", "dated 500 s ahead: a clock was set"),
        (balloon(updated_s=0), "absent", "has never reported: no driver, or Windows without"),
        (balloon(updated_s=0, actual=SIZE - GIB), "live", "holds 1 GiB, which a driver has given, but stat"),
        (
            balloon(updated_s=0, interval_s=0, actual=SIZE - GIB),
            "live",
            "holds 1 GiB, which a driver has given",
        ),
        (balloon(updated_s=0, interval_s=0), "unknown", "no program asks its guest"),
        (balloon(updated_s=NOW_S - 99, interval_s=0), "unknown", "99 s ago, and no program has asked since"),
        (Monitored(), "unknown", "was not asked"),
        (Monitored(is_known=True, devices=("vfio-pci",)), "none", "no device that moves memory"),
        (Monitored(is_known=True), "unknown", "does not say what devices"),
        (Monitored(is_known=True, balloons=("hv-balloon",)), "unknown", "no status report"),
        (Monitored(is_known=True, balloons=("hv-balloon",), committed_bytes=1), "live", "a status report"),
        (Monitored(is_known=True, virtio_mems=(VirtioMem(GIB, 2 * GIB, MIB),)), "live", "plugged 1 GiB of 2"),
        (Monitored(is_known=True, virtio_mems=(VirtioMem(0, GIB, MIB),)), "absent", "plugged nothing"),
        (Monitored(is_known=True, virtio_mems=(VirtioMem(0, 0, MIB),)), "unknown", "never asked"),
    ],
)
def test_a_driver_is_live_only_by_evidence(told: Monitored, word: str, evidence: str) -> None:
    verdict = driver(told, NOW_S)
    assert verdict.word == word
    assert evidence in verdict.evidence


@pytest.mark.parametrize(
    ("told", "seen", "evidence"),
    [
        (balloon(), traits("-device", "vfio-pci,host=01:00.0"), "VFIO"),
        (balloon(devices=("virtio-balloon-pci", "vfio-pci")), traits(), "VFIO"),
        (balloon(), traits(links=["/dev/kvm", "/dev/vfio/12"]), "VFIO"),
        (balloon(), traits("-netdev", "vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0"), "vhost-vdpa"),
        (balloon(), traits(links=["/dev/vhost-vdpa-0"]), "vhost-vdpa"),
        (balloon(), traits("-overcommit", "mem-lock=on"), "locked"),
        (balloon(), traits(held=holding(SIZE), locked=SIZE), "4 GiB of its memory is locked or pinned"),
        (balloon(), traits("-object", "memory-backend-memfd,id=m,size=4G,hugetlb=on"), "huge pages"),
        (balloon(), traits(held=holding(SIZE, huge=SIZE)), "huge pages"),
        (balloon(), traits("-object", "tdx-guest,id=t"), "confidential"),
        (balloon(), traits("-machine", "q35,confidential-guest-support=sev0"), "confidential"),
        (balloon(migration="postcopy-active"), traits(), "postcopy"),
    ],
)
def test_whatever_pins_memory_makes_discards_ineffective(
    told: Monitored, seen: Traits, evidence: str
) -> None:
    verdict = discards(told, seen, SIZE)
    assert verdict.word == "ineffective"
    assert evidence in verdict.evidence
    full = seen._replace(held=seen.held or holding(SIZE))
    assert give(told, full, driver(told, NOW_S), verdict, NOW_S)[:2] == (0, "none")


def test_discards_are_effective_as_far_as_was_looked_and_that_is_said() -> None:
    assert discards(balloon(), traits(links=["/dev/kvm"]), SIZE).word == "effective"
    blind = discards(balloon(), traits(links=None), SIZE)
    assert blind.word == "effective"
    assert "its open files cannot be seen: run this as root" in blind.evidence
    nothing = Traits(started_as(()), None, None, can_be_reclaimed=False)
    assert discards(Monitored(), nothing, 0).word == "unknown"


def test_stranded_is_what_is_held_beyond_all_that_the_guest_does_not_call_free() -> None:
    assert stranded(balloon(), holding(3 * GIB), NOW_S) == GIB
    assert stranded(balloon(), holding(SIZE), NOW_S) == 2 * GIB
    assert stranded(balloon(), holding(GIB), NOW_S) == 0
    assert stranded(balloon(), holding(3 * GIB, has_own=True), NOW_S) == GIB - OWN_BYTES
    assert stranded(balloon(free=2**50), holding(3 * GIB), NOW_S) == 3 * GIB


@pytest.mark.parametrize(
    "told",
    [balloon(updated_s=0), balloon(updated_s=NOW_S - 60), balloon(interval_s=0), balloon(actual=None)],
)
def test_without_a_fresh_report_nothing_is_computed_from_it(told: Monitored) -> None:
    assert stranded(told, holding(SIZE), NOW_S) is None
    assert used(told, NOW_S) is None
    seen = traits(held=holding(SIZE))
    assert give(told, seen, driver(told, NOW_S), discards(told, seen, SIZE), NOW_S).size is None


def test_a_balloon_could_give_what_is_available_and_held_beyond_the_reserve() -> None:
    told, seen = balloon(), traits(held=holding(SIZE))
    state, back = driver(told, NOW_S), discards(told, seen, SIZE)
    assert give(told, seen, state, back, NOW_S)[:2] == (3 * GIB - RESERVE_BYTES, "balloon")
    little = traits(held=holding(3 * GIB // 2))
    assert give(told, little, state, back, NOW_S).size == GIB // 2


def test_virtio_mem_comes_first_and_works_where_pages_are_pinned() -> None:
    told = balloon(virtio_mems=(VirtioMem(GIB, GIB, 128 * MIB),))
    assert assigned(told) == 5 * GIB
    for seen in (
        traits(held=holding(5 * GIB)),
        traits(held=holding(5 * GIB), locked=5 * GIB, links=["/dev/vfio/1"]),
    ):
        back = discards(told, seen, SIZE)
        assert give(told, seen, driver(told, NOW_S), back, NOW_S)[:2] == (GIB, "virtio-mem")
    for pinned in (("-object", "sev-snp-guest,id=s"), ("-overcommit", "mem-lock=on")):
        seen = traits(*pinned, held=holding(5 * GIB), links=["/dev/vfio/1"])
        assert give(told, seen, driver(told, NOW_S), discards(told, seen, SIZE), NOW_S)[:2] == (0, "none")


def test_a_guest_that_reports_more_than_it_has_gives_no_more_than_is_held() -> None:
    told, seen = balloon(available=2**51), traits(held=holding(GIB))
    assert give(told, seen, driver(told, NOW_S), discards(told, seen, SIZE), NOW_S).size == GIB


def test_without_a_driver_the_host_reclaims_where_it_can() -> None:
    told = balloon(updated_s=0)
    for can, knob in ((True, "host reclaim"), (False, "none")):
        seen = traits(held=holding(SIZE), can_be_reclaimed=can)
        gives = give(told, seen, driver(told, NOW_S), discards(told, seen, SIZE), NOW_S)
        assert gives[:2] == (None, knob)


def test_what_a_guest_with_hv_balloon_uses_leaves_out_what_is_ballooned() -> None:
    told = Monitored(
        is_known=True,
        base_bytes=SIZE,
        actual_bytes=3 * GIB,
        balloons=("hv-balloon",),
        committed_bytes=5 * GIB // 2,
        report=GuestReport(available=GIB),
    )
    assert used(told, NOW_S) == 3 * GIB // 2
    assert stranded(told, holding(SIZE), NOW_S) is None  # it does not report what is free


def test_a_scan_leaves_a_guest_the_reserve_that_the_manager_leaves_it() -> None:
    assert RESERVE_BYTES == VIRTIO_RESERVE_BYTES

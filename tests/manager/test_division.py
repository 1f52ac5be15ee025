"""One target, divided among a balloon and virtio-mem devices: whatever arrives of it is safe to leave."""

import itertools

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dynmem.manager.step import Manager
from dynmem.manager.step.division import Parts, divide
from dynmem.manager.step.facts import (
    HV_BALLOON,
    VIRTIO_BALLOON,
    Demand,
    Facts,
    HostFacts,
    ManagerSettings,
    Pinned,
    VirtioMem,
    VmConfig,
    VmFacts,
)
from dynmem.units import GIB, MIB, NS_PER_S

BOOT = GIB


def mem(
    size: int, requested: int | None = None, *, most: int = GIB, block: int = 2 * MIB, name: str = "m"
) -> VirtioMem:
    return VirtioMem(
        f"/machine/peripheral/{name}", block, size, size if requested is None else requested, most
    )


def vm(own: int, *mems: VirtioMem, device: str | None = VIRTIO_BALLOON) -> VmFacts:
    size = own + sum(each.size_bytes for each in mems)
    return VmFacts("web", "1", "running", device=device, boot_bytes=BOOT, actual_bytes=size, virtio_mems=mems)


@st.composite
def machines(draw: st.DrawFn) -> VmFacts:
    blocks = st.sampled_from([2 * MIB, 4 * MIB, 128 * MIB])
    mems = []
    for place in range(draw(st.integers(1, 3))):
        block = draw(blocks)
        most = draw(st.integers(1, 8)) * 128 * MIB
        size, requested = (draw(st.integers(0, most // block)) * block for _ in range(2))
        mems.append(mem(size, requested, most=most, block=block, name=f"m{place}"))
    own = draw(st.integers(16, BOOT // MIB)) * MIB
    device = draw(st.sampled_from([VIRTIO_BALLOON, None]))
    return vm(own if device else BOOT, *mems, device=device)


targets = st.integers(64, 4096).map(lambda mib: mib * MIB)


def wanted(facts: VmFacts, parts: Parts) -> tuple[int, ...]:
    """The sizes that parts ask for: the balloon's, and each device's."""
    requests = dict(parts.requests)
    mems = (requests.get(each.path, each.requested_bytes) for each in facts.virtio_mems)
    own = facts.balloon_bytes if parts.balloon_bytes is None else parts.balloon_bytes
    return own, *mems


@given(machines(), targets)
def test_no_part_moves_against_the_whole_and_each_is_one_that_the_device_takes(
    facts: VmFacts, target: int
) -> None:
    parts = divide(facts, target, 64 * MIB)
    assert parts is not None
    now = (facts.balloon_bytes, *(each.size_bytes for each in facts.virtio_mems))
    then = wanted(facts, parts)
    if target >= sum(now):
        assert all(after >= before for before, after in zip(now, then, strict=True))
    else:
        assert all(after <= before for before, after in zip(now, then, strict=True))
    for each, size in zip(facts.virtio_mems, then[1:], strict=True):
        assert 0 <= size <= each.max_bytes
        assert size % each.block_bytes == 0
    assert 0 < then[0] <= BOOT


@given(machines(), targets)
def test_whatever_arrives_of_an_order_the_size_stays_between_the_present_one_and_the_target(
    facts: VmFacts, target: int
) -> None:
    """Each device has done what it was asked, or nothing: of every mixture."""
    parts = divide(facts, target, 64 * MIB)
    assert parts is not None
    now = (facts.balloon_bytes, *(each.size_bytes for each in facts.virtio_mems))
    for mixture in itertools.product(*zip(now, wanted(facts, parts), strict=True)):
        low, high = sorted((sum(now), target))
        assert low <= sum(mixture) <= high


@given(machines(), targets)
def test_a_target_is_met_within_a_block_where_the_devices_reach_it(facts: VmFacts, target: int) -> None:
    parts = divide(facts, target, 64 * MIB)
    assert parts is not None
    most = BOOT + sum(each.max_bytes for each in facts.virtio_mems)
    least = 64 * MIB if facts.device else BOOT
    assume(least <= target <= most and facts.balloon_bytes >= 64 * MIB)
    block = max(each.block_bytes for each in facts.virtio_mems)
    assert abs(sum(wanted(facts, parts)) - target) < block


@given(machines(), targets)
def test_where_an_order_was_carried_out_the_same_target_asks_for_nothing_more(
    facts: VmFacts, target: int
) -> None:
    parts = divide(facts, target, 64 * MIB)
    assert parts is not None
    own, *sizes = wanted(facts, parts)
    mems = tuple(
        replace(each, size_bytes=size, requested_bytes=size)
        for each, size in zip(facts.virtio_mems, sizes, strict=True)
    )
    after = replace(facts, actual_bytes=own + sum(sizes), virtio_mems=mems)
    again = divide(after, target, 64 * MIB)
    assert again is not None
    assert again.requests == ()
    assert again.balloon_bytes in (None, own)


@given(machines(), targets)
def test_no_order_plugs_memory_and_leaves_some_in_the_balloon(facts: VmFacts, target: int) -> None:
    parts = divide(facts, target, 64 * MIB)
    assert parts is not None
    own, *sizes = wanted(facts, parts)
    if facts.device and own < facts.balloon_bytes:
        assert not any(sizes)
    if facts.device and any(
        size > each.size_bytes for size, each in zip(sizes, facts.virtio_mems, strict=True)
    ):
        assert own == BOOT


def test_it_goes_through_the_devices_in_their_order_and_back() -> None:
    one, two = mem(GIB, name="one"), mem(0, name="two")
    assert divide(vm(BOOT, one, two), 3 * GIB - 512 * MIB) == Parts(
        BOOT, (("/machine/peripheral/two", 512 * MIB),)
    )
    full = vm(BOOT, one, mem(GIB, name="two"))
    parts = divide(full, 2 * GIB - 256 * MIB)
    assert parts == Parts(BOOT, (("/machine/peripheral/one", 768 * MIB), ("/machine/peripheral/two", 0)))


def test_what_is_stuck_is_requested_again_before_the_balloon_takes_the_rest() -> None:
    """A lower request would be met some day, after the balloon has taken the same memory."""
    facts = vm(BOOT, mem(256 * MIB, 0))
    parts = divide(facts, BOOT, 64 * MIB, {"/machine/peripheral/m": 256 * MIB})
    assert parts == Parts(BOOT - 256 * MIB, (("/machine/peripheral/m", 256 * MIB),))


def test_the_balloon_leaves_the_minimum_of_the_boot_memory_however_much_is_stuck() -> None:
    facts = vm(BOOT, mem(GIB, 0))
    parts = divide(facts, GIB, 128 * MIB, {"/machine/peripheral/m": GIB})
    assert parts is not None
    assert parts.balloon_bytes == 128 * MIB
    parts = divide(vm(96 * MIB, mem(GIB, 0)), GIB, 128 * MIB, {"/machine/peripheral/m": GIB})
    assert parts is not None
    assert parts.balloon_bytes == 96 * MIB  # nor does it give back what it holds already


def test_a_raised_request_is_sent_before_a_lowered_one() -> None:
    facts = vm(BOOT, mem(512 * MIB, 0, name="stuck"), mem(512 * MIB, 512 * MIB, name="free"))
    parts = divide(facts, 2 * GIB - 256 * MIB, 0, {"/machine/peripheral/stuck": 512 * MIB})
    assert parts is not None
    assert [path.rpartition("/")[2] for path, _ in parts.requests] == ["stuck", "free"]


def test_a_device_that_was_not_found_and_one_beside_an_hv_balloon_stay_as_they_are() -> None:
    lost = replace(mem(256 * MIB), path="")
    assert divide(vm(BOOT, lost), BOOT) == Parts(BOOT - 256 * MIB)
    beside = vm(BOOT, mem(256 * MIB), device=HV_BALLOON)
    assert divide(beside, BOOT) == Parts(BOOT - 256 * MIB)


def test_pages_that_a_device_pins_are_plugged_and_unplugged_and_never_ballooned() -> None:
    pinned = replace(vm(BOOT, mem(256 * MIB)), pinned=Pinned("VFIO", leaves_virtio_mem=True))
    assert divide(pinned, BOOT // 2) == Parts(None, (("/machine/peripheral/m", 0),))
    locked = replace(pinned, pinned=Pinned("it locks its memory", leaves_virtio_mem=False))
    assert divide(locked, BOOT // 2) == Parts(None)


def test_a_guest_that_has_just_been_reset_has_all_that_it_booted_with() -> None:
    facts = replace(vm(BOOT // 2, mem(0)), is_actual_former=True)
    assert divide(facts, BOOT + 256 * MIB) == Parts(BOOT, (("/machine/peripheral/m", 256 * MIB),))


def test_a_vm_without_virtio_mem_has_no_parts() -> None:
    assert divide(vm(BOOT), BOOT // 2) is None


class Whims:
    """A VM whose devices and guest do whatever a list of numbers says. Sizes in blocks."""

    BLOCK, BLOCKS = 4 * MIB, 128

    def __init__(self, whims: list[int]) -> None:
        self.whims = itertools.cycle(whims)
        self.own, self.plugged, self.requested = BOOT, 0, 0

    def facts(self) -> VmFacts:
        one = VirtioMem("one", self.BLOCK, self.plugged, self.requested, self.BLOCKS * self.BLOCK)
        used = next(self.whims) * 16 * MIB
        size = self.own + self.plugged
        return replace(
            vm(self.own, one),
            resident_bytes=min(size, used),
            limit_bytes=BOOT + self.BLOCKS * self.BLOCK,
            demand=Demand(used, max(0, size - used), "used", 1),
        )

    def obey(self, parts: Parts) -> None:
        """Take what was sent, and do some of it, all of it, or something else."""
        self.requested = dict(parts.requests).get("one", self.requested)
        whim = next(self.whims) % 8
        if whim < 3:
            self.own, self.plugged = parts.balloon_bytes or self.own, self.requested
        elif whim == 3:
            self.own = parts.balloon_bytes or self.own
        elif whim == 4:
            self.plugged = self.requested
        elif whim == 5:
            self.plugged = next(self.whims) % (self.BLOCKS + 1) * self.BLOCK


@given(st.lists(st.integers(0, 96), min_size=8, max_size=60))
@settings(max_examples=40)
def test_whatever_a_guest_does_every_order_stays_within_its_bounds(whims: list[int]) -> None:
    config = VmConfig("web", 128 * MIB, BOOT + 384 * MIB)
    host = ManagerSettings(2 * GIB, 64 * MIB, NS_PER_S, "enforce")
    manager, machine = Manager(host, [config]), Whims(whims)
    for second in range(1, 60):
        facts = machine.facts()
        if second % 20 == 0:  # tight, and wide again
            budget = 512 * MIB if second % 40 else 2 * GIB
            manager.configure(replace(host, budget_bytes=budget), [config])
        found = Facts(second * NS_PER_S, HostFacts(4 * GIB, 8 * GIB), (facts,))
        for each in manager.step(found).commands:
            manager.was_sent("web")
            assert each.parts is not None
            own, size = wanted(facts, each.parts)
            assert min(128 * MIB, facts.balloon_bytes) <= own <= BOOT
            assert 0 <= size <= Whims.BLOCKS * Whims.BLOCK
            assert size % Whims.BLOCK == 0
            low, high = sorted((each.target_bytes, facts.actual_bytes or 0))
            assert low <= own + size <= high
            assert 128 * MIB <= each.target_bytes <= max(config.maximum_bytes, facts.actual_bytes or 0)
            machine.obey(each.parts)
        machine.obey(Parts(None))

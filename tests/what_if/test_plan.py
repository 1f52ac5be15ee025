"""What `dynmem plan` says is what the manager does: the same moves, and the same sizes in the end."""

import random
from collections.abc import Callable

import msgspec
import pytest
from tests.rigs.pasts import RecordedHost

from dynmem.errors import ConfigError, RemoteProtocolError
from dynmem.history.past import Moment
from dynmem.history.store import Row
from dynmem.manager.step.facts import Mode
from dynmem.manager.step.sample import HostSample
from dynmem.units import MIB, NS_PER_S
from dynmem.what_if.knobs import Knobs, parse
from dynmem.what_if.outlook import Outlook, outlook, plan_report
from dynmem.what_if.position import after

# Within a huge page of it, a size is where it should be: guests keep a few pages over.
NEAR = 2 * MIB


def moment_of(row: Row) -> Moment:
    return Moment(row.at_ms, "each sweep", row.sample.host, row.sample.vms)


def recorded(seed: int, mode: Mode = "enforce", *, calm: int = 12) -> RecordedHost:
    """Return a host whose demands have wandered, and then stood still for some sweeps."""
    source = random.Random(seed)
    vms = source.randrange(2, 6)
    host = RecordedHost(vms, mode, budget=64 + vms * source.randrange(120, 420), seed=seed)
    for name in host.host.demands:
        host.host.demands[name] = source.randrange(64, 320) * MIB
    host.sweeps(10)
    host.sweeps(calm, wandering=False)
    return host


@pytest.mark.parametrize("calm", [0, 12])
def test_the_moves_are_those_that_the_step_would_have_made(calm: int) -> None:
    compared = 0
    for seed in range(12):
        host = recorded(seed, "observe", calm=calm)
        for row in host.rows[6:]:
            found = outlook(moment_of(row))
            first = [(each.vm, each.to_bytes) for each in found.moves if each.turn == 1]
            assert first == [(each.vm, each.target_bytes) for each in row.sample.moves], (seed, row.at_ms)
            compared += len(first)
    assert compared > 100


@pytest.mark.parametrize("seed", range(8))
def test_of_a_host_that_manages_the_sizes_are_those_that_it_comes_to(seed: int) -> None:
    host = recorded(seed)
    planned = sizes_in(outlook(after(moment_of(host.rows[-1]))))
    host.sweeps(8, wandering=False)
    assert near(planned, host.host.sizes)


def sizes_in(look: Outlook) -> dict[str, int]:
    return {vm.name: vm.planned_bytes or 0 for vm in look.vms if not vm.is_new}


def near(planned: dict[str, int], sizes: dict[str, int]) -> bool:
    assert planned.keys() <= sizes.keys()
    off = {name: (planned[name] - sizes[name]) // 4096 for name in planned}
    assert all(abs(each) * 4096 <= NEAR for each in off.values()), off
    return True


# What is tried, and what an operator does to have it.
Change = tuple[Knobs, Callable[[RecordedHost], None]]


def reconfigured(host: RecordedHost, **fields: int) -> None:
    inner = host.host
    inner.settings = msgspec.structs.replace(inner.settings, **fields)
    inner.manager.configure(inner.settings, list(inner.configs.values()))


def set_of(host: RecordedHost, name: str, **fields: object) -> None:
    inner = host.host
    boot = inner.configs[name].maximum_bytes
    inner.overrides.setdefault(name, {"boot_bytes": boot})
    inner.configs[name] = msgspec.structs.replace(inner.configs[name], **fields)
    inner.manager.configure(inner.settings, list(inner.configs.values()))


def budget(host: RecordedHost, source: random.Random, most: float = 3.0) -> Change:
    needed = sum(host.host.demands.values()) // MIB
    size = 64 + int(needed * source.uniform(1.0, most))
    return parse(f"{size}M", (), (), ()), lambda host: reconfigured(host, budget_bytes=size * MIB)


def setting(name: str, text: str, **fields: object) -> Callable[[RecordedHost, random.Random], Change]:
    """Another setting, and a budget with which it counts: what guests use is not taken from them for it."""

    def change_of(host: RecordedHost, source: random.Random) -> Change:
        knobs, change = budget(host, source, 1.4)

        def change_both(host: RecordedHost) -> None:
            change(host)
            set_of(host, name, **fields)

        return msgspec.structs.replace(knobs, settings=parse(None, (f"{name}.{text}",), (), ()).settings), (
            change_both
        )

    return change_of


def without(*_: object) -> Change:
    return parse(None, (), ("vm-1",), ()), lambda host: host.host.demands.__delitem__("vm-1")


def more(_: RecordedHost, source: random.Random) -> Change:
    size = source.randrange(64, 512) * MIB

    def change(host: RecordedHost) -> None:
        manager, now = host.host.manager, host.host.now_ns
        manager.reserve("new", size, now, now + 1000 * NS_PER_S)

    return parse(None, (), (), (f"{size}:new",)), change


KNOBS: dict[str, Callable[[RecordedHost, random.Random], Change]] = {
    "budget": budget,
    "without": without,
    "with": more,
    "a higher minimum": setting("vm-0", "minimum=300M", minimum_bytes=300 * MIB),
    "a lower minimum": setting("vm-1", "minimum=16M", minimum_bytes=16 * MIB),
    "a lower maximum": setting("vm-0", "maximum=200M", maximum_bytes=200 * MIB),
    "a higher maximum": setting("vm-0", "maximum=900M", maximum_bytes=900 * MIB),
    "high priority": setting("vm-1", "priority=high", priority="high"),
    "low priority": setting("vm-0", "priority=low", priority="low"),
    "weight": setting("vm-1", "weight=9000", weight=9000),
    "buffer": setting("vm-0", "buffer=90%", buffer_percent=90),
}
# No setting, or one that counts for nothing here: no VM is down to its minimum, and none can grow beyond what
# it booted with.
IDLE = {"budget", "without", "with", "a lower minimum", "a higher maximum"}


@pytest.mark.parametrize("what", KNOBS)
def test_with_other_settings_the_sizes_are_those_that_the_manager_comes_to_with_them(what: str) -> None:
    moved = mattered = 0
    for seed in range(6):
        host = recorded(seed)
        knobs, change = KNOBS[what](host, random.Random(seed))
        before = after(moment_of(host.rows[-1]))
        found = outlook(knobs.apply(before)[0])
        alone = outlook(msgspec.structs.replace(knobs, settings=()).apply(before)[0])
        change(host)
        host.sweeps(8, wandering=False)
        assert near(sizes_in(found), host.host.sizes), (seed, knobs)
        moved += len(found.moves)
        mattered += sizes_in(found) != sizes_in(alone)
    assert moved
    assert bool(mattered) == (what not in IDLE)


def test_a_plan_with_other_settings_shows_both_and_what_cannot_be() -> None:
    host = recorded(1)
    moment = moment_of(host.rows[-1])
    found = plan_report(moment, "here", parse("200G", ("vm-0.maximum=9G",), (), ("300G:new",)))
    assert found.tried is not None
    assert found.now.budget_bytes == moment.host.budget_bytes != found.tried.budget_bytes
    said = "\n".join(found.tried.not_possible)
    assert "vm-0: it booted with 512 MiB, and nothing can be added to that" in said
    assert "new: " in said
    assert "no room for 300 GiB" in said
    (new,) = (vm for vm in found.tried.vms if vm.is_new)
    assert (new.planned_bytes, new.wanted_bytes) == (0, 300 * 1024 * MIB)


def test_a_budget_beyond_what_the_host_has_is_named() -> None:
    host = recorded(1)
    host.host.available_bytes = 1000 * MIB
    host.sweeps(1, wandering=False)
    found = plan_report(moment_of(host.rows[-1]), "here", parse("64G", (), (), ()))
    assert found.tried is not None
    assert "less than a budget of 64 GiB" in found.tried.not_possible[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("many", (), (), ()), "--budget: 'many' is not a size"),
        (("0", (), (), ()), "--budget: 0 B is not from 4 KiB"),
        ((None, ("vm-0.color=red",), (), ()), "the settings are minimum, maximum, buffer"),
        ((None, ("vm-0=red",), (), ()), "is not VM.SETTING=VALUE"),
        ((None, ("vm-0.weight=0",), (), ()), "'0' is not a whole number from 1 to 10000"),
        ((None, ("vm-0.weight=٣",), (), ()), "is not a whole number"),
        ((None, ("vm-0.buffer=1001",), (), ()), "from 0 to 1000"),
        ((None, ("vm-0.priority=urgent",), (), ()), "'urgent' is not one of high, normal, low"),
        ((None, ("vm-0.minimum=9G",), (), ()), "would be above its maximum"),
        ((None, ("nosuch.weight=1",), (), ()), "no VM 'nosuch' is there: there is vm-0"),
        ((None, (), ("nosuch",), ()), "--without: no VM 'nosuch'"),
        ((None, (), (), ("4G",)), "--with: '4G' is not SIZE:NAME"),
        ((None, (), (), ("4G:vm-0",)), "there is a VM 'vm-0' already"),
        ((None, (), (), ("64M:new", "4G:new")), "there is a VM 'new' already"),
        ((None, (), (), ("0:new",)), "--with: 0 B is not from"),
    ],
)
def test_what_cannot_be_tried_is_named(
    options: tuple[str | None, tuple[str, ...], tuple[str, ...], tuple[str, ...]], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        plan_report(moment_of(recorded(1, calm=0).rows[-1]), "here", parse(*options))
    assert said in str(error.value)


def test_vms_that_are_left_alone_are_named_with_the_reason_and_what_they_count() -> None:
    host = recorded(3)
    host.host.overrides["vm-1"] = {"lock": "a backup runs"}
    host.sweeps(2, wandering=False)
    found = outlook(after(moment_of(host.rows[-1])))
    (vm,) = (each for each in found.vms if each.name == "vm-1")
    assert vm.planned_bytes is None
    assert "a backup runs; it counts with" in vm.reason
    assert any(text.startswith("vm-1 is not moved: frozen: a backup runs") for text in found.not_possible)
    freed = outlook(parse(None, (), ("vm-1",), ()).apply(after(moment_of(host.rows[-1])))[0])
    assert freed.room_bytes > found.room_bytes  # what it kept is divided now


def test_figures_that_no_manager_records_are_a_named_error_and_nothing_else() -> None:
    row = recorded(2, calm=0).rows[-1]
    source, refused = random.Random(1), 0
    sizes = (-1, 0, 1, 4095, 1 << 40, 1 << 62, None)
    for _ in range(400):
        host, vms = row.sample.host, dict(row.sample.vms)
        for _ in range(source.randrange(1, 4)):
            name = source.choice([*vms, ""])
            struct = vms[name] if name else host
            fields = [each for each in struct.__struct_fields__ if type(getattr(struct, each)) is int]
            changed = msgspec.structs.replace(struct, **{source.choice(fields): source.choice(sizes)})
            if isinstance(changed, HostSample):
                host = changed
            else:
                vms[name] = changed
        moment = Moment(row.at_ms, "each sweep", host, vms)
        try:
            plan_report(moment, "here", parse("1G", ("vm-0.maximum=256M",), ("vm-1",), ("64M:new",)))
        except RemoteProtocolError:
            refused += 1
        except ConfigError:
            pass  # a minimum above the maximum that is tried
    assert 50 < refused < 350


def test_targets_that_were_sent_count_and_without_them_they_are_planned_again() -> None:
    host = recorded(0)
    reconfigured(host, budget_bytes=host.host.settings.budget_bytes - 64 * MIB)
    (row,) = host.sweeps(1, wandering=False)
    assert row.sample.moves
    first = {each.vm for each in outlook(after(moment_of(row))).moves if each.turn == 1}
    again = {each.vm for each in outlook(moment_of(row)).moves if each.turn == 1}
    assert not first & {each.vm for each in row.sample.moves if each.target_bytes < (each.before_bytes or 0)}
    assert again >= first

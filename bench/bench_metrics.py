"""The metrics of 1000 VMs, beside the same status as JSON: what a scrape costs the manager."""

import json
import statistics
import time
from collections.abc import Callable, Iterator

import msgspec

from bench.figures import Figure
from dynmem.manager.api.messages import DaemonView, StatusReply
from dynmem.manager.step import Manager
from dynmem.manager.step.facts import HV_BALLOON, Demand, Facts, HostFacts, ManagerSettings, VmConfig, VmFacts
from dynmem.manager.totals import Totals
from dynmem.metrics.render import render
from dynmem.units import GIB, MIB, NS_PER_S

MANY, FEW, ROUNDS = 1000, 100, 7


def _status(count: int) -> tuple[Manager, StatusReply]:
    """Return the status of a host whose VMs are all known."""
    configs = [VmConfig(f"vm-{number}", 64 * MIB, GIB) for number in range(count)]
    manager, totals = Manager(ManagerSettings(count * GIB, 0, NS_PER_S), configs), Totals()
    demand = Demand(300 * MIB, 200 * MIB, "committed - ballooned", 1)
    for second in range(4):
        vms = tuple(
            VmFacts(
                config.name,
                f"{config.name}.1",
                "running",
                HV_BALLOON,
                boot_bytes=GIB,
                actual_bytes=GIB,
                resident_bytes=400 * MIB,
                resident_overhead_bytes=MIB,
                demand=demand,
            )
            for config in configs
        )
        facts = Facts(second * NS_PER_S, HostFacts(2 * count * GIB, 4 * count * GIB), vms)
        totals.looked(facts)
        manager.step(facts)
    daemon = DaemonView(
        version="1",
        pid=1,
        config="config.toml",
        state="state",
        uptime_s=4.0,
        sweeps=4,
        sweep_took_s=0.1,
        swept_ago_s=0.2,
        journal_problem=None,
    )
    view = msgspec.structs.asdict(manager.status())
    return manager, StatusReply(**view, manager=daemon, totals=totals.view())


def _milliseconds(call: Callable[[], object]) -> float:
    took = []
    for _round in range(ROUNDS):
        begin = time.perf_counter()
        call()
        took.append(time.perf_counter() - begin)
    return statistics.median(took) * 1e3


def run() -> Iterator[Figure]:
    """Render the metrics of many VMs and of a tenth of them; medians."""
    (manager, many), (_, few) = _status(MANY), _status(FEW)
    plain = msgspec.to_builtins(many)
    ours, tenth = _milliseconds(lambda: render(many)), _milliseconds(lambda: render(few))
    beside = _milliseconds(lambda: json.dumps(plain, indent=2))
    text = render(many)
    assert text.count(b'vm="vm-999"') > 25
    yield Figure(f"metrics of {MANY} VMs, median", ours, "ms", promised=150)
    yield Figure("reading that status out of the manager", _milliseconds(manager.status), "ms")
    yield Figure("the same status as JSON, by the standard library", beside, "ms")
    yield Figure("ratio", ours / beside, "x", at_most=1.5)
    yield Figure(f"time per VM, {MANY} VMs against {FEW}", ours / MANY / (tenth / FEW), "x", at_most=2)
    yield Figure("what a scraper reads", len(text) / 1024, "KiB", at_most=4096)

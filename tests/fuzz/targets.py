"""All targets by name, each with the kept corpus among its seeds."""

import time
from dataclasses import replace

from tests.fuzz import corpus
from tests.fuzz.domains import DOMAINS
from tests.fuzz.engine import EscapedError, Target, run
from tests.fuzz.kernels import KERNELS
from tests.fuzz.machines import MACHINES
from tests.fuzz.memory_guest import MEMORY_MACHINES
from tests.fuzz.monitor import MONITORS
from tests.fuzz.parsers import PARSERS
from tests.fuzz.partition import PARTITIONS
from tests.fuzz.snapshots import SNAPSHOTS

TARGETS: dict[str, Target] = {
    target.name: replace(target, seeds=target.seeds + corpus.load(target.name))
    for target in (
        *PARSERS,
        *MACHINES,
        *PARTITIONS,
        *MEMORY_MACHINES,
        *MONITORS,
        *KERNELS,
        *DOMAINS,
        *SNAPSHOTS,
    )
}


def timed(name: str, inputs: int, seed: int) -> tuple[str, float, str]:
    """Run one target: its name, how long it took, and what escaped (nothing: all is well)."""
    begin = time.monotonic()
    try:
        run(TARGETS[name], TARGETS[name].share(inputs), seed)
    except EscapedError as error:
        return name, time.monotonic() - begin, str(error)
    return name, time.monotonic() - begin, ""

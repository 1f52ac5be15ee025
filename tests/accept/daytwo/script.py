"""What happens on the host, and when: the script of the run, as parts of its length.

    web      rises for a while, and falls
    db       grows once beyond what fits: memory is short until it falls
    mail     rises and falls all the time; it is restarted
    batch    works in steps; its process is killed, and does not come back

The four would hold twice the budget at fixed sizes. When db has grown, all that is used still fits, and the
buffers do not.
"""

from typing import Final, Literal, NamedTuple

from dynmem.lab.workload import Load
from dynmem.units import MIB, NS_PER_S

BOOT: Final = 512 * MIB
MINIMUM: Final = 96 * MIB
BUDGET: Final = 960 * MIB
SLUSH: Final = 32 * MIB
#: Percent on top of a demand; the manager's default.
BUFFER: Final = 20
VMS: Final = ("web", "db", "mail", "batch")
RATE: Final = 32 * MIB
LIGHT: Final = Load(high_bytes=16 * MIB, rate_bytes=RATE)
RISEN: Final = Load(high_bytes=144 * MIB, rate_bytes=RATE)
GROWN: Final = Load(high_bytes=320 * MIB, rate_bytes=RATE)

Kind = Literal["grow", "fall", "restart", "kill"]


class Act(NamedTuple):
    """Something that is done to a VM.

    Attributes:
        part: When: the part of the run that has passed.
        vm: To which.
        kind: What.
    """

    part: float
    vm: str
    kind: Kind


ACTS: Final = (
    Act(0.06, "web", "grow"),
    Act(0.24, "web", "fall"),
    Act(0.34, "db", "grow"),
    Act(0.56, "db", "fall"),
    Act(0.66, "mail", "restart"),
    Act(0.82, "batch", "kill"),
)
GROWS_TO: Final = {"web": RISEN, "db": GROWN}


def first_load(vm: str, run_s: float) -> Load:
    """Return what a VM does until it is told otherwise."""
    if vm == "mail":
        return Load(
            curve="sine", low_bytes=16 * MIB, high_bytes=72 * MIB, period_ns=_ns(run_s / 6), rate_bytes=RATE
        )
    if vm == "batch":
        return Load(
            curve="steps", low_bytes=16 * MIB, high_bytes=56 * MIB, period_ns=_ns(run_s / 5), rate_bytes=RATE
        )
    return LIGHT


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)

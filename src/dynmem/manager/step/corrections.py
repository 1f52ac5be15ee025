"""Targets that change outside the plan: of guests that stopped, and of one that is nudged."""

from collections.abc import Iterable

from dynmem.manager.step.changes import Change
from dynmem.manager.step.facts import ManagerSettings
from dynmem.manager.step.nudges import nudge
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import Safeguards
from dynmem.manager.step.stalls import apply, forgive, stall_of
from dynmem.manager.step.survey import Survey


def corrections(
    records: Iterable[Record],
    survey: Survey,
    settings: ManagerSettings,
    safeguards: Safeguards,
    *,
    is_any_short: bool,
) -> list[Change]:
    """Return what changes, as it is recorded. Only movable VMs can stop, and only others are nudged."""
    changes, now_ns = [], survey.now_ns
    for record in records:
        is_new = survey.facts.is_new(record.name)
        if not survey.is_movable(record.name):
            record.restart(now_ns)
            if is_new and settings.is_enforcing and safeguards.nudges:
                change = nudge(record, survey.standings[record.name], now_ns, settings.period_ns)
                changes += [] if change is None else [change]
        elif safeguards.floor_met and is_new:
            forgive(record, now_ns, is_any_short=is_any_short)
            stall = stall_of(record, now_ns, settings, small_offers=safeguards.small_offers)
            if stall is not None:
                changes.append(apply(stall, record, now_ns))
    return changes

"""How a VM stands: whether its size may be changed, and if not, why. One table; the first match wins."""

from collections.abc import Callable
from typing import Final

import msgspec

from dynmem.manager.step.facts import ABSENT, SILENT, ManagerSettings
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import EQUAL_SWEEPS, Safeguards, fresh_ns, tolerance_pages
from dynmem.manager.step.states import allows
from dynmem.manager.step.takeover import conflict
from dynmem.manager.step.view import StandingKind
from dynmem.units import NS_PER_S, PAGE_SIZE, format_pages, format_size


class Standing(msgspec.Struct, frozen=True):
    """Whether a VM may be changed, and in which directions.

    Attributes:
        kind: Whether it is movable.
        may_shrink: Whether its target may be lowered.
        reason: Why not, as a sentence; empty if nothing stands against it.
        news: What is reported once, when it begins.
        awaits_report: Whether all that stands against it is that its guest has not reported.
    """

    kind: StandingKind
    may_shrink: bool
    reason: str
    news: str = ""
    awaits_report: bool = False


class Moment(msgspec.Struct, frozen=True):
    """What the rows of the table look at besides the record."""

    now_ns: int
    settings: ManagerSettings
    safeguards: Safeguards
    released: bool
    paused: bool = False


Row = tuple[Callable[[Record, Moment], bool], StandingKind, Callable[[Record], str]]


def fresh_report(record: Record, now_ns: int, period_ns: int) -> bool:
    """Return whether the guest's last report is recent and was made since its last reset."""
    demand, reported = record.facts.demand, record.report_ns(now_ns)
    return (
        demand is not None
        and reported is not None
        and demand.age_ns <= fresh_ns(period_ns, record.facts.report_interval_ns)
        and reported >= record.reported_after_ns
    )


def marked(record: Record) -> bool:
    """Return whether more stays resident than was assigned, beyond what a process holds besides its guest."""
    return record.excess.pages > tolerance_pages(min(record.boot_pages, record.most_pages))


def above(record: Record) -> str:
    """Return what is wrong with a VM that holds more than its own maximum; "" if it does not."""
    if not record.above_pages:
        return ""
    holds, maximum = format_pages(record.guest_pages or 0), format_size(record.config.maximum_bytes)
    return (
        f"holds {holds}, its maximum is {maximum}: no VM gives what it needs for that;"
        " end this VM, or raise its maximum"
    )


def boast(record: Record) -> str:
    """Return what its VMM reports beyond what the host could give it, in brackets; "" if it does not."""
    if not record.boasted_pages:
        return ""
    reported = format_pages(record.boasted_pages)
    return f" (its VMM reports {reported}, more than this host has: that is not believed)"


def _fresh(record: Record, moment: Moment) -> bool:
    return fresh_report(record, moment.now_ns, moment.settings.period_ns)


def _sweeps_missing(record: Record, moment: Moment) -> bool:
    return moment.safeguards.two_sweeps and not record.adopted and record.equal_sweeps < EQUAL_SWEEPS


def _run_state(record: Record) -> str:
    what = allows(record.facts.run_state)
    why = f" ({what.why})" if what.why else ""
    size = ", and counts at its full size until its guest reports" if what.another_guest else ""
    return f"frozen: its state is {record.facts.run_state}{why}{size}"


def _not_replying(record: Record) -> str:
    if record.actual_pages is None:
        return f"frozen: it has not replied yet, and counts at its full size{_problem(record)}"
    return f"frozen at its last size: it does not reply{_problem(record)}"


def _unreported(record: Record, _: Moment) -> bool:
    return not record.reported


def _deviceless(record: Record) -> str:
    return f"frozen: {record.facts.problem or 'it has no balloon device'}"


FROZEN: Final[tuple[Row, ...]] = (
    (
        lambda record, _: record.facts.run_state in (SILENT, ABSENT),
        "frozen",
        _not_replying,
    ),
    (lambda record, _: not allows(record.facts.run_state).sending, "frozen", _run_state),
    (lambda record, _: bool(record.facts.lock), "frozen", lambda record: f"frozen: {record.facts.lock}"),
    (
        lambda record, _: record.facts.pinned is not None and not record.facts.may_plug,
        "frozen",
        lambda record: f"frozen: it is never ballooned: {record.facts.pinned and record.facts.pinned.reason}",
    ),
    (
        lambda record, _: record.facts.device is None and not record.facts.virtio_mems,
        "frozen",
        _deviceless,
    ),
    (
        lambda record, _: record.facts.needs_stop and record.config.monitor == "borrowed",
        "frozen",
        lambda _: "frozen: QEMU's hv-balloon takes its targets only over a monitor for dynmem alone",
    ),
    (
        lambda record, _: record.facts.needs_stop and not record.config.may_stop,
        "frozen",
        lambda _: (
            "frozen: QEMU's hv-balloon can abort when its target is set while the guest runs: may_stop = true"
            " allows to stop the guest for that moment"
        ),
    ),
    (
        lambda record, _: record.facts.actual_bytes is None,
        "frozen",
        lambda record: f"frozen: its VMM does not report its size{_problem(record)}",
    ),
    (
        lambda _, moment: moment.paused,
        "paused",
        lambda record: (
            "paused: left exactly as it is until its time is over, or until"
            f" `dynmem pause {record.name} --undo`"
        ),
    ),
    (
        lambda _, moment: moment.released,
        "released",
        lambda record: (
            f"released: gets its full size, {format_pages(record.released_pages)}{boast(record)},"
            f" and is left alone until `dynmem release {record.name} --undo`"
        ),
    ),
    (lambda record, _: record.facts.device is None, "frozen", _deviceless),  # its virtio-mem can be released
    (
        lambda record, moment: moment.settings.is_enforcing and bool(conflict(record.facts, record.config)),
        "frozen",
        lambda record: f"frozen: {conflict(record.facts, record.config)}",
    ),
    (
        _unreported,
        "frozen",
        lambda record: f"counted at its full size until its first report{_problem(record)}",
    ),
    (_sweeps_missing, "frozen", lambda _: "adopting: two equal sweeps are needed before anything is sent"),
    (
        lambda record, moment: not _fresh(record, moment),
        "frozen",
        lambda record: f"frozen: no fresh report from the guest{_problem(record)}",
    ),
    (
        lambda record, _: record.guest_pages is None,
        "frozen",
        lambda record: f"frozen: its resident memory cannot be measured{_problem(record)}",
    ),
)


def standing_of(record: Record, moment: Moment) -> Standing:
    """Return how a VM stands: by the table, then by the reasons that only forbid shrinking."""
    for applies, kind, reason in FROZEN:
        if applies(record, moment):
            why = reason(record)
            return Standing(
                kind, may_shrink=False, reason=why, news=why, awaits_report=applies is _unreported
            )
    late_pages = record.late_pages(moment.now_ns)
    if late_pages and moment.safeguards.deadlines:
        return Standing(
            "movable",
            may_shrink=False,
            reason=f"late: it owes {format_pages(late_pages)}, and others are asked instead",
            news="late: it does not give what it owes in time; others are asked instead",
        )
    interval_ns = record.facts.report_interval_ns
    if interval_ns > fresh_ns(moment.settings.period_ns):
        return Standing(
            "movable",
            may_shrink=False,
            reason=f"not shrunk: it reports every {interval_ns // NS_PER_S} s, too slowly to see it grow",
        )
    if record.facts.huge_bytes:
        return Standing(
            "movable",
            may_shrink=False,
            reason="not shrunk: its RAM is huge pages of the host's pool, and what it gives in smaller pieces"
            " stays with it",
        )
    if marked(record):
        more = format_size(record.excess.pages * PAGE_SIZE)
        return Standing(
            "movable", may_shrink=False, reason=f"not shrunk: {more} more is resident than was assigned to it"
        )
    if moment.safeguards.fresh_demand and record.report_is_older_than_size(moment.now_ns):
        return Standing(
            "movable",
            may_shrink=False,
            reason="not shrunk: it has not reported since its size changed",
        )
    if record.reported_pages > record.most_pages:
        return Standing(
            "movable",
            may_shrink=True,
            reason=f"its VMM reports a size of {format_pages(record.reported_pages)}: it counts as"
            f" {format_pages(record.most_pages)}",
            news="its VMM reports a size beyond its maximum: it counts as its maximum, or as what it holds",
        )
    return Standing("movable", may_shrink=True, reason="")


def _problem(record: Record) -> str:
    return f" ({record.facts.problem})" if record.facts.problem else ""

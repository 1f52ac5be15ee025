"""How it is known what a VM can do: the rules behind its capability record, each with its evidence.

A reply of a monitor proves nothing: QEMU takes a target whether there is a driver or not. So a driver is
proven by what only a driver can do, and what is sent to it depends on that:

    the balloon's driver   how it is known                                    what is sent to it
    proven                 its guest reports, or the balloon holds memory,    targets
                           or it gave what it was nudged for
    unknown                it has not reported, and its balloon is empty      one nudge, to enforce (`nudges`)
    absent                 it was nudged and gave nothing                     nothing

    virtio-mem's driver
    proven                 its guest has plugged something                    requests
    unknown, absent        it has plugged nothing yet                         one small request (`views`)

Of the rows below, the first match counts.
"""

from collections.abc import Callable
from typing import Final

from dynmem.manager.step.capability import Capability, Known
from dynmem.manager.step.facts import HV_BALLOON
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import ARRIVED_PAGES
from dynmem.manager.step.standing import Standing, fresh_report
from dynmem.units import NS_PER_S, PAGE_SIZE, format_pages, format_size, pages_of

PROVEN: Final = "proven"
UNKNOWN: Final = "unknown"
ABSENT: Final = "absent"
NONE: Final = "none"


Row = tuple[Callable[[Record], bool], str, Callable[[Record], str]]


def ballooned_pages(record: Record) -> int:
    """Return what its balloon holds, as far as that is its present guest's. Pages."""
    facts = record.facts
    if facts.actual_bytes is None or facts.device is None:
        return 0
    return max(0, pages_of((facts.boot_bytes or 0) - facts.balloon_bytes))


def _nudge_was(answered: bool | None) -> Callable[[Record], bool]:
    return lambda record: record.nudge is not None and record.nudge.answered is answered


_DRIVER: Final[tuple[Row, ...]] = (
    (lambda record: record.facts.device is None, NONE, lambda _: "it has no balloon"),
    (
        lambda record: record.reported,
        PROVEN,
        lambda _: "its guest has reported since it started",
    ),
    (
        lambda record: ballooned_pages(record) > ARRIVED_PAGES,
        PROVEN,
        lambda record: f"its balloon holds {format_pages(ballooned_pages(record))}, which a driver has given",
    ),
    (_nudge_was(True), PROVEN, lambda _: "it gave what it was nudged for, and has it back"),
    (_nudge_was(False), ABSENT, lambda _: "it was nudged and gave nothing: nothing more is sent to it"),
    (
        lambda record: record.nudge is not None,
        UNKNOWN,
        lambda _: "it has not reported; it is nudged, to see whether its size moves",
    ),
    (lambda _: True, UNKNOWN, lambda _: "it has not reported, and its balloon is empty"),
)

_PLUGGING: Final[tuple[Row, ...]] = (
    (lambda record: not record.facts.virtio_mems, NONE, lambda _: "it has no virtio-mem"),
    (
        lambda record: record.has_plugged,
        PROVEN,
        lambda record: f"its guest has plugged memory; now it is {format_size(record.facts.plugged_bytes)}",
    ),
    (
        lambda record: record.facts.offered_bytes > 0 and record.declined is not None,
        ABSENT,
        lambda record: f"it is offered {format_size(record.facts.offered_bytes)} and plugs nothing",
    ),
    (
        lambda record: record.declined is not None and record.declined.at_pages >= record.boot_pages,
        ABSENT,
        lambda _: "it was offered memory and plugged nothing",
    ),
    (lambda _: True, UNKNOWN, lambda _: "its guest has plugged nothing yet"),
)


def _first(rows: tuple[Row, ...], record: Record) -> Known:
    return next(Known(value, evidence(record)) for applies, value, evidence in rows if applies(record))


def capability_of(record: Record, standing: Standing | None, now_ns: int, period_ns: int) -> Capability:
    """Return what a VM can do, and how that is known."""
    driver = _first(_DRIVER, record)
    return Capability(
        devices=_devices(record),
        driver=driver,
        plugging=_first(_PLUGGING, record),
        statistics=_statistics(record, driver, now_ns, period_ns),
        free_page_reporting=_switch(record, record.facts.reports_free_pages),
        deflate_on_oom=_switch(record, record.facts.deflates_on_oom),
        guest_page_size=_page_size(record),
        movable=_movable(standing),
    )


def _devices(record: Record) -> Known:
    facts = record.facts
    found = [facts.device] if facts.device else []
    if facts.virtio_mems:
        count = len(facts.virtio_mems)
        found.append("virtio-mem" if count == 1 else f"{count} virtio-mem")
    return Known(" and ".join(found) or NONE, "listed by its monitor" if found else "its monitor lists none")


def _statistics(record: Record, driver: Known, now_ns: int, period_ns: int) -> Known:
    facts = record.facts
    if facts.device is None:
        return Known(NONE, "nothing reports what its guest needs without a balloon")
    if facts.demand is not None:
        age = f"its last report is {facts.demand.age_ns // NS_PER_S} s old"
        return Known("fresh" if fresh_report(record, now_ns, period_ns) else "stale", age)
    if driver.value == PROVEN and not record.reported:
        return Known(
            ABSENT,
            "its driver is there and sends none: in Windows, the balloon's service is not running",
        )
    return Known(ABSENT, facts.problem or "none have come yet")


def _switch(record: Record, is_on: bool | None) -> Known:
    if record.facts.device is None:
        return Known(NONE, "it has no balloon")
    if is_on is None:
        return Known(UNKNOWN, "its device has no such property, or its monitor does not say")
    return Known("on" if is_on else "off", "a property of its balloon")


def _page_size(record: Record) -> Known:
    if record.facts.device == HV_BALLOON:
        return Known(str(PAGE_SIZE), "the protocol of hv-balloon has pages of this size only")
    return Known(UNKNOWN, "no device reports it; virtio-balloon counts in 4096 bytes whatever it is")


def _movable(standing: Standing | None) -> Known:
    if standing is None:
        return Known(UNKNOWN, "no sweep has looked at it yet")
    if standing.kind != "movable":
        return Known("no", standing.reason)
    return (
        Known("yes", "nothing stands against it")
        if standing.may_shrink
        else Known("grow only", standing.reason)
    )

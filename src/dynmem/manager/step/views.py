"""A movable VM as the policy sees it: between which bounds it can be moved now, and why those."""

from collections.abc import Sequence

from dynmem.manager.step.giving import available_text, keeps_pages
from dynmem.manager.step.nudges import NUDGE_PAGES
from dynmem.manager.step.record import Record
from dynmem.manager.step.safeguards import Safeguards, margin_pages
from dynmem.manager.step.shortage import may_be_squeezed
from dynmem.manager.step.standing import Standing
from dynmem.manager.step.survey import Survey
from dynmem.policy import Priority, Vm


def views_of(
    movable: Sequence[Record], survey: Survey, safeguards: Safeguards, lacking: Priority | None = None
) -> tuple[Vm, ...]:
    """Return the VMs as the policy sees them; some give what they use where this priority lacks that."""
    return tuple(
        view_of(
            record,
            survey.standings[record.name],
            cushion=safeguards.guest_cushion,
            squeezed=lacking is not None and may_be_squeezed(record, lacking),
            barred=record.name in survey.barred,
            ceiling=survey.ceilings.get(record.name),
            wary=safeguards.nudges,
        )
        for record in movable
    )


def view_of(
    record: Record,
    standing: Standing,
    *,
    cushion: bool,
    squeezed: bool = False,
    barred: bool = False,
    ceiling: int | None = None,
    wary: bool = True,
) -> Vm:
    """Return a VM as the policy sees it; with *cushion*, what its guest cannot give now is kept.

    One that is *squeezed* gives of what it uses, for a VM of higher priority that lacks what that one uses.
    One that is *barred* is never grown, and one with a *ceiling* not beyond that (in pages). Whoever is
    *wary* requests little of a virtio-mem until something was plugged.
    """
    held = min(record.target_pages or 0, record.most_pages)
    sizes = record.sizes
    maximum, limit = sizes.down(record.maximum_pages), "maximum"
    if maximum < record.maximum_pages:
        limit = "the last whole step of hot add"
    untried = record.boot_pages + max(NUDGE_PAGES, sizes.step_pages)
    if wary and record.is_untried and max(untried, held) < maximum:
        maximum, limit = max(untried, held), "until its virtio-mem has plugged something, no more than"
    declined, stopped = record.declined, record.stopped
    if declined is not None and declined.holds and max(declined.at_pages, held) < maximum:
        maximum, limit = max(declined.at_pages, held), "offered no more than"
        if maximum == declined.at_pages:
            limit = "takes no more than"
    if ceiling is not None and (most := max(sizes.down(ceiling), held)) < maximum:
        maximum, limit = most, "the limit of its cgroup leaves"
    if barred and held < maximum:
        maximum, limit = held, "does not fit and keeps"
    why = "it cannot give more now"
    kept = min(stopped.at_pages, record.most_pages) if stopped is not None and stopped.holds else 0
    if not standing.may_shrink or record.reported_pages > record.most_pages:
        kept = max(kept, held)
    elif cushion and not squeezed and (in_use := min(held, keeps_pages(record))) > kept:
        kept, why = in_use, f"its guest has only {available_text(record)} available"
    config = record.config
    return Vm(
        name=config.name,
        floor_pages=min(sizes.up(record.floor_pages), maximum),
        maximum_pages=max(maximum, kept),
        demand_pages=record.needed_pages,
        at_hand_pages=record.at_hand_pages,
        held_pages=held,
        buffer_percent=config.buffer_percent,
        weight=config.weight,
        priority=config.priority,
        margin_pages=margin_pages(record.maximum_pages),
        kept_pages=kept,
        kept_why=why,
        limit=limit,
        sizes=sizes,
    )

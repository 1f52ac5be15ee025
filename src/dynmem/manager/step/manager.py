"""One step of the manager: what a sweep found goes in, what to send comes out. Pure: no I/O, no clock.

The order is always the same. The roster takes in which VMs came, went and were reset; the books follow.
Reservations are settled. The policy divides what is left among the VMs that may be changed. Shrinks are
chosen, and grants only from what is measured free in this very sweep; a VM that has to wait for a shrink is
served by a later one.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from dynmem.manager.step.admission import lasting_pages, refusal_of
from dynmem.manager.step.advice import Announcements
from dynmem.manager.step.attention import is_tight, is_unsettled, may_give_now, moving, starting
from dynmem.manager.step.ceilings import ceilings_of
from dynmem.manager.step.changes import Candidate, Change, choose_grants, growing, shrinks_for
from dynmem.manager.step.chatter import Chatter
from dynmem.manager.step.claims import Claims, limit_pages
from dynmem.manager.step.corrections import corrections
from dynmem.manager.step.facts import Facts, ManagerSettings, VmConfig
from dynmem.manager.step.last_resort import INTERRUPTED, LastResort, interrupt_line
from dynmem.manager.step.measured import Charge, MeasuredFree, charge, measure
from dynmem.manager.step.orders import Orders, commands_for
from dynmem.manager.step.outcomes import Outcomes
from dynmem.manager.step.pauses import Pauses
from dynmem.manager.step.pool import WHOSE, pool_pages
from dynmem.manager.step.ready import Ready
from dynmem.manager.step.record import Record
from dynmem.manager.step.releases import Releases
from dynmem.manager.step.reservations import Reservations
from dynmem.manager.step.results import Reservation, ReservationState, StepResult
from dynmem.manager.step.room import Taken, holders_of, room_for, taken_by_fixed, taken_by_movable
from dynmem.manager.step.roster import Arrivals, Roster
from dynmem.manager.step.safeguards import ALL_ON, Safeguards
from dynmem.manager.step.sample import Sample, sample_of
from dynmem.manager.step.shortage import lacking, shortage_lines
from dynmem.manager.step.standing import Moment, above, standing_of
from dynmem.manager.step.states import is_held
from dynmem.manager.step.status import Seen, StatusReader, emergency_lines
from dynmem.manager.step.survey import Survey
from dynmem.manager.step.view import StatusView
from dynmem.manager.step.views import views_of
from dynmem.policy import Plan, Snapshot, Vm, least_pages, plan
from dynmem.units import PAGE_SIZE, format_pages, pages_covering, pages_of

# What may be granted when the safeguard that measures is off.
UNBOUNDED = 1 << 62


class Manager:
    """All that is remembered between two steps. Picklable; the same facts always give the same steps."""

    def __init__(
        self, settings: ManagerSettings, vms: Sequence[VmConfig], safeguards: Safeguards = ALL_ON
    ) -> None:
        settings = _guarded(settings, safeguards)
        self.settings: ManagerSettings = settings
        self.safeguards = safeguards
        self.claims: Final = Claims(limit_pages(settings.budget_bytes, settings.slush_bytes))
        self._roster = Roster(settings, vms, safeguards)
        self._reservations = Reservations(self.claims)
        self._releases = Releases(settings)
        self._pauses = Pauses()
        self._chatter = Chatter()
        self._ready = Ready()
        self._last_resort = LastResort()
        self._lacked = False
        self._asked_to_look: set[str] = set()
        self._announcements = Announcements()
        self._outcomes = Outcomes(self._roster, self.claims)
        self._shortage = False
        self._seen: Seen | None = None

    def step(self, facts: Facts) -> StepResult:
        """Decide what to do about one sweep."""
        lines = self._take_in(facts)
        survey = self._survey(facts)
        lines += self._reservations.settle(survey.bare.pages, survey.held)
        lines += self._announce_standings(survey)
        self._outcomes.begin()
        corrected = self._corrections(survey)
        movable = [record for record in self._roster if survey.is_movable(record.name)]
        views = views_of(movable, survey, self.safeguards)
        taken = [self._taken(record, survey) for record in self._roster]
        room = room_for(views, survey.room, taken, sparing=self.safeguards.sparing)
        reserved, kept = self._reserved(views, survey, room)
        free = survey.free(reserved)
        holders = holders_of(taken, kept, survey.lacking)
        ready = 0
        if self.safeguards.ready:
            ready = self._ready.kept(movable, room - reserved, self.settings.ready_bytes, survey.now_ns)
        snapshot = Snapshot(room - reserved, views, holders, ready)
        result = plan(snapshot)
        out = lack = lacking(movable, result, survey.barred)
        if lack:
            views = views_of(movable, survey, self.safeguards, lack[0][0].config.priority)
            snapshot = msgspec.structs.replace(snapshot, vms=views)
            result = plan(snapshot)
            out = lacking(movable, result, survey.barred)
        held = {each.name for each in self._roster if each.name in self._pauses or is_held(each.facts)}
        interrupt = self._last_resort.decide(out, self._roster, self.claims, survey.now_ns, held)
        candidates = self._candidates(movable, views, result, survey)
        spared = sum(each.spared for each in taken) if self.safeguards.sparing else 0
        changes = (*corrected, *self._changes(candidates, free, survey, spared, ready))
        waiting = self._waiting(candidates, survey)
        self._shortage = waiting or any(each.decision.short_pages for each in candidates)
        self._outcomes.chose(changes, survey.now_ns)
        seen = Seen(survey, free, snapshot, result, changes, ready, waiting, self._outcomes.last)
        self._announcements.see(self._roster)
        lines += self._announcements.lines(changes, self.settings.mode, self._chatter, survey.now_ns)
        lines += emergency_lines(self._seen, seen)
        lines += shortage_lines(lack, was=self._lacked)
        paused = {each.name: survey.held(each.name) for each in self._roster if each.name in self._pauses}
        lines += self._pauses.starving_lines(paused, cut=result.cut)
        self._lacked = bool(lack)
        self._seen = seen
        if interrupt is not None:
            lines.append(interrupt_line(interrupt, self.settings.mode))
            if self.settings.is_enforcing:
                self.claims.bar(interrupt.vm, INTERRUPTED)
        if not self.settings.is_enforcing:
            return StepResult(result, (), tuple(lines), waiting=False)
        return StepResult(
            result,
            commands_for(changes, self._outcomes.targets_before),
            tuple(lines),
            waiting or any(is_unsettled(record, survey.now_ns) for record in self._roster),
            moving(
                movable,
                self._asked_to_look | starting(self._roster, survey.now_ns),
                survey.now_ns,
                is_any_short=self._shortage,
            ),
            frozenset(record.name for record in movable if is_tight(record)),
            interrupt,
        )

    def configure(self, settings: ManagerSettings, vms: Sequence[VmConfig]) -> None:
        """Put another configuration in force between two steps; what is known of the VMs is kept."""
        priorities = {record.name: record.config.priority for record in self._roster}
        if settings.mode != self.settings.mode:
            self._announcements = Announcements()  # in the words of the new mode
        self.settings = settings = _guarded(settings, self.safeguards)
        self.claims.limit(limit_pages(settings.budget_bytes, settings.slush_bytes))
        self._releases.configure(settings)
        for record in self._roster.configure(settings, vms):
            self.claims.end(record.name)
            self._announcements.forget(record.name)
            self._outcomes.forget(record.name)
        for record in self._roster:
            if record.config.priority != priorities[record.name]:
                self.claims.change_priority(record)

    def restore(self, name: str, incarnation: str, target_bytes: int) -> None:
        """Take in the last target that a manager before this one sent, by the journal; before the first step.

        A VMM does not report its target, and a guest may still be on its way to it.
        """
        self._roster.restore(name, incarnation, target_bytes // PAGE_SIZE)

    def was_sent(self, name: str) -> None:
        """Take in that the command of the last step to a VM was sent."""
        self._outcomes.sent.add(name)

    def not_sent(self, vms: Iterable[str]) -> None:
        """Take back commands of the last step that were not sent: these VMs keep the target before it."""
        names = tuple(vms)
        self._outcomes.not_sent(names)
        if self._seen is not None:
            self._seen = self._seen.without(names, self._outcomes.last)

    def target_before(self, name: str) -> int | None:
        """Return the target that a VM had before the last step. Pages."""
        return self._outcomes.targets_before.get(name)

    def refused_late(self, name: str, target_bytes: int, before: int | None) -> None:
        """Take back a target that a VM refused after more steps were made, unless it has another by now."""
        self._outcomes.refused_late(name, target_bytes, before)

    def life(self, name: str) -> str:
        """Return which life of a VM is there: its incarnation, or "" if it is absent."""
        record = self._roster.get(name)
        return record.incarnation if record else ""

    def reserve(
        self, name: str, size_bytes: int, now_ns: int, deadline_ns: int, life: str | None = None
    ) -> Reservation:
        """Keep room for a VM about to start, until the deadline or until it is there and has reported.

        *life* is the one that does not take it over; by default that which is there now.
        """
        size = pages_covering(size_bytes)
        refusal = refusal_of(
            name, size, deadline_ns - now_ns, self._roster, self._reservations, self.claims.gmm
        )
        if refusal:
            if name not in self._reservations:  # an earlier promise stays in force
                self._reservations.end(name, "refused", refusal)
            return Reservation(name, size_bytes, deadline_ns, "refused", refusal)
        least = lasting_pages(name, size, self._roster)
        life = self.life(name) if life is None else life
        entry = self._reservations.open(name, size, least, deadline_ns, life)
        return self._reservations.view(entry)

    def reservation_state(self, name: str) -> tuple[ReservationState, str]:
        """Return state and reason of a reservation, also for a while after it ended."""
        return self._reservations.state(name)

    def is_reserved(self, name: str) -> bool:
        """Return whether there is an open reservation of this name."""
        return name in self._reservations

    def hold(self, made: Reservation, deadline_ns: int) -> None:
        """Keep a reservation until another deadline; nothing changes if it has ended or was replaced."""
        if self._reservations.deadline_ns(made.name) == made.deadline_ns:
            self._reservations.keep_until(made.name, deadline_ns)

    def drop_reservation(self, made: Reservation) -> None:
        """Drop a reservation; nothing changes if it has ended, or if another replaced it since."""
        if self._reservations.deadline_ns(made.name) == made.deadline_ns:
            self._reservations.end(made.name, "expired", "dropped by its owner")

    def release(self, name: str | None) -> None:
        """Release one VM (None: all): grow it to its full size, then leave it unmanaged until `take_up`."""
        self._pauses.end(self._names(name))
        self._releases.release(self._names(name))

    def take_up(self, name: str | None) -> None:
        """Manage one VM (None: all) again; its size is adopted first, as after a start."""
        self._adopt_again(self._releases.take_up(self._names(name)))

    def _adopt_again(self, names: Iterable[str]) -> None:
        for each in names:
            record = self._roster.get(each)
            if record is not None:
                record.adopt_again()

    def pause(self, name: str, until_ns: int) -> None:
        """Leave one VM exactly as it is until a time of the monotonic clock; one that was released is not."""
        self._releases.take_up((name,))
        self._pauses.pause((name,), until_ns)

    def resume(self, name: str | None) -> None:
        """Manage one VM (None: all) again that was paused; its size is adopted first, as after a start."""
        self._adopt_again(self._pauses.end(self._names(name)))

    @property
    def paused(self) -> tuple[str, ...]:
        """The configured VMs that are paused, there or not."""
        return tuple(name for name in self._roster.configs if name in self._pauses)

    @property
    def released(self) -> tuple[str, ...]:
        """The configured VMs that are released, there or not."""
        return tuple(name for name in self._roster.configs if name in self._releases)

    def promised_bytes(self) -> int:
        """Return what all released VMs that are there may take."""
        return sum(self._releases.promised(record) for record in self._roster) * PAGE_SIZE

    def status(self) -> StatusView:
        """Return everything that can be asked about the last step."""
        return self._reader().read()

    def sample(self) -> Sample | None:
        """Return what a history keeps of the last step; None before the first."""
        return sample_of(self._reader())

    def _reader(self) -> StatusReader:
        return StatusReader(
            self.settings,
            self._roster,
            self.claims,
            self._reservations,
            self._releases,
            self._pauses,
            self._seen,
            self._outcomes.sent,
        )

    def _take_in(self, facts: Facts) -> list[str]:
        """Take in one sweep: roster, books, reservations that ended; return a line for each event."""
        lines = self._move_books(self._roster.see(facts), facts)
        expired = self._pauses.expire(facts.now_ns)
        self._adopt_again(expired)
        lines += [f"{name}: the time of its pause is over" for name in expired]
        if facts.looked is None:  # or the VM that it is for could be there and not seen yet
            lines += self._reservations.expire(facts.now_ns)
        for record in self._roster:
            lines += self._reservations.take_over(record.name, record.incarnation, reported=record.reported)
        return lines

    def _move_books(self, arrivals: Arrivals, facts: Facts) -> list[str]:
        """Book what one sweep found; return a line for each VM that went or was reset."""
        lines: list[str] = []
        for name in arrivals.gone:
            freed = format_pages(self.claims.end(name))
            lines += self._chatter.line(name, f"gone, {freed} freed", facts.now_ns)
            self._announcements.forget(name)
        for record in sorted(arrivals.begun, key=Claims.rank):
            self.claims.begin(record)
        for record in arrivals.reset:
            self.claims.reset(record)
            self._announcements.forget(record.name)
            counted = format_pages(self.claims.pages(record.name))
            line = f"reset, counts {counted} until it reports"
            lines += self._chatter.line(record.name, line, facts.now_ns)
        for record in self._roster:
            if facts.is_new(record.name):  # an older look knows less than what was granted since
                self.claims.observe(record, facts.now_ns)
        return lines

    def _survey(self, facts: Facts) -> Survey:
        """Add up what is known before anything is decided."""
        charges = {record.name: self._charge(record) for record in self._roster}
        standings = {
            record.name: standing_of(
                record,
                Moment(
                    facts.now_ns,
                    self.settings,
                    self.safeguards,
                    record.name in self._releases,
                    record.name in self._pauses,
                ),
            )
            for record in self._roster
        }
        bare = measure(self.settings, facts.host, tuple(charges.values()), 0)
        barred = {record.name: why for record in self._roster if (why := self.claims.barred(record.name))}
        ceilings = ceilings_of(self._roster, self.claims.pages)
        occupied = sum(each.occupied for each in charges.values())  # once: each VM is asked about it
        return Survey(facts, charges, standings, bare, barred, ceilings, occupied)

    def _charge(self, record: Record) -> Charge:
        """Return what a VM takes."""
        claim, guest = self.claims.pages(record.name), record.guest_pages
        if not self.safeguards.claims and guest is not None:
            claim = min(claim, guest)
        return charge(claim, guest, pages_of(record.facts.huge_bytes))

    def _names(self, name: str | None) -> tuple[str, ...]:
        return tuple(self._roster.configs) if name is None else (name,)

    def _reserved(self, views: Sequence[Vm], survey: Survey, room: int) -> tuple[int, dict[str, int]]:
        """Return what reservations and the pool take from the room, and each: what is ready, and what can be.

        A reservation comes before buffers, headroom and the demand of lower priority, not before what running
        VMs of its own or a higher priority need: one that would starve them gets nothing while it waits.
        """
        taken, each = 0, {}
        for entry in self._reservations:
            hold = self._reservations.hold_pages(entry.name, survey.held(entry.name))
            if entry.state != "ready":
                config = self._roster.configs.get(entry.name)
                needed = least_pages(views, config.priority if config else "normal")
                if needed + taken + hold > room:
                    entry.reason = f"{entry.reason}; running VMs of its priority or a higher one need them"
                    continue
            taken += hold
            each[entry.name] = hold
        each[WHOSE] = pool_pages(pages_of(self.settings.pool_bytes), taken, views, room)
        return taken + each[WHOSE], each

    def _announce_standings(self, survey: Survey) -> list[str]:
        lines: list[str] = []
        for record in self._roster:
            standing = survey.standings[record.name]
            if standing.news != record.standing:
                line = self._chatter.line(record.name, standing.news or "managed", survey.now_ns)
                lines += line
                record.standing = standing.news if line else record.standing  # else it is still to be printed
            problem = above(record)
            if bool(problem) != record.named_above:
                lines.append(f"{record.name}: {problem or 'no longer above its maximum'}")
                record.named_above = bool(problem)
        return lines

    def _corrections(self, survey: Survey) -> list[Change]:
        """Bring back the targets of guests that have stopped, and nudge those that never report."""
        short, guards = self._shortage, self.safeguards
        changes = corrections(self._roster, survey, self.settings, guards, is_any_short=short)
        for each in changes:
            self.claims.ask(each.record)
        return changes

    def _taken(self, record: Record, survey: Survey) -> Taken:
        """Return what a VM takes of the room beside the plan."""
        if survey.is_movable(record.name):
            return taken_by_movable(record, self._late(record, survey), emergency=survey.emergency)
        held, due = survey.held(record.name), self._releases.promised(record)
        if due:
            return Taken(record, max(held, due), f"{record.name} is released and is due {format_pages(due)}")
        untouched, paused = survey.charges[record.name].untouched, record.name in self._pauses
        return taken_by_fixed(record, held, untouched, survey.now_ns, paused=paused)

    def _candidates(
        self,
        movable: Sequence[Record],
        views: Sequence[Vm],
        result: Plan,
        survey: Survey,
    ) -> list[Candidate]:
        """Return the movable VMs with what the plan says of each."""
        return [
            Candidate(
                record,
                view,
                decision,
                record.target_pages or 0,
                view.held_pages,
                self.claims.pages(record.name),
                survey.standings[record.name].may_shrink,
                record.set_ns >= 0 and survey.now_ns - record.set_ns < self.settings.period_ns,
                max(0, record.owed_pages - self._late(record, survey)),
            )
            for record, view, decision in zip(movable, views, result.decisions, strict=True)
        ]

    def _changes(
        self, candidates: list[Candidate], free: MeasuredFree, survey: Survey, spared: int, ready: int
    ) -> list[Change]:
        """Return the shrinks, releases and grants of this step; each is booked as it is chosen.

        *spared* pages that are missing are nobody's to give yet; *ready* pages are kept for whoever grows.
        """
        guards = self.safeguards
        promised = max(0, -free.pages - spared)
        promised += sum(self._releases.missing(record, self.claims) for record in self._roster)
        chosen = shrinks_for(
            candidates,
            free.pages,
            promised,
            ready,
            dead_band=guards.dead_band,
            is_emergency=survey.emergency,
        )
        asked = {each.record.name for each, _ in chosen}
        chosen = [pair for pair in chosen if may_give_now(pair[0].record, survey.facts)]
        self._asked_to_look = asked - {each.record.name for each, _ in chosen}
        coming = sum(each.in_flight for each in candidates)
        coming += sum(max(0, each.counted - target) for each, target in chosen)
        orders = Orders(
            self.claims,
            free,
            survey.now_ns,
            enforced=self.settings.is_enforcing,
            checked=guards.measured_free and guards.shrink_first and guards.claims,
        )
        shrinks = [orders.shrink(each, target) for each, target in chosen]
        pages, spare = self._grantable(free, coming)
        released, left = self._releases.changes(
            (
                (record, survey.standings[record.name])
                for record in self._roster
                if survey.facts.is_new(record.name)
            ),
            orders,
            pages,
            others_can_give=coming > 0,
        )
        shrunk = {id(each) for each, _ in chosen}
        others = [
            each for each in candidates if id(each) not in shrunk and survey.facts.may_grow(each.record.name)
        ]
        grants = choose_grants(others, left, spare - (pages - left), ready, dead_band=guards.dead_band)
        grown = [orders.grant(each, target) for each, target in grants]
        return [*shrinks, *released, *grown]

    def _grantable(self, free: MeasuredFree, coming: int) -> tuple[int, int]:
        """Return what may be granted to VMs that are short, and as headroom. Pages."""
        if not self.safeguards.measured_free:
            return UNBOUNDED, UNBOUNDED
        if not self.safeguards.shrink_first:
            return free.pages + coming, free.spare_pages + coming
        return free.pages, free.spare_pages

    def _late(self, record: Record, survey: Survey) -> int:
        """Return what a VM owes and is late with: room for nobody. Pages."""
        return record.late_pages(survey.now_ns) if self.safeguards.deadlines else 0

    def _waiting(self, candidates: Sequence[Candidate], survey: Survey) -> bool:
        """Return whether a VM or a reservation waits for memory that is being given."""
        coming = any(each.record.owed_pages - self._late(each.record, survey) > 0 for each in candidates)
        dead_band = self.safeguards.dead_band
        growers = [each for each in candidates if each.short and growing(each, dead_band=dead_band)]
        short = any(each.decision.target_pages > each.target_now for each in growers)
        reserved = any(entry.state == "waiting" for entry in self._reservations)
        releasing = any(self._releases.missing(record, self.claims) for record in self._roster)
        return coming and (short or reserved or releasing)


def _guarded(settings: ManagerSettings, safeguards: Safeguards) -> ManagerSettings:
    return settings if safeguards.slush else msgspec.structs.replace(settings, slush_bytes=0)

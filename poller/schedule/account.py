"""One account's learned timing: translates outcomes for what learns from them, and decides by what explains them best.

Imports may be independent of each other: then their ages decide. Or the server works them off in a line: then their
places in it do. Each poll is evidence for one or the other.
"""

import math

import orjson

from poller.core.model import REPORTING, Finished, Outcome, Running, Task
from poller.schedule.explanation import explain
from poller.schedule.knowledge import Known, KnownLine, decode, encode
from poller.schedule.learned import PollPlanner, Tradeoff
from poller.schedule.line import LinePlanner
from poller.schedule.line_clock import LineClock, Spot
from poller.schedule.phase import PhaseClock
from poller.schedule.seen import Seen, instants, requested_by_our_clock, sent_at_of, started_by_our_clock
from poller.schedule.skew import Skew
from poller.schedule.standstill import Standstill
from poller.schedule.waits import Waits

SAVE_EVERY_S = 10.0
MOST_EVIDENCE = 5.0  # that one poll gives
FADING = 1 - 1 / 200  # of the evidence, with each finished import
MOST_LEAD = 200.0  # in evidence, so that a line that breaks is left after as much of it
CONVINCED = 6.0  # lead in evidence from which on a line decides, until it has none left
CONVINCED_OF_REQUESTS = 60.0  # lead of the order of requests over that of feeding, from which on it decides
FOLLOWED = 4  # one import of this many keeps the order of requests known while that of feeding decides
PROBABLE = 0.63  # chance to be finished from which on a task is polled whatever the plan
LONGEST_ANSWER_S = 5.0  # a poll shows what was so when HubSpot answered it
SHORTEST_PUT_OFF_S, LONGEST_PUT_OFF_S = 2.0, 60.0


class AccountTiming:
    """Decides when to poll the running tasks of one account."""

    def __init__(self, name: str, tradeoff: Tradeoff, knowledge: bytes | None = None) -> None:
        """`name` is the knowledge's key in the store. Raises `KnowledgeUnreadable` where it is damaged."""
        self.name = name
        known = Known() if knowledge is None else decode(knowledge)
        self.planner = PollPlanner(tradeoff, known.ages, known.feeding_ages_s)
        self.by_feeding = LineClock(LinePlanner(tradeoff, known.by_feeding), known.evidence_by_feeding)
        self.by_request = LineClock(LinePlanner(tradeoff, known.by_request), known.evidence_by_request)
        self.by_start = PhaseClock(tradeoff, known.by_start, known.evidence_by_start)
        self.standstill = Standstill(tradeoff.cap_s)
        self._stood_until = -math.inf  # tasks that were due until then waited for the standstill's end
        self.skew = Skew()
        self._waits = Waits()
        self.deadline_s = tradeoff.deadline_s
        self._line_by = tradeoff.line_by
        self._decides: LineClock | PhaseClock | None = None  # None: the ages
        self._by_age = True  # an age decided lately
        self._in_line: tuple[float, float] | None = None  # polls and lateness of the latest imports in a line
        self._known_line = known.line  # until a line is found again
        self._saved_at = -math.inf
        self._choose()

    # --- deciding

    @property
    def first_poll_s(self) -> float:
        """The wait from an import's feeding to its first poll, unless it is put off then."""
        return self.planner.first_poll_s

    def put_off_s(self, task: Task, now: float) -> float:
        """Return for how long to put a due task off, by what was learned since its wait was chosen; 0 to poll it now.

        Half of the way, so that a line may become twice as fast unnoticed; at most a minute, so that nothing is parked.
        """
        if task.errors or task.missing_at is not None:
            return 0.0
        way_s = self._way_s(task, now)
        if way_s <= 0:
            return 0.0
        return max(0.0, min(way_s, task.fed_at + self.deadline_s - now))

    def _way_s(self, task: Task, now: float) -> float:
        """Return how long it is until the poll, as far as is known now."""
        spot = self._spot(task, None if task.requested_at is None else task.requested_at - self.skew.seconds)
        if spot is None:
            return _part_of(task.fed_at + self.planner.first_poll_s - now, 0.0) if task.polls == 0 else 0.0
        planner, from_at = spot.planner, task.fed_at if task.seen_at is None else task.seen_at
        before_s, after_s = from_at - spot.done_at, now - spot.done_at
        if spot.chance(task, now) > PROBABLE:
            return 0.0
        if planner.runs_ahead(spot.place, after_s, task.key):
            return 0.0
        way_s = from_at + planner.gap_s(before_s, task.key, is_first=task.seen_at is None) - now
        return _part_of(way_s, after_s)

    def chance(self, task: Task, now: float) -> float:
        """Return how likely it is that a poll finds the import finished."""
        requested_at = None if task.requested_at is None else task.requested_at - self.skew.seconds
        if (spot := self._spot(task, requested_at)) is not None:
            return spot.chance(task, now)
        if requested_at is None:
            requested_at = task.fed_at - self.planner.usual_feeding_age_s
        from_s = 0.0 if task.seen_at is None else max(0.0, task.seen_at - requested_at)
        return self.planner.curve.chance(from_s, max(from_s, now - requested_at))

    def _spot(self, task: Task, requested_at: float | None) -> Spot | None:
        """Return where the task is in the line that decides; None where its age decides. A place by the request is not
        known before the first poll."""
        clock = self._decides
        if clock is self.by_feeding:
            planner, place = self.by_feeding.planner, float(task.key)
        elif clock is self.by_request and requested_at is not None:
            planner, place = self.by_request.planner, requested_at
        else:
            return None
        value = "" if self._line_by is None else self._value(task)
        line = planner.lines.get(value) or planner.line(value)
        return Spot(planner, place, line.predicted_at(place)) if line.is_fitted else None

    def _value(self, task: Task) -> str:
        """Return the value of the field that tells lines apart."""
        if self._line_by is None or task.ref is None:
            return ""
        try:
            return str(orjson.loads(task.ref).get(self._line_by, ""))
        except (ValueError, AttributeError):
            return ""

    # --- learning

    def learn(self, task: Task, outcome: Outcome, *, asked_at: float, now: float, gate_s: float = 0) -> float | None:
        """Learn from a poll, which waited `gate_s` at the limit's gate; return the wait for the next one where the task
        is still running."""
        if not isinstance(outcome, REPORTING):
            self.standstill.unanswered(now)
            return None
        seen = self._seen(task, outcome, now)
        self._decide_from(task, seen)
        spot = self._spot(task, seen.requested_at if seen.is_named else None)
        pressure = self.planner.pressure if spot is None else spot.planner.pressure
        due_at = task.due_at if task.due_at > self._stood_until else self._stood_until
        wait_s = self._waits.for_limit_s(due_at, asked_at, gate_s, self.standstill.paused_s)
        if task.polls or (spot is not None and task.due_at > task.fed_at):  # not by the feeding of many at once
            pressure.waited(wait_s)
        if seen.is_done:
            if spot is not None:
                self._line_costs(task.polls + 1, now - (seen.until_at if seen.until_at > task.fed_at else task.fed_at))
            return None
        if spot is None:
            gap_s = self._gap_by_age_s(seen)
            return min(gap_s, LONGEST_PUT_OFF_S) if self._stood_until == now else gap_s  # its end may come before
        after_s = now - spot.done_at
        return _part_of(spot.planner.gap_s(after_s, task.key, notes=LONGEST_PUT_OFF_S), after_s)

    def _seen(self, task: Task, outcome: Running | Finished, now: float) -> Seen:
        """Return what a poll showed, by our clock, of which it shows something, too."""
        named_at, started_at, completed_at = instants(task, outcome, now)
        if task.seen_at is None and named_at is not None:
            self.skew.requested(named_at, fed_at=task.fed_at, sent_at=sent_at_of(task))
        if completed_at is not None:
            self.skew.completed(completed_at, seen_at=now, unfinished_at=task.seen_at)
        skew_s, seen_at = self.skew.seconds, task.seen_at
        if named_at is None:
            requested_at = task.fed_at - self.planner.usual_feeding_age_s
        else:
            requested_at = requested_by_our_clock(task, named_at - skew_s)
            if seen_at is None:
                self.planner.fed(task.fed_at - requested_at if task.fed_at > requested_at else 0.0)
        before_at = requested_at if seen_at is None or requested_at > seen_at else seen_at
        if before_at > now:
            before_at = now
        until_at, is_done = now, not isinstance(outcome, Running)
        if is_done:
            if completed_at is not None and completed_at - skew_s < now:
                until_at = completed_at - skew_s
            if completed_at is None or until_at < before_at - LONGEST_ANSWER_S:  # impossible: it is rounded
                until_at = (before_at + now) / 2
        if started_at is not None:
            started_at = started_by_our_clock(task, started_at - skew_s, requested_at, now)
        return Seen(requested_at, named_at is not None, started_at, before_at, until_at, is_done, now)

    def _line_costs(self, polls: int, late_s: float) -> None:
        """Follow what imports in a line cost, for forecasts."""
        before_polls, before_s = self._in_line or (polls, late_s)
        share = 1 - FADING
        self._in_line = before_polls + share * (polls - before_polls), before_s + share * (late_s - before_s)

    def _gap_by_age_s(self, seen: Seen) -> float:
        self._by_age = True
        age_s = max(0.0, seen.now - seen.requested_at)
        if self._decides is not self.by_start:
            return self.planner.gap_s(age_s)
        if seen.started_at is not None:
            return self.by_start.gap_s(seen.now - seen.started_at)
        return max(self.planner.gap_s(age_s), self.by_start.pending_s)

    def _decide_from(self, task: Task, seen: Seen) -> None:
        """Learn on every axis, and weigh which of them explains the poll best."""
        value = "" if self._line_by is None else self._value(task)
        is_done, decides, curve = seen.is_done, self._decides, self.planner.curve
        if self.standstill.may_last and self.standstill.lasts(seen.now):
            self._stood_until = seen.now
            if is_done:
                self._restart_lines()
        from_s, to_s = seen.before_at - seen.requested_at, seen.until_at - seen.requested_at
        if not 0 <= from_s <= to_s:
            from_s = max(0.0, from_s)
            to_s = max(from_s, to_s)
        by_age = self.planner.hazard.learn(from_s, to_s, is_done, curve)
        by_line: float | None = None  # by the one that decides
        likelihood = self.by_feeding.learn(value, task.key, seen)
        if likelihood is not None:
            by_line = likelihood if decides is self.by_feeding else None
        self._weigh(self.by_feeding, likelihood, by_age, is_done)
        if seen.is_named:
            if self._decides is not self.by_feeding or task.key % FOLLOWED == 1:
                likelihood = self.by_request.learn(value, seen.requested_at, seen)
                by_line = likelihood if decides is self.by_request else by_line
            self._weigh(self.by_request, likelihood, by_age, is_done)  # not followed: explained as well
        if is_done:
            # under a limit, a line is polled where it was: that nothing later is known shows no halt
            self.standstill.finished(seen.now, seen.until_at if by_line is None else seen.now)
        else:
            chance = -math.expm1(by_age if by_line is None else by_line)
            paused_s = max(0.0, self.standstill.paused_s - task.paused_base_s)
            deadline_at, is_in_line = task.fed_at + self.deadline_s + paused_s, by_line is not None
            self.standstill.unfinished(
                task.key, chance, before_at=seen.before_at, now=seen.now, deadline_at=deadline_at, is_in_line=is_in_line
            )
        if seen.started_at is not None:
            was_seen = task.started_at is not None
            likelihood = self.by_start.learn(seen.started_at, seen.before_at, seen.until_at, is_done, was_seen)
            self._weigh(self.by_start, likelihood, by_age, is_done)
        self._choose()

    def _weigh(self, clock: LineClock | PhaseClock, likelihood: float | None, by_age: float, is_done: bool) -> None:
        if likelihood is not None:
            gain = likelihood - by_age
            if not -MOST_EVIDENCE < gain < MOST_EVIDENCE:
                gain = math.copysign(MOST_EVIDENCE, gain)
            clock.evidence = evidence = clock.evidence + gain
            if evidence > MOST_LEAD:
                self._bound_lead(evidence - MOST_LEAD)
            elif evidence <= -MOST_LEAD:
                clock.evidence = -MOST_LEAD
        if is_done:
            clock.evidence *= FADING

    def _bound_lead(self, excess: float) -> None:
        """Take off what is beyond the bound, so that what holds no longer is left soon, but keep the clocks' order."""
        for each in (self.by_feeding, self.by_request, self.by_start):
            evidence = each.evidence - excess
            each.evidence = evidence if evidence > -MOST_LEAD else -MOST_LEAD

    def _choose(self) -> None:
        before, feeding, request = self._decides, self.by_feeding.evidence, self.by_request.evidence
        start = self.by_start.evidence
        if (
            before is self.by_feeding
            and feeding >= 0.0
            and feeding >= request - CONVINCED_OF_REQUESTS
            and feeding >= start - CONVINCED
        ):
            return  # as mostly
        if before is not None and before.evidence < 0:
            self._decides = None
        # the line by feeding is known before the first poll: the other one must explain clearly more
        needed = 0.0 if before is self.by_request else CONVINCED_OF_REQUESTS
        line = self.by_request if request - feeding > needed else self.by_feeding
        if self._decides is not None and self._decides is not self.by_start:
            self._decides = line
        best: LineClock | PhaseClock = self.by_start if start > line.evidence else line
        if best.evidence > (0.0 if self._decides is None else self._decides.evidence) + CONVINCED:
            self._decides = best
        if self._decides is not before and (self._decides is not line or not isinstance(before, LineClock)):
            self.planner.replan()
            self.by_start.planner.replan()

    def _restart_lines(self) -> None:
        for clock in (self.by_feeding, self.by_request):
            clock.planner.restart()
            clock.evidence = 0.0
        self._choose()

    # --- planning

    def refresh(self, now: float) -> bool:
        """Recompute the plan if that is due; return whether it was."""
        if self.planner.is_planned(now) and self.by_start.planner.is_planned(now):
            return False  # as mostly
        self.by_start.planner.refresh(now, plan=self._decides is self.by_start)
        if not self.planner.refresh(now, plan=self._by_age or self._decides is not self.by_feeding):
            return False
        self._by_age = False
        for clock in (self.by_feeding, self.by_request):
            if clock is self._decides:
                clock.planner.pressure.update()
                clock.planner.replan()
            else:
                clock.planner.refresh()
        return True

    def explanation(self, now: float) -> str:
        """Return what the polls follow from, for people."""
        return explain(self.standstill, self._paces(), self.planner.hazard, now)

    def _paces(self) -> list[float]:
        """Return the imports that each line completes per second, where lines decide."""
        lines = [*self._decides.planner.lines.values()] if isinstance(self._decides, LineClock) else []
        return [1 / line.pace_s for line in lines if line.is_fitted and line.pace_s > 0]

    def _line(self) -> KnownLine | None:
        if not isinstance(self._decides, LineClock):
            return None
        paces = self._paces()
        if self._in_line is None or not paces:
            return self._known_line
        return KnownLine(per_second=sum(paces), polls=self._in_line[0], late_s=self._in_line[1])

    # --- keeping

    def to_save(self, now: float) -> bytes | None:
        """Return the knowledge to save, at most every `SAVE_EVERY_S`."""
        if abs(now - self._saved_at) < SAVE_EVERY_S:
            return None
        self._saved_at = now
        return self.knowledge(now)

    def knowledge(self, now: float) -> bytes:
        """Return what a later `AccountTiming` needs to continue from here, and what people want to know."""
        return encode(
            Known(
                ages=self.planner.hazard,
                feeding_ages_s=tuple(self.planner.feeding_ages_s),
                by_feeding=self.by_feeding.planner.hazard,
                by_request=self.by_request.planner.hazard,
                evidence_by_feeding=self.by_feeding.evidence,
                evidence_by_request=self.by_request.evidence,
                by_start=self.by_start.planner.hazard,
                evidence_by_start=self.by_start.evidence,
                line=self._line(),
                explanation=self.explanation(now),
            )
        )


def _part_of(way_s: float, after_s: float) -> float:
    """Return after how much of a long way to ask again whether it is still right: it always is where the line has
    passed the import so long ago, `after_s`, that its polls are minutes apart."""
    if way_s <= SHORTEST_PUT_OFF_S or (after_s > 0 and way_s > LONGEST_PUT_OFF_S):
        return way_s
    return min(way_s, max(way_s / 2, SHORTEST_PUT_OFF_S), LONGEST_PUT_OFF_S)

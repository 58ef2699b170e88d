"""Decides when one account's requests may leave, by its limits and by what `judge` makes of their answers."""

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from random import Random

import structlog

from poller.core.accounts import AccountState, GateReading, Pause
from poller.core.handover import Handover
from poller.core.learned_limit import LearnedLimit
from poller.core.model import ANSWERING, Answer, RateLimits, Throttled
from poller.core.person_pause import paused_since_s
from poller.core.protocols import Clock
from poller.core.request_protocols import Slot
from poller.hubspot.limits.admission import AdmissionQueue
from poller.hubspot.limits.concurrency import Concurrency
from poller.hubspot.limits.gate_limits import GateLimits
from poller.hubspot.limits.held_slot import HeldSlot
from poller.hubspot.limits.judge import AnswerJudge
from poller.hubspot.limits.outage import RequestCounts
from poller.hubspot.limits.pause import LanePause, Probes
from poller.hubspot.limits.quota import DailyQuota
from poller.hubspot.limits.window import Window
from poller.hubspot.limits.windows import AccountWindows, assumed_used_s

log = structlog.get_logger("poller")

TOKEN_CHECK_S = 2.0  # how often a refused lane checks whether a person replaced the token
TRUST_CHECK_S = 0.1  # how often a member that must not send requests checks whether it may again
MOST_LIMITS_LOGGED = 20  # different ones an account, in case the headers change all the time


class AccountGate:
    """The `Gate` of one account. `clock` is the wall's; `monotonic` never jumps and runs as fast as the loop's."""

    def __init__(
        self,
        account: str,
        limits: GateLimits,
        *,
        state: AccountState,
        clock: Clock,
        monotonic: Clock,
        rng: Random,
        has_new_token: Callable[[], bool] = lambda: False,
        is_trusted: Callable[[], bool] | None = None,
        handover: Handover | None = None,
        known: LearnedLimit | None = None,
    ) -> None:
        """`has_new_token` is called while the token is refused, and returns whether to try another at once. In a fleet,
        `is_trusted` returns whether this member may send requests now, and `handover` is what the owner before left.
        `known` is the limit that HubSpot reported to an earlier process."""
        self._account = account
        self._clock, self._monotonic = clock, monotonic
        self._has_new_token = has_new_token
        self._is_trusted = is_trusted
        self._windows = AccountWindows(limits.requests, limits.window_s, known.reported if known else None)
        self._counts = RequestCounts()
        probes = Probes(self._counts, monotonic=monotonic, rng=rng)
        paused_s = state.paused_s + paused_since_s(state, clock())
        self._pause = LanePause(account, probes, clock=clock, monotonic=monotonic, paused_s=paused_s)
        self._quota = DailyQuota(
            limit=limits.daily_limit,
            reserve=limits.daily_reserve,
            time_zone=limits.time_zone,
            clock=clock,
            day=state.day,
            day_requests=state.day_requests,
        )
        assumed_s = 0.0
        if handover is None:
            assumed_s = assumed_used_s(state, self._windows.longest, clock())
            self._windows.fill(assumed_s, monotonic())
        else:
            self._windows.take_over(handover, monotonic())
        self._concurrency = Concurrency(limits.workers, self._windows.tighter)
        self._judge = AnswerJudge(
            self._pause, self._windows, self._quota, self._concurrency, counts=self._counts, monotonic=monotonic
        )
        self._active_at = clock() if assumed_s and not state.clean else state.active_at  # before this run's requests
        self._ended_at: float | None = None  # when the latest request ended, monotonic
        self._logged: set[Window] = set()
        self._admission = AdmissionQueue(self._wait_s, self._windows.tighter)
        if state.pause == Pause.PAUSED_BY_PERSON:
            self._pause.hold(state.pause_detail)

    # --- state

    @property
    def pause(self) -> Pause | None:
        return self._pause.reason

    @property
    def workers(self) -> int:
        return self._concurrency.workers

    @property
    def paused_s(self) -> float:
        return self._pause.paused_s

    def state(self) -> AccountState:
        return AccountState(
            active_at=self._last_active_at(),
            paused_s=self.paused_s,
            day=self._quota.day,
            day_requests=self._quota.day_requests,
            pause=None if self.pause is None else self.pause.value,
            pause_detail=self._pause.detail,
            resume_at=self._pause.resume_at,
        )

    def _last_active_at(self) -> float | None:
        if self._windows.in_flight or self._pause.is_by_person:  # from then on, the pause is counted at the next start
            return self._clock()
        return self._active_at if self._ended_at is None else self._clock() - (self._monotonic() - self._ended_at)

    def reading(self) -> GateReading:
        reported = self._windows.reported
        tighter, left, usable = self._windows.tighter, self._quota.left(self._windows.in_flight), self._quota.usable
        return GateReading(
            state=self.state(),
            workers=self.workers,
            in_flight=self._windows.in_flight,
            window_used=self._windows.used(self._monotonic()),
            window_limit=tighter.limit,
            window_s=tighter.window_s,
            requests=self._counts.sent,
            errors=self._counts.failed,
            daily_left=None if math.isinf(left) else max(0, int(left)),
            daily_usable=None if math.isinf(usable) else max(0, int(usable)),
            resets_at=self._quota.resets_at,
            pauses=dict(self._pause.begun),
            reported=None if reported is None else (reported.limit, reported.window_s),
        )

    @property
    def slot_ages_s(self) -> tuple[float, ...] | None:
        """How long ago each request ended that a window may still count; None where any slot may be in use: requests
        are in flight, or the wait for another process's requests is not over."""
        return self._windows.ages_s(self._monotonic())

    def slot(self, subject: object = None) -> AbstractAsyncContextManager[Slot]:
        """Wait for the right to send one request. `subject` is what it requests, such as the task's key: failures are
        an outage only when their subjects differ. Without it, each request counts as different."""
        return HeldSlot(self, subject)

    def close(self) -> None:
        self._admission.close()

    def hold(self, detail: str | None = None) -> None:
        self._pause.hold(detail)
        self._admission.wake()

    def release(self) -> None:
        if self._pause.release():
            self._judge.begin_again()
        self._admission.wake()

    def apply(
        self, limits: GateLimits, *, has_new_token: Callable[[], bool] | None = None, is_same_token: bool = True
    ) -> None:
        """Use other limits from now on; all that was learned and counted stays, except for the quota that the answers
        to another token reported. A pause for which a person had to act is probed at once."""
        if not is_same_token:
            self._quota.forget_reported()
        self._windows.apply(limits.requests, limits.window_s, self._monotonic())
        self._concurrency.configured = limits.workers
        self._concurrency.fit(self._windows.tighter)
        self._admission.set_pace(self._windows.tighter)
        self._quota.apply(limit=limits.daily_limit, reserve=limits.daily_reserve, time_zone=limits.time_zone)
        if has_new_token is not None:
            self._has_new_token = has_new_token
        if self._pause.reason is not None and self._pause.reason.needs_person:
            self._pause.probes.due_at = min(self._pause.probes.due_at, self._monotonic())
        elif self._pause.reason is Pause.DAILY_QUOTA:
            self._judge.resume()
        self._admission.wake()

    # --- may a request leave

    def enter_at_once(self, slot: HeldSlot) -> bool:
        """Take the slot where there is no wait, as mostly; return whether it was taken."""
        if not self._admission.pass_at_once():
            return False
        self._take(slot)
        return True

    def enter(self, slot: HeldSlot) -> Awaitable[None]:
        """Wait for the slot and take it."""
        return self._admission.admit(lambda: self._take(slot))

    def _wait_s(self) -> float:
        """Return how long nothing can leave: 0 is now, infinity until something happens."""
        if self._is_trusted is not None and not self._is_trusted():
            return TRUST_CHECK_S
        now, in_flight = self._monotonic(), self._windows.in_flight
        if self._pause.reason is None and self._quota.left(in_flight) <= 0:
            if self._quota.left() > 0:
                return math.inf  # requests in flight may be counted already: their answers will show
            self._pause.use_up_day(self._quota)
        allowed = self._concurrency.allowed
        if self._pause.reason is not None:
            allowed = self._concurrency.workers
            if (probe_in_s := self._probe_in_s(now)) > 0:
                return probe_in_s
        return math.inf if in_flight >= allowed else self._windows.free_in_s(now)

    def _probe_in_s(self, now: float) -> float:
        reason, probes = self._pause.reason, self._pause.probes
        if self._pause.is_by_person:
            return math.inf
        if reason is Pause.DAILY_QUOTA and probes.due_at <= now and self._quota.configured_left() <= 0:
            probes.wait(probes.quarter_in_s(self._quota.day_clock()))
        wait_s = probes.due_at - now
        if probes.number or reason not in (Pause.TOKEN_REFUSED, Pause.SCOPE_MISSING, Pause.WRONG_ACCOUNT):
            return wait_s
        return 0.0 if self._has_new_token() else min(wait_s, TOKEN_CHECK_S)

    def _take(self, slot: HeldSlot) -> None:
        self._counts.sent += 1
        slot.number = self._counts.sent
        slot.sent_at = self._monotonic()
        slot.era = self._pause.era
        if self._pause.reason is not None:
            self._pause.probes.send(slot.number, is_outage=self._pause.reason is Pause.OUTAGE)
        self._windows.take()
        self._quota.send()

    # --- what a request showed

    def abandon(self, slot: HeldSlot) -> None:
        """The request may have reached the server until now, and its result stays unknown."""
        self._release(slot, RateLimits(), self._monotonic())
        self._judge.fail_probe(slot)
        self._admission.wake()

    def learn(self, slot: HeldSlot, answer: Answer) -> None:
        """Learn from a request's answer. Requests sent before a pause neither end nor extend it."""
        limits = answer.limits
        if (window := self._windows.learn(limits)) is not None:
            self._adopt(window)
        is_good, now = isinstance(answer.outcome, ANSWERING), self._monotonic()
        accepted = is_good or not isinstance(answer.outcome, Throttled)
        self._windows.learn_others(limits, accepted=accepted, sent_at=slot.sent_at, now=now)
        self._release(slot, limits, now)
        if not is_good:
            self._counts.failed += 1
        if slot.era == self._pause.era:
            self._judge.judge(slot, answer, is_good=is_good)
        self._admission.wake()

    def _release(self, slot: HeldSlot, limits: RateLimits, now: float) -> None:
        self._quota.learn(limits, sent_at=slot.sent_at, now=now)
        self._windows.release(now)
        self._ended_at = now

    def _adopt(self, window: Window) -> None:
        """Use a window that HubSpot reports and that is new."""
        self._admission.set_pace(self._windows.tighter)
        self._concurrency.fit(self._windows.tighter)
        if window not in self._logged and len(self._logged) < MOST_LIMITS_LOGGED:
            self._logged.add(window)
            log.info("lane.limit_learned", account=self._account, requests=window.limit, window_s=window.window_s)

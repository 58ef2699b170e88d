"""Lets one account's requests leave when nothing speaks against it, and learns from what comes of them."""

import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Self, assert_never

import structlog

from poller.core.model import (
    AccountState,
    Answer,
    Finished,
    GateReading,
    Missing,
    Outcome,
    Pause,
    RateLimits,
    Refused,
    Running,
    Throttled,
    Unreachable,
)
from poller.core.protocols import Clock, Slot
from poller.hubspot.limits.admission import AdmissionQueue
from poller.hubspot.limits.outage import Concurrency, OutageDetector
from poller.hubspot.limits.pause import (
    LONGEST_GAP_S,
    SHORT_GAP_S,
    LanePause,
    migrating_wait_s,
    outage_wait_s,
    refused_wait_s,
    throttled_wait_s,
)
from poller.hubspot.limits.quota import DailyQuota, next_quarter_in_s
from poller.hubspot.limits.window import Window
from poller.hubspot.limits.windows import AccountWindows, assumed_used_s

log = structlog.get_logger()

USUAL_LATENCY_S = 0.4  # of a slow answer that is still usual
NEWS_EVERY_S = 2.0  # how often a refused lane polls whether a person gave it another token
MOST_WORKERS = 1024
FEW_ERRORS = 15
FEW_ERRORS_SHARE = 0.045  # of all requests; HubSpot asks for less than 5 % a day
MOST_LIMITS_LOGGED = 20  # different ones an account, in case the headers change all the time


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """What the person set for an account; None where they did not."""

    requests: int | None = None  # in any rolling `window_s`; None: 100, until HubSpot's headers tell
    window_s: float | None = None  # None: 10
    workers: int | None = None  # most requests in flight; None: 16, or more where the limit needs them
    daily_limit: int | None = None
    daily_reserve: float = 0.1  # left to the account's other apps: a share below 1, or a number of requests
    time_zone: str = "UTC"  # the account's own: its day ends at midnight there


def enough_workers(requests: float, window_s: float) -> int:
    """Return how many requests in flight can use a limit up at any usual latency: 16, by Little's law more for high
    limits. Fewer would waste quota; many more would only wait, and all fail together when the API hangs."""
    return min(max(16, math.ceil(USUAL_LATENCY_S * requests / window_s)), MOST_WORKERS)


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
    ) -> None:
        """`has_new_token` tells, while the token is refused, whether another is there to be tried at once."""
        self.requests_total = 0
        self.errors_total = 0  # time-outs and answers that told nothing of a task; unknown ids are not among them
        self._account = account
        self._clock = clock
        self._monotonic = monotonic
        self._rng = rng
        self._has_new_token = has_new_token
        self._windows = AccountWindows(limits.requests, limits.window_s)
        own = self._windows.own
        self._own_workers = limits.workers
        self._concurrency = Concurrency(limits.workers or enough_workers(own.limit, own.window_s))
        self._weather = OutageDetector()
        self._pause = LanePause(account, monotonic=monotonic, paused_s=state.paused_s)
        self._quota = DailyQuota(
            limit=limits.daily_limit,
            reserve=limits.daily_reserve,
            time_zone=limits.time_zone,
            clock=clock,
            day=state.day,
            day_requests=state.day_requests,
        )
        assumed_s = assumed_used_s(state, self._windows.own, clock())
        self._assumed_until = monotonic() + assumed_s
        self._active_at = clock() if assumed_s and not state.clean else state.active_at
        self._logged: set[Window] = set()
        self._turnstile = AdmissionQueue(self._wait_s, self._windows.own)

    # --- what others see

    @property
    def pause(self) -> Pause | None:
        return self._pause.reason

    @property
    def pause_detail(self) -> str | None:
        """For people: what brought the pause about."""
        return self._pause.detail

    @property
    def resume_at(self) -> float | None:
        """When the pause is expected to end, wall clock; None where nobody knows."""
        return self._pause.resume_at

    @property
    def workers(self) -> int:
        return self._concurrency.workers

    @property
    def paused_s(self) -> float:
        return self._pause.paused_s

    @property
    def in_flight(self) -> int:
        return self._windows.in_flight

    @property
    def window_used(self) -> int:
        """How many slots of the tighter window are taken."""
        return self._windows.used(self._monotonic())

    @property
    def window_limit(self) -> int:
        """How many slots the tighter window has."""
        return self._windows.tighter.limit

    def state(self) -> AccountState:
        return AccountState(
            active_at=self._clock() if self.in_flight else self._active_at,
            paused_s=self.paused_s,
            day=self._quota.day,
            day_requests=self._quota.day_requests,
            pause=None if self.pause is None else self.pause.value,
            pause_detail=self.pause_detail,
            resume_at=self.resume_at,
        )

    def reading(self) -> GateReading:
        tighter, left, usable = self._windows.tighter, self._quota.left(self.in_flight), self._quota.usable
        return GateReading(
            state=self.state(),
            workers=self.workers,
            in_flight=self.in_flight,
            window_used=self.window_used,
            window_limit=tighter.limit,
            window_s=tighter.window_s,
            requests=self.requests_total,
            errors=self.errors_total,
            daily_left=None if math.isinf(left) else max(0, int(left)),
            daily_usable=None if math.isinf(usable) else max(0, int(usable)),
            resets_at=self._quota.resets_at,
            pauses=dict(self._pause.begun),
        )

    def slot(self, about: object = None) -> AbstractAsyncContextManager[Slot]:
        """Wait for the right to send one request. `about` is what it asks for, such as the task's key: failures make
        an outage only when they are about different things. Without it, each request counts as different."""
        return _HeldSlot(self, about)

    def close(self) -> None:
        self._turnstile.close()

    def apply(self, limits: GateLimits, *, has_new_token: Callable[[], bool] | None = None) -> None:
        """Keep to other limits of the person's from now on; what was learned and counted stays. A pause for which a
        person had to act is probed at once."""
        if not self._windows.retune(limits.requests, limits.window_s):
            self._assumed_until = self._monotonic() + self._windows.own.hold_s
        tighter = self._windows.tighter
        self._own_workers = limits.workers
        self._concurrency.limit(limits.workers or enough_workers(tighter.limit, tighter.window_s))
        self._turnstile.set_pace(tighter)
        self._quota.retune(limit=limits.daily_limit, reserve=limits.daily_reserve, time_zone=limits.time_zone)
        if has_new_token is not None:
            self._has_new_token = has_new_token
        if self._pause.reason in (Pause.TOKEN_REFUSED, Pause.SCOPE_MISSING, Pause.WRONG_PATH):
            self._pause.probe_at = min(self._pause.probe_at, self._monotonic())
        elif self._pause.reason is Pause.DAILY_QUOTA:
            self._resume()
        self._turnstile.wake()

    # --- may a request leave

    async def enter(self, slot: "_HeldSlot") -> None:
        """Wait for the slot and take it."""
        await self._turnstile.let_through(lambda: self._take(slot))

    def _wait_s(self) -> float:
        """Return how long nothing can leave: 0 is now, infinity until something happens."""
        now = self._monotonic()
        if now < self._assumed_until:
            return self._assumed_until - now
        if self._pause.reason is None and self._quota.left(self.in_flight) <= 0:
            if self._quota.left() > 0:
                return math.inf  # what is in flight may be counted already: its answers will tell
            self._pause_for_the_day(self._quota.why_none_is_left())
        if self._pause.reason is None:
            allowed = self._concurrency.allowed
        else:
            allowed = self._concurrency.workers
            if (probe_in_s := self._probe_in_s(now)) > 0:
                return probe_in_s
        return math.inf if self.in_flight >= allowed else self._windows.free_in_s(now)

    def _probe_in_s(self, now: float) -> float:
        pause = self._pause
        if pause.reason is Pause.DAILY_QUOTA and pause.probe_at <= now and self._quota.own_left() <= 0:
            pause.probe_at = now + self._until_quarter_s()
        wait_s = pause.probe_at - now
        if pause.probe or pause.reason not in (Pause.TOKEN_REFUSED, Pause.SCOPE_MISSING):
            return wait_s
        return 0.0 if self._has_new_token() else min(wait_s, NEWS_EVERY_S)

    def _take(self, slot: "_HeldSlot") -> None:
        self.requests_total += 1
        slot.number = self.requests_total
        slot.sent_at = self._monotonic()
        slot.era = self._pause.era
        if self._pause.reason is not None:
            overdue_in_s = SHORT_GAP_S if self._errors_are_few() else LONGEST_GAP_S
            self._pause.send_probe(slot.number, overdue_in_s=overdue_in_s)
        self._windows.take()
        self._quota.send()

    # --- what came of it

    def leave_untold(self, slot: "_HeldSlot") -> None:
        """The request may have reached the server until now, and nobody will tell what came of it."""
        now = self._monotonic()
        self._give_back(now)
        self._quota.note(RateLimits(), sent_at=slot.sent_at, now=now)
        if slot.number == self._pause.probe:
            self._pause.go_on(self._gap_s(self._pause.failed + 1))
        self._turnstile.wake()

    def learn(self, slot: "_HeldSlot", answer: Answer) -> None:
        """The request's answer is known. What left before a pause neither ends nor extends it."""
        now = self._monotonic()
        self._learn_limits(answer.limits)
        self._windows.learn_others(answer.limits, sent_at=slot.sent_at, now=now)
        self._quota.note(answer.limits, sent_at=slot.sent_at, now=now)
        self._give_back(now)
        if not isinstance(answer.outcome, Running | Finished | Missing):
            self.errors_total += 1
        if slot.era == self._pause.era:
            self._judge(slot, answer)
        self._turnstile.wake()

    def _give_back(self, now: float) -> None:
        self._windows.give_back(now)
        self._active_at = self._clock()

    def _learn_limits(self, limits: RateLimits) -> None:
        if (window := self._windows.learn(limits)) is None:
            return
        tighter = self._windows.tighter
        self._turnstile.set_pace(tighter)
        if self._own_workers is None:
            self._concurrency.workers = enough_workers(tighter.limit, tighter.window_s)
        if window not in self._logged and len(self._logged) < MOST_LIMITS_LOGGED:
            self._logged.add(window)
            log.info("lane.limit_learned", account=self._account, requests=window.limit, window_s=window.window_s)

    def _judge(self, slot: "_HeldSlot", answer: Answer) -> None:
        outcome: Outcome = answer.outcome
        self._weather.note(slot.about, failed=isinstance(outcome, Unreachable))
        match outcome:
            case Running() | Finished() | Missing():
                self._concurrency.succeed()
                self._resume()
            case Throttled(policy="daily"):
                self._pause_for_the_day("HubSpot answered 429: the account's daily limit is used up")
            case Throttled(policy="migrating"):
                self._pause_for_migration(outcome)
            case Throttled():
                if self._pause.reason is None:
                    self._windows.refuse(answer.limits, sent_at=slot.sent_at, now=self._monotonic())
                self._pause_for_the_window(outcome)
            case Refused():
                reason = Pause(outcome.reason)
                self._pause.begin(reason, outcome.detail, wait_s=refused_wait_s(self._pause.failures(reason)))
            case Unreachable():
                self._fail(slot, outcome)
            case _:
                assert_never(outcome)

    def _resume(self) -> None:
        if self._pause.reason is None:
            return
        if self._pause.reason is Pause.DAILY_QUOTA and self._quota.left(self.in_flight) <= 0:
            self._pause_for_the_day(self._quota.why_none_is_left())
            return
        self._pause.end()
        self._weather.clear()
        self._concurrency.restart(self.in_flight)

    def _pause_for_the_day(self, detail: str) -> None:
        wait_s, resume_at = self._until_quarter_s(), self._quota.resets_at
        self._pause.begin(Pause.DAILY_QUOTA, detail, wait_s=wait_s, resume_at=resume_at)

    def _pause_for_migration(self, outcome: Throttled) -> None:
        wait_s = migrating_wait_s(outcome.retry_after_s)
        detail = "HubSpot answered 477: it is moving the account to another data centre"
        self._pause.begin(Pause.MIGRATING, detail, wait_s=wait_s, resume_at=self._clock() + wait_s)

    def _pause_for_the_window(self, outcome: Throttled) -> None:
        window = self._windows.tighter
        relapses = self._pause.relapses(within_s=2 * window.window_s)
        wait_s = throttled_wait_s(outcome.retry_after_s, window_s=window.hold_s, relapses=relapses)
        detail = f"HubSpot answered 429: {window.limit} requests in {window.window_s:g} s are used up, not by us alone"
        self._pause.begin(Pause.THROTTLED, detail, wait_s=wait_s, resume_at=self._clock() + wait_s)

    def _fail(self, slot: "_HeldSlot", outcome: Unreachable) -> None:
        if outcome.reason == "timeout":
            self._concurrency.time_out(slot.number, self.requests_total)
        if self._pause.reason is not None and slot.number != self._pause.probe:
            return  # a probe that was given up
        if self._weather.is_outage and self._pause.reason is not Pause.DAILY_QUOTA:
            gap_s = self._gap_s(self._pause.failures(Pause.OUTAGE), outcome.retry_after_s)
            self._pause.begin(Pause.OUTAGE, f"most polls fail, the latest with {outcome.reason}", wait_s=gap_s)
        elif slot.number == self._pause.probe:
            self._pause.go_on(self._gap_s(self._pause.failed + 1, outcome.retry_after_s))

    def _gap_s(self, failures: int, asked_s: float | None = None) -> float:
        share = self._rng.uniform(0.85, 1.0)
        return outage_wait_s(asked_s, failures=failures, errors_are_few=self._errors_are_few(), share=share)

    def _errors_are_few(self) -> bool:
        return self.errors_total < max(FEW_ERRORS, FEW_ERRORS_SHARE * self.requests_total)

    def _until_quarter_s(self) -> float:
        return next_quarter_in_s(self._clock()) + self._rng.uniform(1.0, 3.0)


class _HeldSlot:
    """A slot: asked for, then held until its answer is told or it is left."""

    __slots__ = ("_gate", "_told", "about", "era", "number", "sent_at")

    def __init__(self, gate: AccountGate, about: object) -> None:
        self._gate = gate
        self._told = True  # nothing to tell until it is taken
        self.about = self if about is None else about
        self.number = 0
        self.sent_at = 0.0
        self.era = 0

    async def __aenter__(self) -> Self:
        await self._gate.enter(self)
        self._told = False
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._told:
            self._told = True
            self._gate.leave_untold(self)

    def answered(self, answer: Answer) -> None:
        if not self._told:
            self._told = True
            self._gate.learn(self, answer)

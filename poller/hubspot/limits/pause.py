"""The pause of a lane: its reason, its probes, how long it lasts, and its log events."""

import math
from collections import Counter
from random import Random

import structlog

from poller.core.accounts import Pause
from poller.core.model import Refused, Throttled, Unreachable
from poller.core.protocols import Clock
from poller.hubspot.limits.outage import RequestCounts
from poller.hubspot.limits.quota import DailyQuota
from poller.hubspot.limits.window import Window

log = structlog.get_logger("poller")

LONGEST_THROTTLED_S = 300.0
LONGEST_MIGRATING_S = 900.0  # a 477 may name a day, but the account may be back any minute
LONGEST_PROBE_GAP_S = 60.0
SHORT_PROBE_GAP_S = 8.0  # longest gap while errors are few: a lane is back within 10 s of the API
LOG_EVERY_S = 600.0
QUARTER_S = 900.0  # every time zone's midnight falls on a quarter hour of UTC


class Probes:
    """The requests that leave during a pause, one at a time, to see whether it is over."""

    def __init__(self, counts: RequestCounts, *, monotonic: Clock, rng: Random) -> None:
        self.due_at = 0.0  # when the next one may leave, monotonic
        self.number = 0  # of the request that is out; 0: none
        self.failed = 0  # since the pause has its present reason
        self.doublings_each = 1.0  # of the gap, with each failed probe of an outage
        self._counts = counts
        self._monotonic = monotonic
        self._rng = rng

    def send(self, number: int, *, is_outage: bool) -> None:
        """Request `number` leaves as the probe. In an outage another follows when this one takes long: a request that
        hangs until its time-out must not hide that the API is back."""
        overdue_in_s = SHORT_PROBE_GAP_S if self._counts.errors_are_few else LONGEST_PROBE_GAP_S
        self.number = number
        self.due_at = self._monotonic() + overdue_in_s if is_outage else math.inf

    def wait(self, wait_s: float) -> None:
        """Let the next probe leave in `wait_s`."""
        self.number = 0
        self.due_at = self._monotonic() + wait_s

    def fail(self, asked_s: float | None = None) -> None:
        """The probe showed neither the pause's reason nor its end; `asked_s` is the server's Retry-After."""
        self.failed += 1
        self.wait(self.outage_gap_s(self.failed, asked_s))

    def outage_gap_s(self, failures: int, asked_s: float | None) -> float:
        share = self._rng.uniform(0.85, 1.0)
        doublings = failures * self.doublings_each
        return outage_wait_s(asked_s, doublings=doublings, errors_are_few=self._counts.errors_are_few, share=share)

    def quarter_in_s(self, now: float) -> float:
        """Return a wait to just after the next quarter hour of UTC; `now` is the wall clock's."""
        return QUARTER_S - now % QUARTER_S + self._rng.uniform(1.0, 3.0)


class LanePause:
    """At most one pause at a time. While it lasts, only probes leave."""

    def __init__(self, account: str, probes: Probes, *, clock: Clock, monotonic: Clock, paused_s: float) -> None:
        self.probes = probes
        self.reason: Pause | None = None
        self.detail: str | None = None  # for people: the cause
        self.resume_at: float | None = None  # forecast, wall clock
        self.era = 0  # changes when a pause begins and when it ends: answers to requests of an earlier era do not count
        self.begun: Counter[Pause] = Counter()  # pauses of this run, by reason
        self._account = account
        self._clock = clock
        self._monotonic = monotonic
        self._began_at = 0.0
        self._logged_at = 0.0
        self._base_s = paused_s
        self._kept: tuple[Pause, str | None, float | None, float] | None = None  # below a person's pause, if any

    @property
    def paused_s(self) -> float:
        """The length of all pauses, earlier runs included, up to now."""
        return self._base_s if self.reason is None else self._base_s + self._since_s()

    def throttle(self, outcome: Throttled, window: Window, *, has_room: bool, relapses: int) -> None:
        """HubSpot returned 429 for the rolling window; `has_room`: often, though its headers show room."""
        wait_s = throttled_wait_s(outcome.retry_after_s, window_s=window.hold_s, relapses=relapses)
        detail = f"HubSpot answered 429: {window.limit} requests in {window.window_s:g} s are used up, not by us alone"
        if not outcome.is_marked:
            detail = (
                "an answer 429 without HubSpot's marks came: where it stays, check the proxy or gateway on the way, "
                "which may have a limit of its own"
            )
        elif has_room:
            detail = "HubSpot often answers 429 though its headers show room: another of its limits is reached"
        self._begin(Pause.THROTTLED, detail, wait_s, self._clock() + wait_s)

    def use_up_day(self, quota: DailyQuota, detail: str | None = None) -> None:
        """The day's quota is used up, as `detail` or the quota's own count shows."""
        wait_s = self.probes.quarter_in_s(quota.day_clock())
        self._begin(Pause.DAILY_QUOTA, detail or quota.why_none_is_left(), wait_s, quota.resets_at)

    def migrate(self, outcome: Throttled) -> None:
        """HubSpot returned 477."""
        asked_s = LONGEST_PROBE_GAP_S if outcome.retry_after_s is None else outcome.retry_after_s
        wait_s = min(max(asked_s, 1.0), LONGEST_MIGRATING_S)
        detail = "HubSpot answered 477: it is moving the account to another data centre"
        self._begin(Pause.MIGRATING, detail, wait_s, self._clock() + wait_s)

    def refuse(self, outcome: Refused) -> None:
        """HubSpot refuses the account until a person acts."""
        reason = Pause(outcome.reason)
        self._begin(reason, outcome.detail, refused_wait_s(self._failures(reason)))

    def lose_api(self, outcome: Unreachable, *, doublings_each: float) -> None:
        """The API is down. `doublings_each`: less than 1 where failed polls were frequent before."""
        self.probes.doublings_each = doublings_each
        gap_s = self.probes.outage_gap_s(self._failures(Pause.OUTAGE), outcome.retry_after_s)
        self._begin(Pause.OUTAGE, f"most polls fail, the latest with {outcome.reason}", gap_s)

    @property
    def is_by_person(self) -> bool:
        return self.reason is Pause.PAUSED_BY_PERSON

    def hold(self, detail: str | None) -> None:
        """A person pauses the account: nothing leaves, not even a probe, until `release`."""
        if self.is_by_person:
            return
        self._kept = None
        if self.reason is not None:
            self._kept = (self.reason, self.detail, self.resume_at, self.probes.due_at)
        self._begin(Pause.PAUSED_BY_PERSON, detail, math.inf)

    def release(self) -> bool:
        """The person resumes the account. A pause that was under way before has not ended by that. Return whether no
        pause is left."""
        if not self.is_by_person:
            return self.reason is None
        kept, self._kept = self._kept, None
        if kept is None:
            self.end()
            return True
        reason, detail, resume_at, due_at = kept
        self.reason = None  # `_begin` replaces no pause of a person
        log.info("lane.resumed", account=self._account, pause=Pause.PAUSED_BY_PERSON.value, paused_s=self._rounded_s())
        self._base_s += self._since_s()
        wait_s = 0.0 if math.isinf(due_at) else max(0.0, due_at - self._monotonic())
        self._begin(reason, detail, wait_s, resume_at)
        return False

    def end(self) -> None:
        """End the pause."""
        if self.reason is None:
            return
        log.info("lane.resumed", account=self._account, pause=self.reason.value, paused_s=self._rounded_s())
        self._base_s += self._since_s()
        self.era += 1
        self.reason = self.detail = self.resume_at = None
        self.probes.number = 0
        self.probes.failed = 0

    def _failures(self, reason: Pause) -> int:
        """Return how many probes in a row met `reason`, the latest included."""
        return self.probes.failed + 1 if reason is self.reason else 0

    def _begin(self, reason: Pause, detail: str | None, wait_s: float, resume_at: float | None = None) -> None:
        """Pause, or continue the pause, for `reason`; the next probe may leave in `wait_s`. A person's pause stays:
        answers to requests that left before it change nothing."""
        if self.is_by_person:
            return
        now = self._monotonic()
        is_new = reason is not self.reason
        self.probes.failed = self._failures(reason)
        if self.reason is None:
            self._began_at = now
            self.era += 1
        self.begun[reason] += is_new
        self.reason, self.detail, self.resume_at = reason, detail, resume_at
        self.probes.wait(wait_s)
        if is_new or now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.warning(
                "lane.paused",
                account=self._account,
                pause=reason.value,
                detail=detail,
                resume_in_s=None if resume_at is None else round(wait_s, 3),
            )

    def _since_s(self) -> float:
        return self._monotonic() - self._began_at

    def _rounded_s(self) -> float:
        return round(self._since_s(), 3)


def throttled_wait_s(asked_s: float | None, *, window_s: float, relapses: int) -> float:
    """Return the wait after a 429: its Retry-After, or one window; longer after each relapse."""
    wait_s = window_s if asked_s is None else max(asked_s, 1.0)
    return float(min(wait_s * 1.5 ** min(relapses, 20), LONGEST_THROTTLED_S))


def refused_wait_s(failures: int) -> float:
    """Return the gap to the next probe while a person must act: 5, 10, 20 … 60 s."""
    return float(min(5 * 2 ** min(failures, 10), LONGEST_PROBE_GAP_S))


def outage_wait_s(asked_s: float | None, *, doublings: float, errors_are_few: bool, share: float) -> float:
    """Return the gap to the next probe while the API is down: 1, 2, 4, 8, 8 … s, or up to 60 s once errors are many.

    `share` below 1 shortens it, so that replicas do not probe in step.
    """
    gap_s = min(2.0 ** min(doublings, 10), SHORT_PROBE_GAP_S if errors_are_few else LONGEST_PROBE_GAP_S)
    return float(max(gap_s * share, min(asked_s or 0.0, LONGEST_PROBE_GAP_S)))

"""A lane's pause: its reason, its probes, how long it lasts, and what the log says of it."""

import math
from collections import Counter

import structlog

from poller.core.model import Pause
from poller.core.protocols import Clock

log = structlog.get_logger()

LONGEST_THROTTLED_S = 300.0
LONGEST_MIGRATING_S = 86_400.0  # HubSpot's own bound of a 477's Retry-After
LONGEST_GAP_S = 60.0  # between two probes
SHORT_GAP_S = 8.0  # longest gap while errors are few: a lane is back within 10 s of the API
LOGGED_AGAIN_S = 600.0


class LanePause:
    """At most one pause at a time. While it lasts, one request at a time may leave to see whether it is over.

    In an outage a probe that is out for long is given up and followed by the next: a request that hangs until its
    time-out must not keep the lane from seeing that the API is back.
    """

    def __init__(self, account: str, *, monotonic: Clock, paused_s: float) -> None:
        self.reason: Pause | None = None
        self.detail: str | None = None
        self.resume_at: float | None = None  # forecast, wall clock
        self.probe_at = 0.0  # when the next probe may leave, monotonic
        self.probe = 0  # number of the request that is out as a probe; 0: none
        self.era = 0  # turns when a pause begins and when it ends: a request of an earlier era says nothing of this one
        self.begun: Counter[Pause] = Counter()  # pauses of this run, by reason
        self.failed = 0  # probes of this pause since its reason is what it is
        self._began_at = 0.0
        self._ended_at = 0.0
        self._throttled = 0  # consecutive window pauses
        self._logged_at = 0.0
        self._account = account
        self._monotonic = monotonic
        self._base_s = paused_s

    @property
    def paused_s(self) -> float:
        """All pauses together, ever, up to this instant."""
        return self._base_s + self._this_s()

    def failures(self, reason: Pause) -> int:
        """Return how many probes in a row met `reason`, the one that has just met it included."""
        return self.failed + 1 if reason is self.reason else 0

    def relapses(self, *, within_s: float) -> int:
        """Return how many throttlings came before this one, each `within_s` after the other."""
        if self.reason is None and self._monotonic() - self._ended_at > within_s:
            self._throttled = 0
        return self._throttled

    def begin(self, reason: Pause, detail: str, *, wait_s: float, resume_at: float | None = None) -> None:
        """Pause, or go on pausing, for `reason`; the next probe may leave in `wait_s`."""
        now = self._monotonic()
        news = reason is not self.reason
        if self.reason is None:
            self._began_at = now
            self.era += 1
        self.failed = 0 if news else self.failed + 1
        self.begun[reason] += news
        if reason is Pause.THROTTLED:
            self._throttled += 1
        self.reason, self.detail, self.resume_at = reason, detail, resume_at
        self.probe_at = now + wait_s
        self.probe = 0
        if news or now - self._logged_at >= LOGGED_AGAIN_S:
            self._log_paused(now, resume_in_s=wait_s if resume_at is not None else None)

    def send_probe(self, number: int, *, overdue_in_s: float) -> None:
        """Request `number` leaves as the probe."""
        self.probe = number
        self.probe_at = self._monotonic() + overdue_in_s if self.reason is Pause.OUTAGE else math.inf

    def go_on(self, wait_s: float) -> None:
        """The probe told nothing new; the next may leave in `wait_s`."""
        self.failed += 1
        self.probe_at = self._monotonic() + wait_s
        self.probe = 0

    def end(self) -> None:
        """The reason is gone."""
        if self.reason is None:
            return
        log.info("lane.resumed", account=self._account, pause=self.reason.value, paused_s=round(self._this_s(), 3))
        self._base_s += self._this_s()
        self.era += 1
        self._ended_at = self._monotonic()
        self.reason = self.detail = self.resume_at = None
        self.probe = 0
        self.failed = 0

    def _this_s(self) -> float:
        return 0.0 if self.reason is None else self._monotonic() - self._began_at

    def _log_paused(self, now: float, *, resume_in_s: float | None) -> None:
        self._logged_at = now
        log.warning(
            "lane.paused",
            account=self._account,
            pause=self.reason and self.reason.value,
            detail=self.detail,
            resume_in_s=None if resume_in_s is None else round(resume_in_s, 3),
        )


def throttled_wait_s(asked_s: float | None, *, window_s: float, relapses: int) -> float:
    """Return how long to wait after a 429: what HubSpot asked for, else one window; more when they repeat."""
    wait_s = window_s if asked_s is None else max(asked_s, 1.0)
    return float(min(wait_s * 1.5 ** min(relapses, 20), LONGEST_THROTTLED_S))


def migrating_wait_s(asked_s: float | None) -> float:
    """Return how long to wait after a 477."""
    return LONGEST_GAP_S if asked_s is None else min(max(asked_s, 1.0), LONGEST_MIGRATING_S)


def refused_wait_s(failures: int) -> float:
    """Return the gap to the next probe while a person must act: 5, 10, 20 … 60 s."""
    return float(min(5 * 2 ** min(failures, 10), LONGEST_GAP_S))


def outage_wait_s(asked_s: float | None, *, failures: int, errors_are_few: bool, share: float) -> float:
    """Return the gap to the next probe while the API is down: 1, 2, 4, 8, 8 … s, or on to 60 s once errors are many.

    `share` below 1 shortens it, so that replicas do not probe in step.
    """
    gap_s = min(2.0 ** min(failures, 10), SHORT_GAP_S if errors_are_few else LONGEST_GAP_S)
    return max(gap_s * share, min(asked_s or 0.0, LONGEST_GAP_S))

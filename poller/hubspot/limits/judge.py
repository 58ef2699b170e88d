"""Judges an account by the answers to its requests: which one begins, extends or ends a pause."""

from typing import assert_never

from poller.core.accounts import Pause
from poller.core.model import Answer, Finished, Missing, RateLimits, Refused, Running, Throttled, Unreachable
from poller.core.protocols import Clock
from poller.hubspot.limits.concurrency import Concurrency
from poller.hubspot.limits.held_slot import HeldSlot
from poller.hubspot.limits.outage import OutageDetector, RefusalDetector, RequestCounts, ThrottleWatch
from poller.hubspot.limits.pause import LanePause
from poller.hubspot.limits.quota import DailyQuota
from poller.hubspot.limits.windows import AccountWindows
from poller.schedule.policy import doublings_each


class AnswerJudge:
    """Separates what concerns the account from what concerns one task, by the account's answers in their order. Changes
    the pause, the share of the window that is left to others, and how many requests may be in flight."""

    def __init__(
        self,
        pause: LanePause,
        windows: AccountWindows,
        quota: DailyQuota,
        concurrency: Concurrency,
        *,
        counts: RequestCounts,
        monotonic: Clock,
    ) -> None:
        self._pause = pause
        self._windows = windows
        self._quota = quota
        self._concurrency = concurrency
        self._counts = counts
        self._monotonic = monotonic
        self._outage = OutageDetector()
        self._refusals = RefusalDetector()
        self._throttles = ThrottleWatch()

    def judge(self, slot: HeldSlot, answer: Answer, *, is_good: bool) -> None:
        """Take the answer to a request that left in the present era of the pause."""
        is_probe = self._pause.reason is not None
        if is_good:  # as mostly
            self._outage.note(slot.subject, failed=False, succeeded=True, is_probe=is_probe, number=slot.number)
            self._throttles.note(throttled=False)
            self._concurrency.succeed()
            self._refusals.succeed()
            if is_probe:
                self.resume()
            return
        outcome = answer.outcome
        is_failed = isinstance(outcome, Unreachable)
        self._outage.note(slot.subject, failed=is_failed, is_probe=is_probe, number=slot.number)
        self._throttles.note(throttled=isinstance(outcome, Throttled))
        match outcome:
            case Running() | Finished() | Missing():
                pass  # good
            case Throttled():
                self._throttle(slot, outcome, answer.limits)
            case Refused():
                if self._concerns_account(slot, outcome.reason):
                    self._pause.refuse(outcome)
                else:
                    self.fail_probe(slot)
            case Unreachable():
                self._refusals.fail()
                self._fail(slot, outcome)
            case _:
                assert_never(outcome)

    def resume(self) -> None:
        """End the pause, unless it is a person's or the day's quota is still used up."""
        if self._pause.reason is None or self._pause.is_by_person:
            return
        in_flight = self._windows.in_flight
        if self._pause.reason is Pause.DAILY_QUOTA and self._quota.left(in_flight) <= 0:
            self._pause.use_up_day(self._quota)
            return
        self._pause.end()
        self.begin_again()

    def begin_again(self) -> None:
        """After a pause: one request, then more."""
        self._outage.clear()
        self._concurrency.restart(self._windows.in_flight)

    def _concerns_account(self, slot: HeldSlot, reason: str) -> bool:
        """Return whether a refusal is the account's and not one task's: during a pause for the same reason, and a wrong
        account by its nature, which many tasks have shown."""
        self._refusals.note(slot.subject, reason)
        return reason in (self._pause.reason, Pause.WRONG_ACCOUNT) or self._refusals.is_account

    def _throttle(self, slot: HeldSlot, outcome: Throttled, limits: RateLimits) -> None:
        match outcome.policy:
            case "daily":
                self._pause.use_up_day(self._quota, "HubSpot answered 429: the account's daily limit is used up")
            case "migrating":
                if self._concerns_account(slot, outcome.policy):
                    self._pause.migrate(outcome)
                else:
                    self.fail_probe(slot)
            case "window":
                self._throttle_window(slot, outcome, limits)
            case _:
                assert_never(outcome.policy)

    def _throttle_window(self, slot: HeldSlot, outcome: Throttled, limits: RateLimits) -> None:
        """Pause the account, unless the headers show room, or there are none and good answers were before it: while
        they are few, such 429s are sporadic, and only their requests go back. A wait that HubSpot asks for is kept."""
        has_room = self._windows.shows_room(limits, self._monotonic())
        if self._pause.reason is None:
            if has_room and not self._throttles.is_frequent:
                return
            if not has_room:
                self._windows.refuse(limits, sent_at=slot.sent_at, now=self._monotonic())
                if self._windows.refusal_is_isolated and outcome.retry_after_s is None:
                    return
        relapses = 0 if self._windows.doubts_refusals else self._throttles.relapses
        self._pause.throttle(outcome, self._windows.tighter, has_room=has_room, relapses=relapses)
        self._throttles.relapse()
        self._windows.believe()

    def _fail(self, slot: HeldSlot, outcome: Unreachable) -> None:
        if outcome.reason == "timeout":
            self._concurrency.time_out(slot.number, self._counts.sent)
        if self._pause.reason is not None and slot.number != self._pause.probes.number:
            return  # an overdue probe, which another has replaced
        if self._outage.is_outage and self._pause.reason is not Pause.DAILY_QUOTA:
            self._pause.lose_api(outcome, doublings_each=doublings_each(self._outage.usual_failed_share))
        else:
            self.fail_probe(slot, outcome.retry_after_s)

    def fail_probe(self, slot: HeldSlot, asked_s: float | None = None) -> None:
        """Where this request was the probe: it showed neither the pause's reason nor its end."""
        if slot.number == self._pause.probes.number:
            self._pause.probes.fail(asked_s)

"""The windows in force for an account: the person's, and the one that HubSpot's headers report."""

import math

from poller.core.accounts import AccountState
from poller.core.handover import Handover
from poller.core.model import RateLimits
from poller.hubspot.limits.sporadic import SporadicRefusals
from poller.hubspot.limits.window import KEPT_S, HeldSlots, Others, Window

DEFAULT_REQUESTS = 100  # the lowest limit that HubSpot gives to any app
DEFAULT_WINDOW_S = 10.0
LONGEST_WINDOW_S = 3600.0  # a longer interval in a header is nonsense


class AccountWindows:
    """A request may leave when a slot is free in every window in force.

    The headers' window takes effect at once. The person's remains in force beside it; the default does not. Only the
    headers' window is shared with other clients.
    """

    def __init__(self, requests: int | None, window_s: float | None, known: tuple[int, float] | None = None) -> None:
        """`known`: requests and seconds of the window that HubSpot reported to an earlier process."""
        self.reported: Window | None = None
        self._known = None if known is None else Window(limit=known[0], window_s=known[1])
        self._held = HeldSlots()
        self._others = Others()
        self._sporadic = SporadicRefusals()
        self._room, self._room_at = 0, -math.inf  # slots left by the latest report, requests then in flight taken off
        self._full_until = 0.0
        self._set(requests, window_s)

    def _set(self, requests: int | None, window_s: float | None) -> None:
        self._own_remains = requests is not None
        if requests is None:  # a shorter time alone is no limit: 100 in one second would be ten times HubSpot's
            window_s = max(window_s or 0.0, DEFAULT_WINDOW_S)
        self.own = Window(limit=requests or DEFAULT_REQUESTS, window_s=window_s or DEFAULT_WINDOW_S)
        self._derive()

    def apply(self, requests: int | None, window_s: float | None, now: float) -> None:
        """Use another limit of the person's from now on. Where its window reaches back further than the instants that
        are kept, it counts as full for its whole length."""
        longest_s = self.longest.window_s
        self._set(requests, window_s)
        if self.own.window_s > longest_s + KEPT_S:
            self.fill(self.own.hold_s, now)

    def fill(self, for_s: float, now: float) -> None:
        """Treat all slots as taken for this long: unknown requests may have been sent."""
        self._full_until = now + for_s

    def take_over(self, handover: Handover, now: float) -> None:
        """Count the requests that another process sent: those whose ages are known, or a full window."""
        if handover.is_clean:
            self._held.restore(handover.slot_ages_s, now)
        else:
            self.fill(self.longest.hold_s + handover.settle_s, now)
        self.reported = self._known
        self._derive()

    def ages_s(self, now: float) -> tuple[float, ...] | None:
        """Return how long ago each request ended that a window may still count; None where any slot may be in use."""
        if self.in_flight or self._full_until > now:
            return None
        return self._held.ages_s(self.longest.hold_s, now)

    @property
    def in_flight(self) -> int:
        """How many requests have left and not ended."""
        return self._held.in_flight

    def _derive(self) -> None:
        """Compute what is used once a request and seldom changes. `longest` is the window that counts requests for
        longer: the person's, or the one that HubSpot reported last."""
        known = self.own if self._known is None else self._known
        self.longest = max(self.own, known, key=lambda window: window.window_s)
        # Whether the person's window remains in force beside another one
        self._are_two = self._own_remains and self.reported is not None and self.reported != self.own

    @property
    def tighter(self) -> Window:
        """The window that allows fewer requests a second."""
        if self.reported is None:
            return self.own
        if not self._own_remains:
            return self.reported
        return min(self.reported, self.own, key=lambda window: window.limit / window.window_s)

    def used(self, now: float) -> int:
        """Return how many slots of the tighter window are taken."""
        return self._held.used(self.tighter, now)

    def take(self) -> None:
        """Take a slot for a request that leaves."""
        self._held.in_flight += 1

    def release(self, now: float) -> None:
        """A request has ended; its slots remain taken for one more window."""
        self._held.release(now, self.longest.window_s)

    def free_in_s(self, now: float) -> float:
        """Return when a request may leave: 0 is now, infinity means that an answer must come first."""
        if self._full_until > now:
            return self._full_until - now
        window = self.reported or self.own
        capacity = self._others.capacity(window, now)
        wait_s = self._held.free_in_s(window, capacity, now)
        if wait_s and capacity != window.limit:
            wait_s = min(wait_s, self._others.easier_in_s(window, now))
        if self._are_two:
            wait_s = max(wait_s, self._held.free_in_s(self.own, self.own.limit, now))
        return wait_s

    def learn(self, limits: RateLimits) -> Window | None:
        """Use the limit that an answer's headers report; return the window if it is new. Without a length, that of the
        one reported before counts, or HubSpot's usual one. A length alone is no limit."""
        reported, limit, interval_s = self.reported, limits.max, limits.interval_s
        if reported is not None and limit == reported.limit and interval_s == reported.window_s:
            return None
        limit = limit if limit is not None and limit > 0 else None
        if interval_s is not None and not 0 < interval_s <= LONGEST_WINDOW_S:
            interval_s = None
        if limit is None:
            return None
        known = self.reported or self.own
        usual_s = DEFAULT_WINDOW_S if self.reported is None else self.reported.window_s
        window = Window(limit=limit, window_s=interval_s or usual_s)
        if window == self.reported:
            return None
        self.reported = self._known = window
        self._derive()
        return window if window != known else None

    def learn_others(self, limits: RateLimits, *, accepted: bool, sent_at: float, now: float) -> None:
        """Learn how much others use from the answer to a request sent at `sent_at` that still holds its slot."""
        window = self.reported
        if window is None and limits.remaining is None:
            self._learn_without_counts(accepted, sent_at, now)
        if window is None or limits.max != window.limit or limits.remaining is None:
            return
        if accepted:
            self._others.accept(limits.remaining)
        in_flight = self._held.in_flight
        self._room, self._room_at = limits.remaining - in_flight, now
        used = window.limit - max(0, limits.remaining)
        if used <= in_flight:
            return  # all of it may be ours
        self._others.prove(used - self._held.counted_at_most(window, sent_at), window, now)

    def _learn_without_counts(self, accepted: bool, sent_at: float, now: float) -> None:
        count = self._held.counted_at_most(self.own, sent_at)
        note = self._sporadic.accept if accepted else self._sporadic.refuse
        if note(count, self.own, now):
            self._others.forgive()

    def shows_room(self, limits: RateLimits, now: float) -> bool:
        """Return whether a 429 with these headers has another cause than a window that is used up: they report room, or
        those of the answer before it did, or the report is known to be wrong. Without headers: 429s come whatever we
        send."""
        if limits.max is None or limits.remaining is None:
            if self.reported is None:
                return self._sporadic.are_known
            is_recent = now - self._room_at < self.tighter.window_s / 2
            return is_recent and (self._room > 0 or not self._others.are_proved(now))
        return limits.remaining > 0 or self._others.is_disbelieved

    @property
    def refusal_is_isolated(self) -> bool:
        """Whether the latest answer is a 429 among good ones, all without headers: no reason for more than caution."""
        return self.reported is None and self._sporadic.is_isolated

    @property
    def doubts_refusals(self) -> bool:
        """Whether 429s without headers seem to have another cause than a window that is used up."""
        return self._sporadic.are_suspected

    def believe(self) -> None:
        """429s are frequent: take reports of a used-up window seriously again."""
        self._others.believe()

    def refuse(self, limits: RateLimits, *, sent_at: float, now: float) -> None:
        """HubSpot refused a request that was within the limit by our count: others share it. Where its headers report
        the count, and for a single 429, a little more caution is enough; else all that we did not use counts as
        theirs."""
        window = self.reported or self.own
        is_reported = limits.max is not None and limits.remaining is not None
        if is_reported:
            self._others.refuse(0, window, now)
        elif self.reported is None and (self._sporadic.is_isolated or self._sporadic.is_single):
            self._others.refuse(0, window, now, steps=self._sporadic.caution_steps)
        else:
            self._others.refuse(window.limit - self._held.counted_at_most(window, sent_at), window, now)


def assumed_used_s(state: AccountState, window: Window, now: float) -> float:
    """Return for how long after a restart the window counts as full. `now` is the wall clock's.

    After a run that did not end in order that is the whole window, however long ago it seems: its clock may have been
    behind.
    """
    if state.active_at is None:
        return 0.0
    if not state.clean:
        return window.hold_s
    return min(max(0.0, window.hold_s - (now - state.active_at)), window.hold_s)

"""The windows in force for an account, as the person set them and as HubSpot's headers tell."""

from poller.core.model import AccountState, RateLimits
from poller.hubspot.limits.window import KEPT_S, HeldSlots, Others, Window

DEFAULT_REQUESTS = 100  # the lowest limit that HubSpot gives to any app
DEFAULT_WINDOW_S = 10.0
LONGEST_WINDOW_S = 3600.0  # a header that tells more is taken for nonsense
STALE_S = 120.0  # the state left by a run that was killed may be this old: a request's time-out and the gap of saves


class AccountWindows:
    """A request may leave when a slot is free in every window in force.

    The headers' window takes effect at once. Where it is wider than the person's, the person's stays in force; where
    the person set none, it stands alone. Only the headers' window is shared with other clients.
    """

    def __init__(self, requests: int | None, window_s: float | None) -> None:
        self.own = Window(limit=requests or DEFAULT_REQUESTS, window_s=window_s or DEFAULT_WINDOW_S)
        self._own_stays = requests is not None
        self._told: Window | None = None
        self._both_count = False  # the person's window beside another that the headers tell
        self._held = HeldSlots()
        self._others = Others()

    def retune(self, requests: int | None, window_s: float | None) -> bool:
        """Keep to another limit of the person's; tell whether all is known that it counts."""
        longest_s = self.own.window_s if self._told is None else max(self.own.window_s, self._told.window_s)
        self.own = Window(limit=requests or DEFAULT_REQUESTS, window_s=window_s or DEFAULT_WINDOW_S)
        self._own_stays = requests is not None
        self._both_count = self._own_stays and self._told is not None and self._told != self.own
        return self.own.window_s <= longest_s + KEPT_S

    @property
    def in_flight(self) -> int:
        """How many requests have left and not come to their end."""
        return self._held.in_flight

    @property
    def tighter(self) -> Window:
        """The window that allows fewer requests a second."""
        if self._told is None:
            return self.own
        if not self._own_stays:
            return self._told
        return min(self._told, self.own, key=lambda window: window.limit / window.window_s)

    def used(self, now: float) -> int:
        """Return how many slots of the tighter window are taken."""
        return self._held.used(self.tighter, now)

    def take(self) -> None:
        """A request leaves."""
        self._held.take()

    def give_back(self, now: float) -> None:
        """A request came to its end; its slots stay taken for a window more."""
        longest_s = self.own.window_s if self._told is None else max(self.own.window_s, self._told.window_s)
        self._held.answer(now, longest_s)

    def free_in_s(self, now: float) -> float:
        """Return when a request may leave: 0 is now, infinity means that an answer must come first."""
        if self._told is None:
            return self._shared_free_in_s(self.own, now)
        wait_s = self._shared_free_in_s(self._told, now)
        if self._both_count:
            wait_s = max(wait_s, self._held.free_in_s(self.own, self.own.limit, now))
        return wait_s

    def learn(self, limits: RateLimits) -> Window | None:
        """Take over what an answer's headers tell; return the window if it is news."""
        told, limit, interval_s = self._told, limits.max, limits.interval_s
        if told is not None and limit == told.limit and interval_s == told.window_s:
            return None
        limit = limit if limit is not None and limit > 0 else None
        if interval_s is not None and not 0 < interval_s <= LONGEST_WINDOW_S:
            interval_s = None
        if limit is None and interval_s is None:
            return None
        known = self._told or self.own
        window = Window(limit=limit or known.limit, window_s=interval_s or known.window_s)
        if window == self._told:
            return None
        self._told = window
        self._both_count = self._own_stays and window != self.own
        return window if window != known else None

    def learn_others(self, limits: RateLimits, *, sent_at: float, now: float) -> None:
        """See from the answer to a request that left at `sent_at`, while that still holds its slot, what others use."""
        window = self._told
        if window is None or limits.max != window.limit or limits.remaining is None:
            return
        used = window.limit - max(0, limits.remaining)
        self._others.prove(used - self._held.counted_at_most(window, sent_at), window, now)

    def refuse(self, limits: RateLimits, *, sent_at: float, now: float) -> None:
        """HubSpot refused a request that by our count was within the limit: others share it. Where its headers tell
        how many they are, a little more caution will do; else all that we did not use was theirs."""
        window = self._told or self.own
        told = limits.max is not None and limits.remaining is not None
        unseen = 0 if told else window.limit - self._held.counted_at_most(window, sent_at)
        self._others.refuse(unseen, window, now)

    def _shared_free_in_s(self, window: Window, now: float) -> float:
        capacity = self._others.capacity(window, now)
        wait_s = self._held.free_in_s(window, capacity, now)
        return wait_s if capacity == window.limit else min(wait_s, self._others.easier_in_s(window, now))


def assumed_used_s(state: AccountState, window: Window, now: float) -> float:
    """Return for how long the window must be taken for used after a restart. `now` is the wall clock's."""
    if state.active_at is None:
        return 0.0
    idle_s = now - state.active_at
    if state.clean:
        return min(max(0.0, window.hold_s - idle_s), window.hold_s)
    return window.hold_s if idle_s <= window.hold_s + STALE_S else 0.0

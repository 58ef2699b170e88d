"""How long a request may take, by how long the latest answers took."""

import asyncio
import math
from collections import deque

from poller.core.shared_timeout import SharedTimeout


class RequestTimeouts:
    """The time-out of each request: the person's limit, or a half, a quarter … of it that is many times what usual
    answers take. A request that hangs then costs seconds; one that is only slow is repeated with twice the time, and
    where answers become slow, the limit of all requests follows. Requests that time out together, although one that was
    sent after them was answered, do not lengthen it: they hung, and the server answers as fast as before."""

    SHORTEST_S = 5.0
    MANY_TIMES = 5
    LATEST, SLOW_OF_LATEST = 100, 5  # the slowest 5 of 100 answers are not usual
    JUDGED_EVERY = 20  # answers
    REMEMBERED = 10_000  # tasks whose requests timed out: some are never answered

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._loop: asyncio.AbstractEventLoop | None = None  # known from the first request on
        self._shared: dict[int, SharedTimeout] = {}  # by halvings of the limit
        self._latest: deque[float] = deque(maxlen=self.LATEST)  # how long answers took
        self._unjudged = 0
        self._halvings = 0
        self._in_a_row = 0  # time-outs of requests that were sent after each answered one
        self._answered_to = -math.inf  # when the latest of the answered requests was sent
        self._timed_out: dict[int, int] = {}  # time-outs in a row, by task

    def now(self) -> float:
        """Return the time by which requests are measured."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time()

    def of(self, key: int) -> SharedTimeout:
        """Return the time-out of the next request for task `key`."""
        halvings = self._halvings
        if self._timed_out:
            halvings = max(0, halvings - max(self._in_a_row, self._timed_out.get(key, 0)))
        shared = self._shared.get(halvings)
        if shared is None:
            shared = self._shared[halvings] = SharedTimeout(self._limit_s / 2**halvings)
        return shared

    def answer(self, key: int, *, sent_at: float, took_s: float) -> None:
        """Note that a request for task `key`, sent at `sent_at`, was answered after `took_s`."""
        self._in_a_row = 0
        if sent_at > self._answered_to:
            self._answered_to = sent_at
        if self._timed_out:
            self._timed_out.pop(key, None)
        self._latest.append(took_s)
        self._unjudged += 1
        if self._unjudged == self.JUDGED_EVERY:
            self._unjudged = 0
            self._judge()

    def time_out(self, key: int, *, sent_at: float) -> None:
        """Note that a request for task `key`, sent at `sent_at`, timed out."""
        self._in_a_row += sent_at > self._answered_to
        self._timed_out[key] = self._timed_out.pop(key, 0) + 1  # the latest is the last
        if len(self._timed_out) > self.REMEMBERED:
            del self._timed_out[next(iter(self._timed_out))]

    def _judge(self) -> None:
        slow = math.ceil(len(self._latest) * self.SLOW_OF_LATEST / self.LATEST)
        usual_s = sorted(self._latest)[-1 - slow]
        enough_s = max(self.SHORTEST_S, self.MANY_TIMES * usual_s)
        self._halvings = max(0, int(math.log2(self._limit_s / enough_s)))

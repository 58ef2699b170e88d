"""How long a request may take, and `asyncio.timeout` for many waits with one timer for all of the same length."""

import asyncio
import math
from collections import deque
from types import TracebackType
from typing import Any

STALL_S, GRACE_S = 0.5, 0.05  # a timer that fires so late shows a stall; then so long for what has arrived meanwhile


class SharedTimeout:
    """Raises `TimeoutError` after `seconds`. Use with `with`, in any number of tasks, not nested. A cancellation from
    elsewhere passes through. Where the whole process stood still, answers that came meanwhile are read first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()  # asked for once: it costs as much as all the rest
        self._waits: dict[asyncio.Task[Any], tuple[float, int]] = {}  # the deadline, cancellations before it
        self._timed_out: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_grace = False  # the timer is that after a stall

    def __enter__(self) -> None:
        task = asyncio.current_task(self._loop)
        if task is None:
            raise RuntimeError("SharedTimeout needs a running task")
        ends_at = self._loop.time() + self._seconds
        self._waits[task] = ends_at, task.cancelling()
        if self._timer is None:
            self._timer = self._loop.call_at(ends_at, self._cancel_late)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task(self._loop)
        assert task is not None  # noqa: S101 - as in `__enter__`
        _, cancelled_before = self._waits.pop(task)
        if task in self._timed_out:
            self._timed_out.remove(task)
            if task.uncancel() <= cancelled_before and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _cancel_late(self) -> None:
        """Cancel all tasks whose time is over, then set the timer for the next one."""
        self._timer = None
        if self._is_late and not self._is_grace:
            self._is_grace = True
            self._timer = self._loop.call_later(GRACE_S, self._cancel_late)
            return
        self._is_grace = False
        for task, (ends_at, _) in self._waits.items():
            if task in self._timed_out:
                continue
            if ends_at > self._loop.time():
                self._timer = self._loop.call_at(ends_at, self._cancel_late)
                return
            self._timed_out.add(task)
            task.cancel()

    @property
    def _is_late(self) -> bool:
        """Whether the earliest deadline was missed by so much that the process must have stood still."""
        ends_at = next((ends_at for task, (ends_at, _) in self._waits.items() if task not in self._timed_out), math.inf)
        return self._loop.time() - ends_at > STALL_S


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

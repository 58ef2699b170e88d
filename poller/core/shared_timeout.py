"""`asyncio.timeout` for many waits with one timer for all of the same length. Where the whole process stood still,
answers that came meanwhile are read before a wait is given up.
"""

import asyncio
import math
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


async def is_done_within(future: "asyncio.Future[Any]", seconds: float) -> bool:
    """Wait for a future; return whether it is done in time. It is not cancelled where it is not."""
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    await asyncio.wait([future], timeout=seconds)
    if not future.done() and loop.time() - ends_at > STALL_S:
        await asyncio.wait([future], timeout=GRACE_S)
    return future.done()

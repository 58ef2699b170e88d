"""`asyncio.timeout` for many waits of the same length, with one timer for all of them."""

import asyncio
from types import TracebackType
from typing import Any


class SharedTimeout:
    """Raises `TimeoutError` after `seconds`. Use with `with`, in any number of tasks, not nested. A cancellation from
    elsewhere passes through."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[asyncio.Task[Any], tuple[float, int]] = {}  # the deadline, cancellations before it
        self._timed_out: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("SharedTimeout needs a running task")
        loop = task.get_loop()
        ends_at = loop.time() + self._seconds
        self._waits[task] = ends_at, task.cancelling()
        if self._timer is None:
            self._timer = loop.call_at(ends_at, self._cancel_late, loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - as in `__enter__`
        _, cancelled_before = self._waits.pop(task)
        if task in self._timed_out:
            self._timed_out.remove(task)
            if task.uncancel() <= cancelled_before and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _cancel_late(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel all tasks whose time is over, then set the timer for the next one."""
        self._timer = None
        for task, (ends_at, _) in self._waits.items():
            if task in self._timed_out:
                continue
            if ends_at > loop.time():
                self._timer = loop.call_at(ends_at, self._cancel_late, loop)
                return
            self._timed_out.add(task)
            task.cancel()

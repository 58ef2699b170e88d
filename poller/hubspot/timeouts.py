"""`asyncio.timeout` for many waits of one length, at the price of one timer for all of them."""

import asyncio
from types import TracebackType
from typing import Any


class SharedTimeout:
    """Use with `with`, in any number of tasks, once at a time in each. Raises `TimeoutError` after `seconds`; a
    cancellation from elsewhere passes through."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[asyncio.Task[Any], tuple[float, int]] = {}  # until when, cancelled how often
        self._over: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time-out needs a task that it can interrupt")
        loop = task.get_loop()
        ends_at = loop.time() + self._seconds
        self._waits[task] = ends_at, task.cancelling()
        if self._timer is None:
            self._timer = loop.call_at(ends_at, self._interrupt, loop)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - as `__enter__` found
        _, cancelled_before = self._waits.pop(task)
        if task in self._over:
            self._over.remove(task)
            if task.uncancel() <= cancelled_before and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _interrupt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Interrupt what is over, then wait for the first that is not: about one call for each length of time."""
        self._timer = None
        for task, (ends_at, _) in self._waits.items():
            if task in self._over:
                continue
            if ends_at > loop.time():
                self._timer = loop.call_at(ends_at, self._interrupt, loop)
                return
            self._over.add(task)
            task.cancel()

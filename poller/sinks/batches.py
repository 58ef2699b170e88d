"""Brings a batch to its receiver in portions and finds the records of a refused portion that are to blame.

What is settled is remembered while the rest has to come again, so that a failure repeats nothing but its own portion.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from poller.core.errors import SinkError
from poller.core.model import Delivery, Retry, Written

Portion = tuple[Delivery, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRefused:
    """The receiver will never take the portion as it is."""

    reason: str
    whole: bool = False  # every record is to blame, there is nothing to find out


Send = Callable[[Portion], Awaitable[Retry | RecordRefused | None]]  # None: taken


class Portions:
    """Sends portions of at most `size` records, `at_once` at a time; with one at a time, strictly in order."""

    def __init__(self, send: Send, *, size: int, at_once: int = 1) -> None:
        self._send = send
        self._size = size
        self._at_once = at_once
        self._queue: deque[Portion] = deque()
        self._settled: dict[int, str | None] = {}  # number → why it was refused; None: taken
        self._failed = False

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        """Do what `Sink.write` promises."""
        self._take_up(batch)
        self._failed = False
        try:
            async with asyncio.TaskGroup() as group:
                senders = [group.create_task(self._send_all()) for _ in range(self._at_once)]
        except* SinkError as errors:
            raise errors.exceptions[0] from None
        if retries := [retry for sender in senders if (retry := sender.result()) is not None]:
            return max(retries, key=lambda retry: retry.wait_s)
        refused = {number: reason for number, reason in self._settled.items() if reason is not None}
        self._settled.clear()
        return Written(refused=refused)

    def _take_up(self, batch: Sequence[Delivery]) -> None:
        """Portions that failed before come first and unchanged: what is derived from their content stays the same."""
        there = {delivery.number for delivery in batch}
        kept = [portion for portion in self._queue if there.issuperset(delivery.number for delivery in portion)]
        known = self._settled.keys() | {delivery.number for portion in kept for delivery in portion}
        fresh = [delivery for delivery in batch if delivery.number not in known]
        cut = [tuple(fresh[at : at + self._size]) for at in range(0, len(fresh), self._size)]
        self._queue = deque(sorted(kept + cut, key=lambda portion: portion[0].number))
        self._settled = {number: reason for number, reason in self._settled.items() if number in there}

    async def _send_all(self) -> Retry | None:
        while self._queue and not self._failed:
            portion = self._queue.popleft()
            match await self._send(portion):
                case None:
                    self._settle(portion, None)
                case RecordRefused(reason=reason, whole=whole) if whole or len(portion) == 1:
                    self._settle(portion, reason)
                case RecordRefused():
                    middle = len(portion) // 2
                    self._queue.extendleft((portion[middle:], portion[:middle]))
                case Retry() as retry:
                    self._queue.append(portion)
                    self._failed = True
                    return retry
        return None

    def _settle(self, portion: Portion, reason: str | None) -> None:
        self._settled |= {delivery.number: reason for delivery in portion}

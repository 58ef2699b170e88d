"""Splits records into batches of the receiver's size and finds the refused records of a refused batch.

A failure repeats only its own batch: what was accepted or refused is remembered while the rest comes again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import SinkError

Batch = tuple[Delivery, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRefused:
    """The receiver will never accept the batch as it is."""

    reason: str
    every_record: bool = False  # true: the refusal is about each of them, so they need not be sent one by one


SendBatch = Callable[[Batch], Awaitable[Retry | BatchRefused | None]]  # None: accepted


class BatchSender:
    """Sends batches of at most `size` records, `concurrency` at a time; with one at a time, strictly in order."""

    def __init__(self, send: SendBatch, *, size: int, concurrency: int = 1) -> None:
        self._send = send
        self._size = size
        self._concurrency = concurrency
        self._queue: deque[Batch] = deque()
        self._settled: dict[int, str | None] = {}  # record number → why it was refused; None: accepted
        self._failed = False

    async def write(self, records: Sequence[Delivery]) -> Written | Retry:
        """Do what `Sink.write` promises."""
        self._enqueue(records)
        self._failed = False
        try:
            async with asyncio.TaskGroup() as group:
                senders = [group.create_task(self._send_all()) for _ in range(self._concurrency)]
        except* SinkError as errors:
            raise errors.exceptions[0] from None
        if retries := [retry for sender in senders if (retry := sender.result()) is not None]:
            return max(retries, key=lambda retry: retry.wait_s)
        refused = {number: reason for number, reason in self._settled.items() if reason is not None}
        self._settled.clear()
        return Written(refused=refused)

    def _enqueue(self, records: Sequence[Delivery]) -> None:
        """Batches that failed come first and unchanged, so an id derived from their content stays the same."""
        present = {record.number for record in records}
        kept = [batch for batch in self._queue if present.issuperset(record.number for record in batch)]
        known = self._settled.keys() | {record.number for batch in kept for record in batch}
        fresh = [record for record in records if record.number not in known]
        new = [tuple(fresh[at : at + self._size]) for at in range(0, len(fresh), self._size)]
        self._queue = deque(sorted(kept + new, key=lambda batch: batch[0].number))
        self._settled = {number: reason for number, reason in self._settled.items() if number in present}

    async def _send_all(self) -> Retry | None:
        while self._queue and not self._failed:
            batch = self._queue.popleft()
            match await self._send(batch):
                case None:
                    self._settle(batch, None)
                case BatchRefused(reason=reason, every_record=every_record) if every_record or len(batch) == 1:
                    self._settle(batch, reason)
                case BatchRefused():
                    middle = len(batch) // 2
                    self._queue.extendleft((batch[middle:], batch[:middle]))
                case Retry() as retry:
                    self._queue.append(batch)
                    self._failed = True
                    return retry
        return None

    def _settle(self, batch: Batch, reason: str | None) -> None:
        self._settled |= {record.number: reason for record in batch}

"""Finished tasks for a loop in this process: `finished()` of the Python API is a sink like any other.

A record counts as delivered once the loop asks for the next one. That is marked in the state for each record, so that
after a kill only the record that the loop's body had is handed over again.
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from poller.core.deliveries import Delivery, Retry, Written

T = TypeVar("T")

NAME = "python"  # identifies the sink across restarts
NOTHING_IN_HAND = b""  # the position between two batches


def taken_before(position: bytes | None) -> tuple[int, int] | None:
    """Return the first and the last record of an unfinished batch that were taken."""
    found = re.fullmatch(rb"(\d+)-(\d+)", position or b"")
    return (int(found[1]), int(found[2])) if found else None


class ConsumerSink(Generic[T]):
    """Hands records to one loop, in order. `mark` notes a position for this sink in the state."""

    def __init__(
        self,
        decode: Callable[[bytes], T],
        mark: Callable[[str, bytes], Awaitable[None]],
        *,
        on_batch: Callable[[], None],
    ) -> None:
        self.name = NAME
        self.settled = 0  # records of this run that were taken, now or before a kill, or refused
        self._decode = decode
        self._mark = mark
        self._on_batch = on_batch
        self._waiting: deque[tuple[int, T]] = deque()  # of the batch, not handed over yet
        self._held: int | None = None  # the record that the loop's body has
        self._first = 0  # of the batch
        self._taken_before: tuple[int, int] | None = None  # first and last record that were taken before a kill
        self._progress = asyncio.Event()
        self._is_ending = False

    # --- for the delivery loop

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002 - the protocol's
        self._taken_before = taken_before(position)
        return position

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        refused = self._begin(batch)
        self._on_batch()
        while self._left is not None and not self._is_ending:
            self._progress.clear()
            await self._progress.wait()
        left = self._left
        taken = [delivery for delivery in batch if left is None or delivery.number < left]
        self._waiting.clear()
        refused = {number: reason for number, reason in refused.items() if taken and number <= taken[-1].number}
        return Written(position=NOTHING_IN_HAND, count=len(taken), refused=refused)

    def _begin(self, batch: Sequence[Delivery]) -> dict[int, str]:
        """Make a batch ready to be handed over; return the records that cannot be."""
        refused: dict[int, str] = {}
        self._first = batch[0].number
        for delivery in batch:
            try:
                record = self._decode(delivery.body)
            except ValueError as error:  # before a kill it was not handed over either, though others around it were
                refused[delivery.number] = f"cannot be read as JSON in Python: {error}"
                self.settled += 1
                continue
            if self._was_taken(delivery.number):
                self.settled += 1
            else:
                self._waiting.append((delivery.number, record))
        return refused

    def _was_taken(self, number: int) -> bool:
        return self._taken_before is not None and self._taken_before[0] <= number <= self._taken_before[1]

    @property
    def _left(self) -> int | None:
        """The first record of the batch that was not taken."""
        return self._held if self._held is not None else self._waiting[0][0] if self._waiting else None

    async def close(self) -> None:
        """Nothing to close."""

    # --- for the loop

    def next(self) -> T | None:
        """Hand over the next record; None while there is none."""
        if self._is_ending or not self._waiting:
            return None
        self._held, record = self._waiting.popleft()
        return record

    async def take(self) -> None:
        """The loop's body is done with the record that `next` returned."""
        if self._held is None:
            return
        await self._mark(self.name, b"%d-%d" % (self._first, self._held))
        self._held = None
        self.settled += 1
        self._progress.set()

    def end(self) -> None:
        """Hand over nothing more; what was not taken stays undelivered."""
        self._is_ending = True
        self._progress.set()

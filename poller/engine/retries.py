"""Starts failed rows again, some time later: as another attempt, stored right after the outcome of the one before.

A process that dies in between makes no attempt; `poller report --resubmit` names the row as before.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from random import Random
from typing import NamedTuple

import orjson
import structlog

from poller.core.model import Chunk, FedRow, Position, Record
from poller.core.protocols import Clock, Store
from poller.engine.live_feed import LiveFeed
from poller.engine.service import Service

log = structlog.get_logger("poller")

WAITS_S = (120.0, 1200.0)  # before the second attempt, and before each after it; longer by up to a quarter


class _Failed(NamedTuple):
    record: Record
    row: str
    attempts: int
    feeding: ExitStack  # keeps the run from ending


class Retries:
    """The failed rows of one account that are started again."""

    def __init__(
        self,
        account: str,
        *,
        service: Service,
        store: Store,
        most: int,
        is_worth_it: Callable[[bytes], bool],
        clock: Clock,
        rng: Random,
    ) -> None:
        """`most`: attempts after the first; 0: none. `is_worth_it` returns whether the failure in a record may pass."""
        self._account = account
        self._service = service
        self._store = store
        self._most = most
        self._is_worth_it = is_worth_it
        self._clock = clock
        self._rng = rng
        self._feed = LiveFeed(service, service.feed_store, f"retries of {account}")
        self._failed: asyncio.Queue[_Failed | None] = asyncio.Queue()  # None: no more will come

    def apply(self, most: int, is_worth_it: Callable[[bytes], bool]) -> None:
        """Use other settings from the next outcome on. Attempts that are stored are made."""
        self._most = most
        self._is_worth_it = is_worth_it

    def on_recorded(self, records: Sequence[Record]) -> None:
        """Take records that are on disk. The run does not end before the attempts that follow from them are stored."""
        if not self._most:
            return
        dominant = self._service.failures.warning
        for record in records:
            if record.landed or (dominant is not None and record.reason == dominant.reason):
                continue
            row, attempts = _row_of(record)
            if row and attempts <= self._most and self._is_worth_it(record.body):
                with ExitStack() as stack:
                    stack.enter_context(self._service.feeding())
                    self._failed.put_nowait(_Failed(record, row, attempts, stack.pop_all()))

    async def run(self) -> None:
        """Store attempts until `end`, those that are taken by then as well."""
        try:
            while (failed := await self._failed.get()) is not None:
                with failed.feeding:
                    await self._try_again(failed.record, failed.row, failed.attempts)
        finally:
            while not self._failed.empty():
                if (left := self._failed.get_nowait()) is not None:
                    left.feeding.close()

    def end(self) -> None:
        """No more records come."""
        self._failed.put_nowait(None)

    async def _try_again(self, record: Record, row: str, attempts: int) -> None:
        named = row if attempts == 1 else f"{row}~{attempts}"
        body = (await self._store.start_bodies(self._account, [named])).get(named)
        if body is None or record.ref is None:
            return
        wait_s = WAITS_S[min(attempts, len(WAITS_S)) - 1] * self._rng.uniform(1.0, 1.25)
        again = FedRow(account=self._account, row=row, body=body, ref=record.ref, due_at=self._clock() + wait_s)
        chunk = Chunk(fed=(), rows=(again,), rejected=(), blank=0, position=Position(line=1))
        if (error := await self._feed.add([chunk], lambda _chunk, _added: None)) is not None:
            raise error
        log.info(
            "row.retried",
            account=self._account,
            row=row,
            attempt=attempts + 1,
            wait_s=round(wait_s),
            reason=record.reason,
        )


def _row_of(record: Record) -> tuple[str, int]:
    """Return the row's identity and how many attempts there were; an empty one where an id was fed."""
    if b'"row":' not in record.body:
        return "", 0
    row, _, attempt = str(orjson.loads(record.body).get("row") or "").partition("~")
    return row, int(attempt or 1)

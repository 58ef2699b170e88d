"""The store on a schema of a PostgreSQL database. One connection writes, a pool reads.

Leases are stored in the tables, with fencing tokens, so that several processes could share a state without another
schema. For now one process owns it and also remembers which leases it holds: to renew them and to skip duplicates.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from poller.core.errors import StoreError
from poller.core.model import Added, Chunk, Delivery, Position, Selection, Settled, Task, Written
from poller.core.protocols import Clock
from poller.store.intervals import BEAT_EVERY_S, RETRY_S, SAVE_WITHIN_S
from poller.store.postgres import outbox, task_queue
from poller.store.postgres.connection import ANSWER_WITHIN_S, answered
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.errors import error_text, may_pass
from poller.store.postgres.group_commit import Apply, Writer
from poller.store.postgres.reader import PostgresReads
from poller.store.rows import refuse_unknown_sink, storable, storable_name
from poller.store.unsaved import NotingStore

log = structlog.get_logger("poller")
T = TypeVar("T")
Values = TypeVarTuple("Values")

LOG_AFTER_TRIES = 5  # every connection of the pool may be broken


class PostgresStore(PostgresReads, NotingStore):
    """The writing half; reads use the pool, and retry for as long as the server is out of reach."""

    def __init__(self, writer: Writer, pool: AsyncConnectionPool[AsyncConnection], *, dsn: Dsn, clock: Clock) -> None:
        super().__init__(writer.check)
        self._writer = writer
        self._pool = pool
        self._dsn = dsn
        self._clock = clock
        self._releasing = 0  # releases not committed yet
        self._beaten_at = clock()
        self._is_beating = False
        self._is_unreadable = False
        self._closed = False

    @property
    def writable(self) -> bool:
        return self._writer.writable

    def beat(self) -> None:
        """Note a heartbeat and renew the leases held, at most every `BEAT_EVERY_S`."""
        now = self._clock()
        if self._is_beating or 0 <= now - self._beaten_at < BEAT_EVERY_S:
            return
        self._beaten_at, self._is_beating = now, True
        self._writer.run_within(0.0, _OneByOne(self._renew), (), on_commit=self._end_beating)

    async def _renew(self, connection: AsyncConnection) -> None:
        if held := self._leases.renewable():
            await task_queue.renew(connection, held)

    def _end_beating(self, _: None) -> None:
        self._is_beating = False

    # --- feeding

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        return await self._read(task_queue.find_source, storable_name(name))

    async def new_source(self, name: str, fingerprint: str = "") -> int:
        return await self._write(task_queue.insert_source, storable_name(name), fingerprint)

    async def was_read(self, position: Position) -> bool:
        return await self._read(task_queue.was_read, position)

    async def add(self, source: int, chunk: Chunk) -> Added:
        paused_s = {name: state.paused_s for name, state in self._noted_accounts.items()}
        return await self._write(task_queue.add, source, chunk, paused_s, self._first_poll_s, self._clock())

    # --- polling

    async def claim(self, account: str, limit: int, *, fed_until: float | None = None) -> list[Task]:
        if limit <= 0:
            return []
        return await self._claim(_OneByOne(task_queue.claim), (account, limit, self._clock(), fed_until))

    async def claim_any(self, account: str, share: float) -> list[Task]:
        return await self._claim(_OneByOne(task_queue.claim_any), (account, share, self._clock()))

    async def _claim(self, claim: Apply, payload: tuple[object, ...]) -> list[Task]:
        self._writer.check()
        tasks: list[Task] = await self._writer.run(
            claim,
            payload,
            first=True,
            on_commit=self._leases.take,
            abandoned=self.release,
        )
        return tasks

    async def next_due_at(self, account: str) -> float | None:
        if self._releasing:
            await self.flush()
        return await self._read(task_queue.next_due_at, account)

    async def record(self, settled: Sequence[Settled]) -> Sequence[Settled]:
        held = self._leases.begin_recording(settled)
        if not held:
            return []
        stored: list[Settled] = await self._writer.run(
            self._record, held, on_commit=lambda _: self._leases.end_recording(held)
        )
        return stored

    async def _record(
        self, connection: AsyncConnection, batches: Sequence[Sequence[Settled]]
    ) -> Sequence[Sequence[Settled]]:
        settled = [each for batch in batches for each in batch]
        stored = await task_queue.record(connection, settled)
        if late := len(settled) - len(stored):
            log.warning("lease.lost", path=self._dsn.shown, polls=late)
        return [[each for each in batch if each.task.key in stored] for batch in batches]

    def release(self, tasks: Sequence[Task]) -> None:
        released = self._leases.release(tasks)
        if released:
            with suppress(StoreError):  # a store that has failed lets all leases run out
                release = _OneByOne(task_queue.release)
                self._writer.run_within(0.0, release, (released,), first=True, on_commit=self._end_releasing)
                self._releasing += 1

    def _end_releasing(self, _: None) -> None:
        self._releasing -= 1

    # --- what is remembered

    def _save_soon(self) -> None:
        self._writer.run_within(SAVE_WITHIN_S, _OneByOne(self._save), (), on_commit=lambda _: self._end_saving())

    async def _save(self, connection: AsyncConnection) -> None:
        await task_queue.save(connection, *self._begin_saving())

    async def flush(self) -> None:
        await self._write(_write_nothing)

    # --- delivering

    async def attach_sinks(self, names: Sequence[str]) -> Mapping[str, bytes | None]:
        wanted = tuple(dict.fromkeys(names))
        return await self._write(outbox.attach_sinks, wanted)

    async def positions(self, sinks: Sequence[str]) -> Mapping[str, bytes | None]:
        noted = await self._read(outbox.positions)
        return {sink: noted.get(sink) for sink in sinks}

    async def undelivered(self, sink: str, limit: int) -> list[Delivery]:
        return await self._read(outbox.undelivered, sink, limit)

    async def delivered(self, sink: str, batch: Sequence[Delivery], written: Written) -> None:
        numbers = [delivery.number for delivery in batch]
        refused = {number: storable(reason) for number, reason in written.refused.items()}
        await self._write(outbox.note_delivered, sink, numbers, refused, written.position, self._clock())

    async def note_position(self, sink: str, position: bytes | None) -> None:
        await self._write(outbox.note_position, sink, position)

    async def mark_position(self, sink: str, position: bytes) -> None:
        await self.note_position(sink, position)

    async def replay(self, sink: str, selection: Selection, *, from_start: bool = False) -> int:
        refuse_unknown_sink(sink, await self._read(outbox.positions))
        return await self._write(outbox.replay, sink, selection, from_start)

    async def rebase_instants(self) -> float:
        return await self._write(task_queue.rebase_instants, self._clock())

    async def prune(self, before: float, limit: int) -> int:
        return await self._write(outbox.prune, before, limit)

    # --- the connections

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await self._pool.close(timeout=0.5)  # its workers may wait for a server that is out of reach
        log.info("store.closed", path=self._dsn.shown)

    async def _write(self, write: Callable[[AsyncConnection, *Values], Awaitable[T]], *values: *Values) -> T:
        result: T = await self._writer.run(_OneByOne(write), values)
        return result

    async def _read(self, read: Callable[[AsyncConnection, *Values], Awaitable[T]], *values: *Values) -> T:
        """Return what `read` returns of what is committed, however long the server is out of reach. The writer logs
        that; what hinders reading alone is logged here."""
        tries = 0  # while the writer reaches the server
        while True:
            self._writer.check()
            try:
                async with self._pool.connection() as connection:
                    found = await answered(read(connection, *values), connection, within_s=ANSWER_WITHIN_S * 2**tries)
            except psycopg.Error as error:
                if not may_pass(error):
                    raise self._writer.fail(error) from None
                tries = tries + 1 if self.writable else 0
                if tries >= LOG_AFTER_TRIES:
                    self._note_unreadable(error)
            else:
                self._note_readable()
                return found
            await asyncio.sleep(0 if tries == 1 else RETRY_S)

    def _note_unreadable(self, error: psycopg.Error) -> None:
        if not self._is_unreadable:
            self._is_unreadable = True
            log.error("store.unreadable", path=self._dsn.shown, reason=error_text(error, self._dsn), retry_s=RETRY_S)

    def _note_readable(self) -> None:
        if self._is_unreadable:
            self._is_unreadable = False
            log.info("store.readable", path=self._dsn.shown)


@dataclass(frozen=True, slots=True)
class _OneByOne:
    """Applies `function` to one payload after the other."""

    function: Callable[..., Awaitable[object]]

    async def __call__(self, connection: AsyncConnection, payloads: Sequence[tuple[object, ...]]) -> list[object]:
        return [await self.function(connection, *payload) for payload in payloads]


async def _write_nothing(_: AsyncConnection) -> None:
    """What is pending is committed with this."""

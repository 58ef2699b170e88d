"""The store on a schema of a PostgreSQL database. One connection writes, a pool reads.

Leases are in memory: the lock makes this process the only owner, and a crash ends every lease.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, TypeVarTuple

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from poller.core.deliveries import Delivery, PruneWalk, Selection, Written
from poller.core.model import Added, Chunk, Failed, Position, Settled, Task
from poller.core.protocols import Clock
from poller.store import pruning
from poller.store.intervals import BEAT_EVERY_S, HEAVY_ROWS, RETRY_S, SAVE_WITHIN_S
from poller.store.postgres import failed, feeding, outbox, task_queue
from poller.store.postgres.connection import ANSWER_WITHIN_S, NoAnswer, answered, longer
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.errors import may_pass, read_error, reason_text
from poller.store.postgres.group_commit import OneByOne, Writer
from poller.store.postgres.reader import PostgresReads
from poller.store.postgres.search import index_rows
from poller.store.postgres.shared_read import SharedRead
from poller.store.postgres.start_store import PostgresStarts
from poller.store.rows import Row, refuse_unknown_sink, storable, storable_name
from poller.store.unsaved import NotingStore

log = structlog.get_logger("poller")
T = TypeVar("T")
Values = TypeVarTuple("Values")

LOG_AFTER_TRIES = 5  # every connection of the pool may be broken


class PostgresStore(PostgresReads, NotingStore):
    """The writing half; reads use the pool, and retry for as long as the server is out of reach."""

    _starts_type: type[PostgresStarts] = PostgresStarts

    def __init__(self, writer: Writer, pool: AsyncConnectionPool[AsyncConnection], *, dsn: Dsn, clock: Clock) -> None:
        super().__init__(writer.check)
        self._writer = writer
        self._pool = pool
        self._dsn = dsn
        self._clock = clock
        self._starts = self._starts_type(
            self._read,
            self._write,
            clock=clock,
            noted=lambda: self._noted_accounts,
            first_poll_s=self._first_poll_s,
        )
        self._beaten_at = clock()
        self._is_beating = False
        self._is_unreadable = False
        self._next_due = SharedRead(self._next_due_of)
        self._closed = False

    @property
    def starts(self) -> PostgresStarts:
        return self._starts

    @property
    def writable(self) -> bool:
        return self._writer.writable

    @property
    def unwritable_reason(self) -> str:
        return self._writer.unwritable_reason

    def beat(self) -> None:
        """Note a heartbeat, at most every `BEAT_EVERY_S`: each commit is one."""
        now = self._clock()
        if self._is_beating or 0 <= now - self._beaten_at < BEAT_EVERY_S:
            return
        self._beaten_at, self._is_beating = now, True
        self._writer.run_within(0.0, OneByOne(_write_nothing), (), on_commit=self._end_beating)

    def _end_beating(self, _: None) -> None:
        self._is_beating = False

    # --- feeding

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        return await self._read(feeding.find_source, storable_name(name))

    async def new_source(self, name: str, fingerprint: str = "", digest: str = "") -> int:
        return await self._write(feeding.insert_source, storable_name(name), fingerprint, digest)

    async def was_read(self, position: Position) -> bool:
        return await self._read(feeding.was_read, position)

    async def add(self, source: int, chunk: Chunk) -> Added:
        paused_s = {name: state.paused_s for name, state in self._noted_accounts.items()}
        write = (source, chunk, paused_s, self._first_poll_s, self._clock())
        return await self._write(feeding.add, *write, rows=len(chunk.fed) + len(chunk.rows))

    async def has_failed(self) -> bool:
        return await self._read(failed.has_failed)

    async def count_failed(self, chunk: Chunk) -> Failed:
        return await self._read(failed.count_failed, chunk)

    # --- polling

    async def claim(self, account: str, limit: int, *, again: int = 0, fed_until: float | None = None) -> list[Task]:
        if limit <= 0:
            return []
        return await self._claim(account, task_queue.find_due, limit, self._clock(), again, fed_until)

    async def claim_any(self, account: str, share: float) -> list[Task]:
        return await self._claim(account, task_queue.find_any_due, share, self._clock())

    async def _claim(self, account: str, find: Callable[..., Awaitable[list[Row]]], *values: object) -> list[Task]:
        self._writer.check()
        with self._leases.claiming(account) as ended:
            due = await self._read(find, account, tuple(self._leases.held(account)), *values)
        held = self._leases.held(account)  # another claim may have been faster
        return self._leases.take(account, [row for row in due if row[0] not in ended and row[0] not in held])

    async def next_due_at(self, account: str) -> float | None:
        return await self._next_due.of(account)

    async def _next_due_of(self, accounts: Sequence[str]) -> Mapping[str, float]:
        leased = [key for account in accounts for key in self._leases.held(account)]
        return await self._read(task_queue.next_due_of, accounts, leased)

    async def record(self, settled: Sequence[Settled]) -> Sequence[Settled]:
        held = self._leases.begin_recording(settled)
        if held:
            await self._writer.run(_record, held, rows=len(held), on_commit=lambda _: self._leases.end_recording(held))
        return held

    def release(self, tasks: Sequence[Task]) -> None:
        self._leases.release(tasks)

    def put_off(self, tasks: Sequence[tuple[Task, float]]) -> None:
        if held := self._leases.begin_putting_off(tasks):
            self._writer.run_within(
                0.0 if len(held) >= HEAVY_ROWS else SAVE_WITHIN_S,
                OneByOne(task_queue.put_off),
                (held,),
                on_commit=lambda _: self._leases.end_putting_off(held),
            )

    # --- what is remembered

    def _save_soon(self) -> None:
        self._writer.run_within(SAVE_WITHIN_S, OneByOne(self._save), (), on_commit=lambda _: self._end_saving())

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
        values = (sink, numbers, refused, written.position, self._clock())
        await self._write(outbox.note_delivered, *values, rows=len(batch))

    async def note_position(self, sink: str, position: bytes | None) -> None:
        await self._write(outbox.note_position, sink, position)

    async def mark_position(self, sink: str, position: bytes) -> None:
        await self.note_position(sink, position)

    async def replay(self, sink: str, selection: Selection, *, from_start: bool = False) -> int:
        refuse_unknown_sink(sink, await self._read(outbox.positions))
        return await self._write(outbox.replay, sink, selection, from_start)

    async def rebase_instants(self) -> float:
        return await self._write(task_queue.rebase_instants, self._clock())

    async def index_rows(self, limit: int) -> int:
        return await self._write(index_rows, limit, self._clock())

    async def prune(self, before: float, limit: int, walk: PruneWalk | None = None) -> int:
        def prune_next(before: float, limit: int, after: pruning.Place) -> Awaitable[tuple[int, pruning.Place | None]]:
            return self._write(outbox.prune, before, limit, after)

        return await pruning.prune(prune_next, before, limit, walk)

    # --- the connections

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await self._pool.close(timeout=0.5)  # its workers may wait for a server that is out of reach
        log.info("store.closed", path=self._dsn.shown)

    async def _write(
        self,
        write: Callable[[AsyncConnection, *Values], Awaitable[T]],
        *values: *Values,
        rows: int = 1,
        on_commit: Callable[[], None] | None = None,
    ) -> T:
        """Return what `write` returned, once it is on disk; `on_commit` runs right after the commit."""
        then = None if on_commit is None else lambda _: on_commit()
        result: T = await self._writer.run(OneByOne(write), values, rows=rows, on_commit=then)
        return result

    async def _read(self, read: Callable[[AsyncConnection, *Values], Awaitable[T]], *values: *Values) -> T:
        """Return what `read` returns of what is committed, however long the server is out of reach. The writer logs
        that; what hinders reading alone is logged here."""
        tries, within_s = 0, ANSWER_WITHIN_S  # tries: while the writer reaches the server
        while True:
            self._writer.check()
            try:
                async with self._connection() as connection:
                    found = await answered(read(connection, *values), connection, within_s=within_s)
            except psycopg.DataError as error:  # of this read's values: it must not end the others
                raise read_error(error, self._dsn) from None
            except psycopg.Error as error:
                if not may_pass(error):
                    raise self._writer.fail(error) from None
                tries = tries + 1 if self.writable else 0
                within_s = longer(within_s) if isinstance(error, NoAnswer) else within_s
                if tries >= LOG_AFTER_TRIES:
                    self._note_unreadable(error)
            else:
                self._note_readable()
                return found
            await asyncio.sleep(0 if tries == 1 else RETRY_S)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection of the pool, which forgets a cancellation that comes while it hands one over."""
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        async with self._pool.connection() as connection:
            if task is not None and task.cancelling() > before:
                raise asyncio.CancelledError
            yield connection

    def _note_unreadable(self, error: psycopg.Error) -> None:
        if not self._is_unreadable:
            self._is_unreadable = True
            log.error("store.unreadable", path=self._dsn.shown, reason=reason_text(error, self._dsn), retry_s=RETRY_S)

    def _note_readable(self) -> None:
        if self._is_unreadable:
            self._is_unreadable = False
            log.info("store.readable", path=self._dsn.shown)


async def _record(connection: AsyncConnection, batches: Sequence[Sequence[Settled]]) -> Sequence[None]:
    """Record the polls of all lanes that share a commit in one go."""
    await task_queue.record(connection, [each for batch in batches for each in batch])
    return [None] * len(batches)


async def _write_nothing(_: AsyncConnection) -> None:
    """What is pending is committed with this."""

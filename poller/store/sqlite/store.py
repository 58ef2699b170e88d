"""The store on one SQLite file and one writing connection.

Leases live in memory: the process lock makes this process the only owner, and a crash ends every lease.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar, TypeVarTuple

import structlog

from poller.core.deliveries import Delivery, PruneWalk, Selection, Written
from poller.core.model import Added, Chunk, Failed, Position, Settled, Task
from poller.core.protocols import Clock
from poller.core.search import TaskPage
from poller.core.sums import Sums
from poller.store import pruning
from poller.store.intervals import SAVE_WITHIN_S
from poller.store.rows import refuse_unknown_sink, storable, storable_name
from poller.store.sqlite import failed, outbox, task_queue
from poller.store.sqlite.errors import may_pass, moved, store_error
from poller.store.sqlite.group_commit import GroupCommit
from poller.store.sqlite.lock import ProcessLock
from poller.store.sqlite.reader import SqliteReader
from poller.store.sqlite.search import Search, follow_aside, index_rows
from poller.store.sqlite.start_store import SqliteStarts
from poller.store.unsaved import NotingStore

log = structlog.get_logger("poller")
T = TypeVar("T")
Values = TypeVarTuple("Values")


class SqliteStore(SqliteReader, NotingStore):
    """The writing half; reads run between two commits, on the same connection."""

    def __init__(
        self, connection: sqlite3.Connection, *, path: str, lock: ProcessLock | None, clock: Clock, linger_s: float
    ) -> None:
        super().__init__(connection, path)
        self._lock = lock
        self._clock = clock
        self._commits = GroupCommit(connection, path=path, linger_s=linger_s, clock=clock, beat=self.beat)
        NotingStore.__init__(self, self._commits.check)
        self._starts = SqliteStarts(
            connection,
            self._read,
            self._commits,
            clock=clock,
            noted=lambda: self._noted_accounts,
            first_poll_s=self._first_poll_s,
        )
        self._closed = False

    @property
    def starts(self) -> SqliteStarts:
        return self._starts

    @property
    def writable(self) -> bool:
        return self._commits.writable

    @property
    def unwritable_reason(self) -> str:
        return self._commits.unwritable_reason

    def beat(self) -> None:
        if self._lock is not None and self._lock.beat(self._clock()):
            self._check_files()

    def _check_files(self) -> None:
        if self._lock is not None and (path := self._lock.missing_file()) is not None:
            self._commits.end(moved(str(path)), "moved")

    async def sums(self) -> Sums:
        self._check_files()
        return await super().sums()

    # --- feeding

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        return self._read(task_queue.find_source, storable_name(name))

    async def new_source(self, name: str, fingerprint: str = "", digest: str = "") -> int:
        return await self._write(task_queue.insert_source, storable_name(name), fingerprint, digest)

    async def was_read(self, position: Position) -> bool:
        return self._read(task_queue.was_read, position)

    async def add(self, source: int, chunk: Chunk) -> Added:
        noted, first_poll_s, now = self._noted_accounts, self._first_poll_s, self._clock()
        size = len(chunk.fed) + len(chunk.rows)
        return await self._write(task_queue.add, source, chunk, noted, first_poll_s, now, rows=size)

    async def has_failed(self) -> bool:
        return self._read(failed.has_failed)

    async def count_failed(self, chunk: Chunk) -> Failed:
        return self._read(failed.count_failed, chunk)

    # --- polling

    async def claim(self, account: str, limit: int, *, again: int = 0, fed_until: float | None = None) -> list[Task]:
        if limit <= 0:
            return []
        leased, now = self._leases.held(account), self._clock()
        due = self._read(task_queue.find_due, account, leased, limit, now, again, fed_until)
        return self._leases.take(account, due)

    async def claim_any(self, account: str, share: float) -> list[Task]:
        leased, now = self._leases.held(account), self._clock()
        return self._leases.take(account, self._read(task_queue.find_any_due, account, leased, share, now))

    async def next_due_at(self, account: str) -> float | None:
        return self._read(task_queue.next_due_at, account, self._leases.held(account))

    async def record(self, settled: Sequence[Settled]) -> Sequence[Settled]:
        held = self._leases.begin_recording(settled)
        if held:
            await self._commits.run(
                lambda: task_queue.record(self._connection, held),
                rows=len(held),
                on_commit=lambda: self._leases.end_recording(held),
            )
        return held

    def release(self, tasks: Sequence[Task]) -> None:
        self._leases.release(tasks)

    def put_off(self, tasks: Sequence[tuple[Task, float]]) -> None:
        if held := self._leases.begin_putting_off(tasks):
            self._commits.run_within(
                SAVE_WITHIN_S,
                lambda: task_queue.put_off(self._connection, held),
                rows=len(held),
                on_commit=lambda: self._leases.end_putting_off(held),
            )

    # --- what is remembered

    def _save_soon(self) -> None:
        self._commits.run_within(
            SAVE_WITHIN_S,
            lambda: task_queue.save(self._connection, *self._begin_saving()),
            on_commit=self._end_saving,
        )

    async def flush(self) -> None:
        await self._commits.run(lambda: None)

    # --- delivering

    async def attach_sinks(self, names: Sequence[str]) -> Mapping[str, bytes | None]:
        wanted = tuple(dict.fromkeys(names))
        return await self._write(outbox.attach_sinks, wanted)

    async def positions(self, sinks: Sequence[str]) -> Mapping[str, bytes | None]:
        noted = self._read(outbox.positions)
        return {sink: noted.get(sink) for sink in sinks}

    async def undelivered(self, sink: str, limit: int) -> list[Delivery]:
        return self._read(outbox.undelivered, sink, limit)

    async def delivered(self, sink: str, batch: Sequence[Delivery], written: Written) -> None:
        numbers, now = [delivery.number for delivery in batch], self._clock()
        refused = {number: storable(reason) for number, reason in written.refused.items()}
        await self._write(outbox.note_delivered, sink, numbers, refused, written.position, now, rows=len(batch))

    async def note_position(self, sink: str, position: bytes | None) -> None:
        await self._write(outbox.note_position, sink, position)

    async def mark_position(self, sink: str, position: bytes) -> None:
        if not self._commits.run_unsynced(lambda: outbox.note_position(self._connection, sink, position)):
            await self.note_position(sink, position)

    async def replay(self, sink: str, selection: Selection, *, from_start: bool = False) -> int:
        refuse_unknown_sink(sink, self._read(outbox.positions))
        return await self._write(outbox.replay, sink, selection, from_start)

    async def rebase_instants(self) -> float:
        return await self._write(task_queue.rebase_instants, self._clock())

    async def index_rows(self, limit: int) -> int:
        return await self._write(index_rows, limit)

    async def prune(self, before: float, limit: int, walk: PruneWalk | None = None) -> int:
        def prune_next(before: float, limit: int, after: pruning.Place) -> Awaitable[tuple[int, pruning.Place | None]]:
            return self._write(outbox.prune, before, limit, after)

        return await pruning.prune(prune_next, before, limit, walk)

    # --- the connection

    async def _search(self, search: Search) -> TaskPage:
        """A search may take as long as many polls: it has a thread and a connection of its own."""
        self._commits.check()
        if self._lock is None:  # in memory: no other connection can see it
            return await super()._search(search)
        return await asyncio.to_thread(follow_aside, self._path, search)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._commits.close()
        with contextlib.suppress(sqlite3.Error):  # what is committed is safe in the log as well
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()
        if self._lock is not None:
            self._lock.release()
        log.info("store.closed", path=self._path)

    def _read(self, read: Callable[[sqlite3.Connection, *Values], T], *values: *Values) -> T:
        """Read between two commits, when the connection shows exactly what is on disk."""
        self._commits.check()
        try:
            return read(self._connection, *values)
        except sqlite3.Error as error:
            raise (store_error(error, self._path) if may_pass(error) else self._commits.fail(error)) from error

    async def _write(self, write: Callable[[sqlite3.Connection, *Values], T], *values: *Values, rows: int = 1) -> T:
        return await self._commits.run(lambda: write(self._connection, *values), rows=rows)

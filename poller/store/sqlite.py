"""The store on one SQLite file and one writing connection. The SQL stands in the method that runs it.

Leases live in memory: the process lock makes this process the only owner, and a crash gives every lease back.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import structlog

from poller.model import (
    AccountState,
    Added,
    Chunk,
    Delivery,
    Position,
    Rejection,
    Settled,
    Sums,
    Task,
    Written,
)
from poller.protocols import Clock
from poller.store.commits import GroupCommit
from poller.store.faults import may_pass, store_error
from poller.store.lock import ProcessLock
from poller.store.reading import read_account, read_rejections, read_sums

log = structlog.get_logger()

SAVE_WITHIN_S = 1.0
LONGEST_TEXT = 300  # characters of a reason or a status word: they are for people, and reasons are indexed
SETTLING = -1  # the lease of a task whose look is recorded but not committed yet


class SqliteStore:
    """The `Store` of protocols.py."""

    def __init__(
        self, connection: sqlite3.Connection, *, place: str, lock: ProcessLock | None, clock: Clock, linger_s: float
    ) -> None:
        self._connection = connection
        self._place = place
        self._lock = lock
        self._clock = clock
        self._commits = GroupCommit(connection, place=place, linger_s=linger_s, clock=clock, committed=self.beat)
        self._leases: dict[int, int] = {}  # task key → fencing token
        self._last_lease = 0
        self._noted: dict[str, AccountState] = {}  # not committed yet
        self._closed = False

    @property
    def writable(self) -> bool:
        """False while commits fail for a reason that may pass, such as a full disk."""
        return self._commits.writable

    def beat(self) -> None:
        """Show the process's sign of life, which `last_beat` reads; every commit does so too."""
        if self._lock is not None:
            self._lock.beat(self._clock())

    # --- feeding ---------------------------------------------------------------------------------------------------

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        """Return the latest source of this name and how far it was read; None if there is none."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT id, offset, line, fingerprint, ended FROM source WHERE name = ? ORDER BY id DESC LIMIT 1",
                (name,),
            ).fetchone()
        if row is None:
            return None
        source, offset, line, fingerprint, ended = row
        return source, Position(offset=offset, line=line, fingerprint=fingerprint, ended=bool(ended))

    async def new_source(self, name: str) -> int:
        """Begin the sums of a source; return its number."""
        return await self._commits.run(lambda: self._insert_source(name))

    def _insert_source(self, name: str) -> int:
        return self._connection.execute("INSERT INTO source (name) VALUES (?)", (name,)).lastrowid or 0

    async def add(self, source: int, chunk: Chunk) -> Added:
        """Store a chunk and the position after it in one transaction. A known (account, task_id) is a duplicate."""
        now = self._clock()
        return await self._commits.run(lambda: self._add(source, chunk, now), rows=len(chunk.fed))

    def _add(self, source: int, chunk: Chunk, now: float) -> Added:
        tasks = self._insert_tasks(chunk, now)
        added = Added(tasks=tasks, duplicates=len(chunk.fed) - tasks)
        self._connection.executemany(
            "INSERT INTO rejection (source, line, reason, excerpt) VALUES (?, ?, ?, ?)",
            [(source, each.line, _storable(each.reason), _storable(each.excerpt)) for each in chunk.rejected],
        )
        self._connection.execute(
            "UPDATE source SET lines = lines + ?, tasks = tasks + ?, duplicates = duplicates + ?,"
            " rejected = rejected + ?, blank = blank + ?, offset = ?, line = ?, fingerprint = ?, ended = ?"
            " WHERE id = ?",
            (
                len(chunk.fed) + len(chunk.rejected) + chunk.blank,
                added.tasks,
                added.duplicates,
                len(chunk.rejected),
                chunk.blank,
                chunk.position.offset,
                chunk.position.line,
                chunk.position.fingerprint,
                chunk.position.ended,
                source,
            ),
        )
        return added

    def _insert_tasks(self, chunk: Chunk, now: float) -> int:
        accounts = {name: self._account_base(name) for name in {fed.account for fed in chunk.fed}}
        before = self._connection.total_changes
        self._connection.executemany(
            "INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (account, task_id) DO NOTHING",
            [(*accounts[fed.account], fed.task_id, fed.ref, now, now) for fed in chunk.fed],
        )
        return self._connection.total_changes - before

    def _account_base(self, name: str) -> tuple[int, float]:
        """Return the account's number, and its paused time as last noted: what its new tasks start from."""
        self._connection.execute("INSERT INTO account (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
        number, paused_s = self._connection.execute(
            "SELECT id, paused_s FROM account WHERE name = ?", (name,)
        ).fetchone()
        return number, self._noted[name].paused_s if name in self._noted else paused_s

    # --- looking ---------------------------------------------------------------------------------------------------

    async def claim(self, account: str, limit: int) -> list[Task]:
        """Lease up to `limit` due tasks, longest due first. A lease ends with `record`, `release` or the process."""
        if limit <= 0:
            return []
        with self._reading() as connection:
            keys = self._due_keys(connection, account, limit)
            tasks = [self._leased_task(connection, account, key) for key in keys]
        for task in tasks:
            self._leases[task.key] = task.lease
        return tasks

    def _due_keys(self, connection: sqlite3.Connection, account: str, limit: int) -> list[int]:
        keys: list[int] = []
        rows = connection.execute(
            "SELECT key FROM task INDEXED BY task_due WHERE account = (SELECT id FROM account WHERE name = ?)"
            " AND kind IS NULL AND due_at <= ? ORDER BY due_at, key",
            (account, self._clock()),
        )
        with contextlib.closing(rows):
            for (key,) in rows:
                if key not in self._leases:
                    keys.append(key)
                    if len(keys) == limit:
                        break
        return keys

    def _leased_task(self, connection: sqlite3.Connection, account: str, key: int) -> Task:
        task_id, ref, fed_at, due_at, looks, errors, missing_at, status, paused_base_s = connection.execute(
            "SELECT task_id, ref, fed_at, due_at, looks, errors, missing_at, status, paused_base_s"
            " FROM task WHERE key = ?",
            (key,),
        ).fetchone()
        self._last_lease += 1
        return Task(
            key=key,
            account=account,
            task_id=task_id,
            ref=ref,
            fed_at=fed_at,
            due_at=due_at,
            looks=looks,
            errors=errors,
            missing_at=missing_at,
            status=status,
            paused_base_s=paused_base_s,
            lease=self._last_lease,
        )

    async def next_due_at(self, account: str) -> float | None:
        """Return when the earliest task that is waiting and not leased is due; None if there is none."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT key, due_at FROM task INDEXED BY task_due WHERE account ="
                " (SELECT id FROM account WHERE name = ?) AND kind IS NULL ORDER BY due_at, key",
                (account,),
            )
            with contextlib.closing(rows):
                return next((due_at for key, due_at in rows if key not in self._leases), None)

    async def record(self, settled: Sequence[Settled]) -> None:
        """Count one look for each task and store what was decided; for finished ones, in the same transaction, the
        record and one undelivered row per attached sink. A task whose lease is not held any more is passed over."""
        held = [each for each in settled if self._begin_settling(each.task)]
        again, finished = _rows_to_look_again(held), _rows_finished(held)
        keys = [each.task.key for each in held]
        if held:
            await self._commits.run(
                lambda: self._record(again, finished), rows=len(held), settle=lambda: self._end_leases(keys)
            )

    def _begin_settling(self, task: Task) -> bool:
        if task.lease == SETTLING or self._leases.get(task.key) != task.lease:
            return False
        self._leases[task.key] = SETTLING
        return True

    def _end_leases(self, keys: Sequence[int]) -> None:
        for key in keys:
            del self._leases[key]

    def _record(self, again: Sequence[tuple[Any, ...]], finished: Sequence[tuple[Any, ...]]) -> None:
        if again:
            self._connection.executemany(
                "UPDATE task SET looks = looks + 1, due_at = ?, errors = ?, missing_at = ?, status = ? WHERE key = ?",
                again,
            )
        if finished:
            self._record_finished(finished)

    def _record_finished(self, finished: Sequence[tuple[Any, ...]]) -> None:
        (last,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM record").fetchone()
        self._connection.executemany(
            "UPDATE task SET looks = looks + 1, kind = ? WHERE key = ?", [(kind, key) for kind, key, *_ in finished]
        )
        self._connection.executemany(
            "INSERT INTO record (task, reason, seen_at, body) VALUES (?, ?, ?, ?)", [row[1:] for row in finished]
        )
        self._connection.execute(
            "INSERT INTO undelivered (sink, number) SELECT s.id, r.number FROM sink s CROSS JOIN record r"
            " WHERE s.attached AND r.number > ?",
            (last,),
        )

    def release(self, tasks: Sequence[Task]) -> None:
        """Give leases back unused."""
        for task in tasks:
            if task.lease != SETTLING and self._leases.get(task.key) == task.lease:
                del self._leases[task.key]

    # --- accounts --------------------------------------------------------------------------------------------------

    async def account(self, name: str) -> AccountState:
        """Return what is remembered of the account."""
        with self._reading() as connection:
            return read_account(connection, name, self._noted.get(name))

    def save_account(self, name: str, state: AccountState) -> None:
        """Note the account's state; stored with the next commit, within a second."""
        self._commits.check()
        idle = not self._noted
        self._noted[name] = state
        if idle:
            self._save_soon()

    async def flush(self) -> None:
        """Return when everything noted so far is on disk, `save_account` included."""
        await self._commits.run(lambda: None)

    def _save_soon(self) -> None:
        saved: dict[str, AccountState] = {}
        self._commits.run_within(
            SAVE_WITHIN_S, lambda: self._save_accounts(saved), settle=lambda: self._forget_noted(saved)
        )

    def _save_accounts(self, saved: dict[str, AccountState]) -> None:
        saved.clear()
        saved.update(self._noted)
        for name, state in saved.items():
            number, _ = self._account_base(name)
            self._save_account(number, state)

    def _save_account(self, number: int, state: AccountState) -> None:
        self._connection.execute(
            "UPDATE account SET active_at = ?, clean = ?, paused_s = ?, day = ?, pause = ?, pause_detail = ?,"
            " resume_at = ? WHERE id = ?",
            (
                state.active_at,
                state.clean,
                state.paused_s,
                state.day,
                state.pause,
                state.pause_detail and _storable(state.pause_detail),
                state.resume_at,
                number,
            ),
        )
        if state.day:
            self._connection.execute(
                "INSERT INTO account_day (account, day, requests) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET requests = max(requests, excluded.requests)",
                (number, state.day, state.day_requests),
            )

    def _forget_noted(self, saved: Mapping[str, AccountState]) -> None:
        for name, state in saved.items():
            if self._noted[name] is state:
                del self._noted[name]

    # --- delivering ------------------------------------------------------------------------------------------------

    async def attach_sinks(self, names: Sequence[str]) -> Mapping[str, bytes | None]:
        """Make these, and only these, the sinks of the run; return each one's noted position. A sink gets everything
        that finished while it was not attached, also before it was first named."""
        wanted = tuple(dict.fromkeys(names))
        return await self._commits.run(lambda: self._attach_sinks(wanted))

    def _attach_sinks(self, wanted: Sequence[str]) -> dict[str, bytes | None]:
        attached = {name for (name,) in self._connection.execute("SELECT name FROM sink WHERE attached")}
        for name in attached - set(wanted):
            self._connection.execute(
                "UPDATE sink SET attached = 0, filled_to = (SELECT coalesce(max(number), 0) FROM record)"
                " WHERE name = ?",
                (name,),
            )
        for name in wanted:
            if name not in attached:
                self._attach_sink(name)
        positions = dict(self._connection.execute("SELECT name, position FROM sink WHERE attached"))
        return {name: positions[name] for name in wanted}

    def _attach_sink(self, name: str) -> None:
        self._connection.execute("INSERT INTO sink (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
        self._connection.execute(
            "INSERT INTO undelivered (sink, number) SELECT s.id, r.number FROM sink s CROSS JOIN record r"
            " WHERE s.name = ? AND r.number > s.filled_to",
            (name,),
        )
        self._connection.execute("UPDATE sink SET attached = 1 WHERE name = ?", (name,))

    async def undelivered(self, sink: str, limit: int) -> list[Delivery]:
        """Return the first undelivered records that are safely on disk, in the order in which they finished."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT r.number, a.name, t.task_id, r.body FROM undelivered u"
                " CROSS JOIN record r ON r.number = u.number"
                " CROSS JOIN task t ON t.key = r.task CROSS JOIN account a ON a.id = t.account"
                " WHERE u.sink = (SELECT id FROM sink WHERE name = ?) ORDER BY u.number LIMIT ?",
                (sink, max(0, limit)),
            ).fetchall()
        return [
            Delivery(number=number, account=account, task_id=task_id, body=body)
            for number, account, task_id, body in rows
        ]

    async def delivered(self, sink: str, batch: Sequence[Delivery], written: Written) -> None:
        """Strike the batch off the sink's outbox, note its position if it has one, keep the refused as dead letters."""
        now = self._clock()
        numbers = [delivery.number for delivery in batch]
        await self._commits.run(lambda: self._strike_off(sink, numbers, written, now), rows=len(batch))

    def _strike_off(self, sink: str, numbers: Sequence[int], written: Written, now: float) -> None:
        row = self._connection.execute("SELECT id FROM sink WHERE name = ?", (sink,)).fetchone()
        if row is None:
            return
        delivered = 0
        for number in numbers:
            struck = self._connection.execute("DELETE FROM undelivered WHERE sink = ? AND number = ?", (*row, number))
            if struck.rowcount and number in written.refused:
                self._connection.execute(
                    "INSERT INTO dead (sink, number, reason, at) VALUES (?, ?, ?, ?)",
                    (*row, number, _storable(written.refused[number]), now),
                )
            else:
                delivered += struck.rowcount
        self._connection.execute(
            "UPDATE sink SET delivered = delivered + ?, position = coalesce(?, position) WHERE id = ?",
            (delivered, written.position, *row),
        )

    async def note_position(self, sink: str, position: bytes | None) -> None:
        """Note a sink's position by itself, after `Sink.open`."""
        await self._commits.run(lambda: self._note_position(sink, position))

    def _note_position(self, sink: str, position: bytes | None) -> None:
        self._connection.execute("UPDATE sink SET position = ? WHERE name = ?", (position, sink))

    # --- reporting -------------------------------------------------------------------------------------------------

    async def sums(self) -> Sums:
        """Count everything from the rows themselves."""
        with self._reading() as connection:
            return read_sums(connection, self._noted)

    async def rejections(self) -> Sequence[tuple[str, Rejection]]:
        """Return every rejected line with its source's name, in input order."""
        with self._reading() as connection:
            return read_rejections(connection)

    async def close(self) -> None:
        """Commit what is pending and let go of the state. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        self._commits.close()
        with contextlib.suppress(sqlite3.Error):  # what is committed is safe in the log as well
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()
        if self._lock is not None:
            self._lock.release()
        log.info("store.closed", path=self._place)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection between two commits, when it shows exactly what is on disk."""
        self._commits.check()
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise (store_error(error, self._place) if may_pass(error) else self._commits.fail(error)) from error


def _rows_to_look_again(settled: Sequence[Settled]) -> list[tuple[Any, ...]]:
    return [
        (again.at, again.errors, again.missing_at, again.status and _storable(again.status), each.task.key)
        for each in settled
        if (again := each.again) is not None
    ]


def _rows_finished(settled: Sequence[Settled]) -> list[tuple[Any, ...]]:
    return [
        (str(record.kind), each.task.key, record.reason and _storable(record.reason), record.seen_at, record.body)
        for each in settled
        if (record := each.record) is not None
    ]


def _storable(text: str) -> str:
    """Return `text` bounded, and without the lone surrogates that JSON can carry and SQLite cannot."""
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode()

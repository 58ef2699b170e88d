"""The store on one SQLite file and one writing connection. The SQL stands in the method that runs it.

Leases live in memory: the process lock makes this process the only owner, and a crash gives every lease back.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
import structlog

from poller.core.model import (
    AccountState,
    Added,
    Chunk,
    DeadLetter,
    Delivery,
    Position,
    Rejection,
    Selection,
    Settled,
    SourceSums,
    Sums,
    Task,
    TaskDetails,
    Written,
)
from poller.core.poll_log import LONGEST
from poller.core.protocols import Clock
from poller.store.rows import storable, storable_name
from poller.store.sqlite import outbox
from poller.store.sqlite.errors import may_pass, store_error
from poller.store.sqlite.group_commit import GroupCommit
from poller.store.sqlite.lock import ProcessLock
from poller.store.sqlite.reader import (
    read_account,
    read_dead_letters,
    read_knowledge,
    read_records,
    read_rejections,
    read_sources,
    read_sums,
    read_task_details,
    read_undelivered,
)

log = structlog.get_logger()

SAVE_WITHIN_S = 1.0
SETTLING = -1  # the lease of a task whose poll is recorded but not committed yet


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
        self._learned: dict[str, bytes] = {}  # not committed yet
        self._first_poll_s: dict[str, float] = {}  # by account, where its first polls are put off
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
                (storable_name(name),),
            ).fetchone()
        if row is None:
            return None
        source, offset, line, fingerprint, ended = row
        return source, Position(offset=offset, line=line, fingerprint=fingerprint, ended=bool(ended))

    async def new_source(self, name: str, fingerprint: str = "") -> int:
        """Begin the sums of a source, with the fingerprint of its position 0; return its number."""
        return await self._commits.run(lambda: self._insert_source(name, fingerprint))

    def _insert_source(self, name: str, fingerprint: str) -> int:
        row = (storable_name(name), fingerprint)
        return self._connection.execute("INSERT INTO source (name, fingerprint) VALUES (?, ?)", row).lastrowid or 0

    async def was_read(self, position: Position) -> bool:
        """Whether a source, of whatever name, was read up to exactly this position; its fingerprint names the file."""
        with self._reading() as connection:
            row = (position.offset, position.fingerprint)
            sql = "SELECT EXISTS (SELECT 1 FROM source WHERE offset = ? AND fingerprint = ?)"
            return bool(connection.execute(sql, row).fetchone()[0])

    async def add(self, source: int, chunk: Chunk) -> Added:
        """Store a chunk and the position after it in one transaction. A known (account, task_id) is a duplicate."""
        now = self._clock()
        return await self._commits.run(lambda: self._add(source, chunk, now), rows=len(chunk.fed))

    def _add(self, source: int, chunk: Chunk, now: float) -> Added:
        tasks = self._insert_tasks(chunk, now)
        added = Added(tasks=tasks, duplicates=len(chunk.fed) - tasks)
        self._connection.executemany(
            "INSERT INTO rejection (source, line, reason, excerpt) VALUES (?, ?, ?, ?)",
            [(source, each.line, storable(each.reason), storable(each.excerpt)) for each in chunk.rejected],
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
        due_at = {name: now + self._first_poll_s.get(name, 0.0) for name in accounts}
        before = self._connection.total_changes
        if len(accounts) == 1 and not any(fed.ref for fed in chunk.fed):
            ((name, base),) = accounts.items()
            self._insert_ids(base, [fed.task_id for fed in chunk.fed], now, due_at[name])
        else:
            self._connection.executemany(
                "INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (account, task_id) DO NOTHING",
                [(*accounts[fed.account], fed.task_id, fed.ref, now, due_at[fed.account]) for fed in chunk.fed],
            )
        return self._connection.total_changes - before

    def _insert_ids(self, base: tuple[int, float], ids: Sequence[str], now: float, due_at: float) -> None:
        """One statement for all, in the index's order: a third of the time of one for each, in that of their keys."""
        (last,) = self._connection.execute("SELECT coalesce(max(key), 0) FROM task").fetchone()
        self._connection.execute(
            "INSERT INTO task (key, account, paused_base_s, task_id, fed_at, due_at)"
            " SELECT ? + key, ?, ?, value, ?, ? FROM json_each(?) WHERE true ORDER BY value, key"
            " ON CONFLICT (account, task_id) DO NOTHING",
            (last + 1, *base, now, due_at, orjson.dumps(ids).decode()),
        )

    def delay_first_polls(self, account: str, delay_s: float) -> None:
        """Let the account's new tasks be due so long after they are added; until then they are due at once."""
        self._first_poll_s[account] = delay_s

    def _account_base(self, name: str) -> tuple[int, float]:
        """Return the account's number, and its paused time as last noted: what its new tasks start from."""
        self._connection.execute("INSERT INTO account (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
        number, paused_s = self._connection.execute(
            "SELECT id, paused_s FROM account WHERE name = ?", (name,)
        ).fetchone()
        return number, self._noted[name].paused_s if name in self._noted else paused_s

    # --- polling ---------------------------------------------------------------------------------------------------

    async def claim(self, account: str, limit: int) -> list[Task]:
        """Lease up to `limit` due tasks, longest due first. A lease ends with `record`, `release` or the process."""
        if limit <= 0:
            return []
        with self._reading() as connection:
            keys = self._due_keys(connection, account, limit)
            rows = connection.execute(
                "SELECT key, task_id, ref, fed_at, due_at, polls, errors, missing_at, status, paused_base_s,"  # noqa: S608
                f" requested_at FROM task WHERE key IN ({', '.join('?' * len(keys))})",  # placeholders
                keys,
            )
            found = {row[0]: row for row in rows}
        return [self._lease(account, found[key]) for key in keys]

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

    def _lease(self, account: str, row: tuple[Any, ...]) -> Task:
        key, task_id, ref, fed_at, due_at, polls, errors, missing_at, status, paused_base_s, requested_at = row
        self._last_lease += 1
        self._leases[key] = self._last_lease
        return Task(
            key=key,
            account=account,
            task_id=task_id,
            ref=ref,
            fed_at=fed_at,
            due_at=due_at,
            polls=polls,
            errors=errors,
            missing_at=missing_at,
            status=status,
            paused_base_s=paused_base_s,
            requested_at=requested_at,
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
        """Count one poll for each task and store what was decided; for finished ones, in the same transaction, the
        record and one undelivered row per attached sink. A task whose lease is not held any more is passed over."""
        held = [each for each in settled if self._begin_settling(each.task)]
        again, finished = _rows_to_poll_again(held), _rows_finished(held)
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
                "UPDATE task SET polls = polls + 1, due_at = ?, errors = ?, missing_at = ?, status = ?,"
                " requested_at = coalesce(?, requested_at), poll_log = substr(poll_log || ?, ?) WHERE key = ?",
                again,
            )
        if finished:
            self._record_finished(finished)

    def _record_finished(self, finished: Sequence[tuple[Any, ...]]) -> None:
        (last,) = self._connection.execute("SELECT coalesce(max(number), 0) FROM record").fetchone()
        self._connection.executemany(
            "UPDATE task SET polls = polls + 1, kind = ?, poll_log = substr(poll_log || ?, ?) WHERE key = ?",
            [row[:4] for row in finished],
        )
        self._connection.executemany(
            "INSERT INTO record (task, reason, seen_at, body) VALUES (?, ?, ?, ?)", [row[3:] for row in finished]
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

    async def knowledge(self, name: str) -> bytes | None:
        """Return what `save_knowledge` last noted under this name; None if nothing."""
        with self._reading() as connection:
            return self._learned.get(name) or read_knowledge(connection, name)

    def save_knowledge(self, name: str, knowledge: bytes) -> None:
        """Note what was learned, such as how long imports take; stored with the next commit, within a second."""
        self._commits.check()
        idle = not self._learned
        self._learned[name] = knowledge
        if idle:
            self._commits.run_within(SAVE_WITHIN_S, self._save_knowledge, settle=self._learned.clear)

    def _save_knowledge(self) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO knowledge VALUES (?, ?)", self._learned.items())

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
                state.pause_detail and storable(state.pause_detail),
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
        return await self._commits.run(lambda: outbox.attach_sinks(self._connection, wanted))

    async def undelivered(self, sink: str, limit: int) -> list[Delivery]:
        """Return the first undelivered records that are safely on disk, in the order in which they finished."""
        with self._reading() as connection:
            return read_undelivered(connection, sink, limit)

    async def delivered(self, sink: str, batch: Sequence[Delivery], written: Written) -> None:
        """Strike the batch off the sink's outbox, note its position if it has one, keep the refused as dead letters."""
        now = self._clock()
        numbers = [delivery.number for delivery in batch]
        refused = {number: storable(reason) for number, reason in written.refused.items()}
        await self._commits.run(
            lambda: outbox.strike_off(self._connection, sink, numbers, refused, written.position, now), rows=len(batch)
        )

    async def note_position(self, sink: str, position: bytes | None) -> None:
        """Note a sink's position by itself, after `Sink.open`."""
        await self._commits.run(lambda: self._note_position(sink, position))

    def _note_position(self, sink: str, position: bytes | None) -> None:
        self._connection.execute("UPDATE sink SET position = ? WHERE name = ?", (position, sink))

    async def replay(self, sink: str, selection: Selection) -> int:
        """Put the selected records, as far as they are kept, into the sink's outbox again, dead letters revived; return
        how many. Raises `ConfigError` for a sink that the state does not know."""
        with self._reading() as connection:
            outbox.refuse_unknown(connection, sink)
        return await self._commits.run(lambda: outbox.replay(self._connection, sink, selection))

    async def dead_letters(self, sink: str | None = None) -> Sequence[DeadLetter]:
        """Return what the sink, or any sink, refused for good, oldest first."""
        with self._reading() as connection:
            return read_dead_letters(connection, sink)

    async def records(self, after: int, limit: int) -> list[Delivery]:
        """Return kept finished records in the order in which they finished, beginning after number `after`."""
        with self._reading() as connection:
            return read_records(connection, after, limit)

    async def prune(self, before: float, limit: int) -> int:
        """Forget up to `limit` tasks that finished before the instant; return how many. What an attached sink lacks or
        has refused is kept. Their counts stay in `sums`. A pruned id that is fed again is a new task."""
        return await self._commits.run(lambda: outbox.prune(self._connection, before, limit))

    # --- reporting -------------------------------------------------------------------------------------------------

    async def sums(self) -> Sums:
        """Count everything from the rows themselves."""
        with self._reading() as connection:
            return read_sums(connection, self._noted)

    async def sources(self) -> Sequence[SourceSums]:
        """Return where each source's lines went, in the order of their beginning."""
        with self._reading() as connection:
            return read_sources(connection)

    async def task_details(self, task_id: str) -> Sequence[TaskDetails]:
        """Return what is known of the tasks with this id, one for each account that has it, by account."""
        with self._reading() as connection:
            return read_task_details(connection, task_id)

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


def _rows_to_poll_again(settled: Sequence[Settled]) -> list[tuple[Any, ...]]:
    return [
        (
            again.at,
            again.errors,
            again.missing_at,
            again.status and storable(again.status),
            again.requested_at,
            each.poll_line,
            -LONGEST,
            each.task.key,
        )
        for each in settled
        if (again := each.again) is not None
    ]


def _rows_finished(settled: Sequence[Settled]) -> list[tuple[Any, ...]]:
    return [
        (
            str(record.kind),
            each.poll_line,
            -LONGEST,
            each.task.key,
            record.reason and storable(record.reason),
            record.seen_at,
            record.body,
        )
        for each in settled
        if (record := each.record) is not None
    ]

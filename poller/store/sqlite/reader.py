"""What an SQLite state tells of itself: sums, accounts, records. Only reads, so it works beside a writer."""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from poller.core.model import (
    AccountState,
    DeadLetter,
    Delivery,
    Kind,
    Rejection,
    SinkSums,
    SourceSums,
    Sums,
    TaskDetails,
)
from poller.core.poll_log import polls as polls_of
from poller.core.record import restore
from poller.store.sqlite.errors import translated

TOP_REASONS = 10


class SqliteReader:
    """The `StateReader` of an SQLite file."""

    def __init__(self, connection: sqlite3.Connection, place: str) -> None:
        self._connection = connection
        self._place = place

    async def sums(self) -> Sums:
        """Count everything from the rows themselves, as of one instant."""
        with translated(self._place):
            self._connection.execute("BEGIN")
            try:
                return read_sums(self._connection, {})
            finally:
                self._connection.execute("ROLLBACK")

    async def account(self, name: str) -> AccountState:
        """Return what is remembered of the account."""
        with translated(self._place):
            return read_account(self._connection, name, None)

    async def knowledge(self, name: str) -> bytes | None:
        """Return what `Store.save_knowledge` last noted under this name; None if nothing."""
        with translated(self._place):
            return read_knowledge(self._connection, name)

    async def task_details(self, task_id: str) -> Sequence[TaskDetails]:
        """Return what is known of the tasks with this id, one for each account that has it, by account."""
        with translated(self._place):
            return read_task_details(self._connection, task_id)

    async def rejections(self) -> Sequence[tuple[str, Rejection]]:
        """Return every rejected line with its source's name, in input order."""
        with translated(self._place):
            return read_rejections(self._connection)

    async def records(self, after: int, limit: int) -> list[Delivery]:
        """Return kept finished records in the order in which they finished, beginning after number `after`."""
        with translated(self._place):
            return read_records(self._connection, after, limit)

    async def dead_letters(self, sink: str | None = None) -> Sequence[DeadLetter]:
        """Return what the sink, or any sink, refused for good, oldest first."""
        with translated(self._place):
            return read_dead_letters(self._connection, sink)

    async def close(self) -> None:
        """Let go of the state."""
        self._connection.close()


def read_account(connection: sqlite3.Connection, name: str, noted: AccountState | None) -> AccountState:
    """Return the account's state: the `noted` one where there is one not stored yet, with what is stored of its day."""
    state = noted or _stored_account(connection, name)
    row = connection.execute(
        "SELECT requests FROM account_day WHERE day = ? AND account = (SELECT id FROM account WHERE name = ?)",
        (state.day, name),
    ).fetchone()
    return state if row is None else replace(state, day_requests=max(state.day_requests, row[0]))


def _stored_account(connection: sqlite3.Connection, name: str) -> AccountState:
    row = connection.execute(
        "SELECT active_at, clean, paused_s, day, pause, pause_detail, resume_at FROM account WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        return AccountState()
    active_at, clean, paused_s, day, pause, pause_detail, resume_at = row
    return AccountState(
        active_at=active_at,
        clean=bool(clean),
        paused_s=paused_s,
        day=day,
        pause=pause,
        pause_detail=pause_detail,
        resume_at=resume_at,
    )


def read_knowledge(connection: sqlite3.Connection, name: str) -> bytes | None:
    """Return what was learned under this name; None if nothing."""
    row = connection.execute("SELECT body FROM knowledge WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]


def read_task_details(connection: sqlite3.Connection, task_id: str) -> list[TaskDetails]:
    """Return what is known of the tasks with this id, by account."""
    rows = connection.execute(
        "SELECT a.name, t.task_id, t.ref, t.fed_at, t.requested_at, t.due_at, t.polls, t.errors, t.status, t.poll_log,"
        " t.kind, r.number, r.reason, r.seen_at, r.body"
        " FROM account a CROSS JOIN task t ON t.account = a.id AND t.task_id = ?"
        " LEFT JOIN record r ON r.task = t.key ORDER BY a.name",
        (task_id,),
    ).fetchall()
    return [task_details_of(row, _deliveries(connection, row[11])) for row in rows]


def task_details_of(row: Sequence[Any], deliveries: Mapping[str, str]) -> TaskDetails:
    """Return the story that a row of `read_task_details` tells."""
    account, task_id, ref, fed_at, requested_at, due_at, polls, errors, status, poll_log, word, _, *told = row
    kind = None if word is None else Kind(word)
    reason, seen_at, body = told
    return TaskDetails(
        account=account,
        task_id=task_id,
        ref=ref,
        fed_at=fed_at,
        requested_at=requested_at,
        due_at=due_at,
        polls=polls,
        errors=errors,
        status=status,
        poll_log=polls_of(poll_log),
        kind=kind,
        record=None if kind is None else restore(body, kind=kind, reason=reason, seen_at=seen_at),
        deliveries=deliveries,
    )


def _deliveries(connection: sqlite3.Connection, number: int | None) -> dict[str, str]:
    """Return where the record stands with each sink; nothing for a task without one."""
    rows = connection.execute(
        "SELECT s.name, CASE WHEN d.number IS NOT NULL THEN 'dead: ' || d.reason"
        " WHEN u.number IS NOT NULL OR (NOT s.attached AND ?1 > s.filled_to) THEN 'undelivered' ELSE 'delivered' END"
        " FROM sink s LEFT JOIN dead d ON d.sink = s.id AND d.number = ?1"
        " LEFT JOIN undelivered u ON u.sink = s.id AND u.number = ?1 WHERE ?1 IS NOT NULL ORDER BY s.id",
        (number,),
    )
    return dict(rows.fetchall())


def read_rejections(connection: sqlite3.Connection) -> list[tuple[str, Rejection]]:
    """Return every rejected line with its source's name, in input order."""
    rows = connection.execute(
        "SELECT s.name, r.line, r.reason, r.excerpt FROM rejection r JOIN source s ON s.id = r.source"
        " ORDER BY r.source, r.id"
    )
    return [(name, Rejection(line=line, reason=reason, excerpt=excerpt)) for name, line, reason, excerpt in rows]


def read_records(connection: sqlite3.Connection, after: int, limit: int) -> list[Delivery]:
    """Return kept finished records in the order in which they finished, beginning after number `after`."""
    rows = connection.execute(
        "SELECT r.number, a.name, t.task_id, r.body FROM record r CROSS JOIN task t ON t.key = r.task"
        " CROSS JOIN account a ON a.id = t.account WHERE r.number > ? ORDER BY r.number LIMIT ?",
        (after, max(0, limit)),
    )
    return [_delivery(*row) for row in rows]


def read_dead_letters(connection: sqlite3.Connection, sink: str | None) -> list[DeadLetter]:
    """Return what the sink, or any sink, refused for good, oldest first."""
    rows = connection.execute(
        "SELECT s.name, d.reason, d.at, r.number, a.name, t.task_id, r.body FROM dead d JOIN sink s ON s.id = d.sink"
        " JOIN record r ON r.number = d.number JOIN task t ON t.key = r.task JOIN account a ON a.id = t.account"
        " WHERE s.name = coalesce(?, s.name) ORDER BY d.at, d.number, s.id",
        (sink,),
    )
    return [
        DeadLetter(sink=name, reason=reason, refused_at=at, delivery=_delivery(*record))
        for name, reason, at, *record in rows
    ]


def read_undelivered(connection: sqlite3.Connection, sink: str, limit: int) -> list[Delivery]:
    """Return the first records that the sink lacks, in the order in which they finished."""
    rows = connection.execute(
        "SELECT r.number, a.name, t.task_id, r.body FROM undelivered u"
        " CROSS JOIN record r ON r.number = u.number"
        " CROSS JOIN task t ON t.key = r.task CROSS JOIN account a ON a.id = t.account"
        " WHERE u.sink = (SELECT id FROM sink WHERE name = ?) ORDER BY u.number LIMIT ?",
        (sink, max(0, limit)),
    )
    return [_delivery(*row) for row in rows]


def _delivery(number: int, account: str, task_id: str, body: bytes) -> Delivery:
    return Delivery(number=number, account=account, task_id=task_id, body=body)


def read_sums(connection: sqlite3.Connection, noted: Mapping[str, AccountState]) -> Sums:
    """Count everything. One pass over the tasks; `finished` is counted from the records, `kinds` from the tasks."""
    (finished,) = connection.execute("SELECT count(*) FROM record").fetchone()
    reasons = connection.execute(
        "SELECT reason, count(*) FROM record WHERE reason IS NOT NULL GROUP BY reason ORDER BY 2 DESC, 1 LIMIT ?",
        (TOP_REASONS,),
    )
    waiting, polls, kinds = _read_tasks(connection)
    pruned = connection.execute("SELECT kind, tasks, polls FROM pruned").fetchall()
    names = {name for (name,) in connection.execute("SELECT name FROM account")} | noted.keys()
    forgotten = sum(tasks for _, tasks, _ in pruned)
    return Sums(
        sources=read_sources(connection),
        sinks=_read_sinks(connection),
        accounts={name: read_account(connection, name, noted.get(name)) for name in sorted(names)},
        waiting=waiting,
        finished=finished + forgotten,
        polls=polls + sum(polls for _, _, polls in pruned),
        kinds=Counter(kinds) + Counter({kind: tasks for kind, tasks, _ in pruned}),
        reasons=tuple(reasons),
        pruned=forgotten,
    )


def _read_tasks(connection: sqlite3.Connection) -> tuple[int, int, dict[str, int]]:
    """Return the tasks that wait, all polls, and the finished ones by kind (without a sort of ten million rows)."""
    per_kind = ", ".join(f"count(*) FILTER (WHERE kind = '{kind}')" for kind in Kind)
    sql = f"SELECT count(*) - count(kind), coalesce(sum(polls), 0), {per_kind} FROM task"  # noqa: S608 - our own enum
    waiting, polls, *counts = connection.execute(sql).fetchone()
    return waiting, polls, {str(kind): count for kind, count in zip(Kind, counts, strict=True)}


def read_sources(connection: sqlite3.Connection) -> tuple[SourceSums, ...]:
    """Return where each source's lines went, in the order of their beginning."""
    rows = connection.execute(
        "SELECT name, lines, tasks, duplicates, rejected, blank, ended FROM source ORDER BY id"
    ).fetchall()
    return tuple(
        SourceSums(
            name=name,
            lines=lines,
            tasks=tasks,
            duplicates=duplicates,
            rejected=rejected,
            blank=blank,
            ended=bool(ended),
        )
        for name, lines, tasks, duplicates, rejected, blank, ended in rows
    )


def _read_sinks(connection: sqlite3.Connection) -> tuple[SinkSums, ...]:
    """A sink that is not attached gets its rows when it is again: until then the records it lacks are counted."""
    rows = connection.execute(
        "SELECT name, delivered, missed, attached,"
        " (SELECT count(*) FROM undelivered u WHERE u.sink = s.id)"
        " + CASE WHEN attached THEN 0 ELSE (SELECT count(*) FROM record r WHERE r.number > s.filled_to) END,"
        " (SELECT count(*) FROM dead d WHERE d.sink = s.id)"
        " FROM sink s ORDER BY id"
    )
    return tuple(
        SinkSums(
            name=name, delivered=delivered, undelivered=undelivered, dead=dead, attached=bool(attached), missed=missed
        )
        for name, delivered, missed, attached, undelivered, dead in rows
    )

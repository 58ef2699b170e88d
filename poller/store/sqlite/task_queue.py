"""The queue of an SQLite state: feeding, claiming, recording. Writing functions run inside a transaction. For
the contracts, see core/protocols.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing

import orjson

from poller.core.accounts import AccountState
from poller.core.clock_note import CLOCK_NOTE, decode_note
from poller.core.model import Added, Chunk, Kind, Position, Settled, Task
from poller.core.poll_log import LONGEST
from poller.store import rows
from poller.store.intervals import CLOCK_TOLERANCE_S
from poller.store.sqlite import import_rows
from poller.store.sqlite.accounts import account_base

Connection = sqlite3.Connection
Leased = Mapping[int, int]  # the keys of the tasks that are leased now
_WAITING = "account = (SELECT id FROM account WHERE name = ?) AND kind IS NULL"


# --- feeding ---------------------------------------------------------------------------------------------------------


def find_source(connection: Connection, name: str) -> tuple[int, Position] | None:
    row = connection.execute(
        "SELECT id, offset, line, fingerprint, ended, digest FROM source WHERE name = ? ORDER BY id DESC LIMIT 1",
        (name,),
    ).fetchone()
    return None if row is None else rows.source_of(row)


def insert_source(connection: Connection, name: str, fingerprint: str, digest: str) -> int:
    row = (name, fingerprint, digest)
    return connection.execute("INSERT INTO source (name, fingerprint, digest) VALUES (?, ?, ?)", row).lastrowid or 0


def was_read(connection: Connection, position: Position) -> bool:
    row = (position.offset, position.fingerprint)
    sql = "SELECT EXISTS (SELECT 1 FROM source WHERE offset = ? AND fingerprint = ?)"
    return bool(connection.execute(sql, row).fetchone()[0])


def add(
    connection: Connection,
    source: int,
    chunk: Chunk,
    noted: Mapping[str, AccountState],
    first_poll_s: Mapping[str, float],
    now: float,
) -> Added:
    """Store a chunk and the position after it. By account: `noted` is not stored yet, `first_poll_s` is how long after
    now the first poll is due."""
    tasks = _insert_tasks(connection, chunk, noted, first_poll_s, now)
    duplicates = len(chunk.fed) - tasks
    failed, other_refs = _count_known(connection, chunk) if duplicates else (0, 0)
    again = 0
    if chunk.rows:
        new, again, failed_rows = import_rows.add_rows(connection, chunk.rows, noted, now)
        tasks, duplicates, failed = tasks + new, duplicates + len(chunk.rows) - new, failed + failed_rows
    added = Added(tasks=tasks, duplicates=duplicates, failed=failed, again=again, other_refs=other_refs)
    added += chunk.repeated
    connection.executemany(
        "INSERT INTO rejection (source, line, reason, excerpt) VALUES (?, ?, ?, ?)",
        [(source, *row) for row in rows.rejection_rows(chunk)],
    )
    connection.execute(
        "UPDATE source SET lines = lines + ?, tasks = tasks + ?, duplicates = duplicates + ?,"
        " rejected = rejected + ?, blank = blank + ?, failed = failed + ?, offset = ?, line = ?,"
        " fingerprint = ?, ended = ?, digest = ?"
        " WHERE id = ?",
        (*rows.source_row(chunk, added), source),
    )
    return added


def _insert_tasks(
    connection: Connection,
    chunk: Chunk,
    noted: Mapping[str, AccountState],
    first_poll_s: Mapping[str, float],
    now: float,
) -> int:
    accounts = {name: account_base(connection, name, noted) for name in {fed.account for fed in chunk.fed}}
    due_at = {name: now + first_poll_s.get(name, 0.0) for name in accounts}
    before = connection.total_changes
    if len(accounts) == 1 and not any(fed.ref for fed in chunk.fed):
        ((name, base),) = accounts.items()
        _insert_ids(connection, base, [fed.task_id for fed in chunk.fed], now, due_at[name])
    else:
        connection.executemany(
            "INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (account, task_id) DO NOTHING",
            [(*accounts[fed.account], fed.task_id, fed.ref, now, due_at[fed.account]) for fed in chunk.fed],
        )
    return connection.total_changes - before


def _count_known(connection: Connection, chunk: Chunk) -> tuple[int, int]:
    """Return how many lines have a task with an outcome that is not complete (new tasks have none yet), and how many a
    task with another `ref`."""
    lines = [[fed.account, fed.task_id, None if fed.ref is None else fed.ref.decode()] for fed in chunk.fed]
    failed, other_refs = connection.execute(
        "SELECT count(*) FILTER (WHERE t.kind <> ?),"
        " count(*) FILTER (WHERE json_extract(line.value, '$[2]') IS NOT NULL"
        " AND json_extract(line.value, '$[2]') IS NOT CAST(t.ref AS text)) FROM json_each(?) line"
        " CROSS JOIN account a ON a.name = json_extract(line.value, '$[0]')"
        " CROSS JOIN task t ON t.account = a.id AND t.task_id = json_extract(line.value, '$[1]')",
        (Kind.COMPLETE.value, orjson.dumps(lines).decode()),
    ).fetchone()
    return int(failed), int(other_refs)


def _insert_ids(connection: Connection, base: tuple[int, float], ids: Sequence[str], now: float, due_at: float) -> None:
    """Insert all in one statement, in the index's order, with the keys of feeding: a third of the time of one each."""
    (last,) = connection.execute("SELECT coalesce(max(key), 0) FROM task").fetchone()
    connection.execute(
        "INSERT INTO task (key, account, paused_base_s, task_id, fed_at, due_at)"
        " SELECT ? + key, ?, ?, value, ?, ? FROM json_each(?) WHERE true ORDER BY value, key"
        " ON CONFLICT (account, task_id) DO NOTHING",
        (last + 1, *base, now, due_at, orjson.dumps(ids).decode()),
    )


# --- polling ---------------------------------------------------------------------------------------------------------


def find_due(
    connection: Connection,
    account: str,
    leased: Leased,
    limit: int,
    now: float,
    again: int = 0,
    fed_until: float | None = None,
) -> list[rows.Row]:
    """Return the rows of up to `limit` due tasks that are not leased, longest due first; after them those of up to
    `again` others that were polled before, but no more than there are first polls among the former."""
    if fed_until is None:
        found = _in_order(connection, account, "due_at <= ?", now)
    else:
        found = _in_order(connection, account, "due_at <= ? AND fed_at <= ?", now, fed_until)
    keys = _first_free(found, limit, leased)
    due = _rows(connection, keys)
    if again and len(due) == limit and (again := min(again, rows.first_polls(due))):
        others = connection.execute(
            f"SELECT key, due_at FROM task INDEXED BY task_due WHERE {_WAITING} AND min(polls, 1) = 1"  # noqa: S608
            " AND (due_at, key) > (SELECT due_at, key FROM task WHERE key = ?) AND due_at <= ? ORDER BY due_at, key",
            (account, keys[-1], now),
        )
        due += _rows(connection, _first_free(others, again, leased))
    return due


def _in_order(
    connection: Connection, account: str, condition: str, *values: object, by: str = "due_at, key"
) -> sqlite3.Cursor:
    """Return keys and due times of waiting tasks by due time, from both parts of the index, which are merged as they
    are read."""
    parts = [
        f"SELECT key, due_at FROM task INDEXED BY task_due WHERE {_WAITING} AND min(polls, 1) = {part} AND {condition}"  # noqa: S608 - constants
        for part in (0, 1)
    ]
    return connection.execute(" UNION ALL ".join(parts) + f" ORDER BY {by}", (account, *values) * 2)


def find_any_due(connection: Connection, account: str, leased: Leased, share: float, now: float) -> list[rows.Row]:
    """Return the row of one due task that is not leased: from this share of the time over which they are spread on."""
    first = _first(_in_order(connection, account, "due_at <= ?", now))
    if first is None:
        return []
    from_at = first[1] + share * (now - first[1])
    key, due_at = _first(_in_order(connection, account, "due_at >= ? AND due_at <= ?", from_at, now)) or first
    last, _ = _first(_in_order(connection, account, "due_at = ?", due_at, by="due_at DESC, key DESC")) or first
    start = (due_at, key + (last - key) * (share * rows.TIES % 1.0))
    after = _in_order(connection, account, "(due_at, key) >= (?, ?) AND due_at <= ?", *start, now)
    keys = _first_free(after, 1, leased)
    if not keys:
        return find_due(connection, account, leased, 1, now)
    return _rows(connection, keys)


def _first(found: sqlite3.Cursor) -> tuple[int, float] | None:
    with closing(found):
        row: tuple[int, float] | None = found.fetchone()
        return row


def _rows(connection: Connection, keys: Sequence[int]) -> list[rows.Row]:
    if not keys:
        return []
    found = connection.execute(
        f"SELECT {rows.TASK} FROM task WHERE key IN ({', '.join('?' * len(keys))})",  # noqa: S608 - placeholders
        keys,
    )
    by_key = {row[0]: row for row in found}
    return [by_key[key] for key in keys]


def _first_free(found: sqlite3.Cursor, limit: int, leased: Leased) -> list[int]:
    keys: list[int] = []
    with closing(found):
        for key, _ in found:
            if key not in leased:
                keys.append(key)
                if len(keys) == limit:
                    break
    return keys


def next_due_at(connection: Connection, account: str, leased: Leased) -> float | None:
    found = _in_order(connection, account, "true")
    with closing(found):
        return next((due_at for key, due_at in found if key not in leased), None)


def record(connection: Connection, settled: Sequence[Settled]) -> None:
    """Store the decisions; the leases are held."""
    if polled := rows.polled_rows(settled):
        connection.executemany(
            f"UPDATE task SET polls = polls + 1, poll_log = substr(poll_log || ?2, -{LONGEST}), due_at = ?3,"  # noqa: S608 - a constant
            " errors = ?4, missing_at = ?5, status = ?6, requested_at = coalesce(?7, requested_at),"
            " seen_at = coalesce(?8, seen_at), started_at = coalesce(?9, started_at) WHERE key = ?1",
            polled,
        )
    if finished := rows.finished_rows(settled):
        _record_finished(connection, finished)


def put_off(connection: Connection, tasks: Sequence[tuple[Task, float]]) -> None:
    """Make leased tasks due at these instants."""
    connection.executemany("UPDATE task SET due_at = ? WHERE key = ?", [(due_at, task.key) for task, due_at in tasks])


def _record_finished(connection: Connection, finished: Sequence[rows.Row]) -> None:
    (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM record").fetchone()
    connection.executemany(
        "UPDATE task SET polls = polls + 1, poll_log = substr(poll_log || ?, ?), kind = ?, landed = ? WHERE key = ?",
        [(poll_log, -LONGEST, kind, landed, key) for key, poll_log, kind, landed, *_ in finished],
    )
    connection.executemany(
        "INSERT INTO record (task, reason, seen_at, body) VALUES (?, ?, ?, ?)",
        [(key, *record) for key, _, _, _, *record in finished],
    )
    connection.execute(
        "INSERT INTO undelivered (sink, number) SELECT s.id, r.number FROM sink s CROSS JOIN record r"
        " WHERE s.attached AND r.number > ?",
        (last,),
    )


# --- what is remembered ----------------------------------------------------------------------------------------------


def save(connection: Connection, accounts: Mapping[str, AccountState], learned: Mapping[str, bytes]) -> None:
    """Store what was noted, in place of what was known under these names. The requests of a day never decrease."""
    connection.executemany("INSERT OR REPLACE INTO knowledge VALUES (?, ?)", learned.items())
    for name, state in accounts.items():
        number, _ = account_base(connection, name, {})
        connection.execute(
            "UPDATE account SET active_at = ?, clean = ?, paused_s = ?, day = ?, pause = ?, pause_detail = ?,"
            " resume_at = ? WHERE id = ?",
            (*rows.account_row(state), number),
        )
        if state.day:
            connection.execute(
                "INSERT INTO account_day (account, day, requests) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET requests = max(requests, excluded.requests)",
                (number, state.day, state.day_requests),
            )


def rebase_instants(connection: Connection, now: float) -> float:
    """Where an earlier run noted that its clock was set, move all its instants by so much. Where the latest one is
    after now even so, move all that are by so much."""
    moved_s = _follow_clock(connection)
    (latest,) = connection.execute(
        "SELECT max(at) FROM (SELECT max(active_at) AS at FROM account UNION ALL SELECT max(seen_at) FROM record)"
    ).fetchone()
    if latest is None or latest - now <= CLOCK_TOLERANCE_S:
        return -moved_s
    values = {"now": now, "ahead_s": latest - now}
    for statement in (
        "UPDATE task SET due_at = CASE WHEN due_at > :now THEN max(due_at - :ahead_s, :now) ELSE due_at END,"
        " fed_at = CASE WHEN fed_at > :now THEN min(fed_at - :ahead_s, :now) ELSE fed_at END,"
        " missing_at = CASE WHEN missing_at > :now THEN min(missing_at - :ahead_s, :now) ELSE missing_at END,"
        " seen_at = CASE WHEN seen_at > :now THEN min(seen_at - :ahead_s, :now) ELSE seen_at END"
        " WHERE kind IS NULL AND (due_at > :now OR fed_at > :now OR missing_at > :now OR seen_at > :now)",
        "UPDATE account SET active_at = min(active_at - :ahead_s, :now) WHERE active_at > :now",
        "UPDATE account SET resume_at = resume_at - :ahead_s WHERE resume_at > :now",
        "UPDATE record SET seen_at = seen_at - :ahead_s WHERE seen_at > :now",
        "UPDATE dead SET at = min(at - :ahead_s, :now) WHERE at > :now",
    ):
        connection.execute(statement, values)
    import_rows.rebase(connection, values)
    return float(latest - now) - moved_s


def _follow_clock(connection: Connection) -> float:
    """Return by how many seconds the instants were moved."""
    found = connection.execute("SELECT body FROM knowledge WHERE name = ?", (CLOCK_NOTE,)).fetchone()
    note = None if found is None else decode_note(found[0])
    if note is None:
        return 0.0
    values = {"by_s": note.behind_s, "since": note.since, "name": CLOCK_NOTE}
    for statement in (
        "UPDATE task SET due_at = due_at + :by_s, fed_at = fed_at + :by_s, missing_at = missing_at + :by_s,"
        " seen_at = seen_at + :by_s WHERE kind IS NULL",
        "UPDATE import_row SET due_at = due_at + :by_s, fed_at = fed_at + :by_s,"
        " first_sent_at = first_sent_at + :by_s WHERE task IS NULL",
        "UPDATE account SET active_at = active_at + :by_s, resume_at = resume_at + :by_s",
        "UPDATE record SET seen_at = seen_at + :by_s WHERE seen_at >= :since",
        "UPDATE dead SET at = at + :by_s WHERE at >= :since",
        "DELETE FROM knowledge WHERE name = :name",
    ):
        connection.execute(statement, values)
    return note.behind_s

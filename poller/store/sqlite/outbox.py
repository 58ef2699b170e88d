"""The outbox of an SQLite state: which record is owed to which sink. Writing functions run inside a transaction. For
the contracts, see core/protocols.

For every sink, finished = delivered + undelivered + dead + missed; each function moves records between these four.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing

import orjson

from poller.core.deliveries import Delivery, Selection
from poller.store import pruning
from poller.store.rows import deliveries_of, storable
from poller.store.sqlite import import_sums
from poller.store.sqlite.search import forget_runs

Connection = sqlite3.Connection


def attach_sinks(connection: Connection, wanted: Sequence[str]) -> dict[str, bytes | None]:
    """Attach these sinks and no other; return their positions."""
    attached = {name for (name,) in connection.execute("SELECT name FROM sink WHERE attached")}
    for name in attached - set(wanted):
        connection.execute(
            "UPDATE sink SET attached = 0, filled_to = (SELECT coalesce(max(number), 0) FROM record) WHERE name = ?",
            (name,),
        )
    for name in wanted:
        if name not in attached:
            _attach(connection, name)
    positions = dict(connection.execute("SELECT name, position FROM sink WHERE attached"))
    return {name: positions[name] for name in wanted}


def _attach(connection: Connection, name: str) -> None:
    """Owe the sink all kept records that finished while it was not attached. Those pruned before are missed."""
    connection.execute(
        "INSERT INTO sink (name, missed) SELECT ?, (SELECT coalesce(sum(tasks), 0) FROM pruned) WHERE true"
        " ON CONFLICT DO NOTHING",
        (name,),
    )
    connection.execute(
        "INSERT INTO undelivered (sink, number) SELECT s.id, r.number FROM sink s CROSS JOIN record r"
        " WHERE s.name = ? AND r.number > s.filled_to",
        (name,),
    )
    connection.execute("UPDATE sink SET attached = 1 WHERE name = ?", (name,))


def undelivered(connection: Connection, sink: str, limit: int) -> list[Delivery]:
    found = connection.execute(
        "SELECT r.number, a.name, t.task_id, r.body FROM undelivered u"
        " CROSS JOIN record r ON r.number = u.number"
        " CROSS JOIN task t ON t.key = r.task CROSS JOIN account a ON a.id = t.account"
        " WHERE u.sink = (SELECT id FROM sink WHERE name = ?) ORDER BY u.number LIMIT ?",
        (sink, max(0, limit)),
    )
    with closing(found):
        return deliveries_of(found)


def note_delivered(
    connection: Connection,
    sink: str,
    numbers: Sequence[int],
    refused: Mapping[int, str],
    position: bytes | None,
    now: float,
) -> None:
    """Turn undelivered records into delivered or, where refused, dead ones. A second time changes nothing."""
    row = connection.execute("SELECT id FROM sink WHERE name = ?", (sink,)).fetchone()
    if row is None:
        return
    strike = "DELETE FROM undelivered WHERE sink = ? AND number = ?"
    accepted = [(*row, number) for number in numbers if number not in refused]
    delivered = max(0, connection.executemany(strike, accepted).rowcount)  # -1 for none
    for number in (number for number in numbers if number in refused):
        if connection.execute(strike, (*row, number)).rowcount:
            connection.execute(
                "INSERT INTO dead (sink, number, reason, at) VALUES (?, ?, ?, ?)", (*row, number, refused[number], now)
            )
    connection.execute(
        "UPDATE sink SET delivered = delivered + ?, position = coalesce(?, position) WHERE id = ?",
        (delivered, position, *row),
    )


def note_position(connection: Connection, sink: str, position: bytes | None) -> None:
    connection.execute("UPDATE sink SET position = ? WHERE name = ?", (position, sink))


def positions(connection: Connection) -> dict[str, bytes | None]:
    return dict(connection.execute("SELECT name, position FROM sink ORDER BY id"))


def replay(connection: Connection, sink: str, selection: Selection, from_start: bool) -> int:
    """Turn selected delivered and dead records into undelivered ones; return how many."""
    kinds = sorted(selection.kinds)
    of_kind = f" AND t.kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
    dead_only = " AND EXISTS (SELECT 1 FROM dead d WHERE d.sink = s.id AND d.number = r.number)"
    of_ids = " AND t.task_id IN (SELECT value FROM json_each(?))" if selection.task_ids is not None else ""
    sql = (
        "INSERT INTO undelivered (sink, number) SELECT s.id, r.number FROM sink s CROSS JOIN record r"  # noqa: S608 - placeholders
        " CROSS JOIN task t ON t.key = r.task"
        f" WHERE s.name = ? AND (s.attached OR r.number <= s.filled_to) AND r.seen_at >= ?{of_kind}"
        f"{dead_only if selection.dead else ''}{of_ids} ON CONFLICT DO NOTHING"
    )
    since = float("-inf") if selection.since is None else selection.since
    ids = [] if selection.task_ids is None else [orjson.dumps(sorted(map(storable, selection.task_ids))).decode()]
    replayed = connection.execute(sql, (sink, since, *kinds, *ids)).rowcount
    revived = connection.execute(
        "DELETE FROM dead WHERE sink = (SELECT id FROM sink WHERE name = ?)"
        " AND EXISTS (SELECT 1 FROM undelivered u WHERE u.sink = dead.sink AND u.number = dead.number)",
        (sink,),
    ).rowcount
    connection.execute("UPDATE sink SET delivered = delivered - ? WHERE name = ?", (replayed - revived, sink))
    if from_start:
        note_position(connection, sink, None)
    return replayed


def prune(connection: Connection, before: float, limit: int, after: pruning.Place) -> tuple[int, pruning.Place | None]:
    """Delete the oldest tasks after `after` that no attached sink lacks or has refused; their counts go into `pruned`.
    Return as a batch of `pruning.prune`."""
    examined = connection.execute(
        "SELECT r.seen_at, r.task, r.number, EXISTS (SELECT 1 FROM sink s WHERE s.attached AND (EXISTS"
        " (SELECT 1 FROM undelivered u WHERE u.sink = s.id AND u.number = r.number) OR EXISTS"
        " (SELECT 1 FROM dead d WHERE d.sink = s.id AND d.number = r.number)))"
        " FROM record r WHERE r.seen_at < ? AND (r.seen_at, r.task) > (?, ?) ORDER BY r.seen_at, r.task LIMIT ?",
        (before, *after, pruning.EXAMINED_AT_ONCE),
    ).fetchall()
    found, last = pruning.chosen(examined, limit)
    numbers, tasks = [(number,) for number, _ in found], [(task,) for _, task in found]
    _note_missed(connection, numbers)
    connection.executemany("DELETE FROM record WHERE number = ?", numbers)
    connection.executemany(
        "INSERT INTO pruned (kind, tasks, polls, landed) SELECT kind, 1, polls, landed FROM task WHERE key = ?"
        " ON CONFLICT (kind) DO UPDATE SET tasks = tasks + 1, polls = polls + excluded.polls,"
        " landed = landed + excluded.landed",
        tasks,
    )
    import_sums.forget(connection, tasks)
    connection.executemany("DELETE FROM task WHERE key = ?", tasks)
    forget_runs(connection, tasks)
    return len(found), last


def _note_missed(connection: Connection, numbers: Sequence[tuple[int]]) -> None:
    """Count what sinks that are not attached will never get: their rows go; numbers past `filled_to` never had any."""
    away = connection.execute("SELECT id, filled_to FROM sink WHERE NOT attached").fetchall()
    for sink, filled_to in away:
        missed = sum(number > filled_to for (number,) in numbers)
        for table in ("undelivered", "dead"):
            missed += connection.executemany(
                f"DELETE FROM {table} WHERE sink = {sink} AND number = ?",  # noqa: S608 - our own table and number
                numbers,
            ).rowcount
        connection.execute("UPDATE sink SET missed = missed + ? WHERE id = ?", (missed, sink))

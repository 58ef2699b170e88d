"""The rows to import of an SQLite state: feeding, claiming, and what their starts led to. Writing functions run inside
a transaction. For the contracts, see `StartStore` in core/protocols.

A start is stored as lost before it leaves; what its answer proves is subtracted later. So at any instant
starts = accepted + refused + lost, and a crash needs no clean-up.
"""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing

import orjson

from poller.core.accounts import AccountState
from poller.core.model import FedRow, Kind, Record
from poller.core.starts import Row, StartAgain
from poller.store.rows import (
    IMPORT_ROW,
    IMPORT_ROW_OF_I,
    MAY_HAVE_LANDED,
    ids_of_attempts,
    import_row_of,
    start_facts,
    storable,
)
from poller.store.sqlite.accounts import account_base

Connection = sqlite3.Connection

# --- feeding ---------------------------------------------------------------------------------------------------------


def add_rows(
    connection: Connection, rows: Sequence[FedRow], noted: Mapping[str, AccountState], now: float
) -> tuple[int, int, int]:
    """Store the rows that are new, or whose latest attempt failed; return how many, how many of them are such attempts,
    and how many duplicates have a task that ended but is not complete."""
    added = repeated = failed = 0
    for name in sorted({row.account for row in rows}):
        account, _ = account_base(connection, name, noted)
        of_account = [row for row in rows if row.account == name]
        before = connection.total_changes
        connection.executemany(
            "INSERT INTO import_row (account, row, body, ref, fed_at, due_at) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            [(account, row.row, row.body, row.ref, now, now) for row in of_account],
        )
        new = connection.total_changes - before
        if new < len(of_account):
            again, ended = _add_attempts(connection, account, of_account, now)
            new, repeated, failed = new + again, repeated + again, failed + ended
        added += new
    return added, repeated, failed


def _add_attempts(connection: Connection, account: int, rows: Sequence[FedRow], now: float) -> tuple[int, int]:
    """Store a new attempt at each known row that failed; return how many, and how many that ended are none."""
    by_row = {row.row: row for row in rows}
    found = connection.execute(
        "SELECT f.row, f.attempts, latest.earlier, t.task_id, t.kind, t.landed"
        " FROM json_each(?) fed"
        " CROSS JOIN import_row f ON f.account = ? AND f.row = fed.value"
        " CROSS JOIN import_row latest ON latest.account = f.account"
        " AND latest.row = CASE f.attempts WHEN 1 THEN f.row ELSE f.row || '~' || f.attempts END"
        " CROSS JOIN task t ON t.key = latest.task AND t.kind IS NOT NULL",
        (orjson.dumps(list(by_row)).decode(), account),
    ).fetchall()
    again = [each for each in found if each[4] != Kind.COMPLETE and not each[5]]
    for name, attempts, earlier, task_id, kind, _ in again:
        row = by_row[name]
        ids = ids_of_attempts(earlier, task_id)
        connection.execute(
            "INSERT INTO import_row (account, row, body, ref, fed_at, due_at, may_have_landed, earlier)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                account,
                f"{name}~{attempts + 1}",
                row.body,
                row.ref,
                now,
                row.due_at or now,
                kind in MAY_HAVE_LANDED,
                ids,
            ),
        )
        connection.execute(
            "UPDATE import_row SET attempts = attempts + 1 WHERE account = ? AND row = ?", (account, name)
        )
    return len(again), sum(kind != Kind.COMPLETE for _, _, _, _, kind, _ in found) - len(again)


# --- starting --------------------------------------------------------------------------------------------------------


def claim(
    connection: Connection, account: str, limit: int, leased: Collection[int], now: float, unsure: bool
) -> list[Row]:
    """Return up to `limit` due rows that are not leased, longest due first; `unsure`: only those with a lost start."""
    found = connection.execute(
        f"SELECT {IMPORT_ROW} FROM import_row INDEXED BY import_row_due"  # noqa: S608 - our own columns
        " WHERE account = (SELECT id FROM account WHERE name = ?) AND task IS NULL AND due_at <= ? AND lost >= ?"
        " ORDER BY due_at, key LIMIT ?",
        (account, now, int(unsure), limit + len(leased)),
    ).fetchall()
    return [import_row_of(account, row) for row in found if row[0] not in leased][:limit]


def unsure_due(connection: Connection, account: str, limit: int, leased: Collection[int]) -> list[float]:
    found = connection.execute(
        "SELECT key, due_at FROM import_row INDEXED BY import_row_due WHERE account ="
        " (SELECT id FROM account WHERE name = ?) AND task IS NULL AND lost > 0 ORDER BY due_at LIMIT ?",
        (account, limit + len(leased)),
    ).fetchall()
    return [due_at for key, due_at in found if key not in leased][:limit]


def next_due_at(connection: Connection, account: str, leased: Collection[int]) -> float | None:
    found = connection.execute(
        "SELECT key, due_at FROM import_row INDEXED BY import_row_due WHERE account ="
        " (SELECT id FROM account WHERE name = ?) AND task IS NULL ORDER BY due_at, key",
        (account,),
    )
    with closing(found):
        return next((due_at for key, due_at in found if key not in leased), None)


def intend(connection: Connection, key: int, sent_at: float, due_at: float) -> None:
    """Store a start as lost, before it leaves."""
    connection.execute(
        "UPDATE import_sum SET repeated = repeated + (SELECT lost > 0 FROM import_row WHERE key = ?)", (key,)
    )
    connection.execute(
        "UPDATE import_row SET starts = starts + 1, lost = lost + 1, due_at = ?,"
        " first_sent_at = coalesce(first_sent_at, ?) WHERE key = ?",
        (due_at, sent_at, key),
    )


def begin(connection: Connection, row: Row, task_id: str, base: tuple[int, float], now: float, due_at: float) -> bool:
    """Give a row its task; False where the account has a task of this id already. `base`: the account's number and
    paused time."""
    inserted = connection.execute(
        "INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at, start) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (account, task_id) DO NOTHING RETURNING key",
        (*base, task_id, row.ref, now, due_at, start_facts(row, now)),
    ).fetchone()
    if inserted is None:
        return False
    _end_of_start(connection, row, task=inserted[0], accepted=True)
    return True


def start_again(connection: Connection, key: int, decision: StartAgain) -> None:
    """Take back a start that began no import."""
    if not decision.left:
        connection.execute(
            "UPDATE import_sum SET repeated = repeated - (SELECT lost > 1 FROM import_row WHERE key = ?)", (key,)
        )
    connection.execute(
        "UPDATE import_row SET lost = lost - 1, starts = starts - ?, refusals = ?, due_at = ?,"
        " first_sent_at = CASE lost WHEN 1 THEN NULL ELSE first_sent_at END WHERE key = ?",
        (not decision.left, decision.refusals, decision.at, key),
    )
    connection.execute("UPDATE import_sum SET refused = refused + ?", (decision.left,))


def end_row(connection: Connection, row: Row, record: Record, base: tuple[int, float], *, is_certain: bool) -> None:
    """Give a row an outcome without an import: a finished task without an id. `is_certain`: its last start began no
    import."""
    (task,) = connection.execute(
        "INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at, kind, landed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 0) RETURNING key",
        (*base, record.task_id, row.ref, row.fed_at, row.fed_at, str(record.kind)),
    ).fetchone()
    (number,) = connection.execute(
        "INSERT INTO record (task, reason, seen_at, body) VALUES (?, ?, ?, ?) RETURNING number",
        (task, record.reason and storable(record.reason), record.seen_at, record.body),
    ).fetchone()
    connection.execute("INSERT INTO undelivered (sink, number) SELECT id, ? FROM sink WHERE attached", (number,))
    if is_certain:
        _end_of_start(connection, row, task=task, accepted=False)
    else:
        connection.execute("UPDATE import_row SET task = ?, ref = NULL WHERE key = ?", (task, row.key))


def _end_of_start(connection: Connection, row: Row, *, task: int, accepted: bool) -> None:
    connection.execute("UPDATE import_row SET task = ?, ref = NULL, lost = lost - 1 WHERE key = ?", (task, row.key))
    connection.execute("UPDATE import_sum SET accepted = accepted + ?, refused = refused + ?", (accepted, not accepted))


def without_task(connection: Connection, row: str) -> list[Row]:
    found = connection.execute(
        f"SELECT a.name, {IMPORT_ROW_OF_I} FROM account a CROSS JOIN import_row i"  # noqa: S608 - our own columns
        " ON i.account = a.id AND i.row = ? WHERE i.task IS NULL ORDER BY a.name",
        (row,),
    )
    return [import_row_of(account, columns) for account, *columns in found]


def bodies(connection: Connection, account: str, names: Sequence[str]) -> dict[str, bytes]:
    return dict(
        connection.execute(
            "SELECT i.row, i.body FROM json_each(?) named CROSS JOIN import_row i"
            " ON i.account = (SELECT id FROM account WHERE name = ?) AND i.row = named.value",
            (orjson.dumps(list(names)).decode(), account),
        )
    )


def rebase(connection: Connection, values: Mapping[str, float]) -> None:
    """Move instants that are after now back: see `rebase_instants`."""
    connection.execute(
        "UPDATE import_row SET due_at = CASE WHEN due_at > :now THEN max(due_at - :ahead_s, :now) ELSE due_at END,"
        " fed_at = CASE WHEN fed_at > :now THEN min(fed_at - :ahead_s, :now) ELSE fed_at END,"
        " first_sent_at = CASE WHEN first_sent_at > :now THEN min(first_sent_at - :ahead_s, :now)"
        " ELSE first_sent_at END"
        " WHERE task IS NULL AND (due_at > :now OR fed_at > :now OR first_sent_at > :now)",
        values,
    )

"""The rows to import of a PostgreSQL state: feeding, claiming, and what their starts led to. Writing functions run
inside a transaction. For the contracts, see `StartStore` in core/protocols.

A start is stored as lost before it leaves; what its answer proves is subtracted later. So at any instant
starts = accepted + refused + lost, and a crash needs no clean-up.
"""

from collections.abc import Collection, Mapping, Sequence

from psycopg import AsyncConnection

from poller.core.model import FedRow, Kind, Record
from poller.core.starts import Row, StartAgain
from poller.store import rows
from poller.store.postgres.connection import fetch_all, fetch_first

OF_ACCOUNT = "account = (SELECT id FROM account WHERE name = %s)"


# Keys are in the order of the lines, but rows are inserted in their own: members of a fleet that are fed the same rows
# wait for each other in one direction.
_INSERT_ROWS = (
    "WITH line AS (SELECT nextval((SELECT pg_get_serial_sequence('import_row', 'key')::regclass)) AS key,"
    ' x.row COLLATE "C" AS row, x.body, x.ref FROM unnest(%s::text[], %b::bytea[], %b::bytea[])'
    " WITH ORDINALITY AS x (row, body, ref, nr) ORDER BY x.nr)"
    " INSERT INTO import_row (key, account, row, body, ref, fed_at, due_at) OVERRIDING SYSTEM VALUE"
    " SELECT key, %s, row, body, ref, %s, %s FROM line ORDER BY row, key ON CONFLICT DO NOTHING"
)


# --- feeding ---------------------------------------------------------------------------------------------------------


async def add_rows(
    connection: AsyncConnection, fed: Sequence[FedRow], accounts: Mapping[str, int], now: float
) -> tuple[int, int, int]:
    """Store the rows that are new, or whose latest attempt failed; return how many, how many of them are such attempts,
    and how many duplicates have a task that ended but is not complete. `accounts`: the numbers of their accounts."""
    added = repeated = failed = 0
    for name, account in sorted(accounts.items()):
        of_account = [row for row in fed if row.account == name]
        await connection.execute("INSERT INTO import_sum (account) VALUES (%s) ON CONFLICT DO NOTHING", (account,))
        inserted = await connection.execute(
            _INSERT_ROWS,
            (
                [row.row for row in of_account],
                [row.body for row in of_account],
                [row.ref for row in of_account],
                account,
                now,
                now,
            ),
        )
        new = inserted.rowcount
        if new < len(of_account):
            again, ended = await _add_attempts(connection, account, of_account, now)
            new, repeated, failed = new + again, repeated + again, failed + ended
        added += new
    return added, repeated, failed


async def _add_attempts(
    connection: AsyncConnection, account: int, fed: Sequence[FedRow], now: float
) -> tuple[int, int]:
    """Store a new attempt at each known row that failed; return how many, and how many that ended are none. Where
    another member of a fleet makes the same attempt, it is waited for, and the row is passed over."""
    by_row = {row.row: row for row in fed}
    found = await fetch_all(
        connection,
        "SELECT f.row, f.attempts, latest.earlier, t.task_id, t.kind, t.landed FROM import_row f"
        " JOIN import_row latest ON latest.account = f.account"
        " AND latest.row = CASE f.attempts WHEN 1 THEN f.row ELSE f.row || '~' || f.attempts END"
        " JOIN task t ON t.key = latest.task AND t.kind IS NOT NULL"
        " WHERE f.account = %s AND f.row = ANY (%s) ORDER BY f.key FOR UPDATE OF f",
        (account, list(by_row)),
    )
    again = [each for each in found if each[4] != Kind.COMPLETE and not each[5]]
    for name, attempts, earlier, task_id, kind, _ in again:
        row = by_row[name]
        await connection.execute(
            "INSERT INTO import_row (account, row, body, ref, fed_at, due_at, may_have_landed, earlier)"
            " VALUES (%s, %s, %b, %b, %s, %s, %s, %s)",
            (
                account,
                f"{name}~{attempts + 1}",
                row.body,
                row.ref,
                now,
                row.due_at or now,
                kind in rows.MAY_HAVE_LANDED,
                rows.ids_of_attempts(earlier, task_id),
            ),
        )
        await connection.execute(
            "UPDATE import_row SET attempts = attempts + 1 WHERE account = %s AND row = %s", (account, name)
        )
    return len(again), sum(kind != Kind.COMPLETE for _, _, _, _, kind, _ in found) - len(again)


# --- starting --------------------------------------------------------------------------------------------------------


async def find_due(
    connection: AsyncConnection, account: str, leased: Collection[int], limit: int, now: float, unsure: bool
) -> list[Row]:
    """Return up to `limit` due rows that are not leased, longest due first; `unsure`: only those with a lost start."""
    found = await connection.execute(
        f"SELECT {rows.IMPORT_ROW} FROM import_row WHERE {OF_ACCOUNT} AND task IS NULL AND due_at <= %s"  # noqa: S608 - our own columns
        " AND lost >= %s AND key <> ALL (%s::bigint[]) ORDER BY due_at, key LIMIT %s",
        (account, now, int(unsure), list(leased), limit),
        prepare=False,  # a plan for an unknown limit would sort all due rows
    )
    return [rows.import_row_of(account, row) for row in await found.fetchall()]


async def unsure_due(connection: AsyncConnection, account: str, limit: int, leased: Collection[int]) -> list[float]:
    found = await connection.execute(
        f"SELECT due_at FROM import_row WHERE {OF_ACCOUNT} AND task IS NULL AND lost > 0"  # noqa: S608 - our own text
        " AND key <> ALL (%s::bigint[]) ORDER BY due_at LIMIT %s",
        (account, list(leased), limit),
    )
    return [due_at for (due_at,) in await found.fetchall()]


async def next_due_of(
    connection: AsyncConnection, accounts: Sequence[str], leased: Collection[int]
) -> dict[str, float]:
    """Return when the earliest row of each of these accounts is due, of those that are not leased."""
    found = await connection.execute(
        "SELECT a.name, next.due_at FROM account a CROSS JOIN LATERAL (SELECT due_at FROM import_row"
        " WHERE account = a.id AND task IS NULL AND key <> ALL (%s::bigint[]) ORDER BY due_at, key LIMIT 1) next"
        " WHERE a.name = ANY (%s)",
        (list(leased), list(accounts)),
        prepare=False,
    )
    return dict(await found.fetchall())


async def intend(connection: AsyncConnection, key: int, sent_at: float, due_at: float) -> None:
    """Store a start as lost, before it leaves."""
    await connection.execute(
        "WITH before AS (SELECT account FROM import_row WHERE key = %(key)s AND lost > 0),"
        " counted AS (UPDATE import_sum s SET repeated = s.repeated + 1 FROM before WHERE s.account = before.account)"
        " UPDATE import_row SET starts = starts + 1, lost = lost + 1, due_at = %(due_at)s,"
        " first_sent_at = coalesce(first_sent_at, %(sent_at)s) WHERE key = %(key)s",
        {"key": key, "sent_at": sent_at, "due_at": due_at},
    )


async def begin(
    connection: AsyncConnection, row: Row, task_id: str, paused_s: float | None, now: float, due_at: float
) -> bool:
    """Give a row its task; False where the account has a task of this id already. `paused_s`: the account's paused
    time, where it is noted but not stored yet."""
    found = await fetch_first(
        connection,
        "WITH new AS (INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at, start)"
        " SELECT id, coalesce(%(paused_s)s, paused_s), %(task_id)s, %(ref)b, %(now)s, %(due_at)s, %(start)b"
        " FROM account WHERE name = %(account)s ON CONFLICT (account, task_id) DO NOTHING RETURNING key),"
        " ended AS (UPDATE import_row r SET task = new.key, ref = NULL, lost = r.lost - 1 FROM new"
        " WHERE r.key = %(row)s RETURNING r.account),"
        " counted AS (UPDATE import_sum s SET accepted = s.accepted + 1 FROM ended WHERE s.account = ended.account)"
        " SELECT count(*) FROM new",
        {
            "account": row.account,
            "paused_s": paused_s,
            "task_id": task_id,
            "ref": row.ref,
            "now": now,
            "due_at": due_at,
            "start": rows.start_facts(row, now),
            "row": row.key,
        },
    )
    return found == (1,)


async def start_again(connection: AsyncConnection, key: int, decision: StartAgain) -> None:
    """Take back a start that began no import."""
    await connection.execute(
        "WITH ended AS (UPDATE import_row SET lost = lost - 1, starts = starts - %(unsent)s, refusals = %(refusals)s,"
        " due_at = %(at)s, first_sent_at = CASE lost WHEN 1 THEN NULL ELSE first_sent_at END WHERE key = %(key)s"
        " RETURNING account, (lost > 0)::integer * %(unsent)s AS unrepeated)"
        " UPDATE import_sum s SET refused = s.refused + %(refused)s, repeated = s.repeated - unrepeated FROM ended"
        " WHERE s.account = ended.account",
        {
            "key": key,
            "unsent": int(not decision.left),
            "refused": int(decision.left),
            "refusals": decision.refusals,
            "at": decision.at,
        },
    )


# A finished task without an id, and the row's starts.
_END_ROW = (
    b"WITH new AS (INSERT INTO task (account, paused_base_s, task_id, ref, fed_at, due_at, kind, landed)"
    b" SELECT id, coalesce(%(paused_s)s, paused_s), %(task_id)s, %(ref)b, %(fed_at)s, %(fed_at)s, %(kind)s, false"
    b" FROM account WHERE name = %(account)s RETURNING key),"
    b" ended AS (UPDATE import_row r SET task = new.key, ref = NULL, lost = r.lost - %(certain)s FROM new"
    b" WHERE r.key = %(row)s RETURNING r.account),"
    b" counted AS (UPDATE import_sum s SET refused = s.refused + %(certain)s FROM ended"
    b" WHERE s.account = ended.account)"
)


async def end_row(
    connection: AsyncConnection, row: Row, record: Record, paused_s: float | None, is_certain: bool
) -> None:
    """Give a row an outcome without an import: a finished task without an id. `is_certain`: its last start began no
    import. One statement; the lock of the attached sinks keeps `attach_sinks` out."""
    await connection.execute(
        _END_ROW + b", kept AS (INSERT INTO record (task, reason, seen_at, body)"
        b" SELECT key, %(reason)s, %(seen_at)s, %(body)b FROM new RETURNING number),"
        b" attached AS (SELECT id FROM sink WHERE attached FOR KEY SHARE)"
        b" INSERT INTO undelivered (sink, number) SELECT id, number FROM attached CROSS JOIN kept",
        {
            **_end_values(row, record, paused_s, is_certain),
            "reason": record.reason and rows.storable(record.reason),
            "seen_at": record.seen_at,
            "body": record.body,
        },
    )


async def end_row_unrecorded(
    connection: AsyncConnection, row: Row, record: Record, paused_s: float | None, is_certain: bool
) -> int:
    """As `end_row`, but the caller keeps the record, of the task with the returned key."""
    values = _end_values(row, record, paused_s, is_certain)
    ((key,),) = await (await connection.execute(_END_ROW + b" SELECT key FROM new", values)).fetchall()
    return int(key)


def _end_values(row: Row, record: Record, paused_s: float | None, is_certain: bool) -> dict[str, object]:
    return {
        "account": row.account,
        "paused_s": paused_s,
        "task_id": record.task_id,
        "ref": row.ref,
        "fed_at": row.fed_at,
        "kind": str(record.kind),
        "row": row.key,
        "certain": int(is_certain),
    }


async def without_task(connection: AsyncConnection, row: str) -> list[Row]:
    found = await fetch_all(
        connection,
        f"SELECT a.name, {rows.IMPORT_ROW_OF_I} FROM import_row i JOIN account a ON a.id = i.account"  # noqa: S608 - our own columns
        ' WHERE i.task IS NULL AND i.row = %s ORDER BY a.name COLLATE "C"',
        (row,),
    )
    return [rows.import_row_of(account, columns) for account, *columns in found]


async def bodies(connection: AsyncConnection, account: str, names: Sequence[str]) -> dict[str, bytes]:
    sql = f"SELECT row, body FROM import_row WHERE {OF_ACCOUNT} AND row = ANY (%s)"  # noqa: S608 - our own text
    return dict(await fetch_all(connection, sql, (account, list(names))))

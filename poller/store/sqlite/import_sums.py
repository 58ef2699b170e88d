"""The sums of the rows to import of an SQLite state, and what is left of them once their tasks are pruned. For the
contracts, see core/protocols.
"""

import sqlite3
from collections.abc import Sequence

import orjson

from poller.core.sums import StartSums

Connection = sqlite3.Connection

PRUNED = 0  # the task of an attempt whose task is pruned: SQLite may give its key to another


def backlog(connection: Connection, account: str, limit: int) -> int:
    found = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM import_row INDEXED BY import_row_due WHERE account ="
        " (SELECT id FROM account WHERE name = ?) AND task IS NULL LIMIT ?)",
        (account, limit),
    )
    return int(found.fetchone()[0])


def underway(connection: Connection, account: str) -> int:
    found = connection.execute(
        "SELECT count(*) FROM task INDEXED BY task_underway WHERE account ="
        " (SELECT id FROM account WHERE name = ?) AND start IS NOT NULL AND kind IS NULL",
        (account,),
    )
    return int(found.fetchone()[0])


def landed(connection: Connection, account: str, limit: int) -> int:
    found = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM import_row i CROSS JOIN task t ON t.key = i.task WHERE i.account ="
        " (SELECT id FROM account WHERE name = ?) AND i.task IS NOT NULL AND t.landed LIMIT ?)",
        (account, limit),
    )
    return int(found.fetchone()[0])


def count(connection: Connection) -> StartSums | None:
    """Return where all starts went; None where there never was a row."""
    unstarted, unsure, starts, lost, tried_again = connection.execute(
        "SELECT count(*) FILTER (WHERE task IS NULL AND lost = 0), count(*) FILTER (WHERE task IS NULL AND lost > 0),"
        " coalesce(sum(starts), 0), coalesce(sum(lost), 0), coalesce(sum(attempts - 1), 0) FROM import_row"
    ).fetchone()
    accepted, refused, repeated, starts_gone, lost_gone, tried_again_gone = connection.execute(
        "SELECT accepted, refused, repeated, starts, lost, tried_again FROM import_sum"
    ).fetchone()
    if not (unstarted or unsure or starts or starts_gone):
        return None
    (is_underway,) = connection.execute(
        "SELECT count(*) FROM task INDEXED BY task_underway WHERE start IS NOT NULL AND kind IS NULL"
    ).fetchone()
    return StartSums(
        unstarted=unstarted,
        unsure=unsure,
        underway=is_underway,
        starts=starts + starts_gone,
        accepted=accepted,
        refused=refused,
        lost=lost + lost_gone,
        repeated=repeated,
        tried_again=tried_again + tried_again_gone,
    )


# --- pruning ---------------------------------------------------------------------------------------------------------


def forget(connection: Connection, tasks: Sequence[tuple[int]]) -> None:
    """Delete the rows of tasks that are pruned. A row with several attempts goes with the last of their tasks: one may
    be under way, and must be found when the row is fed again. Until then `PRUNED` is the task of the others."""
    keys = orjson.dumps([task for (task,) in tasks]).decode()
    found = connection.execute(
        "SELECT i.key, i.account, i.row, i.attempts FROM json_each(?) pruned"
        " CROSS JOIN import_row i ON i.task = pruned.value AND i.task IS NOT NULL",
        (keys,),
    ).fetchall()
    gone = [(key,) for key, _, row, attempts in found if attempts == 1 and "~" not in row]
    of_several = [(key, account, row) for key, account, row, attempts in found if attempts > 1 or "~" in row]
    connection.executemany("UPDATE import_row SET task = ? WHERE key = ?", [(PRUNED, key) for key, *_ in of_several])
    for account, first in sorted({(account, row.partition("~")[0]) for _, account, row in of_several}):
        gone += _attempts_if_gone(connection, account, first)
    connection.executemany(
        "UPDATE import_sum SET (starts, lost, tried_again) = (SELECT import_sum.starts + i.starts,"
        " import_sum.lost + i.lost, import_sum.tried_again + i.attempts - 1 FROM import_row i WHERE i.key = ?)",
        gone,
    )
    connection.executemany("DELETE FROM import_row WHERE key = ?", gone)


def _attempts_if_gone(connection: Connection, account: int, first: str) -> list[tuple[int]]:
    """Return the keys of all attempts at a row, where the task of each is pruned; else none."""
    by_name = "SELECT key, task FROM import_row WHERE account = ? AND row = ?"
    (latest,) = connection.execute(
        "SELECT attempts FROM import_row WHERE account = ? AND row = ?", (account, first)
    ).fetchone()
    names = [first, *(f"{first}~{number}" for number in range(2, latest + 1))]
    found = [connection.execute(by_name, (account, name)).fetchone() for name in names]
    return [(key,) for key, _ in found] if all(task == PRUNED for _, task in found) else []

"""The sums of the rows to import of a PostgreSQL state, and what is left of them once their tasks are pruned. For the
contracts, see core/protocols.
"""

from collections.abc import Sequence

from psycopg import AsyncConnection

from poller.core.sums import StartSums
from poller.store.postgres.connection import fetch_all
from poller.store.postgres.import_rows import OF_ACCOUNT


async def backlog(connection: AsyncConnection, account: str, limit: int) -> int:
    return await _number(
        connection,
        f"SELECT count(*) FROM (SELECT 1 FROM import_row WHERE {OF_ACCOUNT} AND task IS NULL LIMIT %s) x",  # noqa: S608 - our own text
        (account, limit),
    )


async def accounts_with_rows(connection: AsyncConnection, names: Sequence[str]) -> list[str]:
    """Return those of these accounts that have a row without a task."""
    found = await fetch_all(
        connection,
        "SELECT name FROM account a WHERE name = ANY (%s)"
        " AND EXISTS (SELECT FROM import_row WHERE account = a.id AND task IS NULL)",
        (names,),
    )
    return [name for (name,) in found]


async def underway(connection: AsyncConnection, account: str) -> int:
    sql = f"SELECT count(*) FROM task WHERE {OF_ACCOUNT} AND start IS NOT NULL AND kind IS NULL"  # noqa: S608 - our own text
    return await _number(connection, sql, (account,))


async def landed(connection: AsyncConnection, account: str, limit: int) -> int:
    return await _number(
        connection,
        "SELECT count(*) FROM (SELECT 1 FROM import_row i JOIN task t ON t.key = i.task"  # noqa: S608 - our own text
        f" WHERE i.{OF_ACCOUNT} AND t.landed LIMIT %s) x",
        (account, limit),
    )


async def _number(connection: AsyncConnection, query: str, values: Sequence[object]) -> int:
    ((number,),) = await fetch_all(connection, query, values)
    return int(number)


async def count(connection: AsyncConnection) -> StartSums | None:
    """Return where all starts went; None where there never was a row."""
    ((unstarted, unsure, starts, lost, tried_again),) = await fetch_all(
        connection,
        "SELECT count(*) FILTER (WHERE task IS NULL AND lost = 0), count(*) FILTER (WHERE task IS NULL AND lost > 0),"
        " coalesce(sum(starts), 0)::bigint, coalesce(sum(lost), 0)::bigint, coalesce(sum(attempts - 1), 0)::bigint"
        " FROM import_row",
    )
    ((accepted, refused, repeated, starts_gone, lost_gone, tried_again_gone),) = await fetch_all(
        connection,
        "SELECT coalesce(sum(accepted), 0)::bigint, coalesce(sum(refused), 0)::bigint,"
        " coalesce(sum(repeated), 0)::bigint, coalesce(sum(starts), 0)::bigint, coalesce(sum(lost), 0)::bigint,"
        " coalesce(sum(tried_again), 0)::bigint"
        " FROM import_sum",
    )
    if not (unstarted or unsure or starts or starts_gone):
        return None
    is_underway = "SELECT count(*) FROM task WHERE start IS NOT NULL AND kind IS NULL"
    return StartSums(
        unstarted=unstarted,
        unsure=unsure,
        underway=await _number(connection, is_underway, ()),
        starts=starts + starts_gone,
        accepted=accepted,
        refused=refused,
        lost=lost + lost_gone,
        repeated=repeated,
        tried_again=tried_again + tried_again_gone,
    )


# --- pruning ---------------------------------------------------------------------------------------------------------


_FORGET = (
    "WITH gone AS (DELETE FROM import_row WHERE {which} RETURNING account, starts, lost, attempts),"
    " x AS (SELECT account, sum(starts) AS starts, sum(lost) AS lost, sum(attempts - 1) AS tried_again FROM gone"
    " GROUP BY account)"
    " UPDATE import_sum s SET starts = s.starts + x.starts, lost = s.lost + x.lost,"
    " tried_again = s.tried_again + x.tried_again FROM x WHERE s.account = x.account"
)
_SINGLE = "task = ANY (%s::bigint[]) AND attempts = 1 AND position('~' IN row) = 0"
_SEVERAL = "SELECT DISTINCT account, split_part(row, '~', 1) FROM import_row WHERE task = ANY (%s::bigint[])"
_ATTEMPTS = "SELECT attempts FROM import_row WHERE account = %s AND row = %s FOR UPDATE"
_IF_GONE = (
    "account = %(account)s AND row = ANY (%(names)s) AND NOT EXISTS (SELECT FROM import_row i"
    " WHERE i.account = %(account)s AND i.row = ANY (%(names)s)"
    " AND (i.task IS NULL OR EXISTS (SELECT FROM task WHERE key = i.task)))"
)


async def forget(connection: AsyncConnection, tasks: Sequence[int]) -> None:
    """Delete the rows of tasks that were pruned. A row with several attempts goes with the last of their tasks: one may
    be under way, and must be found when the row is fed again."""
    await connection.execute(_FORGET.format(which=_SINGLE).encode(), (list(tasks),))
    for account, first in await fetch_all(connection, _SEVERAL, (list(tasks),)):
        # The lock: an attempt that is fed meanwhile is made before, and found, or after.
        ((attempts,),) = await fetch_all(connection, _ATTEMPTS, (account, first))
        names = [first, *(f"{first}~{number}" for number in range(2, attempts + 1))]
        await connection.execute(_FORGET.format(which=_IF_GONE).encode(), {"account": account, "names": names})

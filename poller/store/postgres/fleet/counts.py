"""Sums of a fleet's tasks by kind, kept by the transactions that change them: no member counts rows, or remembers what
others did. "" is the kind of tasks that wait: for it, `landed` is how many finished attempts at rows have a later one.
"""

from collections import defaultdict
from collections.abc import Iterable

from psycopg import AsyncConnection

from poller.core.fleet import KindCount
from poller.store.postgres.connection import fetch_all

WAITING = ""

Change = tuple[str, int, int, int]  # kind; tasks, landed tasks and polls to add

# What is kept in rows and what was pruned. The rows of members count from then on.
_COUNT_AGAIN = (
    "DELETE FROM kind_count;"
    " INSERT INTO kind_count (replica, kind, tasks, landed, polls)"
    " SELECT '', kind, sum(tasks), sum(landed), sum(polls) FROM"
    " (SELECT coalesce(kind, '') AS kind, count(*) AS tasks, count(*) FILTER (WHERE landed) AS landed,"
    " sum(polls) AS polls FROM task GROUP BY 1 UNION ALL SELECT kind, tasks, landed, polls FROM pruned"
    " UNION ALL SELECT '', count(*) FILTER (WHERE task IS NULL), sum(attempts - 1), 0 FROM import_row"
    " HAVING count(*) > 0 UNION ALL SELECT '', 0, tried_again, 0 FROM import_sum WHERE tried_again > 0) x GROUP BY kind"
)
_COUNTS = "SELECT kind, sum(tasks)::bigint, sum(landed)::bigint, sum(polls)::bigint FROM kind_count GROUP BY kind"

# Where each pod has its own name, members come and go for years. One statement: each count is in one row at any time.
_FOLD = (
    "WITH gone AS (DELETE FROM kind_count c WHERE c.replica <> '' AND NOT EXISTS"
    " (SELECT FROM replica r WHERE r.name = c.replica) RETURNING kind, tasks, landed, polls)"
    " INSERT INTO kind_count AS c (replica, kind, tasks, landed, polls)"
    " SELECT '', kind, sum(tasks), sum(landed), sum(polls) FROM gone GROUP BY kind ORDER BY kind"
    " ON CONFLICT (replica, kind) DO UPDATE SET tasks = c.tasks + excluded.tasks,"
    " landed = c.landed + excluded.landed, polls = c.polls + excluded.polls"
)


def add_up(changes: Iterable[Change]) -> tuple[list[str], list[int], list[int], list[int]] | None:
    """Return the columns of the changes, one a kind, in one order; None for no changes."""
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for kind, *numbers in changes:
        sums[kind] = [a + b for a, b in zip(sums[kind], numbers, strict=True)]
    if not sums:
        return None
    kinds = sorted(sums)
    tasks, landed, polls = zip(*(sums[kind] for kind in kinds), strict=True)
    return kinds, list(tasks), list(landed), list(polls)


async def count_again(connection: AsyncConnection) -> None:
    """Make the sums from the rows, inside a transaction of one who alone writes."""
    await connection.execute(_COUNT_AGAIN.encode())


async def fold(connection: AsyncConnection) -> None:
    """Add the rows of members that have left to the one row a kind that belongs to none."""
    await connection.execute(_FOLD)


async def counts(connection: AsyncConnection) -> dict[str, KindCount]:
    """Return the sums of all members by kind."""
    return {kind: KindCount(*numbers) for kind, *numbers in await fetch_all(connection, _COUNTS)}

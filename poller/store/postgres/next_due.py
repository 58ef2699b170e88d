"""When the next work of accounts is due: one statement for all that ask."""

from collections.abc import Collection, Sequence

from psycopg import AsyncConnection

TASKS, ROWS = (
    "task WHERE kind IS NULL",
    "import_row WHERE task IS NULL",
)  # what waits, as their indexes by account have it


async def next_due_of(
    connection: AsyncConnection, waiting: str, accounts: Sequence[str], leased: Collection[int]
) -> dict[str, float]:
    """Return when the earliest of what is `waiting` is due, by account, but for what is leased."""
    found = await connection.execute(
        "SELECT a.name, next.due_at FROM account a CROSS JOIN LATERAL"  # noqa: S608 - our own text
        f" (SELECT due_at FROM {waiting} AND account = a.id AND key <> ALL (%s::bigint[])"
        " ORDER BY due_at, key LIMIT 1) next WHERE a.name = ANY (%s)",
        (list(leased), list(accounts)),
        prepare=False,  # a plan that was made while few waited would not use the index
    )
    return dict(await found.fetchall())

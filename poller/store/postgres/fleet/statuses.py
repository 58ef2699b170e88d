"""What members publish of themselves. The table is not logged: it survives no crash of the server, and need not."""

from psycopg import AsyncConnection

from poller.core.fleet import KindCount, Published
from poller.store.postgres.connection import fetch_all
from poller.store.postgres.fleet.counts import COUNTS, counts_of


async def publish(connection: AsyncConnection, member: int, status: bytes) -> dict[str, KindCount]:
    """Replace the member's status; return the sums of all members by kind. One statement: all members do this at all
    times."""
    found = await fetch_all(
        connection,
        "WITH published AS (INSERT INTO replica_status (replica, at, body) VALUES (%s, clock_timestamp(), %b)"  # noqa: S608
        f" ON CONFLICT (replica) DO UPDATE SET at = excluded.at, body = excluded.body) {COUNTS}",
        (member, status),
    )
    return counts_of(found)


async def forget(connection: AsyncConnection) -> None:
    """Delete the statuses of members that have left."""
    await connection.execute(
        "DELETE FROM replica_status s WHERE NOT EXISTS (SELECT FROM replica r WHERE r.id = s.replica)"
    )


async def published(connection: AsyncConnection) -> list[Published]:
    found = await fetch_all(
        connection,
        "SELECT r.id, r.name, extract(epoch FROM clock_timestamp() - s.at)::float8, s.body"
        " FROM replica_status s JOIN replica r ON r.id = s.replica ORDER BY r.name",
    )
    return [Published(member=member, name=name, age_s=age_s, body=body) for member, name, age_s, body in found]

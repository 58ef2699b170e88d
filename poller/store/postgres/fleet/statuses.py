"""What members publish of themselves. The table is not logged: it survives no crash of the server, and need not."""

from psycopg import AsyncConnection

from poller.core.fleet import Published
from poller.store.postgres.connection import fetch_all

# A part of the heartbeat's statement, whose first part is `beat`. An empty status replaces none.
PUBLISH = (
    "INSERT INTO replica_status (replica, at, body) SELECT id, clock_timestamp(), %(status)b FROM beat"
    " WHERE %(status)b <> '' ON CONFLICT (replica) DO UPDATE SET at = excluded.at, body = excluded.body"
)


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

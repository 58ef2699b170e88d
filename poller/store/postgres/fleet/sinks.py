"""Sinks of a fleet: which members name them, who delivers them, where they are at home. Writing functions run inside a
transaction that has the fence. For the contracts, see core/fleet.py.
"""

from collections.abc import Collection, Sequence

from psycopg import AsyncConnection

from poller.core.errors import ConfigError
from poller.core.fleet import TakenSink
from poller.store.postgres import outbox
from poller.store.postgres.connection import fetch_all, fetch_first
from poller.store.rows import refuse_unknown_sink

# Not FOR UPDATE: who records finished tasks, in a last message that holds their order, shares the key of each sink.
_TAKE = (
    "WITH free AS (SELECT id FROM sink WHERE owner IS NULL AND attached AND name = ANY (%s)"
    " AND (home IS NULL OR home = %s) FOR NO KEY UPDATE SKIP LOCKED)"
    " UPDATE sink s SET owner = %s, epoch = s.epoch + 1 FROM free WHERE s.id = free.id"
    " RETURNING s.name, s.epoch, s.position"
)


async def want(
    connection: AsyncConnection, names: Sequence[str], shared: Collection[str], member: int, me: str
) -> None:
    """Name these sinks and no others. Attaching locks out recording, so that no record slips between."""
    known = await fetch_all(connection, "SELECT name FROM sink WHERE attached AND name = ANY (%s)", (list(names),))
    if new := [name for name in names if (name,) not in known]:
        await connection.execute(outbox.LOCK_OUT_RECORDING)
        attached = await fetch_all(connection, "SELECT name FROM sink WHERE attached")
        for name in new:
            if (name,) not in attached:
                await outbox.attach(connection, name)
    await connection.execute("DELETE FROM sink_wanted WHERE replica = %s", (member,))
    await connection.execute(
        "INSERT INTO sink_wanted (sink, replica) SELECT id, %s FROM sink WHERE name = ANY (%s)", (member, list(names))
    )
    await connection.execute(
        "UPDATE sink SET home = %s WHERE home IS NULL AND name = ANY (%s)",
        (me, [name for name in names if name not in shared]),
    )
    await connection.execute("UPDATE replica SET revision = revision + 1 WHERE id = %s", (member,))


async def take(connection: AsyncConnection, names: Sequence[str], member: int, me: str) -> list[TakenSink]:
    found = await fetch_all(connection, _TAKE, (list(names), me, member))
    return [TakenSink(name=name, epoch=epoch, position=position) for name, epoch, position in found]


async def give(connection: AsyncConnection, name: str, epoch: int, member: int) -> bool:
    sql = b"UPDATE sink SET owner = NULL WHERE name = %s AND owner = %s AND epoch = %s"
    return (await connection.execute(sql, (name, member, epoch))).rowcount == 1


async def is_owned(connection: AsyncConnection, name: str, epoch: int, member: int) -> bool:
    """Return whether the member delivers the sink, which the fence then holds until the transaction ends."""
    sql = "SELECT FROM sink WHERE name = %s AND owner = %s AND epoch = %s"
    return await fetch_first(connection, sql, (name, member, epoch)) is not None


async def detach(connection: AsyncConnection, names: Collection[str]) -> list[str]:
    """Detach those that no member names."""
    await connection.execute(outbox.LOCK_OUT_RECORDING)
    found = await fetch_all(
        connection,
        "UPDATE sink SET attached = false, owner = NULL, filled_to = (SELECT coalesce(max(number), 0) FROM record)"
        " WHERE attached AND name = ANY (%s) AND NOT EXISTS (SELECT FROM sink_wanted w WHERE w.sink = sink.id)"
        " RETURNING name",
        (list(names),),
    )
    return [name for (name,) in found]


async def check_replay(connection: AsyncConnection, name: str, *, is_dead_only: bool) -> None:
    """Raise `ConfigError` where a replay to the sink would be delivered by no replica, or twice into a file."""
    row = await fetch_first(connection, "SELECT home, attached FROM sink WHERE name = %s", (name,))
    refuse_unknown_sink(name, () if row is None else (name,))
    home, attached = row or (None, False)
    if not attached:
        raise ConfigError(f"no replica names sink {name}: once one does, it gets all that it lacks. Replay then.")
    if home is not None and not is_dead_only:
        raise ConfigError(
            f"sink {name} of replica {home} has these records: a replay would write them twice. Name a new file, which "
            "gets them once, or replay only its dead letters with --dead."
        )


async def move(connection: AsyncConnection, name: str, home: str) -> str:
    """Make the member with this name the only one that delivers the sink; return the home before. Its owner gives it
    back in its next turn. Raises `ConfigError` for a sink that the state does not know, or that has no home."""
    async with connection.transaction():
        row = await fetch_first(connection, "SELECT home FROM sink WHERE name = %s FOR UPDATE", (name,))
        if row is None:
            known = sorted(each for (each,) in await fetch_all(connection, "SELECT name FROM sink"))
            raise ConfigError(
                f"the state knows no sink {name!r} (known: {', '.join(known) or 'none yet'}). Name one of these."
            )
        if row[0] is None:
            raise ConfigError(
                f"sink {name} has no home: any replica that names it delivers it. There is nothing to move."
            )
        await connection.execute("UPDATE sink SET home = %s WHERE name = %s", (home, name))
    return str(row[0])

"""The lock of a fleet's state: members share it, and a single owner's exclusive lock keeps them out. It is for the mode
and for migrations; who may write depends on the member's row alone.
"""

import asyncio
import hashlib
from collections.abc import Collection
from contextlib import suppress

from psycopg import AsyncConnection, errors

from poller.core.errors import StoreLocked, StoreUnusable
from poller.store.postgres.connection import fetch_first
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.fleet.counts import count_again
from poller.store.postgres.lock import HOLDERS, KEY, PROBE_GAP_S, PROBE_TRIES, NotOwner, owner_of
from poller.store.postgres.schema import VERSION, known_version, migrate

IDLE_S = 3.0  # in a transaction, without a word from its client
MIGRATION_TRIES = 5
LOCK_WAIT_S = 2.0  # for a table: while a migration waits, all who use the table wait behind it
ADDITIVE = frozenset({10, 11, 12, 13, 14})  # versions that a fleet may be brought to while older members run

# "Pol" and "m": one member at a time brings the state to its version.
_MIGRATION = "(1349479533::bigint << 32) | to_regnamespace(current_schema())::oid::bigint"

_END_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ANY (%s)"  # noqa: S608 - a constant
    " AND usename = current_user AND xact_start IS NOT NULL AND wait_event = 'ClientRead'"
    f" AND state_change < clock_timestamp() - make_interval(secs => %s) AND pid IN ({HOLDERS})"
)


async def prepare(connection: AsyncConnection, dsn: Dsn) -> int:
    """Share the lock, for as long as `connection` lives, and bring the tables up to date; return the version that they
    had. Raises `StoreLocked` where a single owner has the state, `StoreUnusable`."""
    for _ in range(PROBE_TRIES):
        if await _lock(connection, "pg_try_advisory_lock"):
            version = await _begin_alone(connection, dsn)
            await share_lock_again(connection)
            await connection.execute(f"SELECT pg_advisory_unlock({KEY})".encode())
            return version
        if await _lock(connection, "pg_try_advisory_lock_shared"):
            await limit_transactions(connection)
            return await _migrate_beside(connection, dsn)
        await asyncio.sleep(PROBE_GAP_S)
    raise StoreLocked(
        f"the state {dsn.shown} is in use by {await owner_of(connection)}, which is in no fleet. Stop it first, or "
        "start it with fleet = true."
    )


async def share_lock_again(connection: AsyncConnection) -> None:
    """Share the lock on a new connection. Raises `NotOwner` where a single owner has it: retry later."""
    await limit_transactions(connection)
    if not await _lock(connection, "pg_try_advisory_lock_shared"):
        raise NotOwner("another poller has the state for itself")


async def limit_transactions(connection: AsyncConnection) -> None:
    """End the transaction of a member that is frozen: nothing may wait for it longer."""
    await connection.execute(f"SET idle_in_transaction_session_timeout = {int(IDLE_S * 1000)}".encode())


async def name_session(connection: AsyncConnection, replica: str) -> None:
    """Name the session by which this replica writes, for `end_sessions`."""
    await connection.execute("SELECT set_config('application_name', %s, false)", (session_name(replica),))


def session_name(replica: str) -> str:
    """Return how the server knows the session: in ASCII and in 63 characters, as it requires."""
    digest = hashlib.blake2s(replica.encode(), digest_size=4).hexdigest()
    return f"poller {replica.encode('ascii', 'replace').decode()[:40]} {digest}"


async def end_sessions(connection: AsyncConnection, replicas: Collection[str]) -> None:
    """End the sessions of these replicas that wait for their client in a transaction. In the middle of a message the
    server does so without a time limit: `idle_in_transaction_session_timeout` begins where the message ends."""
    names = [session_name(replica) for replica in replicas]
    await connection.execute(_END_SESSIONS.encode(), (names, IDLE_S))


async def _begin_alone(connection: AsyncConnection, dsn: Dsn) -> int:
    """Bring the tables up to date, and replace what a single owner left; return the version that they had."""
    async with connection.transaction():
        version = await migrate(connection, dsn)
        await connection.execute("DELETE FROM replica WHERE name IS NULL")
        if await fetch_first(connection, "SELECT FROM kind_count LIMIT 1") is None:
            await count_again(connection)
    return version


async def _migrate_beside(connection: AsyncConnection, dsn: Dsn) -> int:
    """Bring the tables up to date while others use them, where those can go on."""
    version = await known_version(connection, dsn)
    missing = set(range(version + 1, VERSION + 1))
    if not missing:
        return version
    if not missing <= ADDITIVE:
        raise StoreUnusable(
            f"the state {dsn.shown} is of version {version} and in use by {await owner_of(connection)}. Stop them, "
            "then start this one: it brings the state to its own version."
        )
    for _ in range(MIGRATION_TRIES):
        with suppress(errors.LockNotAvailable, errors.DeadlockDetected):
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {int(LOCK_WAIT_S * 1000)}".encode())
                await connection.execute(f"SELECT pg_advisory_xact_lock({_MIGRATION})".encode())
                return await migrate(connection, dsn)  # reads the version again: another one may have been faster
        await asyncio.sleep(LOCK_WAIT_S)
    raise StoreUnusable(
        f"the state {dsn.shown} is of version {version}, and a table that must change is locked by a long transaction. "
        "Start this one again when that has ended."
    )


async def _lock(connection: AsyncConnection, function: str) -> bool:
    return await fetch_first(connection, f"SELECT {function}({KEY})") == (True,)

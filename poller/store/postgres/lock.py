"""One process owns a PostgreSQL state: an advisory lock, held by the connection that writes, and a row that names the
process. The next owner deletes that row, and with it the right of the one before to write.
"""

import asyncio
import os
import socket
import time
from contextlib import suppress

import psycopg
from psycopg import AsyncConnection

from poller.core.errors import StoreError, StoreLocked
from poller.core.protocols import Clock
from poller.core.timestamps import iso
from poller.store.postgres.connection import CONNECT_WITHIN_S, answered, connect, fetch_all, fetch_first
from poller.store.postgres.dsn import Dsn, parse
from poller.store.postgres.errors import unusable

PROBE_TRIES = 20  # a server needs a moment to notice that the last owner was killed
PROBE_GAP_S = 0.1

# "Poll" and the schema's own number, so that each state of a database has its own lock.
KEY = "(1349479532::bigint << 32) | to_regnamespace(current_schema())::oid::bigint"
HOLDERS = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 1349479532 AND objsubid = 1"
    " AND objid = to_regnamespace(current_schema())::oid"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)

# Who locks a table of the state, or waits to lock it, so that all others wait behind. Ours of this kind are short.
_TABLE_LOCKS = (
    "SELECT c.relname, a.pid, a.application_name FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
    " JOIN pg_stat_activity a ON a.pid = l.pid WHERE c.relnamespace = to_regnamespace(current_schema())"
    " AND l.mode IN ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')"
    " AND (%(waiting)s::integer IS NULL OR l.pid = ANY (pg_blocking_pids(%(waiting)s::integer)))"
    " ORDER BY l.granted DESC, l.mode LIMIT 1"
)
ASKED_WITHIN_S = 1.0

_AGE_S = "extract(epoch FROM clock_timestamp() - seen_at)::float8"


class NotOwner(Exception):
    """Another connection holds the lock now."""


async def take_lock(connection: AsyncConnection, dsn: Dsn) -> None:
    """Lock the state for `connection`, as long as it lives. Raises `StoreLocked`, which names the holder."""
    for _ in range(PROBE_TRIES):
        if await _locks(connection):
            return
        await asyncio.sleep(PROBE_GAP_S)
    raise StoreLocked(
        f"the state {dsn.shown} is in use by {await owner_of(connection)}. Stop it first, or give this run its own "
        "state: --state, or another ?schema=NAME."
    )


async def retake_lock(connection: AsyncConnection, *, before: int | None) -> None:
    """Lock the state again after the connection with backend `before` broke. Raises `NotOwner`: retry later."""
    if await _locks(connection):
        return
    row = await fetch_first(connection, HOLDERS)
    if row == (before,):  # our own: the server has not noticed its end
        await connection.execute("SELECT pg_terminate_backend(%s)", row)
    raise NotOwner(
        "the lock is held by a connection that is no longer ours" if row == (before,) else "the lock is held"
    )


async def _locks(connection: AsyncConnection) -> bool:
    return await fetch_first(connection, f"SELECT pg_try_advisory_lock({KEY})") == (True,)


async def owner_of(connection: AsyncConnection) -> str:
    """Return who uses the state, for a message."""
    try:
        rows = await fetch_all(connection, "SELECT host, pid, started_at, name FROM replica ORDER BY id DESC")
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        rows = []
    if not rows:
        return "another poller"
    if members := sorted(name for *_, name in rows if name is not None):
        return f"a fleet: {', '.join(members)}"
    host, pid, started_at, _ = rows[0]
    return f"another poller: process {pid} on {host}, started {iso(started_at)}"


async def register(connection: AsyncConnection, *, now: float) -> int:
    """Name this process as the owner, inside a transaction; return the number of its row. The right to write of the
    owner before ends here, and what a fleet knew of windows and sums."""
    await connection.execute("DELETE FROM replica")
    await connection.execute("UPDATE account SET freed_at = NULL WHERE freed_at IS NOT NULL")
    await connection.execute("DELETE FROM kind_count")
    sql = (
        "INSERT INTO replica (host, pid, started_at, beat_at, seen_at) VALUES (%s, %s, %s, %s, clock_timestamp())"
        " RETURNING id"
    )
    ((replica,),) = await fetch_all(connection, sql, (socket.gethostname(), os.getpid(), now, now))
    return int(replica)


async def commits_of(connection: AsyncConnection, replica: int | None, dsn: Dsn) -> int:
    """Return the number of the owner's latest transaction. Raises `StoreError` where it no longer owns the state."""
    row = await fetch_first(connection, "SELECT commits FROM replica WHERE id = %s", (replica,))
    if row is None:
        raise taken_over(dsn)
    return int(row[0])


def taken_over(dsn: Dsn) -> StoreError:
    """Return why an owner whose row is gone must stop."""
    return StoreError(
        f"another poller took over the state {dsn.shown} while this one could not reach it. This one stops; what "
        "it recorded until then is safe."
    )


async def ask_for_lock(dsn: Dsn, waiting: int | None = None) -> str | None:
    """Return which program locks a table, and what to do; None where none does, or no answer comes soon. `waiting`:
    only where this process of the server waits for it."""
    with suppress(psycopg.Error, OSError, TimeoutError):
        async with asyncio.timeout(ASKED_WITHIN_S):
            connection = await connect(dsn)
            try:
                return await answered(lock_text(connection, waiting), connection, within_s=ASKED_WITHIN_S)
            finally:
                await connection.close()
    return None


async def lock_text(connection: AsyncConnection, waiting: int | None = None) -> str | None:
    """Return which program locks a table of the state, and what to do; None where none does."""
    if (row := await fetch_first(connection, _TABLE_LOCKS, {"waiting": waiting})) is None:
        return None
    table, pid, program = row
    return (
        f"table {table} is locked by process {pid} of the server ({program or 'no name'}). Work continues when that "
        f"ends; SELECT pg_terminate_backend({pid}) ends it"
    )


def last_beat(url: str, replica: str | None = None, clock: Clock = time.time) -> tuple[int, float] | None:
    """Return the owner's process id and its last heartbeat (an instant of this machine's clock: the server measures how
    long ago it was, whatever the owner's clock shows); None where no living process does. `replica`: of the member with
    this name. Raises `StoreUnusable`, also where no answer comes in `CONNECT_WITHIN_S`."""
    dsn = parse(url)
    limit_s = int(CONNECT_WITHIN_S)
    try:
        with (
            psycopg.connect(dsn.conninfo, autocommit=True, connect_timeout=limit_s) as connection,
            connection.transaction(),
        ):
            connection.execute(
                f"SET LOCAL search_path = \"{dsn.schema}\"; SET LOCAL statement_timeout = '{limit_s}s'".encode()
            )
            row = connection.execute(
                f"SELECT pid, beat_at, {_AGE_S} FROM replica WHERE EXISTS ({HOLDERS})"  # noqa: S608 - constants
                " AND name IS NOT DISTINCT FROM coalesce(%s, name) ORDER BY id DESC",
                (replica,),
            ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return None
    except psycopg.Error as error:
        raise unusable(error, dsn) from None
    if row is None:
        return None
    pid, beat_at, age_s = row
    return int(pid), float(beat_at) if age_s is None else clock() - float(age_s)  # None: of an earlier version

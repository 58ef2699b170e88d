"""What a migration waits for: another program's lock, which no time limit of ours ends. Logged while it lasts."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection

from poller.core.text import duration
from poller.store.postgres.connection import answered, connect, fetch_first
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.lock import ASKED_WITHIN_S

log = structlog.get_logger("poller")

T = TypeVar("T")

ASKED_EVERY_S = 5.0
LOGGED_EVERY_S = 60.0  # the same program

# What `waiting` waits for, and the first of those that hold it or are before it in the queue.
_BLOCKER = (
    "SELECT a.pid, coalesce(nullif(a.application_name, ''), 'no name'), c.relname,"
    " extract(epoch FROM clock_timestamp() - a.xact_start)::float8"
    " FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation"
    " CROSS JOIN LATERAL unnest(pg_blocking_pids(l.pid)) AS b (pid) JOIN pg_stat_activity a ON a.pid = b.pid"
    " WHERE l.pid = %s AND NOT l.granted ORDER BY a.xact_start LIMIT 1"
)


async def logging_locks(work: Awaitable[T], dsn: Dsn, backend: int) -> T:
    """Return what `work` returns. While `backend`, the server's process that does it, waits for another program's lock,
    log which program, and for how long."""
    now = asyncio.get_running_loop().time
    task, began_at = asyncio.ensure_future(work), now()
    logged: tuple[int, float] | None = None  # the program's process, and when
    try:
        while not (await asyncio.wait([task], timeout=ASKED_EVERY_S))[0]:
            if (found := await _ask(dsn, backend)) is None:
                continue
            pid, text = found
            if logged is None or logged[0] != pid or now() - logged[1] >= LOGGED_EVERY_S:
                logged = pid, now()
                reason = f"the migration has waited up to {duration(now() - began_at)} for {text}"
                log.warning("store.locked", path=dsn.shown, reason=reason)
        return task.result()
    finally:
        task.cancel()


async def _ask(dsn: Dsn, backend: int) -> tuple[int, str] | None:
    """Return who holds up the server's process `backend`, as its process and for people; None where none does."""
    with suppress(psycopg.Error, OSError, TimeoutError):
        async with asyncio.timeout(ASKED_WITHIN_S):
            connection = await connect(dsn)
            try:
                return await answered(_blocker(connection, backend), connection, within_s=ASKED_WITHIN_S)
            finally:
                await connection.close()
    return None


async def _blocker(connection: AsyncConnection, backend: int) -> tuple[int, str] | None:
    if (row := await fetch_first(connection, _BLOCKER, (backend,))) is None:
        return None
    pid, program, table, open_s = row
    since = "" if open_s is None else f", in a transaction of {duration(round(open_s))}"
    return int(pid), (
        f"process {pid} of the server ({program}{since}), which uses {f'table {table}' if table else 'the state'}. "
        f"It continues when that ends; SELECT pg_terminate_backend({pid}) ends it"
    )

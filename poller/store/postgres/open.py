"""How a PostgreSQL state is opened: by its one owner, or for reading beside it."""

import logging
from functools import partial

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from poller.core.protocols import Clock
from poller.store.postgres.connection import (
    ANSWER_WITHIN_S,
    CONNECT_WITHIN_S,
    answered,
    backend_of,
    connect_first,
    make_settings,
)
from poller.store.postgres.dsn import Dsn, parse
from poller.store.postgres.errors import unusable
from poller.store.postgres.group_commit import Writer
from poller.store.postgres.lock import register, take_lock
from poller.store.postgres.lock_watch import logging_locks
from poller.store.postgres.reader import PostgresReader
from poller.store.postgres.schema import VERSION, known_version, make_schema, migrate, must_migrate
from poller.store.postgres.store import PostgresStore
from poller.store.versions import refuse_older

log = structlog.get_logger("poller")

READERS = 4  # connections, beside the one that writes


async def open_postgres(url: str, *, clock: Clock, linger_s: float) -> PostgresStore:
    """Open the state at `url` as its one owner, creating it as needed.

    Raises `ConfigError` (the URL), `StoreLocked` (another process owns it), `StoreUnusable` (out of reach, foreign, or
    of a newer version).
    """
    dsn = parse(url)
    try:
        connection = await connect_first(dsn)
        try:
            within_s = await limit_s(connection, dsn)
            backend = await answered(backend_of(connection), connection, within_s=CONNECT_WITHIN_S)
            own = logging_locks(_own(connection, dsn, now=clock()), dsn, backend)
            replica = await answered(own, connection, within_s=within_s)
            pool = await open_pool(dsn, READERS)
        except BaseException:
            await connection.close()
            raise
    except psycopg.Error as error:
        raise unusable(error, dsn) from None
    writer = Writer(connection, dsn=dsn, replica=replica, linger_s=linger_s, clock=clock, backend=backend)
    return PostgresStore(writer, pool, dsn=dsn, clock=clock)


async def limit_s(connection: AsyncConnection, dsn: Dsn) -> float | None:
    """Return how long it may take to open the state: None, without a limit, where its tables must be migrated first. A
    migration that is cut is rolled back, and each start would begin it again."""
    version = await answered(known_version(connection, dsn), connection, within_s=ANSWER_WITHIN_S)
    return None if must_migrate(version) else ANSWER_WITHIN_S


async def _own(connection: AsyncConnection, dsn: Dsn, *, now: float) -> int:
    """Become the owner of the state, its tables made or migrated; return the number of the owner's row."""
    await make_schema(connection, dsn)
    await take_lock(connection, dsn)
    async with connection.transaction():
        version = await migrate(connection, dsn)
        replica = await register(connection, now=now)
    log.info("store.opened", path=dsn.shown, version=VERSION, migrated_from=version if version < VERSION else None)
    return replica


async def open_pool(dsn: Dsn, connections: int) -> AsyncConnectionPool[AsyncConnection]:
    """Open up to so many connections for reading. Raises `psycopg.Error`."""
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # it logs each failed try; we log an outage once
    pool = AsyncConnectionPool(
        dsn.conninfo,
        kwargs={"autocommit": True},
        configure=partial(make_settings, dsn=dsn),
        min_size=1,
        max_size=connections,
        timeout=CONNECT_WITHIN_S,
        reconnect_timeout=0,  # each read retries by itself: no wait that grows with the outage
        open=False,
        name="poller",
    )
    try:
        await pool.open(wait=True)
    except BaseException:
        await pool.close()
        raise
    return pool


async def read_postgres(url: str) -> PostgresReader:
    """Open the state at `url` for reading only, also while its owner runs. Changes and creates nothing.

    Raises `ConfigError` (the URL), `StoreUnusable` (there is none, or it cannot be read).
    """
    dsn = parse(url)
    try:
        connection = await connect_first(dsn)
        try:
            version = await answered(known_version(connection, dsn), connection, within_s=CONNECT_WITHIN_S)
            refuse_older(version, VERSION, dsn.shown)
        except BaseException:
            await connection.close()
            raise
    except psycopg.Error as error:
        raise unusable(error, dsn) from None
    return PostgresReader(connection, dsn)

"""How a PostgreSQL state is opened: by its one owner, or for reading beside it."""

import logging

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from poller.core.errors import StoreUnusable
from poller.core.protocols import Clock
from poller.store.postgres.dsn import Dsn, connect, parse
from poller.store.postgres.errors import unusable
from poller.store.postgres.group_commit import Writer
from poller.store.postgres.lock import register, take_lock
from poller.store.postgres.reader import PostgresReader
from poller.store.postgres.schema import VERSION, known_version, make_schema, migrate
from poller.store.postgres.store import PostgresStore

log = structlog.get_logger()

READERS = 4  # connections, beside the one that writes
CONNECT_WITHIN_S = 5.0


async def open_postgres(url: str, *, clock: Clock, linger_s: float) -> PostgresStore:
    """Open the state at `url` as its one owner, creating it as needed.

    Raises `ConfigError` (the URL), `StoreLocked` (another process owns it), `StoreUnusable` (out of reach, foreign, or
    of a newer version).
    """
    place = parse(url)
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # it tells each failed try; we tell an outage once
    try:
        connection = await connect(place)
        try:
            replica = await _own(connection, place, now=clock())
            pool = await _open_pool(place)
        except BaseException:
            await connection.close()
            raise
    except psycopg.Error as error:
        raise unusable(error, place) from None
    writer = Writer(connection, place=place, replica=replica, linger_s=linger_s, clock=clock)
    return PostgresStore(writer, pool, place=place, clock=clock)


async def _own(connection: AsyncConnection, place: Dsn, *, now: float) -> int:
    """Become the owner of the state, its tables made or migrated; return the number of the owner's row."""
    await make_schema(connection, place)
    await take_lock(connection, place)
    async with connection.transaction():
        version = await migrate(connection, place)
        replica = await register(connection, now=now)
    log.info("store.opened", path=place.shown, version=VERSION, migrated_from=version if version < VERSION else None)
    return replica


async def _open_pool(place: Dsn) -> AsyncConnectionPool[AsyncConnection]:
    pool = AsyncConnectionPool(
        place.conninfo,
        kwargs={"autocommit": True},
        min_size=1,
        max_size=READERS,
        timeout=CONNECT_WITHIN_S,
        reconnect_timeout=0,  # each read tries anew: no wait that grows with the outage
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
    place = parse(url)
    try:
        connection = await connect(place)
        try:
            _refuse_older(await known_version(connection, place), place)
        except BaseException:
            await connection.close()
            raise
    except psycopg.Error as error:
        raise unusable(error, place) from None
    return PostgresReader(connection, place)


def _refuse_older(version: int, place: Dsn) -> None:
    if version < VERSION:
        what = f"is of the older version {version}" if version else "holds nothing yet"
        raise StoreUnusable(f"the state {place.shown} {what}. Start a run with it first.")

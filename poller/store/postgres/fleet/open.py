"""How a member of a fleet opens the state: it shares the lock, and joins later."""

import psycopg
import structlog
from psycopg import AsyncConnection

from poller.core.deliveries import Selection
from poller.core.errors import StoreLocked
from poller.core.protocols import Clock
from poller.store.postgres import outbox
from poller.store.postgres.connection import ANSWER_WITHIN_S, CONNECT_WITHIN_S, answered, backend_of, connect_first
from poller.store.postgres.dsn import Dsn, parse
from poller.store.postgres.errors import unusable
from poller.store.postgres.fleet import heart, sinks
from poller.store.postgres.fleet.state_lock import name_session, prepare, share_lock_again
from poller.store.postgres.fleet.store import FleetStore
from poller.store.postgres.lock import NotOwner
from poller.store.postgres.lock_watch import logging_locks
from poller.store.postgres.open import limit_s, open_pool
from poller.store.postgres.schema import VERSION, known_version, make_schema
from poller.store.rows import storable_name
from poller.store.versions import refuse_older

log = structlog.get_logger("poller")

READERS = 2  # connections, beside the one that writes and the one that beats


async def open_member(url: str, *, clock: Clock, linger_s: float, replica: str) -> FleetStore:
    """Open the state at `url` beside others, creating it as needed. Nothing can be written before `fleet.join`.

    Raises `ConfigError` (the URL), `StoreLocked` (a process has it for itself), `StoreUnusable` (out of reach, foreign,
    of a newer version, or of an older one that others use).
    """
    dsn, name = parse(url), storable_name(replica)
    try:
        connection = await connect_first(dsn)
        try:
            within_s = await limit_s(connection, dsn)
            backend = await answered(backend_of(connection), connection, within_s=CONNECT_WITHIN_S)
            prepare = logging_locks(_prepare(connection, dsn, name), dsn, backend)
            await answered(prepare, connection, within_s=within_s)
            pool = await open_pool(dsn, READERS)
        except BaseException:
            await connection.close()
            raise
    except psycopg.Error as error:
        raise unusable(error, dsn) from None
    return FleetStore(connection, pool, dsn=dsn, clock=clock, linger_s=linger_s, replica=name)


async def _prepare(connection: AsyncConnection, dsn: Dsn, replica: str) -> None:
    await make_schema(connection, dsn)
    version = await prepare(connection, dsn)
    await name_session(connection, replica)
    log.info("store.opened", path=dsn.shown, version=VERSION, migrated_from=version if version < VERSION else None)


async def ask_to_reload(url: str) -> None:
    """Ask all members of the fleet to reload their settings: they hear of it with their next beat.

    Raises `ConfigError` (the URL), `StoreUnusable`.
    """
    dsn = parse(url)
    try:
        async with await connect_first(dsn) as connection:
            version = await answered(known_version(connection, dsn), connection, within_s=CONNECT_WITHIN_S)
            refuse_older(version, VERSION, dsn.shown)
            await answered(heart.notify(connection, heart.RELOAD), connection, within_s=CONNECT_WITHIN_S)
    except psycopg.Error as error:
        raise unusable(error, dsn) from None


async def replay(url: str, sink: str, selection: Selection) -> int:
    """Put the selected records back into the outbox of a sink that some replica delivers, without being one; return how
    many. The fleet records nothing meanwhile.

    Raises `ConfigError` (the URL, no such sink, one that no replica names, a file that has the records), `StoreLocked`
    (a process has the state for itself), `StoreUnusable`.
    """
    dsn = parse(url)
    try:
        async with await connect_first(dsn) as connection:
            version = await answered(known_version(connection, dsn), connection, within_s=CONNECT_WITHIN_S)
            refuse_older(version, VERSION, dsn.shown)
            await share_lock_again(connection)
            return await answered(_replay(connection, sink, selection), connection, within_s=ANSWER_WITHIN_S)
    except NotOwner as error:
        raise StoreLocked(f"{dsn.shown}: {error}. Try again.") from None
    except psycopg.Error as error:
        raise unusable(error, dsn) from None


async def _replay(connection: AsyncConnection, sink: str, selection: Selection) -> int:
    async with connection.transaction():
        await sinks.check_replay(connection, sink, is_dead_only=selection.dead)
        replayed = await outbox.replay(connection, sink, selection, False)
        await heart.notify(connection, heart.REPLAYED)
        return replayed


async def move_sink(url: str, name: str, home: str) -> str:
    """Make the replica `home` the one that delivers a sink whose file a person has moved; return the one before.

    Raises `ConfigError` (the URL, no such sink, one without a home), `StoreUnusable`.
    """
    dsn = parse(url)
    try:
        async with await connect_first(dsn) as connection:
            version = await answered(known_version(connection, dsn), connection, within_s=CONNECT_WITHIN_S)
            refuse_older(version, VERSION, dsn.shown)
            return await answered(sinks.move(connection, name, home), connection, within_s=ANSWER_WITHIN_S)
    except psycopg.Error as error:
        raise unusable(error, dsn) from None

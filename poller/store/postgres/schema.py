"""The tables of a PostgreSQL state and their versions. All are in one schema of the database.

Instants of tasks and records are the poller's, as in every store, never the database's.
"""

from contextlib import suppress
from pathlib import Path

import structlog
from psycopg import AsyncConnection, errors
from psycopg.sql import SQL, Identifier

from poller.core.errors import ConfigError, StoreUnusable
from poller.core.record import landed_in
from poller.store.postgres.connection import fetch_all, fetch_first
from poller.store.postgres.dsn import Dsn
from poller.store.versions import MigrationProgress, refuse_newer

log = structlog.get_logger("poller")

# The n-th file brings a state of version n - 1 to n. Published ones are never edited.
MIGRATIONS = [path.read_text("utf-8") for path in sorted((Path(__file__).parent / "migrations").glob("*.sql"))]
VERSION = len(MIGRATIONS)
OLDEST_SERVER = 15  # that the tests run on; fleets and searches use what came with 13 to 15
LANDED = 4  # the version from which `task.landed` is stored
MIGRATED_AT_ONCE = 1000


async def make_schema(connection: AsyncConnection, dsn: Dsn) -> None:
    """Create the schema where there is none. Its tables come with `migrate`, under the owner's lock. Raises
    `ConfigError` for a server that is too old."""
    refuse_old_server(connection.info.server_version, dsn)
    ((found, encoding),) = await fetch_all(
        connection, "SELECT to_regnamespace(%s), getdatabaseencoding()", (dsn.schema,)
    )
    if encoding != "UTF8":
        raise StoreUnusable(f"the database of {dsn.shown} is encoded as {encoding}. Use one with encoding UTF8.")
    if found is None:
        with suppress(errors.DuplicateSchema, errors.UniqueViolation):  # another poller made it just now
            await connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(dsn.schema)))


def refuse_old_server(version: int, dsn: Dsn) -> None:
    """Raise `ConfigError` for a server older than `OLDEST_SERVER`. `version` is as the server reports it: 150004 is
    15.4."""
    if version // 10_000 < OLDEST_SERVER:
        raise ConfigError(
            f"the server of {dsn.shown} is PostgreSQL {version // 10_000}.{version % 10_000}, and a state needs "
            f"{OLDEST_SERVER} or newer. Upgrade the server, or keep the state in SQLite: --state poller.db."
        )


async def migrate(connection: AsyncConnection, dsn: Dsn) -> int:
    """Bring the tables up to date, inside a transaction; return the version they had."""
    version = await known_version(connection, dsn)
    if version < VERSION:
        if version:
            log.info("store.migrating", path=dsn.shown, version=VERSION, migrated_from=version)
        for script in MIGRATIONS[version:]:
            await connection.execute(script.encode())
        if version < LANDED:
            await _derive_landed(connection, dsn.shown)
        await connection.execute("DELETE FROM state_version")
        await connection.execute("INSERT INTO state_version (version) VALUES (%s)", (VERSION,))
    return version


async def _derive_landed(connection: AsyncConnection, state: str) -> None:
    """Store for each finished task of an earlier version whether a file landed."""
    ((tasks,),) = await fetch_all(connection, "SELECT count(*) FROM record")
    after, progress = 0, MigrationProgress(state, tasks)
    while found := await fetch_all(
        connection, "SELECT task, body FROM record WHERE task > %s ORDER BY task LIMIT %s", (after, MIGRATED_AT_ONCE)
    ):
        after = found[-1][0]
        await connection.execute(
            "UPDATE task t SET landed = x.landed FROM unnest(%s::bigint[], %s::boolean[]) AS x (key, landed)"
            " WHERE t.key = x.key",
            ([task for task, _ in found], [landed_in(bytes(body)) for _, body in found]),
        )
        progress.add(len(found))


def must_migrate(version: int) -> bool:
    """Return whether tables of this version must be rewritten, which takes as long as they are large: no time limit."""
    return 0 < version < VERSION


async def known_version(connection: AsyncConnection, dsn: Dsn) -> int:
    """Return the version of the tables, 0 where there are none. Raises `StoreUnusable` for newer and foreign ones."""
    query = "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'p')"
    names = {name for (name,) in await fetch_all(connection, query, (dsn.schema,))}
    if not names:
        return 0
    if not {"state_version", "replica", "undelivered"} <= names:
        raise StoreUnusable(f"{dsn.shown} holds tables of another program. Name another schema: ?schema=NAME.")
    row = await fetch_first(connection, "SELECT version FROM state_version")
    version = int(row[0]) if row is not None else 0
    refuse_newer(version, VERSION, dsn.shown)
    return version

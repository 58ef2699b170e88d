"""The tables of a PostgreSQL state and their versions. All are in one schema of the database.

Instants of tasks and records are the poller's, as in every store; the database's own time counts for leases alone.
"""

from contextlib import suppress

from psycopg import AsyncConnection, errors
from psycopg.sql import SQL, Identifier

from poller.core.errors import StoreUnusable
from poller.store.postgres.dsn import Dsn, fetch_all, fetch_first
from poller.store.versions import refuse_newer

VERSION_1 = """
CREATE TABLE state_version (version integer NOT NULL);
CREATE TABLE replica ( -- a process at work on this state; its row is its right to write
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    started_at double precision NOT NULL,
    beat_at double precision NOT NULL,
    commits bigint NOT NULL DEFAULT 0 -- the number of its latest transaction; see `Writer._in_doubt`
);
CREATE TABLE account (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    active_at double precision,
    clean boolean NOT NULL DEFAULT false,
    paused_s double precision NOT NULL DEFAULT 0,
    day text NOT NULL DEFAULT '',
    pause text,
    pause_detail text,
    resume_at double precision
);
CREATE TABLE account_day (
    account integer NOT NULL,
    day text NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (account, day)
);
CREATE TABLE source (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    lines bigint NOT NULL DEFAULT 0,
    tasks bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    rejected bigint NOT NULL DEFAULT 0,
    blank bigint NOT NULL DEFAULT 0,
    "offset" bigint NOT NULL DEFAULT 0,
    line bigint NOT NULL DEFAULT 0,
    fingerprint text NOT NULL DEFAULT '',
    ended boolean NOT NULL DEFAULT false
);
CREATE TABLE rejection (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source integer NOT NULL,
    line bigint NOT NULL,
    reason text NOT NULL,
    excerpt text NOT NULL
);
CREATE TABLE task (
    key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account integer NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    kind text, -- NULL: waiting
    due_at double precision NOT NULL,
    looks integer NOT NULL DEFAULT 0,
    errors integer NOT NULL DEFAULT 0,
    missing_at double precision,
    status text,
    fed_at double precision NOT NULL,
    paused_base_s double precision NOT NULL,
    ref bytea,
    lease bigint NOT NULL DEFAULT 0, -- fencing token of the latest claim; 0: free
    lease_until timestamptz, -- NULL: free
    UNIQUE (account, task_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX task_due ON task (account, due_at, key) WHERE kind IS NULL;
CREATE SEQUENCE lease;
CREATE TABLE record (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task bigint NOT NULL UNIQUE, -- a second outcome of a task cannot be stored
    reason text,
    seen_at double precision NOT NULL,
    body bytea NOT NULL
);
CREATE INDEX record_reason ON record (reason) WHERE reason IS NOT NULL;
CREATE INDEX record_seen ON record (seen_at);
CREATE TABLE sink (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    attached boolean NOT NULL DEFAULT false,
    filled_to bigint NOT NULL DEFAULT 0, -- while not attached: the last record that got an undelivered row
    position bytea,
    delivered bigint NOT NULL DEFAULT 0,
    missed bigint NOT NULL DEFAULT 0 -- pruned before this sink got them
);
CREATE TABLE undelivered (
    sink integer NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (sink, number)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE TABLE dead (
    sink integer NOT NULL,
    number bigint NOT NULL,
    reason text NOT NULL,
    at double precision NOT NULL,
    PRIMARY KEY (sink, number)
);
CREATE TABLE pruned (
    kind text PRIMARY KEY,
    tasks bigint NOT NULL,
    looks bigint NOT NULL
);
"""

VERSION_2 = """
ALTER TABLE task ADD COLUMN requested_at double precision;
ALTER TABLE task ADD COLUMN trail text NOT NULL DEFAULT '';
CREATE TABLE knowledge (
    name text PRIMARY KEY,
    body bytea NOT NULL
);
"""

VERSION_3 = """
ALTER TABLE task RENAME COLUMN looks TO polls;
ALTER TABLE task RENAME COLUMN trail TO poll_log;
ALTER TABLE pruned RENAME COLUMN looks TO polls;
"""

# The n-th brings a state of version n to n + 1. Published ones are never edited.
MIGRATIONS = (VERSION_1, VERSION_2, VERSION_3)
VERSION = len(MIGRATIONS)


async def make_schema(connection: AsyncConnection, dsn: Dsn) -> None:
    """Create the schema where there is none. Its tables come with `migrate`, under the owner's lock."""
    ((found, encoding),) = await fetch_all(
        connection, "SELECT to_regnamespace(%s), getdatabaseencoding()", (dsn.schema,)
    )
    if encoding != "UTF8":
        raise StoreUnusable(f"the database of {dsn.shown} is encoded as {encoding}. Use one with encoding UTF8.")
    if found is None:
        with suppress(errors.DuplicateSchema, errors.UniqueViolation):  # another poller made it just now
            await connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(dsn.schema)))


async def migrate(connection: AsyncConnection, dsn: Dsn) -> int:
    """Bring the tables up to date, inside a transaction; return the version they had."""
    version = await known_version(connection, dsn)
    if version < VERSION:
        for script in MIGRATIONS[version:]:
            await connection.execute(script.encode())
        await connection.execute("DELETE FROM state_version")
        await connection.execute("INSERT INTO state_version (version) VALUES (%s)", (VERSION,))
    return version


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

